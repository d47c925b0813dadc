"""Tests of what a step costs: programs whose cost can be said beforehand."""

import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly import training
from lilly.nets import memories
from scripts import step_cost

_NUMBERS = 1000


def _keeps_all(state, x):
  state = state * x  # whose gradient needs the state before
  return state, jnp.sum(state)


def _keeps_nothing(state, x):
  state = state + x
  return state, jnp.sum(state)


def _make(length):
  return jnp.zeros(_NUMBERS), jnp.zeros((length, _NUMBERS))


def _planned(step, **options):
  return step_cost.of_step(step, _make, (2, 4), max_bytes=0, **options)


def test_bytes_are_those_that_the_backward_pass_keeps():
  kept, nothing = _planned(_keeps_all), _planned(_keeps_nothing)
  size = 4 * _NUMBERS
  assert size <= kept.bytes_per_step < 1.1 * size
  assert nothing.bytes_per_step < 0.1 * size
  assert 5 * size <= kept.bytes_in_all < 12 * size


def test_a_program_that_is_too_large_is_planned_but_not_run():
  runs = []

  def step(state, x):
    jax.debug.callback(lambda _: runs.append(1), x[0])
    return _keeps_all(state, x)

  planned = step_cost.of_step(step, _make, (1, 3), rounds=2, max_bytes=5000)
  assert math.isnan(planned.seconds) and math.isnan(planned.seconds_once)
  assert planned.bytes_in_all > 5000 and planned.bytes_per_step > 0
  assert not runs
  run = step_cost.of_step(
    step, _make, (1, 3), rounds=2, max_bytes=planned.bytes_in_all
  )
  jax.effects_barrier()
  assert math.isfinite(run.seconds) and math.isfinite(run.seconds_once)
  assert run[1:3] == planned[1:3]
  # Of each length one run that is not timed, and two that are.
  assert len(runs) == 3 * (1 + 3)


def test_a_run_starts_where_the_last_one_ended_and_copies_nothing():
  seen, made = [], []

  def make(length):
    made.append(((jnp.float32(length), jnp.zeros(3)), jnp.ones((length, 3))))
    return made[-1]

  def step(state, x):
    count, vector = state
    jax.debug.callback(lambda c: seen.append(float(c)), count, ordered=True)
    return (count + 1, vector + x), jnp.sum(vector)

  def detach(state):
    count, vector = jax.lax.stop_gradient(state)
    return count + 100, vector

  step_cost.of_step(step, make, (1, 2), detach=detach, rounds=1)
  jax.effects_barrier()
  short, long = [101, 202], [102, 103, 204, 205]
  assert seen == [*short[:1], *long[:2], *short[1:], *long[2:]]
  for state, inputs in made[-2:]:  # those before had shapes alone
    assert all(leaf.is_deleted() for leaf in state)
    np.testing.assert_array_equal(inputs, 1)


def test_seconds_are_differences_and_the_first_run_does_not_count(monkeypatch):
  slow = itertools.chain([100.0, 500.0], [0, 0, 3, 0, 0, 7, 9, 9], 100 * [0])

  def timed(program):
    _, inputs, _ = program
    return 2 + 0.5 * len(inputs) + next(slow)

  monkeypatch.setattr(step_cost, "_timed", timed)
  found = step_cost.of_step(_keeps_nothing, _make, (4, 9), rounds=6)
  assert found.seconds == 0.5 and found.seconds_once == 2.0


def test_a_run_is_timed_until_it_has_ended(monkeypatch):
  clock = [0.0]

  def wait(outputs):
    gradient, _ = outputs
    clock[0] += 1 + 0.25 * len(gradient)
    return outputs

  monkeypatch.setattr(step_cost.time, "perf_counter", lambda: clock[0])
  monkeypatch.setattr(jax, "block_until_ready", wait)
  found = step_cost.of_step(_keeps_nothing, _make, (2, 6), rounds=1)
  assert (found.seconds, found.seconds_once) == (0.25, 1.0)


class _Blackboard(NamedTuple):
  memory: jax.Array


def _blackboard(seen, num_slots):
  def step(state, *, word, gate):
    jax.debug.callback(
      lambda *x: seen.append([np.array(y) for y in x]),
      *(state.memory, word, gate),
      ordered=True,
    )
    memory = jnp.tanh(state.memory + word[None]) * jax.nn.sigmoid(gate)
    return _Blackboard(memory), jnp.sum(memory, axis=0)

  return memories.Memory(
    init=lambda: _Blackboard(jnp.zeros((num_slots, 40))),
    interface={"word": (40,), "gate": ()},
    step=step,
    reads=(40,),
    detach=lambda state: _Blackboard(jax.lax.stop_gradient(state.memory) + 100),
    fill=lambda key, state: _Blackboard(
      jax.random.normal(key, state.memory.shape)
    ),
  )


def test_a_memory_is_full_and_told_random_numbers():
  seen, lengths = [], []

  def make(length):
    lengths.append(length)
    return _blackboard(seen, 5 * length)

  found = step_cost.of_memory(jax.random.key(0), make, (1, 3), rounds=1)
  jax.effects_barrier()
  assert set(lengths) == {1, 3}
  # The first step of the first run of each length.
  for run, num_slots in ((0, 5), (1, 15)):
    memory, word, gate = seen[run]
    assert memory.shape == (num_slots, 40)
    np.testing.assert_allclose(
      [memory.mean(), memory.std()], [100, 1], atol=0.3
    )
    np.testing.assert_allclose([word.mean(), word.std()], [0, 1], atol=0.5)
    assert gate.shape == ()
  assert len({float(gate) for _, _, gate in seen[:4]}) > 1
  assert found.bytes_per_step > 0 and math.isfinite(found.seconds)
  planned = step_cost.of_memory(jax.random.key(0), make, (1, 3), max_bytes=0)
  assert math.isnan(planned.seconds)


def test_a_memory_that_cannot_be_filled_is_refused():
  memory = _blackboard([], 5)._replace(fill=None)
  with pytest.raises(ValueError, match="a memory without `fill`"):
    step_cost.of_memory(jax.random.key(0), lambda length: memory, (1, 3))


def test_a_program_measures_each_seed_at_each_update():
  def measure(update, seed):
    return step_cost.Cost(update, 10 * update + seed, seed, 0.0)

  options = training.Options(seed=3, num_seeds=2)
  program = step_cost.program(measure, options)
  assert program.runs == ({"seed": 3}, {"seed": 4})
  state, found = program.init(), []
  for _ in range(2):
    state, metrics = program.step_chunk(state)
    found.append(metrics["bytes_per_step"].tolist())
  assert found == [[3, 4], [13, 14]]
  assert metrics["seconds"].tolist() == [1, 1]
  swept = options._replace(sweep=(("learning_rate", (0.1, 0.2)),))
  with pytest.raises(training.RunError, match="not a hyper-parameter here"):
    step_cost.program(measure, swept)


def test_bad_arguments_are_refused():
  for lengths in ((0, 2), (3, 3), (4, 2), (-1, 2)):
    with pytest.raises(ValueError, match="lengths must grow from 1 or more"):
      step_cost.of_step(_keeps_all, _make, lengths)
  for rounds in (0, -1):
    with pytest.raises(ValueError, match=f"rounds must .* got {rounds}"):
      step_cost.of_step(_keeps_all, _make, (1, 2), rounds=rounds)
