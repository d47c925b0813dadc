"""Replay of the latest transitions, sampled uniformly.

An item is any tree of arrays. Writing takes the same time at any capacity: in a
scan, or jitted with the state donated, the arrays are changed in place.
"""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

__all__ = ["State", "add", "extend", "init", "sample"]


class State(NamedTuple):
  """The items, oldest overwritten first."""

  items: Any  # a tree as one item's, [capacity, ...] each
  position: jax.Array  # [] int32, where the next item goes
  size: jax.Array  # [] int32, how many items there are


def init(example: Any, capacity: int) -> State:
  """Makes an empty ring.

  Args:
    example: an item, or its `jax.ShapeDtypeStruct`s; only shapes and dtypes
      count. Keep pixels uint8.
    capacity: how many items are kept.

  Returns:
    The ring.

  Raises:
    ValueError: capacity is not positive.

  Reference:
    Lillicrap et al., 2016 (arXiv 1509.02971), section 3: 10^6 transitions.

  >>> init({"reward": jnp.zeros(())}, 100).items["reward"].shape
  (100,)
  """
  if capacity < 1:
    raise ValueError(f"capacity is {capacity}; it must be at least 1.")
  items = jax.tree.map(
    lambda x: jnp.zeros((capacity, *jnp.shape(x)), jnp.result_type(x)), example
  )
  return State(items, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


def add(state: State, item: Any) -> State:
  """Adds one item, over the oldest if the ring is full.

  Args:
    state: the ring.
    item: a tree as the example.

  Returns:
    The ring.

  Raises:
    AssertionError: the item's shapes are not the example's.

  Reference:
    Lillicrap et al., 2016 (arXiv 1509.02971), section 3: where the buffer is
    full the oldest transitions are discarded.

  >>> ring = add(init(jnp.zeros(2), 3), jnp.ones(2))
  >>> int(ring.size), ring.items[0].tolist()
  (1, [1.0, 1.0])
  """
  return extend(state, jax.tree.map(lambda x: jnp.asarray(x)[None], item))


def extend(state: State, items: Any) -> State:
  """Adds several items, the first of them first.

  Args:
    state: the ring.
    items: a tree as the example, [n, ...] each, n at most the capacity.

  Returns:
    The ring.

  Raises:
    AssertionError: the items' shapes are not the example's.
    ValueError: n is more than the capacity.

  Reference:
    Lillicrap et al., 2016 (arXiv 1509.02971), section 3: where the buffer is
    full the oldest transitions are discarded.

  >>> ring = extend(init(jnp.zeros(()), 3), jnp.array([4.0, 5.0]))
  >>> int(ring.position)
  2
  """
  capacity = len(jax.tree.leaves(state.items)[0])
  count = len(jax.tree.leaves(items)[0])
  if count > capacity:
    raise ValueError(
      f"{count} items do not fit into a ring of {capacity}; add fewer at once."
    )
  where = (state.position + jnp.arange(count)) % capacity

  def write(old, new):
    chex.assert_shape(new, (count, *old.shape[1:]))
    return old.at[where].set(new.astype(old.dtype))

  return State(
    items=jax.tree.map(write, state.items, items),
    position=(state.position + count) % capacity,
    size=jnp.minimum(state.size + count, capacity),
  )


def sample(key: jax.Array, state: State, batch_size: int) -> Any:
  """Draws items uniformly, with replacement.

  Args:
    key: typed key.
    state: the ring, of one item or more: of an empty one zeros come back.
    batch_size: how many items.

  Returns:
    A tree as the example, [batch_size, ...] each.

  Reference:
    Lillicrap et al., 2016 (arXiv 1509.02971), algorithm 1.

  >>> ring = add(init(jnp.zeros(()), 10), jnp.ones(()))
  >>> sample(jax.random.key(0), ring, 3).tolist()
  [1.0, 1.0, 1.0]
  """
  chosen = jax.random.randint(key, (batch_size,), 0, jnp.maximum(state.size, 1))
  return jax.tree.map(lambda x: x[chosen], state.items)
