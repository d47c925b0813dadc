"""Records the settings that the claims of a reproduction were calibrated with.

Or, with --margins, prints how far thresholds are from the seeds of finished
runs. Called by scripts/calibrate.
"""

import datetime
import importlib
import json
import pathlib
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from lilly.training import reproduction, script


def record(
  of: script.Script, name: str, preset: str, seeds: int, date: str
) -> None:
  """Adds one reproduction and preset to the script's calibrations.

  Args:
    of: the experiment script.
    name: name of the reproduction.
    preset: preset of the calibration run.
    seeds: number of seeds.
    date: date, such as 2026-12-31.
  """
  row = reproduction.rows_of(of, of.reproductions[name])[preset]
  found = reproduction.calibrations(of)
  entry = {"seeds": seeds, "date": date, "row": row}
  found.setdefault(name, {})[preset] = entry
  path = reproduction.calibration_file(of)
  path.parent.mkdir(exist_ok=True)
  text = json.dumps(found, indent=1, sort_keys=True) + "\n"
  path.write_text(text, encoding="utf-8")


def margin_of(
  values: Sequence[float], relation: str, threshold: float
) -> float | None:
  """Computes the distance of a threshold from the worst seed, in ranges.

  Args:
    values: the measure of each seed, [N]; the range is max - min.
    relation: required relation of the values to the threshold.
    threshold: the threshold.

  Returns:
    (threshold - max) / (max - min) where values must be smaller, (min -
    threshold) / (max - min) where they must be larger: negative if the
    threshold is among the seeds. None if all seeds are equal.
  """
  low, high = min(values), max(values)
  if low == high:
    return None
  distance = threshold - high if relation in ("<", "<=") else low - threshold
  return distance / (high - low)


def margins(summaries: Sequence[Mapping[str, Any]]) -> list[str]:
  """Tabulates the margins of the claims that were measured, as Markdown.

  Args:
    summaries: contents of summary.json; of the same claim in several of them
      the seeds are put together.
  """
  rows: dict[str, dict[str, Any]] = {}
  for summary in summaries:
    for row in summary["claims"]:
      if row["value"] is not None:
        found = rows.setdefault(row["name"], row | {"values": []})
        found["values"] += row["values"]
  lines = [
    "| claim | threshold | seeds | least | median | greatest | margin |",
    "| --- | --- | --- | --- | --- | --- | --- |",
  ]
  for name, row in rows.items():
    values, relation, threshold = (
      row[key] for key in ("values", "relation", "threshold")
    )
    margin = margin_of(values, relation, threshold)
    cells = [
      f"{name}: {row['sentence']}",
      f"{relation} {threshold:.4g}",
      str(len(values)),
      f"{min(values):.4g}",
      f"{statistics.median(values):.4g}",
      f"{max(values):.4g}",
      "all seeds are equal" if margin is None else f"{margin:.2f}",
    ]
    lines.append(f"| {' | '.join(cells)} |")
  return lines


def main(argv: list[str]) -> int:
  """Reads the command line; returns the exit status."""
  if argv[:1] == ["--margins"]:
    paths = [pathlib.Path(name) / "summary.json" for name in argv[1:]]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing or not paths:
      named = f"there is no {missing[0]}" if missing else "give one or more"
      print(f"error: --margins needs finished runs; {named}.", file=sys.stderr)
      return 1
    found = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    print("\n".join(margins(found)))
    return 0
  if len(argv) not in (4, 5):
    print(
      "usage: scripts/calibrate NAME REPRODUCTION PRESET NUM_SEEDS [DATE], or "
      "scripts/calibrate --margins RUN...",
      file=sys.stderr,
    )
    return 1
  name, of, preset, seeds, *date = argv
  try:
    one = importlib.import_module(f"experiments.{name}").SCRIPT
  except ModuleNotFoundError:
    print(f"error: there is no experiment {name!r}.", file=sys.stderr)
    return 1
  if not re.fullmatch("[1-9][0-9]{0,3}", seeds):
    print(
      f"error: NUM_SEEDS={seeds} must be a positive whole number.",
      file=sys.stderr,
    )
    return 1
  if of not in one.reproductions or preset not in one.reproductions[of].presets:
    known = ", ".join(
      f"{name} {preset}"
      for name, reproduction in one.reproductions.items()
      for preset in reproduction.presets
    )
    print(
      f"error: {name} has these reproductions and presets: {known}.",
      file=sys.stderr,
    )
    return 1
  day = date[0] if date else datetime.date.today().isoformat()
  if not re.fullmatch(r"\d{4}-\d\d-\d\d", day):
    print(f"error: DATE={day} must be such as 2026-12-31.", file=sys.stderr)
    return 1
  record(one, of, preset, int(seeds), day)
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
