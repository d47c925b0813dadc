"""A ring buffer of the latest transitions, sampled uniformly.

An item is any tree of arrays. Writing takes the same time at any capacity: in a
scan, or jitted with the state donated, the arrays are updated in place.

What is stored is what was given. An item is refused if the type of a leaf, that
of the example, cannot hold it: a fraction in an integer, an int32 in a byte, an
integer in a bool, or a number beyond the range. Only floating-point numbers are
rounded, as in float32 or bfloat16 (see `checks.storable`).

All leaves of an item with one dtype share a row, so that an item is written,
and each item of a batch read, at one place. As separate arrays, XLA fuses small
leaves with their readers after a write, and then copies them whole every step.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import keystr

from lilly import checks

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
    ValueError: capacity is not positive, or the example has no arrays.

  Reference:
    Lillicrap et al., 2016 (arXiv 1509.02971), section 3: 10^6 transitions.

  >>> init({"reward": jnp.zeros(())}, 100).rows["float32"].shape
  (100, 1)
  """
  capacity = checks.whole_number("capacity", capacity, least=1)
  zeros = jax.tree.map(
    lambda x: jnp.zeros(jnp.shape(x), jnp.result_type(x)), example
  )
  rows = {
    name: jnp.zeros((capacity, row.shape[1]), row.dtype)
    for name, row in _packed("example", zeros, zeros).items()
  }
  if not rows:
    raise ValueError(f"example is {example}; it must hold an array.")
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
    ValueError: the item's structure or shapes differ from the example's, or a
      leaf's type cannot hold its value.

  Reference:
    Lillicrap et al., 2016 (arXiv 1509.02971), section 3: a full buffer discards
    its oldest transitions.

  >>> ring = add(init(jnp.zeros(2), 3), jnp.ones(2))
  >>> int(ring.size), contents(ring)[0].tolist()
  (1, [1.0, 1.0])
  """
  state = _checked_state(state)
  new, where = _packed("item", item, state.example), state.position
  if is_kept is not True:
    is_kept = checks.mask("is_kept", is_kept, "")

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
    ValueError: n exceeds the capacity, the items' structure or shapes differ
      from the example's, or a leaf's type cannot hold its values.

  Reference:
    Lillicrap et al., 2016 (arXiv 1509.02971), section 3: a full buffer discards
    its oldest transitions.

  >>> ring = extend(init(jnp.zeros(()), 3), jnp.array([4.0, 5.0]))
  >>> int(ring.position)
  2
  """
  state = _checked_state(state)
  capacity, sizes = _capacity(state), {}
  new = _packed("items", items, state.example, "n", sizes)
  count, _ = sizes["n"]
  if count > capacity:
    raise ValueError(
      f"{count} items do not fit into a ring of {capacity}; add fewer at once."
    )
  if is_kept is None:
    where = (state.position + jnp.arange(count)) % capacity
  else:
    added = checks.mask("is_kept", is_kept, "n", sizes)
    ranks = jnp.cumsum(added, dtype=jnp.int32)
    where = (state.position + ranks - 1) % capacity
    where = jnp.where(added, where, capacity)  # beyond the end: dropped
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
  key = checks.key("key", key)
  state = _checked_state(state)
  batch_size = checks.whole_number("batch_size", batch_size)
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
  state = _checked_state(state)
  return _unpacked(state.rows, state.example)


def _checked_state(state):
  example = jax.tree.map(jnp.asarray, state.example)
  rows, widths, sizes = {}, _widths(example), {}
  for name, row in state.rows.items():
    path = f"state.rows[{name!r}]"
    shape = f"capacity {widths.get(name, 0)}"
    rows[name] = checks.array(path, row, shape, sizes)
  types = {name: row.dtype.name for name, row in rows.items()}
  if types != {name: name for name in widths}:
    raise ValueError(
      f"state.rows has arrays of {sorted(types.values())}; it must have those "
      f"of state.example, {sorted(widths)}."
    )
  position = checks.integers("state.position", state.position, "")
  size = checks.integers("state.size", state.size, "")
  return State(rows, example, position, size)


def _advanced(state, rows, count):
  """Returns the ring with new rows, which hold `count` more items."""
  capacity = _capacity(state)
  position = (state.position + count) % capacity
  size = jnp.minimum(state.size + count, capacity)
  return state._replace(rows=rows, position=position, size=size)


def _capacity(state):
  return len(next(iter(state.rows.values())))


def _widths(example):
  """Counts the numbers of each dtype in an item."""
  widths: dict[str, int] = {}
  for leaf in jax.tree.leaves(example):
    widths[leaf.dtype.name] = widths.get(leaf.dtype.name, 0) + leaf.size
  return widths


def _packed(name, items, example, leading="", sizes=None):
  """Concatenates the leaves of each dtype: {dtype: [n, numbers]}.

  Items have the leading axis n, or none: then n is 1.
  """
  structure = jax.tree.structure(example)
  try:
    leaves = structure.flatten_up_to(items)
  except ValueError as error:
    raise ValueError(
      f"{name} is no tree like the example of the ring, {structure}."
    ) from error
  parts: dict[str, list[jax.Array]] = {}
  paths = jax.tree_util.tree_leaves_with_path(example)
  for (path, like), leaf in zip(paths, leaves, strict=True):
    shape = " ".join([leading, *map(str, like.shape)])
    new = checks.storable(name + keystr(path), leaf, like.dtype)
    new = checks.array(name + keystr(path), new, shape, sizes)
    rows = new if leading else new[None]
    parts.setdefault(like.dtype.name, []).append(
      rows.reshape(len(rows), like.size)
    )
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
