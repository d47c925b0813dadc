"""Temporal links of the sparse differentiable neural computer.

Records which slot was written after which, with at most `num_links` links out
of and into a slot, so the cost of a step does not depend on the number of
slots. Functions take one head; `vmap` over heads. Sparse vectors are lists of
slots and weights: a slot outside [0, num_slots) is ignored, and the weights of
a repeated slot are summed. Whole numbers as weights count as float32. All
functions raise ValueError for arguments of another shape than stated.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lilly import checks

__all__ = ["State", "follow", "init", "strongest", "update"]


class State(NamedTuple):
  """Links of one head.

  Entries are sorted by weight, largest first, then by slot; unused entries come
  last, with slot num_slots and weight 0.
  """

  # rows of P: slots written after each slot, int32 [N, L], and weights [N, L]
  successor_slots: jax.Array
  successor_weights: jax.Array
  # rows of N: slots written before each slot, int32 [N, L], and weights [N, L]
  predecessor_slots: jax.Array
  predecessor_weights: jax.Array
  # p: slots written last, int32 [L], and weights [L]
  precedence_slots: jax.Array
  precedence_weights: jax.Array


def init(
  num_slots: int, *, num_links: int = 8, dtype: Any = jnp.float32
) -> State:
  """Creates the links of an empty memory.

  N_0 = P_0 = 0, p_0 = 0.

  Args:
    num_slots: number of memory slots, N.
    num_links: entries kept in each row and in the precedence, L.
    dtype: data type of the weights.

  Returns:
    The state.

  Raises:
    ValueError: if a size is not positive, or there are more links than slots.

  Reference:
    Rae et al. (2016), arXiv:1610.09027, supplementary D: 8 links.

  >>> init(3, num_links=2).successor_slots.tolist()
  [[3, 3], [3, 3], [3, 3]]
  """
  num_slots = checks.whole_number("num_slots", num_slots, least=1)
  num_links = checks.whole_number("num_links", num_links, least=1)
  if num_links > num_slots:
    raise ValueError(
      f"num_links is {num_links}; it must be at most num_slots, {num_slots}."
    )
  absent = jnp.full((num_slots, num_links), num_slots, jnp.int32)
  zeros = jnp.zeros((num_slots, num_links), dtype)
  # Separate arrays, so that the whole state can be donated.
  return State(
    absent, zeros, absent.copy(), zeros.copy(), absent[0], zeros[0].copy()
  )


def _checked_state(state):
  sizes = {}
  fields = {}
  for name, x in state._asdict().items():
    check = checks.integers if name.endswith("slots") else checks.real
    shape = "L" if name.startswith("precedence") else "N L"
    fields[name] = check(f"state.{name}", x, shape, sizes)
  # Fixes the type of what was whole numbers.
  return State(**{name: x.astype(x.dtype) for name, x in fields.items()})


def _checked_entries(slots, weights):
  sizes = {}
  slots = checks.integers("slots", slots, "J", sizes)
  weights = checks.real("weights", weights, "J", sizes)
  return slots, weights


def update(state: State, slots: jax.Array, weights: jax.Array) -> State:
  """Links the slots written now to those written before.

  N(i, j) <- (1 - w(i)) N(i, j) + w(i) p(j)
  P(i, j) <- (1 - w(j)) P(i, j) + w(j) p(i)
  p <- (1 - sum_i w(i)) p + w

  with the old p on the right. Then p and each row of N keep their num_links
  largest entries; each row of P keeps its num_links largest among those whose
  transposed entry N kept. Ties go to the lower slot. O(J L) rows are read and
  written, in O(J^2 L^2) operations, independent of num_slots; in a scan this
  happens in place if a step calls `update` before it calls `follow`.

  Args:
    state: the links.
    slots: slots written in this step, int [J].
    weights: their write weights, [J], non-negative. If their sum exceeds 1 they
      are divided by it, so that p sums to at most 1. Negative and non-finite
      weights count as 0.

  Returns:
    The updated state. No gradient passes through it.

  Reference:
    Rae et al. (2016), arXiv:1610.09027, supplementary D. The paper keeps
    num_links entries in each row and does not say how an entry of P decays once
    N has dropped the transposed entry, which locates it; here both are dropped.

  >>> state = init(9, num_links=2)
  >>> for slot in (4, 7, 4, 1):
  ...   state = update(state, jnp.array([slot]), jnp.ones(1))
  >>> state.successor_slots[4].tolist(), state.predecessor_slots[4].tolist()
  ([1, 7], [7, 9])
  """
  state = _checked_state(state)
  slots, weights = _checked_entries(slots, weights)
  state, weights = jax.lax.stop_gradient((state, weights))
  weights = weights.astype(state.precedence_weights.dtype)
  j, w = _distinct(slots, weights, len(state.successor_slots))
  old, new = _written_predecessors(state, j, w)
  # Rows of P with entries in the written columns; no others have any. Repeated
  # rows are computed and written with equal values.
  i = jnp.concatenate([state.precedence_slots, old[0].reshape(-1)])
  successors = _written_successors(state, j, w, i, new[0])
  p = _merge(
    len(state.successor_slots),
    state.precedence_slots,
    jnp.maximum(1 - jnp.sum(w), 0) * state.precedence_weights,
    j,
    w,
  )

  return State(
    _put(state.successor_slots, i, successors[0]),
    _put(state.successor_weights, i, successors[1]),
    _put(state.predecessor_slots, j, new[0]),
    _put(state.predecessor_weights, j, new[1]),
    *p,
  )


def _put(array, rows, values):
  return array.at[rows].set(values, mode="drop")


def _written_predecessors(state, j, w):
  """Rows j of N, before and after the write."""
  slots, weights = _rows(state.predecessor_slots, state.predecessor_weights, j)
  p_slots, p = state.precedence_slots, state.precedence_weights
  merge = functools.partial(_merge, len(state.successor_slots))
  new = jax.vmap(merge, (0, 0, None, 0))(
    slots, (1 - w)[:, None] * weights, p_slots, w[:, None] * p[None]
  )
  return (slots, weights), new


def _written_successors(state, j, w, i, predecessor_slots):
  """Rows i of P after the write; rows j of N are now `predecessor_slots`."""
  slots, weights = _rows(state.successor_slots, state.successor_weights, i)
  p = _look_up(state.precedence_slots, state.precedence_weights, i)
  is_kept = jnp.any(i[:, None, None] == predecessor_slots[None], axis=-1)
  is_written = slots[:, :, None] == j[None, None]  # [rows, L, J]
  decay = jnp.sum(is_written * (is_kept * (1 - w)[None])[:, None], axis=-1)
  decay = jnp.where(jnp.any(is_written, axis=-1), decay, 1)
  merge = functools.partial(_merge, len(state.successor_slots))
  return jax.vmap(merge, (0, 0, None, 0))(
    slots, decay * weights, j, is_kept * w[None] * p[:, None]
  )


def follow(
  state: State, slots: jax.Array, weights: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
  """Computes forward and backward weights from the last read weights.

  f = N w = sum_i w(i) P(i, .),  b = P w = sum_i w(i) N(i, .)

  where the sums only need the kept rows of the links: O(K L).

  Args:
    state: the links.
    slots: slots read in the last step, int [K].
    weights: their read weights, [K].

  Returns:
    Forward and backward addresses, each a pair of slots, int32 [K * L], and
    weights, [K * L]. Gradients reach the read weights but not the links.

  Reference:
    Rae et al. (2016), arXiv:1610.09027, supplementary D.

  >>> state = init(9, num_links=1)
  >>> for slot in (4, 7):
  ...   state = update(state, jnp.array([slot]), jnp.ones(1))
  >>> (forward, _), _ = follow(state, jnp.array([4]), jnp.ones(1))
  >>> forward.tolist()
  [7]
  """
  state = jax.lax.stop_gradient(_checked_state(state))
  slots, weights = _checked_entries(slots, weights)
  slots = _in_range(slots, len(state.successor_slots))

  def along(link_slots, link_weights):
    link_slots, link_weights = _rows(link_slots, link_weights, slots)
    return link_slots.reshape(-1), (weights[:, None] * link_weights).reshape(-1)

  forward = along(state.successor_slots, state.successor_weights)
  backward = along(state.predecessor_slots, state.predecessor_weights)
  return forward, backward


def strongest(
  slots: jax.Array, weights: jax.Array, count: int, *, num_slots: int
) -> tuple[jax.Array, jax.Array]:
  """Keeps the largest entries of a mixture of addresses.

  A mixture of content, forward and backward addresses has 2 K L + K entries,
  while the next step has room for K. Ties go to the lower slot.

  Args:
    slots: int [M].
    weights: their weights, [M], non-negative.
    count: number of entries to keep, K.
    num_slots: number of memory slots, N.

  Returns:
    Distinct slots, int32 [K], in order of decreasing weight and padded with N,
    and their weights, [K], summed over repeated slots. Weights that sum to more
    than 1 are divided by their sum, since rows of links are not bounded.
    Gradients reach the kept weights. NaN weights stay NaN.

  Raises:
    ValueError: if count is not from 1 to M, or num_slots is not positive.

  Reference:
    Rae et al. (2016), arXiv:1610.09027, supplementary D, which does not say how
    the mixture is sparsified; this follows its reads by content, section 3.1.

  >>> entries = jnp.array([1, 2, 0, 2]), jnp.array([0.25, 0.125, 0.0, 0.25])
  >>> slots, weights = strongest(*entries, 3, num_slots=9)
  >>> slots.tolist(), weights.tolist()
  ([2, 1, 9], [0.375, 0.25, 0.0])
  """
  slots, weights = _checked_entries(slots, weights)
  count = checks.whole_number("count", count, least=1, most=slots.size)
  num_slots = checks.whole_number("num_slots", num_slots, least=1)
  slots = _in_range(slots, num_slots)
  weights = _look_up(slots, weights, slots)
  absent = (slots == num_slots) | (weights == 0) | _is_repeated(slots)
  slots = jnp.where(absent, num_slots, slots)
  weights = jnp.where(absent, 0, weights)
  # The selection has no gradient. NaN comes first, so that it is not hidden.
  order = jnp.where(jnp.isnan(weights), -jnp.inf, -weights)
  kept = jnp.lexsort((slots, jax.lax.stop_gradient(order)))[:count]
  weights = weights[kept]
  return slots[kept], weights / jnp.maximum(1, jnp.sum(weights))


def _in_range(slots, num_slots):
  """Maps slots out of range to num_slots."""
  outside = (slots < 0) | (slots >= num_slots)
  return jnp.where(outside, num_slots, slots).astype(jnp.int32)


def _rows(slots, weights, rows):
  """Rows of a matrix; rows out of range are empty."""
  return (
    slots.at[rows].get(mode="fill", fill_value=len(slots)),
    weights.at[rows].get(mode="fill", fill_value=0),
  )


def _is_repeated(slots):
  """Whether a slot occurs earlier in the list."""
  return jnp.any(jnp.tril(slots[:, None] == slots[None], -1), axis=1)


def _look_up(slots, weights, wanted):
  """Weights of the wanted slots in a sparse vector."""
  same = wanted[:, None] == slots[None]
  return jnp.sum(jnp.where(same, weights[None], 0), axis=1)


def _distinct(slots, weights, num_slots):
  """Sums the weights of equal slots, normalised to sum to at most 1."""
  slots = _in_range(slots, num_slots)
  weights = _look_up(slots, weights, slots)
  present = (slots < num_slots) & (weights > 0) & jnp.isfinite(weights)
  present &= ~_is_repeated(slots)
  weights = jnp.where(present, weights, 0)
  weights = weights / jnp.maximum(1, jnp.sum(weights))
  return jnp.where(present, slots, num_slots), weights


def _merge(num_slots, slots, weights, more_slots, more_weights):
  """Adds sparse vectors and keeps as many entries as the first has room for."""
  both = slots[:, None] == more_slots[None]
  weights = weights + jnp.sum(both * more_weights[None], axis=1)
  more_weights = jnp.where(jnp.any(both, axis=0), 0, more_weights)
  weights, size = jnp.concatenate([weights, more_weights]), slots.size
  slots = jnp.concatenate([slots, more_slots])
  # From here slots count down from num_slots, so that unused entries add 0.
  slots = jnp.where(weights > 0, num_slots - slots, 0)
  is_before = weights[None] > weights[:, None]
  is_tied = weights[None] == weights[:, None]
  is_before |= is_tied & (slots[None] > slots[:, None])
  rank = jnp.sum(is_before, axis=1)
  place = jnp.arange(size)[:, None] == rank[None]
  return (
    num_slots - jnp.sum(place * slots[None], axis=1, dtype=slots.dtype),
    jnp.sum(place * weights[None], axis=1),
  )
