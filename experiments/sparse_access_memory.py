"""Sparse Access Memory: a memory whose cost per step does not grow with it.

Rae, Hunt, Harley, Danihelka, Senior, Wayne, Graves, Lillicrap: Scaling
memory-augmented neural networks with sparse reads and writes (arXiv 1610.09027,
NIPS 2016). Recurrent networks with memories that read a few words (SAM, SDNC)
or all of them (NTM, DAM, DNC) learn the same task in one run.

Tasks: copy (the default), repeat_copy, associative_recall, priority_sort;
one_shot, labels of generated characters, and omniglot, of real ones; babi (the
last two need --data_dir). --curriculum starts with easy episodes and doubles
their level. --task=scaling is the paper's figure 1: seconds and bytes of a
step, forward and backward, against the number of words.

Expect SAM to copy with less than 1 % of the bits wrong (8 seeds: 6 minutes on 2
cores, half a minute to compile each core), and a step at 2^20 words to take at
most 3 times one at 2^10.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from absl import flags
from etils import epy

from lilly import training
from lilly.training import claims

with epy.lazy_imports():
  import jax
  import jax.numpy as jnp
  import numpy as np
  import optax

  from lilly.figures import curves, heatmaps
  from lilly.memory import nearest_neighbors
  from lilly.nets import cores, memories, sequence_learner
  from lilly.tasks import (
    algorithmic,
    curriculum,
    one_shot,
    question_answering,
  )
  from scripts import step_cost

ALGORITHMIC = ("copy", "repeat_copy", "associative_recall", "priority_sort")
SPARSE = ("sam", "sam_no_read", "sdnc")
CORES = ("lstm", "gru", "ntm", "dam", "dnc", *SPARSE)
SYSTEMS = ("ntm", "dam", "dnc", "sam_exact", "sam_lsh", "sdnc_lsh")
FIRST_EXPONENT = 8  # --task=scaling starts at 2^8 words

_SMALL = {"hidden_size": 64, "num_heads": 1, "word_size": 16}
_MEDIUM = {"hidden_size": 100, "num_heads": 2, "word_size": 24}
_LEARN = {"log_every": 100, "eval_every": 500, "num_updates": 4000}
_LONGER = _LEARN | _SMALL | {"num_updates": 5000}
_LABEL = _LEARN | _MEDIUM | {"num_updates": 3000, "seed_batching": "map"}
_SCALING = {"num_updates": 13, "log_every": 1, "num_heads": 1, "cores": SYSTEMS}
_CPU = {
  "task=copy": _LEARN | _SMALL | {"cores": ["sam", "sam_no_read", "lstm"]},
  "task=repeat_copy": _LEARN | _SMALL,
  "task=associative_recall": _LONGER | {"item_length": 1},
  "task=priority_sort": _LONGER | {"max_level": 8},
  **{f"task={t}": _LABEL for t in ("one_shot", "omniglot", "babi")},
  "task=scaling": _SCALING,
}
_PAPER = {"hidden_size": 100, "num_heads": 4, "word_size": 32, "search": "lsh"}
_PAPER |= {"num_slots": 2_000_000, "dense_slots": 64, "batch_size": 8}
_PAPER |= {"optimiser": "rmsprop", "learning_rate": 1e-5}
_PAPER |= {"cores": ["sam", "dam", "ntm", "lstm"]}
_PAPER |= {"num_updates": 1_000_000, "log_every": 1000, "eval_every": 10_000}
_TO_20 = {"max_level": 20}
_GPU = {"hidden_size": 100, "num_heads": 4, "word_size": 32, "item_length": 3}
_GPU |= {"num_slots": 65_536}
_SMOKE = {"num_updates": 4, "log_every": 2, "eval_every": 4, "batch_size": 2}
_TINY = {"hidden_size": 8, "word_size": 4, "num_slots": 16, "dense_slots": 8}
PRESETS: dict[str, dict[str, Any]] = {
  "cpu": _CPU,
  "smoke": _SMOKE | _TINY | {"task=scaling": _SCALING | {"num_updates": 1}},
  "gpu": {name: row | _GPU for name, row in _CPU.items()},
  "paper": dict.fromkeys(_CPU, _PAPER) | {"task=copy": _PAPER | _TO_20},
}
for _preset in ("gpu", "paper"):
  PRESETS[_preset]["task=scaling"] = _SCALING | {"num_updates": 16}
# Learning rates, chosen on seeds that no claim is judged on; "*": other tasks.
TUNED = {"copy": 5e-3, "associative_recall": 5e-3, "priority_sort": 5e-3}
TUNED |= {"one_shot": 5e-3, "omniglot": 5e-3, "*": 1e-3}

FLAGS = flags.FlagValues()
training.define_flags(FLAGS, PRESETS)
_OWN = {"flag_values": FLAGS}
_TASK = flags.DEFINE_enum(
  "task",
  "copy",
  [*ALGORITHMIC, "one_shot", "omniglot", "babi", "scaling"],
  "What is learnt, or scaling.",
  **_OWN,
)
_CORES = flags.DEFINE_list(
  "cores",
  ["sam", "dam", "lstm"],
  f"Cores to compare: {', '.join(CORES)}; with --task=scaling memories: "
  f"{', '.join(SYSTEMS)}.",
  **_OWN,
)
_SEARCH = flags.DEFINE_enum(
  "search", "exact", ["exact", "lsh"], "How SAM and SDNC find words.", **_OWN
)
_OPTIMISER = flags.DEFINE_enum(
  "optimiser", "adam", ["adam", "rmsprop"], "The paper has rmsprop.", **_OWN
)
_CURRICULUM = flags.DEFINE_bool(
  "curriculum", False, "Double the level when it is solved.", **_OWN
)
_NUMBERS = {
  name: flags.DEFINE_float(name, value, text, lower_bound=0.0, **_OWN)
  for name, value, text in (
    ("learning_rate", None, "Of the optimiser [by task]."),
    ("threshold", 0.05, "Error below which an update counts as solved."),
    ("max_gb", 10.0, "scaling: larger programs are planned, not run."),
  )
}
_SIZES = {
  name: flags.DEFINE_integer(name, value, text, lower_bound=low, **_OWN)
  for name, value, low, text in (
    ("num_slots", 128, 1, "Words of sparse memories."),
    ("dense_slots", 64, 1, "Words of dense memories."),
    ("word_size", 32, 1, "Numbers in a word."),
    ("num_heads", 4, 1, "Heads, each of which reads and writes."),
    ("num_reads", 4, 1, "Words a sparse head reads."),
    ("hidden_size", 100, 1, "Units of the LSTM."),
    ("batch_size", 16, 1, "Episodes in an update."),
    ("max_level", 0, 0, "Hardest level of the task; 0: its own."),
    ("item_length", 3, 1, "associative_recall: vectors in an item."),
    ("patience", 20, 1, "Solved updates in a row that double the level."),
  )
}


class State(NamedTuple):
  """Everything of one run that changes."""

  params: Any
  optimiser: Any
  hyper: Any
  level: Any  # of the curriculum
  key: Any


def optimiser_of(hyper: dict[str, Any]) -> Any:
  """Gradients are clipped at norm 10."""
  inner = getattr(optax, _OPTIMISER.value)(hyper["learning_rate"])
  clip = optax.clip_by_global_norm(10.0)
  return training.skip_nonfinite(optax.chain(clip, inner))


def make_experiment(
  core: Any, task: Any, hyper: dict[str, float]
) -> training.Experiment:
  """One core on one task, as one run sees it."""
  batch_size, patience = _SIZES["batch_size"].value, _SIZES["patience"].value

  gradient = jax.value_and_grad(sequence_learner.scores, has_aux=True)

  def init(key, hyper, data):
    key, key_core = jax.random.split(key)
    start = 1 if _CURRICULUM.value else task.max_level
    params = core.init(key_core)
    moments = optimiser_of(hyper).init(params)
    return State(params, moments, hyper, curriculum.init(start), key)

  def update(state, data):
    key, key_level, key_episode = jax.random.split(state.key, 3)

    def draw(key_level, key_episode):
      level = curriculum.sample_level(key_level, state.level)
      level = level if _CURRICULUM.value else state.level.bound
      return task.sample(key_episode, level, data)

    keys = [jax.random.split(k, batch_size) for k in (key_level, key_episode)]
    episodes = jax.vmap(draw)(*keys)
    (loss, error), grads = gradient(state.params, core, task, episodes)
    optimiser = optimiser_of(state.hyper)
    updates, moments = optimiser.update(grads, state.optimiser)
    level = curriculum.update(
      state.level,
      error,
      threshold=_NUMBERS["threshold"].value,
      patience=patience,
      max_level=task.max_level,
    )
    metrics = {"loss": loss, "error": 100 * error, "level": state.level.bound}
    params = optax.apply_updates(state.params, updates)
    return State(params, moments, state.hyper, level, key), metrics

  def evaluate(state, data):
    keys = jax.random.split(jax.random.key(1), 64)

    def draw(key):
      return task.test(key, task.max_level, data)

    run = (state.params, core, task, jax.vmap(draw)(keys))
    loss, error = sequence_learner.scores(*run)
    return {"loss": loss, "error": 100 * error}

  record = training.Experiment(init, update, evaluate, task.data, hyper)
  return record._replace(steps_per_update=batch_size, unit="episodes")


def make_task(options: training.Options) -> Any:
  name, level = _TASK.value, _SIZES["max_level"].value
  if name in ALGORITHMIC:
    items = {"item_length": _SIZES["item_length"].value}
    own = items if name == "associative_recall" else {}
    return algorithmic.task(name, level or None, **own)
  if name == "babi" and level:
    raise training.RunError(
      "--max_level has no meaning for bAbI; leave it out."
    )
  if name == "babi":
    return question_answering.task(options.data_dir)
  name = "generated" if name == "one_shot" else name
  return one_shot.task(name, options.data_dir, num_classes=level or 5)


def make_memory(name: str, num_slots: int, num_steps: int = 1) -> Any:
  """A memory with the flags' sizes, for gradients over num_steps."""
  kind, _, search = name.partition("_")
  options = {k: _SIZES[k].value for k in ("word_size", "num_heads")}
  if kind in ("sam", "sdnc"):
    num_reads = options["num_reads"] = _SIZES["num_reads"].value
    rows = num_steps * options["num_heads"] * (num_reads + 1)
    options["gradient_rows"] = min(rows, num_slots)
    if search == "lsh":
      options["make_index"] = lambda: nearest_neighbors.init(
        jax.random.key(0), num_slots, options["word_size"]
      )
  return memories.MEMORIES[kind](num_slots=num_slots, **options)


def make_core(name: str, task: Any) -> Any:
  """A core with the flags' sizes."""
  sizes = (task.num_inputs, task.num_outputs)
  hidden = {"hidden_size": _SIZES["hidden_size"].value}
  if name in ("lstm", "gru"):
    return cores.CORES[name](*sizes, **hidden)
  kind, _, ablation = name.partition("_")
  is_sparse = kind in ("sam", "sdnc")
  num_slots = _SIZES["num_slots" if is_sparse else "dense_slots"].value
  if is_sparse:
    kind += f"_{_SEARCH.value}"
  memory = make_memory(kind, num_slots, task.num_steps)
  return cores.with_memory(memory, *sizes, use_reads=not ablation, **hidden)


def make_experiments(options: training.Options) -> dict[str, Any]:
  """One variant for each core, or for each memory that is measured."""
  known = SYSTEMS if _TASK.value == "scaling" else CORES
  if not _CORES.value or not set(_CORES.value) <= set(known):
    raise training.RunError(
      f"--cores={','.join(_CORES.value)} does not name what --task="
      f"{_TASK.value} compares; these are known: {', '.join(known)}."
    )
  if _TASK.value == "scaling":
    return {name: scaling(name, options) for name in _CORES.value}
  task = make_task(options)
  hyper = {"learning_rate": _NUMBERS["learning_rate"].value}
  if hyper["learning_rate"] is None:
    hyper["learning_rate"] = TUNED.get(_TASK.value, TUNED["*"])
  return {
    name: make_experiment(make_core(name, task), task, hyper)
    for name in _CORES.value
  }


def scaling(name: str, options: training.Options) -> training.Program:
  """Measures one memory; update u is the one of 2^(7 + u) words."""

  def of_update(update, seed):
    return measure(name, 2 ** (FIRST_EXPONENT + update), seed)

  return step_cost.program(of_update, options)


def measure(name: str, num_slots: int, seed: int) -> Any:
  """Costs of a step of the memory alone, in runs of a few seconds' length."""
  work = num_slots * (num_slots if name == "dnc" else _SIZES["word_size"].value)
  longest = 1000
  if name in ("ntm", "dam", "dnc"):
    longest = max(3, min(200, 2**22 // work))
  elif name == "sam_exact":
    longest = max(20, min(1000, 2**28 // work))
  return step_cost.of_memory(
    jax.random.key(seed),
    lambda num_steps: make_memory(name, num_slots, num_steps),
    (max(1, longest // 5), longest),
    max_bytes=_NUMBERS["max_gb"].value * 1e9,
  )


def draw(results: training.Results, out_dir: Any) -> None:
  """Learning curves, levels, and where the memories were accessed."""
  wanted = {"eval/error": "error at the hardest level (%)"}
  wanted = {"train/level": "level"} if _CURRICULUM.value else wanted
  curves.plot_metrics(results, out_dir / "curves.png", wanted, log_scale=wanted)
  draw_accesses(results, out_dir / "accesses.png")


def draw_accesses(results: training.Results, path: Any) -> None:
  """Where the first run of each memory writes and reads in one episode."""
  task = make_task(results.options)
  key = jax.random.key(2)
  episode = task.test(key, task.max_level, task.data)
  drawn = {}
  for name, state in results.states.items():
    core = make_core(name, task)
    params = jax.tree.map(lambda x: jnp.asarray(x[0]), state.params)
    found = sequence_learner.accesses(params, core, episode.inputs)
    if found is not None:
      drawn[name] = jax.device_get(found)
  if drawn:
    heatmaps.plot_accesses(drawn, path)


def draw_scaling(results: training.Results, out_dir: Any) -> None:
  """Figure 1: seconds and bytes of a step against words, and as a table."""
  curves.plot_metrics(
    results,
    out_dir / "scaling.png",
    {
      "train/seconds": "seconds a step, forward and backward",
      "train/bytes_per_step": "bytes kept for each step",
    },
    log_scale=["train/seconds", "train/bytes_per_step"],
    x=lambda step: 2.0 ** (FIRST_EXPONENT - 1 + step),
    x_label="words",
  )
  print("Microseconds a step, forward and backward:")
  print("".join(f"{name:>11}" for name in ("words", *results.metrics)))
  for u in range(results.options.num_updates):
    found = [m["train/seconds"][1][:, u] for m in results.metrics.values()]
    row = [2.0 ** (FIRST_EXPONENT + u), *(1e6 * np.median(x) for x in found)]
    print("".join(f"{number:11.0f}" for number in row))


def main(options: training.Options) -> int:
  scales = _TASK.value == "scaling"
  results = training.run(
    make_experiments(options),
    options,
    key_metric="train/seconds" if scales else "eval/error",
  )
  return training.finish(results, CLAIMS, draw_scaling if scales else draw)


def _cost(name, exponent, field="seconds"):
  step = exponent - FIRST_EXPONENT + 1
  return claims.at(step, name, f"train/{field}")


def _error(name, times=1):
  measure = claims.last(name, "train/error")
  return lambda results: times * measure(results)


def _level(name):
  return claims.at_equal_time(name, "train/level", ("sam", "dam"))


def _state(task, *rows, min_seeds=3, **where):
  """Turns rows of name, sentence, measure, relation, threshold into claims."""
  where = {"task": [task], "preset": ["cpu"], "curriculum": [False]} | where
  stated = PRESETS["cpu"][f"task={task}"]
  for flag in (*_SIZES, "num_updates", "learning_rate", "search", "optimiser"):
    where.setdefault(flag, [stated.get(flag, FLAGS[flag].default)])
  return tuple(
    claims.Claim(f"{task}/{name}", *row, where=where, min_seeds=min_seeds)
    for name, *row in rows
  )


def _learnt(task, margin):
  """SAM is as good as its dense twin and better than an LSTM, in points."""
  less = claims.difference
  sam, dam, lstm = _error("sam"), _error("dam"), _error("lstm")
  return _state(
    task,
    ("dense", "SAM's error less DAM's (points)", less(sam, dam), "<=", 0.0),
    ("lstm", "LSTM's less SAM's (points)", less(lstm, sam), ">=", margin),
    min_seeds=8,
  )


# fmt: off
CLAIMS = (
  *_state(
    "copy",
    ("sam", "SAM: bits wrong in the last 100 updates (%)", _error("sam"),
     "<=", 1.0),
    ("reads", "three times SAM's wrong bits less those with reads zeroed",
     claims.difference(_error("sam", 3), _error("sam_no_read")), "<=", 0.0),
  ),
  *_learnt("associative_recall", 5.0),
  *_learnt("priority_sort", 5.0),
  *_state(
    "associative_recall",
    ("level", "curriculum: SAM's level over DAM's after the same time",
     claims.ratio(_level("sam"), _level("dam")), ">=", 1.0),
    curriculum=[True], max_level=[32], num_updates=[6000], threshold=[0.1],
    patience=[10],
  ),
  *_state(
    "omniglot",
    ("lstm", "an LSTM's wrong labels of new characters less SAM's (points)",
     claims.difference(*(claims.last(name, "eval/error")
                         for name in ("lstm", "sam"))), ">=", 10.0),
  ),
  *_state(
    "scaling",
    ("seconds", "SAM by LSH: seconds a step at 2^20 words",
     _cost("sam_lsh", 20), "<", 3e-4),
    ("flat", "SAM by LSH: a step at 2^20 words over one at 2^10",
     claims.ratio(_cost("sam_lsh", 20), _cost("sam_lsh", 10)), "<=", 3.0),
    ("ntm", "NTM over SAM by LSH: a step at 2^20 words",
     claims.ratio(_cost("ntm", 20), _cost("sam_lsh", 20)), ">=", 1000.0),
    ("bytes", "NTM over SAM by LSH: bytes kept for a step at 2^20 words",
     claims.ratio(_cost("ntm", 20, "bytes_per_step"),
            _cost("sam_lsh", 20, "bytes_per_step")), ">=", 3000.0),
    min_seeds=1,
  ),
  *_state(
    "scaling",
    ("sdnc", "4 heads, DNC over SDNC: a step at 2,048 words",
     claims.ratio(_cost("dnc", 11), _cost("sdnc_lsh", 11)), ">=", 100.0),
    ("sdnc-bytes", "4 heads, DNC over SDNC: bytes kept for a step",
     claims.ratio(_cost("dnc", 11, "bytes_per_step"),
            _cost("sdnc_lsh", 11, "bytes_per_step")), ">=", 240.0),
    min_seeds=1, num_heads=[4], num_updates=[4],
  ),
)
# fmt: on

REPRODUCE = {
  "copy": ["--num_seeds=8"],
  "associative_recall": ["--task=associative_recall", "--num_seeds=8"],
  "priority_sort": ["--task=priority_sort", "--num_seeds=8"],
  "curriculum": [
    "--task=associative_recall",
    "--curriculum",
    "--max_level=32",
    "--cores=sam,dam",
    "--threshold=0.1",
    "--patience=10",
    "--num_updates=6000",
    "--num_seeds=3",
  ],
  "omniglot": ["--task=omniglot", "--cores=sam,lstm", "--num_seeds=3"],
  "scaling": ["--task=scaling"],
  "scaling-heads": [
    "--task=scaling",
    "--num_heads=4",
    "--cores=dnc,sdnc_lsh",
    "--num_updates=4",
  ],
}

if __name__ == "__main__":
  training.main(FLAGS, main)
