"""Every experiment twice, with the same flags: the same bytes."""

import pathlib
import subprocess
import sys

import pytest

EXPERIMENTS = pathlib.Path(__file__).parents[2] / "experiments"


@pytest.mark.slow
@pytest.mark.parametrize(
  "name", [path.stem for path in sorted(EXPERIMENTS.glob("[a-z]*.py"))]
)
def test_every_experiment_twice_gives_the_same_bytes(tmp_path, name):
  for directory in ("first", "second"):
    command = [sys.executable, "-m", f"experiments.{name}", "--preset=smoke"]
    subprocess.run(
      [*command, f"--out_dir={tmp_path / directory}", "--num_seeds=2"],
      check=True,
      capture_output=True,
      cwd=EXPERIMENTS.parent,
    )
  files = sorted((tmp_path / "first").glob("*/metrics.jsonl"))
  assert files
  for variant in [file.parent.name for file in files]:
    for name in ("metrics.jsonl", "params.npz"):
      first = (tmp_path / "first" / variant / name).read_bytes()
      second = (tmp_path / "second" / variant / name).read_bytes()
      assert first == second, (variant, name)
