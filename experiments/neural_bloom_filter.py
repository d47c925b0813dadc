"""The Neural Bloom Filter: sets in fewer bits than a Bloom filter's.

Rae, Bartunov, Lillicrap: Meta-learning neural Bloom filters (arXiv 1906.04304,
ICML 2019). A network learns, from many small sets, to write a set at once and
then to distinguish its members from other elements. Members it misses are
stored in a small Bloom filter, so that there are no false negatives.

Variants: neural_bloom; summed, which reads a sum of its slots, and detached,
which learns for queries only: two controls; lstm and dnc, which read a set as a
sequence; memory_network, a word for each element; bloom, the classical filter,
which learns nothing.

Tasks: classes (elements of one class), uniform (arbitrary elements), nonuniform
  (some elements more often), ranges (neighbours among sorted keys). Elements:
--data=bits (the default, generated), digits, generated, omniglot or mnist.

Expected on classes of bits: an area under the ROC curve of 1.00 and, at 1 %
false positives, 0.53 times the bits of a Bloom filter, in 3.5 minutes on 2
cores. More in docs/papers/neural_bloom_filter.md.
"""

import functools
from typing import Annotated, Any, Literal, NamedTuple

from etils import epy

from lilly import training
from lilly.training.claims import Claim, last, ratio
from lilly.training.settings import MAY_BE_EMPTY, above, at_least, between

with epy.lazy_imports():
  import jax
  import jax.numpy as jnp
  import numpy as np
  import optax

  from lilly.figures import curves, heatmaps
  from lilly.figures import filters as filter_figures
  from lilly.learners import descent
  from lilly.learners import neural_bloom as learner
  from lilly.nets import cores, filters
  from lilly.tasks import membership

# No larger number fits into the memory of most machines.
Count = Annotated[int, between(1, 10**7)]


class Settings(NamedTuple):
  """The settings; published ones are for sets of images of one class."""

  task: Annotated[
    Literal["classes", "uniform", "nonuniform", "ranges"],
    "Kind of sets: what their elements share.",
  ] = "classes"
  data: Annotated[
    Literal["bits", "digits", "generated", "omniglot", "mnist"],
    "Data set the elements come from.",
  ] = "bits"
  variants: Annotated[
    tuple[
      Literal[
        "neural_bloom",
        "summed",
        "detached",
        "lstm",
        "dnc",
        "memory_network",
        "bloom",
      ],
      ...,
    ],
    "Filters to compare.",
  ] = ("neural_bloom", "lstm", "memory_network", "bloom")
  rates: Annotated[
    tuple[Annotated[float, above(0.0, 1.0)], ...],
    "Allowed rates of false positives.",
  ] = (0.05, 0.01, 0.001)
  sizes: Annotated[
    tuple[Count, ...], MAY_BE_EMPTY, "Further set sizes to evaluate with."
  ] = ()
  set_size: Annotated[Count, "Elements per set, n."] = 200
  num_queries: Annotated[
    int, between(2, 10**7), "Queries per set in an update; half are members."
  ] = 32
  num_sets: Annotated[Count, "Sets per update."] = 32
  num_tests: Annotated[
    Count, "Number of calibration sets, and of evaluation sets."
  ] = 64
  num_non_members: Annotated[Count, "Non-members queried per test set."] = 800
  num_slots: Annotated[Count, "Number of memory slots, m."] = 8
  word_size: Annotated[Count, "Numbers per memory word, W."] = 4
  query_size: Annotated[Count, "Size of a query vector, D."] = 32
  sparse_k: Annotated[
    int, between(0, 10**7), "Slots an element is written to, k; 0: all."
  ] = 0
  sphere: Annotated[bool, "Whiten queries with a moving ZCA transform."] = False
  sphere_every: Annotated[
    Count, "Updates per update of the ZCA transform, T."
  ] = 1
  sphere_decay: Annotated[
    float, between(0.0, 1.0), "Decay rate of the ZCA transform's covariance, η."
  ] = 0.95
  hidden_size: Annotated[Count, "Units per hidden layer."] = 128
  encoding_size: Annotated[Count, "Output size of the encoder."] = 64
  num_filters: Annotated[
    int,
    between(0, 10**7),
    "Filters of the encoder's convolutions, for images; 0: a perceptron.",
  ] = 64
  core_size: Annotated[
    Count, "Units of the LSTM, and of the DNC's controller."
  ] = 16
  universe: Annotated[
    int,
    between(2, 10**7),
    "Number of distinct elements to draw sets from, where they are bits not of "
    "classes, or keys.",
  ] = 1000
  learning_rate: Annotated[
    float, at_least(0.0), "Adam's initial learning rate; cosine decay to 0."
  ] = 1e-4
  max_norm: Annotated[
    float, above(0.0), "Largest global norm of a gradient; clipped above."
  ] = 1.0
  read_scale: Annotated[
    float | None,
    above(0.0),
    "Factor of the values read from the memory [1 / sqrt(set_size)].",
  ] = None


# Data sets of elements that are not images.
_LEARN = {
  "num_filters": 0,
  "num_sets": 8,
  "learning_rate": 1e-3,
  "num_updates": 2000,
  "log_every": 100,
  "eval_every": 500,
}
_TASKS = {
  "task=uniform": {
    "set_size": 4,
    "num_slots": 16,
    "word_size": 8,
    "universe": 5000,
    "num_queries": 16,
    "num_sets": 16,
    "learning_rate": 3e-3,
    "num_updates": 5000,
  },
  "task=nonuniform": {"num_slots": 16},
  # The values read grow with the set: with 1 / sqrt(5000) nothing is learnt.
  "task=ranges": {
    "set_size": 5000,
    "num_sets": 2,
    "universe": 100_000,
    "read_scale": 4e-4,
  },
}
_GPU = {"num_filters": 16, "num_sets": 64, "num_updates": 20_000}
_PAPER = {
  "num_filters": 64,
  "num_sets": 32,
  "learning_rate": 1e-4,
  "num_updates": 800_000,
  "eval_every": 20_000,
}
PRESETS = {
  "cpu": _LEARN
  | _TASKS
  | {
    "data=digits": {"set_size": 25},
    "data=generated": {"set_size": 20},
    "data=omniglot": {"set_size": 18},
    "data=mnist": {"set_size": 500},
  },
  "smoke": {
    "set_size": 4,
    "num_sets": 2,
    "num_queries": 4,
    "num_tests": 2,
    "num_non_members": 20,
    "num_slots": 3,
    "query_size": 3,
    "hidden_size": 6,
    "encoding_size": 4,
    "num_filters": 0,
    "core_size": 3,
    "universe": 64,
    "learning_rate": 1e-3,
    "num_updates": 2,
    "log_every": 1,
    "eval_every": 1,
  },
  "gpu": _LEARN
  | _TASKS
  | {
    "data=digits": _GPU | {"set_size": 25},
    "data=generated": _GPU | {"set_size": 20},
    "data=omniglot": _GPU | {"set_size": 18},
    "data=mnist": _GPU | {"set_size": 500},
  },
  # Published for images; other data run as with cpu.
  "paper": _LEARN
  | _TASKS
  | {
    "data=digits": _PAPER | {"set_size": 25},
    "data=generated": _PAPER | {"set_size": 20},
    "data=omniglot": _PAPER | {"set_size": 18},
    "data=mnist": _PAPER | {"set_size": 500},
  },
}


def check(settings: Settings) -> None:
  """Refuses incompatible settings."""
  # Metric names have a rate's first digits; half of a rate is for the backup.
  named = {f"{rate:g}" for rate in settings.rates if 0 < rate / 2 < 0.5}
  if len(named) < len(settings.rates):
    raise training.RunError(
      f"--rates={','.join(map(str, settings.rates))} must be between 0 and 1, "
      "and differ in six digits."
    )
  if settings.task == "ranges" and settings.data != "bits":
    raise training.RunError(
      f"--task=ranges: elements of ranges are words only; leave out "
      f"--data={settings.data}."
    )
  if settings.num_filters and settings.data == "bits":
    raise training.RunError(
      "--num_filters is for images: --data=mnist or others, not bits or ranges."
    )
  if settings.sparse_k > settings.num_slots:
    raise training.RunError(
      f"--sparse_k={settings.sparse_k} must be at most --num_slots="
      f"{settings.num_slots}."
    )


def make_task(settings: Settings, data_dir: str | None) -> Any:
  """The task; checks that it has enough elements."""
  try:
    task = membership.task(
      settings.task, settings.data, data_dir, universe=settings.universe
    )
    # A figure shows 16 elements outside a set.
    num_tests = max(settings.num_non_members, 16)
    for size in (settings.set_size, *settings.sizes):
      for draw, num_non_members in (
        (task.sample, settings.num_queries // 2),
        (task.test, num_tests),
      ):
        draw = functools.partial(
          draw, num_members=size, num_non_members=num_non_members
        )
        jax.eval_shape(draw, jax.random.key(0), task.data)
  except ValueError as reason:
    raise training.RunError(f"The settings do not fit: {reason}") from reason
  return task


def make_memory(settings: Settings, variant: str) -> Any:
  """The memory of a trained variant."""
  encode = filters.encoder(
    hidden_size=settings.hidden_size,
    output_size=settings.encoding_size,
    num_filters=settings.num_filters,
  )
  if variant == "memory_network":
    return filters.memory_network(encode, word_size=settings.word_size)
  if variant in ("lstm", "dnc"):
    sizes = {"hidden_size": settings.core_size}
    if variant == "dnc":
      sizes["num_slots"] = settings.num_slots
      sizes["word_size"] = settings.word_size
      sizes["num_heads"] = 1
    make_core = functools.partial(cores.make, variant, **sizes)
    return filters.recurrent(
      encode, make_core, hidden_size=settings.hidden_size
    )
  read_scale = settings.read_scale
  if read_scale is None:
    read_scale = settings.set_size**-0.5
  return filters.bloom(
    encode,
    num_slots=settings.num_slots,
    word_size=settings.word_size,
    query_size=settings.query_size,
    hidden_size=settings.hidden_size,
    read_scale=read_scale,
    read="summed" if variant == "summed" else "addressed",
    is_detached=variant == "detached",
    num_sparse=settings.sparse_k,
    is_sphered=settings.sphere,
    sphering_decay=settings.sphere_decay,
    sphering_every=settings.sphere_every,
  )


def make_optimiser(settings: Settings, num_updates: int, hyper: Any) -> Any:
  """Adam with clipped gradients and cosine decay of the learning rate."""
  rate = optax.cosine_decay_schedule(hyper["learning_rate"], num_updates)
  clip = optax.clip_by_global_norm(settings.max_norm)
  return training.skip_nonfinite(optax.chain(clip, optax.adam(rate)))


def make_experiment(
  settings: Settings, variant: str, task: Any, num_updates: int
) -> training.Experiment:
  """One run of one variant."""
  if variant == "bloom":
    init = lambda key, hyper, data: descent.State((), (), (), hyper, key)
    update = lambda state, data: (state, {})
  else:
    memory = make_memory(settings, variant)
    init, update = descent.make(
      init=lambda key: memory.init(key, jnp.zeros(task.shape)),
      sample=lambda key, data: task.sample(
        key, data, settings.set_size, settings.num_queries // 2
      ),
      loss=learner.make_loss(memory, num_queries=settings.num_queries),
      optimiser=functools.partial(make_optimiser, settings, num_updates),
      batch_size=settings.num_sets,
      observe=learner.make_observe(memory),
    )
  return training.Experiment(
    init=init,
    update=update,
    evaluate=functools.partial(evaluate, settings, variant, task),
    data=task.data,
    hyper={"learning_rate": settings.learning_rate},
    export=lambda state: {"params": state.params, "state": state.state},
  )


def evaluate(
  settings: Settings, variant: str, task: Any, key: Any, state: Any, data: Any
) -> dict[str, Any]:
  """Evaluates filters for the training set size, and further sizes."""
  options = {
    "rates": settings.rates,
    "num_sets": settings.num_tests,
    "batch_size": settings.num_sets,
  }

  def evaluate_size(size):
    own = jax.random.clone(key)
    draw = lambda key: task.test(key, data, size, settings.num_non_members)
    if variant == "bloom":
      return learner.evaluate_bloom(own, draw, **options)
    memory = make_memory(settings, variant)
    return learner.evaluate(
      own, memory, state.params, state.state, draw, **options
    )

  metrics = evaluate_size(settings.set_size)
  for size in settings.sizes:
    for name, value in evaluate_size(size).items():
      metrics[f"{name}_of_{size}"] = value
  return metrics


def make_experiments(
  settings: Settings, options: training.Options
) -> dict[str, training.Experiment]:
  """One experiment for each variant."""
  task = make_task(settings, options.data_dir)
  return {
    variant: make_experiment(settings, variant, task, options.num_updates)
    for variant in settings.variants
  }


def draw(settings: Settings, results: training.Results, out_dir: Any) -> None:
  """Learning curves, bits by rate, ROC curves, and addresses of elements."""
  filter_figures.plot_space(
    results, settings.rates, settings.set_size, out_dir / "space.png"
  )
  trained = [name for name in results.states if name != "bloom"]
  if not trained:
    return
  wanted = {"eval/auc": "area under the ROC curve", "train/loss": "loss, nats"}
  curves.plot_metrics(results, out_dir / "curves.png", wanted)
  task = make_task(settings, results.options.data_dir)
  scores = {}
  for name in trained:
    state = jax.tree.map(lambda x: jnp.asarray(x[0]), results.states[name])
    memory = make_memory(settings, name)
    scores[name], weights = show(settings, task, memory, state)
    if weights is not None:
      labels = "slot", "16 members of a set, then 16 non-members"
      path = out_dir / f"{name}_addresses.png"
      heatmaps.plot_matrix(np.asarray(weights), path, labels, limit=1.0)
  filter_figures.plot_roc(scores, out_dir / "roc.png")


def show(settings: Settings, task: Any, memory: Any, state: Any) -> Any:
  """Scores of members and of non-members, and addresses of some elements."""

  @jax.jit
  def compute(state, data):
    keys = jax.random.split(jax.random.key(2), settings.num_tests + 1)

    def score(key):
      episode = task.test(
        key, data, settings.set_size, settings.num_non_members
      )
      return learner.score(memory, state.params, state.state, episode)

    scores = [x.ravel() for x in jax.lax.map(score, keys[1:])]
    if memory.address is None:
      return scores, None
    address = lambda x: memory.address(state.params, state.state, x)
    few = task.test(keys[0], data, settings.set_size, 16)
    elements = jnp.concatenate([few.members[:16], few.non_members])
    return scores, jax.vmap(address)(elements)

  return compute(state, task.data)


REPRODUCTIONS = {
  "classes": training.Reproduction(
    ["--num_seeds=4"],
    min_seeds=4,
    minutes=3.5,
    claims=[
      Claim(
        "auc",
        "area under the ROC curve",
        last("neural_bloom", "eval/auc"),
        ">=",
        0.99,
      ),
      Claim(
        "space",
        "bits at 1 %, of a Bloom filter's",
        ratio(
          last("neural_bloom", "eval/bits_at_0.01"),
          last("bloom", "eval/bits_at_0.01"),
        ),
        "<=",
        0.6,
      ),
      Claim(
        "false-negatives",
        "false negatives",
        last("neural_bloom", "eval/false_negatives_at_0.01"),
        "<=",
        0.0,
      ),
      Claim(
        "false-positives",
        "rate of false positives, 1 % allowed",
        last("neural_bloom", "eval/false_positive_rate_at_0.01"),
        "<=",
        0.013,
      ),
    ],
  ),
}

SCRIPT = training.Script(
  Settings,
  PRESETS,
  make_experiments,
  draw,
  REPRODUCTIONS,
  free=("variants", "rates", "sizes"),
  key_metric=lambda settings: (
    f"eval/bits_at_{settings.rates[len(settings.rates) // 2]:g}"
  ),
  check=check,
)

if __name__ == "__main__":
  training.main(SCRIPT)
