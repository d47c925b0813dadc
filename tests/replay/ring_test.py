"""Tests of lilly.replay.ring against a list that forgets its oldest."""

import collections

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lilly.replay import ring
from tests import haste, oracles
from tests.whole import each

eager = ring  # not compiled: there values are known
ring = each(ring)


def items_of(numbers):
  """Items that say their number in two shapes and dtypes."""
  numbers = np.asarray(numbers)
  pixels = np.broadcast_to(numbers[..., None, None], (*numbers.shape, 2, 3))
  return {
    "pixels": pixels.astype(np.uint8),
    "reward": numbers.astype(np.float32),
  }


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.lists(st.integers(0, 4), max_size=6))
def test_holds_the_latest(capacity, counts):
  state = ring.init(jax.tree.map(jnp.asarray, items_of(0)), capacity)
  expected, number = collections.deque(maxlen=capacity), 1
  for count in counts:
    count = min(count, capacity)
    numbers = np.arange(number, number + count)
    state = ring.extend(state, items_of(numbers))
    expected.extend(numbers)
    number += count
  assert int(state.size) == len(expected)
  oldest = (int(state.position) - len(expected)) % capacity
  order = (oldest + np.arange(len(expected))) % capacity
  for name, wanted in items_of(list(expected) or np.zeros(0)).items():
    found = ring.contents(state)[name]
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(np.asarray(found)[order], wanted)


def test_one_item_is_added_as_a_list_of_one():
  states = [ring.init(jnp.zeros(()), 3)] * 2
  for number in range(5):
    states[0] = ring.add(states[0], jnp.float32(number))
    states[1] = ring.extend(states[1], jnp.full(1, number, jnp.float32))
  jax.tree.map(np.testing.assert_array_equal, *states)
  np.testing.assert_array_equal(ring.contents(states[0]), [3, 4, 2])


@pytest.mark.parametrize("kept", [[1, 1, 1, 1, 0, 1], [0, 1, 0, 1, 1, 1]])
def test_what_is_not_kept_leaves_no_trace(kept):
  states = [ring.init(jnp.zeros(()), 3)] * 2
  for number, is_kept in enumerate(kept, start=1):
    states[0] = ring.add(
      states[0], jnp.float32(number), is_kept=jnp.asarray(is_kept, bool)
    )
    if is_kept:
      states[1] = ring.add(states[1], jnp.float32(number))
    # Nothing but an empty place may be written over.
    chex.assert_trees_all_equal(*states)
    np.testing.assert_array_equal(*(ring.contents(x) for x in states))


@settings(max_examples=10, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=5))
def test_of_several_those_not_kept_leave_no_trace(kept):
  states = [ring.extend(ring.init(jnp.zeros(()), 5), jnp.ones(3))] * 2
  items = 2 + jnp.arange(len(kept), dtype=jnp.float32)
  kept = np.array(kept)
  states[0] = ring.extend(states[0], items, is_kept=jnp.asarray(kept))
  if kept.any():
    states[1] = ring.extend(states[1], items[kept])
  chex.assert_trees_all_equal(*states)
  np.testing.assert_array_equal(*(ring.contents(x) for x in states))


def test_samples_are_uniform_over_what_is_there():
  state = ring.extend(ring.init(jnp.zeros(()), 10), jnp.arange(1.0, 5.0))
  drawn = np.asarray(ring.sample(jax.random.key(0), state, 4000))
  values, counts = np.unique(drawn, return_counts=True)
  np.testing.assert_array_equal(values, [1, 2, 3, 4])  # never an empty place
  # Chi-square of 3 degrees of freedom: above 16.3 once in a thousand.
  assert np.sum((counts - 1000) ** 2 / 1000) < 16.3
  state = ring.extend(state, jnp.arange(5.0, 13.0))
  drawn = np.asarray(ring.sample(jax.random.key(1), state, 4000))
  values, counts = np.unique(drawn, return_counts=True)
  np.testing.assert_array_equal(values, np.arange(3, 13))
  assert np.sum((counts - 400) ** 2 / 400) < 27.9  # 9 degrees of freedom


def test_parts_of_an_item_stay_together():
  example = jax.tree.map(jnp.asarray, items_of(0))
  state = ring.extend(ring.init(example, 8), items_of(np.arange(6)))
  batch = ring.sample(jax.random.key(0), state, 32)
  np.testing.assert_array_equal(batch["pixels"][:, 1, 2], batch["reward"])


@pytest.mark.parametrize("batch", [(), (2,)])
def test_nothing_is_copied_in_a_loop(batch):
  def step(carry, _):
    state, total, key = carry
    key, key_sample = jax.random.split(key)
    state = ring.add(state, (jnp.full(3, total), total))
    rows, values = ring.sample(key_sample, state, 4)
    return (state, total + jnp.sum(rows) + jnp.sum(values), key), None

  def run(state, key):
    return jax.lax.scan(step, (state, jnp.float32(1), key), None, length=7)

  state = jax.eval_shape(lambda: ring.init((jnp.zeros(3), jnp.zeros(())), 50))
  key = jax.eval_shape(lambda: jax.random.key(0))
  inputs = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((*batch, *x.shape), x.dtype), (state, key)
  )
  for _ in batch:
    run = jax.vmap(run)
  lowered = jax.jit(run, donate_argnums=0).lower(*inputs)
  text = lowered.compile(haste.AS_USED).as_text()
  assert "50,4]" in text
  assert not oracles.copies_in_loops(text, (*batch, 50, 4))


def test_bad_input_is_refused():
  with pytest.raises(ValueError, match="capacity is 0"):
    ring.init(jnp.zeros(()), 0)
  state = ring.init(jnp.zeros(2), 3)
  with pytest.raises(ValueError, match="4 items do not fit into a ring of 3"):
    ring.extend(state, jnp.zeros((4, 2)))
  with pytest.raises(
    ValueError, match=r"item has shape \[1\]; it must be \[2\]"
  ):
    ring.add(state, jnp.zeros(1))
  with pytest.raises(ValueError, match="items has shape"):
    ring.extend(state, jnp.zeros((2, 1)))
  with pytest.raises(ValueError, match="batch_size is -1"):
    ring.sample(jax.random.key(0), state, -1)
  with pytest.raises(
    ValueError, match=r"example is \{\}; it must hold an array"
  ):
    ring.init({}, 3)
  state = ring.init(jax.tree.map(jnp.asarray, items_of(0)), 3)
  for other in ({"reward": jnp.zeros(())}, jnp.zeros(()), [jnp.zeros(())] * 2):
    with pytest.raises(ValueError, match="item is no tree like the example"):
      ring.add(state, other)


_BYTES = np.zeros((2, 2), np.uint8)


@pytest.mark.parametrize(
  ("example", "item", "message"),
  [
    (0, 0.5, "is of type float64; it is stored as int32"),
    (0, np.float32(2), "is of type float32; it is stored as int32"),
    (
      _BYTES,
      np.full((2, 2), 0.7, np.float32),
      "float32; it is stored as uint8",
    ),
    (np.uint8(0), np.int32(3), "is of type int32; it is stored as uint8"),
    (np.uint8(0), 300, "of type int64; it is stored as uint8"),
    (np.int32(0), np.int64(2**40), "is 1099511627776, of type int64"),
    (np.int32(0), np.uint32(3), "is of type uint32; it is stored as int32"),
    (np.int16(0), np.int32(3), "is of type int32; it is stored as int16"),
    (True, 1, "it is stored as bool, which cannot hold it"),
    (np.float32(0), 1e39, "is 1e\\+39, of type float64"),
    (np.float16(0), np.int32(70_000), "is 70000, of type int32"),
  ],
)
def test_what_the_examples_type_cannot_hold_is_refused(example, item, message):
  example, item = {"a": 1.0, "b": [example]}, {"a": 0.25, "b": [item]}
  state = eager.init(example, 4)
  with pytest.raises(ValueError, match=rf"item\['b'\]\[0\] .*{message}"):
    eager.add(state, item)
  items = jax.tree.map(lambda x: np.stack([x, x]), item)
  with pytest.raises(ValueError, match=rf"items\['b'\]\[0\] .*{message}"):
    eager.extend(state, items)


def test_types_are_compared_where_values_are_not_known():
  state = ring.init(jnp.uint8(0), 4)
  for item in (jnp.float32(1), jnp.int32(1)):
    with pytest.raises(ValueError, match="item is of type"):
      jax.eval_shape(eager.add, state, item)
    with pytest.raises(ValueError, match="items is of type"):
      jax.eval_shape(eager.extend, state, item[None])


@pytest.mark.parametrize(
  ("example", "item"),
  [
    *((0, 3), (0, np.int64(-3)), (0, np.uint16(3)), (0, True)),
    *((np.uint8(0), 255), (np.int8(0), -128), (False, True)),
    *((0.0, 0.1), (0.0, np.float64(0.1)), (0.0, np.int32(7)), (0.0, np.inf)),
    (jnp.zeros((), jnp.bfloat16), 1.5),
    (jnp.zeros((), jnp.bfloat16), np.float32(-np.inf)),
  ],
)
def test_what_is_stored_is_what_was_given(example, item):
  kept = eager.contents(eager.add(eager.init(example, 1), item))[0]
  assert kept.dtype == jnp.result_type(jnp.asarray(example))
  np.testing.assert_allclose(np.float64(kept), np.float64(item), rtol=1e-7)


def test_a_ring_from_a_file_is_a_ring():
  items = items_of(np.arange(1, 4))
  state = ring.init(items_of(np.array(0)), 4)
  loaded = jax.device_get(state)
  for filled, expected in (
    (eager.extend(loaded, items), ring.extend(state, items)),
    (eager.add(loaded, items_of(5)), ring.add(state, items_of(5))),
  ):
    chex.assert_trees_all_equal(filled, expected)
