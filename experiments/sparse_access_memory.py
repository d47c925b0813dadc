"""Sparse Access Memory: a memory whose cost per step does not grow with it.

Rae, Hunt, Harley, Danihelka, Senior, Wayne, Graves, Lillicrap: Scaling
memory-augmented neural networks with sparse reads and writes (arXiv 1610.09027,
NIPS 2016). Recurrent networks with memories that read a few words (SAM, SDNC)
or all of them (NTM, DAM, DNC) learn the same task in one run.

Tasks: copy (the default), repeat_copy, associative_recall, priority_sort;
one_shot, labels of generated characters, and omniglot, of real ones; babi (the
last two need --data_dir). --curriculum starts with easy episodes and doubles
their level. --task=scaling is the paper's figure 1: seconds and bytes of a
step, forward and backward, against the number of words. Cores: those of
lilly.nets.cores, and sam_no_read, whose reads are zeroed; with --task=scaling
the memories ntm, dam, dnc, sam_exact, sam_lsh and sdnc_lsh.

Expected: SAM copies with less than 1 % of the bits wrong (8 seeds: 6 minutes on
2 cores, half a minute to compile each core), and a step at 2^20 words takes at
most 3 times one at 2^10. More in docs/papers/sparse_access_memory.md.
"""

import sys
from typing import Annotated, Any, Literal, NamedTuple

from etils import epy

from lilly import training
from lilly.nets import cores
from lilly.training import terminal
from lilly.training.claims import (
  Claim,
  at,
  at_equal_time,
  difference,
  last,
  ratio,
)
from lilly.training.settings import at_least, between

with epy.lazy_imports():
  import jax
  import jax.numpy as jnp
  import numpy as np
  import optax

  from lilly.figures import curves, heatmaps
  from lilly.learners import sequences as learner
  from lilly.memory import nearest_neighbors
  from lilly.nets import recurrent
  from lilly.tasks import algorithmic, one_shot, question_answering
  from scripts import step_cost

SPARSE = ("sam", "sdnc")
DENSE = tuple(name for name in cores.MEMORIES if name not in SPARSE)
CORES = (*cores.CORES, "sam_no_read")
MEASURED = (*DENSE, "sam_exact", "sam_lsh", "sdnc_lsh")
FIRST_EXPONENT = 8  # --task=scaling starts at 2^8 words


class Settings(NamedTuple):
  """The settings; defaults are the published ones."""

  task: Annotated[
    Literal[
      "copy",
      "repeat_copy",
      "associative_recall",
      "priority_sort",
      "one_shot",
      "omniglot",
      "babi",
      "scaling",
    ],
    "Task to learn; scaling measures the cost of a step instead.",
  ] = "copy"
  cores: Annotated[
    tuple[str, ...],
    f"Recurrent cores to compare: {', '.join(CORES)}; with --task=scaling "
    f"memories: {', '.join(MEASURED)}.",
  ] = ("sam", "dam", "ntm", "lstm")
  search: Annotated[
    Literal["exact", "lsh"],
    "Nearest-neighbour search of SAM and SDNC: exact, or locality-sensitive "
    "hashing.",
  ] = "lsh"
  num_slots: Annotated[
    int, between(1, 10**9), "Words of the sparse memories, N."
  ] = 2_000_000
  dense_slots: Annotated[
    int, between(1, 10**6), "Words of the dense memories, N."
  ] = 64
  word_size: Annotated[int, between(1, 10**6), "Size of a word, M."] = 32
  num_heads: Annotated[
    int, between(1, 1000), "Heads; each reads and writes once per step."
  ] = 4
  num_reads: Annotated[
    int, between(1, 10**6), "Words that a sparse head reads, K."
  ] = 4
  hidden_size: Annotated[
    int, between(1, 10**6), "Units of the LSTM controller."
  ] = 100
  optimiser: Annotated[
    Literal["adam", "rmsprop"], "Optimiser of the weights."
  ] = "rmsprop"
  learning_rate: Annotated[
    float, at_least(0.0), "Learning rate of the optimiser."
  ] = 1e-5
  linear_decay: Annotated[
    bool, "Linear decay of the learning rate to 0 over the run."
  ] = False
  batch_size: Annotated[int, between(1, 10**6), "Episodes per update."] = 8
  max_level: Annotated[
    int, between(0, 10**6), "Hardest level of the task; 0: the task's default."
  ] = 0
  item_length: Annotated[
    int, between(1, 10**6), "Vectors per item of associative_recall."
  ] = 3
  curriculum: Annotated[
    bool, "Start at level 1 and double the level once it is solved."
  ] = False
  threshold: Annotated[
    float,
    between(0.0, 1.0),
    "Curriculum: mean error below which an update counts as solved.",
  ] = 0.05
  patience: Annotated[
    int,
    between(1, 10**9),
    "Curriculum: consecutive solved updates that double the level.",
  ] = 20
  max_gb: Annotated[
    float,
    at_least(0.0),
    "Scaling: programs that need more memory, in GB, are compiled but not run.",
  ] = 10.0


_SMALL = {"hidden_size": 64, "num_heads": 1, "word_size": 16}
_MEDIUM = {"hidden_size": 100, "num_heads": 2, "word_size": 24}
_LEARN = {"log_every": 100, "eval_every": 500, "num_updates": 4000}
_LONGER = {"log_every": 100, "eval_every": 500, "num_updates": 5000}
_LABEL = {
  "log_every": 100,
  "eval_every": 500,
  "num_updates": 3000,
  "seed_batching": "map",
}
_SCALING = {
  "num_updates": 13,
  "log_every": 1,
  "eval_every": 0,
  "num_heads": 1,
  "cores": ("ntm", "dam", "dnc", "sam_exact", "sam_lsh", "sdnc_lsh"),
}
# Once copy is solved its gradients almost vanish, and Adam divides by their
# size: at a constant rate one larger gradient moves the weights far away.
_COPY = {"cores": ("sam", "sam_no_read", "lstm"), "linear_decay": True}
# Learning rates were chosen on seeds that no claim uses.
_FAST = {"learning_rate": 5e-3}
_SLOW = {"learning_rate": 1e-3}
_TINY = {
  "cores": ("sam", "dam", "lstm"),
  "search": "exact",
  "optimiser": "adam",
  "learning_rate": 5e-3,
}
PRESETS = {
  "cpu": {
    **_TINY,
    "num_slots": 128,
    "batch_size": 16,
    "task=copy": _LEARN | _SMALL | _COPY,
    "task=repeat_copy": _LEARN | _SMALL | _SLOW,
    "task=associative_recall": _LONGER | _SMALL | {"item_length": 1},
    "task=priority_sort": _LONGER | _SMALL | {"max_level": 8},
    "task=one_shot": _LABEL | _MEDIUM,
    "task=omniglot": _LABEL | _MEDIUM,
    "task=babi": _LABEL | _MEDIUM | _SLOW,
    "task=scaling": _SCALING,
  },
  "smoke": {
    **_TINY,
    "num_updates": 4,
    "log_every": 2,
    "eval_every": 4,
    "batch_size": 2,
    "hidden_size": 8,
    "word_size": 4,
    "num_slots": 16,
    "dense_slots": 8,
    "task=repeat_copy": _SLOW,
    "task=babi": _SLOW,
    "task=scaling": _SCALING | {"num_updates": 1},
  },
  "gpu": {
    **_TINY,
    "num_slots": 65_536,
    "batch_size": 16,
    "task=copy": _LEARN | _COPY,
    "task=repeat_copy": _LEARN | _SLOW,
    "task=associative_recall": _LONGER,
    "task=priority_sort": _LONGER | {"max_level": 8},
    "task=one_shot": _LABEL,
    "task=omniglot": _LABEL,
    "task=babi": _LABEL | _SLOW,
    "task=scaling": _SCALING | {"num_updates": 16},
  },
  "paper": {
    "num_updates": 1_000_000,
    "log_every": 1000,
    "eval_every": 10_000,
    "task=copy": {"max_level": 20},
    "task=scaling": _SCALING | {"num_updates": 16},
  },
}


def check(settings: Settings) -> None:
  """Refuses incompatible settings."""
  known = MEASURED if settings.task == "scaling" else CORES
  if not set(settings.cores) <= set(known):
    raise training.RunError(
      f"--cores={','.join(settings.cores)} does not name what --task="
      f"{settings.task} compares; these are known: {', '.join(known)}."
    )
  if settings.task == "babi" and settings.max_level:
    raise training.RunError(
      "--max_level has no meaning for --task=babi; leave it out."
    )


def make_task(settings: Settings, data_dir: str | None) -> Any:
  """The task with its level and item length."""
  level = settings.max_level
  if settings.task == "babi":
    return question_answering.task(data_dir)
  if settings.task in ("one_shot", "omniglot"):
    name = "generated" if settings.task == "one_shot" else "omniglot"
    return one_shot.task(name, data_dir, num_classes=level or 5)
  if settings.task == "associative_recall":
    return algorithmic.task(
      settings.task, level or None, item_length=settings.item_length
    )
  return algorithmic.task(settings.task, level or None)


def make_memory(
  settings: Settings, name: str, num_slots: int, num_steps: int = 1
) -> Any:
  """A memory alone, for gradients over a number of steps."""
  kind = name.removesuffix("_exact").removesuffix("_lsh")
  options: dict[str, Any] = {}
  if kind in SPARSE:
    rows = num_steps * settings.num_heads * (settings.num_reads + 1)
    options["num_reads"] = settings.num_reads
    options["gradient_rows"] = min(rows, num_slots)
  if name.endswith("_lsh"):
    options["make_index"] = lambda: nearest_neighbors.init(
      jax.random.key(0), num_slots, settings.word_size
    )
  return cores.make_memory(
    kind,
    num_slots=num_slots,
    word_size=settings.word_size,
    num_heads=settings.num_heads,
    **options,
  )


def make_core(settings: Settings, name: str, task: Any) -> Any:
  """A core with the sizes of the task and of the settings."""
  sizes = task.num_inputs, task.num_outputs
  kind = name.removesuffix("_no_read")
  if kind not in cores.MEMORIES:
    return cores.make(name, *sizes, hidden_size=settings.hidden_size)
  searched, num_slots = kind, settings.dense_slots
  if kind in SPARSE:
    searched, num_slots = f"{kind}_{settings.search}", settings.num_slots
  memory = make_memory(settings, searched, num_slots, task.num_steps)
  return recurrent.with_memory(
    memory, *sizes, use_reads=kind == name, hidden_size=settings.hidden_size
  )


def make_experiment(
  settings: Settings, name: str, task: Any, num_updates: int
) -> training.Experiment:
  """One run of one core."""
  core = make_core(settings, name, task)

  def optimiser(hyper):
    rate = hyper["learning_rate"]
    if settings.linear_decay:
      rate = optax.linear_schedule(rate, 0.0, num_updates)
    make = {"adam": optax.adam, "rmsprop": optax.rmsprop}[settings.optimiser]
    clip = optax.clip_by_global_norm(10.0)
    return training.skip_nonfinite(optax.chain(clip, make(rate)))

  init, update = learner.make(
    core,
    task,
    optimiser=optimiser,
    batch_size=settings.batch_size,
    has_curriculum=settings.curriculum,
    threshold=settings.threshold,
    patience=settings.patience,
  )
  return training.Experiment(
    init=init,
    update=update,
    evaluate=lambda key, state, data: learner.evaluate(
      key, state.params, core, task, data
    ),
    data=task.data,
    hyper={"learning_rate": settings.learning_rate},
    steps_per_update=settings.batch_size,
    unit="episodes",
    export=lambda state: state.params,
  )


def make_program(
  settings: Settings, name: str, options: training.Options
) -> training.Program:
  """Measures one memory; update u measures 2^(8 + u) words."""

  def measure(update, seed):
    num_slots = 2 ** (FIRST_EXPONENT + update)
    work = num_slots * (num_slots if name == "dnc" else settings.word_size)
    # Lengths for runs of a few seconds.
    longest = 1000
    if name in DENSE:
      longest = max(3, min(200, 2**22 // work))
    elif name == "sam_exact":
      longest = max(20, min(1000, 2**28 // work))
    return step_cost.of_memory(
      jax.random.key(seed),
      lambda num_steps: make_memory(settings, name, num_slots, num_steps),
      (max(1, longest // 5), longest),
      max_bytes=settings.max_gb * 1e9,
    )

  return step_cost.program(measure, options)


def make_experiments(
  settings: Settings, options: training.Options
) -> dict[str, Any]:
  """One variant for each core, or for each measured memory."""
  if settings.task == "scaling":
    return {
      name: make_program(settings, name, options) for name in settings.cores
    }
  task = make_task(settings, options.data_dir)
  return {
    name: make_experiment(settings, name, task, options.num_updates)
    for name in settings.cores
  }


def draw(settings: Settings, results: training.Results, out_dir: Any) -> None:
  """Learning curves and where the memories were accessed; or figure 1."""
  if settings.task == "scaling":
    draw_scaling(results, out_dir)
    return
  wanted = {"eval/error": "error at the hardest level (%)"}
  if settings.curriculum:
    wanted = {"train/level": "level"}
  curves.plot_metrics(
    results, out_dir / "curves.png", wanted, log_scale=list(wanted)
  )
  task = make_task(settings, results.options.data_dir)
  episode = task.test(jax.random.key(2), task.max_level, task.data)
  drawn = {}
  for name, state in results.states.items():
    core = make_core(settings, name, task)
    params = jax.tree.map(lambda x: jnp.asarray(x[0]), state.params)
    found = learner.accesses(params, core, episode.inputs)
    if found is not None:
      drawn[name] = jax.device_get(found)
  if drawn:
    heatmaps.plot_accesses(drawn, out_dir / "accesses.png")


def draw_scaling(results: training.Results, out_dir: Any) -> None:
  """Figure 1: seconds and bytes of a step against words, and as a table."""
  curves.plot_metrics(
    results,
    out_dir / "scaling.png",
    {
      "train/seconds": "seconds per step, forward and backward",
      "train/bytes_per_step": "bytes kept per step",
    },
    log_scale=["train/seconds", "train/bytes_per_step"],
    x=lambda step: 2.0 ** (FIRST_EXPONENT - 1 + step),
    x_label="words",
  )
  header = "".join(f"{name:>11}" for name in ("words", *results.metrics))
  lines = ["Microseconds a step, forward and backward:", header]
  for u in range(results.options.num_updates):
    found = [m["train/seconds"][1][:, u] for m in results.metrics.values()]
    row = [2.0 ** (FIRST_EXPONENT + u), *(1e6 * np.median(x) for x in found)]
    lines.append("".join(f"{number:11.0f}" for number in row))
  terminal.tell("\n".join(lines), sys.stdout)


def key_metric(settings: Settings) -> str:
  """The metric of the progress line."""
  return "train/seconds" if settings.task == "scaling" else "eval/error"


def cost_at(name: str, exponent: int, field: str = "seconds") -> Any:
  """The measure of a step's cost with 2^exponent words."""
  return at(exponent - FIRST_EXPONENT + 1, name, f"train/{field}")


def three_times(name: str) -> Any:
  """The measure of three times a core's final training error."""
  return lambda results: 3 * last(name, "train/error")(results)


def level(name: str) -> Any:
  """The measure of a core's level when the faster of SAM and DAM ended."""
  return at_equal_time(name, "train/level", ("sam", "dam"))


_SAM = last("sam", "train/error")
_LEARNT = (
  Claim(
    "dense",
    "SAM's error less DAM's (points)",
    difference(_SAM, last("dam", "train/error")),
    "<=",
    0.0,
  ),
  Claim(
    "lstm",
    "LSTM's less SAM's (points)",
    difference(last("lstm", "train/error"), _SAM),
    ">=",
    5.0,
  ),
)
REPRODUCTIONS = {
  "copy": training.Reproduction(
    ["--num_seeds=8"],
    minutes=6,
    claims=[
      Claim(
        "sam", "SAM: bits wrong in the last 100 updates (%)", _SAM, "<=", 1.0
      ),
      Claim(
        "reads",
        "three times SAM's wrong bits less those with reads zeroed",
        difference(three_times("sam"), last("sam_no_read", "train/error")),
        "<=",
        0.0,
      ),
      Claim(
        "worst",
        "SAM: bits wrong in the last 100 updates, worst seed (%)",
        _SAM,
        "<=",
        5.0,
        "max",
      ),
    ],
  ),
  "associative_recall": training.Reproduction(
    ["--task=associative_recall", "--num_seeds=8"],
    minutes=15,
    claims=_LEARNT,
  ),
  "priority_sort": training.Reproduction(
    ["--task=priority_sort", "--num_seeds=8"], minutes=15, claims=_LEARNT
  ),
  "curriculum": training.Reproduction(
    [
      "--task=associative_recall",
      "--curriculum",
      "--max_level=32",
      "--cores=sam,dam",
      "--threshold=0.1",
      "--patience=10",
      "--num_updates=6000",
      "--num_seeds=3",
    ],
    min_seeds=3,
    minutes=30,
    claims=[
      Claim(
        "level",
        "curriculum: SAM's level over DAM's after the same time",
        ratio(level("sam"), level("dam")),
        ">=",
        1.0,
      )
    ],
  ),
  "omniglot": training.Reproduction(
    ["--task=omniglot", "--cores=sam,lstm", "--num_seeds=3"],
    min_seeds=3,
    minutes=30,
    claims=[
      Claim(
        "lstm",
        "an LSTM's wrong labels of new characters less SAM's (points)",
        difference(last("lstm", "eval/error"), last("sam", "eval/error")),
        ">=",
        10.0,
      )
    ],
  ),
  "scaling": training.Reproduction(
    ["--task=scaling"],
    min_seeds=1,
    minutes=15,
    claims=[
      Claim(
        "seconds",
        "SAM by LSH: seconds a step at 2^20 words",
        cost_at("sam_lsh", 20),
        "<",
        3e-4,
      ),
      Claim(
        "flat",
        "SAM by LSH: a step at 2^20 words over one at 2^10",
        ratio(cost_at("sam_lsh", 20), cost_at("sam_lsh", 10)),
        "<=",
        3.0,
      ),
      Claim(
        "ntm",
        "NTM over SAM by LSH: a step at 2^20 words",
        ratio(cost_at("ntm", 20), cost_at("sam_lsh", 20)),
        ">=",
        1000.0,
      ),
      Claim(
        "bytes",
        "NTM over SAM by LSH: bytes kept for a step at 2^20 words",
        ratio(
          cost_at("ntm", 20, "bytes_per_step"),
          cost_at("sam_lsh", 20, "bytes_per_step"),
        ),
        ">=",
        3000.0,
      ),
    ],
  ),
  "scaling-heads": training.Reproduction(
    [
      "--task=scaling",
      "--num_heads=4",
      "--cores=dnc,sdnc_lsh",
      "--num_updates=4",
    ],
    min_seeds=1,
    minutes=5,
    claims=[
      Claim(
        "sdnc",
        "4 heads, DNC over SDNC: a step at 2,048 words",
        ratio(cost_at("dnc", 11), cost_at("sdnc_lsh", 11)),
        ">=",
        100.0,
      ),
      Claim(
        "sdnc-bytes",
        "4 heads, DNC over SDNC: bytes kept for a step",
        ratio(
          cost_at("dnc", 11, "bytes_per_step"),
          cost_at("sdnc_lsh", 11, "bytes_per_step"),
        ),
        ">=",
        240.0,
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
  free=("cores", "max_gb"),
  key_metric=key_metric,
  check=check,
)

if __name__ == "__main__":
  training.main(SCRIPT)
