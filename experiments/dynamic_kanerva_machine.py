"""The Dynamic Kanerva Machine: an attractor that learns without unrolling.

Wu, Wayne, Gregor, Lillicrap (arXiv 1811.09556, NeurIPS 2018). Codes of an
episode are written to a matrix of normal variables, at addresses found by least
squares in the memory itself. A damaged image is read again and again until it
is one that was stored. Variants: dkm; squared, addresses as the authors' module
solves for them; mean_field, addresses that count what the memory does not know;
no_autoencoder, without the loss that ties encoder and decoder; dnc, with a
Differentiable Neural Computer in the memory's place; list, which keeps as many
codes as fill the same bytes and reads the nearest; vae, without a memory.

Tasks: digits (bundled, 8 x 8), generated, omniglot, mnist (binary), cifar10.
Nats are those of an image, with the KL of addresses and, over T, of the memory;
the VAE's have the KL of its code. dnc and list have no KL: theirs are no bound.

Expect of the digits 16.1 nats, and 9.7 wrong bits that become 4.6 in one read,
in 4 minutes on 2 cores. More in docs/papers/dynamic_kanerva_machine.md.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from absl import flags
from etils import epy

from lilly import training
from lilly.training import claims

with epy.lazy_imports():
  import jax
  import jax.numpy as jnp
  import optax

  from lilly.figures import curves, images
  from lilly.losses import likelihoods
  from lilly.nets import cores, kanerva_memories, kanerva_model
  from lilly.nets import dynamic_kanerva_model as model
  from lilly.tasks import image_episodes

VARIANTS = ("dkm", "squared", "mean_field", "no_autoencoder", "dnc", "list")
VARIANTS += ("vae",)
TASKS = ("digits", "generated", "omniglot", "mnist", "cifar10", "cifar10_small")
_LARGE = {"num_items": 32, "num_rows": 32, "code_size": 100}
_LARGE |= {"hidden_size": 256, "num_updates": 4000}
_LARGE |= {"lengths": ["8", "32", "64", "128", "256"]}
_CIFAR = _LARGE | {"num_rows": 64, "code_size": 200, "num_filters": 32}
_CPU = {"task=digits": {}} | {
  f"task={t}": _CIFAR if t.startswith("cifar") else _LARGE for t in TASKS[1:]
}
_PAPER = {"num_filters": 16, "learning_rate": 1e-4, "num_updates": 400_000}
_PAPER |= {"num_episodes": 32}
_GPU = {"num_filters": 16, "learning_rate": 3e-4, "num_updates": 30_000}
_GPU |= {"num_episodes": 64}
_SMOKE = {"num_updates": 2, "log_every": 1, "eval_every": 1, "num_episodes": 2}
_SMOKE |= {"num_items": 4, "num_rows": 3, "code_size": 4, "hidden_size": 8}
_SMOKE |= {"num_tests": 2, "lengths": ["8"], "num_filters": 0}
_LEARN = {"num_updates": 2500, "log_every": 100, "eval_every": 500}
PRESETS: dict[str, dict[str, Any]] = {
  "cpu": _LEARN | _CPU,
  "smoke": dict.fromkeys(_CPU, _SMOKE),
  "gpu": _LEARN | {t: row | _GPU for t, row in _CPU.items()},
  "paper": _LEARN | {t: row | _PAPER for t, row in _CPU.items()},
}

FLAGS = flags.FlagValues()
training.define_flags(FLAGS, PRESETS)
_OWN: dict[str, Any] = {"flag_values": FLAGS}
flags.DEFINE_enum("task", "digits", TASKS, "What is remembered.", **_OWN)
flags.DEFINE_list(
  "variants",
  ["dkm", "no_autoencoder"],
  f"To compare: {', '.join(VARIANTS)}.",
  **_OWN,
)
flags.DEFINE_list(
  "lengths", ["4", "8", "16", "32", "64"], "Items of test episodes.", **_OWN
)
flags.DEFINE_list(
  "classes", [], "Classes of test episodes, each to be tested.", **_OWN
)
for _name, _value, _least, _text in (
  ("num_items", 8, 1, "Images of an episode, T."),
  ("num_episodes", 16, 1, "In an update."),
  ("num_tests", 64, 2, "Episodes of an evaluation."),
  ("num_rows", 8, 1, "Of the memory, K."),
  ("code_size", 32, 1, "Numbers of a code, C."),
  ("hidden_size", 128, 1, "Units of hidden layers."),
  ("num_filters", 0, 0, "Of convolutions; 0: perceptrons."),
  ("num_iterations", 1, 1, "Of finding an address as an item is written."),
  ("num_reads", 10, 1, "Of a query."),
):
  flags.DEFINE_integer(_name, _value, _text, _least, 10**6, **_OWN)
for _name, _value, _text in (
  ("learning_rate", 1e-3, "Of Adam."),
  ("noise_variance", 1.0, "Of codes."),
  ("flipped", 0.15, "Part of a query's pixels that is exchanged."),
):
  flags.DEFINE_float(_name, _value, _text, 0.0, **_OWN)


class State(NamedTuple):
  """Everything of one run that changes."""

  params: Any
  moments: Any
  hyper: Any
  key: Any


class Setting(NamedTuple):
  """A task, and a model for it."""

  task: Any
  nets: Any
  memory: Any
  # loss(key, params, images) -> what is made small, and metrics
  loss: Callable[..., Any]
  model: Any  # the module of nets and memory


def make_setting(variant: str, task: Any) -> Setting:
  """A model with the flags' sizes; all variants have the same nets."""
  given = FLAGS.flag_values_dict()
  sizes = {n: given[n] for n in ("code_size", "hidden_size", "num_filters")}
  likelihood = likelihoods.BERNOULLI if task.is_binary else likelihoods.GAUSSIAN
  sizes["likelihood"] = likelihood
  if variant == "vae":
    return make_vae(task, sizes)
  nets = model.networks(task.shape, **sizes)
  memory = make_memory(variant)

  def loss(key, params, images):
    total, terms = model.loss(
      *(key, nets, memory, params, images),
      autoencodes=variant != "no_autoencoder",
    )
    return total, {
      "nats": -terms.bound,
      "nll": -terms.log_likelihood,
      "kl_weights": terms.kl_weights,
      "kl_memory": terms.kl_memory,
      "autoencoder": -terms.autoencoder,
    }

  return Setting(task, nets, memory, loss, model)


def make_vae(task: Any, sizes: Any) -> Setting:
  """A VAE of the same sizes, and one layer more on both sides of a code."""
  nets = kanerva_model.networks(
    task.shape, num_features=sizes["hidden_size"], **sizes
  )
  memory = kanerva_memories.none(sizes["code_size"])

  def loss(key, params, images):
    bound, terms = kanerva_model.bound(
      *(key, nets, memory, params, images),
      noise_variance=FLAGS["noise_variance"].value,
    )
    nll = -terms.log_likelihood
    return -bound, {"nats": -bound, "nll": nll, "kl_code": terms.kl_code}

  return Setting(task, nets, memory, loss, kanerva_model)


def make_memory(variant: str) -> Any:
  """What a variant's codes go through."""
  given = FLAGS.flag_values_dict()
  rows, size = given["num_rows"], given["code_size"]
  if variant == "dnc":
    core = cores.dnc(
      *(size + 1, size),
      hidden_size=given["hidden_size"],
      num_slots=rows,
      word_size=size,
      num_heads=1,
    )
    return model.core_memory(core)
  if variant == "list":
    # R and U are K C and K K numbers.
    return model.list_memory(rows * (size + rows) // size)
  method = variant if variant in ("squared", "mean_field") else "ridge"
  return model.dynamic_memory(
    *(rows, size),
    noise_variance=given["noise_variance"],
    num_iterations=given["num_iterations"],
    method=method,
  )


def optimiser_of(hyper: Any) -> Any:
  """Adam; gradients are clipped."""
  clip = optax.clip_by_global_norm(10.0)
  adam = optax.adam(hyper["learning_rate"])
  return training.skip_nonfinite(optax.chain(clip, adam))


def make_experiment(variant: str, task: Any) -> training.Experiment:
  """One variant, as one run sees it."""
  setting = make_setting(variant, task)
  return training.Experiment(
    init=lambda key, hyper, data: start(key, hyper, setting),
    update=lambda state, data: update(state, data, setting),
    evaluate=lambda state, data: evaluate(state, data, setting),
    data=task.data,
    hyper={"learning_rate": FLAGS["learning_rate"].value},
  )


def start(key: Any, hyper: Any, setting: Setting) -> State:
  """A model that has learnt nothing."""
  key, key_params = jax.random.split(key)
  image = jnp.zeros(setting.task.shape)
  params = setting.model.init(key_params, setting.nets, setting.memory, image)
  return State(params, optimiser_of(hyper).init(params), hyper, key)


def update(state: State, data: Any, setting: Setting) -> tuple[State, Any]:
  """Writes and reads some episodes."""
  given = FLAGS.flag_values_dict()
  key, key_data, key_loss = jax.random.split(state.key, 3)
  draw = lambda key: setting.task.sample(key, data, given["num_items"])
  images = jax.vmap(draw)(jax.random.split(key_data, given["num_episodes"]))

  def loss(params):
    keys = jax.random.split(key_loss, given["num_episodes"])
    one = lambda key, images: setting.loss(key, params, images)
    return jax.tree.map(jnp.mean, jax.vmap(one)(keys, images))

  (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
  optimiser = optimiser_of(state.hyper)
  updates, moments = optimiser.update(grads, state.moments, state.params)
  params = optax.apply_updates(state.params, updates)
  return State(params, moments, state.hyper, key), metrics


def evaluate(state: State, data: Any, setting: Setting) -> dict[str, Any]:
  """The bound and what is recalled, on test episodes."""
  given = FLAGS.flag_values_dict()
  measured = functools.partial(measure, state.params, data, setting)
  found = measured(given["num_items"])
  if setting.model is kanerva_model:
    return found
  for length in map(int, given["lengths"]):
    found[f"wrong_at_{length}"] = measured(length)["wrong"]
  for count in map(int, given["classes"]):
    wrong = measured(given["num_items"], num_classes=count)["wrong"]
    found[f"wrong_of_{count}_classes"] = wrong
  return found


def measure(
  params: Any, data: Any, setting: Setting, num_items: int, **options: Any
) -> dict[str, Any]:
  """Means over test episodes, the same ones at every time."""
  num_tests = FLAGS["num_tests"].value * FLAGS["num_items"].value // num_items
  keys = jax.random.split(jax.random.key(1), (max(2, num_tests), 3))

  def one(keys):
    images = setting.task.test(keys[0], data, num_items, **options)
    metrics = setting.loss(keys[1], params, images)[1]
    if setting.model is kanerva_model:
      return metrics, ()
    queries = damaged(keys[2], images, setting.task.is_binary)
    return metrics, (images, queries)

  metrics, episodes = jax.lax.map(one, keys)
  metrics = jax.tree.map(jnp.mean, metrics)
  return metrics | (recalled(params, setting, *episodes) if episodes else {})


def damaged(key: Any, images: Any, is_binary: bool) -> Any:
  """Queries: pixels exchanged, or half of the sides' length hidden."""
  if is_binary:
    return image_episodes.flip(key, images, FLAGS["flipped"].value)
  return image_episodes.occlude(key, images, images.shape[1] // 2)


def recalled(params: Any, setting: Setting, images: Any, queries: Any) -> Any:
  """How far from the stored image queries are, and what is read of them.

  Wrong: pixels of a binary image that are not as stored; else the sum of
  squared errors. The control reads in another episode's memory.
  """
  _, nets, memory, _, _ = setting
  count = FLAGS["num_reads"].value

  def one(images, queries, other):
    write = functools.partial(model.written, nets, memory, params)
    own, wrong = write(images), write(other)
    read = functools.partial(model.recall, nets, memory, params)
    seen, value = jax.vmap(lambda x: read(own, x, num_reads=count))(queries)
    control, _ = jax.vmap(lambda x: read(wrong, x, num_reads=1))(queries)
    distance = lambda x, y: jnp.sum(jnp.square(x - y), (-3, -2, -1)).mean()
    falls = jnp.diff(value, axis=1) <= 1e-3
    return {
      "query": distance(queries, images),
      "wrong": distance(seen[:, 1], images),
      "wrong_in_the_end": distance(seen[:, -1], images),
      "last_change": distance(seen[:, -1], seen[:, -2]),
      "control": distance(control[:, 1], images),
      "falling": falls.mean(0),
    }

  given = images, queries, jnp.roll(images, 1, 0)
  found = jax.lax.map(lambda x: one(*x), given)
  means = jax.tree.map(lambda x: jnp.mean(x, axis=0), found)
  # Of the read after which the fewest images' values had not risen.
  return means | {"falling": jnp.min(means["falling"], initial=1.0)}


def make_experiments(options: training.Options) -> dict[str, Any]:
  """One for each variant."""
  check()
  task = image_episodes.task(FLAGS["task"].value, options.data_dir)
  num_classes = len(task.data[1].starts) - 1
  if any(int(count) > num_classes for count in FLAGS["classes"].value):
    raise training.RunError(
      f"--classes={','.join(FLAGS['classes'].value)}: there are {num_classes} "
      f"to test on in --task={FLAGS['task'].value}."
    )
  return {name: make_experiment(name, task) for name in FLAGS["variants"].value}


def check() -> None:
  """Refuses flags that do not fit, before anything is compiled."""
  given = FLAGS.flag_values_dict()
  chosen = given["variants"]
  shown = f"--variants={','.join(chosen)}"
  wrong = {
    f"{shown} names no model; there are {', '.join(VARIANTS)}.": (
      not chosen or set(chosen) - set(VARIANTS)
    ),
    f"{shown} names a model twice; name it once.": (
      len({*chosen}) < len(chosen)
    ),
    "--noise_variance must be positive.": not given["noise_variance"] > 0,
    "--flipped must be at most 1.": not given["flipped"] <= 1,
  }
  wrong["--lengths is empty; name at least one."] = not given["lengths"]
  fits = lambda x: x.isdecimal() and 0 < int(x) <= 10**6
  for name in ("lengths", "classes"):
    sentence = f"--{name}={','.join(given[name])} must be integers, 1 to 10**6."
    wrong[sentence] = not all(map(fits, given[name]))
  for name in ("learning_rate", "noise_variance"):
    wrong[f"--{name} must be finite."] = not given[name] < float("inf")
  for sentence, is_wrong in wrong.items():
    if is_wrong:
      raise training.RunError(sentence)


def draw(results: training.Results, out_dir: Any) -> None:
  """What is learnt, what is held, and images as they are read again."""
  remembering = [name for name in results.states if name != "vae"]
  label = "squared error of an image after one read"
  wanted = {"eval/nats": "nats for an image"}
  wanted |= {"eval/wrong": label} if remembering else {}
  curves.plot_metrics(results, out_dir / "curves.png", wanted)
  if not remembering:
    return
  lengths = sorted({int(x) for x in FLAGS["lengths"].value})
  curves.plot_by_length(
    results, remembering, "eval/wrong", lengths, out_dir / "lengths.png", label
  )
  task = image_episodes.task(FLAGS["task"].value, results.options.data_dir)
  stored = task.test(jax.random.key(2), task.data, FLAGS["num_items"].value)
  values = {}
  for name in remembering:
    params = jax.tree.map(lambda x: jnp.asarray(x[0]), results.states[name])
    setting = make_setting(name, task)
    rows, values[name] = show(setting, params.params, stored)
    images.plot_grid(rows, out_dir / f"{name}.png")
  labels = "read", "value of an image (nats)"
  curves.plot_lines(values, out_dir / "falling.png", labels, from_zero=True)


def show(setting: Setting, params: Any, images: Any) -> Any:
  """Stored images, and queries and their values as they are read again."""
  _, nets, memory, _, _ = setting
  count = FLAGS["num_reads"].value
  queries = damaged(jax.random.key(3), images, setting.task.is_binary)

  @jax.jit
  def read(images, queries):
    state = model.written(nets, memory, params, images)
    recall = functools.partial(model.recall, nets, memory, params, state)
    return jax.vmap(lambda x: recall(x, num_reads=count))(queries)

  seen, values = jax.device_get(read(images, queries))
  rows = {"stored": images, "query": queries}
  for k in sorted({1, 2, 4, count} & set(range(count + 1))):
    rows[f"read {k}"] = seen[:, k]
  return rows, values


def main(options: training.Options) -> int:
  results = training.run(
    make_experiments(options), options, key_metric="eval/nats"
  )
  return training.finish(results, CLAIMS, draw)


_STATED = (
  *("num_items", "num_episodes", "num_rows", "code_size", "hidden_size"),
  *("num_filters", "num_iterations", "num_reads", "learning_rate", "sweep"),
  *("noise_variance", "flipped", "num_updates", "num_tests"),
)


def _state(task, min_seeds, *rows):
  """Makes claims of rows, stated for the values of the presets cpu and gpu."""
  stated = [PRESETS[x] | PRESETS[x][f"task={task}"] for x in ("cpu", "gpu")]
  where: dict[str, Any] = {
    name: [given.get(name, FLAGS[name].default) for given in stated]
    for name in _STATED
  }
  where["task"] = [task]
  return tuple(
    claims.Claim(f"{task}/{name}", *row, where=where, min_seeds=min_seeds)
    for name, *row in rows
  )


def _dkm(name):
  return claims.last("dkm", f"eval/{name}")


CLAIMS = (
  *_state(
    "digits",
    4,
    ("nats", "nats, with the memory's divergence", _dkm("nats"), "<=", 17.0),
    ("query", "wrong bits of a query", _dkm("query"), ">=", 9.0),
    ("read", "wrong bits after one read", _dkm("wrong"), "<=", 5.5),
    (
      *("end", "wrong bits after ten reads"),
      *(_dkm("wrong_in_the_end"), "<=", 5.0),
    ),
    ("fixed", "bits the tenth read changes", _dkm("last_change"), "<", 0.05),
    (
      *("control", "wrong bits, read in another episode's memory"),
      *(_dkm("control"), ">=", 8.5),
    ),
    (
      *("falling", "part of images whose value does not rise, of each read"),
      *(_dkm("falling"), ">=", 0.95),
    ),
  ),
  *_state(
    "omniglot",
    4,
    (
      *("fixed-point", "wrong pixels after ten reads, of the query's"),
      claims.ratio(_dkm("wrong_in_the_end"), _dkm("query")),
      *("<", 0.6),
    ),
    (
      *("control", "wrong pixels in the right memory, of those in a wrong one"),
      claims.ratio(_dkm("wrong"), _dkm("control")),
      *("<", 0.6),
    ),
  ),
)
REPRODUCE = {
  "digits": ["--num_seeds=4"],
  "omniglot": ["--task=omniglot", "--variants=dkm,list,dnc", "--num_seeds=4"],
}

if __name__ == "__main__":
  training.main(FLAGS, main)
