"""Measures the speed of experiments, run by their commands."""

import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence

_ROOT = pathlib.Path(__file__).parents[2]


def rates(script: str, flags: Sequence[str]) -> dict[str, float]:
  """Runs a script of experiments/ to its end.

  Args:
    script: name of the script.
    flags: flags of the command.

  Returns:
    For each variant the updates per second over all its runs, without
    compilation.
  """
  with tempfile.TemporaryDirectory() as folder:
    command = [sys.executable, "-m", f"experiments.{script}", *flags]
    subprocess.run(
      [*command, f"--out_dir={folder}/run"],
      cwd=_ROOT,
      check=True,
      capture_output=True,
    )
    summary = json.loads(pathlib.Path(folder, "run/summary.json").read_text())
  return {
    name: row["runs"] * row["updates_per_second"]
    for name, row in summary["variants"].items()
  }
