"""A ring buffer of the latest transitions, sampled uniformly.

An item is any tree of arrays. Writing takes the same time at any capacity: in a
scan, or jitted with the state donated, the arrays are updated in place.

All leaves of an item with one dtype share a row, so that an item is written,
and each item of a batch read, at one place. As separate arrays, XLA fuses small
leaves with their readers after a write, and then copies them whole every step.
"""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

__all__ = ["State", "add", "contents", "extend", "init", "sample"]


class State(NamedTuple):
  """A ring buffer; the oldest items are overwritten first."""

  rows: dict[str, jax.Array]  # dtype -> [capacity, numbers per item]
  example: Any  # an item of zeros, which defines the layout of a row
  position: jax.Array  # [] int32, index of the next write
  size: jax.Array  # [] int32, number of stored items


def init(example: Any, capacity: int) -> State:
  """Makes an empty ring.

  Args:
    example: an item, or its `jax.ShapeDtypeStruct`s; only shapes and dtypes
      matter. Keep pixels as uint8.
    capacity: largest number of items.

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
  """Adds one item, overwriting the oldest if the ring is full.

  Args:
    state: the ring.
    item: a tree like the example.
    is_kept: whether to add the item, [] bool.

  Returns:
    The ring.

  Raises:
    AssertionError: the item's shapes differ from the example's.

  Reference:
    Lillicrap et al., 2016 (arXiv 1509.02971), section 3: a full buffer discards
    its oldest transitions.

  >>> ring = add(init(jnp.zeros(2), 3), jnp.ones(2))
  >>> int(ring.size), contents(ring)[0].tolist()
  (1, [1.0, 1.0])
  """
  item = jax.tree.map(lambda x: jnp.asarray(x)[None], item)
  new, where = _packed(item, state.example), state.position

  def write(old, row):
    if is_kept is not True:  # selecting between whole rings would copy them
      present = jax.lax.dynamic_slice_in_dim(old, where, 1)
      row = jnp.where(is_kept, row, present)
    return jax.lax.dynamic_update_slice_in_dim(old, row, where, axis=0)

  rows = {name: write(old, new[name]) for name, old in state.rows.items()}
  return _advanced(state, rows, jnp.asarray(is_kept, jnp.int32))


def extend(
  state: State, items: Any, *, is_kept: jax.Array | None = None
) -> State:
  """Adds several items in order.

  Args:
    state: the ring.
    items: a tree like the example, [n, ...] each, n at most the capacity.
    is_kept: which items to add, [n] bool; None: all.

  Returns:
    The ring.

  Raises:
    AssertionError: the items' shapes differ from the example's.
    ValueError: n exceeds the capacity.

  Reference:
    Lillicrap et al., 2016 (arXiv 1509.02971), section 3: a full buffer discards
    its oldest transitions.

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
  """Samples items uniformly, with replacement.

  Args:
    key: typed key.
    state: the ring, with at least one item; an empty one returns zeros.
    batch_size: number of items.

  Returns:
    A tree like the example, [batch_size, ...] each.

  Reference:
    Lillicrap et al., 2016 (arXiv 1509.02971), algorithm 1.

  >>> ring = add(init(jnp.zeros(()), 10), jnp.ones(()))
  >>> sample(jax.random.key(0), ring, 3).tolist()
  [1.0, 1.0, 1.0]
  """
  # The remainder's bias towards the first items is at most size / 2^32, which
  # is negligible; `randint` draws twice to reduce it.
  bits = jax.random.bits(key, (batch_size,))
  size = jnp.maximum(state.size, 1).astype(bits.dtype)
  chosen = (bits % size).astype(jnp.int32)
  rows = {name: rows[chosen] for name, rows in state.rows.items()}
  return _unpacked(rows, state.example)


def contents(state: State) -> Any:
  """Returns all entries of the ring, including empty ones.

  Args:
    state: the ring.

  Returns:
    A tree like the example, [capacity, ...] each; the latest item is at
    `position - 1`.

  Reference:
    Lillicrap et al., 2016 (arXiv 1509.02971), section 3.

  >>> contents(add(init(jnp.zeros(()), 3), jnp.ones(()))).tolist()
  [1.0, 0.0, 0.0]
  """
  return _unpacked(state.rows, state.example)


def _advanced(state, rows, count):
  """Returns the ring with new rows, which hold `count` more items."""
  capacity = _capacity(state)
  position = (state.position + count) % capacity
  size = jnp.minimum(state.size + count, capacity)
  return state._replace(rows=rows, position=position, size=size)


def _capacity(state):
  return len(next(iter(state.rows.values())))


def _packed(items, example):
  """Concatenates the leaves of each dtype: {dtype: [n, numbers]}."""
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
  """Splits rows into leaves, in the order in which they were packed."""
  start = dict.fromkeys(rows, 0)

  def unpack(like):
    name, first = like.dtype.name, start[like.dtype.name]
    start[name] = first + like.size
    part = rows[name][:, first : first + like.size]
    return part.reshape(len(part), *like.shape)

  return jax.tree.map(unpack, example)
