"""Tests of lilly.nets.energy_networks against loops in NumPy."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.memory import energy
from lilly.nets import energy_networks

BITS = 5
IMAGE = (4, 4, 1)
SMALL = {"dynamic_size": 2, "num_hops": 2}


def make(name):
  if name == "gated":
    return energy_networks.gated(hidden_size=6, **SMALL), (BITS,)
  if name == "residual":
    sizes = {"channels": (2,), "code_size": 3, "hidden_size": 4, "last_size": 3}
    return energy_networks.residual(**sizes, **SMALL), IMAGE
  sizes = {"channels": (2,), "width": 3, "bottleneck": 2, "last_size": 3}
  return energy_networks.convolutional(**sizes, **SMALL), IMAGE


NAMES = ("gated", "residual", "convolutional")


@functools.cache
def started(name):
  """A network, parameters none of which is 0, and a pattern."""
  network, shape = make(name)
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.uniform(size=shape), jnp.float32)
  shapes = jax.eval_shape(network.init, jax.random.key(0), x)
  drawn = lambda w: jnp.asarray(0.5 * rng.normal(size=w.shape), w.dtype)
  return network, jax.tree.map(drawn, shapes), x


def energy_of(network, params, x):
  written, static = energy_networks.split(params)
  return jax.jit(network.energy)(static, written, x)


def linear(params, name, x):
  return x @ params[name]["w"] + params[name]["b"]


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def normed(params, name, x):
  x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
  return x * params[name]["scale"] + params[name]["offset"]


def hops(params, x):
  """Two updates of s where the gate keeps."""
  s = np.zeros((*x.shape[:-1], params["gate"]["b"].size))
  is_image = x.ndim == 3
  for _ in range(2):
    z = np.concatenate([x, s], -1)
    z = patches(z, 3) if is_image else z
    candidate = linear(params, "candidate", z)
    c = np.tanh(normed(params, "candidate_norm", candidate))
    u = sigmoid(linear(params, "gate", z))
    s = u * s + (1 - u) * c
  return linear(params, "energy", np.tanh(linear(params, "last", s.ravel())))


def patches(x, size, stride=1):
  """Windows, padded by zeros as where sides are even."""
  before = 0 if stride == 2 else size // 2
  pad = (before, size // 2 if size > 1 else 0)
  padded = np.pad(x, (pad, pad, (0, 0)))
  rows, columns = range(0, x.shape[0], stride), range(0, x.shape[1], stride)
  return np.array(
    [
      [padded[i : i + size, j : j + size].ravel() for j in columns]
      for i in rows
    ]
  )


def convolve(params, name, x, size, stride=1):
  return linear(params, name, patches(x, size, stride))


def block(params, x):
  h = np.tanh(convolve(params, "block_0_0", x, 3, 2))
  h = np.tanh(convolve(params, "block_0_1", h, 3))
  return h + convolve(params, "shortcut_0", x, 1, 2)


def by_hand(name, params, x):
  if name == "gated":
    s = np.zeros(6)
    for _ in range(2):
      z = np.concatenate([x, s])
      memory, static = linear(params, "memory", x), linear(params, "static", z)
      c = np.tanh(np.concatenate([memory, static]))
      u = sigmoid(linear(params, "gate", z))
      s = u * c + (1 - u) * s
    return linear(params, "energy", s)
  x = block(params, x)
  if name == "residual":
    x = normed(params, "code_norm", linear(params, "code", x.ravel()))
    both = [linear(params, part, x) for part in ("memory", "static")]
    return hops(params, np.tanh(np.concatenate(both)))
  for l, stride in enumerate((1, 2)):
    h = np.tanh(convolve(params, f"narrow_{l}", x, 1))
    both = [
      convolve(params, f"{part}_{l}", h, 3, stride)
      for part in ("memory", "static")
    ]
    h = normed(params, f"bottleneck_norm_{l}", np.concatenate(both, -1))
    x = np.tanh(h) + convolve(params, f"around_{l}", x, 1, stride)
  return hops(params, x)


@pytest.mark.parametrize("name", NAMES)
def test_energy_is_that_of_a_loop_in_numpy(name):
  network, params, x = started(name)
  found = energy_of(network, params, x)
  assert found.shape == ()
  expected = by_hand(name, jax.tree.map(np.asarray, params), np.asarray(x))
  np.testing.assert_allclose(found, expected[0], rtol=1e-4)


@pytest.mark.parametrize(
  ("name", "size"),
  [("gated", 6 * 2), ("residual", 4 * 2), ("convolutional", 2 * (18 + 1) * 2)],
)
def test_only_memory_layers_are_written_and_count(name, size):
  network, params, x = started(name)
  written, static = energy_networks.split(params)
  assert not written.keys() & static.keys()
  assert written.keys() | static.keys() == params.keys()
  assert sum(leaf.size for leaf in jax.tree.leaves(written)) == size
  # All of what is written, and of what is static, has a part in the energy.
  slopes = jax.jit(jax.grad(network.energy, (0, 1)))(static, written, x)
  for layer, leaves in (slopes[0] | slopes[1]).items():
    for leaf in jax.tree.leaves(leaves):
      assert np.abs(leaf).max() > 0, layer


def test_the_paper_s_memory_has_8127_numbers():
  network = energy_networks.gated()
  given = jax.random.key(0), jnp.zeros(128)
  written, static = energy_networks.split(jax.eval_shape(network.init, *given))
  assert sum(x.size for x in jax.tree.leaves(written)) == 8127
  assert static["static"]["w"].shape == (128 + 1024, 1024 - 63)


def test_all_that_is_written_is_counted():
  sizes = {"dynamic_size": 2, "num_hops": 1}
  gated = energy_networks.gated(hidden_size=8, **sizes)
  assert energy_networks.count_written(gated, (5,)) == (5 + 1) * 2
  images = energy_networks.convolutional(
    channels=(2,), bottleneck=3, width=8, last_size=4, **sizes
  )
  # Two layers of kernels of 3 x 3.
  assert energy_networks.count_written(images, (4, 4, 1)) == 2 * (27 + 1) * 2


def test_weights_begin_as_he_et_al_have_them():
  network = energy_networks.gated(hidden_size=64, dynamic_size=15, num_hops=1)
  params = jax.jit(network.init)(jax.random.key(0), jnp.zeros(32))
  for name, inputs in (("gate", 96), ("memory", 32)):
    spread = float(params[name]["w"].std())
    assert abs(spread * np.sqrt(inputs / 2) - 1) < 0.1
    assert (params[name]["b"] == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_energy_is_smooth(name):
  network, params, x = started(name)
  written, static = energy_networks.split(params)
  program = str(jax.make_jaxpr(network.energy)(static, written, x))
  assert "tanh" in program
  assert not re.search(r"\b(relu|abs|sign)\b", program)


def test_gradients_go_through_writing_and_reading():
  network = energy_networks.gated(hidden_size=3, dynamic_size=2, num_hops=1)
  x = jnp.array([0.2, 0.9, 0.4])
  params = jax.jit(network.init)(jax.random.key(0), x)
  written, static = energy_networks.split(params)
  rates = energy.write_rates(dict.fromkeys(written, 0), initial=0.1)
  schedule = energy.read_rates(2)
  stored = jnp.stack([x, 1 - x])

  def loss(static, written, rates, schedule):
    of_x = functools.partial(network.energy, static)
    given = written, stored, stored[::-1], of_x, rates, schedule
    return energy.loss(*given, num_steps=1)[0]

  learned = static, written, rates, schedule
  slopes = jax.jit(jax.grad(loss, (0, 1, 2)))(*learned)
  for leaf in jax.tree.leaves((slopes[0]["gate"], slopes[1], slopes[2][:2])):
    assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0


@pytest.mark.parametrize("kind", ["residual", "convolutional"])
def test_blank_places_do_not_blow_up_what_is_written(kind):
  sizes = {"hidden_size": 16, "dynamic_size": 2, "num_filters": 4}
  network = energy_networks.make(kind, num_hops=3, **sizes)
  x = jnp.zeros((28, 28, 1)).at[4:20, 8].set(1)
  params = jax.jit(network.init)(jax.random.key(0), x)
  written, static = energy_networks.split(params)

  def steepness(written):
    slope = jax.grad(network.energy, 2)(static, written, x)
    return jnp.sum(jnp.square(slope))

  slopes = jax.tree.leaves(jax.jit(jax.grad(steepness))(written))
  assert max(np.linalg.norm(leaf) for leaf in slopes) < 2000


@pytest.mark.parametrize(
  ("make", "options", "message"),
  [
    ("gated", {"dynamic_size": 8}, "dynamic_size is 8; it must be from 1 to 7"),
    ("gated", {"dynamic_size": 0}, "dynamic_size is 0; it must be from 1 to 7"),
    ("gated", {"num_hops": 0}, "num_hops is 0; it must be a positive integer"),
    ("residual", {"code_size": 0}, "code_size is 0; it must be a positive"),
    ("convolutional", {"bottleneck": 0}, "bottleneck is 0; it must be a"),
    ("convolutional", {"dynamic_size": 128}, "to 127, less than width"),
    ("convolutional", {"channels": (2, 0)}, r"channels\[1\] is 0; it must be"),
    ("residual", {"channels": (-1,)}, r"channels\[0\] is -1; it must be a"),
    (
      "make",
      {"kind": "convolutional", "num_hops": 1},
      "num_filters is 0; it must be a positive",
    ),
  ],
)
def test_bad_sizes_are_refused(make, options, message):
  if make != "convolutional":
    options = {"hidden_size": 8, "dynamic_size": 2} | options
  with pytest.raises(ValueError, match=message):
    getattr(energy_networks, make)(**options)


def test_proportions_are_the_paper_s():
  given = {"hidden_size": 512, "dynamic_size": 8, "num_hops": 3}
  image, shapes = jnp.zeros((28, 28, 1)), {}
  for kind in energy_networks.NETWORKS:
    network = energy_networks.make(kind, num_filters=32, **given)
    params = jax.eval_shape(network.init, jax.random.key(0), image)
    shapes[kind] = {
      name: x["w"].shape for name, x in params.items() if "w" in x
    }
    value = jax.eval_shape(
      network.energy, *energy_networks.split(params)[::-1], image
    )
    assert value.shape == ()
  assert shapes["gated"]["memory"] == (784, 8)
  assert shapes["residual"]["code"] == (4 * 4 * 96, 256)
  assert shapes["residual"]["last"] == (512, 1024)
  found = shapes["convolutional"]
  assert found["memory_1"] == (9 * 64, 8) and found["static_1"] == (576, 120)
  assert found["last"] == (4 * 4 * 128, 1024)
  with pytest.raises(ValueError, match="kind is 'mlp'; it must be one of"):
    energy_networks.make("mlp", **given)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_patterns_is_refused(name):
  network, shape = make(name)
  batch = jnp.zeros((2, *shape))
  with pytest.raises(ValueError, match=r"it must be \[.*\] \(unbatched: vmap"):
    jax.eval_shape(network.init, jax.random.key(0), batch)
