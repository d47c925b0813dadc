"""Tries to break runs, files and functions, and counts what holds.

python -m scripts.faults [flags] [PART...]

Parts (by default all of them):
  flags        every flag of every experiment with strange values, parsed
  programs     what the parsers accept of these, traced for all variants
  runs         the same, run at smoke size with the first variant
  kills        kills at random moments and inside saves, then resumed
  checkpoints  checkpoints that were changed, moved or forged
  files        disks, folders, links and streams that fail under a run
  functions    public functions with inputs that do not fit

Flags:
  --sample=N          N attempts of each part, drawn at random [all]
  --seed=N            seed of that draw [0]
  --scripts=A,B       experiments of flags and runs [all]
  --values=A,B        values of flags and runs [15 strange ones]
  --seconds=N         seconds before an attempt is given up [120]
  --memory_gb=N       address space of a process of runs, in GB [8]
  --json=FILE         where the figures and every failed attempt are written
  --verbose           print every attempt, not only those that failed

The exit status is 1 if an attempt failed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterator

from scripts.attacks.case import FAILED, HELD, LEFT_OUT, Case, Plan

__all__ = ["main"]

# part -> (module, function, what is counted)
PARTS = {
  "flags": ("invocations", "parsed", "command lines accepted or refused"),
  "programs": ("invocations", "traced", "accepted command lines traced"),
  "runs": ("invocations", "run", "accepted command lines run"),
  "kills": ("kills", "run", "kills survived with the same bits"),
  "checkpoints": ("checkpoints", "run", "changed checkpoints refused"),
  "files": ("files", "run", "faults of files and streams answered"),
  "functions": ("functions", "run", "calls of functions answered"),
}


def try_part(part: str, plan: Plan) -> Iterator[Case]:
  """Yields the attempts of a part as they end."""
  module, function, _ = PARTS[part]
  # Imported here: some parts import JAX.
  home = importlib.import_module(f"scripts.attacks.{module}")
  return getattr(home, function)(plan)


def count(part: str, cases: list[Case], seconds: float) -> dict:
  """Sums up a part."""
  verdicts = [case.verdict for case in cases]
  failed = [case for case in cases if case.verdict == FAILED]
  left_out = [case for case in cases if case.verdict == LEFT_OUT]
  return {
    "part": part,
    "what": PARTS[part][2],
    "held": verdicts.count(HELD),
    "of": len(cases) - len(left_out),
    "seconds": round(seconds),
    "failed": [[case.name, case.detail] for case in failed],
    "left_out": [[case.name, case.detail] for case in left_out],
  }


def main(argv: list[str]) -> int:
  """Runs the parts; returns the exit status."""
  arguments = _parse(argv)
  rows = []
  for part in arguments.parts or PARTS:
    start, cases = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
      plan = Plan(
        pathlib.Path(folder),
        arguments.sample,
        arguments.seed,
        tuple(arguments.scripts.split(",")) if arguments.scripts else (),
        tuple(arguments.values.split(",")) if arguments.values else (),
        arguments.seconds,
        arguments.memory_gb,
      )
      for case in try_part(part, plan):
        cases.append(case)
        if arguments.verbose or case.verdict == FAILED:
          print(f"{case.verdict}: {case.name}: {case.detail}", flush=True)
    rows.append(count(part, cases, time.monotonic() - start))
    if arguments.json:
      text = json.dumps(rows, indent=1) + "\n"
      pathlib.Path(arguments.json).write_text(text, encoding="utf-8")
  print()
  for row in rows:
    left_out = len(row["left_out"])
    print(
      f"{row['part']:<12} {row['held']:>6,} of {row['of']:>6,}  {row['what']}"
      + (f"; {left_out} left out" if left_out else "")
    )
  return 1 if any(row["failed"] for row in rows) else 0


def _parse(argv):
  if {"-h", "--help", "-help"} & set(argv):
    print(__doc__)
    sys.exit(0)
  parser = argparse.ArgumentParser(prog="scripts/faults", add_help=False)
  parser.add_argument("parts", nargs="*", metavar="PART")
  parser.add_argument("--sample", type=int, default=0)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--scripts", default="")
  parser.add_argument("--values", default="")
  parser.add_argument("--seconds", type=float, default=120.0)
  parser.add_argument("--memory_gb", type=float, default=8.0)
  parser.add_argument("--json", default="")
  parser.add_argument("--verbose", action="store_true")
  arguments = parser.parse_args(argv)
  unknown = sorted(set(arguments.parts) - set(PARTS))
  if unknown:
    parser.error(f"there is no part {unknown[0]}; parts: {', '.join(PARTS)}.")
  return arguments


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
