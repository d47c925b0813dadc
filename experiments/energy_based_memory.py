"""Energy-based memory: a few gradient steps store patterns in a network.

Bartunov, Rae, Osindero, Lillicrap: Meta-Learning Deep Energy-Based Memory
Models (arXiv 1910.02720, ICLR 2020). A network defines an energy over patterns.
Gradient steps on the weights of its memory layers write a set of patterns at
once; gradient steps on a damaged query read one. The initial weights of a
write, all rates and the other layers are learnt through both loops.

Variants: ebmm; unwritten, trained with no writing steps: the control;
first_order, without gradients through the gradient steps of writing;
memory_network, attention to stored words, and dynamic_kanerva, each as large as
ebmm's writable weights. Not trained: Hopfield networks, hebb, storkey and
pseudo_inverse; modern, attention to the stored patterns; query, which returns
the query.

Tasks: binary, random bits (the default), of which half are drawn anew in a
query; digits (bundled, 8 x 8), generated, omniglot, mnist (binary images) and
cifar10, of which a block is replaced.

Expected on bits with --preset=cpu: 5 wrong bits of 32, and 8 if nothing is
written, in 5 minutes on 2 cores. More in docs/papers/energy_based_memory.md.
"""

from typing import Annotated, Any, Literal, NamedTuple

from etils import epy

from lilly import training
from lilly.training.claims import Claim, difference, last
from lilly.training.settings import MAY_BE_EMPTY, above, at_least, between

with epy.lazy_imports():
  import jax
  import jax.numpy as jnp
  import optax

  from lilly.figures import curves
  from lilly.figures import energy_memory as energy_figures
  from lilly.learners import descent
  from lilly.learners import energy_memory as learner
  from lilly.nets import energy_memory, energy_networks, pattern_memories
  from lilly.tasks import patterns

ENERGIES = ("ebmm", "unwritten", "first_order")
BASELINES = ("memory_network", "dynamic_kanerva")
TRAINED = ENERGIES + BASELINES
HOPFIELD = ("hebb", "storkey", "pseudo_inverse")
Size = Annotated[int, between(1, 10**6)]


class Settings(NamedTuple):
  """The settings; defaults are those published for random bits."""

  task: Annotated[
    Literal["binary", "digits", "generated", "omniglot", "mnist", "cifar10"],
    "Data set the patterns come from.",
  ] = "binary"
  variants: Annotated[
    tuple[
      Literal[
        "ebmm",
        "unwritten",
        "first_order",
        "memory_network",
        "dynamic_kanerva",
        "hebb",
        "storkey",
        "pseudo_inverse",
        "modern",
        "query",
      ],
      ...,
    ],
    "Memories to compare.",
  ] = (
    "ebmm",
    "unwritten",
    "hebb",
    "storkey",
    "pseudo_inverse",
    "modern",
    "query",
  )
  counts: Annotated[
    tuple[Size, ...], "Numbers of patterns per test set to evaluate with."
  ] = (16, 32, 48, 64, 96)
  dynamic_sizes: Annotated[
    tuple[Size, ...],
    MAY_BE_EMPTY,
    "Values of --dynamic_size to compare: every trained variant runs once for "
    "each.",
  ] = ()
  network: Annotated[
    Literal["gated", "residual", "convolutional"],
    "Energy network; task binary takes gated only.",
  ] = "gated"
  fill: Annotated[
    Literal["bits", "noise", "hidden"],
    "Content of the replaced block of an image: random bits, noise between 0 "
    "and 1, or 0.",
  ] = "bits"
  gradient_norm: Annotated[
    bool, "Include the squared norm of the energy's gradient in the write loss."
  ] = True
  remat: Annotated[
    bool, "Rematerialise activations in the backward pass (jax.checkpoint)."
  ] = False
  num_bits: Annotated[Size, "Bits per pattern, D."] = 128
  num_redrawn: Annotated[
    int, between(0, 10**6), "Bits of a query that are drawn anew."
  ] = 64
  block_size: Annotated[
    Size, "Side of the replaced block of an image, in pixels."
  ] = 16
  num_patterns: Annotated[Size, "Patterns per set, N."] = 32
  num_sets: Annotated[Size, "Sets per update."] = 16
  num_tests: Annotated[int, between(2, 10**6), "Test sets per evaluation."] = 64
  write_steps: Annotated[
    int, between(0, 10**6), "Gradient steps when writing, T."
  ] = 5
  read_steps: Annotated[Size, "Gradient steps when reading, K."] = 5
  hidden_size: Annotated[int, between(2, 10**6), "Units per hidden layer."] = (
    1024
  )
  dynamic_size: Annotated[
    Size, "Outputs of a memory layer, whose weights are written."
  ] = 63
  # Each is compiled anew.
  num_hops: Annotated[
    int,
    between(1, 100),
    "Updates of the energy network's recurrent state per pattern.",
  ] = 5
  num_filters: Annotated[
    int, between(0, 10**6), "Filters of the first convolution; 0: none."
  ] = 32
  learning_rate: Annotated[float, at_least(0.0), "Learning rate of AdamW."] = (
    5e-5
  )
  weight_decay: Annotated[float, at_least(0.0), "Weight decay of AdamW."] = 1e-6
  max_norm: Annotated[
    float, above(0.0), "Clip gradients to this global norm."
  ] = 0.05
  write_rate: Annotated[
    float,
    above(0.0),
    "Initial learning rate of writing, of each memory layer and loss term.",
  ] = 1e-4
  step_size: Annotated[
    float, at_least(0.0), "Initial step size of the first step of reading."
  ] = 0.5
  momentum: Annotated[
    float, between(0.0, 1.0), "Initial momentum of the first step of reading."
  ] = 0.5


_LOGGING = {"log_every": 100, "eval_every": 500}
_DIGITS = {"network": "residual", "block_size": 4, "num_filters": 0}
_IMAGES = {"block_size": 12, "step_size": 2.0}
_COLOURS = {"fill": "noise", "block_size": 16, "step_size": 2.0}
_LONGER = {"num_updates": 6000}
_CONVOLUTIONAL = {
  "network": "convolutional",
  "num_patterns": 8,
  "num_sets": 4,
  "hidden_size": 128,
  "dynamic_size": 4,
  "num_hops": 3,
  "write_rate": 0.03,
}
_GPU_IMAGES = _CONVOLUTIONAL | {
  "num_filters": 16,
  "write_steps": 3,
  "read_steps": 3,
}
_PAPER_IMAGES = {
  "network": "convolutional",
  "num_patterns": 64,
  "counts": (64,),
  "num_sets": 4,
  "hidden_size": 512,
  "dynamic_size": 8,
  "num_hops": 3,
  "step_size": 2.0,
}
PRESETS = {
  "cpu": _LOGGING
  | {
    "num_bits": 32,
    "num_redrawn": 16,
    "block_size": 4,
    "num_patterns": 4,
    "counts": (2, 4, 8),
    "write_steps": 3,
    "read_steps": 3,
    "hidden_size": 64,
    "dynamic_size": 15,
    "num_hops": 3,
    "num_filters": 8,
    "learning_rate": 2e-3,
    "max_norm": 1.0,
    "write_rate": 0.3,
    "num_updates": 3000,
    "task=digits": _DIGITS,
    "task=generated": _IMAGES | _LONGER,
    "task=omniglot": _IMAGES | _LONGER,
    "task=mnist": _IMAGES | _LONGER,
    "task=cifar10": _COLOURS | _CONVOLUTIONAL | _LONGER,
  },
  "smoke": {
    "num_bits": 8,
    "num_redrawn": 4,
    "block_size": 4,
    "num_patterns": 2,
    "counts": (2,),
    "num_sets": 2,
    "num_tests": 2,
    "write_steps": 1,
    "read_steps": 2,
    "hidden_size": 6,
    "dynamic_size": 3,
    "num_hops": 1,
    "num_filters": 1,
    "learning_rate": 2e-3,
    "max_norm": 1.0,
    "write_rate": 0.3,
    "num_updates": 2,
    "log_every": 1,
    "eval_every": 1,
    "task=digits": {"network": "residual"},
    "task=generated": _IMAGES,
    "task=omniglot": _IMAGES,
    "task=mnist": _IMAGES,
    "task=cifar10": _COLOURS | {"network": "convolutional", "write_rate": 0.03},
  },
  "gpu": _LOGGING
  | {
    "num_patterns": 16,
    "counts": (8, 16, 32),
    "num_sets": 64,
    "hidden_size": 512,
    "learning_rate": 3e-4,
    "max_norm": 1.0,
    "write_rate": 0.2,
    "num_updates": 10_000,
    "task=digits": _DIGITS
    | {
      "num_sets": 16,
      "write_steps": 3,
      "read_steps": 3,
      "hidden_size": 64,
      "dynamic_size": 15,
      "num_hops": 3,
    },
    "task=generated": _IMAGES | _GPU_IMAGES,
    "task=omniglot": _IMAGES | _GPU_IMAGES,
    "task=mnist": _IMAGES | _GPU_IMAGES,
    "task=cifar10": _COLOURS | _GPU_IMAGES,
  },
  "paper": _LOGGING
  | {
    "num_updates": 2_000_000,
    "task=digits": _DIGITS
    | {
      "num_patterns": 4,
      "counts": (2, 4, 8),
      "hidden_size": 64,
      "dynamic_size": 15,
      "num_hops": 3,
    },
    "task=generated": _PAPER_IMAGES,
    "task=omniglot": _PAPER_IMAGES,
    "task=mnist": _PAPER_IMAGES,
    "task=cifar10": _PAPER_IMAGES | {"fill": "noise"},
  },
}


def check(settings: Settings) -> None:
  """Refuses incompatible settings."""
  if settings.task == "cifar10" and set(settings.variants) & set(HOPFIELD):
    raise training.RunError(
      f"--variants={','.join(settings.variants)}: Hopfield's rules store bits, "
      "and --task=cifar10 has colours; leave hebb, storkey and pseudo_inverse "
      "out."
    )
  if settings.task == "binary" and settings.network != "gated":
    raise training.RunError(
      f"--network={settings.network} is for images; --task=binary has "
      "--network=gated."
    )


def make_task(settings: Settings, data_dir: str | None) -> Any:
  """The task: patterns, and damaged queries."""
  if settings.task == "binary":
    return patterns.make_binary_task(
      num_bits=settings.num_bits, num_redrawn=settings.num_redrawn
    )
  return patterns.make_image_task(
    settings.task,
    data_dir,
    block_size=settings.block_size,
    fill=settings.fill,
  )


def list_names(settings: Settings) -> list[str]:
  """Names to run: a trained variant once for each of --dynamic_sizes."""
  names = []
  for variant in settings.variants:
    if variant in TRAINED and settings.dynamic_sizes:
      names += [f"{variant}-{size}" for size in settings.dynamic_sizes]
    else:
      names.append(variant)
  return names


def make_network(settings: Settings, name: str) -> Any:
  """The energy network of a name, such as ebmm or ebmm-15."""
  size = name.partition("-")[2]
  return energy_networks.make(
    settings.network,
    hidden_size=settings.hidden_size,
    dynamic_size=int(size or settings.dynamic_size),
    num_hops=settings.num_hops,
    num_filters=settings.num_filters,
  )


def make_memory(settings: Settings, name: str, task: Any) -> Any:
  """The memory of a trained variant."""
  variant, network = name.partition("-")[0], make_network(settings, name)
  if variant in BASELINES:
    return pattern_memories.make_as_large(
      network,
      task.shape,
      variant,
      num_words=settings.num_patterns,
      num_reads=settings.read_steps,
      hidden_size=settings.hidden_size,
      num_filters=settings.num_filters,
    )
  return energy_memory.make(
    network,
    write_steps=0 if variant == "unwritten" else settings.write_steps,
    read_steps=settings.read_steps,
    write_rate=settings.write_rate,
    step_size=settings.step_size,
    momentum=settings.momentum,
    gradient_norm=settings.gradient_norm,
    first_order=variant == "first_order",
    remat=settings.remat,
  )


def make_learner(settings: Settings, memory: Any, task: Any) -> Any:
  """The learner, which minimises the loss of sets of patterns."""

  def optimiser(hyper):
    # The gradients through both loops are clipped, not those inside.
    clip = optax.clip_by_global_norm(settings.max_norm)
    adam = optax.adamw(
      hyper["learning_rate"], weight_decay=settings.weight_decay
    )
    return training.skip_nonfinite(optax.chain(clip, adam))

  return descent.make(
    init=lambda key: learner.init(key, memory, jnp.zeros(task.shape)),
    sample=lambda key, data: task.sample(key, data, settings.num_patterns),
    loss=learner.make_loss(memory, task),
    optimiser=optimiser,
    batch_size=settings.num_sets,
    measure_gradient=lambda grads: {"norm": optax.tree.norm(grads)},
  )


def make_experiment(
  settings: Settings, name: str, task: Any
) -> training.Experiment:
  """One run of one variant."""
  is_trained = name.partition("-")[0] in TRAINED
  memory: Any = None
  if is_trained:
    memory = make_memory(settings, name, task)
    init, update = make_learner(settings, memory, task)
  else:
    init = lambda key, hyper, data: descent.State((), (), (), hyper, key)
    update = lambda state, data: (state, {})

  def evaluate(key, state, data):
    def measure(key, stored, queries):
      if not is_trained:
        return learner.measure_rule(key, name, task, stored, queries)
      return learner.measure_memory(
        key, memory, state.params, task, data, stored, queries
      )

    return learner.evaluate(
      key,
      measure,
      task,
      data,
      num_patterns=settings.num_patterns,
      counts=settings.counts,
      num_sets=settings.num_tests,
      batch_size=settings.num_sets,
    )

  return training.Experiment(
    init=init,
    update=update,
    evaluate=evaluate,
    data=task.data,
    hyper={"learning_rate": settings.learning_rate},
    export=lambda state: state.params,
  )


def make_experiments(
  settings: Settings, options: training.Options
) -> dict[str, training.Experiment]:
  """One experiment for each variant, and for each size of it."""
  task = make_task(settings, options.data_dir)
  return {
    name: make_experiment(settings, name, task) for name in list_names(settings)
  }


def draw(settings: Settings, results: training.Results, out_dir: Any) -> None:
  """Learning curves, errors by number and size, reads and their energies."""
  trained = [x for x in results.states if x.partition("-")[0] in TRAINED]
  kind = "squared error" if settings.task == "cifar10" else "wrong bits"
  label = f"{kind} of a pattern"
  wanted = {"eval/error": f"{label} that was read"}
  if trained:
    wanted["eval/loss"] = "squared error, of all steps of a read"
  curves.plot_metrics(results, out_dir / "curves.png", wanted)
  curves.plot_by_length(
    results,
    list(results.states),
    "eval/error",
    sorted(settings.counts),
    out_dir / "counts.png",
    label,
    "stored patterns",
  )
  task = make_task(settings, results.options.data_dir)
  models, sizes = {}, {}
  for name in trained:
    state = results.states[name]
    params = jax.tree.map(lambda x: jnp.asarray(x[0]), state.params)
    models[name] = make_memory(settings, name, task), params
    network = make_network(settings, name)
    size = energy_networks.count_written(network, task.shape)
    sizes[name] = name.partition("-")[0], size
  energy_figures.plot_reads(models, task, settings.num_patterns, out_dir)
  if settings.dynamic_sizes and trained and not results.options.sweep:
    labels = "writable weights", label
    path = out_dir / "sizes.png"
    curves.plot_by_size(results, sizes, "eval/error", path, labels)


def distance(measure: Any, value: float) -> Any:
  """The measure of how far another measure is from a value."""
  return lambda results: abs(measure(results) - value)


def hebb_claim(count: int, published: float) -> Claim:
  """The claim that Hebb's rule has the published error."""
  measure = last("hebb", f"eval/error_clamped_at_{count}")
  return Claim(
    f"hebb-{count}",
    f"distance of wrong bits of 128 from the paper's {published}, of {count} "
    "patterns",
    distance(measure, published),
    "<=",
    0.5,
  )


_ENERGY_CLAIM = Claim(
  "energy",
  "energy of stored patterns, less that before the write",
  difference(
    last("ebmm", "eval/energy_after"), last("ebmm", "eval/energy_before")
  ),
  "<",
  0.0,
)
REPRODUCTIONS = {
  "binary": training.Reproduction(
    ["--num_seeds=4"],
    min_seeds=4,
    presets=("cpu",),
    minutes=5,
    claims=[
      Claim("error", "wrong bits of 32", last("ebmm", "eval/error"), "<=", 6.0),
      Claim("loss", "loss of 3 steps", last("ebmm", "eval/loss"), "<=", 14.0),
      Claim(
        "control",
        "loss unwritten",
        last("unwritten", "eval/loss"),
        ">=",
        17.6,
      ),
      Claim(
        "control-error",
        "distance of wrong bits unwritten from 8",
        distance(last("unwritten", "eval/error"), 8.0),
        "<=",
        0.15,
      ),
      _ENERGY_CLAIM,
    ],
  ),
  "binary-128": training.Reproduction(
    ["--num_seeds=4"],
    min_seeds=4,
    presets=("gpu",),
    claims=[
      Claim(
        "error", "wrong bits of 128", last("ebmm", "eval/error"), "<", 16.0
      ),
      _ENERGY_CLAIM,
    ],
  ),
  "hopfield": training.Reproduction(
    [
      "--variants=hebb,storkey,pseudo_inverse",
      "--num_bits=128",
      "--num_redrawn=64",
      "--counts=16,32,48,64,96",
      "--num_updates=100",
    ],
    min_seeds=1,
    minutes=1,
    claims=[
      hebb_claim(16, 0.4),
      hebb_claim(32, 5.0),
      hebb_claim(48, 9.8),
      hebb_claim(64, 13.0),
      hebb_claim(96, 16.5),
    ],
  ),
}

SCRIPT = training.Script(
  Settings,
  PRESETS,
  make_experiments,
  draw,
  REPRODUCTIONS,
  free=("variants", "counts", "dynamic_sizes"),
  key_metric="eval/error",
  check=check,
)

if __name__ == "__main__":
  training.main(SCRIPT)
