"""Tests of Sparse Access Memory: loops, a dense twin, traps of the paper."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.memory import nearest_neighbors, sparse_access, sparse_rows
from tests import haste, oracles
from tests.whole import whole

_N, _W, _H, _K, _STEPS, _SEGMENT = 19, 3, 2, 2, 8, 4
_BATCH = 4
_DELTA = 0.05


def _make_inputs():
  """First words; then a, α, γ, q and β of each step; of four runs."""
  rng = np.random.default_rng(0)
  steps = (_BATCH, _STEPS, _H)
  return rng.normal(size=(_BATCH, _N, _W)), (
    rng.normal(size=(*steps, _W)),
    rng.random(steps),
    rng.random(steps),
    rng.normal(size=(*steps, _W)),
    1 + 3 * rng.random(steps),
  )


_ALL_WORDS, _ALL_INPUTS = _make_inputs()
_WORDS, _INPUTS = _ALL_WORDS[0], tuple(x[0] for x in _ALL_INPUTS)
_QUERIES = _INPUTS[3][0].astype(np.float32)


def _naive(words, inputs, num_reads):
  """Unrolls the equations with loops over slots: reads, slots, and the end."""
  M, w_read = words.copy(), np.zeros((_H, _N))
  last = list(range(-_N, 0))
  reads, chosen = [], []
  for now, step in enumerate(zip(*inputs, strict=True), 1):
    a, alpha, gamma, q, beta = step
    unused = sorted(range(_N), key=lambda i: (last[i], i))[:_H]
    w_write = np.zeros((_H, _N))
    for h in range(_H):
      for i in range(_N):
        w_write[h, i] = gamma[h] * w_read[h, i] + (1 - gamma[h]) * (
          i == unused[h]
        )
        w_write[h, i] *= alpha[h]
    for i in range(_N):
      if i in unused:
        M[i] = 0
      for h in range(_H):
        M[i] = M[i] + w_write[h, i] * a[h]
    w_read, r = np.zeros((_H, _N)), np.zeros((_H, _W))
    for h in range(_H):
      cosine = [
        (q[h] @ m) / np.sqrt((q[h] @ q[h] + 1e-6) * (m @ m + 1e-6)) for m in M
      ]
      best = sorted(range(_N), key=lambda i: -cosine[i])[:num_reads]
      total = sum(np.exp(beta[h] * cosine[i]) for i in best)
      for i in best:
        w_read[h, i] = np.exp(beta[h] * cosine[i]) / total
        r[h] += w_read[h, i] * M[i]
      chosen.append(best)
    for i in range(_N):
      if sum(w_write[h, i] + w_read[h, i] for h in range(_H)) > _DELTA:
        last[i] = now
    reads.append(r)
  return np.stack(reads), chosen, (M, w_read, last)


def _dense_unroll(words, inputs, num_reads, segment):
  """The same on dense arrays, by masks: to be differentiated plainly."""

  def step(carry, inputs):
    is_boundary, a, alpha, gamma, q, beta = inputs
    M, w_read, last, now = carry
    M, w_read = (
      jnp.where(is_boundary, jax.lax.stop_gradient(x), x) for x in (M, w_read)
    )
    now = now + 1
    unused = jnp.argsort(last)[:_H]
    indicator = 1.0 * (jnp.arange(_N)[None] == unused[:, None])
    w_write = gamma[:, None] * w_read + (1 - gamma)[:, None] * indicator
    w_write = alpha[:, None] * w_write
    M = (1 - indicator.sum(axis=0))[:, None] * M + w_write.T @ a
    norms = jnp.sqrt(jnp.sum(M**2, axis=1) + 1e-6)[None]
    norms = norms * jnp.sqrt(jnp.sum(q**2, axis=1) + 1e-6)[:, None]
    cosine = q @ M.T / norms
    least = jnp.sort(cosine, axis=1)[:, _N - num_reads][:, None]
    scores = jnp.where(cosine >= least, beta[:, None] * cosine, -jnp.inf)
    w_read = jax.nn.softmax(scores, axis=1)
    is_accessed = (w_write + w_read).sum(axis=0) > _DELTA
    last = jnp.where(is_accessed, now, last)
    return (M, w_read, last, now), w_read @ M

  steps = np.arange(_STEPS)
  is_boundary = (steps % segment == 0) & (steps > 0)
  start = (words, jnp.zeros((_H, _N)), jnp.arange(-_N, 0), 0)
  return jax.lax.scan(step, start, (is_boundary, *inputs))[1]


def _step(state, inputs, delta=_DELTA):
  a, alpha, gamma, q, beta = inputs
  state = sparse_access.write(state, a, alpha, gamma, delta=delta)
  return sparse_access.read(state, q, beta, delta=delta)


def _started(words, num_reads=_K, gradient_rows=None, index=None):
  """A memory that holds these words."""
  state = sparse_access.init(
    *words.shape,
    num_heads=_H,
    num_reads=num_reads,
    index=index,
    dtype=words.dtype,
  )
  rows = sparse_rows.init(words, gradient_rows=gradient_rows)
  return state._replace(words=rows)


def _unroll(state, inputs, segment):
  def several(state, inputs):
    state, reads = jax.lax.scan(_step, state, inputs)
    return sparse_access.detach(state), reads

  inputs = jax.tree.map(lambda x: x.reshape(-1, segment, *x.shape[1:]), inputs)
  state, reads = jax.lax.scan(several, state, inputs)
  return state, reads.reshape(-1, *reads.shape[2:])


def _loss(reads):
  return (np if isinstance(reads, np.ndarray) else jnp).sin(2 * reads).sum()


def _run(function, segment):
  """Compiles and runs it in float64: all runs, or the first if truncated."""
  inputs = _ALL_WORDS, _ALL_INPUTS
  if segment == _STEPS:
    function = jax.vmap(function)
  else:
    inputs = _WORDS, _INPUTS
  with jax.enable_x64(True):
    return jax.tree.map(np.asarray, jax.jit(function)(*inputs))


@functools.cache
def _gradients(num_reads, segment=_STEPS, gradient_rows=None):
  """Gradients by the first words and the inputs; reads and the end."""

  def loss(tape, inputs, words):
    state = _started(words, num_reads, gradient_rows)
    rows = state.words._replace(tape=state.words.tape + tape)
    state, reads = _unroll(state._replace(words=rows), inputs, segment)
    return _loss(reads), (reads, state)

  def gradients(words, inputs):
    tape = jnp.zeros((gradient_rows or _N, _W))
    return jax.grad(loss, (0, 1), has_aux=True)(tape, inputs, words)

  return _run(gradients, segment)


@functools.cache
def _dense_gradients(num_reads, segment=_STEPS):
  def loss(words, inputs):
    reads = _dense_unroll(words, inputs, num_reads, segment)
    return _loss(reads), reads

  return _run(jax.grad(loss, (0, 1), has_aux=True), segment)


def _times(state, run=...):
  """When each slot was accessed last."""
  times = np.asarray(state.accesses.times[run])
  return times.reshape(-1)[:_N]


def _assert_trees_close(actual, expected, **tolerance):
  for a, b in zip(
    jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(a, b, **tolerance)


def test_an_unroll_equals_a_loop():
  _, (reads, state) = _gradients(_K)
  for run in range(_BATCH):
    end = jax.tree.map(lambda x: x[run], state)  # noqa: B023
    inputs = [x[run] for x in _ALL_INPUTS]
    expected, chosen, (words, weights, last) = _naive(
      _ALL_WORDS[run], inputs, _K
    )
    np.testing.assert_allclose(reads[run], expected, atol=1e-12)
    np.testing.assert_allclose(end.words.words, words, atol=1e-12)
    np.testing.assert_array_equal(end.reads.slots, chosen[-_H:])
    weights = np.take_along_axis(weights, end.reads.slots, axis=1)
    np.testing.assert_allclose(end.reads.weights, weights, atol=1e-12)
    assert _times(end).tolist() == last
    assert end.time == _STEPS


def test_gradients_equal_those_of_the_dense_twin():
  expected, dense_reads = _dense_gradients(_K)
  actual, (reads, _) = _gradients(_K)
  np.testing.assert_allclose(reads, dense_reads, atol=1e-12)
  _assert_trees_close(actual, expected, rtol=1e-8, atol=1e-12)
  for grad in actual[1]:  # of all that a controller says, the queries too
    assert np.any(grad)


def test_reading_all_slots_in_segments_equals_the_dense_twin():
  # The dense limit, truncated, with as few rows as will do.
  expected, dense_reads = _dense_gradients(_N, _SEGMENT)
  actual, (reads, _) = _gradients(_N, _SEGMENT, gradient_rows=_N)
  np.testing.assert_allclose(reads, dense_reads, atol=1e-12)
  np.testing.assert_allclose(reads, _naive(_WORDS, _INPUTS, _N)[0], atol=1e-12)
  _assert_trees_close(actual[1], expected[1], rtol=1e-8, atol=1e-12)
  assert np.any(actual[1][0])


@pytest.mark.slow
def test_gradients_equal_finite_differences():
  grads = jax.tree.map(lambda x: x[0], _gradients(_K)[0])
  _, chosen, _ = _naive(_WORDS, _INPUTS, _K)
  touched = set(np.array(chosen).flat)
  assert grads[0].any() and touched < set(range(_N))
  for slot in set(range(_N)) - touched:
    assert not grads[0][slot].any()
  leaves, tree = jax.tree.flatten((_WORDS, _INPUTS))
  rng = np.random.default_rng(2)
  for which, grad in enumerate(jax.tree.leaves(grads)):
    direction, ends = rng.normal(size=grad.shape), []
    for sign in (1, -1):
      moved = list(leaves)
      moved[which] = leaves[which] + sign * 1e-6 * direction
      reads, slots, _ = _naive(*jax.tree.unflatten(tree, moved), _K)
      assert slots == chosen
      ends.append(_loss(reads))
    slope = (ends[0] - ends[1]) / 2e-6
    np.testing.assert_allclose(np.vdot(grad, direction), slope, rtol=1e-6)


def test_a_table_without_bits_equals_exact_search():
  def run(words, inputs):
    index = nearest_neighbors.init(
      *(jax.random.key(0), _N, _W),
      num_tables=1,
      num_bits=0,
      bucket_size=_N,
    )
    index = nearest_neighbors.insert(index, jnp.arange(_N), words)
    return _unroll(_started(words, index=index), inputs, _SEGMENT)

  state, reads = _run(run, _SEGMENT)
  _, (expected_reads, expected) = _gradients(_K)
  np.testing.assert_allclose(reads, expected_reads[0], atol=1e-12)
  np.testing.assert_array_equal(state.reads.slots, expected.reads.slots[0])
  np.testing.assert_array_equal(_times(state), _times(expected, 0))


def test_each_segment_has_all_the_rows():
  state = _started(_WORDS.astype(np.float32), gradient_rows=_H)
  gates = np.ones(_H, np.float32), np.zeros(_H, np.float32)

  def loss(words, state):
    state = sparse_access.write(state, words, *gates)
    address = jax.tree.map(lambda x: x[:, -1:], state.writes)
    return jnp.sum(sparse_access.read_at(state, address)[1]), state

  gradient = jax.jit(jax.grad(loss, has_aux=True))
  for _ in range(3):
    grad, state = gradient(np.ones((_H, _W), np.float32), state)
    np.testing.assert_array_equal(grad, np.ones((_H, _W)))
    state = sparse_access.detach(state)


# Single steps in float32, each call of the same compiled programs.

_compiled_write = jax.jit(sparse_access.write)
_compiled_read = jax.jit(sparse_access.read)
_compiled_read_at = jax.jit(sparse_access.read_at)


_ONES = np.ones((_H, _W))


def _state(words=_WORDS):
  return _started(words.astype(np.float32))


def _both(value):
  return np.full(_H, value, np.float32)


def _write(state, alpha, gamma, words=_ONES):
  gates = (np.float32(alpha) + _both(0), np.float32(gamma) + _both(0))
  return _compiled_write(state, words.astype(np.float32), *gates)


def _read(state, queries, strength=1.0):
  return _compiled_read(state, np.float32(queries), _both(strength))


def _read_at(state, slots, weights):
  slots = np.array(slots, np.int32)
  return _compiled_read_at(
    state, sparse_access.Address(slots, np.float32(weights))
  )


def _least_used(state):
  return np.argsort(_times(state), kind="stable").tolist()


def _memory(state):
  return np.asarray(state.words.words)


def test_slots_are_filled_in_turn_and_the_oldest_is_overwritten():
  state = _state(np.full((_N, _W), 1e-6))
  words = np.arange(1.0, 1 + 10 * _H * _W).reshape(10, _H, _W)
  expected = np.full((_N, _W), 1e-6)
  for t in range(10):  # 20 words into 19 slots
    state = _write(state, 1.0, 0.0, words[t])
    expected[[2 * t % _N, (2 * t + 1) % _N]] = words[t]
    np.testing.assert_allclose(_memory(state), expected, rtol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.4, 1.0])
def test_least_used_slots_are_erased_whatever_the_gates_are(gamma):
  words = _WORDS.copy()
  state, _ = _read_at(_state(words), [[2, 3], [1, 0]], 0.5 + np.zeros((2, 2)))
  erased = _least_used(state)[:_H]
  assert erased == [4, 5]
  bad = _memory(state).copy()
  bad[4] = np.nan
  state = state._replace(words=state.words._replace(words=bad))
  expected = bad.copy()
  expected[erased] = 0
  for _ in range(2):  # a slot that nothing is written to stays the least used
    state = _write(state, 0.0, gamma)
    np.testing.assert_array_equal(_memory(state), expected)


def test_words_go_where_the_step_before_read():
  words = 10 * np.eye(_N, _W) + _WORDS
  state = _write(_state(words), 0.0, 0.0)
  state, _ = _read_at(state, [[7, 3], [5, 3]], [[1.0, 0.0], [0.5, 0.25]])
  state, _ = _read_at(state, [[7, 3], [5, 3]], [[1.0, 0.0], [0.5, 0.25]])
  before, erased = _memory(state), _least_used(state)[:_H]
  # What this step reads later does not decide where is written.
  step = np.stack([np.ones(_W), 2 * np.ones(_W)])
  after = _write(state, np.array([1.0, 0.5]), 1.0, step)
  expected = before.copy()
  expected[erased] = 0
  expected[7] += 1
  expected[5] += 0.5 * 0.5 * 2
  expected[3] += 0.5 * 0.25 * 2
  np.testing.assert_allclose(_memory(after), expected, rtol=1e-6)


def test_a_word_is_read_at_the_step_that_writes_it():
  words = np.array([[3.0, 0, 0], [0, -3.0, 0]])
  state = _write(_state(0.01 * _WORDS), 1.0, 0.0, words)
  state, reads = _read(state, words, strength=1e3)
  np.testing.assert_array_equal(state.reads.slots[:, 0], [0, 1])
  np.testing.assert_allclose(reads, words, rtol=1e-5, atol=1e-5)


def test_weights_below_delta_are_no_accesses():
  state = _write(_state(), 0.004, 0.0)
  assert _least_used(state) == list(range(_N))
  state = _write(state, 0.006, 0.0)
  assert _least_used(state)[:1] == [2] and state.time == 2
  weights = [[0.004, 0.006], [0.004, 0.0]]
  state, _ = _read_at(_state(), [[4, 0], [2, _N]], weights)
  assert _least_used(state) == [*range(1, _N), 0]


def test_weights_of_one_step_count_together():
  # Two heads read slot 4.
  state, _ = _read_at(
    _state(), [[4, 2], [1, 4]], [[0.003, 0.004], [0.004, 0.003]]
  )
  assert _least_used(state)[-1] == 4 and _times(state).max() == 0
  # Two heads write to slot 5, where they have read before.
  state, _ = _read_at(_state(), [[5, _N], [5, 3]], [[0.5, 0.0], [0.5, 0.5]])
  state = _write(state, 0.006, 1.0)
  times = _times(state)
  assert times[5] == 1 and times[3] == 0
  # Slot 0 is written to and read in one step, slot 3 read and not written to.
  state = _write(_state(), 0.003, 0.0)
  state, _ = _read_at(state, [[3, 0], [_N, _N]], [[0.003, 0.003], [0.0, 0.0]])
  times = _times(state)
  assert times[0] == 1 and times[3] == 3 - _N
  # What was written counts in its own step only.
  state = _write(state, 0.0, 0.0)
  state, _ = _read_at(state, [[1, 0], [_N, _N]], [[0.003, 0.003], [0.0, 0.0]])
  assert _times(state).max() == 1


def test_heads_erase_slots_of_their_own():
  state = _write(_state(), 1.0, 0.0, np.stack([np.ones(_W), 2 * np.ones(_W)]))
  assert state.writes.slots[:, -1].tolist() == [0, 1]
  np.testing.assert_array_equal(_memory(state)[:2], [[1] * _W, [2] * _W])
  with pytest.raises(ValueError, match=r"num_heads is 10; .* num_slots, 9"):
    sparse_access.init(9, _W, num_heads=10)
  state = sparse_access.init(3, 1, num_heads=3, num_reads=1)
  words = np.array([[1.0], [2.0], [3.0]], np.float32)
  gates = jnp.ones(3), jnp.zeros(3)
  state = _compiled_write(state, words, *gates)
  np.testing.assert_array_equal(state.words.words, words)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_query_that_is_not_finite_stays_in_its_heads_read(bad):
  broken = _QUERIES.copy()
  broken[0, 1] = bad
  start = _write(_state(), 0.5, 0.0)
  expected_state, expected = _read(start, _QUERIES)
  state, reads = _read(start, broken)
  assert np.isnan(reads[0]).all()
  np.testing.assert_array_equal(reads[1], expected[1])
  # The head has read nothing: the other's access is noted, and where the first
  # would write next, nothing is added.
  np.testing.assert_array_equal(state.reads.weights[0], 0)
  times = _times(state)
  slots = np.asarray(expected_state.reads.slots)
  assert (times[slots[1]] == 1).all()
  after = _write(state, np.array([1.0, 0.0]), 1.0)
  change = _memory(after) - _memory(state)
  change[np.asarray(after.writes.slots[:, -1])] = 0
  assert not change.any()
  after, reads = _read(after, _QUERIES)
  for leaf in jax.tree.leaves((after, reads)):
    assert np.isfinite(leaf).all()


def test_reading_at_an_address_that_content_gave_is_reading():
  state = _write(_state(), 0.5, 0.0)
  expected_state, expected = _read(state, _QUERIES, 2.0)

  @jax.jit
  def by_address(state):
    state, address, rows = sparse_access.content_address(
      state, _QUERIES, _both(2.0)
    )
    return sparse_access.read_at(state, address), rows

  (state, reads), rows = by_address(state)
  np.testing.assert_allclose(reads, expected, rtol=1e-6)
  _assert_trees_close(state, expected_state, rtol=1e-6)
  np.testing.assert_array_equal(rows, _memory(state)[state.reads.slots])


def _train(params, state, inputs):
  """Truncated backpropagation over a stream of segments."""

  def loss(params, state, inputs):
    def step(state, x):
      said = jnp.tanh(params @ x)
      gates = jax.nn.sigmoid(said[:, :2])
      word, query = jnp.split(said[:, 2:-1], 2, axis=1)
      step = word, gates[:, 0], gates[:, 1], query, 1 + said[:, -1]
      return _step(state, step)

    state, reads = jax.lax.scan(step, state, inputs)
    return jnp.sum(reads**2), state

  def several(carry, inputs):
    params, state = carry
    (value, state), grads = jax.value_and_grad(loss, has_aux=True)(
      params, state, inputs
    )
    return (params - 0.1 * grads, sparse_access.detach(state)), value

  return jax.lax.scan(several, (params, state), inputs)


def _forward(_, state, inputs):
  def step(state, x):
    word, query = jnp.split(x[:, :8], 2, axis=1)
    return _step(state, (word, x[:, 8], x[:, 9], query, x[:, 10]))

  return jax.lax.scan(step, state, inputs)


def _compiled(function, state, inputs, *batch):
  """Compiles it, and says the shapes of the state's large arrays."""
  params = jnp.zeros((4, 11, 5))
  large = {x.shape for x in jax.tree.leaves(state) if x.size >= 30}
  assert {state.words.words.shape, state.accesses.times.shape} < large
  arguments = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((*batch, *x.shape), x.dtype),
    (params, state, jax.ShapeDtypeStruct(inputs, jnp.float32)),
  )
  for _ in batch:
    function = jax.vmap(function)
  function = jax.jit(function, donate_argnums=(0, 1))
  compiled = function.lower(*arguments).compile(haste.AS_USED)
  return compiled, [(*batch, *shape) for shape in large]


def _large_state(num_slots, is_hashed, **settings):
  index = None
  if is_hashed:
    index = nearest_neighbors.init(
      *(jax.random.key(0), num_slots, 4),
      num_tables=3,
      num_bits=5,
      bucket_size=6,
    )
  return sparse_access.init(num_slots, 4, num_reads=2, index=index, **settings)


def test_a_stream_takes_no_memory_and_copies_nothing():
  state = jax.eval_shape(lambda: _large_state(2**20, True, gradient_rows=120))
  # Ten million steps: nothing is kept of each segment, nothing for each slot.
  compiled, shapes = _compiled(_train, state, (10**6, 10, 5))
  assert compiled.memory_analysis().temp_size_in_bytes < 2**18
  for shape in shapes:
    assert not oracles.copies_in_loops(compiled.as_text(), shape)


def test_exact_search_in_a_batch_copies_nothing():
  state = jax.eval_shape(lambda: _large_state(1000, False))
  compiled, shapes = _compiled(_train, state, (1, 10, 5), 3)
  for shape in shapes:
    assert not oracles.copies_in_loops(compiled.as_text(), shape)


def test_one_head_that_reads_one_word_copies_nothing():
  # Of a single slot the compiler makes another kind of edit than of several,
  # and copies for it if there are enough words: 1,000 are too few.
  state = jax.eval_shape(
    lambda: sparse_access.init(5000, 4, num_heads=1, num_reads=1)
  )
  compiled, shapes = _compiled(_forward, state, (10, 1, 11))
  for shape in shapes:
    assert not oracles.copies_in_loops(compiled.as_text(), shape)


@pytest.mark.parametrize("delta", [-0.1, 1.0, np.nan, np.float32(1)])
def test_a_threshold_that_no_weight_or_every_weight_passes_is_refused(delta):
  state = whole(sparse_access.init)(3, 2, num_heads=1, num_reads=1)
  ones = np.ones((1, 2)), np.ones(1), np.ones(1)
  with pytest.raises(ValueError, match="delta is"):
    whole(sparse_access.write)(state, *ones, delta=delta)
  with pytest.raises(ValueError, match="delta is"):
    whole(sparse_access.read)(state, *ones[:2], delta=delta)


def test_an_index_must_be_for_these_words():
  index = nearest_neighbors.init(jax.random.key(0), 8, 5)
  with pytest.raises(
    ValueError, match=r"index\.hyper.* W = 4, as in word_size"
  ):
    sparse_access.init(8, 4, index=index)
  index = nearest_neighbors.init(jax.random.key(0), 9, 4)
  with pytest.raises(
    ValueError, match=r"index\.places .* N = 8, as in num_slo"
  ):
    sparse_access.init(8, 4, index=index)


@pytest.mark.slow
def test_hashing_in_a_batch_copies_nothing():
  state = jax.eval_shape(lambda: _large_state(1000, True, gradient_rows=120))
  compiled, shapes = _compiled(_forward, state, (10, 4, 11), 3)
  for shape in shapes:
    assert not oracles.copies_in_loops(compiled.as_text(), shape)


@pytest.mark.parametrize("is_hashed", [False, True])
def test_any_similarity_chooses_and_weighs(is_hashed):
  def first(query, words):
    return query[0] * words[:, 0]

  index = None
  if is_hashed:
    index = nearest_neighbors.init(
      jax.random.key(0), _N, _W, num_tables=1, num_bits=0
    )
    index = nearest_neighbors.file(index, jnp.asarray(_WORDS, jnp.float32))
  state = _state()._replace(index=index)
  queries, strengths = np.float32([[-1, 9, 0], [2, 0, 9]]), _both(2.0)
  read = functools.partial(sparse_access.read, similarity=first)
  state, reads = jax.jit(read)(state, queries, strengths)
  scores = queries[:, :1] * _WORDS[:, 0]
  slots = np.argsort(-scores, axis=1)[:, :_K]
  np.testing.assert_array_equal(state.reads.slots, slots)
  weights = np.exp(2 * np.take_along_axis(scores, slots, axis=1))
  weights /= weights.sum(axis=1, keepdims=True)
  np.testing.assert_allclose(state.reads.weights, weights, rtol=1e-5)
  expected = (weights[..., None] * _WORDS[slots]).sum(axis=1)
  np.testing.assert_allclose(reads, expected, rtol=1e-5)


def test_the_number_of_slots_does_not_matter():
  few, many = (
    sparse_access.init(n, _W, num_heads=_H, num_reads=_K) for n in (_N, 4096)
  )
  for t in range(_N // (_H * (_K + 1))):  # while there are slots to spare
    word, alpha, gamma, query, _ = (x[t] for x in _INPUTS)
    few, many = (_write(state, alpha, gamma, word) for state in (few, many))
    (few, reads), (many, others) = (_read(s, query, 4.0) for s in (few, many))
    assert np.abs(reads).max() > 0.01
    np.testing.assert_array_equal(reads, others)


def test_all_that_was_written_is_filed_where_it_is():
  index = nearest_neighbors.init(
    *(jax.random.key(0), _N, _W), num_tables=2, num_bits=2, bucket_size=99
  )
  state = _started(np.zeros((_N, _W), np.float32), index=index)
  rng = np.random.default_rng(0)
  for _ in range(20):
    slots = rng.integers(0, _N, (_H, _K))
    state, _ = _read_at(state, slots, rng.random((_H, _K)))
    gates = rng.integers(0, 2, _H), rng.integers(0, 3, _H) / 2
    state = _write(state, *gates, rng.normal(size=(_H, _W)))
  index = jax.tree.map(np.asarray, state.index)
  words, found = _memory(state), 0
  for slot, word in enumerate(words):
    for table, planes in enumerate(index.hyperplanes):
      place = index.places[slot, table]
      if not word.any():
        assert place == -1
      else:
        bucket, position = divmod(place, 99)
        assert bucket == (planes @ word > 0) @ [1, 2]
        assert index.entries[table, bucket, position] == slot
        found += 1
  assert 2 * _N // 2 < found < 2 * _N


def test_types_are_those_of_the_memory():
  state = jax.eval_shape(
    lambda: sparse_access.init(
      *(_N, _W), num_heads=_H, num_reads=_K, dtype=jnp.bfloat16
    )
  )
  inputs = jax.tree.map(lambda x: np.float32(x[0]), _INPUTS)
  after, reads = jax.eval_shape(_step, state, inputs)
  assert after == state
  assert reads.dtype == jnp.bfloat16


def test_a_memory_starts_full_of_a_number_and_unread():
  state = sparse_access.init(8, 2, num_reads=3, fill=0.5)
  np.testing.assert_array_equal(state.words.words, np.full((8, 2), 0.5))
  assert np.all(sparse_access.init(8, 2).words.words == np.float32(1e-6))
  for address, count in ((state.reads, 3), (state.writes, 4)):
    np.testing.assert_array_equal(address.slots, np.full((4, count), 8))
    np.testing.assert_array_equal(address.weights, np.zeros((4, count)))


def test_all_of_a_state_can_be_donated():
  index = nearest_neighbors.init(jax.random.key(0), 8, 2)
  state = sparse_access.init(8, 2, index=index, gradient_rows=3)
  state = jax.jit(lambda state: state, donate_argnums=0)(state)
  assert state.time == 0


def test_bad_arguments_are_refused():
  for name in ("num_slots", "word_size", "num_heads", "num_reads"):
    for size in (0, -1):
      sizes = {"num_slots": 4, "word_size": 2} | {name: size}
      with pytest.raises(ValueError, match=f"{name} is {size}; .* at least 1"):
        sparse_access.init(**sizes)
  for name in ("num_heads", "num_reads"):
    sizes = {"num_heads": 1, "num_reads": 1} | {name: 5}
    with pytest.raises(ValueError, match=f"{name} is 5; .* most num_slots, 4"):
      sparse_access.init(4, 2, **sizes)
  for fill in (np.nan, np.inf, -np.inf):
    with pytest.raises(ValueError, match=f"fill is {fill}; .* finite"):
      sparse_access.init(4, 2, fill=fill)
  with pytest.raises(ValueError, match=r"gradient_rows is 0; .* at least 1"):
    sparse_access.init(4, 2, gradient_rows=0)
  state, gates = _state(), jnp.ones(_H)
  with pytest.raises(ValueError, match=r"word has shape .* \[H, W\]"):
    sparse_access.write(state, jnp.ones((_H, _W + 1)), gates, gates)
  with pytest.raises(ValueError, match=r"interpolation_gate has shape \[\]"):
    sparse_access.write(state, jnp.ones((_H, _W)), gates, gates[0])
  with pytest.raises(ValueError, match=r"strength has shape \[1\]"):
    sparse_access.read(state, jnp.ones((_H, _W)), gates[:1])
  with pytest.raises(ValueError, match=r"query has shape .* \[H, W\]"):
    sparse_access.read(state, jnp.ones(_W), gates)
  slots = jnp.zeros((_H + 1, 2), jnp.int32)
  address = sparse_access.Address(slots, jnp.ones((_H + 1, 2)))
  with pytest.raises(
    ValueError, match=rf"address\.slots .* H = {_H}, as in st"
  ):
    sparse_access.read_at(state, address)
