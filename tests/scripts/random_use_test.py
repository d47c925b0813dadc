"""Tests of memories in random use."""

import jax
import numpy as np
import pytest

from lilly.nets import cores
from scripts import random_use

_SIZES = {"num_slots": 40, "word_size": 25, "num_heads": 2}


def test_numbers_are_random():
  memory = cores.make_memory("sam", **_SIZES)
  numbers = random_use.interface(jax.random.key(0), memory, 300)
  for x in numbers.values():
    np.testing.assert_allclose([x.mean(), x.std()], [0.0, 1.0], atol=0.2)
  drawn = np.concatenate([np.ravel(x) for x in numbers.values()])
  assert len(np.unique(drawn)) > 0.99 * drawn.size


@pytest.mark.parametrize("name", cores.MEMORIES)
def test_numbers_are_what_the_memory_wants(name):
  memory, key = cores.make_memory(name, **_SIZES), jax.random.key(0)
  state = jax.eval_shape(memory.init)

  def run(key, state):
    numbers = random_use.interface(key, memory, 7)
    return jax.lax.scan(lambda s, x: memory.step(s, **x), state, numbers)

  after, reads = jax.eval_shape(run, key, state)
  assert reads.shape == (7, *memory.reads)
  assert after == state
