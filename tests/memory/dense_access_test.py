"""Tests of dense memories: naive loops, the traps of the rule, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.memory import dense_access

_N, _W, _H = 5, 3, 2
_DISCOUNT = 0.9


def _step(state, word, alpha, gamma, query, strength):
  state = dense_access.write(state, word, alpha, gamma)
  return dense_access.read(state, query, strength, usage_discount=_DISCOUNT)


_compiled_step = jax.jit(_step)
_write = jax.jit(dense_access.write)


def _start(dtype=np.float64):
  """A memory as after some steps, in numpy."""
  rng = np.random.default_rng(0)
  softmax = rng.dirichlet(np.ones(_N), 2 * _H)
  arrays = rng.normal(size=(_N, _W)), softmax[:_H], softmax[_H:], rng.random(_N)
  return dense_access.State(*(a.astype(dtype) for a in arrays))


def _inputs(seed, dtype=np.float64):
  rng = np.random.default_rng(seed)
  arrays = (
    rng.normal(size=(_H, _W)),
    rng.random(_H),
    rng.random(_H),
    rng.normal(size=(_H, _W)),
    1 + rng.random(_H),
  )
  return tuple(a.astype(dtype) for a in arrays)


def _content(q, memory, strength):
  exponentials = []
  for m in memory:
    norms = np.sqrt((q @ q + 1e-6) * (m @ m + 1e-6))
    exponentials.append(np.exp(strength * (q @ m) / norms))
  return np.array(exponentials) / sum(exponentials)


def _naive_step(state, word, alpha, gamma, query, strength):
  memory, read_weights, _, usage = (np.array(a) for a in state)
  order = sorted(range(_N), key=lambda i: (usage[i], i))
  write_weights = np.zeros((_H, _N))
  for h in range(_H):
    for i in range(_N):
      indicator = float(i == order[h])
      write_weights[h, i] = alpha[h] * (
        gamma[h] * read_weights[h, i] + (1 - gamma[h]) * indicator
      )
  for h in range(_H):
    memory[order[h]] = 0
  for h in range(_H):
    for i in range(_N):
      memory[i] += write_weights[h, i] * word[h]
  weights = np.array(
    [_content(q, memory, b) for q, b in zip(query, strength, strict=True)]
  )
  for i in range(_N):
    accesses = sum(write_weights[h, i] + weights[h, i] for h in range(_H))
    usage[i] = _DISCOUNT * usage[i] + accesses
  state = dense_access.State(memory, weights, write_weights, usage)
  return state, weights @ memory


def test_steps_equal_a_loop():
  with jax.enable_x64(True):
    init = dense_access.init(_N, _W, num_heads=_H, dtype=jnp.float64)
  actual = expected = jax.tree.map(np.asarray, init)
  np.testing.assert_array_equal(init.memory, 1e-6)
  for t in range(7):
    inputs = _inputs(t)
    with jax.enable_x64(True):
      actual, words = _compiled_step(actual, *inputs)
    expected, expected_words = _naive_step(expected, *inputs)
    np.testing.assert_allclose(words, expected_words, rtol=1e-10)
    for a, b in zip(actual, expected, strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-10)


def _by_gates(state, word, alpha, gamma, query=None, strength=1e4):
  """A step in float64 with the same gates for all heads."""
  query = np.zeros((_H, _W)) if query is None else query
  alpha, gamma, strength = (np.full(_H, x) for x in (alpha, gamma, strength))
  with jax.enable_x64(True):
    step = _compiled_step(state, word, alpha, gamma, query, strength)
  return jax.tree.map(np.asarray, step)


def test_slots_are_filled_in_turn_and_the_oldest_is_overwritten():
  # A read of nothing in particular touches all slots alike.
  zeros = np.zeros((_H, _N))
  state = dense_access.State(np.zeros((_N, _W)), zeros, zeros, np.zeros(_N))
  words = np.arange(1.0, 1 + 4 * _H * _W).reshape(4, _H, _W)
  for t in range(4):
    state, _ = _by_gates(state, words[t], 1.0, 0.0)
    order = words[: t + 1].reshape(-1, _W)
    expected = np.zeros((_N, _W))
    for i, word in enumerate(order):
      expected[i % _N] = word
    np.testing.assert_allclose(state.memory, expected, atol=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_least_used_slots_are_erased_whatever_the_gates_are(gamma):
  start = _start()
  erased = np.argsort(start.usage)[:_H]
  start.memory[erased[0]] = np.nan
  expected = start.memory.copy()
  expected[erased] = 0
  state, _ = _by_gates(start, np.ones((_H, _W)), 0.0, gamma)
  np.testing.assert_array_equal(state.memory, expected)


def test_words_go_where_the_step_before_read():
  start = _start()
  queries = start.memory[[3, 1]]
  first, read = _by_gates(start, np.zeros((_H, _W)), 0.0, 0.0, queries)
  rows = first.read_weights.argmax(axis=1)
  np.testing.assert_array_equal(rows, [3, 1])
  np.testing.assert_allclose(read, queries, atol=1e-9)
  # Another query now: it must not decide where is written.
  words = np.ones((_H, _W))
  second, _ = _by_gates(first, words, 1.0, 1.0, start.memory[[0, 4]])
  change = second.memory - first.memory
  erased = np.argsort(first.usage)[:_H]
  change[erased] += first.memory[erased]
  touched = np.flatnonzero(np.abs(change).max(axis=1) > 1e-9)
  np.testing.assert_array_equal(touched, sorted(rows))
  np.testing.assert_allclose(change[rows], words, atol=1e-9)


def test_a_word_is_read_at_the_step_that_writes_it():
  words = _inputs(3)[0]
  _, read = _by_gates(_start(), words, 1.0, 0.0, words)
  np.testing.assert_allclose(read, words, atol=1e-9)


def _checked_grads(value_and_grads, arguments):
  """Gradients, held against central differences in 3 directions."""
  rng, step = np.random.default_rng(9), 1e-6

  def at(directions, by):
    moved = jax.tree.map(lambda x, d: x + by * d, arguments, directions)
    with jax.enable_x64(True):
      return jax.tree.map(np.asarray, value_and_grads(*moved))

  for _ in range(3):
    directions = jax.tree.map(lambda x: rng.normal(size=x.shape), arguments)
    _, grads = at(directions, 0)
    expected = (at(directions, step)[0] - at(directions, -step)[0]) / (2 * step)
    products = jax.tree.map(np.vdot, grads, directions)
    np.testing.assert_allclose(
      sum(jax.tree.leaves(products)), expected, rtol=1e-6
    )
  return grads


def test_gradients_equal_finite_differences():
  start = _start()
  inputs = [np.stack(x) for x in zip(*map(_inputs, range(3)), strict=True)]

  def loss(memory, read_weights, inputs):
    state = start._replace(memory=memory, read_weights=read_weights)
    state = jax.tree.map(jnp.asarray, state)
    reads = jax.lax.scan(lambda s, x: _step(s, *x), state, inputs)[1]
    return jnp.sum(jnp.sin(reads))

  grads = _checked_grads(
    jax.jit(jax.value_and_grad(loss, range(3))),
    (start.memory, start.read_weights, inputs),
  )
  erased = np.argsort(start.usage)[:_H]
  assert not np.any(grads[0][erased])
  for grad in jax.tree.leaves(grads):
    assert np.any(grad)


def test_usage_has_no_gradient():
  start, inputs = _start(), _inputs(0)

  def loss(state):
    return jnp.sum(_step(state, *inputs)[0].usage)

  with jax.enable_x64(True):
    grads = jax.jit(jax.grad(loss))(start)
  for grad in grads:
    assert not np.any(grad)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_query_that_is_not_finite_stays_in_its_heads_read(bad):
  queries = _inputs(0)[3].copy()
  queries[0, 1] = bad
  start, words = _start(), _inputs(0)[0]
  state, read = _by_gates(start, words, 0.5, 0.5, queries)
  assert np.isnan(read[0]).all()
  other, other_read = _by_gates(start, words, 0.5, 0.5, queries[[1, 1]])
  np.testing.assert_array_equal(read[1], other_read[1])
  np.testing.assert_array_equal(state.read_weights[0], 0)
  np.testing.assert_allclose(
    state.usage, other.usage - other.read_weights[0], atol=1e-12
  )
  for leaf in state:
    assert np.isfinite(leaf).all()


def test_bfloat16_is_computed_in_float32():
  start = _start(jnp.bfloat16)
  inputs = _inputs(0, jnp.bfloat16)
  state, words = _compiled_step(start, *inputs)
  wide = jax.tree.map(lambda x: np.asarray(x, np.float32), (start, inputs))
  expected = _write(wide[0], *wide[1][:3])
  for name in ("memory", "write_weights"):
    actual = getattr(state, name)
    rounded = np.asarray(getattr(expected, name)).astype(jnp.bfloat16)
    np.testing.assert_array_equal(actual, rounded)
  _, expected_words = _compiled_step(wide[0], *wide[1])
  assert words.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    words.astype(np.float32), expected_words, rtol=0.03, atol=0.03
  )


# The Neural Turing Machine.


def _addresses(seed, dtype=np.float64):
  rng = np.random.default_rng(seed)
  arrays = (
    rng.normal(size=(_H, _W)),
    1 + rng.random(_H),
    rng.random(_H),
    rng.dirichlet(np.ones(3), _H),
    1 + rng.random(_H),
  )
  return dense_access.NtmAddress(*(a.astype(dtype) for a in arrays))


def _naive_ntm_weights(previous, memory, address, h):
  content = _content(address.query[h], memory, address.strength[h])
  gate = address.gate[h]
  mixed = [gate * content[i] + (1 - gate) * previous[i] for i in range(_N)]
  moved = [
    sum(address.kernel[h, k + 1] * mixed[(i - k) % _N] for k in (-1, 0, 1))
    for i in range(_N)
  ]
  powers = np.array([m ** address.exponent[h] for m in moved])
  return powers / powers.sum()


def _ntm_step(state, write_address, erase, word, read_address):
  state = dense_access.ntm_write(state, write_address, erase, word)
  return dense_access.ntm_read(state, read_address)


_compiled_ntm_step = jax.jit(_ntm_step)


def _naive_ntm_step(state, write_address, erase, word, read_address):
  memory, reads, writes = (np.array(a) for a in state)
  writes = np.stack(
    [_naive_ntm_weights(writes[h], memory, write_address, h) for h in range(_H)]
  )
  for h in range(_H):
    for i in range(_N):
      memory[i] *= 1 - writes[h, i] * erase[h]
  for h in range(_H):
    for i in range(_N):
      memory[i] += writes[h, i] * word[h]
  reads = np.stack(
    [_naive_ntm_weights(reads[h], memory, read_address, h) for h in range(_H)]
  )
  return dense_access.NtmState(memory, reads, writes), reads @ memory


def _ntm_inputs(seed):
  rng = np.random.default_rng(seed)
  erase, word = rng.random((_H, _W)), rng.normal(size=(_H, _W))
  return _addresses(seed), erase, word, _addresses(seed + 100)


def test_ntm_steps_equal_a_loop():
  with jax.enable_x64(True):
    init = dense_access.ntm_init(_N, _W, num_heads=_H, dtype=jnp.float64)
  actual = expected = jax.tree.map(np.asarray, init)
  np.testing.assert_array_equal(init.read_weights, np.eye(_N)[[0, 0]])
  np.testing.assert_array_equal(init.write_weights, np.eye(_N)[[0, 0]])
  for t in range(5):
    inputs = _ntm_inputs(t)
    with jax.enable_x64(True):
      actual, words = _compiled_ntm_step(actual, *inputs)
    expected, expected_words = _naive_ntm_step(expected, *inputs)
    np.testing.assert_allclose(words, expected_words, rtol=1e-10)
    for a, b in zip(actual, expected, strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-10)


def _ntm_loss(state, *inputs):
  _, reads = _ntm_step(state, *inputs)
  return jnp.sum(jnp.sin(reads))


_ntm_value_and_grads = jax.jit(jax.value_and_grad(_ntm_loss, range(5)))


def test_ntm_gradients_equal_finite_differences():
  arguments = dense_access.NtmState(*_start()[:3]), *_ntm_inputs(0)
  grads = _checked_grads(_ntm_value_and_grads, arguments)
  for grad in jax.tree.leaves(grads):
    assert np.any(grad)


def test_ntm_gradients_are_finite_where_all_is_erased():
  # Both heads on slot 0, which they erase to the last bit.
  ones = np.zeros((_H, _N)) + np.eye(_N)[0]
  start = dense_access.NtmState(0 * _start().memory, ones, ones)
  write, _, word, read = _ntm_inputs(0)
  stay = np.zeros((_H, 3)) + np.eye(3)[1]
  write = write._replace(gate=np.zeros(_H), kernel=stay, exponent=np.ones(_H))
  arguments = start, write, np.ones((_H, _W)), word, read
  with jax.enable_x64(True):
    _, grads = _ntm_value_and_grads(*arguments)
  for grad in jax.tree.leaves(grads):
    assert np.isfinite(grad).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_ntm_head_with_a_bad_query_stays_where_it_was(bad):
  write_address, erase, word, read_address = _ntm_inputs(0)
  queries = read_address.query.copy()
  queries[0, 1] = bad
  start = dense_access.NtmState(*_start()[:3])
  with jax.enable_x64(True):
    state, read = _compiled_ntm_step(
      *(start, write_address, erase, word),
      read_address._replace(query=queries),
    )
    _, fine = _compiled_ntm_step(
      start, write_address, erase, word, read_address
    )
  assert np.isnan(read[0]).all()
  np.testing.assert_array_equal(read[1], fine[1])
  np.testing.assert_array_equal(state.read_weights[0], start.read_weights[0])
  for leaf in state:
    assert np.isfinite(leaf).all()


def test_similarity_is_handed_on():
  # All words weigh alike where the similarity says so.
  def alike(query, words):
    return 0 * words[:, 0] + query[0]

  state, ntm = (
    _start(np.float32),
    dense_access.NtmState(*_start(np.float32)[:3]),
  )
  inputs, address = _inputs(0, np.float32), _addresses(0, np.float32)
  address = address._replace(gate=np.ones(_H, np.float32))
  erase = np.ones((_H, _W), np.float32)

  @jax.jit
  def weights(state, ntm, inputs, address, erase):
    read = dense_access.read(state, *inputs[3:], similarity=alike)
    ntm_read = dense_access.ntm_read(ntm, address, similarity=alike)
    written = dense_access.ntm_write(
      *(ntm, address, erase, inputs[0]), similarity=alike
    )
    states = read[0].read_weights, ntm_read[0].read_weights
    return *states, written.write_weights

  for w in weights(state, ntm, inputs, address, erase):
    np.testing.assert_allclose(w, 1 / _N, rtol=1e-6)


def test_bad_arguments_are_refused():
  for make in (dense_access.init, dense_access.ntm_init):
    with pytest.raises(ValueError, match="num_slots is 0"):
      make(0, 2)
    with pytest.raises(ValueError, match="word_size is 0"):
      make(2, 0)
    with pytest.raises(ValueError, match="num_heads is 0"):
      make(2, 2, num_heads=0)
    for fill in (float("nan"), float("inf")):
      with pytest.raises(ValueError, match="fill is"):
        make(2, 2, fill=fill)
  with pytest.raises(ValueError, match="num_heads is 3"):
    dense_access.init(2, 2, num_heads=3)
  state = dense_access.init(3, 2)
  word, gate = np.ones((1, 2), np.float32), np.ones(1, np.float32)
  for discount in (-0.1, 1.1, float("nan"), np.float32(2), np.int32(-1)):
    with pytest.raises(ValueError, match="usage_discount is"):
      dense_access.read(state, word, gate, usage_discount=discount)
  with pytest.raises(ValueError, match=r"word has shape \[2\]; .* \[H, W\]"):
    dense_access.write(state, word[0], gate, gate)
  with pytest.raises(ValueError, match=r"strength has shape \[\]; .* \[H\]"):
    dense_access.read(state, word, gate[0])


def test_kernels_of_even_length_are_refused():
  state = dense_access.ntm_init(3, 2)
  word, one = np.ones((1, 2), np.float32), np.ones(1, np.float32)
  address = dense_access.NtmAddress(word, one, one, np.ones((1, 2)), one)
  with pytest.raises(ValueError, match=r"address\.kernel has length 2; .* odd"):
    dense_access.ntm_read(state, address)
  with pytest.raises(ValueError, match=r"address\.kernel has length 2; .* odd"):
    dense_access.ntm_write(state, address, word, word)


def test_a_memory_of_fewer_words_than_weights_is_refused():
  state = dense_access.init(4, 2)._replace(memory=np.ones((1, 2), np.float32))
  word, gate = np.ones((1, 2), np.float32), np.ones(1, np.float32)
  with pytest.raises(ValueError, match=r"read_weights .* N = 1, as in state.m"):
    dense_access.write(state, word, gate, gate)


def test_a_state_of_whole_numbers_has_strong_types_afterwards():
  state = jax.tree.map(lambda x: x.astype(int), dense_access.init(4, 2))
  word, gate = np.ones((1, 2), int), np.ones(1, int)
  state = dense_access.write(state, word, gate, gate)
  for leaf in jax.tree.leaves(state):
    assert leaf.dtype == np.float32
    assert not leaf.weak_type


@pytest.mark.parametrize("num_slots", [1, 2])
def test_as_many_heads_as_slots(num_slots):
  state = dense_access.init(num_slots, 1, num_heads=num_slots)
  word = np.arange(1.0, 1 + num_slots, dtype=np.float32)[:, None]
  gate = np.ones(num_slots, np.float32)
  state = _write(state, word, gate, 0 * gate)
  np.testing.assert_array_equal(state.memory, word)
