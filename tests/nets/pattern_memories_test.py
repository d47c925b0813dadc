"""Tests of memories of patterns: loops in NumPy, and sizes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.memory import dynamic_kanerva, kanerva
from lilly.nets import (
  attention_memory,
  energy_networks,
  pattern_memories,
  set_memories,
)

D, N = 6, 4
SIZES = {"num_words": N, "num_reads": 2, "hidden_size": 5}
_kinds = pytest.mark.parametrize("kind", pattern_memories.MEMORIES)


def example(seed=0):
  rng = np.random.default_rng(seed)
  patterns = rng.integers(0, 2, (N, D)).astype(np.float32)
  return patterns, rng.random((2, D), np.float32)


@functools.cache
def made(kind, shape=(D,), num_floats=20, **sizes):
  make = pattern_memories.MEMORIES[kind]
  memory = make(shape, num_floats, **(SIZES | sizes))
  params, state = jax.jit(memory.init)(jax.random.key(0), jnp.zeros(shape))
  assert state == {}
  return memory, params


def recall(memory, params, patterns, queries):
  return set_memories.recall(memory, params, {}, patterns, queries)


def test_a_memory_network_is_that_of_its_module():
  memory, params = made("memory_network")
  patterns, queries = example()
  found = jax.jit(lambda *x: recall(memory, *x))(params, patterns, queries)
  nets = attention_memory.make_networks((D,), 5, hidden_size=5)
  other = attention_memory.make(nets, num_reads=2)
  expected = recall(other, params, patterns, queries)
  for ours, theirs in zip(found, expected, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def perceptron(params, name, x):
  for l in range(2):
    layer = params[f"{name}/~/layers/~/linear_{l}"]
    x = np.asarray(x) @ np.asarray(layer["w"]) + np.asarray(layer["b"])
    x = np.maximum(x, 0) if l == 0 else x
  return x


def test_a_kanerva_machine_reads_what_it_has_read():
  memory, params = made("dynamic_kanerva")
  patterns, queries = example()
  state, reads = jax.jit(lambda *x: recall(memory, *x))(
    params, patterns, queries
  )
  nets, prior = params["nets"], params["memory"]
  own = kanerva.prior(prior["mean"], prior["log_variance"])
  codes = jnp.asarray(perceptron(nets, "encoder", patterns), jnp.float32)
  expected, _ = dynamic_kanerva.write(own, codes, noise_variance=1.0)
  np.testing.assert_allclose(state.mean, expected.mean, rtol=1e-4, atol=1e-5)
  for query, found in zip(queries, reads, strict=True):
    x = query
    for read in found:
      code = jnp.asarray(perceptron(nets, "encoder", x), jnp.float32)
      code = dynamic_kanerva.read(expected, code, noise_variance=1.0).code
      x = 1 / (1 + np.exp(-perceptron(nets, "decoder", code)))
      np.testing.assert_allclose(read, x, rtol=1e-4)


@_kinds
def test_all_parts_learn_from_every_step(kind):
  memory, params = made(kind)
  patterns, queries = example()

  def loss(params, k):
    _, reads = recall(memory, params, patterns, queries)
    return jnp.sum(jnp.square(reads[:, k] - patterns[:2]))

  grads = jax.jit(jax.grad(loss), static_argnums=1)
  for k in range(2):
    found = jax.tree.leaves_with_path(grads(params, k))
    for path, x in found:
      # Nothing is drawn here: the spread of addresses has no part.
      if "log_weight_stddev" not in str(path):
        assert np.abs(x).max() > 1e-7, path


@_kinds
def test_images_are_patterns_too(kind):
  memory, params = made(kind, (4, 4, 1), num_filters=1)
  images = jnp.ones((N, 4, 4, 1))
  reads = lambda *x: recall(memory, *x)[1]
  found = jax.eval_shape(reads, params, images, images[:3])
  assert found.shape == (3, 2, 4, 4, 1)


def test_memories_are_at_most_as_large_as_what_an_energy_writes():
  network = energy_networks.gated(hidden_size=8, dynamic_size=3, num_hops=1)
  # The energy writes (6 + 1) 3 numbers.
  for kind, size in (("memory_network", 20), ("dynamic_kanerva", 3 * (3 + 4))):
    memory = pattern_memories.make_as_large(network, (D,), kind, **SIZES)
    assert set_memories.num_floats(memory, N, jnp.zeros(D)) == size


def test_rows_are_as_many_as_fit():
  for num_floats in range(4, 400):
    for pattern_size in (2, 5, 32):
      rows, size = pattern_memories.choose_kanerva_sizes(
        num_floats, pattern_size
      )
      fits = lambda k, c=size, n=num_floats: k * (k + c) <= n and k < c
      assert rows >= 1 and size <= pattern_size
      assert fits(rows) and not fits(rows + 1)


def test_bad_arguments_are_refused():
  network = energy_networks.gated(hidden_size=8, dynamic_size=3, num_hops=1)
  with pytest.raises(ValueError, match="kind is 'list'; it must be one of"):
    pattern_memories.make_as_large(network, (D,), "list", **SIZES)
  with pytest.raises(ValueError, match="num_floats is 3"):
    pattern_memories.choose_kanerva_sizes(3, 5)
  with pytest.raises(ValueError, match="pattern_size is 1"):
    pattern_memories.choose_kanerva_sizes(9, 1)
