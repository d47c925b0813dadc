"""Tests of memories in random use."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.memory import nearest_neighbors
from lilly.nets import memories
from scripts import random_use

_SLOTS, _WORD = 40, 25
_SIZES = {"num_slots": _SLOTS, "word_size": _WORD, "num_heads": 2}


def _index():
  return nearest_neighbors.init(jax.random.key(1), _SLOTS, _WORD, num_tables=2)


_MEMORIES = {
  **{name: make(**_SIZES) for name, make in memories.MEMORIES.items()},
  "sam_lsh": memories.sam(**_SIZES, make_index=_index),
  "sdnc_lsh": memories.sdnc(**_SIZES, make_index=_index),
}
_all_memories = pytest.mark.parametrize("name", _MEMORIES)


def _words(state):
  """The words, and the state with zeros in their place."""
  if hasattr(state, "links") and hasattr(state.memory, "words"):
    words, rest = _words(state.memory)
    return words, state._replace(memory=rest)
  if hasattr(state, "words"):
    words = state.words.words
    zeros = state.words._replace(words=jnp.zeros_like(words))
    return words, state._replace(words=zeros, index=None)
  return state.memory, state._replace(memory=jnp.zeros_like(state.memory))


def _index_of(state):
  return (state.memory if hasattr(state, "links") else state).index


@_all_memories
def test_every_word_is_random_and_nothing_else_changes(name):
  empty = _MEMORIES[name].init()
  full = random_use.fill(jax.random.key(0), empty)
  words, rest = _words(full)
  assert words.shape == (_SLOTS, _WORD)
  np.testing.assert_allclose([words.mean(), words.std()], [0.0, 1.0], atol=0.15)
  assert len(np.unique(words)) > 0.99 * words.size
  for actual, expected in zip(
    jax.tree.leaves(rest), jax.tree.leaves(_words(empty)[1]), strict=True
  ):
    np.testing.assert_array_equal(actual, expected)
  other, _ = _words(random_use.fill(jax.random.key(1), empty))
  assert not np.any(words == other)


@pytest.mark.parametrize("name", ["sam_lsh", "sdnc_lsh"])
def test_every_word_is_filed(name):
  state = random_use.fill(jax.random.key(0), _MEMORIES[name].init())
  expected = nearest_neighbors.file(_index(), _words(state)[0])
  for actual, wanted in zip(_index_of(state), expected, strict=True):
    np.testing.assert_array_equal(actual, wanted)
  assert np.all(expected.places >= 0)


def test_numbers_are_random():
  memory = _MEMORIES["sam"]
  numbers = random_use.interface(jax.random.key(0), memory, 300)
  for x in numbers.values():
    np.testing.assert_allclose([x.mean(), x.std()], [0.0, 1.0], atol=0.2)
  drawn = np.concatenate([np.ravel(x) for x in numbers.values()])
  assert len(np.unique(drawn)) > 0.99 * drawn.size


@_all_memories
def test_numbers_are_what_the_memory_wants(name):
  memory, key = _MEMORIES[name], jax.random.key(0)
  state = jax.eval_shape(memory.init)

  def run(key, state):
    numbers = random_use.interface(key, memory, 7)
    return jax.lax.scan(lambda s, x: memory.step(s, **x), state, numbers)

  after, reads = jax.eval_shape(run, key, state)
  assert reads.shape == (7, *memory.reads)
  assert after == state
