"""Energy-based memory: a few gradient steps store patterns in a network.

Bartunov, Rae, Osindero, Lillicrap (arXiv 1910.02720, ICLR 2020). A network is
an energy of patterns. Steps down a loss of its memory layers write a set of
patterns at once; steps down the energy read them, from damaged queries. The
weights at which writing begins, all rates and the other layers are learnt
through both loops. Variants: ebmm; unwritten, whose writing has no steps: the
control; first_order, without gradients through what writing subtracts;
memory_network, words that are attended to, and dynamic_kanerva, each as large
as what ebmm writes. Not trained: Hopfield networks, hebb, storkey and
pseudo_inverse; modern, attention to the patterns; query, which returns it.

Tasks: binary, random bits of which a half is drawn anew: D/4 wrong ones at
worst; digits (bundled, 8 x 8), generated, omniglot, mnist and cifar10, of which
a block is replaced. Expect 5 wrong bits of 32, 8 if nothing is written, in 5
minutes on 2 cores. More in docs/papers/energy_based_memory.md.
"""

from __future__ import annotations

import functools
import math
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

  from lilly.figures import curves, images
  from lilly.figures import patterns as pattern_figures
  from lilly.memory import energy
  from lilly.nets import (
    energy_memory,
    energy_networks,
    pattern_memories,
    set_memories,
  )
  from lilly.tasks import patterns

ENERGIES = ("ebmm", "unwritten", "first_order")
BASELINES = ("memory_network", "dynamic_kanerva")
TRAINED = (*ENERGIES, *BASELINES)
RULES = ("hebb", "storkey", "pseudo_inverse")
VARIANTS = (*TRAINED, *RULES, "modern", "query")
TASKS = ("binary", "digits", "generated", "omniglot", "mnist", "cifar10")
NETWORKS = ("gated", "residual", "convolutional")
FILLS = ("bits", "noise", "hidden")
_DIGITS = {"network": "residual", "block_size": 4, "num_filters": 0}
_IMAGES = {"block_size": 12, "step_size": 2.0, "num_updates": 6000}
_DEEP = {"network": "convolutional", "num_patterns": 8, "num_sets": 4}
_DEEP |= {"dynamic_size": 4, "hidden_size": 128, "write_rate": 0.03}
_CPU: dict[str, Any] = {"task=binary": {}, "task=digits": _DIGITS}
_CPU |= {f"task={name}": _IMAGES for name in TASKS[2:5]}
_CPU |= {"task=cifar10": _IMAGES | _DEEP | {"fill": "noise", "block_size": 16}}
_BITS = {"num_bits": 128, "num_redrawn": 64, "dynamic_size": 63}
_BITS |= {"num_hops": 5, "write_steps": 5, "read_steps": 5}
_GPU = {"learning_rate": 3e-4, "write_rate": 0.2, "num_updates": 10_000}
_GPU |= {"num_patterns": 16, "counts": ["8", "16", "32"]}
_GPU_BITS = _BITS | {"hidden_size": 512, "num_sets": 64}
_PAPER = {"learning_rate": 5e-5, "max_norm": 0.05, "write_rate": 1e-4}
_PAPER |= {"num_updates": 2_000_000, "write_steps": 5, "read_steps": 5}
_PAPER_BITS = {"hidden_size": 1024, "num_patterns": 32}
_PAPER_BITS |= {"counts": ["16", "32", "48", "64", "96"]}
_PAPER_IMAGES = _DEEP | {"num_filters": 32, "hidden_size": 512}
_PAPER_IMAGES |= {"dynamic_size": 8, "block_size": 16, "write_rate": 1e-4}
_PAPER_IMAGES |= {"num_patterns": 64, "counts": ["64"]}
_SMOKE = {"num_updates": 2, "log_every": 1, "eval_every": 1, "num_bits": 8}
_SMOKE |= {"num_redrawn": 4, "hidden_size": 6, "dynamic_size": 3}
_SMOKE |= {"num_sets": 2, "num_patterns": 2, "num_hops": 1, "write_steps": 1}
_SMOKE |= {"read_steps": 2, "counts": ["2"], "num_filters": 1, "num_tests": 2}
_LEARN = {"num_updates": 3000, "log_every": 100, "eval_every": 500}


def _preset(all_tasks, bits, images):
  """The tasks' rows, with something else of bits and of images; no digits."""
  found = {
    name: row | all_tasks | (bits if name == "task=binary" else images)
    for name, row in _CPU.items()
  }
  return _LEARN | found | {"task=digits": _DIGITS | all_tasks}


PRESETS: dict[str, dict[str, Any]] = {
  "cpu": _LEARN | _CPU,
  "smoke": {name: row | _SMOKE for name, row in _CPU.items()},
  "gpu": _preset(_GPU, _GPU_BITS, _DEEP | {"num_filters": 16}),
  "paper": _preset(_PAPER, _BITS | _PAPER_BITS, _PAPER_IMAGES),
}

FLAGS = flags.FlagValues()
training.define_flags(FLAGS, PRESETS)
_OWN: dict[str, Any] = {"flag_values": FLAGS}
flags.DEFINE_enum("task", "binary", TASKS, "What is remembered.", **_OWN)
flags.DEFINE_list(
  "variants",
  ["ebmm", "unwritten", *RULES, "modern", "query"],
  f"To compare: {', '.join(VARIANTS)}.",
  **_OWN,
)
flags.DEFINE_list("counts", ["2", "4", "8"], "Patterns in a test.", **_OWN)
flags.DEFINE_list("dynamic_sizes", [], "For --dynamic_size, each.", **_OWN)
for _name, _values, _text in (
  ("network", NETWORKS, "The energy; of bits: gated."),
  ("fill", FILLS, "Of blocks of images."),
):
  flags.DEFINE_enum(_name, _values[0], _values, _text, **_OWN)
for _name, _value, _text in (
  ("gradient_norm", True, "Whether writing also makes |∇E|² small."),
  ("remat", False, "Whether to compute again in place of keeping."),
):
  flags.DEFINE_bool(_name, _value, _text, **_OWN)
for _name, _value, _least, _text in (
  ("num_bits", 32, 1, "Of a pattern, D."),
  ("num_redrawn", 16, 0, "Bits of a query that are drawn anew."),
  ("block_size", 4, 1, "Side of the block of an image that is replaced."),
  ("num_patterns", 4, 1, "In a set, N."),
  ("num_sets", 16, 1, "In an update."),
  ("num_tests", 64, 2, "Sets of an evaluation."),
  ("write_steps", 3, 0, "T."),
  ("read_steps", 3, 1, "K."),
  ("hidden_size", 64, 2, "Units of hidden layers."),
  ("dynamic_size", 15, 1, "Outputs of a memory layer, which is written."),
  ("num_hops", 3, 1, "Updates of the network's own state."),
  ("num_filters", 8, 0, "Of the first convolutions; 0: none."),
):
  flags.DEFINE_integer(_name, _value, _text, _least, 10**6, **_OWN)
for _name, _value, _text in (
  ("learning_rate", 2e-3, "Of AdamW."),
  ("weight_decay", 1e-6, "Of AdamW."),
  ("max_norm", 1.0, "To which gradients are clipped."),
  ("write_rate", 0.3, "Of writing, of each term, at first."),
  ("step_size", 0.5, "Of the first step of reading, at first."),
  ("momentum", 0.5, "Of the first step of reading, at first."),
):
  flags.DEFINE_float(_name, _value, _text, 0.0, **_OWN)


class State(NamedTuple):
  """Everything of one run that changes."""

  params: Any
  moments: Any
  hyper: Any
  key: Any
  tests: Any  # key of test sets; XLA would spend minutes on a constant


class Setting(NamedTuple):
  """A task, and what remembers."""

  task: Any
  variant: str
  memory: Any
  num_floats: int  # that an energy writes


def make_task(data_dir: Any) -> Any:
  """The flags' task."""
  if (task := FLAGS["task"].value) == "binary":
    return patterns.binary_task(**pick("num_bits", "num_redrawn"))
  return patterns.image_task(task, data_dir, **pick("block_size", "fill"))


def pick(*names: str) -> dict[str, Any]:
  """Values of some flags."""
  given = FLAGS.flag_values_dict()
  return {name: given[name] for name in names}


def make_setting(name: str, task: Any) -> Setting:
  """A memory of the flags' sizes, or of the one in its name: ebmm-15."""
  given = FLAGS.flag_values_dict()
  variant, _, size = name.partition("-")
  sizes = pick("hidden_size", "num_filters")
  network = energy_networks.proportioned(
    given["network"],
    dynamic_size=int(size or given["dynamic_size"]),
    **sizes | pick("num_hops"),
  )
  if variant in BASELINES:
    sizes |= {"num_words": given["num_patterns"]}
    sizes |= {"num_reads": given["read_steps"]}
    memory = pattern_memories.as_large_as(network, task.shape, variant, **sizes)
  else:
    options = pick("read_steps", "write_rate", "step_size", "momentum")
    memory = energy_memory.make(
      network,
      write_steps=0 if variant == "unwritten" else given["write_steps"],
      first_order=variant == "first_order",
      **options | pick("gradient_norm", "remat"),
    )
  size = energy_networks.num_written(network, task.shape)
  return Setting(task, variant, memory, size)


def optimiser_of(hyper: Any) -> Any:
  """AdamW; the gradients through both loops are clipped, not those inside."""
  clip = optax.clip_by_global_norm(FLAGS["max_norm"].value)
  adam = optax.adamw(hyper["learning_rate"], **pick("weight_decay"))
  return training.skip_nonfinite(optax.chain(clip, adam))


def make_experiment(variant: str, task: Any) -> training.Experiment:
  """One variant, as one run sees it."""
  setting = make_setting(variant, task)
  return training.Experiment(
    init=lambda key, hyper, data: start(key, hyper, setting),
    update=lambda state, data: update(state, data, setting),
    evaluate=lambda state, data: evaluate(state, data, setting),
    data=task.data,
    hyper={"learning_rate": FLAGS.flag_values_dict()["learning_rate"]},
  )


def start(key: Any, hyper: Any, setting: Setting) -> State:
  """A network and rates that have learnt nothing; rules have none."""
  if setting.variant not in TRAINED:
    return State((), (), hyper, key, jax.random.key(1))
  key, key_params = jax.random.split(key)
  pattern = jnp.zeros(setting.task.shape)
  params = set_memories.init_params(setting.memory, key_params, pattern)
  moments = optimiser_of(hyper).init(params)
  return State(params, moments, hyper, key, jax.random.key(1))


def distance(setting: Setting) -> Any:
  """Wrong bits, or the squared error, of each pattern of a set."""
  return jax.vmap(functools.partial(patterns.distance, setting.task))


def update(state: State, data: Any, setting: Setting) -> tuple[State, Any]:
  """Writes and reads some sets; rules learn nothing."""
  if setting.variant not in TRAINED:
    return state, {}
  key, key_sets = jax.random.split(state.key)
  count, num_sets = pick("num_patterns", "num_sets").values()

  def loss_of(params, keys):
    stored = setting.task.sample(keys[0], data, count)
    keys = jax.random.split(keys[1], count)
    queries = jax.vmap(setting.task.damage)(keys, stored).pattern
    _, reads = recall(setting, params, stored, queries)
    loss = jnp.mean(jax.vmap(energy.reconstruction_loss)(reads, stored))
    return loss, jnp.mean(distance(setting)(reads[:, -1], stored))

  def loss(params):
    keys = jax.random.split(key_sets, (num_sets, 2))
    found = jax.vmap(loss_of, (None, 0))(params, keys)
    return jax.tree.map(jnp.mean, found)

  (value, error), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
  optimiser = optimiser_of(state.hyper)
  updates, moments = optimiser.update(grads, state.moments, state.params)
  params = optax.apply_updates(state.params, updates)
  metrics = {"loss": value, "error": error, "norm": optax.tree.norm(grads)}
  return State(params, moments, state.hyper, key, state.tests), metrics


def recall(setting: Setting, params: Any, stored: Any, queries: Any) -> Any:
  """What is written, and what is read of each query."""
  return set_memories.recall(setting.memory, params, {}, stored, queries)


def evaluate(state: State, data: Any, setting: Setting) -> dict[str, Any]:
  """What is recalled of test sets, the same ones at every time."""
  given, metrics = FLAGS.flag_values_dict(), {}
  own = of_trained if setting.variant in TRAINED else of_rule
  for count in sorted({given["num_patterns"], *map(int, given["counts"])}):

    def one(keys, count=count):
      stored = setting.task.test(keys[0], data, count)
      each = jax.random.split(keys[1], count)
      queries = jax.vmap(setting.task.damage)(each, stored)
      found = own(keys[2], setting, state.params, stored, queries, data)
      wrong = distance(setting)(queries.pattern, stored)
      return jax.tree.map(jnp.mean, found | {"query": wrong})

    key = jax.random.clone(state.tests)  # the same ones at every time
    keys = jax.random.split(key, (given["num_tests"], 3))
    found = jax.lax.map(one, keys, batch_size=given["num_sets"])
    found = jax.tree.map(jnp.mean, found)
    for name in {"error", "error_clamped"} & set(found):
      metrics[f"{name}_at_{count}"] = found[name]
    if count == given["num_patterns"]:
      metrics |= found
  return metrics


def of_trained(
  key: Any, setting: Setting, params: Any, stored: Any, queries: Any, data: Any
) -> dict[str, Any]:
  """Errors of reads, also where another set was written, and energies."""
  written, reads = recall(setting, params, stored, queries.pattern)
  other = setting.task.test(key, data, len(stored))
  _, elsewhere = recall(setting, params, other, queries.pattern)
  error = lambda reads: distance(setting)(reads[:, -1], stored)
  errors = {"error": error(reads), "error_elsewhere": error(elsewhere)}
  return errors | energy_memory.measures(
    setting.memory, params, written, stored, queries.pattern, reads
  )


def of_rule(
  key: Any, setting: Setting, _params: Any, stored: Any, queries: Any, _: Any
) -> dict[str, Any]:
  """Errors of what needs no training, also where it knows what is damaged."""
  if setting.variant == "query":
    return {"error": distance(setting)(queries.pattern, stored)}

  def error(is_known):
    given = setting.variant, stored, queries.pattern, is_known
    found = energy_memory.retrieve(key, *given)
    return distance(setting)(found, stored)

  known = ~queries.is_damaged
  both = jax.vmap(error)(jnp.stack([jnp.zeros_like(known), known]))
  return {"error": both[0], "error_clamped": both[1]}


def names() -> list[str]:
  """The variants; those that are trained once for each of --dynamic_sizes."""
  given, found = FLAGS.flag_values_dict(), []
  for name in given["variants"]:
    sized = [f"{name}-{size}" for size in given["dynamic_sizes"]]
    found += sized if sized and name in TRAINED else [name]
  return found


def make_experiments(options: training.Options) -> dict[str, Any]:
  """One for each variant."""
  check()
  try:
    task = make_task(options.data_dir)
    return {name: make_experiment(name, task) for name in names()}
  except ValueError as reason:
    raise training.RunError(f"The flags do not fit: {reason}") from reason


def check() -> None:
  """Refuses flags that do not fit, before anything is compiled."""
  given = FLAGS.flag_values_dict()
  chosen, counts, network = given["variants"], given["counts"], given["network"]
  shown = f"--variants={','.join(chosen)}"
  fits = lambda x: x.isdecimal() and 0 < int(x) <= 10**6
  wrong = {
    f"{shown} names no memory; there are {', '.join(VARIANTS)}.": (
      not chosen or set(chosen) - set(VARIANTS)
    ),
    f"{shown} names a memory twice.": len({*chosen}) < len(chosen),
    f"{shown}: Hopfield's rules are of bits, and --task=cifar10 is not.": (
      given["task"] == "cifar10" and set(chosen) & set(RULES)
    ),
    "--counts is empty; it must have a number of patterns.": not counts,
    **{
      f"--{name}={','.join(given[name])} must be integers, 1 to 10**6.": (
        not all(map(fits, given[name]))
      )
      for name in ("counts", "dynamic_sizes")
    },
    f"--network={network} is of images; --task=binary has --network=gated.": (
      given["task"] == "binary" and network != "gated"
    ),
    "--momentum must be at most 1.": not given["momentum"] <= 1,
    "--max_norm must be positive.": not given["max_norm"] > 0,
    "--write_rate must be positive.": not given["write_rate"] > 0,
  }
  for name in ("learning_rate", "weight_decay", "write_rate", "step_size"):
    wrong[f"--{name} must be finite."] = not given[name] < math.inf
  for sentence, is_wrong in wrong.items():
    if is_wrong:
      raise training.RunError(sentence)


def draw(results: training.Results, out_dir: Any) -> None:
  """What is learnt, what is held, and patterns as they are read."""
  given = FLAGS.flag_values_dict()
  trained = [x for x in results.states if x.partition("-")[0] in TRAINED]
  kind = "wrong bits" if given["task"] != "cifar10" else "squared error"
  wanted = {"eval/error": f"{kind} of a pattern that was read"}
  if trained:
    wanted["eval/loss"] = "squared error, of all steps of a read"
  curves.plot_metrics(results, out_dir / "curves.png", wanted)
  counts = sorted({int(x) for x in given["counts"]})
  curves.plot_by_length(
    results,
    [*results.states],
    "eval/error",
    counts,
    out_dir / "counts.png",
    f"{kind} of a pattern",
    "stored patterns",
  )
  task, energies, sizes = make_task(results.options.data_dir), {}, {}
  for name in trained:
    params = jax.tree.map(lambda x: jnp.asarray(x[0]), results.states[name])
    setting = make_setting(name, task)
    rows, values = pattern_figures.recall_examples(
      setting.memory, params.params, task, given["num_patterns"]
    )
    images.plot_grid(rows, out_dir / f"{name}.png")
    energies |= {name: values} if setting.variant in ENERGIES else {}
    sizes[name] = setting.variant, setting.num_floats
  if given["dynamic_sizes"] and trained and not results.options.sweep:
    labels = "numbers that are written", f"{kind} of a pattern"
    path = out_dir / "sizes.png"
    curves.plot_by_size(results, sizes, "eval/error", path, labels)
  if energies:
    steps = np.arange(given["read_steps"] + 1)
    labels = "steps of a read", "energy, above the query's"
    curves.plot_lines(energies, out_dir / "energy.png", labels, x=steps)


def main(options: training.Options) -> int:
  found = make_experiments(options)
  results = training.run(found, options, key_metric="eval/error")
  return training.finish(results, CLAIMS, draw)


_STATED = (
  *("num_bits", "num_redrawn", "num_patterns", "num_sets", "num_tests"),
  *("write_steps", "read_steps", "hidden_size", "dynamic_size", "num_hops"),
  *("learning_rate", "weight_decay", "max_norm", "write_rate", "step_size"),
  *("momentum", "gradient_norm", "num_updates", "network", "task", "sweep"),
)


_GIVEN = _LEARN | PRESETS["cpu"]["task=binary"]
_CPU_WHERE = {n: [_GIVEN.get(n, FLAGS[n].default)] for n in _STATED}


def _of(variant, name):
  return claims.last(variant, f"eval/{name}")


def _from(measure, value):
  return lambda results: abs(measure(results) - value)


_ENERGIES = [_of("ebmm", f"energy_{when}") for when in ("after", "before")]
_TABLE = {16: 0.4, 32: 5.0, 48: 9.8, 64: 13.0, 96: 16.5}  # Hebb's wrong bits
_HOPFIELD = {"task": ["binary"], "num_bits": [128], "num_redrawn": [64]}


def _claim(name, where, min_seeds, *row):
  return claims.Claim(name, *row, where=where, min_seeds=min_seeds)


CLAIMS = (
  *(
    _claim(f"binary/{name}", _CPU_WHERE, 4, *row)
    for name, *row in (
      ("error", "wrong bits of 32", _of("ebmm", "error"), "<=", 6.0),
      ("loss", "loss of 3 steps", _of("ebmm", "loss"), "<=", 14.0),
      ("control", "loss unwritten", _of("unwritten", "loss"), ">=", 17.6),
      (
        *("control-error", "wrong bits unwritten, less 8"),
        *(_from(_of("unwritten", "error"), 8.0), "<=", 0.15),
      ),
      (
        *("energy", "energy of stored patterns, less that before the write"),
        *(claims.difference(*_ENERGIES), "<", 0.0),
      ),
    )
  ),
  *(
    _claim(
      *(f"hebb/{n}", _HOPFIELD | {"num_tests": [64]}, 1),
      f"wrong bits of 128, less the paper's {wrong}, of {n} patterns",
      *(_from(_of("hebb", f"error_clamped_at_{n}"), wrong), "<=", 0.5),
    )
    for n, wrong in _TABLE.items()
  ),
)
REPRODUCE = {
  "binary": ["--num_seeds=4"],
  "hopfield": [
    *("--variants=hebb,storkey,pseudo_inverse", "--num_bits=128"),
    *("--num_redrawn=64", "--counts=16,32,48,64,96", "--num_updates=100"),
  ],
}

if __name__ == "__main__":
  training.main(FLAGS, main)
