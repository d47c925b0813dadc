"""Runs the variants of an experiment and writes their results."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pathlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

import jax
import numpy as np

from lilly.training import (
  checkpoints,
  compilation,
  experiment,
  host_loop,
  nonfinite,
  statistics,
  surroundings,
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
    if not re.fullmatch(r"[\w.+-]+", variant):
      raise ValueError(f"variant {variant!r} cannot be a file's name.")
  programs = {
    variant: item
    if isinstance(item, experiment.Program)
    else compilation.compiled(item, options, name=variant)
    for variant, item in experiments.items()
  }
  with _claimed(options):
    config = _configure(options, experiments)
    summary = config | {"variants": {}, "claims": []}
    results = experiment.Results(summary, {}, {}, {}, options)
    for variant, program in programs.items():
      _run_variant(variant, program, experiments[variant], key_metric, results)
  return results


def _run_variant(variant, program, item, key_metric, results):
  """Trains or restores one variant and adds it to the results."""
  options = results.options
  directory = options.out_dir and options.out_dir / variant
  if options.eval_only:
    identity = _identity(program, item, options)
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
      identity=_identity(program, item, options),
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
    set, else 0.
  """
  options = results.options
  out = out or sys.stdout
  summary = results.summary
  if jax.process_index() != 0:
    return 0
  name = "evaluation.json" if options.eval_only else "summary.json"
  if options.out_dir is not None:  # before anything a script's code can break
    _write_json(options.out_dir / name, summary)
  if not options.eval_only:
    summary["claims"] = claims_lib.judge(statements, results)
  if options.out_dir is not None:
    _write_json(options.out_dir / name, summary)
    if draw is not None and not options.eval_only:
      draw(results, options.out_dir)
  _tell(results, out)
  failed = [
    (variant, failure)
    for variant, row in summary["variants"].items()
    for failure in row["failed"]
  ]
  for variant, failure in failed:
    print(
      f"error: {variant}, run {failure['run']} (seed {failure['seed']}) "
      f"failed: non-finite from update {failure['update']} on, first in "
      f"{failure['leaf']}, {failure['bad_total']} updates skipped; the "
      "other runs finished.",
      file=sys.stderr,
    )
  if failed:
    return 3
  verdicts = [row["verdict"] for row in summary["claims"]]
  return 4 if options.check_claims and "fails" in verdicts else 0


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
    config = json.loads((out_dir / "config.json").read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise experiment.RunError(f"{out_dir} holds no readable run.") from error
  states = {}
  for directory in sorted(out_dir.glob("*/checkpoints")):
    store = checkpoints.Store(directory)
    newest = store.newest()
    if newest is not None:
      states[directory.parent.name] = store.read(newest)[0]
  return config["flags"], states


@contextlib.contextmanager
def _claimed(options):
  """Makes out_dir and locks it against other processes."""
  if options.out_dir is None or jax.process_index() != 0:
    yield
    return
  options.out_dir.mkdir(parents=True, exist_ok=True)
  # The lock is released when the process ends, however it ends.
  with open(options.out_dir / ".lock", "w") as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      raise experiment.RunError(
        f"another process is running in --out_dir={options.out_dir}; wait for "
        "it or give another one."
      ) from error
    yield


def _configure(options, variants):
  """Writes config.json: settings, versions, commit and devices.

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
    **here,
    "resumed_on": [],
  }
  if options.out_dir is None:
    return config
  path = options.out_dir / "config.json"
  if path.exists():
    old = json.loads(path.read_text(encoding="utf-8"))
    started_on = {name: old.get(name) for name in here}
    resumed_on = old.get("resumed_on", [])
    stores = [
      checkpoints.Store(options.out_dir / variant / "checkpoints")
      for variant in variants
    ]
    finished = all(s.newest() == options.num_updates for s in stores)
    if not finished and here not in [started_on, *resumed_on]:
      resumed_on = [*resumed_on, here]
    config |= {**started_on, "resumed_on": resumed_on}
    # The first command says preset and rules; a later one may leave them out.
    command = old.get("command", options.command)
    if options.num_updates != old.get("flags", {}).get("num_updates"):
      command += f" --num_updates={options.num_updates}"
    config["command"] = command
  if jax.process_index() == 0 and not options.eval_only:
    _write_json(path, config)
  return config


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


def _identity(program, item, options):
  """Returns the properties that must be unchanged when a run is resumed."""
  hyper = getattr(item, "hyper", {})
  settings = {*options.settings, "seed_batching", "log_every", "eval_every"}
  return {
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
  _write_bytes(path, arrays.getvalue())


def _parameters(state):
  """Returns the state's `params`, or the whole state if it has none."""
  if isinstance(state, Mapping):
    return state.get("params", state)
  return getattr(state, "params", state)


def _write_json(path, value):
  _write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


def _write_bytes(path, content):
  """Writes a file atomically."""
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(f".{path.name}.partial")
  try:
    partial.write_bytes(content)
    os.replace(partial, path)
  except OSError:
    partial.unlink(missing_ok=True)
    raise


def _tell(results, out):
  """Prints final values, claims, and the location of the files."""
  import rich.console
  import rich.table

  width = None if out.isatty() else 100
  console = rich.console.Console(file=out, width=width)
  finals = rich.table.Table("variant", "metric", "median", "95 % of IQM", "n")
  for variant, row in results.summary["variants"].items():
    for point in row["points"]:
      where = ", ".join(f"{k}={v:g}" for k, v in point["point"].items())
      for name, value in point["final"].items():
        if name.startswith("eval/"):
          finals.add_row(
            f"{variant} {where}".strip(),
            name,
            _show(value["median"]),
            _span(value["interval"]),
            str(value["n"]),
          )
  console.print(finals)
  _tell_claims(results.summary["claims"], console)
  if results.options.out_dir is not None:
    print(f"Files: {results.options.out_dir}", file=out)


def _tell_claims(rows, console):
  import rich.table

  judged = [row for row in rows if row["verdict"] != "not applicable"]
  if judged:
    table = rich.table.Table("claim", "value", "95 %", "threshold", "verdict")
    for row in judged:
      table.add_row(
        row["sentence"],
        _show(row["value"]),
        _span(row["interval"]),
        f"{row['relation']} {row['threshold']:g}",
        row["verdict"]
        + (f", {row['failed']} seeds failed" if row["failed"] else ""),
      )
    console.print(table)
  reasons: dict[str, list[str]] = {}
  for row in rows:
    if row["verdict"] == "not applicable":
      reasons.setdefault(row["reason"], []).append(row["name"])
  for reason, names in reasons.items():
    line = f"Not applicable ({reason}): {', '.join(names)}"
    console.print(line, markup=False, highlight=False)


def _show(value):
  return "-" if value is None else f"{value:.4g}"


def _span(interval):
  return "-" if interval is None else " to ".join(_show(v) for v in interval)
