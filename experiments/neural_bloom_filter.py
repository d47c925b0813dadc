"""The Neural Bloom Filter: sets in fewer bits than a Bloom filter's.

Rae, Bartunov, Lillicrap (arXiv 1906.04304, ICML 2019). A network learns, from
many small sets, to write a set at once and then to tell its elements from
others. What it misses goes to a small Bloom filter, so nothing that was written
is ever denied. Variants: neural_bloom; summed, which reads a sum of its slots,
and detached, which learns for queries only: two controls; lstm and dnc, which
see a set as a sequence; memory_network, a word for each element; bloom, the
classical filter, which learns nothing.

Tasks: classes (a set is of one class), uniform (of anything), nonuniform (of
some more often), ranges (neighbours among sorted keys); --data=bits (the
default, generated), digits, generated, omniglot or mnist.

Expect of classes an area under the ROC curve of 1.00 and, at 1 % false
positives, 0.53 times the bits of a Bloom filter. More in
docs/papers/neural_bloom_filter.md.
"""

from __future__ import annotations

import functools
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

  from lilly.figures import curves, filters, heatmaps
  from lilly.memory import bloom, learned_filters, neural_bloom
  from lilly.nets import cores, filters, set_memories
  from lilly.tasks import membership

FILTERS = ("neural_bloom", "summed", "detached")
TRAINED = (*FILTERS, "lstm", "dnc", "memory_network")
VARIANTS = (*TRAINED, "bloom")
TASKS = ("classes", "uniform", "nonuniform", "ranges")
DATA = ("bits", "digits", "generated", "omniglot", "mnist")
_MOST = 10_000_000  # of anything: the memory of most machines is too small
# What is read grows with the set: with 1 / sqrt(5000) nothing is learnt.
_RANGES = {"set_size": 5000, "num_sets": 2, "universe": 100_000}
_RANGES |= {"read_scale": 4e-4}
_UNIFORM = {"set_size": 4, "num_slots": 16, "word_size": 8, "universe": 5000}
_UNIFORM |= {"num_queries": 16, "num_sets": 16, "learning_rate": 3e-3}
_LEARN = {"num_updates": 2000, "log_every": 100, "eval_every": 500}
_CPU: dict[str, Any] = {
  "task=classes": {},
  "task=uniform": _UNIFORM | {"num_updates": 5000},
  "task=nonuniform": {"num_slots": 16},
  "task=ranges": _RANGES,
}
_IMAGES: dict[str, Any] = {
  f"data={name}": {"set_size": size}
  for name, size in zip(DATA[1:], (25, 20, 18, 500), strict=True)
}
_GPU = {"num_filters": 16, "num_sets": 64, "num_updates": 20_000}
_PAPER = {"num_filters": 64, "learning_rate": 1e-4, "num_sets": 32}
_PAPER |= {"num_updates": 800_000, "eval_every": 20_000}
_SMOKE = {"num_updates": 2, "log_every": 1, "eval_every": 1, "set_size": 4}
_SMOKE |= {"num_sets": 2, "num_queries": 4, "num_tests": 2, "num_slots": 3}
_SMOKE |= {"num_strangers": 20, "hidden_size": 6, "core_size": 3}
_SMOKE |= {"query_size": 3, "universe": 64, "encoding_size": 4}
PRESETS: dict[str, dict[str, Any]] = {
  "cpu": _LEARN | _CPU | _IMAGES,
  "smoke": dict.fromkeys((*_CPU, *_IMAGES), _SMOKE),
  "gpu": _LEARN | _CPU | {name: x | _GPU for name, x in _IMAGES.items()},
  "paper": _LEARN | _CPU | {name: x | _PAPER for name, x in _IMAGES.items()},
}

FLAGS = flags.FlagValues()
training.define_flags(FLAGS, PRESETS)
_OWN: dict[str, Any] = {"flag_values": FLAGS}
flags.DEFINE_enum("task", "classes", TASKS, "What a set is.", **_OWN)
flags.DEFINE_enum("data", "bits", DATA, "What elements are.", **_OWN)
flags.DEFINE_list(
  "variants",
  ["neural_bloom", "lstm", "memory_network", "bloom"],
  f"To compare: {', '.join(VARIANTS)}.",
  **_OWN,
)
flags.DEFINE_list(
  "rates", ["0.05", "0.01", "0.001"], "Of false positives, allowed.", **_OWN
)
flags.DEFINE_list("sizes", [], "Of test sets, besides --set_size.", **_OWN)
flags.DEFINE_bool("sphere", False, "Queries go through moving ZCA.", **_OWN)
for _name, _value, _least, _text in (
  ("set_size", 200, 1, "Elements of a set, n."),
  ("num_queries", 32, 2, "Of a set in an update; half ask for members."),
  ("num_sets", 8, 1, "In an update."),
  ("num_tests", 64, 1, "Sets to calibrate on, and as many to evaluate."),
  ("num_strangers", 800, 1, "Of each of these sets."),
  ("num_slots", 8, 1, "m."),
  ("word_size", 4, 1, "W."),
  ("query_size", 32, 1, "D."),
  ("sparse_k", 0, 0, "Slots of an element; 0: all."),
  ("sphere_every", 1, 1, "Updates for one of the projection."),
  ("hidden_size", 128, 1, "Units of hidden layers."),
  ("encoding_size", 64, 1, "What the encoder gives."),
  ("num_filters", 0, 0, "Of convolutions, for images; 0: a perceptron."),
  ("core_size", 16, 1, "Units of the LSTM, and of the DNC's controller."),
  ("universe", 1000, 2, "Elements: bits that are not of classes; keys."),
):
  flags.DEFINE_integer(_name, _value, _text, _least, _MOST, **_OWN)
for _name, _value, _text in (
  ("learning_rate", 1e-3, "Of Adam, at first; falls as a cosine to 0."),
  ("max_norm", 1.0, "To which gradients are clipped."),
  ("read_scale", None, "Times what is read [1 / sqrt(set_size)]."),
  ("sphere_decay", 0.95, "Of the projection."),
):
  flags.DEFINE_float(_name, _value, _text, 0.0, **_OWN)


class State(NamedTuple):
  """Everything of one run that changes."""

  params: Any
  moments: Any
  state: Any  # of the memory; not learnt
  hyper: Any
  key: Any
  tests: Any  # key of test sets; XLA would spend minutes on a constant


class Setting(NamedTuple):
  """A task, and what remembers; of Bloom's filter nothing is learnt."""

  task: Any
  memory: Any


def make_task(data_dir: Any) -> Any:
  """The flags' task."""
  given = FLAGS.flag_values_dict()
  return membership.task(
    given["task"], given["data"], data_dir, universe=given["universe"]
  )


def make_setting(variant: str, task: Any) -> Setting:
  """A memory of the flags' sizes."""
  given = FLAGS.flag_values_dict()
  if variant == "bloom":
    return Setting(task, None)
  sizes = given["hidden_size"], given["encoding_size"], given["num_filters"]
  names = "hidden_size", "output_size", "num_filters"
  encode = filters.encoder(**dict(zip(names, sizes, strict=True)))
  if variant == "memory_network":
    size = given["word_size"]
    return Setting(task, filters.memory_network(encode, word_size=size))
  if variant in FILTERS:
    names = ("num_slots", "word_size", "query_size", "hidden_size")
    scale = given["read_scale"]
    memory = filters.bloom(
      encode,
      **{name: given[name] for name in names},
      read_scale=given["set_size"] ** -0.5 if scale is None else scale,
      read="summed" if variant == "summed" else "addressed",
      is_detached=variant == "detached",
      num_sparse=given["sparse_k"],
      is_sphered=given["sphere"],
      sphering_decay=given["sphere_decay"],
      sphering_every=given["sphere_every"],
    )
    return Setting(task, memory)
  options = {"hidden_size": given["core_size"]}
  if variant == "dnc":
    options |= {name: given[name] for name in ("num_slots", "word_size")}
    options |= {"num_heads": 1}
  make_core = functools.partial(cores.make, variant, **options)
  memory = filters.recurrent(encode, make_core, hidden_size=sizes[0])
  return Setting(task, memory)


def optimiser_of(hyper: Any) -> Any:
  """Adam, its rate falling as a cosine over the run."""
  given = FLAGS.flag_values_dict()
  rate = optax.cosine_decay_schedule(
    hyper["learning_rate"], given["num_updates"]
  )
  clip = optax.clip_by_global_norm(given["max_norm"])
  return training.skip_nonfinite(optax.chain(clip, optax.adam(rate)))


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
  """A memory that has learnt nothing."""
  if setting.memory is None:
    return State((), (), (), hyper, key, jax.random.key(1))
  key, key_params = jax.random.split(key)
  element = jnp.zeros(setting.task.shape)
  params, state = setting.memory.init(key_params, element)
  moments = optimiser_of(hyper).init(params)
  return State(params, moments, state, hyper, key, jax.random.key(1))


def update(state: State, data: Any, setting: Setting) -> tuple[State, Any]:
  """Writes some sets, and learns from what is asked of them."""
  task, memory = setting
  if memory is None:
    return state, {}
  given = FLAGS.flag_values_dict()
  key, key_sets = jax.random.split(state.key)

  def loss_of(params, keys):
    count = given["num_queries"]
    episode = task.sample(keys[0], data, given["set_size"], count // 2)
    asked, labels = membership.queries(keys[1], episode, count)
    _, logits = set_memories.recall(
      memory, params, state.state, episode.members, asked
    )
    right = jnp.mean((logits > 0) == labels)
    return neural_bloom.loss(logits, labels), (right, episode.members)

  def loss(params):
    keys = jax.random.split(key_sets, (given["num_sets"], 2))
    value, (right, members) = jax.vmap(loss_of, (None, 0))(params, keys)
    return jnp.mean(value), (jnp.mean(right), members)

  gradient = jax.value_and_grad(loss, has_aux=True)
  (value, (right, members)), grads = gradient(state.params)
  optimiser = optimiser_of(state.hyper)
  updates, moments = optimiser.update(grads, state.moments, state.params)
  seen = members.reshape(-1, *task.shape)
  kept = memory.observe(state.params, state.state, seen)
  params = optax.apply_updates(state.params, updates)
  metrics = {"loss": value, "accuracy": right, "norm": optax.tree.norm(grads)}
  return State(params, moments, kept, state.hyper, key, state.tests), metrics


def scored(
  key: Any, state: State, data: Any, setting: Setting, size: int
) -> tuple[Any, Any, Any]:
  """A test set, and the scores of its members and of strangers."""
  count = FLAGS.flag_values_dict()["num_strangers"]
  episode = setting.task.test(key, data, size, count)
  memory = setting.memory
  written = memory.write(state.params, state.state, episode.members)
  score = lambda x: memory.read(state.params, state.state, written, x)
  return episode, *(jax.vmap(score)(x) for x in episode)


def evaluate(state: State, data: Any, setting: Setting) -> dict[str, Any]:
  """Bits and wrong answers of whole filters, of sets that are new."""
  given = FLAGS.flag_values_dict()
  metrics = of_size(state, data, setting, given["set_size"])
  for size in sorted({int(x) for x in given["sizes"]}):
    found = of_size(state, data, setting, size)
    metrics |= {f"{name}_of_{size}": value for name, value in found.items()}
  return metrics


def of_size(
  state: State, data: Any, setting: Setting, size: int
) -> dict[str, Any]:
  """The same of sets of one size."""
  given = FLAGS.flag_values_dict()
  keys = jax.random.clone(state.tests)  # the same ones at every time
  keys = jax.random.split(keys, (2, given["num_tests"], 2))
  each = lambda f, keys: jax.lax.map(f, keys, batch_size=given["num_sets"])
  rates, count = [float(x) for x in given["rates"]], given["num_strangers"]
  if setting.memory is None:

    def of_classical(keys):
      episode = setting.task.test(keys[0], data, size, count)
      return list(map(functools.partial(classical, keys[1], episode), rates))

    return summary(each(of_classical, keys[1]), 0, size, rates)
  own = lambda keys: scored(keys[0], state, data, setting, size)
  others = each(lambda keys: own(keys)[2], keys[0]).ravel()
  limits = [learned_filters.calibrate(others, fpr=rate / 2) for rate in rates]

  def one(keys):
    episode, *scores = own(keys)
    of_rate = functools.partial(whole, keys[1], episode, scores)
    return list(map(of_rate, limits, rates)), scores

  found, (members, strangers) = each(one, keys[1])
  element = jnp.zeros(setting.task.shape)
  num_floats = set_memories.num_floats(setting.memory, size, element)
  metrics = summary(found, num_floats, size, rates)
  within = jnp.mean(jax.vmap(learned_filters.auc)(members, strangers))
  # Of all sets at once, for there is one threshold of all, and set by set.
  auc = learned_filters.auc(members.ravel(), strangers.ravel())
  return metrics | {"auc": auc, "auc_within": within}


def whole(
  key: Any, episode: Any, scores: Any, limit: Any, rate: float
) -> tuple[Any, Any, Any]:
  """A network with its backup: what it misses, denies, and wrongly finds."""
  given = jax.random.clone(key), episode.members, scores[0], limit
  backup = learned_filters.make_backup(*given, fpr=rate / 2)
  has = lambda s, x: learned_filters.contains(s, x, limit, backup)
  yes = [jax.vmap(has)(*both) for both in zip(scores, episode, strict=True)]
  missed = jnp.sum(learned_filters.missed(scores[0], limit))
  return missed, jnp.sum(~yes[0]), jnp.mean(yes[1], dtype=jnp.float32)


def classical(key: Any, episode: Any, rate: float) -> tuple[Any, Any, Any]:
  """The same of Bloom's filter alone: it holds all."""
  size = len(episode.members)
  empty = bloom.init(jax.random.clone(key), *bloom.optimal_size(size, rate))
  filled = bloom.insert(empty, episode.members)
  ask = jax.vmap(bloom.query, (None, 0))
  yes = [ask(filled, elements) for elements in episode]
  wrong = jnp.mean(yes[1], dtype=jnp.float32)
  return jnp.array(size), jnp.sum(~yes[0]), wrong


def summary(found: Any, floats: int, size: int, rates: Any) -> dict[str, Any]:
  """Bits of a set, and answers, by the rate that was allowed."""
  metrics = {}
  for rate, (missed, denied, wrong) in zip(rates, found, strict=True):
    count = missed.astype(jnp.float32)
    bits = bloom.space(count, rate)
    if floats:
      bits = learned_filters.space(floats, count, fpr=rate)
    row = {"bits": jnp.mean(bits), "missed": jnp.mean(missed) / size}
    row |= {"denied": jnp.sum(denied), "found": jnp.mean(wrong)}
    metrics |= {f"{name}_at_{rate:g}": value for name, value in row.items()}
  return metrics


def make_experiments(options: training.Options) -> dict[str, Any]:
  """One for each variant."""
  check()
  given = FLAGS.flag_values_dict()
  try:
    task = make_task(options.data_dir)
    for size in (given["set_size"], *map(int, given["sizes"])):
      enough(task, size)
    return {name: make_experiment(name, task) for name in given["variants"]}
  except ValueError as reason:
    raise training.RunError(f"The flags do not fit: {reason}") from reason


def enough(task: Any, size: int) -> None:
  """Raises what the task would raise: it may have too few elements."""
  given = FLAGS.flag_values_dict()
  for draw, others in (
    (task.sample, given["num_queries"] // 2),
    (task.test, max(given["num_strangers"], 16)),
  ):
    counts = {"num_members": size, "num_strangers": others}
    jax.eval_shape(
      functools.partial(draw, **counts), jax.random.key(0), task.data
    )


def check() -> None:
  """Refuses flags that do not fit, before anything is compiled."""
  given = FLAGS.flag_values_dict()
  chosen, rates, sizes = given["variants"], given["rates"], given["sizes"]
  shown = f"--variants={','.join(chosen)}"
  wrong = {
    f"{shown} names no memory; there are {', '.join(VARIANTS)}.": (
      not chosen or set(chosen) - set(VARIANTS)
    ),
    f"{shown} names a memory twice.": len({*chosen}) < len(chosen),
    f"--rates={','.join(rates)} must be between 0 and 1, at least one, "
    "and differ in six digits.": not _are_rates(rates),
    f"--sizes={','.join(sizes)} must be positive integers, at most {_MOST}.": (
      not all(x.isdecimal() and 0 < int(x) <= _MOST for x in sizes)
    ),
    "--max_norm must be positive.": not given["max_norm"] > 0,
    "--num_filters is for images: --data=mnist or others, not ranges.": (
      given["num_filters"] and given["data"] == "bits"
    ),
  }
  for sentence, is_wrong in wrong.items():
    if is_wrong:
      raise training.RunError(sentence)


def _are_rates(texts):
  try:
    found = [float(x) for x in texts]
  except ValueError:
    return False
  # Metrics are named by the first digits.
  named = {f"{x:g}" for x in found if 0 < x / 2 < 0.5}
  return 0 < len(named) == len(texts)


def draw(results: training.Results, out_dir: Any) -> None:
  """What is learnt, how many bits it takes, and how well scores separate."""
  given, task = FLAGS.flag_values_dict(), make_task(results.options.data_dir)
  trained = [name for name in results.states if name in TRAINED]
  size, rates = given["set_size"], [float(x) for x in given["rates"]]
  filters.plot_space(results, rates, size, out_dir / "space.png")
  if not trained:
    return
  wanted = {"eval/auc": "area under the ROC curve", "train/loss": "loss, nats"}
  curves.plot_metrics(results, out_dir / "curves.png", wanted)
  scores = {}
  for name in trained:
    state = jax.tree.map(lambda x: jnp.asarray(x[0]), results.states[name])
    scores[name], weights = show(state, make_setting(name, task))
    if weights is not None:
      labels = "slot", "16 elements of a set, then 16 others"
      path = out_dir / f"{name}_addresses.png"
      heatmaps.plot_matrix(np.asarray(weights), path, labels, limit=1.0)
  filters.plot_roc(scores, out_dir / "roc.png")


def show(state: State, setting: Setting) -> Any:
  """Scores of members and of strangers, and where some elements are."""
  given = FLAGS.flag_values_dict()
  size, memory = given["set_size"], setting.memory

  @jax.jit
  def of_data(state, data):
    keys = jax.random.split(jax.random.key(2), given["num_tests"] + 1)
    one = lambda key: scored(key, state, data, setting, size)[1:]
    few = setting.task.test(keys[0], data, size, 16)
    shown = jnp.concatenate([few.members[:16], few.strangers])
    address = lambda x: memory.address(state.params, state.state, x)
    scores = jax.lax.map(one, keys[1:])
    weights = jax.vmap(address)(shown) if memory.address else None
    return [x.ravel() for x in scores], weights

  return of_data(state, setting.task.data)


def main(options: training.Options) -> int:
  found = make_experiments(options)
  rates = FLAGS.flag_values_dict()["rates"]
  key_metric = f"eval/bits_at_{float(rates[len(rates) // 2]):g}"
  results = training.run(found, options, key_metric=key_metric)
  return training.finish(results, CLAIMS, draw)


_STATED = (
  *("num_queries", "num_sets", "num_tests", "num_strangers", "num_slots"),
  *("word_size", "query_size", "sparse_k", "hidden_size", "encoding_size"),
  *("learning_rate", "max_norm", "read_scale", "num_updates", "task", "data"),
  *("set_size", "sphere", "sweep"),
)
_CPU_WHERE = {n: [_LEARN.get(n, FLAGS[n].default)] for n in _STATED}


def _own(name, variant="neural_bloom"):
  return claims.last(variant, f"eval/{name}")


def _claim(name, *row):
  return claims.Claim(f"classes/{name}", *row, where=_CPU_WHERE, min_seeds=4)


_BITS = claims.ratio(_own("bits_at_0.01"), _own("bits_at_0.01", "bloom"))
CLAIMS = (
  _claim("auc", "area under the ROC curve", _own("auc"), ">=", 0.99),
  _claim("space", "bits at 1 %, of a Bloom filter's", _BITS, "<=", 0.6),
  _claim("denied", "members denied", _own("denied_at_0.01"), "<=", 0.0),
  _claim("found", "strangers found", _own("found_at_0.01"), "<=", 0.013),
)
REPRODUCE = {"classes": ["--num_seeds=4"]}

if __name__ == "__main__":
  training.main(FLAGS, main)
