"""Kills at random moments and inside saves, each followed by a resumption."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Iterator

from scripts.attacks import toy_runs
from scripts.attacks.case import FAILED, HELD, Case, Plan

__all__ = ["run"]

_NUM_KILLS = 20
# The gate of the toy is at this update: a kill comes before it.
_LAST = 300


def run(plan: Plan) -> Iterator[Case]:
  """Kills and resumes; every end is compared with an undisturbed run's."""
  count = plan.sample or _NUM_KILLS
  folder = plan.folder
  directory = folder / "run"
  process = toy_runs.start(folder, *toy_runs.LONG)
  status, err = toy_runs.finish(process, plan.seconds * 5)
  if status != 0:
    yield Case("undisturbed", FAILED, err)
    return
  expected = toy_runs.digest(directory)
  shutil.rmtree(directory)
  for number in range(count):
    in_save = number % 2 == 1
    title = f"kill {number}, {'inside a save' if in_save else 'at random'}"
    fault = _kill(plan, number, in_save)
    if not fault:
      fault = _resume(plan, expected)
    yield Case(title, FAILED if fault else HELD, fault)
    shutil.rmtree(directory, ignore_errors=True)


def _kill(plan, number, in_save) -> str:
  """Kills the toy; says what is wrong, "" if nothing is."""
  rng = random.Random(f"{plan.seed} {number}")
  directory, held = plan.folder / "run", plan.folder / "held"
  held.unlink(missing_ok=True)
  # At most a few chunks before or after the first checkpoint.
  place = f"save {4 * rng.randrange(1, _LAST // 4)}" if in_save else "chunk 300"
  process = toy_runs.start(plan.folder, *toy_runs.LONG, gate=place)
  if in_save:
    reached = held.exists
  else:
    reached = lambda: bool(toy_runs.updates(directory))
  is_there = toy_runs.wait_for(reached, process, plan.seconds)
  if is_there and not in_save:
    time.sleep(rng.uniform(0, 0.4))
  process.send_signal(signal.SIGKILL)
  _, err = toy_runs.finish(process, plan.seconds)
  held.unlink(missing_ok=True)
  return "" if is_there else f"the moment did not come: {err}"


def _resume(plan, expected) -> str:
  process = toy_runs.start(plan.folder, *toy_runs.LONG)
  status, err = toy_runs.finish(process, plan.seconds * 5)
  if status != 0:
    return f"status {status}: {err[-200:]}"
  directory = plan.folder / "run"
  if list(directory.glob("adam/checkpoints/.partial*")):
    return "a partial checkpoint is left"
  return "" if toy_runs.digest(directory) == expected else "other bits"
