"""Reproduces every experiment that makes claims and writes one page about it.

python -m scripts.report [flags] [NAME...]

Runs the named experiments (by default all that make claims), each run in a
separate process, and rewrites report.md and index.html in --out_dir after every
run. When called again, it resumes where it stopped; only the claims of finished
runs are checked again. A run that takes six times its stated minutes is
stopped, and the next one begins. The page covers the named experiments.

The runs of an experiment are the reproductions of its SCRIPT: a command, its
claims, and its duration in minutes.
"""

from __future__ import annotations

import collections
import contextlib
import importlib
import json
import os
import pathlib
import pkgutil
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from absl import flags

from lilly.training import experiment, messages, settings, signals
from lilly.training.settings import PATH
from scripts import report_page

__all__ = ["main"]

FINISHED = "finished"
# Minutes of a command with presets other than cpu, whose minutes are in the
# reproductions.
MINUTES: dict[str, float] = {"smoke": 2, "gpu": 240, "paper": 10_000}
_FACTOR = 6  # for slower or busier machines, and compilation
_LEAST_MINUTES = 10
_GRACE_SECONDS = 60  # to save after SIGTERM
_SIGNS = {"<=": "≤", ">=": "≥"}


class Settings(NamedTuple):
  """Flags of scripts/reproduce."""

  preset: Annotated[
    Literal["cpu", "smoke", "gpu", "paper"],
    "Size of the experiments; see `scripts/run NAME --help`.",
  ] = "cpu"
  data_dir: Annotated[
    str | None, PATH, "Directory with the data sets' original files."
  ] = None
  out_dir: Annotated[
    str,
    PATH,
    "Output directory of the report and of the runs, <experiment>/<run>.",
  ] = "runs/report"


class Run(NamedTuple):
  """One process: an experiment with flags."""

  experiment: str
  name: str
  flags: tuple[str, ...]
  directory: pathlib.Path
  # minutes after which it is stopped
  max_minutes: float


class Outcome(NamedTuple):
  """Outcome of a run, also of one that has not begun."""

  # 'finished', 'runs failed', 'a claim failed': these have a summary;
  # 'waiting', 'not run', 'interrupted', 'did not end': these have none;
  # 'stopped': may have
  state: str
  # message of the run
  reason: str = ""
  summary: Mapping[str, Any] | None = None


class Claim(NamedTuple):
  """A claim, named as the driver names it: reproduction/claim."""

  name: str
  sentence: str
  relation: str
  threshold: float


class Experiment(NamedTuple):
  """One experiment of the report."""

  name: str
  claims: Sequence[Claim]
  runs: tuple[Run, ...]
  # outcomes of the runs that have ended, by name
  outcomes: dict[str, Outcome]


def main(argv: Sequence[str] | None = None) -> None:
  """Parses the command line, runs, writes the report and exits.

  The exit status is 0 if everything ran, whatever the verdicts; 1 for bad flags
  or files (a one-line message) or if a run could not be started; 3 if runs
  failed or did not end; 129, 130 and 143 after SIGHUP, SIGINT and SIGTERM.

  Args:
    argv: the command line, sys.argv by default.
  """
  flag_values = _define_flags()
  try:
    names = flag_values(list(sys.argv if argv is None else argv))[1:]
    if flag_values["help"].value:
      messages.show(_help(flag_values))
      sys.exit(0)
    data_dir = flag_values["data_dir"].value
    if data_dir is not None and not pathlib.Path(data_dir).is_dir():
      raise experiment.RunError(
        f"--data_dir={data_dir} is not a directory; give the folder with the "
        "data sets."
      )
    out_dir = pathlib.Path(str(flag_values["out_dir"].value))
    common = [f"--preset={flag_values['preset'].value}"]
    common += [f"--data_dir={data_dir}"] if data_dir else []
    status = _reproduce(_collect(names, common, out_dir), out_dir)
  except (flags.Error, experiment.RunError, OSError) as error:
    messages.fail(error)
  sys.exit(status)


def _define_flags():
  own = flags.FlagValues()
  flags.DEFINE_bool("help", False, "Show this text.", flag_values=own)
  settings.define(own, Settings)
  return own


def _help(flag_values):
  lines = [str(__doc__).rstrip(), "", "Flags:"]
  for name in flag_values:
    flag = flag_values[name]
    default = "" if flag.default is None else f" [{flag.default}]"
    lines.append(
      f"  --{name}  ({flag.flag_type()}){default}\n      {flag.help}"
    )
  return "\n".join(lines)


def _collect(names, common, out_dir) -> list[Experiment]:
  """Imports the experiments and lists those that make claims."""
  try:
    package = importlib.import_module("experiments")
  except ModuleNotFoundError as error:
    raise experiment.RunError(
      "there is no package of experiments here; call scripts/reproduce of a "
      "checkout."
    ) from error
  found = [module.name for module in pkgutil.iter_modules(package.__path__)]
  for name in names:
    if name not in found:
      raise experiment.RunError(
        f"there is no experiment {name!r}; there are {', '.join(found)}."
      )
  chosen = list(dict.fromkeys(names)) or found
  each = [_experiment(name, common, out_dir) for name in chosen]
  for one in each:
    if names and not one.claims and not one.outcomes:
      raise experiment.RunError(f"experiment {one.name} makes no claims.")
  each = [one for one in each if one.claims or one.outcomes]
  if not each:
    raise experiment.RunError("no experiment makes claims.")
  return each


def _experiment(name, common, out_dir):
  reproductions, outcomes = {}, {}
  try:
    module = importlib.import_module(f"experiments.{name}")
    if hasattr(module, "SCRIPT"):
      reproductions = module.SCRIPT.reproductions
  except Exception as error:  # the other experiments run all the same
    text = f"cannot be imported: {type(error).__name__}: {error}"
    outcomes = {"default": Outcome("not run", text)}
  claims, runs = [], []
  for run, one in reproductions.items():
    directory = out_dir / name / run
    all_flags = (*common, *one.command, f"--out_dir={directory}")
    minutes = _max_minutes(one.minutes, common[0])
    runs.append(Run(name, run, all_flags, directory, minutes))
    claims += [
      Claim(f"{run}/{c.name}", c.sentence, c.relation, c.threshold)
      for c in one.claims
    ]
  if outcomes:
    directory = out_dir / name / "default"
    runs = [Run(name, "default", tuple(common), directory, _LEAST_MINUTES)]
  return Experiment(name, claims, tuple(runs), outcomes)


def _max_minutes(minutes: float, preset_flag: str) -> float:
  preset = preset_flag.partition("=")[2]
  return max(_FACTOR * MINUTES.get(preset, minutes), _LEAST_MINUTES)


def _reproduce(each, out_dir):
  """Executes the runs without an outcome; returns the exit status."""
  out_dir.mkdir(parents=True, exist_ok=True)
  caught: list[int] = []
  _write(each, out_dir)  # also fails early if it cannot be written
  with _Forwarding(caught) as forwarding:
    for one in each:
      for run in one.runs:
        if not caught and run.name not in one.outcomes:
          print(f"== {_command(run)}", file=sys.stderr, flush=True)
          outcome = _start(run, forwarding)
          if caught and outcome.state == "stopped":
            # The signal came before the run was ready to save.
            outcome = Outcome("interrupted")
          one.outcomes[run.name] = outcome
          _write(each, out_dir)
  print(f"Report: {out_dir / 'index.html'}")
  states = [o.state for one in each for o in one.outcomes.values()]
  if caught or "interrupted" in states:
    return 128 + (caught[0] if caught else signal.SIGINT)
  if "not run" in states:
    return 1
  return 3 if {"runs failed", "stopped", "did not end"} & {*states} else 0


class _Forwarding:
  """Forwards SIGHUP, SIGINT and SIGTERM to the running process, each once.

  The process has a separate process group: otherwise it would get the
  terminal's signals twice, and the second one would end it without a
  checkpoint. An ignored SIGHUP, as under nohup, stays ignored in both.
  """

  def __init__(self, caught: list[int]):
    self._caught = caught
    self._process: subprocess.Popen | None = None
    self._previous: dict[int, Any] = {}

  def __enter__(self):
    for number in signals.STOPPING:
      before = signal.getsignal(number)
      if number != signal.SIGHUP or before is not signal.SIG_IGN:
        self._previous[number] = signal.signal(number, self._note)
    return self

  def __exit__(self, *error):
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def _note(self, signum, frame):
    del frame
    self._caught.append(signum)
    if self._process is not None and self._process.poll() is None:
      self._process.send_signal(signum)

  def attend(self, process: subprocess.Popen) -> None:
    """Sets the process that receives the signals."""
    self._process = process
    for signum in self._caught:  # came while it was being started
      process.send_signal(signum)


def _start(run, forwarding):
  """Runs one process to its end, showing its messages."""
  summary = run.directory / "summary.json"
  before = _identity(summary)
  # The same search path as here.
  safe = ["-P"] if sys.flags.safe_path else []
  command = [sys.executable, *safe, "-m", f"experiments.{run.experiment}"]
  with subprocess.Popen(
    [*command, *run.flags],
    stderr=subprocess.PIPE,
    text=True,
    errors="replace",
    process_group=0,
  ) as process:
    forwarding.attend(process)
    messages: collections.deque[str] = collections.deque(maxlen=100)
    with _limited(process, 60 * run.max_minutes) as late:
      for line in process.stderr or ():
        print(line, end="", file=sys.stderr, flush=True)
        messages.append(line.strip())
  is_new = _identity(summary) not in (None, before)
  if late and not is_new:
    return Outcome("did not end", f"stopped after {run.max_minutes:g} minutes")
  return _outcome(process.returncode, messages, summary if is_new else None)


@contextlib.contextmanager
def _limited(process, seconds):
  """Stops a process that takes longer; yields a list, non-empty if it did."""
  late: list[bool] = []
  done = threading.Event()

  def watch():
    if done.wait(seconds):
      return
    late.append(True)
    process.terminate()  # it saves, if it can
    if not done.wait(_GRACE_SECONDS):
      os.killpg(process.pid, signal.SIGKILL)

  watcher = threading.Thread(target=watch)
  watcher.start()
  try:
    yield late
    process.wait()
  finally:
    done.set()
    watcher.join()


def _identity(path):
  """Identifies a file, to detect its replacement; None if there is none."""
  try:
    found = path.stat()
  except OSError:
    return None
  return found.st_mtime_ns, found.st_ino


def _outcome(status, messages, summary):
  """Interprets an exit status; see `command_line.main`."""
  told = [m.removeprefix("error: ") for m in messages if m.startswith("error:")]
  reason = " ".join(told or [m for m in messages if m][-1:])
  content = None
  if summary is not None:
    content = json.loads(summary.read_text(encoding="utf-8"))
  named = {0: FINISHED, 3: "runs failed", 4: "a claim failed"}
  if status in named and content is not None:
    return Outcome(named[status], reason if status else "", content)
  if status in (129, 130, 143):  # it has saved, and resumes when called again
    return Outcome("interrupted", reason)
  if status == 1 and content is None:
    return Outcome("not run", reason)
  if status < 0:
    reason = f"killed by {signal.Signals(-status).name}"
  # It may have stopped after its verdicts, while plotting, or before.
  return Outcome("stopped", reason or f"exit status {status}", content)


def _write(each, out_dir):
  rows = [row for one in each for row in _rows(one)]
  ended = [
    (run, one.outcomes[run.name].summary)
    for one in each
    for run in one.runs
    if run.name in one.outcomes
  ]
  summaries = [summary for _, summary in ended if summary]
  figures = [
    report_page.Figure(f"{run.experiment}, {run.name}: {path.stem}", path)
    for run, summary in ended
    if summary
    for path in sorted(run.directory.iterdir())
    if path.suffix in (".png", ".gif")
  ]
  report_page.write(out_dir, rows, figures, summaries)


def _rows(one: Experiment) -> Iterator[report_page.Row]:
  """Yields a row for each claim and for each run that has not finished."""
  for claim in one.claims:
    judged, reasons = [], {}
    for run in one.runs:
      row, reason = _verdict(claim, one.outcomes.get(run.name))
      reasons[run.name] = reason
      if row is not None:
        judged.append(_claim_row(one, run, row))
    yield from judged or [_unjudged(one, claim, reasons)]
  for run in one.runs:
    outcome = one.outcomes.get(run.name, Outcome("waiting"))
    if outcome.state != FINISHED:
      yield report_page.Row(
        experiment=one.name,
        run=run.name,
        sentence=f"Run {run.name!r}.",
        verdict=outcome.state,
        reason=outcome.reason,
        command=_command(run),
        minutes=_minutes(outcome.summary),
      )


def _verdict(claim, outcome):
  """Returns the row of a claim that a run has checked, or why it has not."""
  if outcome is None:
    return None, "waiting"
  rows = (outcome.summary or {}).get("claims", ())
  for row in rows:
    if row["name"] == claim.name:
      is_judged = row["verdict"] != "not applicable"
      return (row, None) if is_judged else (None, row["reason"])
  return None, outcome.state


def _claim_row(one, run, row):
  summary = one.outcomes[run.name].summary
  return report_page.Row(
    experiment=one.name,
    run=run.name,
    sentence=row["sentence"],
    verdict=row["verdict"],
    value=row["value"],
    interval=row["interval"],
    threshold=_threshold(row["relation"], row["threshold"]),
    seeds=row["seeds"],
    failed=row.get("failed", 0),
    command=summary["command"],
    minutes=_minutes(summary),
  )


def _unjudged(one, claim, reasons):
  """Makes the row of a claim that no run has checked, with the reasons."""
  alone = len(reasons) == 1
  if len(set(reasons.values())) == 1:
    reason = next(iter(reasons.values()))
  else:
    reason = "; ".join(f"{run}: {reason}" for run, reason in reasons.items())
  return report_page.Row(
    experiment=one.name,
    run=one.runs[0].name if alone else "",
    sentence=claim.sentence,
    verdict="not applicable",
    reason=reason,
    threshold=_threshold(claim.relation, claim.threshold),
    command=_command(one.runs[0]) if alone else "",
  )


def _threshold(relation, number):
  return f"{_SIGNS.get(relation, relation)} {number:g}"


def _command(run):
  return shlex.join(["scripts/run", run.experiment, *run.flags])


def _minutes(summary):
  if summary is None:
    return None
  return sum(row["seconds"] for row in summary["variants"].values()) / 60


if __name__ == "__main__":
  main()
