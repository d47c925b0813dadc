"""Tests of memories of patterns: loops in NumPy, and sizes."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.memory import dynamic_kanerva, kanerva
from lilly.nets import (
  attention_memory,
  energy_memory,
  energy_networks,
  pattern_memories,
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
  return memory, jax.jit(memory.init)(jax.random.key(0), jnp.zeros(shape))


def test_a_memory_network_is_that_of_its_module():
  memory, params = made("memory_network")
  patterns, queries = example()
  found = jax.jit(lambda *x: memory.recall(*x)[::2])(params, patterns, queries)
  nets = attention_memory.attention_memory((D,), 5, hidden_size=5)
  expected = attention_memory.recall(
    nets, params, patterns, queries, num_reads=2
  )
  for ours, theirs in zip(found, expected[::2], strict=True):
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
  state, reads = jax.jit(lambda *x: memory.recall(*x)[::2])(
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
    reads = memory.recall(params, patterns, queries).iterates
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
  recall = lambda *x: memory.recall(*x).iterates
  found = jax.eval_shape(recall, params, images, images[:3])
  assert found.shape == (3, 2, 4, 4, 1)


def test_an_energy_is_one_of_these_memories():
  network = energy_networks.gated(hidden_size=8, dynamic_size=3, num_hops=1)
  rates = {"read_steps": 2, "write_rate": 0.2, "momentum": 0.3}
  stored = jnp.asarray(np.random.default_rng(0).integers(0, 2, (3, D)) * 1.0)
  queries = 1 - stored
  written = []
  for options in (
    {"write_steps": 0},
    {"write_steps": 2},
    {"write_steps": 2, "remat": True},
  ):
    memory = pattern_memories.energy(network, **options, **rates)
    params = memory.init(jax.random.key(0), stored[0])
    own = energy_memory.init(jax.random.key(0), network, stored[0], **rates)
    chex.assert_trees_all_equal(params, own)
    found = memory.recall(params, stored, queries)
    expected = energy_memory.recall(network, own, stored, queries, **options)
    chex.assert_trees_all_close(found.iterates, expected.iterates, rtol=1e-5)
    written.append(found.written)
  chex.assert_trees_all_equal(written[0], params.written)
  chex.assert_trees_all_close(written[1], written[2], rtol=1e-4, atol=1e-6)
  # First-order: the same numbers, other gradients.
  slopes = []
  for first_order in (False, True):
    memory = pattern_memories.energy(
      network, write_steps=2, first_order=first_order, **rates
    )
    of = lambda params: memory.recall(params, stored, queries).iterates.sum()  # noqa: B023
    slopes.append(jax.jit(jax.grad(of))(params).written)
  gaps = jax.tree.map(lambda x, y: float(abs(x - y).max()), *slopes)
  assert max(jax.tree.leaves(gaps)) > 1e-5


def test_memories_are_at_most_as_large_as_what_an_energy_writes():
  network = energy_networks.gated(hidden_size=8, dynamic_size=3, num_hops=1)
  patterns = jnp.zeros((N, D))  # the energy writes (6 + 1) 3 numbers
  for kind, size in (("memory_network", 20), ("dynamic_kanerva", 3 * (3 + 4))):
    memory = pattern_memories.as_large_as(network, (D,), kind, **SIZES)

    def written(memory=memory):
      params = memory.init(jax.random.key(0), patterns[0])
      return memory.recall(params, patterns, patterns).written

    leaves = jax.tree.leaves(jax.eval_shape(written))
    assert sum(x.size for x in leaves) == size


def test_rows_are_as_many_as_fit():
  for num_floats in range(4, 400):
    for pattern_size in (2, 5, 32):
      rows, size = pattern_memories.kanerva_sizes(num_floats, pattern_size)
      fits = lambda k, c=size, n=num_floats: k * (k + c) <= n and k < c
      assert rows >= 1 and size <= pattern_size
      assert fits(rows) and not fits(rows + 1)


def test_bad_arguments_are_refused():
  network = energy_networks.gated(hidden_size=8, dynamic_size=3, num_hops=1)
  with pytest.raises(ValueError, match="kind is 'list'; it must be one of"):
    pattern_memories.as_large_as(network, (D,), "list", **SIZES)
  with pytest.raises(ValueError, match="num_floats is 3"):
    pattern_memories.kanerva_sizes(3, 5)
  with pytest.raises(ValueError, match="pattern_size is 1"):
    pattern_memories.kanerva_sizes(9, 1)
