"""Records exchanged between an experiment script and the driver."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

__all__ = [
  "Experiment",
  "Options",
  "Program",
  "Results",
  "RunError",
  "check_cadence",
]

PyTree = Any


class RunError(Exception):
  """An error the user can fix; its message is one sentence that says how."""


class Experiment(NamedTuple):
  """One learner as pure functions of one run: no seeds, devices, files, time.

  The state is one pytree of everything that changes: parameters, optimiser
  state, replay, environment, key, step. Metrics are scalars.
  """

  # init(key, hyper, data) -> state
  init: Callable[[Any, Mapping[str, Any], PyTree], PyTree]
  # update(state, data) -> (state, metrics)
  update: Callable[[PyTree, PyTree], tuple[PyTree, dict[str, Any]]]
  # evaluate(key, state, data) -> metrics; the key is the same for every run,
  # variant and evaluation, and evaluating has no effect on later updates
  evaluate: Callable[[Any, PyTree, PyTree], dict[str, Any]]
  # arrays of the data set, shared by all runs
  data: PyTree = ()
  # float hyper-parameters, the ones --sweep may name
  hyper: Mapping[str, float] = {}
  # steps per update on the horizontal axis, and their unit
  steps_per_update: int = 1
  unit: str = "updates"
  # export(state) -> parameters and whatever else acting or predicting needs,
  # for params.npz; by default the state's `params`, or all of it without one
  export: Callable[[PyTree], PyTree] | None = None


class Program(NamedTuple):
  """All runs of one variant, advanced together by `loop`."""

  # step_chunk(state) -> (state, metrics [R]), after log_every updates
  step_chunk: Callable[[PyTree], tuple[PyTree, dict[str, Any]]]
  # init() -> state, run axis first
  init: Callable[[], PyTree]
  # evaluate(state) -> metrics [R]
  evaluate: Callable[[PyTree], dict[str, Any]]
  # for each run its seed and its grid point: {"seed": 0, "learning_rate": 0.1}
  runs: tuple[Mapping[str, float], ...]
  steps_per_update: int = 1
  unit: str = "updates"
  # False for host simulators and threads: results may differ between runs
  reproducible: bool = True


class Options(NamedTuple):
  """The driver's settings, resolved from the command line."""

  # the script's name, such as feedback_alignment
  experiment: str = "experiment"
  # output directory; None keeps everything in memory
  out_dir: pathlib.Path | None = None
  preset: str = "cpu"
  seed: int = 0
  num_seeds: int = 1
  # (hyper-parameter, values): their product is the grid
  sweep: tuple[tuple[str, tuple[float, ...]], ...] = ()
  # vmap, or map: one run after another inside the same program
  seed_batching: str = "vmap"
  num_updates: int = 1
  # updates in a chunk: one row of metrics each
  log_every: int = 1
  # a multiple of log_every; 0 evaluates at the start and the end only
  eval_every: int = 0
  # auto, never or must
  resume: str = "auto"
  eval_only: bool = False
  checkpoint_every_s: float = 600.0
  # a larger state is refused before training starts
  max_checkpoint_gb: float = 8.0
  # a run with more consecutive non-finite updates has failed
  max_bad_updates: int = 10
  data_dir: str | None = None
  check_claims: bool = False
  # every flag of the script as resolved
  flags: Mapping[str, Any] = {}
  # the names of those that are the script's settings
  settings: tuple[str, ...] = ()
  # the command that reproduces this run, for reports
  command: str = ""


class Results(NamedTuple):
  """Results of `run`, for claims, figures and measurements."""

  # content of summary.json, without the claims
  summary: dict[str, Any]
  # states[variant]: final state, run axis first
  states: dict[str, PyTree]
  # metrics[variant][name]: (steps [T], values [R, T])
  metrics: dict[str, dict[str, tuple[Any, Any]]]
  # runs[variant]: seed and grid point of each run
  runs: dict[str, tuple[Mapping[str, float], ...]]
  options: Options


def check_cadence(options: Options) -> None:
  """Refuses incompatible intervals, suggesting compatible ones."""
  for flag, value in (
    ("num_updates", options.num_updates),
    ("eval_every", options.eval_every),
  ):
    if value % options.log_every:
      up = -(-value // options.log_every) * options.log_every
      raise RunError(
        f"--{flag}={value} is not a multiple of --log_every="
        f"{options.log_every}; use --{flag}={up} or another --log_every."
      )
