"""Selects the claims that apply to a run: those stated for its exact settings.

A claim is stated for rows of settings, one for each preset of its reproduction:
the settings that the reproduction's command resolves to with that preset. A run
matches if it equals one row in every setting that is not free. The rows of the
calibration are committed; if the current row differs, the claim is not
calibrated. Imports no JAX.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lilly.training import script as script_lib

__all__ = [
  "Statement",
  "calibration_file",
  "calibrations",
  "parse_command",
  "row_of",
  "rows_of",
  "state",
]

# Excluded from rows: with these, results agree to rounding or have more runs.
_NOT_OF_A_ROW = ("seed", "num_seeds", "seed_batching")


class Statement(NamedTuple):
  """A claim, and whether it applies to one run."""

  # 'reproduction/claim'
  name: str
  claim: Any
  min_seeds: int
  # why it is not applicable; None: it is applicable
  reason: str | None
  # whether its threshold was calibrated for these settings
  is_calibrated: bool


def row_of(
  script: script_lib.Script, resolved: Mapping[str, Any]
) -> dict[str, str]:
  """Selects the settings that a claim is stated for, as text.

  Args:
    script: script that defines the settings.
    resolved: every setting and common flag, from `script.resolve`.

  Returns:
    name -> value as on the command line, without free settings.
  """
  of_a_run = set(script_lib.COMMON_OF_A_RUN) - set(_NOT_OF_A_ROW)
  names = {*script.settings._fields, *of_a_run} - set(script.free)
  row = {name: resolved[name] for name in names}
  shown = script_lib.describe(script, row)
  # The order in which hyper-parameters are swept changes no run.
  shown["sweep"] = " ".join(sorted(resolved["sweep"]))
  return dict(sorted(shown.items()))


def rows_of(
  script: script_lib.Script, reproduction: script_lib.Reproduction
) -> dict[str, dict[str, str]]:
  """Resolves a reproduction's command with each of its presets.

  Returns:
    preset -> row; see `row_of`.
  """
  given = parse_command(script, reproduction.command)
  return {
    preset: row_of(script, script_lib.resolve(script, preset, given))
    for preset in reproduction.presets
  }


def parse_command(script, command):
  """Parses a reproduction's flags: --name=value, --name and --noname.

  Returns:
    name -> value, for the given settings and common flags.
  """
  known = script_lib.parsers(script)
  found: dict[str, Any] = {}
  for word in command:
    name, equals, value = word.removeprefix("--").partition("=")
    if name == "sweep":
      found["sweep"] = (*found.get("sweep", ()), value)
    elif not equals and name not in known:
      found[name.removeprefix("no")] = False
    else:
      found[name] = known[name].parse(value if equals else True)
  return found


def calibrations(script: script_lib.Script) -> dict[str, Any]:
  """Reads the settings that the script's claims were calibrated with.

  Returns:
    reproduction -> preset -> {"seeds", "date", "row"}; empty without a file
    calibrated/<name>.json beside the script.
  """
  path = calibration_file(script)
  if not path.exists():
    return {}
  return json.loads(path.read_text(encoding="utf-8"))


def calibration_file(script: script_lib.Script) -> pathlib.Path:
  """Returns the path of a script's committed calibrations."""
  return script.path.parent / "calibrated" / f"{script.name}.json"


def state(
  script: script_lib.Script, resolved: Mapping[str, Any]
) -> tuple[Statement, ...]:
  """States for every claim of a script whether it applies to a run.

  Args:
    script: script with reproductions.
    resolved: every setting and common flag of the run.

  Returns:
    The statements, in order.
  """
  own, recorded, found = row_of(script, resolved), calibrations(script), []
  for name, reproduction in script.reproductions.items():
    rows = rows_of(script, reproduction)
    matching = [preset for preset, row in rows.items() if row == own]
    reason = None
    if not matching:
      reason = f"stated for {_command(script, name, rows, own)}"
    is_calibrated = any(
      recorded.get(name, {}).get(preset, {}).get("row") == own
      for preset in matching
    )
    found += [
      Statement(
        f"{name}/{claim.name}",
        claim,
        reproduction.min_seeds,
        reason,
        is_calibrated,
      )
      for claim in reproduction.claims
    ]
  return tuple(found)


def _command(script, name, rows, own):
  """Names the nearest row's command and how the run differs from it."""
  departures = {preset: _departures(row, own) for preset, row in rows.items()}
  preset = min(departures, key=lambda preset: len(departures[preset]))
  words: Sequence[str] = script.reproductions[name].command
  command = " ".join([f"--preset={preset}", *words])
  named = departures[preset][:3]
  more = len(departures[preset]) - len(named)
  text = ", ".join(named) + (f" and {more} more" if more else "")
  return f"{command}; other settings: {text}"


def _departures(row, own):
  return [
    f"{name}={own[name] or 'none'} in place of {row[name] or 'none'}"
    for name in row
    if row[name] != own[name]
  ]
