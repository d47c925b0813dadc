"""A matrix of words that a scan reads and updates in place, backward too.

Differentiating an update of an [N, W] array costs O(N W) per step: the
cotangent of a gather is a zero matrix with few non-zero rows, and XLA copies
the carried cotangent if it cannot order its reads and writes. Here the words
are data without gradients. Gradients flow along a tape that is threaded through
every read and write: its value is never used, its cotangent is that of the
words. By default the tape has one row per word, and the initial words get their
gradient. With `gradient_rows` it holds only the words written since `detach`,
and the initial words have no gradient; the backward pass then needs neither
O(N) time nor O(N) memory.

Updates are in place in a loop whose step is one write and then one read. Other
orders may copy the words at every step, and so does `jax.checkpoint` around
single steps, since it saves the state of each.

Whole numbers as words count as float32. All functions raise ValueError for
arguments of another shape than stated.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lilly import checks

__all__ = ["State", "detach", "init", "read", "write"]


class State(NamedTuple):
  """The words, and the tape that carries their gradients."""

  words: jax.Array  # [N, W]
  tape: jax.Array  # [N or gradient_rows, W]; its value has no meaning
  # A slot written in this segment uses the tape's row tickets[slot] - first.
  tickets: jax.Array | None  # [N] int32; None: tape rows are slots
  first: jax.Array  # [] int32; smaller tickets belong to earlier segments
  following: jax.Array  # [] int32, the next ticket


@jax.custom_vjp
def _note_read(values, tape, rows):
  """Returns (values, tape); cotangents of values go to rows of the tape's."""
  del rows
  return values, tape


def _note_read_bwd(rows, cotangents):
  ct_values, ct_tape = cotangents
  return None, ct_tape.at[rows].add(ct_values, mode="drop"), None


# The forward pass calls itself, so higher-order gradients use the tape too.
_note_read.defvjp(
  lambda values, tape, rows: (_note_read(values, tape, rows), rows),
  _note_read_bwd,
)


@jax.custom_vjp
def _note_write(tape, additions, rows, erased_rows):
  """Returns the tape; the additions receive rows of its cotangent."""
  del erased_rows
  # Under `vmap` each example needs its own tape from the first write on, though
  # all start equal: the cotangents of a shared tape would be summed.
  return tape.at[rows].set(0 * additions, mode="drop")


def _note_write_bwd(residuals, ct_tape):
  rows, erased_rows = residuals
  every = jnp.concatenate([rows, erased_rows])
  taken = ct_tape.at[every].get(mode="fill", fill_value=0)
  # A write without room on the tape would have a wrong gradient: make it NaN.
  overflow = jnp.where(rows > ct_tape.shape[0], jnp.nan, 0)
  ct_additions = taken[: rows.size] + overflow[:, None].astype(taken.dtype)
  # Erasing by subtracting the gathered rows orders this write after that read,
  # so that XLA updates in place. Setting to zero would copy the tape.
  ct_tape = ct_tape.at[erased_rows].add(-taken[rows.size :], mode="drop")
  return ct_tape, ct_additions, None, None


_note_write.defvjp(
  lambda *args: (_note_write(*args), args[2:]),
  _note_write_bwd,
)


def init(words: jax.Array, *, gradient_rows: int | None = None) -> State:
  """Creates a state with the given words.

  Args:
    words: initial words, [N, W].
    gradient_rows: maximum number of words written between two calls of `detach`
      for gradients over that span; the initial words then have no gradient.
      None: unlimited, and the initial words have a gradient.

  Returns:
    The state. Writing more than `gradient_rows` words makes gradients NaN, not
    wrong; values are unaffected.

  Raises:
    ValueError: if `gradient_rows` is not positive.

  Reference:
    Rae et al. (2016), arXiv:1610.09027, section 3.4 (sparse backpropagation
    through time). Instead of rolling back the memory, this stores the words
    that each read returned, O(K W) per step.

  >>> init(jnp.zeros((8, 3)), gradient_rows=4).tape.shape
  (4, 3)
  """
  words = checks.real("words", words, "N W")
  words = words.astype(words.dtype)  # no weak type
  num_slots, word_size = words.shape
  counters = jnp.int32(0), jnp.int32(0)  # two, so that a state can be donated
  if gradient_rows is None:
    tape = words - jax.lax.stop_gradient(words)  # zeros that carry a gradient
    return State(words, tape, None, *counters)
  gradient_rows = checks.whole_number("gradient_rows", gradient_rows, least=1)
  tape = jnp.zeros((gradient_rows, word_size), words.dtype)
  return State(words, tape, jnp.full(num_slots, -1, jnp.int32), *counters)


def _checked_state(state, sizes):
  words = checks.real("state.words", state.words, "N W", sizes)
  rows, tickets = "N W", None
  if state.tickets is not None:
    rows = "T W"
    tickets = checks.integers("state.tickets", state.tickets, "N", sizes)
  tape = checks.real("state.tape", state.tape, rows, sizes)
  first = checks.integers("state.first", state.first, "")
  following = checks.integers("state.following", state.following, "")
  state = State(words, tape, tickets, first, following)
  # Fixes the type of what was whole numbers.
  return jax.tree.map(lambda x: x.astype(x.dtype), state)


def detach(state: State) -> State:
  """Ends a segment: stops gradients and frees the tape.

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
  state = _checked_state(state, {})
  state = state._replace(first=jnp.copy(state.following))
  return jax.lax.stop_gradient(state)


def _in_range(state: State, slots: jax.Array) -> jax.Array:
  """Maps slots out of range to N: negative indices would count from the end."""
  num_slots, _ = state.words.shape
  return jnp.where((slots < 0) | (slots > num_slots), num_slots, slots)


def _lookup(state: State, slots: jax.Array) -> jax.Array:
  """Rows of the tape; its length or more for slots without a row."""
  num_rows, _ = state.tape.shape
  if state.tickets is None:
    return slots
  tickets = state.tickets.at[slots].get(mode="fill", fill_value=-1)
  rows = tickets - state.first
  return jnp.where(rows < 0, num_rows, rows)


def _claim(state: State, slots: jax.Array) -> tuple[State, jax.Array]:
  """Rows of the tape, with a new one for each slot that has none."""
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
  # num_rows marks slots out of range; num_rows + 1 that the tape is full.
  rows = tickets - state.first
  rows = jnp.where(rows >= num_rows, num_rows + 1, rows)
  return state, jnp.where(slots < num_slots, rows, num_rows)


def read(state: State, slots: jax.Array) -> tuple[State, jax.Array]:
  """Reads words; O(J), forward and backward.

  Args:
    state: the words.
    slots: slots to read, [J] int32; a slot out of range reads as zeros.

  Returns:
    The updated state and the words, [J, W]. Gradients reach the words through
    the returned state's tape: use that state from here on.

  Reference:
    Rae et al. (2016), arXiv:1610.09027, equation 4 and section 3.4.

  >>> state, words = read(init(jnp.eye(3)), jnp.array([2, 0, 3]))
  >>> words.tolist()
  [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
  """
  state = _checked_state(state, {})
  slots = _in_range(state, checks.integers("slots", slots, "J"))
  words = jax.lax.stop_gradient(state.words)
  values = words.at[slots].get(mode="fill", fill_value=0)
  values, tape = _note_read(values, state.tape, _lookup(state, slots))
  return state._replace(tape=tape), values


def write(
  state: State, erased: jax.Array, slots: jax.Array, additions: jax.Array
) -> State:
  """Erases some words, then adds to some; O(J), forward and backward.

  M(erased) <- 0, then M(slots) <- M(slots) + additions.

  Args:
    state: the words.
    erased: slots to set to zero, [E] int32, distinct or out of range.
    slots: slots to add to, [J] int32; additions to equal slots are summed, and
      slots out of range are ignored.
    additions: words to add, [J, W]; cast to the dtype of the words.

  Returns:
    The updated state. The additions receive the gradient of the written words;
    erased words have no gradient before the write.

  Reference:
    Rae et al. (2016), arXiv:1610.09027, equation 3.

  >>> state = init(jnp.ones((3, 1)))
  >>> state = write(state, jnp.array([0]), jnp.array([0, 1]), jnp.ones((2, 1)))
  >>> state.words[:, 0].tolist()
  [1.0, 2.0, 1.0]
  """
  sizes = {}
  state = _checked_state(state, sizes)
  erased = checks.integers("erased", erased, "E", sizes)
  slots = checks.integers("slots", slots, "J", sizes)
  additions = checks.real("additions", additions, "J W", sizes)
  erased, slots = _in_range(state, erased), _in_range(state, slots)
  additions = additions.astype(state.words.dtype)
  state, rows = _claim(state, slots)
  words = jax.lax.stop_gradient(state.words)
  words = words.at[erased].set(0, mode="drop")
  words = words.at[slots].add(jax.lax.stop_gradient(additions), mode="drop")
  tape = _note_write(state.tape, additions, rows, _lookup(state, erased))
  return state._replace(words=words, tape=tape)
