"""Tests of edits in place against edits of dense arrays, gradients too."""

import functools

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest

from lilly.memory import sparse_rows
from tests.whole import each

sparse_rows = each(sparse_rows)

_N, _W, _STEPS, _SEGMENT = 9, 2, 8, 4


def _edits():
  """What each step erases, adds to and reads; slots repeat and are absent."""
  rng = np.random.default_rng(0)
  erased = np.stack([rng.permutation(_N - 2)[:2] for _ in range(_STEPS)])
  erased[2, 1], erased[5, 0] = _N + 3, -1
  slots = rng.integers(0, _N - 4, (_STEPS, 5))
  slots[_SEGMENT:] += 3
  slots[:, 4] = np.where(np.arange(_STEPS) % 2, slots[:, 1], erased[:, 0])
  slots[1, 0], slots[3, 2], slots[6, 1] = _N, _N + 1, -2
  reads = rng.integers(0, _N - 1, (_STEPS, 4))
  reads[:, 3] = reads[:, 0]
  reads[2, 1], reads[4, 2] = -1, _N + 1
  return erased, slots, reads


_ERASED, _SLOTS, _READS = _EDITS = _edits()
_RNG = np.random.default_rng(1)
_WORDS = _RNG.normal(size=(_N, _W))
_ADDITIONS = _RNG.normal(size=(_STEPS, 5, _W))


def _is_slot(slots):
  return (slots >= 0) & (slots < _N)


def _naive(words, additions):
  words, values = words.copy(), np.zeros((*_READS.shape, _W))
  for t in range(_STEPS):
    for slot in _ERASED[t]:
      if _is_slot(slot):
        words[slot] = 0
    for slot, addition in zip(_SLOTS[t], additions[t], strict=True):
      if _is_slot(slot):
        words[slot] += addition
    for j, slot in enumerate(_READS[t]):
      if _is_slot(slot):
        values[t, j] = words[slot]
  return values, words


def _dense(words, additions, segment):
  """The same on a whole matrix, by products with zeros and ones."""

  def step(words, inputs):
    is_boundary, *edit, additions = inputs
    words = jnp.where(is_boundary, jax.lax.stop_gradient(words), words)
    erased, slots, reads = (
      (jnp.arange(_N)[None] == slots[:, None]).astype(float) for slots in edit
    )
    words = (1 - erased.sum(axis=0))[:, None] * words + slots.T @ additions
    return words, reads @ words

  steps = np.arange(_STEPS)
  is_boundary = (steps % segment == 0) & (steps > 0)
  return jax.lax.scan(step, words, (is_boundary, *_EDITS, additions))[1]


def _sparse(state, additions, segment):
  def step(state, inputs):
    erased, slots, reads, additions = inputs
    state = sparse_rows.write(state, erased, slots, additions)
    return sparse_rows.read(state, reads)

  def several(state, inputs):
    state, values = jax.lax.scan(step, state, inputs)
    return sparse_rows.detach(state), values

  inputs = jax.tree.map(
    lambda x: x.reshape(-1, segment, *x.shape[1:]), (*_EDITS, additions)
  )
  state, values = jax.lax.scan(several, state, inputs)
  return state, values.reshape(_STEPS, *values.shape[2:])


def _loss(values):
  return jnp.sum(jnp.sin(values) * (1 + jnp.arange(_W)[None, None]))


def _with_tape(tape, words, additions, first, segment, gradient_rows):
  state = sparse_rows.init(words, gradient_rows=gradient_rows)
  state = state._replace(tape=state.tape + tape)
  if gradient_rows is not None:
    state = state._replace(
      tickets=state.tickets + first, first=first, following=first
    )
  state, values = _sparse(state, additions, segment)
  return _loss(values), (values, state.words)


@functools.cache
def _compiled(segment, gradient_rows):
  function = functools.partial(
    _with_tape, segment=segment, gradient_rows=gradient_rows
  )
  return jax.jit(jax.grad(function, (0, 2), has_aux=True))


@functools.cache
def _gradients(segment, gradient_rows, first=0):
  """Gradients by the tape and the additions; values and the last words."""
  tape = np.zeros((gradient_rows or _N, _W))
  function = _compiled(segment, gradient_rows)
  with jax.enable_x64(True):
    results = function(tape, _WORDS, _ADDITIONS, np.int32(first))
    return jax.tree.map(np.asarray, results)


@functools.cache
def _dense_gradients(segment):
  with jax.enable_x64(True):
    loss = lambda words, additions: _loss(_dense(words, additions, segment))
    grads = jax.jit(jax.grad(loss, (0, 1)))(_WORDS, _ADDITIONS)
    return jax.tree.map(np.asarray, grads)


def _rows_needed(segment):
  written = [set(x[_is_slot(x)]) for x in _SLOTS]
  return max(
    len(set.union(*written[t : t + segment])) for t in range(0, 8, segment)
  )


def test_values_equal_a_loop():
  expected = _naive(_WORDS, _ADDITIONS)
  needed = _rows_needed(_SEGMENT)
  for run in ((_STEPS, None), (_SEGMENT, needed), (_SEGMENT, needed - 1)):
    _, (values, words) = _gradients(*run)
    np.testing.assert_allclose(values, expected[0], atol=1e-12)
    np.testing.assert_allclose(words, expected[1], atol=1e-12)


def test_gradients_equal_those_of_a_dense_matrix():
  of_words, of_additions = _dense_gradients(_STEPS)
  actual, _ = _gradients(_STEPS, None)
  np.testing.assert_allclose(actual[0], of_words, atol=1e-12)
  np.testing.assert_allclose(actual[1], of_additions, atol=1e-12)
  assert of_words.any()
  for slot in set(range(_N)) - set(_READS.flat):
    assert not of_words[slot].any()


def test_truncated_gradients_equal_those_of_a_dense_matrix():
  actual, _ = _gradients(_SEGMENT, _rows_needed(_SEGMENT))
  _, of_additions = _dense_gradients(_SEGMENT)
  np.testing.assert_allclose(actual[1], of_additions, atol=1e-12)
  assert np.abs(_dense_gradients(_STEPS)[1] - of_additions).max() > 0.1


def test_gradients_equal_finite_differences():
  def loss(words, additions):
    return float(_loss(_naive(words, additions)[0]))

  (of_words, of_additions), _ = _gradients(_STEPS, None)
  arguments = (_WORDS, _ADDITIONS)
  for which, grads in enumerate((of_words, of_additions)):
    for direction in np.random.default_rng(2).normal(size=(3, *grads.shape)):
      ends = []
      for sign in (1, -1):
        moved = list(arguments)
        moved[which] = moved[which] + sign * 1e-5 * direction
        with jax.enable_x64(True):
          ends.append(loss(*moved))
      slope = (ends[0] - ends[1]) / 2e-5
      np.testing.assert_allclose(np.vdot(grads, direction), slope, rtol=1e-7)


def test_words_beyond_the_rows_make_gradients_nan():
  rows = _rows_needed(_SEGMENT) - 1
  of_additions = _gradients(_SEGMENT, rows)[0][1]
  expected = _dense_gradients(_SEGMENT)[1]
  bad = np.isnan(of_additions)
  assert bad.any() and not bad.all()
  np.testing.assert_array_equal(bad.all(axis=2), bad.any(axis=2))
  np.testing.assert_allclose(of_additions[~bad], expected[~bad], atol=1e-12)
  # In each segment from the first word on that found no room.
  for start in (0, _SEGMENT):
    seen = []
    for t in range(start, start + _SEGMENT):
      for j, slot in enumerate(_SLOTS[t]):
        if _is_slot(slot) and slot not in seen:
          seen.append(slot)
        assert bad[t, j].all() == (_is_slot(slot) and slot in seen[rows:])


def test_tickets_may_wrap_around():
  rows = _rows_needed(_SEGMENT)
  expected = _gradients(_SEGMENT, rows)
  for left in (0, 3, rows):
    actual = _gradients(_SEGMENT, rows, first=2**31 - 1 - left)
    np.testing.assert_array_equal(actual[0][1], expected[0][1])


def test_gradients_of_gradients():
  direction = np.random.default_rng(3).normal(size=_ADDITIONS.shape)

  def sparse(additions):
    state = sparse_rows.init(jnp.asarray(_WORDS), gradient_rows=20)
    return _loss(_sparse(state, additions, _STEPS)[1])

  def dense(additions):
    return _loss(_dense(_WORDS, additions, _STEPS))

  def slope(function):
    return lambda x: jnp.vdot(jax.grad(function)(x), direction)

  with jax.enable_x64(True):
    actual, expected = (
      jax.jit(jax.grad(slope(f)))(_ADDITIONS) for f in (sparse, dense)
    )
  assert np.any(expected)
  np.testing.assert_allclose(actual, expected, atol=1e-12)


def test_queries_of_one_memory_share_its_gradient():
  slots = jnp.array([[0, 3], [3, 3], [1, _N]])

  def loss(tape, words):
    state = sparse_rows.init(words)._replace(tape=tape)
    values = jax.vmap(lambda s: sparse_rows.read(state, s)[1])(slots)
    return jnp.sum(values * jnp.arange(1.0, 4.0)[:, None, None])

  words = jnp.asarray(_WORDS, jnp.float32)
  grads = jax.jit(jax.grad(loss))(jnp.zeros_like(words), words)
  expected = np.zeros((_N, _W))
  expected[[0, 3, 1]] = [[1], [1 + 2 + 2], [3]]
  np.testing.assert_array_equal(grads, expected)


@pytest.mark.parametrize("gradient_rows", [None, 4])
def test_a_word_that_is_erased_leaves_nothing_behind(gradient_rows):
  words = jnp.ones((3, 2)).at[1].set(jnp.nan)
  state = sparse_rows.init(words, gradient_rows=gradient_rows)
  nothing = jnp.zeros(0, jnp.int32), jnp.zeros((0, 2))
  state = sparse_rows.write(state, jnp.array([1]), *nothing)
  assert state.words.tolist() == [[1, 1], [0, 0], [1, 1]]


def test_types_are_those_of_the_words():
  def loss(additions):
    state = sparse_rows.init(jnp.ones((3, 2), jnp.bfloat16))
    slots = jnp.array([0, 2])
    state = sparse_rows.write(state, slots[:1], slots, additions)
    state, values = sparse_rows.read(state, slots)
    assert {x.dtype for x in (values, state.words, state.tape)} == {
      jnp.dtype(jnp.bfloat16)
    }
    return jnp.sum(values.astype(jnp.float32))

  value, grad = jax.jit(jax.value_and_grad(loss))(
    np.full((2, 2), 0.5, np.float32)
  )
  assert value == 2 * 0.5 + 2 * 1.5
  np.testing.assert_array_equal(grad, np.ones((2, 2), np.float32))


@pytest.mark.parametrize("gradient_rows", [None, 4])
def test_all_of_a_state_can_be_donated(gradient_rows):
  @functools.partial(jax.jit, donate_argnums=0)
  def write(state):
    return sparse_rows.write(
      state, jnp.array([0]), jnp.array([1]), jnp.ones((1, 2))
    )

  state = sparse_rows.init(jnp.ones((3, 2)), gradient_rows=gradient_rows)
  state = sparse_rows.detach(write(state))
  assert write(state).words.tolist() == [[0, 0], [3, 3], [1, 1]]


def test_bad_arguments_are_refused():
  words = jnp.ones((3, 2))
  for rows in (0, -1):
    with pytest.raises(ValueError, match=f"gradient_rows is {rows}; .* 1"):
      sparse_rows.init(words, gradient_rows=rows)
  state, slots = sparse_rows.init(words), jnp.array([0])
  for additions in (jnp.ones((1, 3)), jnp.ones((2, 2)), jnp.ones(2)):
    with pytest.raises(ValueError, match=r"additions has shape .* \[J, W\]"):
      sparse_rows.write(state, slots, slots, additions)
  with pytest.raises(ValueError, match=r"slots has shape \[\]"):
    sparse_rows.read(state, jnp.int32(0))


@pytest.mark.parametrize("gradient_rows", [None, 2])
def test_whole_numbers_become_words_of_float32(gradient_rows):
  words = np.array([[1, 2], [3, 4]])
  state = sparse_rows.init(words, gradient_rows=gradient_rows)
  for leaf in (state.words, state.tape):
    assert leaf.dtype == jnp.float32 and not leaf.weak_type
  np.testing.assert_array_equal(state.words, words)


def test_initial_words_have_a_gradient_unless_the_tape_is_of_few_rows():
  slots = jnp.array([2, 0])

  def loss(words, **options):
    state, rows = sparse_rows.read(sparse_rows.init(words, **options), slots)
    state = sparse_rows.write(state, slots[:1], slots, 2 * rows)
    return jnp.sum(jnp.sin(sparse_rows.read(state, slots)[1]))

  def dense(words):
    rows = words[slots]
    words = words.at[slots[0]].set(0.0).at[slots].add(2 * rows)
    return jnp.sum(jnp.sin(words[slots]))

  words = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
  np.testing.assert_allclose(
    jax.grad(loss)(words), jax.grad(dense)(words), rtol=1e-5
  )
  few = jax.grad(lambda words: loss(words, gradient_rows=4))(words)
  np.testing.assert_array_equal(few, 0.0)
