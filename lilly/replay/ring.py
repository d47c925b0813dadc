"""Replay of the latest transitions, sampled uniformly.

An item is any tree of arrays. Writing takes the same time at any capacity: in a
scan, or jitted with the state donated, the arrays are changed in place.

The numbers of an item lie side by side in one row: there is one place to write
and, for each item of a batch, one to read. Kept apart, small leaves are fused
with what reads them after a write, and then copied whole at every step.
"""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

__all__ = ["State", "add", "contents", "extend", "init", "sample"]


class State(NamedTuple):
  """The items, oldest overwritten first."""

  rows: dict[str, jax.Array]  # by dtype, [capacity, numbers of an item]
  example: Any  # an item of zeros, which says how rows are read
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

  >>> init({"reward": jnp.zeros(())}, 100).rows["float32"].shape
  (100, 1)
  """
  if capacity < 1:
    raise ValueError(f"capacity is {capacity}; it must be at least 1.")
  zeros = jax.tree.map(
    lambda x: jnp.zeros(jnp.shape(x), jnp.result_type(x)), example
  )
  one = _packed(jax.tree.map(lambda x: x[None], zeros), zeros)
  rows = {
    name: jnp.zeros((capacity, row.shape[1]), row.dtype)
    for name, row in one.items()
  }
  return State(rows, zeros, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


def add(state: State, item: Any, *, is_kept: bool | jax.Array = True) -> State:
  """Adds one item, over the oldest if the ring is full.

  Args:
    state: the ring.
    item: a tree as the example.
    is_kept: whether the item is added at all, [] bool.

  Returns:
    The ring.

  Raises:
    AssertionError: the item's shapes are not the example's.

  Reference:
    Lillicrap et al., 2016 (arXiv 1509.02971), section 3: where the buffer is
    full the oldest transitions are discarded.

  >>> ring = add(init(jnp.zeros(2), 3), jnp.ones(2))
  >>> int(ring.size), contents(ring)[0].tolist()
  (1, [1.0, 1.0])
  """
  item = jax.tree.map(lambda x: jnp.asarray(x)[None], item)
  new, where = _packed(item, state.example), state.position

  def write(old, row):
    if is_kept is not True:  # a choice between rows: one of rings copies them
      present = jax.lax.dynamic_slice_in_dim(old, where, 1)
      row = jnp.where(is_kept, row, present)
    return jax.lax.dynamic_update_slice_in_dim(old, row, where, axis=0)

  rows = {name: write(old, new[name]) for name, old in state.rows.items()}
  return _advanced(state, rows, jnp.asarray(is_kept, jnp.int32))


def extend(
  state: State, items: Any, *, is_kept: jax.Array | None = None
) -> State:
  """Adds several items, the first of them first.

  Args:
    state: the ring.
    items: a tree as the example, [n, ...] each, n at most the capacity.
    is_kept: which items are added at all, [n] bool; None: all.

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
  capacity = _capacity(state)
  count = len(jax.tree.leaves(items)[0])
  if count > capacity:
    raise ValueError(
      f"{count} items do not fit into a ring of {capacity}; add fewer at once."
    )
  new = _packed(items, state.example)
  if is_kept is None:
    where = (state.position + jnp.arange(count)) % capacity
  else:
    ranks = jnp.cumsum(is_kept, dtype=jnp.int32)
    where = (state.position + ranks - 1) % capacity
    where = jnp.where(is_kept, where, capacity)  # beyond the end: dropped
    count = ranks[-1]

  rows = {
    name: old.at[where].set(new[name], mode="drop")
    for name, old in state.rows.items()
  }
  return _advanced(state, rows, count)


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
  # A remainder prefers the first items by size / 2^32, which nobody can see;
  # `randint` draws twice to halve that.
  bits = jax.random.bits(key, (batch_size,))
  size = jnp.maximum(state.size, 1).astype(bits.dtype)
  chosen = (bits % size).astype(jnp.int32)
  rows = {name: rows[chosen] for name, rows in state.rows.items()}
  return _unpacked(rows, state.example)


def contents(state: State) -> Any:
  """Gives every place of the ring, those that are empty too.

  Args:
    state: the ring.

  Returns:
    A tree as the example, [capacity, ...] each; the latest item is at
    `position - 1`.

  Reference:
    Lillicrap et al., 2016 (arXiv 1509.02971), section 3.

  >>> contents(add(init(jnp.zeros(()), 3), jnp.ones(()))).tolist()
  [1.0, 0.0, 0.0]
  """
  return _unpacked(state.rows, state.example)


def _advanced(state, rows, count):
  """The ring with rows that have so many more items."""
  capacity = _capacity(state)
  position = (state.position + count) % capacity
  size = jnp.minimum(state.size + count, capacity)
  return state._replace(rows=rows, position=position, size=size)


def _capacity(state):
  return len(next(iter(state.rows.values())))


def _packed(items, example):
  """Lays the leaves of one dtype side by side: {dtype: [n, numbers]}."""
  parts: dict[str, list[jax.Array]] = {}

  def pack(like, new):
    new = jnp.asarray(new, like.dtype)
    chex.assert_shape(new, (len(new), *like.shape))
    parts.setdefault(like.dtype.name, []).append(
      new.reshape(len(new), like.size)
    )

  jax.tree.map(pack, example, items)
  return {name: jnp.concatenate(rows, 1) for name, rows in parts.items()}


def _unpacked(rows, example):
  """Cuts rows into leaves again, in the order in which they were packed."""
  start = dict.fromkeys(rows, 0)

  def unpack(like):
    name, first = like.dtype.name, start[like.dtype.name]
    start[name] = first + like.size
    part = rows[name][:, first : first + like.size]
    return part.reshape(len(part), *like.shape)

  return jax.tree.map(unpack, example)
