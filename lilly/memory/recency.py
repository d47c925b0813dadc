"""Which slots of a memory were least recently accessed, in O(sqrt N).

Slots are kept in about sqrt(N) blocks of about sqrt(N) slots with the oldest
access of each block beside them: an access refreshes its own block only, and
the search looks at the blocks first. A flat search over a million slots would
cost more than all the rest of a step of a sparse memory.
"""

import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

__all__ = ["State", "init", "least_recent", "touch"]

_NEVER = jnp.iinfo(jnp.int32).max


class State(NamedTuple):
  """When slots were accessed last; slot i is in block i // S."""

  times: jax.Array  # [B, S] int32
  oldest: jax.Array  # [B] int32, the least of each block


def init(num_slots: int) -> State:
  """Makes a state in which slot 0 is the oldest, then slot 1, and so on.

  Args:
    num_slots: N.

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
  if num_slots < 1:
    raise ValueError(f"num_slots must be positive, got {num_slots}.")
  size = math.isqrt(num_slots - 1) + 1
  blocks = -(-num_slots // size)
  slots = jnp.arange(blocks * size, dtype=jnp.int32).reshape(blocks, size)
  times = jnp.where(slots < num_slots, slots - num_slots, _NEVER)
  return State(times, times.min(axis=1))


def touch(state: State, slots: jax.Array, time: jax.Array) -> State:
  """Notes that slots are accessed now; O(J sqrt N).

  Args:
    state: last accesses.
    slots: accessed slots, [J] int32; may repeat, and a slot out of range is
      absent.
    time: now, [] int32; an earlier one than the last changes nothing.

  Returns:
    The state.

  Reference:
    Rae et al. (2016), arXiv:1610.09027, section 3.2.

  >>> state = touch(init(3), jnp.array([0]), jnp.int32(1))
  >>> least_recent(state, 1).tolist()
  [1]
  """
  chex.assert_rank([slots, time], [1, 0])
  slots = jnp.where(slots < 0, state.times.size, slots)
  if slots.size == 1:  # Of one slot the compiler makes another kind of edit,
    slots = jnp.append(
      slots, state.times.size
    )  # for which it copies all times.
  blocks, places = jnp.divmod(slots, state.times.shape[1])
  # An array is edited in place if every read of its last version is known to
  # precede the edit. The times were last read to find `oldest`: what is written
  # is therefore made to depend on it, by a bound that always holds.
  time = jnp.asarray(time, jnp.int32)
  now = jnp.maximum(time, state.oldest.at[blocks].get(mode="clip"))
  # The maximum leaves alone the places that fill up the last block.
  times = state.times.at[blocks, places].max(now, mode="drop")
  oldest = times.at[blocks].get(mode="clip").min(axis=1)
  return State(times, state.oldest.at[blocks].set(oldest, mode="drop"))


def least_recent(state: State, count: int) -> jax.Array:
  """Finds the slots accessed longest ago; O(count sqrt N).

  In a loop, what is touched next should depend on what this finds, as it does
  when it is among it: otherwise the compiler copies all times at every step.

  The paper's equation 6 asks for the minimum of the steps since the last
  access, which would be the slot used last; its text asks for the least used.

  Args:
    state: last accesses.
    count: how many slots.

  Returns:
    Distinct slots, [count] int32, oldest first and ties to the lowest slot. If
    there are fewer than `count`, slots out of range follow.

  Raises:
    ValueError: if `count` is not from 1 to the size of the blocks together.

  Reference:
    Rae et al. (2016), arXiv:1610.09027, equation 6 with U^(2).

  >>> least_recent(init(4), 3).tolist()
  [0, 1, 2]
  """
  blocks, size = state.times.shape
  if not 1 <= count <= blocks * size:
    raise ValueError(f"count must be from 1 to {blocks * size}, got {count}.")
  # The c oldest slots lie in the c blocks whose oldest slots are oldest: were
  # one elsewhere, each of these c blocks would hold an older one.
  chosen = jnp.sort(_smallest(state.oldest, min(count, blocks)))
  within = _smallest(state.times[chosen].reshape(-1), count)
  return chosen[within // size] * size + within % size


def _smallest(values: jax.Array, count: int) -> jax.Array:
  if count == 1:  # a fraction of the time of top_k
    return jnp.argmin(values)[None].astype(jnp.int32)
  return jax.lax.top_k(-values, count)[1]
