"""Records the settings that the claims of a reproduction were calibrated with.

Called by scripts/calibrate.
"""

import datetime
import importlib
import json
import re
import sys

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


def main(argv: list[str]) -> int:
  """Reads the command line; returns the exit status."""
  if len(argv) not in (4, 5):
    print(
      "usage: scripts/calibrate NAME REPRODUCTION PRESET NUM_SEEDS [DATE]",
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
