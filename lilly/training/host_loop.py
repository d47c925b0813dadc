"""The host loop: chunks, metrics, evaluation, checkpoints, signals, resume."""

from __future__ import annotations

import contextlib
import json
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from lilly.training import (
  checkpoints,
  experiment,
  files,
  nonfinite,
  placement,
  progress,
  signals,
  surroundings,
  terminal,
)
from lilly.training import metrics as metrics_lib

__all__ = ["LoopResult", "loop"]


class LoopResult(NamedTuple):
  """Result of a loop."""

  state: Any
  # metrics by name: (steps [T], values [R, T])
  metrics: dict[str, tuple[np.ndarray, np.ndarray]]
  # updates done; less than num_updates only if every run failed
  update: int
  # seconds of training, including earlier processes
  seconds: float
  # updates per second, with evaluations and without compilation; None after a
  # single chunk
  updates_per_second: float | None
  # run -> the first non-finite update, its leaf, and the counts
  failed: dict[int, dict[str, Any]]


def loop(
  step_chunk: Callable[[Any], tuple[Any, Mapping[str, Any]]],
  state: Any,
  options: experiment.Options,
  *,
  evaluate: Callable[[Any], Mapping[str, Any]] | None = None,
  directory: pathlib.Path | None = None,
  num_runs: int = 1,
  steps_per_update: int = 1,
  unit: str = "updates",
  name: str = "",
  key_metric: str | None = None,
  identity: Mapping[str, Any] | None = None,
) -> LoopResult:
  """Advances a state to `num_updates`, from its newest checkpoint if any.

  Nothing computed or logged depends on the clock, so a loop that was killed and
  resumed is bit-identical to an uninterrupted one if step_chunk is
  deterministic. A run whose num_updates was increased keeps the evaluation at
  its old end.

  Args:
    step_chunk: maps a state to the state `log_every` updates later and [R]
      metrics; it may donate its argument.
    state: the state at update 0.
    options: uses num_updates, log_every, eval_every, checkpoint_every_s,
      max_checkpoint_gb and max_bad_updates.
    evaluate: maps a state to [R] metrics, logged as `eval/...` at the start,
      the end and every eval_every updates.
    directory: directory of metrics.jsonl and checkpoints/; None: memory only.
    num_runs: R, the length of every metric.
    steps_per_update: increment of the metrics' `step` per update.
    unit: unit of a step, for display.
    name: text at the start of a progress line.
    key_metric: the metric shown in a progress line.
    identity: JSON-able description of the run; it must match on resuming.

  Returns:
    The final state, all metrics, time and failed runs.

  Raises:
    RunError: a checkpoint is refused or cannot be written.
    SystemExit: SIGHUP (129), SIGINT (130) or SIGTERM (143), after a checkpoint.
      A second signal ends the process at once, with the same status.
  """
  experiment.check_cadence(options)
  log = metrics_lib.MetricsFile(_own(directory, "metrics.jsonl"))
  store = _store(directory, options, state)
  resumed = _resume(store, log, state, options, identity)
  sitting = _Sitting(step_chunk, evaluate, log, store, options)
  sitting.begin(*resumed, num_runs, steps_per_update, identity)
  show = progress.Progress(name, key_metric, options.num_updates, unit)
  caught: list[int] = []
  with contextlib.closing(log), show, _stopping(caught):
    sitting.run(show, caught)
  if caught:
    _stop(caught[0], sitting.update, options, directory)
  history = metrics_lib.read(log.rows, num_runs)
  return sitting.result(history)


class _Sitting:
  """State of a loop in one process."""

  def __init__(self, step_chunk, evaluate, log, store, options):
    self._step_chunk, self._evaluate = step_chunk, evaluate
    self._log, self._store, self._options = log, store, options

  def begin(self, state, update, clock, num_runs, steps_per_update, identity):
    self.state, self.update, self.clock = state, update, clock
    self._num_runs, self._steps_per_update = num_runs, steps_per_update
    self._identity = identity
    # A resumed state is already saved; at update 0 there is nothing to save.
    self._saved = update
    self.failed = nonfinite.failures(state, self._options.max_bad_updates)

  def run(self, show, caught):
    """Advances chunk by chunk, to the end or until a signal is caught."""
    options = self._options
    if self.update < options.num_updates:
      show.start((self._identity or {}).get("hyper", {}))
    if self.update == 0:
      self._log_row({})
    saved_at, stop = time.monotonic(), False
    while not (
      stop
      or self.update >= options.num_updates
      or len(self.failed) == self._num_runs
    ):
      metrics = self._advance()
      show.update(self.update, metrics, self.failed)
      due = time.monotonic() - saved_at >= options.checkpoint_every_s
      due, stop = placement.agreed(due, bool(caught))
      if due:
        self._save()
        saved_at = time.monotonic()
    self._save()
    if self._store is not None:
      self._store.wait()

  def result(self, history):
    return LoopResult(
      state=self.state,
      metrics=history,
      update=self.update,
      seconds=self.clock.seconds,
      updates_per_second=self.clock.rate(),
      failed=self.failed,
    )

  def _advance(self):
    options = self._options
    with self.clock.chunk(options.log_every):
      self.state, metrics = self._step_chunk(self.state)
      self.clock.called.add("step_chunk")
      metrics = _on_host(metrics, "train/", self._num_runs)
      self.update += options.log_every
      self._log_row(metrics)
      self.failed = nonfinite.failures(self.state, options.max_bad_updates)
    return metrics

  def _log_row(self, metrics):
    due = _evaluation_due(self.update, self._options)
    if due and self._evaluate is not None:
      found = self._evaluate(self.state)
      self.clock.called.add("evaluate")
      metrics |= _on_host(found, "eval/", self._num_runs)
    self._log.write(self.update * self._steps_per_update, metrics)

  def _save(self):
    writes = self._options.checkpoint_every_s > 0
    if self._store is None or not writes or self._saved == self.update:
      return
    self._saved = self.update
    record = {
      "clock": self.clock.record(),
      "metrics": self._log.mark(),
      "identity": self._identity,
      "versions": surroundings.versions(),
    }
    self._store.save(self.update, self.state, record)


class _Clock:
  """Seconds of training over all processes, and the rate once compiled."""

  def __init__(self, record=None):
    self.seconds, self._steady_seconds, self._steady_updates = record or (
      0.0,
      0.0,
      0,
    )
    # the compiled functions that this process has called
    self.called: set[str] = set()

  @contextlib.contextmanager
  def chunk(self, updates):
    """Times a chunk; one with the first call of a function compiles it."""
    start, before = time.monotonic(), set(self.called)
    yield
    spent = time.monotonic() - start
    self.seconds += spent
    if self.called == before:
      self._steady_seconds += spent
      self._steady_updates += updates

  def rate(self):
    """Updates per second, None if every chunk included compilation."""
    if not self._steady_seconds:
      return None
    return self._steady_updates / self._steady_seconds

  def record(self):
    return [self.seconds, self._steady_seconds, self._steady_updates]


def _own(directory, name):
  """The file's path in the one process that writes, None in the others."""
  if directory is None or jax.process_index() != 0:
    return None
  return directory / name


def _evaluation_due(update, options):
  if update in (0, options.num_updates):
    return True
  return bool(options.eval_every) and update % options.eval_every == 0


def _store(directory, options, state):
  if directory is None:
    return None
  size = checkpoints.nbytes(state) / 1e9
  if options.checkpoint_every_s and size > options.max_checkpoint_gb:
    raise experiment.RunError(
      f"the state is {size:.1f} GB, above --max_checkpoint_gb="
      f"{options.max_checkpoint_gb:g}; raise it, or give --checkpoint_every_s=0"
      " to run without checkpoints."
    )
  store = checkpoints.Store(directory / "checkpoints")
  if jax.process_index() == 0:
    store.clean()
  return store


def _resume(store, log, state, options, identity):
  """Restores the newest checkpoint and cuts the metrics back to it."""
  newest = None if store is None else store.newest()
  if store is None or newest is None:
    log.open()
    return state, 0, _Clock()
  if newest > options.num_updates:
    raise experiment.RunError(
      f"the run is already at update {newest}, past --num_updates="
      f"{options.num_updates}; give at least {newest}."
    )
  state, record = store.restore(newest, state)
  _check_record(record, newest)
  check_identity(record, identity)
  log.open(record["metrics"])
  return state, newest, _Clock(record["clock"])


def _check_record(record, update):
  """Refuses a record that no loop has written."""
  mark, clock = record.get("metrics"), record.get("clock")
  is_mark = (
    isinstance(mark, dict)
    and isinstance(mark.get("bytes"), int)
    and isinstance(mark.get("sha256"), str)
    and mark["bytes"] >= 0
  )
  is_clock = (
    isinstance(clock, list)
    and len(clock) == 3
    and all(isinstance(x, (int, float)) for x in clock)
  )
  if not is_mark or not is_clock:
    raise experiment.RunError(
      f"the checkpoint of update {update} has no record of a run; remove it to "
      "resume from an earlier checkpoint or from the start."
    )


def check_identity(record: Mapping[str, Any], now: Any) -> None:
  """Refuses a checkpoint of a different run.

  Args:
    record: record of the checkpoint.
    now: the identity given to `loop`.

  Raises:
    RunError: they differ; the message lists the differences.
  """
  # As they are written: no tuples, and null where JSON has no number.
  was, now = (
    json.loads(json.dumps(files.finite(value))) or {}
    for value in (record.get("identity"), now)
  )
  # A name that only one of them has belongs to another program version.
  changed = [
    f"{name} was {was[name]}, is {now[name]}"
    for name in sorted(set(was) & set(now))
    if was[name] != now[name]
  ]
  if not changed:
    return
  raise experiment.RunError(
    f"the run to resume is different ({'; '.join(changed)}); give another "
    "--out_dir."
  )


def _on_host(metrics, prefix, num_runs):
  """Fetches [R] metrics and checks their shape."""
  fetched = {}
  for name, value in placement.fetch(dict(metrics)).items():
    value = np.asarray(value)
    if value.shape != (num_runs,):
      raise ValueError(
        f"metric {name} has shape {value.shape[1:]} in each run; metrics are "
        "scalars."
      )
    fetched[prefix + name] = value
  return fetched


def _stopping(caught):
  """Records the first signal; the current chunk is finished and saved."""
  note = lambda signum, frame: caught.append(signum)
  return signals.handled(note, "stopping after this chunk")


def _stop(signum, update, options, directory):
  told = "nothing was saved."
  if directory is not None and options.checkpoint_every_s:
    told = (
      f"the same command with --out_dir={options.out_dir} resumes from there."
    )
  terminal.tell(
    f"Stopped at update {update} of {options.num_updates}; {told}", sys.stderr
  )
  raise SystemExit(signals.exit_status(signum))
