"""Least recently accessed slots of a memory, in O(sqrt N).

Slots are kept in about sqrt(N) blocks of about sqrt(N) slots, together with the
oldest access of each block: an access updates its own block only, and the
search looks at the blocks first. A flat search over a million slots would cost
more than the rest of a sparse memory step. All functions raise ValueError for
arguments of another shape than stated.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lilly import checks

__all__ = ["State", "init", "least_recent", "touch"]

_NEVER = jnp.iinfo(jnp.int32).max


class State(NamedTuple):
  """Time of the last access of each slot; slot i is in block i // S."""

  times: jax.Array  # [B, S] int32
  oldest: jax.Array  # [B] int32, the minimum of each block


def init(num_slots: int) -> State:
  """Creates a state in which slot 0 is the oldest, then slot 1, and so on.

  Args:
    num_slots: number of memory slots, N.

  Returns:
    The state; last accesses are -N ... -1.

  Raises:
    ValueError: if `num_slots` is not positive.

  Reference:
    Rae et al. (2016), arXiv:1610.09027, section 3.2, whose linked list this
    replaces: the list's O(1) is a chain of scattered scalar writes.

  >>> least_recent(init(5), 2).tolist()
  [0, 1]
  """
  num_slots = checks.whole_number("num_slots", num_slots, least=1)
  size = math.isqrt(num_slots - 1) + 1
  blocks = -(-num_slots // size)
  slots = jnp.arange(blocks * size, dtype=jnp.int32).reshape(blocks, size)
  times = jnp.where(slots < num_slots, slots - num_slots, _NEVER)
  return State(times, times.min(axis=1))


def _checked_state(state, sizes):
  times = checks.integers("state.times", state.times, "B S", sizes)
  oldest = checks.integers("state.oldest", state.oldest, "B", sizes)
  return State(times, oldest)


def touch(state: State, slots: jax.Array, time: jax.Array) -> State:
  """Records an access to slots; O(J sqrt N).

  Args:
    state: last accesses.
    slots: accessed slots, [J] int32; may repeat, and slots out of range are
      ignored.
    time: time of the access, [] int32; a time before a slot's last access
      changes nothing.

  Returns:
    The updated state.

  Reference:
    Rae et al. (2016), arXiv:1610.09027, section 3.2.

  >>> state = touch(init(3), jnp.array([0]), jnp.int32(1))
  >>> least_recent(state, 1).tolist()
  [1]
  """
  state = _checked_state(state, {})
  slots = checks.integers("slots", slots, "J")
  time = checks.integers("time", time, "").astype(jnp.int32)
  slots = jnp.where(slots < 0, state.times.size, slots)
  if slots.size == 1:  # A single slot is compiled to another kind of update,
    slots = jnp.append(
      slots, state.times.size
    )  # for which XLA copies all times.
  blocks, places = jnp.divmod(slots, state.times.shape[1])
  # XLA updates an array in place if every read of its previous version is known
  # to precede the update. The times were last read to find `oldest`, so make
  # the written value depend on it, by a bound that always holds.
  now = jnp.maximum(time, state.oldest.at[blocks].get(mode="clip"))
  # The maximum does not change the padding of the last block.
  times = state.times.at[blocks, places].max(now, mode="drop")
  oldest = times.at[blocks].get(mode="clip").min(axis=1)
  return State(times, state.oldest.at[blocks].set(oldest, mode="drop"))


def least_recent(state: State, count: int) -> jax.Array:
  """Finds the least recently accessed slots; O(count sqrt N).

  In a loop, the slots touched next should depend on this result, as they do if
  they include it: otherwise XLA copies all times at every step.

  The paper's equation 6 minimises the steps since the last access, which would
  select the slot used last; its text describes the least recently used.

  Args:
    state: last accesses.
    count: number of slots.

  Returns:
    Distinct slots, [count] int32, oldest first, ties to the lowest slot. If
    there are fewer than `count`, they are followed by slots out of range.

  Raises:
    ValueError: if `count` is not from 1 to the total size of the blocks.

  Reference:
    Rae et al. (2016), arXiv:1610.09027, equation 6 with U^(2).

  >>> least_recent(init(4), 3).tolist()
  [0, 1, 2]
  """
  state = _checked_state(state, {})
  blocks, size = state.times.shape
  count = checks.whole_number("count", count, least=1, most=blocks * size)
  # The c oldest slots are in the c blocks with the oldest minima: were one
  # elsewhere, each of these c blocks would contain an older one.
  chosen = jnp.sort(_smallest(state.oldest, min(count, blocks)))
  within = _smallest(state.times[chosen].reshape(-1), count)
  return chosen[within // size] * size + within % size


def _smallest(values: jax.Array, count: int) -> jax.Array:
  if count == 1:  # a fraction of the time of top_k
    return jnp.argmin(values)[None].astype(jnp.int32)
  return jax.lax.top_k(-values, count)[1]
