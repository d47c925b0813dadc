"""Tests of the memories of cores: what their numbers become, what they show."""

import functools

import chex
import jax
import numpy as np
import pytest

from lilly.memory import (
  dense_access,
  differentiable_neural_computer,
  nearest_neighbors,
  sparse_access,
  sparse_neural_computer,
)
from lilly.nets import cores, memories

_SLOTS, _WORD = 23, 4
_SIZES = {"num_slots": _SLOTS, "word_size": _WORD, "num_heads": 2}


def _sigmoid(x):
  return 1 / (1 + np.exp(-x))


def _softplus(x):
  return np.log1p(np.exp(x))


def _softmax(x):
  return np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)


def _expected_calls(name, x):
  """What a memory's functions get of these numbers, after the state."""
  if name == "ntm":
    heads = [
      dense_access.NtmAddress(
        x[f"{which}_query"],
        1 + _softplus(x[f"{which}_strength"]),
        _sigmoid(x[f"{which}_gate"]),
        _softmax(x[f"{which}_kernel"]),
        1 + _softplus(x[f"{which}_exponent"]),
      )
      for which in ("write", "read")
    ]
    return (heads[0], _sigmoid(x["erase"]), x["word"]), (heads[1],)
  if name == "dnc":
    write = differentiable_neural_computer.WriteInterface(
      x["write_key"],
      1 + _softplus(x["write_strength"]),
      _sigmoid(x["erase"]),
      x["word"],
      *(_sigmoid(x[f"{gate}"]) for gate in ("free_gates", "allocation_gate")),
      _sigmoid(x["write_gate"]),
    )
    read = differentiable_neural_computer.ReadInterface(
      x["read_keys"],
      1 + _softplus(x["read_strengths"]),
      _softmax(x["read_modes"]),
    )
    return (write,), (read,)
  gates = (
    _sigmoid(x["write_gate"] + 1),
    _sigmoid(x["interpolation_gate"] - 3),
  )
  read = x["query"], 1 + _softplus(x["strength"])
  if name == "sdnc":
    read = *read, _softmax(x["modes"])
  return (x["word"], *gates), read


_SYSTEMS = {
  "ntm": dense_access,
  "dam": dense_access,
  "dnc": differentiable_neural_computer,
  "sam": sparse_access,
  "sdnc": sparse_neural_computer,
}
_OTHERS = {
  "dam": ({"usage_discount": 0.5}, {}, {"usage_discount": 0.5}),
  "sam": ({"delta": 0.25}, {"delta": 0.25}, {"delta": 0.25}),
}
_OTHERS["sdnc"] = _OTHERS["sam"]


@pytest.mark.parametrize("name", _SYSTEMS)
def test_numbers_become_what_the_equations_want(name, monkeypatch):
  options, *keywords = _OTHERS.get(name, ({}, {}, {}))
  memory = cores.make_memory(name, **_SIZES, **options)
  calls, prefix = [], "ntm_" if name == "ntm" else ""

  def record(state, *inputs, **options):
    calls.append((state, inputs, options))
    return len(calls)

  for function in ("write", "read"):
    monkeypatch.setattr(_SYSTEMS[name], prefix + function, record)
  rng = np.random.default_rng(0)
  numbers = {
    part: rng.normal(size=shape).astype(np.float32)
    for part, shape in memory.interface.items()
  }
  assert memory.step(0, **numbers) == 2
  expected = _expected_calls(name, numbers)
  for i, (state, inputs, options) in enumerate(calls):
    assert (state, options) == (i, keywords[i])
    chex.assert_trees_all_close(inputs, expected[i], rtol=1e-5)


@pytest.mark.parametrize("name", _SYSTEMS)
def test_inputs_of_other_shapes_are_refused(name):
  memory = cores.make_memory(name, **_SIZES)
  state = memory.init()
  inputs = {part: np.ones(s) for part, s in memory.interface.items()}
  for part, x in inputs.items():
    with pytest.raises(ValueError, match=rf"{part} has shape .*unbatched"):
      memory.step(state, **inputs | {part: x[None]})


def test_an_index_is_made_for_every_state():
  def make_index():
    key = jax.random.key(0)
    return nearest_neighbors.init(key, _SLOTS, _WORD, num_tables=2)

  for name in ("sam", "sdnc"):
    memory = cores.make_memory(name, make_index=make_index, **_SIZES)
    state = jax.eval_shape(memory.init)
    state = state if name == "sam" else state.memory
    assert state.index.places.shape == (_SLOTS, 2)


_FAR = 18.0  # a number whose sigmoid is 1, and of -_FAR 0
_STAY = np.array([-_FAR, _FAR, -_FAR])
_QUERIED = {"query": "word", "strength": _FAR}
_NOTED = _QUERIED | {"write_gate": _FAR, "interpolation_gate": -_FAR}
_HERE = {
  "gate": -_FAR,
  "kernel": _STAY,
  "strength": 0.0,
  "query": 0.0,
  "exponent": 0.0,
}
# For each memory what writes a word to a new slot and finds it at once.
_WRITE_AND_FIND = {
  "ntm": {
    f"{k}_{name}": v for k in ("read", "write") for name, v in _HERE.items()
  }
  | {"erase": _FAR},
  "dam": _NOTED,
  "dnc": {"write_key": 0.0, "write_strength": 0.0, "erase": _FAR}
  | {"free_gates": 0.0, "allocation_gate": _FAR, "write_gate": _FAR}
  | {"read_keys": "word", "read_strengths": _FAR, "read_modes": _STAY},
  "sam": _NOTED,
  "sdnc": _NOTED | {"modes": _STAY},
}


@pytest.mark.parametrize("name", _WRITE_AND_FIND)
def test_a_word_is_read_in_the_step_that_writes_it(name):
  memory = cores.make_memory(name, **_SIZES | {"num_heads": 1})
  step = jax.jit(lambda state, numbers: memory.step(state, **numbers))
  state, rng = jax.jit(memory.init)(), np.random.default_rng(0)
  for _ in range(2):
    word = rng.normal(size=_WORD).astype(np.float32)
    numbers = {"word": word} | {
      k: word if isinstance(v, str) else v
      for k, v in _WRITE_AND_FIND[name].items()
    }
    numbers = {
      k: np.broadcast_to(np.float32(v), memory.interface[k])
      for k, v in numbers.items()
    }
    state, reads = step(state, numbers)
    # The rest of the softmax has weight exp(-19) where memory is orthogonal.
    np.testing.assert_allclose(reads, word[None], rtol=0.02, atol=0.02)


def _index():
  key = jax.random.key(1)
  return nearest_neighbors.init(key, 40, 25, num_tables=2)


def _large(name, **options):
  sizes = {"num_slots": 40, "word_size": 25, "num_heads": 2}
  return cores.make_memory(name, **sizes, **options)


# All of the table: a new memory is tested as it is added.
_FILLED = {
  **{name: _large(name) for name in cores.MEMORIES},
  "sam_lsh": _large("sam", make_index=_index),
  "sdnc_lsh": _large("sdnc", make_index=_index),
}


def _changed(before, after):
  """The leaves of a state that differ, by path; those of an index are named."""
  return {
    jax.tree_util.keystr(path): y
    for (path, x), y in zip(
      jax.tree.leaves_with_path(before), jax.tree.leaves(after), strict=True
    )
    if np.any(x != y)
  }


@functools.cache
def _filled(name, seed):
  """A state as it begins, and filled; both of NumPy."""
  init, fill = _compiled(name)
  state = init()
  return jax.device_get((state, fill(jax.random.key(seed), state)))


@functools.cache
def _compiled(name):
  memory = _FILLED[name]
  return jax.jit(memory.init), jax.jit(memory.fill)


@pytest.mark.parametrize("name", _FILLED)
def test_a_fill_puts_random_words_into_slots_and_changes_nothing_else(name):
  empty, full = _filled(name, 0)
  changed = _changed(empty, full)
  (words,) = [x for path, x in changed.items() if ".index" not in path]
  assert words.shape == (40, 25)
  np.testing.assert_allclose([words.mean(), words.std()], [0.0, 1.0], atol=0.15)
  assert len(np.unique(words)) > 0.99 * words.size
  assert (len(changed) > 1) == name.endswith("_lsh")
  _, other = _filled(name, 1)
  (others,) = [
    x for path, x in _changed(empty, other).items() if ".index" not in path
  ]
  assert not np.any(words == others)


@pytest.mark.parametrize("name", ["sam_lsh", "sdnc_lsh"])
def test_every_word_of_a_fill_is_filed(name):
  _, state = _filled(name, 0)
  state = state if name == "sam_lsh" else state.memory
  file = jax.jit(lambda words: nearest_neighbors.file(_index(), words))
  expected = jax.device_get(file(state.words.words))
  for actual, wanted in zip(state.index, expected, strict=True):
    np.testing.assert_array_equal(actual, wanted)
  assert np.all(expected.places >= 0)


@pytest.mark.parametrize("name", cores.MEMORIES)
def test_accesses_are_weights_of_every_slot(name):
  memory = cores.make_memory(name, **_SIZES)
  step = jax.jit(lambda state, numbers: memory.step(state, **numbers)[0])
  state, rng = jax.jit(memory.init)(), np.random.default_rng(0)
  for _ in range(2):
    state = step(
      state,
      {k: np.float32(rng.normal(size=s)) for k, s in memory.interface.items()},
    )
  written, read = jax.device_get(jax.jit(memory.accesses)(state))
  assert written.shape == read.shape == (_SLOTS,)
  assert min(written.min(), read.min()) >= -1e-6
  # At most one word a head.
  assert 0.1 < read.sum() < 2.001 and 0.01 < written.sum() < 2.001


def test_accesses_tell_writes_from_reads_of_all_heads():
  dense = dense_access.State(
    memory=np.zeros((4, 2), np.float32),
    read_weights=np.float32([[0.5, 0.5, 0, 0], [0, 0, 0.25, 0.75]]),
    write_weights=np.float32([[1.0, 0, 0, 0], [0.5, 0, 0, 0.5]]),
    usage=np.zeros(4, np.float32),
  )
  for name in ("dam", "ntm"):
    written, read = jax.jit(cores.make_memory(name).accesses)(dense)
    np.testing.assert_array_equal(written, [1.5, 0, 0, 0.5])
    np.testing.assert_array_equal(read, [0.5, 0.5, 0.25, 0.75])
  one_head = np.arange(4, dtype=np.float32) / 4
  written, _ = cores.make_memory("dnc").accesses(
    dense._replace(write_weights=one_head)
  )
  np.testing.assert_array_equal(written, one_head)
  memory = memories.sam(num_slots=4, word_size=2, num_heads=2, num_reads=2)
  state = jax.jit(memory.init)()
  reads = state.reads._replace(
    slots=np.int32([[0, 1], [1, 3]]),
    weights=np.float32([[0.25, 0.75], [0.5, 0.5]]),
  )
  # A slot that does not exist is nowhere: padding, in writes of few words.
  slots = np.full_like(state.writes.slots, 4)
  slots[0, 0] = 2
  weights = np.ones_like(state.writes.weights)
  writes = state.writes._replace(slots=slots, weights=weights)
  state = state._replace(reads=reads, writes=writes)
  written, read = jax.jit(memory.accesses)(state)
  np.testing.assert_array_equal(written, [0, 0, 1, 0])
  np.testing.assert_array_equal(read, [0.25, 1.25, 0, 0.5])
