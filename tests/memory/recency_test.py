"""Tests of the order of accesses against a list that is sorted anew."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.memory import recency
from tests import haste, oracles


def _order(times):
  return sorted(range(len(times)), key=lambda slot: (times[slot], slot))


def _accesses(num_slots, steps=60):
  """Slots that repeat and leave the range, at times that may go back."""
  rng = np.random.default_rng(num_slots)
  slots = rng.integers(-2, num_slots + 2, (steps, 3))
  slots[:, 1] = np.where(rng.random(steps) < 0.2, slots[:, 0], slots[:, 1])
  slots[7] = [10**9, num_slots, -(10**9)]
  times = np.arange(steps) // 2 - 5 * (rng.random(steps) < 0.1)
  return slots.astype(np.int32), times.astype(np.int32)


@pytest.mark.parametrize("num_slots", [1, 2, 5, 16])
def test_least_recent_slots_are_those_of_a_sorted_list(num_slots):
  counts = sorted({1, min(2, num_slots), num_slots // 2 or 1, num_slots})

  @jax.jit
  def run(slots, times):
    def step(state, access):
      state = recency.touch(state, *access)
      found = [recency.least_recent(state, count) for count in counts]
      return state, (state, found)

    return jax.lax.scan(step, recency.init(num_slots), (slots, times))[1]

  slots, times = _accesses(num_slots)
  states, found = jax.tree.map(np.asarray, run(slots, times))
  expected = np.arange(num_slots) - num_slots
  for t, now in enumerate(times):
    for slot in slots[t]:
      if 0 <= slot < num_slots:
        expected[slot] = max(expected[slot], now)
    for actual, count in zip(found, counts, strict=True):
      assert actual[t].tolist() == _order(expected)[:count]
    kept = states.times[t].reshape(-1)[:num_slots]
    np.testing.assert_array_equal(kept, expected)
    np.testing.assert_array_equal(states.oldest[t], states.times[t].min(axis=1))


def test_slots_come_in_turn_when_each_found_one_is_touched():
  def step(state, time):
    found = recency.least_recent(state, 1)
    return recency.touch(state, found, time), found[0]

  times = jnp.arange(1, 8)
  found = jax.lax.scan(step, recency.init(5), times)[1]
  assert found.tolist() == [0, 1, 2, 3, 4, 0, 1]


@pytest.mark.parametrize("num_slots", [1, 3, 99, 100, 101, 10**4])
def test_blocks_and_their_sizes_are_about_the_square_root(num_slots):
  state = jax.eval_shape(lambda: recency.init(num_slots))
  blocks, size = state.times.shape
  assert max(blocks, size) <= math.isqrt(num_slots - 1) + 1
  assert (blocks - 1) * size < num_slots <= blocks * size


@pytest.mark.parametrize("batch", [(), (3,)])
def test_a_step_copies_no_times(batch):
  def step(state, access):
    found = recency.least_recent(state, 2)
    slots = jnp.concatenate([access[:4], found])
    state = recency.touch(state, slots, access[4])
    return recency.touch(state, access[5:], access[4]), found

  def run(state, accesses):
    return jax.lax.scan(step, state, accesses)

  state = jax.eval_shape(lambda: recency.init(1000))
  inputs = (state, jax.ShapeDtypeStruct((20, 8), jnp.int32))
  inputs = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((*batch, *x.shape), x.dtype), inputs
  )
  for _ in batch:
    run = jax.vmap(run)
  compiled = jax.jit(run).lower(*inputs).compile(haste.AS_USED)
  for array in state:
    shape = (*batch, *array.shape)
    assert not oracles.copies_in_loops(compiled.as_text(), shape)


def test_too_many_are_followed_by_no_slots_or_refused():
  state = recency.init(5)
  assert recency.least_recent(state, 6).tolist() == [0, 1, 2, 3, 4, 5]
  for count in (0, 7, -1):
    with pytest.raises(ValueError, match=f"count is {count}; .* 1 .* 6"):
      recency.least_recent(state, count)
  for num_slots in (0, -1):
    with pytest.raises(ValueError, match=f"num_slots is {num_slots}; .* 1"):
      recency.init(num_slots)
  with pytest.raises(ValueError, match=r"slots has shape \[1, 2\]"):
    recency.touch(state, jnp.zeros((1, 2), jnp.int32), jnp.int32(0))
