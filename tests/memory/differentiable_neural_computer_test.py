"""Tests of the DNC: naive loops, what weights sum to, orders, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.memory import differentiable_neural_computer as dnc

_N, _W, _R = 5, 3, 2


def _float64(function, *arrays):
  """Calls the function with arrays in float64; gives them back in NumPy."""
  with jax.enable_x64(True):
    return jax.tree.map(np.asarray, function(*arrays))


@jax.jit
def _step(state, write_interface, read_interface):
  return dnc.read(dnc.write(state, write_interface), read_interface)


def _init(dtype=jnp.float64):
  return _float64(lambda: dnc.init(_N, _W, num_reads=_R, dtype=dtype))


def _interfaces(seed, *leading, dtype=np.float64):
  rng = np.random.default_rng(seed)
  write = dnc.WriteInterface(
    key=rng.normal(size=(*leading, _W)),
    strength=1 + 5 * rng.random(leading),
    erase=rng.random((*leading, _W)),
    word=rng.normal(size=(*leading, _W)),
    free_gates=rng.random((*leading, _R)),
    allocation_gate=rng.random(leading),
    write_gate=rng.random(leading),
  )
  read = dnc.ReadInterface(
    keys=rng.normal(size=(*leading, _R, _W)),
    strengths=1 + 5 * rng.random((*leading, _R)),
    modes=rng.dirichlet(np.ones(3), (*leading, _R)),
  )
  return jax.tree.map(lambda x: np.asarray(x, dtype), (write, read))


def _content(key, memory, strength):
  exponentials = []
  for m in memory:
    norms = np.sqrt((key @ key + 1e-6) * (m @ m + 1e-6))
    exponentials.append(np.exp(strength * (key @ m) / norms))
  return np.array(exponentials) / sum(exponentials)


def _naive_allocation(usage):
  free = sorted(range(len(usage)), key=lambda i: (usage[i], i))
  weights = np.zeros(len(usage))
  for j, slot in enumerate(free):
    weights[slot] = 1 - usage[slot]
    for i in range(j):
      weights[slot] *= usage[free[i]]
  return weights


def _naive_step(state, write, read):
  memory, w_r, w_w, usage, links, precedence = (np.array(x) for x in state)
  for i in range(_N):
    usage[i] = usage[i] + w_w[i] - usage[i] * w_w[i]
    for r in range(_R):
      usage[i] *= 1 - write.free_gates[r] * w_r[r, i]

  content = _content(write.key, memory, write.strength)
  allocated = write.allocation_gate * _naive_allocation(usage)
  w_w = write.write_gate * (allocated + (1 - write.allocation_gate) * content)
  for i in range(_N):
    for k in range(_W):
      memory[i, k] *= 1 - w_w[i] * write.erase[k]
      memory[i, k] += w_w[i] * write.word[k]

  for i in range(_N):
    for j in range(_N):
      links[i, j] *= 1 - w_w[i] - w_w[j]
      links[i, j] += w_w[i] * precedence[j]
    links[i, i] = 0
  precedence = (1 - sum(w_w)) * precedence + w_w

  new = np.zeros((_R, _N))
  for r in range(_R):
    content = _content(read.keys[r], memory, read.strengths[r])
    for i in range(_N):
      forward = sum(links[i, j] * w_r[r, j] for j in range(_N))
      backward = sum(links[j, i] * w_r[r, j] for j in range(_N))
      ways = backward, content[i], forward
      new[r, i] = sum(
        m * way for m, way in zip(read.modes[r], ways, strict=True)
      )
  state = dnc.State(memory, new, w_w, usage, links, precedence)
  return state, new @ memory


def test_steps_equal_a_loop():
  actual = expected = _init()
  np.testing.assert_array_equal(actual.memory, 1e-6)
  for t in range(7):
    inputs = _interfaces(t)
    actual, words = _float64(_step, actual, *inputs)
    expected, expected_words = _naive_step(expected, *inputs)
    np.testing.assert_allclose(words, expected_words, rtol=1e-10)
    for a, b in zip(actual, expected, strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_weights_and_links_sum_to_at_most_one(dtype):
  # Gates at their ends too, where sums come nearest to 1.
  state = jax.tree.map(lambda x: x.astype(dtype), _init())
  bound = 1 + 4 * float(jnp.finfo(dtype).eps)
  for t in range(40):
    write, read = _interfaces(t, dtype=dtype)
    if t % 2:
      write = write._replace(write_gate=np.ones((), dtype))
    if t % 3:
      write = write._replace(allocation_gate=np.ones((), dtype))
    state, words = _step(state, write, read)
    assert words.dtype == dtype
    state = jax.tree.map(np.asarray, state)
    *weights, usage = (
      x.astype(np.float64)
      for x in (
        *(state.write_weights, state.precedence, state.links, state.links.T),
        *(state.read_weights, state.usage),
      )
    )
    for x in weights:
      assert x.min() >= 0
      assert x.sum(-1).max() <= bound
    assert 0 <= usage.min() <= usage.max() <= 1
    assert not state.links.diagonal().any()
  assert state.links.max() > 0.1


@jax.jit
def _allocation(usage):
  return dnc.allocation(usage), jax.jacrev(dnc.allocation)(usage)


@pytest.mark.parametrize(
  "usage",
  [
    [0.3, 0.9, 0.1, 0.6],
    [0.5, 0.5, 0.2, 0.5],
    [0.0, 0.0, 0.0, 0.0],
    [1.0, 1.0, 1.0, 1.0],
    [1.0, 0.0, 1.0, 0.0],
  ],
)
def test_allocation(usage):
  usage = np.array(usage)
  actual, jacobian = _float64(_allocation, usage)
  np.testing.assert_allclose(actual, _naive_allocation(usage), atol=1e-15)
  np.testing.assert_allclose(actual.sum(), 1 - np.prod(usage))
  # The slope within the order that the usages have.
  expected = np.zeros((4, 4))
  ranks = np.argsort(usage, kind="stable")
  for j in range(4):
    for i in range(j + 1):
      factors = [usage[slot] for slot in ranks[:j]]
      last = 1 - usage[ranks[j]]
      if i == j:
        slope = -np.prod(factors)
      else:
        slope = last * np.prod(factors[:i] + factors[i + 1 :])
      expected[ranks[j], ranks[i]] = slope
  np.testing.assert_allclose(jacobian, expected, atol=1e-15)


def test_allocation_in_bfloat16_is_computed_in_float32():
  usage = np.linspace(0.9, 1, 40).astype(jnp.bfloat16)
  allocation = jax.jit(dnc.allocation)
  wide = np.asarray(allocation(usage.astype(np.float32)))
  np.testing.assert_array_equal(allocation(usage), wide.astype(jnp.bfloat16))


def _write_only(word, **fields):
  """Writes all of a word over a free slot."""
  defaults = {
    "key": np.zeros(_W),
    "strength": np.array(1.0),
    "erase": np.ones(_W),
    "word": word,
    "free_gates": np.zeros(_R),
    "allocation_gate": np.array(1.0),
    "write_gate": np.array(1.0),
  }
  return dnc.WriteInterface(**(defaults | fields))


def _read_only(mode, key=None):
  keys = np.zeros((_R, _W)) + (np.zeros(_W) if key is None else key)
  modes = np.zeros((_R, 3)) + np.eye(3)[mode]
  return dnc.ReadInterface(keys, np.full(_R, 1e4), modes)


_BACKWARD, _CONTENT, _FORWARD = range(3)
_NOTHING = _write_only(np.zeros(_W), write_gate=np.array(0.0))


def _written(words):
  state = _init()
  for word in words:
    state, _ = _float64(
      _step, state, _write_only(word), _read_only(_CONTENT, word)
    )
  return state


def test_words_go_to_free_slots_and_are_read_in_both_orders():
  words = np.random.default_rng(2).normal(size=(4, _W))
  state = _written(words)
  np.testing.assert_allclose(state.memory[:4], words, atol=1e-12)
  np.testing.assert_array_equal(state.memory[4], 1e-6)
  np.testing.assert_allclose(state.precedence, np.eye(_N)[3], atol=1e-12)
  np.testing.assert_allclose(state.links, np.eye(_N, k=-1) * (state.usage > 0))
  path = [
    (_CONTENT, 1),
    (_FORWARD, 2),
    (_FORWARD, 3),
    (_BACKWARD, 2),
    (_BACKWARD, 1),
    (_BACKWARD, 0),
  ]
  for mode, slot in path:
    key = words[slot] if mode == _CONTENT else None
    state, read = _float64(_step, state, _NOTHING, _read_only(mode, key))
    np.testing.assert_allclose(read, words[[slot, slot]], atol=1e-9)


def test_a_word_is_read_at_the_step_that_writes_it():
  word = np.array([1.0, -2.0, 0.5])
  state = _written([word + 1])
  _, read = _float64(
    _step, state, _write_only(word), _read_only(_CONTENT, word)
  )
  np.testing.assert_allclose(read, [word, word], atol=1e-9)


def test_content_writes_look_at_the_memory_before_the_write():
  words = np.random.default_rng(3).normal(size=(3, _W))
  state = _written(words)
  over = _write_only(
    np.ones(_W),
    key=words[1],
    strength=np.array(1e4),
    allocation_gate=np.array(0.0),
  )
  state, _ = _float64(_step, state, over, _read_only(_FORWARD))
  np.testing.assert_allclose(state.memory[1], np.ones(_W), atol=1e-9)
  np.testing.assert_allclose(state.memory[[0, 2]], words[[0, 2]], atol=1e-9)


def test_what_was_read_is_freed_and_written_next():
  words = np.random.default_rng(4).normal(size=(_N + 1, _W))
  state = _written(words[:_N])
  state, _ = _float64(_step, state, _NOTHING, _read_only(_CONTENT, words[2]))
  np.testing.assert_allclose(state.usage, 1, atol=1e-12)
  write = _write_only(words[_N], free_gates=np.array([0.0, 1.0]))
  state, _ = _float64(_step, state, write, _read_only(_FORWARD))
  expected = words[[0, 1, _N, 3, 4]]
  np.testing.assert_allclose(state.memory, expected, atol=1e-9)


def test_a_full_memory_is_written_nowhere_by_allocation():
  words = np.random.default_rng(5).normal(size=(_N, _W))
  state = _written(words)
  write = _write_only(np.ones(_W))
  for _ in range(2):
    state, _ = _float64(_step, state, write, _read_only(_FORWARD))
  np.testing.assert_allclose(state.memory, words, atol=1e-12)


def _loss(state, interfaces):
  end, reads = jax.lax.scan(lambda s, x: _step(s, *x), state, interfaces)
  return jnp.sum(jnp.sin(reads)) + jnp.sum(end.usage**2)


def _some_state():
  """In the middle of a sequence, where no two usages are equal."""
  state = _init()
  for t in range(3):
    state, _ = _float64(_step, state, *_interfaces(t))
  return state


_value_and_grads = jax.jit(jax.value_and_grad(_loss, (0, 1)))


@pytest.mark.slow
def test_gradients_equal_finite_differences():
  rng, step = np.random.default_rng(6), 1e-6
  arguments = _some_state(), _interfaces(8, 3)
  _, grads = _float64(_value_and_grads, *arguments)

  def moved(directions, by):
    moved = jax.tree.map(lambda x, d: x + by * d, arguments, directions)
    return _float64(_value_and_grads, *moved)[0]

  for _ in range(3):
    directions = jax.tree.map(lambda x: rng.normal(size=x.shape), arguments)
    expected = (moved(directions, step) - moved(directions, -step)) / (2 * step)
    products = jax.tree.map(np.vdot, grads, directions)
    np.testing.assert_allclose(
      sum(jax.tree.leaves(products)), expected, rtol=1e-6
    )
  for grad in jax.tree.leaves(grads):
    assert np.any(grad)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_gradients_are_finite_at_the_ends(value):
  # Equal usages, zero words and keys, and gates that free and erase all.
  interfaces = jax.tree.map(lambda x: 0 * x + value, _interfaces(0, 3))
  state = jax.tree.map(lambda x: 0 * x, _init())
  for start in (state, state._replace(usage=np.ones(_N))):
    _, grads = _float64(_value_and_grads, start, interfaces)
    for grad in jax.tree.leaves(grads):
      assert np.isfinite(grad).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_key_that_is_not_finite_stays_in_its_heads_read(bad):
  start = _written(np.random.default_rng(9).normal(size=(3, _W)))
  write, read = _interfaces(1)
  keys = read.keys.copy()
  keys[0, 1] = bad
  expected, expected_words = _float64(_step, start, write, read)
  state, words = _float64(_step, start, write, read._replace(keys=keys))
  assert np.isnan(words[0]).all()
  np.testing.assert_array_equal(words[1], expected_words[1])
  np.testing.assert_array_equal(state.read_weights[0], 0)
  rest = state._replace(read_weights=expected.read_weights)
  for actual, wanted in zip(rest, expected, strict=True):
    np.testing.assert_array_equal(actual, wanted)


def test_bfloat16_is_computed_in_float32():
  start = jax.tree.map(lambda x: x.astype(jnp.bfloat16), _some_state())
  inputs = start, *_interfaces(11, dtype=jnp.bfloat16)
  wide = jax.tree.map(lambda x: x.astype(np.float32), inputs)
  (actual, _), (expected, _) = _step(*inputs), _step(*wide)
  # What is read differs: it is read from the rounded memory.
  actual = actual._replace(read_weights=expected.read_weights)
  for a, b in zip(actual, expected, strict=True):
    rounded = np.asarray(b).astype(a.dtype)
    np.testing.assert_array_equal(a, rounded)


def test_one_slot_and_one_read():
  state = jax.tree.map(np.asarray, dnc.init(1, 1, num_reads=1))
  one, row = np.ones(1, np.float32), np.ones((1, 1), np.float32)
  on = np.ones((), np.float32)
  write = dnc.WriteInterface(one, on, one, 3 * one, 0 * one, on, on)
  content = np.array([[0, 1, 0]], np.float32)
  state, words = _step(state, write, dnc.ReadInterface(row, one, content))
  assert words.item() == 3
  assert state.links.item() == 0


def test_bad_arguments_are_refused():
  with pytest.raises(ValueError, match="num_slots is 0"):
    dnc.init(0, 2)
  with pytest.raises(ValueError, match="word_size is 0"):
    dnc.init(2, 0)
  with pytest.raises(ValueError, match="num_reads is 0"):
    dnc.init(2, 2, num_reads=0)
  for fill in (float("nan"), float("inf")):
    with pytest.raises(ValueError, match="fill is"):
      dnc.init(2, 2, fill=fill)
  state, (write, read) = _init(jnp.float32), _interfaces(0, dtype=np.float32)
  for name in ("key", "free_gates", "write_gate"):
    with pytest.raises(ValueError, match=rf"interface\.{name} has shape"):
      dnc.write(state, write._replace(**{name: np.ones((4, 4))}))
  with pytest.raises(ValueError, match=r"interface\.modes has shape .* 3\]"):
    dnc.read(state, read._replace(modes=np.ones((_R, 2))))
