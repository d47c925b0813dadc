"""Tests of lilly.training.host_loop, driven by plain numpy."""

import json
import signal
import threading

import jax
import numpy as np
import pytest

from lilly import training
from lilly.training import host_loop

CHUNK = 4


def start(num_runs=2):
  return {"w": np.zeros(num_runs), "log": np.zeros((num_runs, 3))}


def step_chunk(state):
  """Four updates of a simulator that lives on the host."""
  return state | {"w": state["w"] + CHUNK}, {"loss": 1.0 / (1.0 + state["w"])}


def evaluate(state):
  return {"w": state["w"].copy()}


def options(**fields):
  defaults = {
    "num_updates": 16,
    "log_every": CHUNK,
    "checkpoint_every_s": 600.0,
  }
  return training.Options(**(defaults | fields))


def loop(directory=None, chunk=step_chunk, state=None, **fields):
  state = start() if state is None else state
  return training.loop(
    chunk,
    state,
    options(**fields),
    evaluate=evaluate,
    directory=directory,
    num_runs=2,
    steps_per_update=10,
  )


def checkpoints(directory):
  return sorted(p.name for p in (directory / "checkpoints").glob("[0-9]*"))


def test_drives_any_step_to_num_updates():
  result = loop()
  assert result.update == 16 and result.failed == {}
  assert result.state["w"].tolist() == [16.0, 16.0]
  steps, loss = result.metrics["train/loss"]
  assert steps.tolist() == [40, 80, 120, 160]  # each counts for ten
  np.testing.assert_array_equal(loss, [[1, 1 / 5, 1 / 9, 1 / 13]] * 2)


@pytest.mark.parametrize(
  ("every", "expected"),
  [
    (0, [0, 16]),
    (4, [0, 4, 8, 12, 16]),
    (8, [0, 8, 16]),
    (12, [0, 12, 16]),
    (400, [0, 16]),
  ],
)
def test_evaluates_at_start_and_end_and_in_between(every, expected):
  steps, values = loop(eval_every=every).metrics["eval/w"]
  assert (steps / 10).tolist() == expected
  assert values.tolist() == [expected] * 2  # of the state at that step


def test_evaluation_may_be_left_out():
  result = training.loop(step_chunk, start(), options(), num_runs=2)
  assert list(result.metrics) == ["train/loss"]


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 1)])
@pytest.mark.parametrize("of", ["step", "evaluate"])
def test_metrics_are_one_scalar_for_each_run(shape, of):
  bad = {"loss": np.zeros(shape)}
  chunk = lambda state: (state, bad if of == "step" else {})
  with pytest.raises(ValueError, match="metric loss has shape"):
    training.loop(
      chunk,
      start(),
      options(),
      evaluate=lambda state: bad if of == "evaluate" else {},
      num_runs=2,
    )


@pytest.mark.parametrize(
  ("fields", "mention"),
  [
    ({"num_updates": 18}, "--num_updates=20"),
    ({"eval_every": 6}, "--eval_every=8"),
  ],
)
def test_cadences_that_do_not_fit_are_refused(fields, mention):
  with pytest.raises(training.RunError, match=mention):
    loop(**fields)


def test_a_state_above_the_cap_is_refused_before_the_first_step(tmp_path):
  def forbidden(state):
    raise AssertionError("stepped")

  with pytest.raises(training.RunError, match="--max_checkpoint_gb") as refusal:
    loop(tmp_path / "a", forbidden, max_checkpoint_gb=63e-9)
  assert "--checkpoint_every_s=0" in str(refusal.value)
  assert not (tmp_path / "a").exists()
  loop(tmp_path / "b", max_checkpoint_gb=64e-9)  # 2 + 2 x 3 doubles: 64 bytes


def test_the_cap_does_not_matter_where_nothing_is_saved(tmp_path):
  assert loop(max_checkpoint_gb=0.0).update == 16
  unsaved = loop(tmp_path, max_checkpoint_gb=0.0, checkpoint_every_s=0.0)
  assert unsaved.update == 16


def test_no_checkpoints_on_demand(tmp_path):
  result = loop(tmp_path, checkpoint_every_s=0.0)
  assert result.update == 16
  assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]
  assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 10
  loop(tmp_path, checkpoint_every_s=0.0)  # begins anew
  assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 10


def test_saves_by_the_clock_and_at_the_end(tmp_path):
  loop(tmp_path / "often", checkpoint_every_s=1e-9)
  assert checkpoints(tmp_path / "often") == ["12", "16"]  # the newest two
  loop(tmp_path / "rarely")
  assert checkpoints(tmp_path / "rarely") == ["16"]


def test_in_memory_nothing_is_written(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  loop(checkpoint_every_s=1e-9)
  assert list(tmp_path.iterdir()) == []


def on_device(state):
  return jax.tree.map(jax.numpy.asarray, state)


def on_host(state):
  """A simulator's: numpy arrays, and a Python number."""
  return state | {"episodes": 3}


@pytest.mark.parametrize("device", [on_device, on_host])
def test_resumes_where_it_was(tmp_path, device):
  loop(tmp_path / "a", state=device(start()), num_updates=8, eval_every=4)
  calls = []

  def counted(state):
    calls.append(state["w"].tolist())
    return step(state)

  def step(state):
    new, metrics = step_chunk(state)
    return state | new, metrics

  result = loop(tmp_path / "a", counted, device(start()), eval_every=4)
  assert calls == [[8.0, 8.0], [12.0, 12.0]]
  assert result.metrics["eval/w"][1].tolist() == [[0, 4, 8, 12, 16]] * 2
  loop(tmp_path / "b", state=device(start()), eval_every=4)
  name = "metrics.jsonl"
  assert (tmp_path / "a" / name).read_text() == (
    tmp_path / "b" / name
  ).read_text()
  again = loop(tmp_path / "a", None, device(start()), eval_every=4)
  assert again.update == 16 and again.state["w"].tolist() == [16.0, 16.0]
  with pytest.raises(training.RunError, match="give at least 16"):
    loop(tmp_path / "a", state=device(start()), num_updates=12)


def test_a_step_that_raises_leaves_whole_rows_and_the_old_handlers(tmp_path):
  def stumble(state):
    if state["w"][0] >= 8:
      raise ZeroDivisionError("the simulator")
    return step_chunk(state)

  before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
  with pytest.raises(ZeroDivisionError):
    loop(tmp_path, stumble)
  after = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
  assert before == after
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  assert [json.loads(line)["step"] for line in lines] == [0, 0, 40, 40, 80, 80]


class Clocked:
  """A step and an evaluation that take a second, and the first one hours."""

  def __init__(self, monkeypatch):
    self.now = 0.0
    self.called = set()
    monkeypatch.setattr(host_loop.time, "monotonic", lambda: self.now)

  def spend(self, kind):
    self.now += 1.0 if kind in self.called else 3600.0
    self.called.add(kind)

  def step_chunk(self, state):
    self.spend("step_chunk")
    return step_chunk(state)

  def evaluate(self, state):
    self.spend("evaluate")
    return evaluate(state)


def rate(clocked, directory, **fields):
  return training.loop(
    clocked.step_chunk,
    start(),
    options(**fields),
    evaluate=clocked.evaluate,
    directory=directory,
    num_runs=2,
  ).updates_per_second


def test_the_rate_leaves_every_compilation_out(tmp_path, monkeypatch):
  # Chunks of 4 updates in a second, with an evaluation in 2 seconds.
  every = rate(Clocked(monkeypatch), tmp_path / "a", eval_every=4)
  assert every == CHUNK / 2
  assert rate(Clocked(monkeypatch), tmp_path / "b", num_updates=4) is None
  # Resumed: the first evaluation of the process is in its fourth chunk.
  rate(Clocked(monkeypatch), tmp_path / "c", num_updates=8, eval_every=8)
  resumed = rate(
    Clocked(monkeypatch), tmp_path / "c", num_updates=24, eval_every=48
  )
  assert resumed == (1 + 2) * CHUNK / (2 + 2)


def test_a_signal_stops_after_the_chunk_with_a_checkpoint(tmp_path):
  def interrupted(state):
    if state["w"][0] == 4:
      signal.raise_signal(signal.SIGINT)
    return step_chunk(state)

  with pytest.raises(SystemExit) as stopped:
    loop(tmp_path, interrupted)
  assert stopped.value.code == 130 and checkpoints(tmp_path) == ["8"]


def test_runs_in_a_thread_whose_owner_handles_signals():
  found = []
  thread = threading.Thread(target=lambda: found.append(loop()))
  thread.start()
  thread.join()
  assert found[0].update == 16
