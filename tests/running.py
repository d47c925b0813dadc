"""Runs an experiment's smoke preset, and reads what it wrote."""

import json

import pytest

from lilly import training

__all__ = ["final", "parse", "run"]


def _name(script):
  return script.__name__.rpartition(".")[2]


def run(script, tmp_path, *flags):
  """Gives the exit code; files are in tmp_path / "run"."""
  out_dir = f"--out_dir={tmp_path / 'run'}"
  argv = [_name(script), "--preset=smoke", *flags, out_dir]
  with pytest.raises(SystemExit) as stopped:
    training.main(script.SCRIPT, argv)
  summary = tmp_path / "run" / "summary.json"
  if summary.exists():  # a figure that fails leaves the exit status alone
    assert "not_drawn" not in json.loads(summary.read_text())
  return stopped.value.code


def parse(script, *flags):
  """Gives settings and options."""
  return training.parse(script.SCRIPT, [_name(script), *flags])


def final(tmp_path, variant):
  """Gives the last metrics of a variant, medians over seeds; none failed."""
  summary = json.loads((tmp_path / "run" / "summary.json").read_text())
  row = summary["variants"][variant]
  assert row["failed"] == []
  return {
    key: value["median"] for key, value in row["points"][0]["final"].items()
  }
