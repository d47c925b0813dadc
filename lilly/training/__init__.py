"""Runs experiments: loops, checkpoints, metrics and claims.

The only part of lilly that reads or writes files and loops on the host. Names
are imported on first use, so that a script can parse its flags before JAX is
imported.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from lilly.training.claims import Claim, final, last, trajectory
  from lilly.training.command_line import main, parse
  from lilly.training.compilation import compiled
  from lilly.training.driver import finish, load, run
  from lilly.training.experiment import (
    Experiment,
    Options,
    Program,
    Results,
    RunError,
  )
  from lilly.training.host_loop import loop
  from lilly.training.nonfinite import NonfiniteState, skip_nonfinite
  from lilly.training.script import Reproduction, Script

_HOMES = {
  "claims": ("Claim", "final", "last", "trajectory"),
  "command_line": ("main", "parse"),
  "compilation": ("compiled",),
  "driver": ("finish", "load", "run"),
  "experiment": ("Experiment", "Options", "Program", "Results", "RunError"),
  "host_loop": ("loop",),
  "nonfinite": ("NonfiniteState", "skip_nonfinite"),
  "script": ("Reproduction", "Script"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
  "Claim",
  "Experiment",
  "NonfiniteState",
  "Options",
  "Program",
  "Reproduction",
  "Results",
  "RunError",
  "Script",
  "compiled",
  "final",
  "finish",
  "last",
  "load",
  "loop",
  "main",
  "parse",
  "run",
  "skip_nonfinite",
  "trajectory",
]


def __getattr__(name):
  if name not in _HOME_OF:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  home = importlib.import_module(f"{__name__}.{_HOME_OF[name]}")
  return getattr(home, name)
