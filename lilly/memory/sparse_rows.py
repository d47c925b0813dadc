"""A matrix of words that a scan reads and edits in place, backward too.

Differentiating an edit of an [N, W] array costs O(N W) a step: the cotangent of
a gather is a matrix of zeros with few rows filled, and the carried cotangent is
copied where the compiler cannot order its reads and writes. Here the words are
data that no gradient passes through. Gradients travel along a tape that is
threaded through every read and write: its value is never looked at, its
cotangent is that of the words. By default the tape has a row for every word,
and the initial words get their gradient. With `gradient_rows` it holds only the
words written since `detach`, and the initial words have no gradient; the
backward pass then neither works nor stores O(N), not even once.

What stays in place is a loop whose step is one write and then one read. Other
orders may copy the words at every step, and `jax.checkpoint` around single
steps does, for it keeps the state of each.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

__all__ = ["State", "detach", "init", "read", "write"]


class State(NamedTuple):
  """Words, and the path their gradients take."""

  words: jax.Array  # [N, W]
  tape: jax.Array  # [N or gradient_rows, W]; its value says nothing
  # A slot written in this segment has the tape's row tickets[slot] - first.
  tickets: jax.Array | None  # [N] int32; None: the tape's rows are the slots
  first: jax.Array  # [] int32; smaller tickets are of earlier segments
  following: jax.Array  # [] int32, the next ticket


@jax.custom_vjp
def _note_read(values, tape, rows):
  """Is (values, tape); the values' cotangents go to rows of the tape's."""
  del rows
  return values, tape


def _note_read_bwd(rows, cotangents):
  ct_values, ct_tape = cotangents
  return None, ct_tape.at[rows].add(ct_values, mode="drop"), None


# Forward it calls itself, so that gradients of gradients keep to the tape too.
_note_read.defvjp(
  lambda values, tape, rows: (_note_read(values, tape, rows), rows),
  _note_read_bwd,
)


@jax.custom_vjp
def _note_write(tape, additions, rows, erased_rows):
  """Is the tape; its cotangent's rows are what the additions receive."""
  del erased_rows
  # Under `vmap` each example must have its own tape from the first write on,
  # though all begin with the same: cotangents of a shared one would be summed.
  return tape.at[rows].set(0 * additions, mode="drop")


def _note_write_bwd(residuals, ct_tape):
  rows, erased_rows = residuals
  every = jnp.concatenate([rows, erased_rows])
  taken = ct_tape.at[every].get(mode="fill", fill_value=0)
  # A row that the tape had no room for would be a wrong gradient: make it loud.
  overflow = jnp.where(rows > ct_tape.shape[0], jnp.nan, 0)
  ct_additions = taken[: rows.size] + overflow[:, None].astype(taken.dtype)
  # Erasing by adding what was gathered orders this write after that read, so
  # that the compiler edits in place. Setting to zero would copy the tape.
  ct_tape = ct_tape.at[erased_rows].add(-taken[rows.size :], mode="drop")
  return ct_tape, ct_additions, None, None


_note_write.defvjp(
  lambda *args: (_note_write(*args), args[2:]),
  _note_write_bwd,
)


def init(words: jax.Array, *, gradient_rows: int | None = None) -> State:
  """Makes a state of given words.

  Args:
    words: initial words, [N, W].
    gradient_rows: words that may be written between two calls of `detach` if
      gradients are taken over all that lies between; the initial words have
      none then. None: any number, and the initial words have a gradient.

  Returns:
    The state. More than `gradient_rows` words make gradients NaN, not wrong;
    values are not touched by it.

  Raises:
    ValueError: if `gradient_rows` is not positive.

  Reference:
    Rae et al. (2016), arXiv:1610.09027, section 3.4 (sparse backpropagation
    through time), whose roll-back of the memory this replaces: what a read saw
    is kept, O(K W) a step.

  >>> init(jnp.zeros((8, 3)), gradient_rows=4).tape.shape
  (4, 3)
  """
  chex.assert_rank(words, 2)
  num_slots, word_size = words.shape
  counters = jnp.int32(0), jnp.int32(0)  # two, so that a state can be donated
  if gradient_rows is None:
    tape = words - jax.lax.stop_gradient(words)  # zeros, but for the gradient
    return State(words, tape, None, *counters)
  if gradient_rows < 1:
    raise ValueError(
      f"gradient_rows must be positive or None, got {gradient_rows}."
    )
  tape = jnp.zeros((gradient_rows, word_size), words.dtype)
  return State(words, tape, jnp.full(num_slots, -1, jnp.int32), *counters)


def detach(state: State) -> State:
  """Ends a segment: no gradient passes, and the tape is free again.

  Args:
    state: the state at a boundary of truncated backpropagation through time.

  Returns:
    The state with the same words.

  Reference:
    Rae et al. (2016), arXiv:1610.09027, section 3.4.

  >>> state = init(jnp.ones((8, 3)))
  >>> jax.grad(lambda w: detach(init(w)).words.sum())(state.words).sum()
  Array(0., dtype=float32)
  """
  state = state._replace(first=jnp.copy(state.following))
  return jax.lax.stop_gradient(state)


def _in_range(state: State, slots: jax.Array) -> jax.Array:
  """Gives what is no slot the number N: nothing counts from the end."""
  num_slots, _ = state.words.shape
  return jnp.where((slots < 0) | (slots > num_slots), num_slots, slots)


def _lookup(state: State, slots: jax.Array) -> jax.Array:
  """Rows of the tape; its length or more for slots that have none."""
  num_rows, _ = state.tape.shape
  if state.tickets is None:
    return slots
  tickets = state.tickets.at[slots].get(mode="fill", fill_value=-1)
  rows = tickets - state.first
  return jnp.where(rows < 0, num_rows, rows)


def _claim(state: State, slots: jax.Array) -> tuple[State, jax.Array]:
  """Rows of the tape, a fresh one for each slot that has none."""
  num_slots, _ = state.words.shape
  num_rows, _ = state.tape.shape
  if state.tickets is None or not slots.size:
    return state, slots
  tickets = state.tickets.at[slots].get(mode="fill", fill_value=-1)
  earliest = jnp.argmax(slots[:, None] == slots[None], axis=1)
  is_earliest = earliest == jnp.arange(slots.size)
  is_old = tickets - state.first < 0  # also where tickets wrap around
  is_new = is_old & (slots < num_slots) & is_earliest
  fresh = state.following + jnp.cumsum(is_new, dtype=jnp.int32) - 1
  tickets = jnp.where(is_old, fresh[earliest], tickets)
  state = state._replace(
    tickets=state.tickets.at[slots].set(tickets, mode="drop"),
    following=state.following + jnp.sum(is_new, dtype=jnp.int32),
  )
  # One past the end is for slots out of range, beyond that there is no room.
  rows = tickets - state.first
  rows = jnp.where(rows >= num_rows, num_rows + 1, rows)
  return state, jnp.where(slots < num_slots, rows, num_rows)


def read(state: State, slots: jax.Array) -> tuple[State, jax.Array]:
  """Reads words; O(J), forward and backward.

  Args:
    state: the words.
    slots: which ones, [J] int32; a slot out of range reads as zeros.

  Returns:
    The state and the words, [J, W]. Gradients reach the words through the
    returned state's tape: use that state from here on.

  Reference:
    Rae et al. (2016), arXiv:1610.09027, equation 4 and section 3.4.

  >>> state, words = read(init(jnp.eye(3)), jnp.array([2, 0, 3]))
  >>> words.tolist()
  [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
  """
  chex.assert_rank(slots, 1)
  slots = _in_range(state, slots)
  words = jax.lax.stop_gradient(state.words)
  values = words.at[slots].get(mode="fill", fill_value=0)
  values, tape = _note_read(values, state.tape, _lookup(state, slots))
  return state._replace(tape=tape), values


def write(
  state: State, erased: jax.Array, slots: jax.Array, additions: jax.Array
) -> State:
  """Zeroes some words, then adds to some; O(J), forward and backward.

  M(erased) <- 0, then M(slots) <- M(slots) + additions.

  Args:
    state: the words.
    erased: slots to zero, [E] int32, distinct or out of range.
    slots: slots to add to, [J] int32; additions to equal slots are summed, and
      a slot out of range is absent.
    additions: words to add, [J, W]; the sums have the type of the words.

  Returns:
    The state. The gradient of the additions is the words' own at that time; the
    words before the write have none where they were erased.

  Reference:
    Rae et al. (2016), arXiv:1610.09027, equation 3.

  >>> state = init(jnp.ones((3, 1)))
  >>> state = write(state, jnp.array([0]), jnp.array([0, 1]), jnp.ones((2, 1)))
  >>> state.words[:, 0].tolist()
  [1.0, 2.0, 1.0]
  """
  chex.assert_rank([erased, slots], 1)
  chex.assert_shape(additions, (slots.size, state.words.shape[1]))
  erased, slots = _in_range(state, erased), _in_range(state, slots)
  additions = additions.astype(state.words.dtype)
  state, rows = _claim(state, slots)
  words = jax.lax.stop_gradient(state.words)
  words = words.at[erased].set(0, mode="drop")
  words = words.at[slots].add(jax.lax.stop_gradient(additions), mode="drop")
  tape = _note_write(state.tape, additions, rows, _lookup(state, erased))
  return state._replace(words=words, tape=tape)
