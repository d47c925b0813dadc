"""Tests of threads that push into shared parameters."""

import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly import training
from lilly.training import hogwild, nonfinite, signals

_TARGET = np.array([1.0, -2.0, 3.0, 0.5], np.float32)


def _problem(compute=None, target_period=None):
  """Least squares from noisy samples; a worker is its key and a counter."""

  @jax.jit
  def gradient(params, key):
    noise = 0.1 * jax.random.normal(key, (4,))
    flat = jnp.concatenate([params["a"], params["b"].ravel()])
    error = flat - _TARGET + noise
    return {"a": error[:2], "b": error[2:].reshape(2, 1)}, jnp.sum(error**2)

  def plain(params, target_params, worker, frames):
    del target_params, frames
    key, key_now = jax.random.split(worker["key"])
    grads, loss = gradient(params, key_now)
    worker = {"key": key, "count": worker["count"] + 1}
    return worker, grads, {"loss": loss}

  return hogwild.Problem(
    init=lambda key: {"a": jnp.zeros(2), "b": jnp.zeros((2, 1))},
    init_worker=lambda key, params, index: {
      "key": key,
      "count": jnp.zeros((), jnp.int32),
    },
    compute=compute or plain,
    evaluate=lambda params: {
      "error": np.abs(
        np.concatenate([params["a"], params["b"].ravel()]) - _TARGET
      ).max()
    },
    num_frames=5,
    target_period=target_period,
  ), gradient


def _options(**changes):
  return training.Options(num_updates=4, log_every=2)._replace(**changes)


_FAST = hogwild.RmsProp(learning_rate=0.05)


@pytest.mark.parametrize("num_threads", [1, 2, 4])
@pytest.mark.parametrize("has_lock", [False, True])
def test_threads_learn(num_threads, has_lock):
  problem, _ = _problem()
  program = hogwild.make_program(
    problem,
    _options(num_seeds=2),
    num_threads=num_threads,
    frames_per_update=500,
    optimiser=_FAST,
    has_lock=has_lock,
  )
  state = program.init()
  before = program.evaluate(state)["error"]
  for _ in range(2):
    state, metrics = program.step_chunk(state)
  after = program.evaluate(state)["error"]
  assert before.shape == after.shape == metrics["loss"].shape == (2,)
  assert (before == 3.0).all() and (after < 0.3).all()
  # 4 updates of 500 frames; the last segments may go beyond.
  assert (state.frames >= 2000).all()
  assert (state.frames < 2000 + 5 * num_threads).all()
  pushes = state.workers["count"].sum(axis=1)
  np.testing.assert_array_equal(pushes, state.frames // 5)
  np.testing.assert_array_equal(state.staleness.sum(axis=1), pushes)
  np.testing.assert_array_equal(state.guard.count, pushes)


def test_one_thread_equals_a_loop():
  """The same bits as the rule written out, and as its driver's state."""
  problem, gradient = _problem()
  optimiser = hogwild.RmsProp(
    learning_rate=0.05, max_norm=2.0, anneal_frames=200
  )
  program = hogwild.make_program(
    problem,
    _options(),
    num_threads=1,
    frames_per_update=50,
    optimiser=optimiser,
  )
  state = program.init()
  key = jax.random.wrap_key_data(state.workers["key"][0, 0])
  theta, g = np.zeros(4, np.float32), np.zeros(4, np.float32)
  for push in range(20):
    key, key_now = jax.random.split(key)
    tree, _ = gradient({"a": theta[:2], "b": theta[2:].reshape(2, 1)}, key_now)
    delta = np.concatenate([np.ravel(tree["a"]), np.ravel(tree["b"])])
    norm = np.linalg.norm(delta)
    delta = delta * min(1.0, 2.0 / norm)
    g = 0.99 * g + 0.01 * delta**2
    rate = 0.05 * (1 - push * 5 / 200)
    theta = theta - rate * delta / np.sqrt(g + 0.1)
    theta = theta.astype(np.float32)
  state, _ = program.step_chunk(state)
  np.testing.assert_allclose(state.params[0], theta, rtol=1e-5)
  np.testing.assert_allclose(state.mean_squares[0], g, rtol=1e-5)
  assert state.staleness[0, 0] == 20


def test_each_gradient_is_that_of_the_copy_its_thread_pulled():
  problem, gradient = _problem()
  seen = []
  program = hogwild.make_program(
    problem,
    _options(),
    num_threads=3,
    frames_per_update=100,
    optimiser=_FAST,
    record=lambda *row: seen.append(row),
  )
  program.step_chunk(program.init())
  assert {row[0] for row in seen} == {0, 1, 2}
  for _, params, worker, found in seen:
    key_now = jax.random.split(jax.random.clone(worker["key"]))[1]
    expected, _ = gradient(params, key_now)
    for name in ("a", "b"):
      np.testing.assert_array_equal(found[name], expected[name])
  # The copies are private: of different versions.
  assert len({row[1]["a"].tobytes() for row in seen}) > len(seen) // 2


def test_a_thread_that_raises_ends_the_run_with_its_error():
  def broken(params, target_params, worker, frames):
    if frames > 50:
      raise training.RunError("the simulator is gone; start it again.")
    return plain(params, target_params, worker, frames)

  plain = _problem()[0].compute
  program = hogwild.make_program(
    _problem(broken)[0], _options(), num_threads=3, frames_per_update=1000
  )
  threads = threading.active_count()
  with pytest.raises(training.RunError, match="the simulator is gone"):
    program.step_chunk(program.init())
  assert threading.active_count() == threads


def test_nonfinite_gradients_are_skipped_and_counted():
  def sometimes(params, target_params, worker, frames):
    worker, grads, metrics = plain(params, target_params, worker, frames)
    if int(worker["count"]) in (4, 5, 9):
      grads = grads | {"b": np.full((2, 1), np.nan, np.float32)}
    return worker, grads, metrics

  plain = _problem()[0].compute
  program = hogwild.make_program(
    _problem(sometimes)[0],
    _options(),
    num_threads=1,
    frames_per_update=100,
    optimiser=_FAST,
  )
  state, _ = program.step_chunk(program.init())
  assert (
    np.isfinite(state.params).all() and np.isfinite(state.mean_squares).all()
  )
  guard = state.guard
  assert (guard.bad_total, guard.worst_in_a_row, guard.first_bad_update) == (
    3,
    2,
    3,
  )
  found = nonfinite.failures(state, max_bad_updates=1)
  assert found[0]["leaf"] == "['b']" and found[0]["update"] == 3
  assert not nonfinite.failures(state, max_bad_updates=2)


def test_targets_are_copied_once_in_a_period():
  seen = []

  def watching(params, target_params, worker, frames):
    seen.append((frames, target_params["a"].copy(), params["a"].copy()))
    return plain(params, target_params, worker, frames)

  plain = _problem()[0].compute
  program = hogwild.make_program(
    _problem(watching, target_period=40)[0],
    _options(),
    num_threads=1,
    frames_per_update=50,
    optimiser=_FAST,
  )
  program.step_chunk(program.init())
  for frames, target, params in seen:
    since = frames % 40
    newest = next(p for f, _, p in seen if f == frames - since)
    np.testing.assert_array_equal(target, newest)
    assert since == 0 or (target != params).any()


def test_a_signal_stops_the_threads_and_the_next_chunk_makes_up(monkeypatch):
  def slow(params, target_params, worker, frames):
    time.sleep(0.001)
    if frames >= 100:
      signals._caught.set()
    return plain(params, target_params, worker, frames)

  plain = _problem()[0].compute
  monkeypatch.setattr(signals, "_caught", threading.Event())
  program = hogwild.make_program(
    _problem(slow)[0], _options(), num_threads=2, frames_per_update=500
  )
  state, _ = program.step_chunk(program.init())
  assert 100 <= state.frames[0] < 150
  signals._caught.clear()
  program = hogwild.make_program(
    _problem()[0], _options(), num_threads=2, frames_per_update=500
  )
  state, _ = program.step_chunk(state)
  assert 2000 <= state.frames[0] < 2050


def test_the_driver_resumes_threads_at_a_chunk(tmp_path):
  problem, _ = _problem()

  def train(num_updates):
    options = _options(num_updates=num_updates, out_dir=tmp_path / "run")
    program = hogwild.make_program(
      problem, options, frames_per_update=100, optimiser=_FAST
    )
    return training.run({"threads": program}, options)

  first = train(2)
  results = train(6)
  state = results.states["threads"]
  assert 600 <= state.frames[0] < 620
  assert state.workers["count"].sum() == state.frames[0] // 5
  steps, values = results.metrics["threads"]["train/loss"]
  assert steps.tolist() == [200, 400, 600]
  np.testing.assert_array_equal(
    values[:, :1], first.metrics["threads"]["train/loss"][1]
  )
  assert not results.summary["variants"]["threads"]["reproducible"]


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"num_threads": 0}, "num_threads is 0"),
    ({"frames_per_update": 0}, "frames_per_update is 0"),
  ],
)
def test_bad_numbers_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    hogwild.make_program(_problem()[0], _options(), **changes)


def test_a_sweep_is_refused():
  options = _options(sweep=(("learning_rate", (0.1, 0.2)),))
  with pytest.raises(training.RunError, match="--sweep"):
    hogwild.make_program(_problem()[0], options)
