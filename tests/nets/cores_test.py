"""Tests of recurrent cores: what all keep, and each against its equations."""

import functools
import subprocess
import sys

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.nets import cores, memories, recurrent
from tests import oracles

_IN, _OUT, _HIDDEN, _STEPS, _BATCH = 3, 2, 5, 3, 2
_SLOTS, _WORD, _HEADS = 23, 4, 2
_SIZES = {"num_slots": _SLOTS, "word_size": _WORD, "num_heads": _HEADS}
# Room for the words of one segment, and not for those of two.
_SPARSE = {"num_reads": 2, "gradient_rows": 14}
# Options of some cores, beside the sizes that every memory takes.
_MORE = {"sam": _SPARSE, "sdnc": _SPARSE | {"num_links": 3}}
_OPTIONS = {
  name: (_SIZES if name in cores.MEMORIES else {}) | _MORE.get(name, {})
  for name in cores.CORES
}
# Those that take longest to compile are left to the full run.
_LONG = ("ntm", "dnc", "sdnc")
_all_cores = pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=pytest.mark.slow if name in _LONG else ())
    for name in cores.CORES
  ],
)


@functools.cache
def _make(name):
  core = cores.make(name, _IN, _OUT, hidden_size=_HIDDEN, **_OPTIONS[name])
  return core, jax.jit(core.init)(jax.random.key(0))


def _inputs():
  """Two segments for each of a batch, [B, 2, T, D]."""
  shape = (_BATCH, 2, _STEPS, _IN)
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@functools.cache
def _loop(name):
  """Applies one compiled step again and again.

  Returns:
    The states after each segment, [B][2], the outputs, [B, 2, T, O], and how
    often the step was traced.
  """
  core, params = _make(name)
  traces = []

  def apply(params, x, state):
    traces.append(x)
    return core.apply(params, x, state)

  apply = jax.jit(apply)
  states, outputs = [], []
  for segments in _inputs():
    state = core.initial_state()
    states.append([])
    for segment in segments:
      for x in segment:
        state, y = apply(params, x, state)
        outputs.append(y)
      states[-1].append(state)
      state = core.detach(state)
  shape = (_BATCH, 2, _STEPS, _OUT)
  return states, np.reshape(outputs, shape), len(traces)


def _stacked(trees):
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@functools.cache
def _program(name):
  """Compiles the second segment under vmap; gradients are of its last output.

  Returns:
    The program, and what it returns for the second segment.
  """
  core, params = _make(name)

  def loss(params, inputs, state):
    state, outputs = recurrent.unroll(core, params, inputs, core.detach(state))
    return jnp.sum(jnp.sin(outputs[-1])), (state, outputs)

  gradient = jax.grad(loss, (0, 1, 2), has_aux=True, allow_int=True)
  run = jax.jit(jax.vmap(gradient, (None, 0, 0)))
  states = _stacked([each[0] for each in _loop(name)[0]])
  inputs = (params, _inputs()[:, 1], states)
  program = run.lower(*inputs).compile()
  return program, program(*inputs)


@_all_cores
def test_scan_and_vmap_equal_a_loop_of_one_program(name):
  states, outputs, num_traces = _loop(name)
  assert num_traces == 1
  _, (_, (found_states, found)) = _program(name)
  np.testing.assert_allclose(found, outputs[:, 1], rtol=1e-4, atol=1e-5)
  expected = _stacked([each[1] for each in states])
  chex.assert_trees_all_equal_shapes_and_dtypes(found_states, expected)
  if name in cores.MEMORIES:
    # Which of many equal slots is taken may depend on rounding.
    found_states, expected = (x[:2] for x in (found_states, expected))
  chex.assert_trees_all_close(found_states, expected, rtol=1e-4, atol=1e-5)
  leaves = jax.tree.leaves((found_states, found))
  types = {leaf.dtype for leaf in leaves if leaf.dtype.kind == "f"}
  assert types == {np.dtype("float32")}


def test_compiled_equals_eager():
  core, params = _make("gru")
  x, state = _inputs()[0, 0, 0], core.initial_state()
  compiled = jax.jit(core.apply)(params, x, state)
  chex.assert_trees_all_close(
    core.apply(params, x, state), compiled, rtol=1e-5, atol=1e-5
  )


@_all_cores
def test_every_parameter_learns_and_detach_ends_a_segment(name):
  _, ((of_params, of_inputs, of_state), _) = _program(name)
  chex.assert_tree_all_finite((of_params, of_inputs))
  for leaf in jax.tree.leaves(of_params):
    assert np.abs(leaf).max() > 1e-9
  # The gradient reaches the segment's start, and nothing before.
  assert np.all(np.abs(of_inputs).max(axis=(0, 2)) > 1e-7)
  for leaf in jax.tree.leaves(of_state):
    assert leaf.dtype == jax.dtypes.float0 or not np.any(leaf)
  if name in cores.MEMORIES:
    bias, start = of_params["interface"]["b"], 0
    memory = cores.make_memory(name, **_OPTIONS[name])
    for part, shape in memory.interface.items():
      end = start + int(np.prod(shape))
      assert np.abs(bias[:, start:end]).max() > 1e-10, part
      start = end
    assert start == bias.shape[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sam", "sdnc"])
def test_a_step_of_a_sparse_core_copies_nothing_large(name):
  text = _program(name)[0].as_text()
  for shape in ((_SLOTS, _WORD), (_HEADS, _SLOTS, 3)):
    assert not oracles.copies_in_loops(text, (_BATCH, *shape))


@_all_cores
def test_initial_states_share_no_array(name):
  core, _ = _make(name)
  leaves = jax.tree.leaves((core.initial_state(), core.initial_state()))
  addresses = [leaf.unsafe_buffer_pointer() for leaf in leaves]
  assert len(set(addresses)) == len(addresses)
  if name in cores.MEMORIES:
    assert any(np.all(leaf == np.float32(1e-6)) for leaf in leaves)


def _sigmoid(x):
  return 1 / (1 + np.exp(-x))


def test_lstm_by_hand():
  core, params = _make("lstm")
  _, outputs = recurrent.unroll(
    core, params, _inputs()[0, 0], core.initial_state()
  )
  w, b = params["lstm/linear"]["w"], params["lstm/linear"]["b"]
  h = c = np.zeros(_HIDDEN)
  for x, y in zip(_inputs()[0, 0], outputs, strict=True):
    gates = np.concatenate([x, h]) @ w + b
    i, g, f, o = np.split(np.asarray(gates), 4)
    c = _sigmoid(f + 1) * c + _sigmoid(i) * np.tanh(g)
    h = _sigmoid(o) * np.tanh(c)
    expected = h @ params["output"]["w"] + params["output"]["b"]
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_gru_by_hand():
  core, params = _make("gru")
  _, outputs = recurrent.unroll(
    core, params, _inputs()[0, 0], core.initial_state()
  )
  w = {k: np.asarray(v) for k, v in params["gru"].items()}
  (w_z, w_r, w_a), (u_z, u_r, u_a), (b_z, b_r, b_a) = (
    np.split(w[k], 3, axis=-1) for k in ("w_i", "w_h", "b")
  )
  h = np.zeros(_HIDDEN)
  for x, y in zip(_inputs()[0, 0], outputs, strict=True):
    z = _sigmoid(x @ w_z + h @ u_z + b_z)
    r = _sigmoid(x @ w_r + h @ u_r + b_r)
    h = (1 - z) * h + z * np.tanh(x @ w_a + (r * h) @ u_a + b_a)
    expected = h @ params["output"]["w"] + params["output"]["b"]
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def _notebook():
  """A memory that remembers what it was told, and reads what it counts."""

  def step(state, a, b):
    count = state[0] + 1
    return (count, a, b), count * jnp.array([[1.0, -1.0]])

  def init():
    return jnp.zeros(()), jnp.zeros((2, 2)), jnp.zeros(())

  shapes = {"a": (2, 2), "b": ()}
  return memories.Memory(init, shapes, step, reads=(1, 2))


@pytest.mark.parametrize("clip", [0.25, None])
@pytest.mark.parametrize("use_reads", [True, False])
def test_controller_by_hand(clip, use_reads):
  core = recurrent.with_memory(
    _notebook(), _IN, _OUT, hidden_size=5, clip=clip, use_reads=use_reads
  )
  params = jax.jit(core.init)(jax.random.key(1))
  params = jax.tree.map(lambda w: 3 * w, params)
  state, xs = core.initial_state(), _inputs()[0, 0]
  h, reads = np.zeros(5), np.zeros(2)
  cell = hk.LSTMState(h, h)
  lstm = hk.without_apply_rng(
    hk.transform(lambda x, s: hk.LSTM(5, name="controller")(x, s))
  )
  for t, x in enumerate(xs, start=1):
    state, y = core.apply(params, x, state)
    h, cell = lstm.apply(params, np.concatenate([x, reads]), cell)
    numbers = h @ params["interface"]["w"] + params["interface"]["b"]
    if clip:
      assert np.abs(numbers).max() > clip
      numbers = np.clip(numbers, -clip, clip)
    count, a, b = state.memory
    assert count == t
    np.testing.assert_allclose(
      np.append(np.ravel(a), b), numbers, rtol=1e-4, atol=1e-6
    )
    reads = np.array([t, -t], np.float32) * use_reads
    np.testing.assert_array_equal(state.reads[0], reads)
    y_expected = np.concatenate([h, reads]) @ params["output"]["w"]
    np.testing.assert_allclose(
      y, y_expected + params["output"]["b"], rtol=1e-4, atol=1e-6
    )


def test_gradient_goes_every_way_round():
  def step(state, a, b):
    state = 0.5 * state + a + b
    return state, jnp.sin(state)

  memory = memories.Memory(
    lambda: jnp.ones((1, 2)), {"a": (1, 2), "b": ()}, step, reads=(1, 2)
  )
  core = recurrent.with_memory(memory, _IN, _OUT, hidden_size=_HIDDEN)

  @jax.jit
  def both(params, direction):
    def loss(size):
      moved = jax.tree.map(lambda p, v: p + size * v, params, direction)
      state = core.initial_state()
      _, outputs = recurrent.unroll(core, moved, inputs, state)
      return jnp.sum(jnp.sin(outputs))

    size = jnp.array([1e-4, -1e-4])
    return jax.grad(loss)(0.0), jax.vmap(loss)(size)

  init = jax.jit(core.init)
  params, direction = (init(jax.random.key(seed)) for seed in (0, 1))
  with jax.enable_x64(True):
    inputs = jnp.asarray(_inputs()[0, 0], jnp.float64)
    wide = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), params)
    gradient, (above, below) = both(wide, direction)
    slope = float(above - below) / 2e-4
  np.testing.assert_allclose(gradient, slope, rtol=1e-5)


@_all_cores
def test_sizes_must_be_positive(name):
  for size in ("hidden_size", *_OPTIONS[name]):
    options = _OPTIONS[name] | {size: 0}
    with pytest.raises(ValueError, match=f"{size} "):
      cores.make(name, _IN, _OUT, **options)
  with pytest.raises(ValueError, match="input_size is 0; it must be at least"):
    cores.make(name, 0, _OUT, **_OPTIONS[name])
  with pytest.raises(ValueError, match="output_size is -1"):
    cores.make(name, _IN, -1, **_OPTIONS[name])


def test_other_options_are_checked():
  for clip in (0, -1.0, np.nan):
    with pytest.raises(ValueError, match=r"clip is .*; it must be above 0"):
      cores.make("ntm", _IN, _OUT, clip=clip)
  for name in ("sam", "sdnc"):
    with pytest.raises(ValueError, match="delta is 1"):
      cores.make(name, _IN, _OUT, delta=1)
  with pytest.raises(ValueError, match="usage_discount is 2"):
    cores.make("dam", _IN, _OUT, usage_discount=2)
  with pytest.raises(TypeError, match="num_links"):
    cores.make("sam", _IN, _OUT, num_links=2)
  with pytest.raises(ValueError, match="usage_discount is 2"):
    cores.make("dam", _IN, _OUT, usage_discount=np.float32(2))


@_all_cores
def test_inputs_and_states_of_other_shapes_are_refused(name):
  core, params = _make(name)
  x, state = jnp.zeros(_IN), core.initial_state()
  for bad in (jnp.zeros(_IN + 1), jnp.zeros((1, _IN)), jnp.zeros(())):
    with pytest.raises(ValueError, match=rf"input has shape .* be \[{_IN}\]"):
      core.apply(params, bad, state)
  with pytest.raises(ValueError, match=r"inputs has shape .*unbatched"):
    recurrent.unroll(core, params, jnp.zeros((2, 3, _IN)), state)
  leaves, structure = jax.tree.flatten(state)
  for i, leaf in enumerate(leaves):
    wrong = [*leaves]
    wrong[i] = leaf[None]
    with pytest.raises(ValueError, match=r"state\S* has shape .*unbatched"):
      core.apply(params, x, structure.unflatten(wrong))
    if leaf.ndim:
      wrong[i] = jnp.concatenate([leaf, leaf[:1]])
      with pytest.raises(ValueError, match=r"state\S* has shape .* it must be"):
        core.apply(params, x, structure.unflatten(wrong))
  with pytest.raises(ValueError, match="state has 0 arrays"):
    core.apply(params, x, ())


def test_a_name_that_is_in_no_table_is_refused():
  with pytest.raises(ValueError, match=r"name is 'lsm'; .*'lstm', 'gru'"):
    cores.make("lsm", _IN, _OUT)
  with pytest.raises(ValueError, match=r"name is 'gru'; .*one of \('ntm'"):
    cores.make_memory("gru")


def test_options_go_to_the_controller_or_to_the_memory():
  options = {"clip": 0.5, "use_reads": False, "hidden_size": _HIDDEN}
  core = cores.make("dam", _IN, _OUT, **options, **_SIZES)
  expected = recurrent.with_memory(memories.dam(**_SIZES), _IN, _OUT, **options)
  found, wanted = (
    jax.jit(c.apply)(
      jax.tree.map(lambda w: 9 * w, c.init(jax.random.key(0))),
      _inputs()[0, 0, 0],
      c.initial_state(),
    )
    for c in (core, expected)
  )
  chex.assert_trees_all_equal(found, wanted)


def test_names_are_known_without_jax():
  program = (
    "import sys; from lilly.nets import cores; print(*cores.CORES); "
    "assert 'jax' not in sys.modules"
  )
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, check=True
  )
  assert done.stdout.split() == list(cores.CORES)


@_all_cores
def test_accesses_are_those_of_the_memory(name):
  core, _ = _make(name)
  if name not in cores.MEMORIES:
    assert core.accesses is None
    return
  state = _loop(name)[0][0][0]
  memory = cores.make_memory(name, **_OPTIONS[name])
  chex.assert_trees_all_equal(
    core.accesses(state), memory.accesses(state.memory)
  )
