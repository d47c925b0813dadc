"""The host loop: chunks, metrics, evaluation, checkpoints, signals, resume."""

from __future__ import annotations

import contextlib
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from lilly.training import (
  checkpoints,
  experiment,
  nonfinite,
  progress,
  surroundings,
)
from lilly.training import metrics as metrics_lib

__all__ = ["LoopResult", "loop"]


class LoopResult(NamedTuple):
  """Where a loop ended."""

  state: Any
  # metrics by name: (steps [T], values [R, T])
  metrics: dict[str, tuple[np.ndarray, np.ndarray]]
  # updates done; less than num_updates only if every run failed
  update: int
  # seconds of training, earlier sittings included
  seconds: float
  # run -> the first bad update, its leaf, and the counts
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
) -> LoopResult:
  """Advances a state to `num_updates`, from its newest checkpoint if any.

  Nothing that is computed or logged depends on the clock, so a loop that was
  killed and resumed ends with the same bits as one that was not, if step_chunk
  is deterministic.

  Args:
    step_chunk: maps a state to the state `log_every` updates later and [R]
      metrics; it may donate its argument.
    state: the state at update 0.
    options: num_updates, log_every, eval_every, checkpoint_every_s,
      max_checkpoint_gb and max_bad_updates are read.
    evaluate: maps a state to [R] metrics, logged as `eval/...` at the start,
      the end and every eval_every updates.
    directory: where metrics.jsonl and checkpoints/ go; None for memory only.
    num_runs: R, the length of every metric.
    steps_per_update: what one update counts for in the metrics' `step`.
    unit: the unit of a step, shown to people.
    name: what is shown at the head of a progress line.
    key_metric: the metric shown in a progress line.

  Returns:
    The final state, all metrics, time and failed runs.

  Raises:
    RunError: a checkpoint is refused or cannot be written.
    SystemExit: SIGTERM (0) or SIGINT (130), after a checkpoint.
  """
  _check_cadence(options)
  log = metrics_lib.MetricsFile(directory and directory / "metrics.jsonl")
  store = _store(directory, options, state)
  state, update, seconds = _resume(store, log, state, options)
  show = progress.Progress(name, key_metric, options.num_updates, unit)

  def evaluate_and_log(state, metrics):
    if evaluate is not None and _evaluation_due(update, options):
      metrics |= _on_host(evaluate(state), "eval/", num_runs)
    log.write(update * steps_per_update, metrics)
    return metrics

  def save():
    if store is not None and store.newest() != update:
      record = {
        "seconds": seconds,
        "metrics": log.mark(),
        "flags": dict(options.flags),
        "versions": surroundings.versions(),
      }
      store.save(update, state, record)

  failed = nonfinite.failures(state, options.max_bad_updates)
  with contextlib.ExitStack() as stack:
    stack.callback(log.close)
    stack.enter_context(show)
    caught = stack.enter_context(_signals())
    if update == 0:
      evaluate_and_log(state, {})
    saved_at = time.monotonic()
    while update < options.num_updates and len(failed) < num_runs:
      began = time.monotonic()
      state, metrics = step_chunk(state)
      metrics = _on_host(metrics, "train/", num_runs)
      update += options.log_every
      metrics = evaluate_and_log(state, metrics)
      failed = nonfinite.failures(state, options.max_bad_updates)
      seconds += time.monotonic() - began
      show.update(update, metrics, failed)
      due = time.monotonic() - saved_at >= options.checkpoint_every_s
      if caught or (due and options.checkpoint_every_s):
        save()
        saved_at = time.monotonic()
      if caught:
        break
    save()
    if store is not None:
      store.wait()
  if caught:
    _stop(caught[0], update, options, directory)
  history = metrics_lib.read(log.rows, num_runs)
  return LoopResult(state, history, update, seconds, failed)


def _check_cadence(options):
  """Refuses cadences that do not fit each other, naming values that do."""
  for flag, value in (
    ("num_updates", options.num_updates),
    ("eval_every", options.eval_every),
  ):
    if value % options.log_every:
      up = -(-value // options.log_every) * options.log_every
      raise experiment.RunError(
        f"--{flag}={value} is not a multiple of --log_every="
        f"{options.log_every}; use --{flag}={up} or another --log_every."
      )


def _evaluation_due(update, options):
  if update in (0, options.num_updates):
    return True
  return bool(options.eval_every) and update % options.eval_every == 0


def _store(directory, options, state):
  if directory is None or not options.checkpoint_every_s:
    return None
  size = checkpoints.nbytes(state) / 1e9
  if size > options.max_checkpoint_gb:
    raise experiment.RunError(
      f"the state is {size:.1f} GB, above --max_checkpoint_gb="
      f"{options.max_checkpoint_gb:g}; raise it, or give --checkpoint_every_s=0"
      " to run without checkpoints."
    )
  store = checkpoints.Store(directory / "checkpoints")
  store.clean()
  return store


def _resume(store, log, state, options):
  """Restores the newest checkpoint and cuts the metrics back to it."""
  newest = None if store is None else store.newest()
  if store is None or newest is None:
    log.open()
    return state, 0, 0.0
  if newest > options.num_updates:
    raise experiment.RunError(
      f"the run is at update {newest} already, past --num_updates="
      f"{options.num_updates}; give at least {newest}."
    )
  state, record = store.restore(newest, state)
  log.open(record["metrics"])
  return state, newest, record["seconds"]


def _on_host(metrics, prefix, num_runs):
  """Fetches [R] metrics and checks their shape."""
  fetched = {}
  for name, value in jax.device_get(dict(metrics)).items():
    value = np.asarray(value)
    if value.shape != (num_runs,):
      raise ValueError(
        f"metric {name} has shape {value.shape[1:]} in each run; metrics are "
        "scalars."
      )
    fetched[prefix + name] = value
  return fetched


@contextlib.contextmanager
def _signals():
  """Collects the first SIGTERM or SIGINT; a second one acts at once."""
  caught: list[int] = []
  previous = {}

  def note(signum, frame):
    del frame
    caught.append(signum)
    for number, handler in previous.items():
      signal.signal(number, handler)
    name = signal.Signals(signum).name
    print(f"\n{name}: stopping after this chunk.", file=sys.stderr, flush=True)

  try:
    for number in (signal.SIGTERM, signal.SIGINT):
      previous[number] = signal.signal(number, note)
  except ValueError:  # not in the main thread: the owner handles signals
    previous.clear()
  try:
    yield caught
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)


def _stop(signum, update, options, directory):
  where = f" --out_dir={options.out_dir}" if directory is not None else ""
  print(
    f"Stopped at update {update} of {options.num_updates}; the same command "
    f"with{where} goes on from there.",
    file=sys.stderr,
  )
  raise SystemExit(130 if signum == signal.SIGINT else 0)
