"""Tests of the SDNC against dense matrices in float64, and of its traps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.memory import (
  addressing,
  nearest_neighbors,
  sparse_access,
  sparse_neural_computer,
  sparse_rows,
)
from tests import oracles

_N, _W, _H, _K, _STEPS, _BATCH = 19, 3, 2, 3, 10, 3
_SEGMENT, _DELTA = 2, 0.05


def _make_inputs():
  """First words; then a, α, γ, q, β and π of each step; of three runs."""
  rng = np.random.default_rng(1)
  steps = (_BATCH, _STEPS, _H)
  return rng.normal(size=(_BATCH, _N, _W)), (
    rng.normal(size=(*steps, _W)),
    1 - rng.random(steps) / 3,
    rng.random(steps),
    rng.normal(size=(*steps, _W)),
    1 + 3 * rng.random(steps),
    rng.dirichlet(np.ones(3) / 3, steps),
  )


_ALL_WORDS, _ALL_INPUTS = _make_inputs()
_WORDS, _INPUTS = _ALL_WORDS[0], tuple(x[0] for x in _ALL_INPUTS)


def _naive(words, inputs, given=None):
  """Unrolls section 3 and supplement D on dense arrays, N links a slot.

  Args:
    words: the first words.
    inputs: of each step.
    given: N and P of each step, to be taken as constants.

  Returns:
    Reads; N and P of each step; slots that were read, of all steps; words, N,
    P and p of each head, weights of the last read and times of the last access,
    at the end.
  """
  M, w_read, last = words.copy(), np.zeros((_H, _N)), np.arange(-_N, 0)
  forth, back, p = *np.zeros((2, _H, _N, _N)), np.zeros((_H, _N))
  reads, followed, chosen = [], [], []
  for t, (a, alpha, gamma, q, beta, pi) in enumerate(zip(*inputs, strict=True)):
    unused = np.eye(_N)[np.argsort(last, kind="stable")[:_H]]
    gate = gamma[:, None]
    w_write = alpha[:, None] * (gate * w_read + (1 - gate) * unused)
    M = (1 - unused.sum(0))[:, None] * M + sum(map(np.outer, w_write, a))
    f, b = np.zeros((2, _H, _N))
    for h, w in enumerate(w_write):
      for i in range(_N):
        for j in range(_N):
          forth[h, i, j] = (1 - w[i]) * forth[h, i, j] + w[i] * p[h, j]
          back[h, i, j] = (1 - w[j]) * back[h, i, j] + w[j] * p[h, i]
      p[h] = (1 - sum(w)) * p[h] + w
    if given is not None:
      forth, back = (links.copy() for links in given[t])
    for h in range(_H):
      f[h], b[h] = forth[h] @ w_read[h], back[h] @ w_read[h]
    w_read = np.zeros((_H, _N))
    for h in range(_H):
      norms = np.sqrt((M**2).sum(1) + 1e-6) * np.sqrt(q[h] @ q[h] + 1e-6)
      cosine = M @ q[h] / norms
      found = np.argsort(-cosine)[:_K]
      c = np.zeros(_N)
      c[found] = np.exp(beta[h] * cosine[found])
      c /= c.sum()
      mixed = pi[h, 0] * b[h] + pi[h, 1] * c + pi[h, 2] * f[h]
      kept = np.argsort(-mixed, kind="stable")[:_K]
      w_read[h, kept] = mixed[kept]
      w_read[h] /= max(1, w_read[h].sum())
      chosen.append((*found, *kept))
    last = np.where((w_write + w_read).sum(0) > _DELTA, t + 1, last)
    reads.append(w_read @ M)
    followed.append((forth.copy(), back.copy()))
  return np.stack(reads), followed, chosen, (M, forth, back, p, w_read, last)


def _started(words, gradient_rows=None, **options):
  """A memory that holds these words; made anew wherever it is called."""
  memory = sparse_access.init(
    *words.shape,
    num_heads=_H,
    num_reads=_K,
    dtype=words.dtype,
    **options,
  )
  rows = sparse_rows.init(words, gradient_rows=gradient_rows)
  memory = memory._replace(words=rows)
  return sparse_neural_computer.init(memory, num_links=_N)


def _write(state, inputs):
  return sparse_neural_computer.write(state, *inputs, delta=_DELTA)


def _read(state, inputs, **options):
  return sparse_neural_computer.read(state, *inputs, delta=_DELTA, **options)


def _step(state, inputs, **options):
  return _read(_write(state, inputs[:3]), inputs[3:], **options)


def _loss(reads):
  return (np if isinstance(reads, np.ndarray) else jnp).sin(2 * reads).sum()


def _unroll(state, inputs):
  state, reads = jax.lax.scan(_step, state, inputs)
  return _loss(reads), (reads, state)


def _whole(words, inputs):
  """Gradients by the first words and the inputs; reads and the end."""

  def loss(tape, inputs):
    state = _started(words)
    rows = state.memory.words
    rows = rows._replace(tape=rows.tape + tape)
    memory = state.memory._replace(words=rows)
    return _unroll(state._replace(memory=memory), inputs)

  return jax.grad(loss, (0, 1), has_aux=True)(jnp.zeros_like(words), inputs)


def _truncated(words, inputs):
  """Gradients by the inputs and the links in segments; reads and the end.

  The search is by an index, one bucket that holds all.
  """

  def loss(inputs, weights, state):
    state = sparse_neural_computer.detach(state)
    names = ("successor_weights", "predecessor_weights", "precedence_weights")
    links = dict(zip(names, weights, strict=True))
    return _unroll(state._replace(links=state.links._replace(**links)), inputs)

  def several(state, inputs):
    weights = [x for x in state.links if x.dtype == words.dtype]
    grad = jax.grad(loss, (0, 1), has_aux=True)
    grads, (reads, state) = grad(inputs, weights, state)
    return state, (grads, reads)

  index = nearest_neighbors.init(
    *(jax.random.key(0), _N, _W),
    num_tables=1,
    num_bits=0,
    bucket_size=_N,
  )
  index = nearest_neighbors.insert(index, jnp.arange(_N), words)
  rows = _H * (_K + 1) * _SEGMENT
  assert rows < _N
  inputs = jax.tree.map(lambda x: x.reshape(-1, _SEGMENT, *x.shape[1:]), inputs)
  state, (grads, reads) = jax.lax.scan(
    several, _started(words, rows, index=index), inputs
  )
  return grads, (reads.reshape(_STEPS, *reads.shape[2:]), state)


@functools.cache
def _compiled(function):
  """Compiles it for all runs, with states made inside `vmap`, in float64."""
  with jax.enable_x64(True):
    lowered = jax.jit(jax.vmap(function)).lower(_ALL_WORDS, _ALL_INPUTS)
    program = lowered.compile()
    return program, program(_ALL_WORDS, _ALL_INPUTS)


def _of(run, function=_whole):
  return jax.tree.map(lambda x: np.asarray(x[run]), _compiled(function)[1])


_runs = pytest.mark.parametrize("run", range(_BATCH))


def _inputs_of(run):
  return [x[run] for x in _ALL_INPUTS]


def _dense(slots, weights):
  """Spreads entries over the slots; those that are absent have slot N."""
  spread = np.zeros((*slots.shape[:-1], _N + 1))
  np.put_along_axis(spread, slots, weights, axis=-1)
  assert not spread[..., _N].any()
  return spread[..., :_N]


@_runs
def test_an_unroll_equals_dense_matrices(run):
  _, (reads, state) = _of(run)
  expected, _, chosen, end = _naive(_ALL_WORDS[run], _inputs_of(run))
  M, forth, back, p, w_read, last = end
  np.testing.assert_allclose(reads, expected, atol=1e-12)
  links = state.links
  for actual, dense in (
    ((links.predecessor_slots, links.predecessor_weights), forth),
    ((links.successor_slots, links.successor_weights), back),
    ((links.precedence_slots, links.precedence_weights), p),
    (state.memory.reads, w_read),
  ):
    np.testing.assert_allclose(_dense(*actual), dense, atol=1e-12)
  np.testing.assert_allclose(forth, back.transpose(0, 2, 1), atol=1e-12)
  np.testing.assert_allclose(state.memory.words.words, M, atol=1e-12)
  times = state.memory.accesses.times.reshape(-1)[:_N]
  np.testing.assert_array_equal(times, last)
  assert state.memory.time == _STEPS
  # Links lead to words that content has not found.
  assert sum(set(slots[:_K]) != set(slots[_K:]) for slots in chosen) >= 3


@_runs
def test_gradients_equal_finite_differences_with_links_held(run):
  grads, _ = _of(run)
  start = _ALL_WORDS[run], _inputs_of(run)
  _, followed, chosen, _ = _naive(*start)
  leaves, tree = jax.tree.flatten(start)
  rng = np.random.default_rng(2)
  for which, grad in enumerate(jax.tree.leaves(grads)):
    assert np.any(grad)
    direction, ends = rng.normal(size=grad.shape), []
    for sign in (1, -1):
      moved = list(leaves)
      moved[which] = leaves[which] + sign * 1e-6 * direction
      reads, _, slots, _ = _naive(*jax.tree.unflatten(tree, moved), followed)
      assert slots == chosen
      ends.append(_loss(reads))
    slope = (ends[0] - ends[1]) / 2e-6
    np.testing.assert_allclose(np.vdot(grad, direction), slope, rtol=1e-6)


@_runs
def test_detach_ends_a_segment_and_links_have_no_gradient(run):
  (_, whole), (expected, _) = _of(run)
  (by_inputs, by_links), (reads, state) = _of(run, _truncated)
  np.testing.assert_allclose(reads, expected, atol=1e-12)
  for grad, full in zip(by_inputs, whole, strict=True):
    # What the last segment's inputs do is all in it; what earlier ones do not.
    np.testing.assert_allclose(grad[-1], full[-_SEGMENT:], rtol=1e-9)
    assert np.abs(grad[0] - full[:_SEGMENT]).max() > 1e-6
  assert all(not np.any(grad) for grad in by_links) and len(by_links) == 3
  # The words of all segments together have no room on the tape.
  assert (state.memory.words.tickets >= 0).sum() > len(state.memory.words.tape)


@pytest.mark.parametrize(
  "function", [_whole, pytest.param(_truncated, marks=pytest.mark.slow)]
)
def test_a_step_copies_nothing_large(function):
  program, (_, (_, state)) = _compiled(function)
  text = program.as_text()
  shapes = {x.shape for x in jax.tree.leaves(state)}
  large = {(_BATCH, _N, _W), (_BATCH, _H, _N, _N)}
  assert large <= shapes
  for shape in large:
    assert not oracles.copies_in_loops(text, shape)


# Runs in float32 that begin with an empty memory, by another similarity.

_BY_DISTANCE = {"similarity": addressing.euclidean_similarity}
_EMPTY = np.full((2 * _N, _W), 1e-6, np.float32)


@jax.jit
def _run(inputs):
  """Reads and states of each step."""

  def step(state, inputs):
    state, reads = _step(state, inputs, **_BY_DISTANCE)
    return state, (reads, state)

  return jax.lax.scan(step, _started(_EMPTY), inputs)[1]


def _told(**changes):
  """Inputs of each step; one array for all steps, or a list of them."""
  names = ("word", "write_gate", "interpolation_gate")
  names += ("query", "strength", "modes")
  told = dict(zip(names, _INPUTS, strict=True))
  for name, values in changes.items():
    told[name] = np.broadcast_to(values, told[name].shape)
  return tuple(np.float32(x) for x in told.values())


def test_reading_by_content_alone_is_sparse_access():
  inputs = _told(modes=[0, 1, 0])

  @jax.jit
  def without_links(inputs):
    def step(state, inputs):
      state = sparse_access.write(state, *inputs[:3], delta=_DELTA)
      read = functools.partial(sparse_access.read, **_BY_DISTANCE)
      return read(state, *inputs[3:-1], delta=_DELTA)

    return jax.lax.scan(step, _started(_EMPTY).memory, inputs)

  reads, states = _run(inputs)
  expected_state, expected = without_links(inputs)
  np.testing.assert_allclose(reads, expected, rtol=1e-5, atol=1e-6)
  last = jax.tree.map(lambda x: x[-1], states.memory)
  assert np.all(last.reads.weights > 0)
  for actual, wanted in zip(
    jax.tree.leaves(last), jax.tree.leaves(expected_state), strict=True
  ):
    np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-6)


def test_modes_lead_along_the_order_of_the_writes():
  rng = np.random.default_rng(3)
  words = np.zeros((_STEPS, _H, _W))
  words[:4] = rng.normal(size=(4, _H, _W))
  # Four words by each head, then each looks for its second, and for others.
  is_written = np.arange(_STEPS)[:, None] < 4
  backward, content, forward = np.eye(3)
  modes = np.array([content] * (_STEPS - 3) + [forward, backward, backward])
  reads, _ = _run(
    _told(
      word=words,
      write_gate=1.0 * is_written,
      interpolation_gate=0.0,
      query=words[1],
      strength=1e3,
      modes=modes[:, None],
    )
  )
  for found, which in zip(reads[-4:], (1, 2, 1, 0), strict=True):
    np.testing.assert_allclose(found, words[which], rtol=1e-4, atol=1e-4)


def test_a_query_that_is_not_finite_stays_in_its_heads_read():
  # Heads write to slots of their own and do not meet.
  inputs = _told(interpolation_gate=0.0, strength=1.0)
  expected, _ = _run(inputs)
  broken = list(inputs)
  broken[3] = broken[3].copy()
  broken[3][2, 0, 1] = np.nan
  reads, states = _run(tuple(broken))
  assert np.isnan(reads[2, 0]).all()
  assert np.isfinite(reads[2, 1]).all()
  np.testing.assert_array_equal(reads[:2], expected[:2])
  np.testing.assert_array_equal(reads[2, 1], expected[2, 1])
  assert np.isfinite(reads[3:]).all()
  assert not states.memory.reads.weights[2, 0].any()
  for leaf in jax.tree.leaves(states):
    assert np.isfinite(leaf).all()


def test_all_of_a_state_can_be_donated():
  state = sparse_neural_computer.init(sparse_access.init(8, 2, num_heads=1))
  state = jax.jit(lambda state: state, donate_argnums=0)(state)
  assert state.memory.time == 0


def test_bad_arguments_are_refused():
  memory = sparse_access.init(8, 2, num_heads=2)
  for num_links in (0, -1, 9):
    with pytest.raises(ValueError, match=f"num_links is {num_links}; it must"):
      sparse_neural_computer.init(memory, num_links=num_links)
  state = sparse_neural_computer.init(memory)
  for modes in (jnp.ones((2, 2)), jnp.ones(3)):
    with pytest.raises(ValueError, match=r"modes has shape .* \[H, 3\]"):
      _read(state, (jnp.ones((2, 2)), jnp.ones(2), modes))
  for sizes in ({"num_heads": 1}, {"num_slots": 9}):
    other = sparse_access.init(
      **{"num_slots": 8, "word_size": 2, "num_heads": 2} | sizes
    )
    links = sparse_neural_computer.init(other).links
    with pytest.raises(ValueError, match=r"state\.links\.successor_slots has"):
      sparse_neural_computer.detach(state._replace(links=links))
