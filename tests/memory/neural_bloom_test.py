"""Tests of the Neural Bloom Filter: loops and slopes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.memory import neural_bloom
from tests.oracles import assert_close
from tests.whole import each

neural_bloom = each(neural_bloom)

M, W, D, N = 4, 3, 5, 6


def example(seed=0):
  """A memory with something in it, addresses, words."""
  rng = np.random.default_rng(seed)
  addresses = rng.dirichlet(np.ones(M), N)
  return rng.normal(size=(M, W)), addresses, rng.normal(size=(N, W))


def test_a_set_is_its_elements_in_any_order():
  with jax.enable_x64(True):
    memory, addresses, words = example()
    expected = memory.copy()
    for a, w in zip(addresses, words, strict=True):
      expected += np.outer(a, w)
    write = jax.jit(neural_bloom.write)
    found = write(memory, addresses, words)
    assert_close(found, expected)
    order = np.random.default_rng(1).permutation(N)
    assert_close(write(memory, addresses[order], words[order]), expected)

    def one(memory, item):
      a, w = item
      return neural_bloom.write(memory, a[None], w[None]), None

    in_turn, _ = jax.lax.scan(one, memory, (addresses, words))
    assert_close(in_turn, expected)
    zero = jnp.zeros((M, W))
    parts = [write(zero, addresses[s], words[s]) for s in np.split(order, 2)]
    assert_close(memory + parts[0] + parts[1], expected)
    # What is written again with its sign changed is gone.
    assert_close(write(found, addresses, -words), memory)
    # Twice is not once.
    twice = write(found, addresses, words)
    assert_close(twice - memory, 2 * (expected - memory))


def test_of_an_empty_set_nothing_is_written():
  memory, addresses, words = (jnp.asarray(x) for x in example())
  found = neural_bloom.write(memory, addresses[:0], words[:0])
  np.testing.assert_array_equal(found, memory)
  nothing = jnp.zeros((0, 2), jnp.int32), jnp.zeros((0, 2)), words[:0]
  np.testing.assert_array_equal(
    neural_bloom.sparse_write(memory, *nothing), memory
  )
  np.testing.assert_array_equal(neural_bloom.init(M, W), np.zeros((M, W)))


def test_a_read_is_not_summed_over_slots():
  memory, addresses, _ = (jnp.asarray(x) for x in example())
  found = neural_bloom.read(memory, addresses[0])
  assert found.shape == (M * W,)
  expected = [
    a * x for a, row in zip(addresses[0], memory, strict=True) for x in row
  ]
  assert_close(found, expected, rtol=1e-6)
  at_one = neural_bloom.read(memory, jnp.eye(M)[2]).reshape(M, W)
  assert_close(at_one[2], memory[2])
  assert not np.delete(at_one, 2, axis=0).any()
  # By a sum two memories would be one that differ only by an exchange.
  exchanged = neural_bloom.read(memory[::-1], jnp.full(M, 0.25))
  assert np.abs(exchanged - neural_bloom.read(memory, jnp.full(M, 0.25))).max()


def score(memory, query, keys, readout):
  a = neural_bloom.address(query, keys)
  return jnp.tanh(neural_bloom.read(memory, a)) @ readout


def test_gradients_go_through_writes_and_reads():
  with jax.enable_x64(True):
    rng = np.random.default_rng(2)
    keys, readout = rng.normal(size=(M, D)), rng.normal(size=M * W)
    queries, words = rng.normal(size=(N, D)), rng.normal(size=(N, W))
    labels = np.array([1.0, 0.0])
    asked = rng.normal(size=(2, D))

    def of_memory(memory):
      logits = jax.vmap(score, (None, 0, None, None))(
        memory, asked, keys, readout
      )
      return neural_bloom.loss(logits, labels)

    def of_set(addresses, words):
      return of_memory(neural_bloom.write(jnp.zeros((M, W)), addresses, words))

    addresses = jax.vmap(neural_bloom.address, (0, None))(queries, keys)
    by_address, by_word = jax.grad(of_set, argnums=(0, 1))(addresses, words)
    memory = np.asarray(addresses).T @ words
    slopes, step = np.zeros((M, W)), 1e-6
    for i in np.ndindex(M, W):
      moved = np.zeros((M, W))
      moved[i] = step
      sides = of_memory(memory + moved), of_memory(memory - moved)
      slopes[i] = (sides[0] - sides[1]) / (2 * step)
    assert np.abs(slopes).min() > 1e-6
    assert_close(by_word, addresses @ slopes, rtol=1e-6, atol=1e-9)
    assert_close(by_address, words @ slopes.T, rtol=1e-6, atol=1e-9)


def test_addresses_are_softmaxes_of_products():
  with jax.enable_x64(True):
    rng = np.random.default_rng(4)
    query, keys = rng.normal(size=D), rng.normal(size=(M, D))
    powers = np.exp(keys @ query)
    dense = neural_bloom.address(query, keys)
    assert_close(dense, powers / powers.sum())
    # Not a cosine: a longer query is sharper.
    assert neural_bloom.address(3 * query, keys).max() > dense.max()
    slots, weights = neural_bloom.sparse_address(query, keys, count=M)
    np.testing.assert_array_equal(slots, np.arange(M))
    assert_close(weights, dense)
    slots, weights = neural_bloom.sparse_address(query, keys, count=2)
    best = np.sort(np.argsort(-powers)[:2])
    np.testing.assert_array_equal(slots, best)
    assert_close(weights, powers[best] / powers[best].sum())
    by_query = jax.grad(
      lambda query: neural_bloom.sparse_address(query, keys, count=2)[1][0]
    )(query)
    p, q = weights
    assert_close(by_query, p * q * (keys[best[0]] - keys[best[1]]))


def test_sparse_is_dense_where_all_slots_are_kept():
  memory, _, words = (jnp.asarray(x, jnp.float32) for x in example())
  rng = np.random.default_rng(4)
  queries = jnp.asarray(rng.normal(size=(N, D)), jnp.float32)
  keys = neural_bloom.random_keys(jax.random.key(0), M, D)
  dense = jax.vmap(neural_bloom.address, (0, None))(queries, keys)
  for count in (M, 2):
    find = functools.partial(neural_bloom.sparse_address, count=count)
    slots, weights = jax.vmap(find, (0, None))(queries, keys)
    assert_close(weights.sum(axis=1), np.ones(N), rtol=1e-6)
    scattered = np.zeros((N, M), np.float32)
    np.put_along_axis(scattered, np.asarray(slots), np.asarray(weights), 1)
    if count == M:
      np.testing.assert_array_equal(scattered, dense)
    found = neural_bloom.sparse_write(memory, slots, weights, words)
    expected = neural_bloom.write(memory, jnp.asarray(scattered), words)
    assert_close(found, expected, rtol=1e-5, atol=1e-6)
    read = neural_bloom.sparse_read(memory, slots[0], weights[0])
    expected = neural_bloom.read(memory, scattered[0]).reshape(M, W)
    np.testing.assert_array_equal(read.reshape(count, W), expected[slots[0]])
  # Of one element only its own slots change.
  changed = neural_bloom.sparse_write(memory, slots[:1], weights[:1], words[:1])
  is_changed = (changed != memory).any(axis=1)
  assert set(np.flatnonzero(is_changed)) == set(slots[0].tolist())
  # A slot that there is not is none.
  absent = jnp.array([[-1, M]]), jnp.ones((1, 2)), words[:1]
  np.testing.assert_array_equal(
    neural_bloom.sparse_write(memory, *absent), memory
  )


def test_addresses_of_few_bits_are_the_same_sparse_and_dense():
  given = np.random.default_rng(6).normal(size=(9, 8))
  query, *keys = jnp.asarray(given, jnp.bfloat16)
  keys = jnp.stack(keys)
  dense = neural_bloom.address(query, keys)
  _, weights = neural_bloom.sparse_address(query, keys, count=8)
  assert dense.dtype == weights.dtype == jnp.bfloat16
  np.testing.assert_array_equal(weights, dense)


def test_slots_of_equal_scores_are_the_first():
  keys = jnp.ones((5, 2)).at[1].set(0.0)
  slots, weights = neural_bloom.sparse_address(jnp.ones(2), keys, count=2)
  np.testing.assert_array_equal(slots, [0, 2])
  np.testing.assert_array_equal(weights, [0.5, 0.5])


def test_words_of_more_bits_than_the_memory_are_not_rounded_first():
  # By a bfloat16 of 1 + 0.4 / 128, which is 1, there would be 3.
  addresses, words = jnp.full((3, 1), 1 + 0.4 / 128), jnp.ones((3, 1))
  memory = neural_bloom.init(1, 1, dtype=jnp.bfloat16)
  assert neural_bloom.write(memory, addresses, words) == 3 + 2**-6
  slots = jnp.zeros((3, 1), jnp.int32)
  found = neural_bloom.sparse_write(memory, slots, addresses, words)
  assert found == 3 + 2**-6


def test_keys_stay_when_there_are_more():
  few = neural_bloom.random_keys(jax.random.key(1), 50, 40)
  many = neural_bloom.random_keys(jax.random.key(1), 60, 40)
  np.testing.assert_array_equal(few, many[:50])
  assert len(np.unique(many)) > 0.99 * 60 * 40
  assert abs(many.mean()) < 0.1
  assert abs(many.std() - 1) < 0.1


def test_many_small_writes_are_not_lost():
  rng = np.random.default_rng(5)
  addresses = jnp.asarray(rng.dirichlet(np.ones(2), 100_000), jnp.bfloat16)
  words = jnp.asarray(rng.uniform(size=(100_000, 1)), jnp.bfloat16)
  exact = np.asarray(addresses, np.float64).T @ np.asarray(words, np.float64)
  for dtype, tolerance in ((jnp.float32, 1e-4), (jnp.bfloat16, 0.01)):
    memory = neural_bloom.init(2, 1, dtype=dtype)
    found = neural_bloom.write(memory, addresses, words)
    assert found.dtype == dtype
    assert_close(np.asarray(found, np.float64), exact, rtol=tolerance)
    slots = jnp.tile(jnp.arange(2), (100_000, 1))
    found = neural_bloom.sparse_write(memory, slots, addresses, words)
    assert_close(np.asarray(found, np.float64), exact, rtol=tolerance)


def test_sets_side_by_side_know_nothing_of_each_other():
  both = [jnp.stack(x) for x in zip(example(0), example(1), strict=True)]
  together = jax.vmap(neural_bloom.write)(*both)
  for i in range(2):
    alone = neural_bloom.write(*(x[i] for x in both))
    assert_close(together[i], alone, rtol=1e-6)


def test_the_loss_is_a_cross_entropy_of_logits():
  logits, labels = jnp.array([2.0, -1.0, 0.5]), jnp.array([1, 0, 0])
  p = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
  expected = -np.mean(np.log([p[0], 1 - p[1], 1 - p[2]]))
  assert_close(neural_bloom.loss(logits, labels), expected, rtol=1e-6)
  extreme = jnp.array([200.0, -200.0])
  assert_close(neural_bloom.loss(extreme, jnp.array([0, 1])), 200.0)
  assert float(neural_bloom.loss(extreme, jnp.array([1, 0]))) < 1e-6


def test_bad_arguments_are_refused():
  memory, addresses, words = (jnp.asarray(x) for x in example())
  for sizes, name in (((0, 2), "num_slots"), ((2, 0), "word_size")):
    with pytest.raises(ValueError, match=f"{name} is 0"):
      neural_bloom.init(*sizes)
  with pytest.raises(ValueError, match="query_size is 0"):
    neural_bloom.random_keys(jax.random.key(0), 2, 0)
  with pytest.raises(ValueError, match="num_slots is 0"):
    neural_bloom.random_keys(jax.random.key(0), 0, 2)
  for bad in (0, M + 1, -1):
    with pytest.raises(ValueError, match=f"count is {bad}; it must be"):
      neural_bloom.sparse_address(jnp.ones(W), memory, count=bad)
  with pytest.raises(ValueError, match="logits has 0 items"):
    neural_bloom.loss(jnp.ones(0), jnp.ones(0))
  with pytest.raises(ValueError, match="addresses has shape"):
    neural_bloom.write(memory, addresses[:, 1:], words)
  with pytest.raises(ValueError, match="words has shape"):
    neural_bloom.write(memory, addresses[1:], words)
  with pytest.raises(ValueError, match="weights has shape"):
    neural_bloom.read(memory, addresses)
  with pytest.raises(ValueError, match=r"labels has shape \[3\]"):
    neural_bloom.loss(jnp.ones(2), jnp.ones(3))
