"""What an attempt to break something is, and how it ended."""

from __future__ import annotations

import pathlib
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

__all__ = ["Case", "Plan", "sampled", "sentence_or_none"]

HELD, FAILED, LEFT_OUT = "held", "failed", "left out"


class Plan(NamedTuple):
  """How much is tried, and with what."""

  # a folder that may be filled
  folder: pathlib.Path
  # attempts of each part; 0: all of them
  sample: int = 0
  seed: int = 0
  # experiments, by name
  scripts: tuple[str, ...] = ()
  # values of flags; none: those of `invocations`
  values: tuple[str, ...] = ()
  # seconds after which a process is ended
  seconds: float = 120.0
  # address space of a process that runs invocations
  memory_gb: float = 8.0


class Case(NamedTuple):
  """One attempt."""

  name: str
  # held, failed or left out
  verdict: str
  # what was said, or why it failed
  detail: str = ""


def sampled(attempts: Sequence[Any], plan: Plan) -> list[Any]:
  """Draws the attempts of a part, in random order if there is a sample."""
  if not plan.sample:
    return list(attempts)
  rng = random.Random(plan.seed)
  return rng.sample(list(attempts), min(plan.sample, len(attempts)))


def sentence_or_none(text: str) -> str | None:
  """Returns the one line that an error is told in, None if there are others."""
  lines = [line for line in text.splitlines() if line.strip()]
  is_one = len(lines) == 1 and lines[0].startswith("error: ")
  return lines[0] if is_one else None
