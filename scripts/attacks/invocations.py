"""Every flag of every experiment with values that make no sense, or nearly."""

from __future__ import annotations

import importlib
import pathlib
import shutil
import types
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags as absl_flags

from lilly import training
from scripts.attacks.case import FAILED, HELD, LEFT_OUT, Case, Plan, sampled
from scripts.attacks.worker import Worker

__all__ = [
  "VALUES",
  "all_invocations",
  "parsed",
  "run",
  "script_names",
  "traced",
]

_ROOT = pathlib.Path(__file__).parents[2]

VALUES = (
  "nan",
  "inf",
  "-1",
  "0",
  "1",
  str(2**63),
  "1e400",
  "",
  "a",
  "2,2",
  "/no/such/place",
  "1000000",
  "1000000000",
  "0.5",
  "1e-30",
)
# A run ends after one chunk, evaluated at both ends.
_SHORT = {"preset": "smoke", "eval_every": "0"}
# The flags that list what is compared: the first is run, unless the flag itself
# is the strange one.
_COMPARED = ("variants", "rules", "cores", "tasks")


def script_names() -> list[str]:
  """Lists the experiments."""
  files = (_ROOT / "experiments").glob("[a-z]*.py")
  return sorted(path.stem for path in files)


def _script(name: str) -> training.Script:
  return importlib.import_module(f"experiments.{name}").SCRIPT


def all_invocations(
  names: Sequence[str], values: Sequence[str] = ()
) -> list[tuple[str, str, str]]:
  """Lists (experiment, flag, value), also flags that all experiments have."""
  from lilly.training import script as script_lib

  return [
    (name, flag, value)
    for name in names
    for flag in ("preset", *script_lib.parsers(_script(name)))
    for value in values or VALUES
  ]


def _parse(name, argv) -> tuple[Any, str]:
  """Returns options, or the sentence that refuses a command line."""
  try:
    return training.parse(_script(name), [name, *argv])[1], ""
  except (absl_flags.Error, training.RunError) as error:
    return None, str(error)


def parsed(plan: Plan) -> Iterator[Case]:
  """Parses command lines with one strange flag, in this process."""
  names = plan.scripts or script_names()
  for name, flag, value in sampled(all_invocations(names, plan.values), plan):
    given = f"--{flag}={value}"
    title = f"{name} {given}"
    try:
      options, refusal = _parse(name, [given])
    except Exception as error:
      yield Case(title, FAILED, f"{type(error).__name__}: {error}")
      continue
    if options is not None:
      yield Case(title, HELD, "accepted")
    elif len(refusal.splitlines()) != 1 or flag not in refusal:
      yield Case(title, FAILED, f"not a sentence on the flag: {refusal!r}")
    else:
      yield Case(title, HELD, refusal)


def traced(plan: Plan) -> Iterator[Case]:
  """Traces the programs of what the parsers accept, with all variants."""
  yield from _tried(plan, only_traces=True)


def run(plan: Plan) -> Iterator[Case]:
  """Runs what the parsers accept for one chunk of the smoke preset."""
  yield from _tried(plan, only_traces=False)


def _tried(plan, only_traces):
  names = plan.scripts or script_names()
  attempts = [
    attempt
    for name in names
    for attempt in _accepted(name, plan.values, only_traces)
  ]
  attempts = sampled(attempts, plan)
  # By experiment, so that a process serves many.
  for name in names:
    with Worker(
      f"experiments.{name}",
      seconds=plan.seconds,
      memory_gb=plan.memory_gb,
      cache=plan.folder / "cache",
      only_traces=only_traces,
    ) as worker:
      for argv, title in (a[1:] for a in attempts if a[0] == name):
        yield _run_one(worker, argv, title, plan.folder)


def _run_one(worker, argv, title, folder):
  out_dir = folder / "run"
  answer = worker.run([*argv, f"--out_dir={out_dir}"])
  shutil.rmtree(out_dir, ignore_errors=True)
  fault = answer.fault()
  if fault == "still running":
    return Case(title, LEFT_OUT, fault)
  if fault:
    return Case(title, FAILED, fault)
  return Case(title, HELD, answer.sentence() or f"status {answer.status}")


def _accepted(name, values, with_all) -> Iterator[tuple[str, list[str], str]]:
  """Lists the command lines that differ from the preset's and are accepted."""
  base, _ = _parse(name, ["--preset=smoke"])
  short = _SHORT | {"num_updates": str(base.log_every)}
  for flag in () if with_all else _COMPARED:
    if flag in base.flags:
      short[flag] = base.flags[flag][0]
  seen = [_settings(_parse(name, _argv(short))[0])]
  for _, flag, value in all_invocations([name], values):
    if flag in ("out_dir", "preset"):
      continue
    given = _argv(short | {flag: value})
    try:
      options, _ = _parse(name, given)
    except Exception:  # counted where they are parsed
      continue
    if options is None or _settings(options) in seen:
      continue
    seen.append(_settings(options))
    yield name, [name, *given], f"{name} --{flag}={value}"


def _settings(options):
  return types.MappingProxyType(dict(options.flags)).items()


def _argv(flags):
  return [f"--{name}={value}" for name, value in flags.items()]
