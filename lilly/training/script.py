"""The form of an experiment script: a table of settings, presets and claims.

Imports no JAX.
"""

from __future__ import annotations

import inspect
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from lilly.training import settings as settings_lib
from lilly.training.settings import GIVEN_AGAIN, PATH, at_least, between

__all__ = [
  "COMMON_OF_A_RUN",
  "Common",
  "Reproduction",
  "Script",
  "describe",
  "parsers",
  "resolve",
]


class Common(NamedTuple):
  """Flags that every experiment has."""

  seed: Annotated[int, between(0, 2**32 - 1), "First seed."] = 0
  num_seeds: Annotated[
    int, between(1, 10**6), "Number of seeds, trained together."
  ] = 1
  sweep: Annotated[
    tuple[str, ...],
    GIVEN_AGAIN,
    "A hyper-parameter and its values, as in learning_rate=1e-4,3e-4; repeat "
    "the flag for a grid.",
  ] = ()
  seed_batching: Annotated[
    Literal["vmap", "map"],
    "vmap: all runs at once; map: one after another, each bit-identical to the "
    "run alone, with 1.5 times the memory.",
  ] = "vmap"
  num_updates: Annotated[
    int, at_least(1), "Number of updates; may increase when a run is resumed."
  ] = 1
  log_every: Annotated[
    int, at_least(1), "Updates averaged into one row of metrics."
  ] = 1
  eval_every: Annotated[
    int,
    at_least(0),
    "Updates between evaluations; 0: only at the start and the end.",
  ] = 0
  out_dir: Annotated[
    str | None, PATH, "Output directory [runs/<experiment>/<time>]."
  ] = None
  resume: Annotated[
    Literal["auto", "never", "must"],
    "auto: resume the run in --out_dir if there is one; never: refuse if there "
    "is one; must: refuse if there is none.",
  ] = "auto"
  eval_only: Annotated[bool, "Only evaluate the run in --out_dir."] = False
  checkpoint_every_s: Annotated[
    float, at_least(0.0), "Seconds between checkpoints; 0: write none."
  ] = 600.0
  max_checkpoint_gb: Annotated[
    float, at_least(0.0), "Largest allowed size of a checkpoint, in GB."
  ] = 8.0
  max_bad_updates: Annotated[
    int,
    at_least(0),
    "Consecutive non-finite updates that are skipped before a run fails.",
  ] = 10
  data_dir: Annotated[
    str | None, PATH, "Directory with the data sets' original files."
  ] = None
  check_claims: Annotated[bool, "Exit with status 4 if a claim fails."] = False


# The common flags that, with the settings, determine a run's results and logs.
COMMON_OF_A_RUN = (
  "seed",
  "num_seeds",
  "sweep",
  "seed_batching",
  "num_updates",
  "log_every",
  "eval_every",
)


class Reproduction(NamedTuple):
  """A command, and the claims about its result."""

  # flags, without --preset and --data_dir
  command: Sequence[str] = ()
  claims: Sequence[Any] = ()
  # finished seeds that a claim needs to be judged
  min_seeds: int = 8
  # presets under which the claims are expected to hold
  presets: Sequence[str] = ("cpu", "gpu")
  # duration of the cpu preset on 2 cores
  minutes: float = 10.0


class Script(NamedTuple):
  """An experiment script, as `training.main` runs it."""

  # a NamedTuple of settings, every field with a default: the paper's values
  settings: Any
  # preset -> overrides of settings and of common flags; a key such as
  # 'task=mnist' holds overrides that apply where that setting has that value.
  # The first preset is the default.
  presets: Mapping[str, Mapping[str, Any]]
  # make_experiments(settings, options) -> {variant: Experiment or Program}
  make_experiments: Callable[[Any, Any], Mapping[str, Any]]
  # draw(settings, results, out_dir) writes the figures
  draw: Callable[[Any, Any, Any], None] | None = None
  reproductions: Mapping[str, Reproduction] = {}
  # settings that may have any value when claims are checked
  free: Sequence[str] = ("variants",)
  # the metric of the progress line, or a function of the settings
  key_metric: str | Callable[[Any], str] | None = None
  # check(settings) raises RunError if settings are incompatible
  check: Callable[[Any], None] | None = None

  @property
  def path(self) -> pathlib.Path:
    """The script's file."""
    return pathlib.Path(inspect.getsourcefile(self.make_experiments) or "")

  @property
  def name(self) -> str:
    """The experiment's name: that of the file."""
    return self.path.stem

  @property
  def text(self) -> str:
    """The script's docstring."""
    return inspect.getdoc(inspect.getmodule(self.make_experiments)) or self.name


def parsers(script: Script) -> dict[str, Any]:
  """Makes a parser for each setting and each common flag of a script."""
  return settings_lib.parsers(Common) | settings_lib.parsers(script.settings)


def resolve(
  script: Script, preset: str, given: Mapping[str, Any]
) -> dict[str, Any]:
  """Resolves settings and common flags: given, else preset, else default.

  Args:
    script: script that defines them.
    preset: name of the preset.
    given: parsed values from the command line.

  Returns:
    name -> value, for every setting and every common flag.

  Raises:
    ValueError: the preset has an unknown setting or an invalid value.
  """
  known = parsers(script)
  row = Common._field_defaults | script.settings._field_defaults
  overrides = script.presets[preset]
  row |= _parsed(
    known, {k: v for k, v in overrides.items() if "=" not in k}, preset
  )
  row |= given
  for key, values in overrides.items():
    name, equals, wanted = key.partition("=")
    if equals and known[name].show(row[name]) == known[name].show(
      known[name].parse(wanted)
    ):
      row |= _parsed(known, values, preset)
      row |= given
  return row


def _parsed(known, values, preset):
  found = {}
  for name, value in values.items():
    if name not in known:
      raise ValueError(f"preset {preset} names {name}, which is not a setting.")
    try:
      found[name] = known[name].parse(value)
    except ValueError as error:
      raise ValueError(f"preset {preset}: {name}={value}: {error}.") from None
  return found


def describe(script: Script, row: Mapping[str, Any]) -> dict[str, str]:
  """Formats resolved values as on the command line."""
  known = parsers(script)
  return {name: known[name].show(value) for name, value in row.items()}
