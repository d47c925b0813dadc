"""Tests of the memory network: a NumPy loop, sizes, sets and images."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.nets import attention_memory, set_memories

D, W, N = 6, 3, 4
# Words that are known: the first numbers of a pattern, doubled.
PLAIN = attention_memory.Networks(
  lambda key, x: jnp.array(2.0),
  lambda params, x: params * x[:W],
  lambda params, word: 0.5 * params * word[::-1],
  lambda params, u: jnp.tanh(jnp.concatenate([u, -u])),
)


def example(seed=0):
  rng = np.random.default_rng(seed)
  patterns = rng.integers(0, 2, (N, D)).astype(np.float32)
  return patterns, rng.random((2, D), np.float32)


def recall(memory, params, patterns, queries):
  return set_memories.recall(memory, params, {}, patterns, queries)


def numpy_recall(patterns, queries, num_reads):
  words, found = 2 * patterns[:, :W], []
  for query in queries:
    u = 2 * query[:W][::-1]
    found.append([])
    for _ in range(num_reads):
      scores = np.array([np.exp(m @ u / np.sqrt(W)) for m in words])
      u = u + sum(s * m for s, m in zip(scores, words, strict=True)) / sum(
        scores
      )
      found[-1].append(np.tanh([*u, *-u]))
  return words, np.array(found)


@pytest.mark.parametrize("num_reads", [1, 3])
def test_reads_are_those_of_a_loop(num_reads):
  patterns, queries = example()
  memory = attention_memory.make(PLAIN, num_reads=num_reads)
  words, reads = recall(memory, jnp.array(2.0), patterns, queries)
  expected = numpy_recall(patterns, queries, num_reads)
  assert reads.shape == (2, num_reads, D)
  np.testing.assert_allclose(words, expected[0])
  np.testing.assert_allclose(reads, expected[1], rtol=1e-5)
  assert memory.energy is None


@functools.cache
def made(shape=(D,), **sizes):
  nets = attention_memory.make_networks(
    shape, W, **({"hidden_size": 5} | sizes)
  )
  memory = attention_memory.make(nets, num_reads=2)
  key = jax.random.key(0)
  params, state = jax.jit(memory.init)(key, jnp.zeros(shape))
  assert state == {}
  return nets, memory, params


def test_nothing_but_words_is_kept():
  nets, memory, params = made()
  patterns, queries = example()
  compiled = jax.jit(lambda *given: recall(memory, *given))
  words, reads = compiled(params, patterns, queries)
  assert words.shape == (N, W)
  np.testing.assert_allclose(words[1], nets.encode(params, patterns[1]))
  assert reads.min() > 0 and reads.max() < 1
  # The order of a set does not matter; what is in it does, at every step.
  _, other = compiled(params, patterns[::-1], queries)
  np.testing.assert_allclose(other, reads, rtol=1e-5)
  _, other = compiled(params, 1 - patterns, queries)
  assert (np.abs(other - reads).max(axis=(0, 2)) > 1e-4).all()
  # A query knows nothing of the others.
  _, alone = compiled(params, patterns, queries[1:])
  np.testing.assert_allclose(alone[0], reads[1], rtol=1e-5)


def test_all_networks_learn():
  _, memory, params = made()
  patterns, queries = example()

  def loss(params, x):
    _, reads = recall(memory, params, x, queries)
    return jnp.sum(jnp.square(reads - patterns[:2, None]))

  grads, by_patterns = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, patterns)
  for x in jax.tree.leaves(grads):
    assert np.abs(x).max() > 1e-5
  assert (np.abs(by_patterns).max(axis=1) > 1e-6).all()
  names = {name.split("/")[0] for name in params}
  assert names == {"encoder", "question", "decoder"}


@pytest.mark.parametrize("num_filters", [0, 1])
def test_images_are_patterns_too(num_filters):
  _, memory, params = made((4, 4, 1), num_filters=num_filters)
  images = jnp.ones((N, 4, 4, 1))
  read = functools.partial(recall, memory)
  words, reads = jax.eval_shape(read, params, images, images[:1])
  assert words.shape == (N, W) and reads.shape == (1, 2, 4, 4, 1)
  assert any("halving" in name for name in params) == bool(num_filters)


@pytest.mark.parametrize(
  ("given", "size"),
  # 4 words of 123 numbers would fit, but patterns have 32; one is the least.
  [
    ((495, 4, 32), 32),
    ((495, 33, 32), 15),
    ((495, 34, 32), 14),
    ((8, 8, 4), 1),
    ((7, 8, 4), 1),
  ],
)
def test_words_share_the_numbers_of_a_memory(given, size):
  assert attention_memory.choose_word_size(*given) == size
  total, words, pattern = given
  assert size <= pattern and (size == 1 or size * words <= total)


def test_bad_arguments_are_refused():
  nets, memory, params = made()
  patterns, queries = example()
  with pytest.raises(ValueError, match="patterns has 0 items"):
    recall(memory, params, patterns[:0], queries)
  with pytest.raises(ValueError, match="num_reads is 0"):
    attention_memory.make(nets, num_reads=0)
  with pytest.raises(ValueError, match=r"pattern has shape \["):
    recall(memory, params, patterns[:, :4], queries)
  with pytest.raises(ValueError, match=r"word has shape .*unbatched"):
    nets.ask(params, np.ones((2, 3), np.float32))
  with pytest.raises(ValueError, match=r"u has shape .*unbatched"):
    nets.decode(params, np.ones((2, 3), np.float32))
  for name in ("num_floats", "num_words", "pattern_size"):
    sizes = {"num_floats": 4, "num_words": 2, "pattern_size": 3} | {name: 0}
    with pytest.raises(ValueError, match=f"{name} is 0"):
      attention_memory.choose_word_size(**sizes)
  with pytest.raises(ValueError, match=r"hidden_sizes\[0\] is 0"):
    made(hidden_size=0)
  with pytest.raises(ValueError, match=r"shape is \(2, 3\)"):
    made((2, 3))
