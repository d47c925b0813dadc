"""Runs the variants of an experiment and writes their results."""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import re
import shutil
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

import jax
import numpy as np

from lilly.training import (
  checkpoints,
  compilation,
  experiment,
  files,
  host_loop,
  nonfinite,
  statistics,
  surroundings,
  tables,
  terminal,
)
from lilly.training import claims as claims_lib

__all__ = ["finish", "load", "run"]

Item = experiment.Experiment | experiment.Program


def run(
  experiments: Mapping[str, Item],
  options: experiment.Options,
  *,
  key_metric: str | None = None,
) -> experiment.Results:
  """Trains the variants one after another, skipping finished ones.

  Args:
    experiments: variant -> `Experiment`, or `Program` if the host drives a
      simulator.
    options: options from the command line.
    key_metric: the metric shown while training, such as 'eval/error'.

  Returns:
    Summary, final states and metrics.

  Raises:
    RunError: out_dir cannot be used, a checkpoint in it is refused, or an
      experiment calls LAPACK on several CPU devices.
  """
  for variant in experiments:
    if not re.fullmatch(r"(?!\.)[\w.+-]+", variant):
      raise ValueError(f"variant {variant!r} cannot be a file's name.")
  programs = {
    variant: item
    if isinstance(item, experiment.Program)
    else compilation.compiled(item, options, name=variant)
    for variant, item in experiments.items()
  }
  with _claimed(options, list(experiments)):
    config = _configure(options, experiments, programs)
    summary = config | {"variants": {}, "claims": []}
    results = experiment.Results(summary, {}, {}, {}, options)
    for variant, program in programs.items():
      _run_variant(variant, program, experiments[variant], key_metric, results)
    _keep_config(options, config)
  return results


def _run_variant(variant, program, item, key_metric, results):
  """Trains or restores one variant and adds it to the results."""
  options = results.options
  directory = options.out_dir and options.out_dir / variant
  if options.eval_only:
    identity = _identity(variant, program, item, options)
    loop_result = _evaluate_only(program, options, directory, identity)
  else:
    loop_result = host_loop.loop(
      program.step_chunk,
      program.init(),
      options,
      evaluate=program.evaluate,
      directory=directory,
      num_runs=len(program.runs),
      steps_per_update=program.steps_per_update,
      unit=program.unit,
      name=variant,
      key_metric=key_metric,
      identity=_identity(variant, program, item, options),
    )
    if directory is not None:
      _write_params(directory / "params.npz", loop_result.state, item)
  results.states[variant] = loop_result.state
  results.metrics[variant] = loop_result.metrics
  results.runs[variant] = program.runs
  results.summary["variants"][variant] = _describe(
    program, loop_result, getattr(item, "hyper", {})
  )


def finish(
  results: experiment.Results,
  statements: Sequence[Any] = (),
  draw: Callable[[experiment.Results, pathlib.Path], None] | None = None,
  out: TextIO | None = None,
) -> int:
  """Checks the claims, draws the figures, writes and prints the summary.

  Args:
    results: results of `run`.
    statements: claims, from `reproduction.state`.
    draw: function that writes the figures into a directory.
    out: stream for the tables, standard output by default.

  Returns:
    The exit status: 3 if a run failed, 4 if a claim failed and check_claims is
    set, else 0. A figure that cannot be drawn, or a table that cannot be
    printed, does not change it.

  Raises:
    RunError: the summary cannot be written.
  """
  options = results.options
  summary = results.summary
  if jax.process_index() != 0:
    return 0
  _write_summary(results)  # before anything a script's code can break
  failure = None
  if not options.eval_only:
    summary["claims"] = claims_lib.judge(statements, results)
    _write_summary(results)
    if draw is not None and options.out_dir is not None:
      failure = _draw(draw, results)
  if failure is not None:
    summary["not_drawn"] = failure
    _write_summary(results)
  # Printed last: what cannot be printed loses nothing.
  tables.tell_results(results, out or sys.stdout)
  if failure is not None:
    terminal.tell(f"warning: {failure}", sys.stderr)
  if _tell_failed(summary["variants"]):
    return 3
  verdicts = [row["verdict"] for row in summary["claims"]]
  return 4 if options.check_claims and "fails" in verdicts else 0


def _write_summary(results):
  options = results.options
  if options.out_dir is not None:
    name = "evaluation.json" if options.eval_only else "summary.json"
    files.write_json(options.out_dir / name, results.summary)


def _draw(draw, results):
  """Draws into a folder of its own; returns what went wrong, or None.

  A link in out_dir is replaced by the figure of its name, and what it leads to
  is left alone.
  """
  out_dir = results.options.out_dir
  folder = files.partial_path(out_dir / "figures")
  try:
    folder.mkdir()
    try:
      draw(results, folder)
    finally:  # the figures that were drawn
      for path in sorted(folder.iterdir()):
        os.replace(path, out_dir / path.name)
  except Exception as error:
    return _explain_drawing(error)
  finally:
    shutil.rmtree(folder, ignore_errors=True)
  return None


def _explain_drawing(error: Exception) -> str:
  """Returns one sentence about a figure that could not be drawn."""
  last = traceback.extract_tb(error.__traceback__)[-1]
  place = f"{pathlib.Path(last.filename).name}, line {last.lineno}"
  return (
    f"a figure could not be drawn: {type(error).__name__}: "
    f"{files.explain(error)} ({place})."
  )


def _tell_failed(variants):
  """Prints a line for each failed run; returns whether there is one."""
  failed = [
    (variant, failure)
    for variant, row in variants.items()
    for failure in row["failed"]
  ]
  for variant, failure in failed:
    terminal.tell(
      f"error: {variant}, run {failure['run']} (seed {failure['seed']}) "
      f"failed: non-finite from update {failure['update']} on, first in "
      f"{failure['leaf']}, {failure['bad_total']} updates skipped; the "
      "other runs finished.",
      sys.stderr,
    )
  return bool(failed)


def load(
  out_dir: pathlib.Path | str,
) -> tuple[dict[str, Any], dict[str, dict[str, np.ndarray]]]:
  """Loads a finished run, verifying every byte.

  Args:
    out_dir: directory of the run.

  Returns:
    The flags, and for each variant the leaves of its newest state by name, with
    a leading run axis; typed keys as their key data.

  Raises:
    RunError: there is no run, or a checkpoint is refused.
  """
  out_dir = pathlib.Path(out_dir)
  try:
    recorded = files.read_json(out_dir / "config.json")
  except experiment.RunError as error:
    raise experiment.RunError(f"{out_dir} holds no readable run.") from error
  if not isinstance(recorded.get("flags"), dict):
    raise experiment.RunError(f"{out_dir} holds no readable run.")
  states = {}
  for directory in sorted(out_dir.glob("*/checkpoints")):
    store = checkpoints.Store(directory)
    newest = store.newest()
    if newest is not None:
      states[directory.parent.name] = store.read(newest)[0]
  return recorded["flags"], states


@contextlib.contextmanager
def _claimed(options, variants):
  """Makes out_dir and locks it against other processes."""
  if options.out_dir is None or jax.process_index() != 0:
    yield
    return
  options.out_dir.mkdir(parents=True, exist_ok=True)
  with files.locked(options.out_dir):
    files.check_places(options.out_dir, variants)
    yield


def _configure(options, variants, programs):
  """Writes config.json: settings, runs, versions, commit and devices.

  A finished run whose claims are only checked again keeps the commit that
  trained it; other versions or devices it was resumed on are listed under
  resumed_on.
  """
  here = surroundings.describe()
  config = {
    "experiment": options.experiment,
    "command": options.command,
    "flags": dict(options.flags),
    "hyper": {
      variant: {k: float(v) for k, v in getattr(item, "hyper", {}).items()}
      for variant, item in variants.items()
    },
    # row i is the run with "run": i in metrics.jsonl
    "runs": {
      variant: [dict(run) for run in program.runs]
      for variant, program in programs.items()
    },
    **here,
    "resumed_on": [],
  }
  if options.out_dir is None:
    return config
  path = options.out_dir / "config.json"
  if path.exists():
    config |= _resumed_config(options, variants, files.read_json(path), here)
  if jax.process_index() == 0 and not options.eval_only:
    files.write_json(path, config)
  return config


def _resumed_config(options, variants, old, here):
  """Returns what config.json says otherwise of a run that is resumed."""
  started_on = {name: old.get(name) for name in here}
  resumed_on = old.get("resumed_on", [])
  recorded = old.get("flags", {})
  command = old.get("command", options.command)
  for name, value, kind in (
    ("resumed_on", resumed_on, list),
    ("flags", recorded, dict),
    ("command", command, str),
  ):
    if not isinstance(value, kind):
      path = options.out_dir / "config.json"
      raise experiment.RunError(
        f"{path} is damaged: its {name} is {value!r}; give another --out_dir."
      )
  stores = [
    checkpoints.Store(options.out_dir / variant / "checkpoints")
    for variant in variants
  ]
  finished = all(s.newest() == options.num_updates for s in stores)
  if not finished and here not in [started_on, *resumed_on]:
    resumed_on = [*resumed_on, here]
  # The first command says preset and rules; a later one may leave them out.
  if options.num_updates != recorded.get("num_updates"):
    command += f" --num_updates={options.num_updates}"
  return {**started_on, "resumed_on": resumed_on, "command": command}


def _keep_config(options, config):
  """Writes config.json again if it was removed while the run was going on."""
  if options.out_dir is None or jax.process_index() != 0:
    return
  path = options.out_dir / "config.json"
  if not options.eval_only and not path.exists():
    files.write_json(path, config)


def _describe(program, result, hyper):
  """Summarises one variant: a row for each grid point, and the failed runs."""
  failed = [
    {"run": run, **program.runs[run], **failure}
    for run, failure in sorted(result.failed.items())
  ]
  points: dict[tuple, list[int]] = {}
  for run, description in enumerate(program.runs):
    point = tuple((k, v) for k, v in description.items() if k != "seed")
    points.setdefault(point, []).append(run)
  rows = []
  for point, runs in points.items():
    finals = {}
    for name, (_, values) in result.metrics.items():
      last = values[:, -1].copy()
      last[list(result.failed)] = np.nan
      finals[name] = statistics.summarise(last[runs])
    rows.append({"point": dict(point), "final": finals})
  return {
    "hyper": {name: float(value) for name, value in hyper.items()},
    "runs": len(program.runs),
    "updates": result.update,
    "unit": program.unit,
    "seconds": result.seconds,
    "updates_per_second": result.updates_per_second,
    "reproducible": program.reproducible,
    "failed": failed,
    "points": rows,
  }


def _identity(variant, program, item, options):
  """Returns the properties that must be unchanged when a run is resumed."""
  hyper = getattr(item, "hyper", {})
  settings = {*options.settings, "seed_batching", "log_every", "eval_every"}
  return {
    "variant": variant,
    "hyper": {name: float(value) for name, value in hyper.items()},
    "runs": [dict(run) for run in program.runs],
    **{
      name: options.flags[name]
      for name in sorted(settings)
      if name in options.flags
    },
  }


def _evaluate_only(program, options, directory, identity):
  store = checkpoints.Store(directory / "checkpoints")
  newest = store.newest()
  if newest is None:
    raise experiment.RunError(
      f"{directory} holds no checkpoint to evaluate; run without --eval_only."
    )
  state, record = store.restore(newest, program.init())
  host_loop.check_identity(record, identity)
  step = np.array([newest * program.steps_per_update])
  metrics = {
    f"eval/{name}": (step, np.array(value)[:, None])
    for name, value in program.evaluate(state).items()
  }
  seconds = record["clock"][0]
  failed = nonfinite.failures(state, options.max_bad_updates)
  return host_loop.LoopResult(state, metrics, newest, seconds, None, failed)


def _write_params(path, state, item):
  """Writes the exported parameters of each run."""
  export = getattr(item, "export", None) or _parameters
  params = jax.vmap(export)(state)
  arrays = io.BytesIO()
  leaves: dict[str, Any] = checkpoints.host_copy(params)
  if jax.process_index() != 0:
    return
  np.savez(arrays, **leaves)
  files.write_bytes(path, arrays.getvalue())


def _parameters(state):
  """Returns the state's `params`, or the whole state if it has none."""
  if isinstance(state, Mapping):
    return state.get("params", state)
  return getattr(state, "params", state)
