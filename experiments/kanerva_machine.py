"""The Kanerva Machine: a generative model with a memory that is written once.

Wu, Wayne, Graves, Lillicrap (arXiv 1804.01756, ICLR 2018). An episode of images
is written to a matrix of normal variables, exactly and without gradient steps;
what it then says of an address is the prior of that image's code. Variants:
kanerva; unwritten, whose memory stays as it began; vae, without a memory; dnc,
with a Differentiable Neural Computer in the memory's place. All have the same
encoder, decoder and likelihood. one_draw reads at the very addresses at which
it wrote, which gives no bound.

Tasks: digits (bundled, 8 x 8), generated, omniglot, mnist (binary), cifar10
(bits for each value too). The bound is of ln p(x | M), for an image: the KL of
addresses and codes is in it, that of the memory is not.

Expect of the digits 16.8 nats where the VAE has 18.0, in 6 minutes on 2 cores;
15.5 was asked for and is not reached. More in docs/papers/kanerva_machine.md.
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

  from lilly.figures import curves, heatmaps, images
  from lilly.losses import likelihoods
  from lilly.nets import cores, kanerva_memories
  from lilly.nets import kanerva_model as model
  from lilly.tasks import image_episodes

VARIANTS = ("kanerva", "one_draw", "unwritten", "vae", "dnc")
TASKS = ("digits", "generated", "omniglot", "mnist", "cifar10", "cifar10_small")
_LARGE = {"num_items": 32, "num_rows": 64, "code_size": 100, "address_size": 50}
_LARGE |= {"hidden_size": 256, "num_features": 128, "num_updates": 6000}
_LARGE |= {"lengths": ["32", "64", "128", "256"]}
_CIFAR = _LARGE | {"num_rows": 256, "code_size": 200, "num_filters": 32}
_CPU = {"task=digits": {}} | {
  f"task={t}": _CIFAR if t.startswith("cifar") else _LARGE for t in TASKS[1:]
}
_PAPER = {"num_filters": 16, "learning_rate": 1e-4, "num_updates": 400_000}
_PAPER |= {"address_noise": 0.2}
_GPU = {"num_filters": 16, "learning_rate": 3e-4, "num_updates": 30_000}
_GPU |= {"num_episodes": 64}
_SMOKE = {"num_updates": 2, "log_every": 1, "eval_every": 1, "num_episodes": 2}
_SMOKE |= {"num_items": 4, "num_rows": 3, "code_size": 4, "address_size": 2}
_SMOKE |= {"hidden_size": 8, "num_features": 6, "num_tests": 2}
_SMOKE |= {"lengths": ["8"], "num_filters": 0}
_LEARN = {"num_updates": 3000, "log_every": 100, "eval_every": 500}
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
  ["kanerva", "one_draw", "unwritten", "vae"],
  f"To compare: {', '.join(VARIANTS)}.",
  **_OWN,
)
flags.DEFINE_list(
  "lengths", ["16", "32", "64", "128"], "Items of test episodes.", **_OWN
)
flags.DEFINE_list(
  "classes", [], "Classes of test episodes, each to be tested.", **_OWN
)
for _name, _value, _least, _text in (
  ("num_items", 16, 1, "Images of an episode, T."),
  ("num_episodes", 16, 1, "In an update."),
  ("num_tests", 64, 1, "Episodes of an evaluation."),
  ("num_rows", 8, 1, "Of the memory, K."),
  ("code_size", 16, 1, "Numbers of a code, C."),
  ("address_size", 8, 1, "Numbers of a latent address, S."),
  ("num_features", 64, 1, "What the encoder gives."),
  ("hidden_size", 128, 1, "Units of hidden layers."),
  ("num_filters", 0, 0, "Of convolutions; 0: perceptrons."),
):
  flags.DEFINE_integer(_name, _value, _text, _least, 10**6, **_OWN)
flags.DEFINE_float("learning_rate", 1e-3, "Of Adam.", 0.0, **_OWN)
for _name, _value, _text in (
  ("noise_variance", 1.0, "Of codes."),
  ("address_noise", 0.0, "On what addresses are found from."),
):
  flags.DEFINE_float(_name, _value, _text, 0.0, **_OWN)
flags.DEFINE_bool(
  "expected", False, "A code's KL is expected over the memory.", **_OWN
)


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
  one_draw: bool


def make_setting(variant: str, task: Any) -> Setting:
  """A model with the flags' sizes; all variants have the same nets."""
  given = FLAGS.flag_values_dict()
  names = ("code_size", "address_size", "num_features", "hidden_size")
  sizes = {name: given[name] for name in (*names, "num_filters")}
  likelihood = likelihoods.GAUSSIAN
  if task.is_binary:
    likelihood = likelihoods.BERNOULLI
  nets = model.networks(task.shape, likelihood=likelihood, **sizes)
  return Setting(task, nets, make_memory(variant), variant == "one_draw")


def make_memory(variant: str) -> Any:
  """What a variant remembers with."""
  given = FLAGS.flag_values_dict()
  code_size, address_size = given["code_size"], given["address_size"]
  if variant == "vae":
    return kanerva_memories.none(code_size)
  if variant == "dnc":
    # As many numbers as the Kanerva Machine's mean has, its controller apart.
    core = cores.dnc(
      code_size + address_size + 1,
      code_size,
      hidden_size=given["hidden_size"],
      num_slots=given["num_rows"],
      word_size=code_size,
      num_heads=1,
    )
    return kanerva_memories.of_core(core)
  return kanerva_memories.matrix(
    given["num_rows"],
    code_size,
    address_size,
    noise_variance=given["noise_variance"],
    is_written=variant != "unwritten",
  )


def optimiser_of(hyper: Any) -> Any:
  """Adam; gradients are clipped."""
  clip = optax.clip_by_global_norm(10.0)
  adam = optax.adam(hyper["learning_rate"])
  return training.skip_nonfinite(optax.chain(clip, adam))


def bound(key: Any, setting: Setting, params: Any, images: Any) -> Any:
  """The bound of an episode, as the flags want it."""
  names = ("noise_variance", "address_noise", "expected")
  given = {name: FLAGS[name].value for name in names}
  given["one_draw"] = setting.one_draw
  _, nets, memory, _ = setting
  return model.bound(key, nets, memory, params, images, **given)


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
  params = model.init(key_params, setting.nets, setting.memory, image)
  return State(params, optimiser_of(hyper).init(params), hyper, key)


def update(state: State, data: Any, setting: Setting) -> tuple[State, Any]:
  """Writes and explains some episodes."""
  given = FLAGS.flag_values_dict()
  key, key_data, key_bound = jax.random.split(state.key, 3)
  draw = lambda key: setting.task.sample(key, data, given["num_items"])
  images = jax.vmap(draw)(jax.random.split(key_data, given["num_episodes"]))

  def loss(params):
    keys = jax.random.split(key_bound, given["num_episodes"])
    of_episode = lambda key, images: bound(key, setting, params, images)
    value, terms = jax.vmap(of_episode)(keys, images)
    return -jnp.mean(value), jax.tree.map(jnp.mean, terms)

  (nats, terms), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
  optimiser = optimiser_of(state.hyper)
  updates, moments = optimiser.update(grads, state.moments, state.params)
  params = optax.apply_updates(state.params, updates)
  metrics = {"nats": nats} | named(terms)
  return State(params, moments, state.hyper, key), metrics


def named(terms: Any) -> dict[str, Any]:
  """Terms of the bound, all to be made small."""
  return {
    "nll": -terms.log_likelihood,
    "kl_address": terms.kl_address,
    "kl_code": terms.kl_code,
  }


def evaluate(state: State, data: Any, setting: Setting) -> dict[str, Any]:
  """The bound on test episodes: of the training length, of others."""
  given = FLAGS.flag_values_dict()
  num_items = given["num_items"]
  measured = functools.partial(measure, state.params, data, setting)
  found = measured(num_items)
  if not setting.task.is_binary:
    size = int(np.prod(setting.task.shape))
    found["bits"] = likelihoods.bits_per_dimension(found["nats"], size)
  for length in map(int, given["lengths"]):
    found[f"nats_at_{length}"] = measured(length)["nats"]
  for count in map(int, given["classes"]):
    nats = measured(num_items, num_classes=count)["nats"]
    found[f"nats_of_{count}_classes"] = nats
  return found


def measure(
  params: Any, data: Any, setting: Setting, num_items: int, **options: Any
) -> dict[str, Any]:
  """Means over test episodes, the same ones at every time."""
  num_tests = FLAGS["num_tests"].value * FLAGS["num_items"].value // num_items
  keys = jax.random.split(jax.random.key(1), (max(1, num_tests), 2))

  def one(keys):
    images = setting.task.test(keys[0], data, num_items, **options)
    value, terms = bound(keys[1], setting, params, images)
    return {"nats": -value} | named(terms)

  return jax.tree.map(jnp.mean, jax.lax.map(one, keys))


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
  }
  wrong["--lengths is empty; name at least one."] = not given["lengths"]
  fits = lambda x: x.isdecimal() and 0 < int(x) <= 10**6
  for name in ("lengths", "classes"):
    sentence = f"--{name}={','.join(given[name])} must be integers, 1 to 10**6."
    wrong[sentence] = not all(map(fits, given[name]))
  for name in ("learning_rate", "noise_variance", "address_noise"):
    wrong[f"--{name} must be finite."] = not given[name] < float("inf")
  for sentence, is_wrong in wrong.items():
    if is_wrong:
      raise training.RunError(sentence)


def draw(results: training.Results, out_dir: Any) -> None:
  """The bound as it is learnt and by length; images of each model."""
  curves.plot_metrics(
    results, out_dir / "curves.png", {"eval/nats": "nats for an image"}
  )
  lengths = sorted({int(x) for x in FLAGS["lengths"].value})
  curves.plot_by_length(
    results,
    list(results.states),
    "eval/nats",
    lengths,
    out_dir / "lengths.png",
    "nats for an image",
  )
  task = image_episodes.task(FLAGS["task"].value, results.options.data_dir)
  stored = task.test(jax.random.key(2), task.data, FLAGS["num_items"].value)
  errors = {}
  for name, state in results.states.items():
    if name != "vae":
      params = jax.tree.map(lambda x: jnp.asarray(x[0]), state.params)
      setting = make_setting(name, task)
      rows, weights, found = show(setting, params, stored)
      errors |= {f"{name}, {query}": row for query, row in found.items()}
      images.plot_grid(rows, out_dir / f"{name}.png")
      if weights is not None:
        path = out_dir / f"{name}_addresses.png"
        heatmaps.plot_matrix(weights, path, ("row of the memory", "image"))
  if errors:
    labels = "read", "squared error of an image"
    path = out_dir / "denoising.png"
    curves.plot_lines(errors, path, labels, x=np.arange(10))


def show(setting: Setting, params: Any, images: Any) -> Any:
  """Images that are stored, damaged, drawn and between; addresses; errors.

  Damaged and drawn ones are read again and again: errors are those of damaged
  ones, [1, 10], by name.
  """
  _, nets, memory, _ = setting
  keys = jax.random.split(jax.random.key(3), 4)
  write = lambda images: model.written(keys[0], nets, memory, params, images)
  state = jax.jit(write)(images)
  given = nets, memory, params, state
  each = lambda function: jax.jit(jax.vmap(function))
  again = each(lambda x: model.reread(*given, x))
  noise = FLAGS["noise_variance"].value
  sample = each(lambda key: model.generate(key, *given, noise_variance=noise))
  rows, errors = {"stored": images, "read": again(images)}, {}
  size = images.shape[1] // 2
  queries = {"hidden": image_episodes.occlude(keys[1], images, size)}
  if setting.task.is_binary:
    queries["flipped"] = image_episodes.flip(keys[3], images, 0.15)
  damaged = set(queries)
  queries["sampled"] = sample(jax.random.split(keys[2], len(images)))
  for name, image in queries.items():
    seen = [image]
    for _ in range(9):
      seen.append(again(seen[-1]))
    rows[name] = image
    rows |= {f"{name}, read {count}": seen[count] for count in (1, 3, 9)}
    if name in damaged:
      squares = [jnp.sum(jnp.square(x - images)) / len(images) for x in seen]
      errors[name] = np.array(squares)[None]
  y = each(lambda x: address(nets, params, x))(images)
  between = lambda part: y[0] + part * (y[-1] - y[0])
  imagine = each(lambda part: model.imagine(*given, between(part)))
  rows["first to last"] = imagine(jnp.linspace(0, 1, len(images)))
  if "addresses" not in params["memory"]:
    return rows, None, errors
  b = each(lambda y: nets.expand(params["nets"], y))(y)
  weights = np.asarray(b @ params["memory"]["addresses"].T)
  return rows, weights, errors


def address(nets: Any, params: Any, image: Any) -> Any:
  """The mean of q(y | x)."""
  own = params["nets"]
  return nets.address(own, nets.features(own, image))[0]


def main(options: training.Options) -> int:
  results = training.run(
    make_experiments(options), options, key_metric="eval/nats"
  )
  return training.finish(results, CLAIMS, draw)


_STATED = (
  *("num_items", "num_episodes", "num_rows", "code_size", "address_size"),
  *("num_features", "hidden_size", "num_filters", "learning_rate", "expected"),
  *("noise_variance", "address_noise", "num_updates", "num_tests", "sweep"),
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


def _nats(variant, name="nats"):
  return claims.last(variant, f"eval/{name}")


def _least_rise(results):
  """Of the Kanerva Machine's nats, where episodes become twice as long."""
  found = [_nats("kanerva", f"nats_at_{n}") for n in (32, 64, 128, 256)]
  values = np.stack([measure(results) for measure in found])
  return np.diff(values, axis=0).min(axis=0)


_GAP = claims.difference(_nats("vae"), _nats("kanerva"))
_GAP_ONE_DRAW = claims.difference(_nats("vae"), _nats("one_draw"))
CLAIMS = (
  *_state(
    "digits",
    4,
    ("kanerva", "Kanerva Machine: nats", _nats("kanerva"), "<=", 15.5),
    ("vae", "VAE of the same nets: nats", _nats("vae"), ">=", 17.5),
    ("vae-learns", "VAE of the same nets: nats", _nats("vae"), "<=", 19.5),
    ("gap", "nats of the VAE less the Kanerva Machine's", _GAP, ">=", 2.5),
    (
      *("unwritten", "how far nats without a write are from the VAE's"),
      lambda results: abs(
        claims.difference(_nats("vae"), _nats("unwritten"))(results)
      ),
      *("<=", 0.8),
    ),
    ("one-draw", "one draw, no bound: nats", _nats("one_draw"), "<=", 15.5),
    (
      *("one-draw-gap", "nats of the VAE less those of one draw"),
      *(_GAP_ONE_DRAW, ">=", 2.5),
    ),
  ),
  *_state(
    "omniglot",
    4,
    ("gap", "nats of the VAE less the Kanerva Machine's", _GAP, ">=", 10.0),
    (
      *("length", "least rise of nats from 32 to 64, 128 and 256 images"),
      *(_least_rise, ">=", 0.0),
    ),
  ),
)
REPRODUCE = {
  "digits": ["--num_seeds=4"],
  "omniglot": ["--task=omniglot", "--num_seeds=4"],
}

if __name__ == "__main__":
  training.main(FLAGS, main)
