"""The true environment, made in a clean clone; needs a package index."""

import os
import pathlib
import signal
import subprocess
import time

import pytest

_ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow
def test_first_command_in_a_clean_clone_after_a_killed_one(tmp_path):
  clone = tmp_path / "a clean clone"
  subprocess.run(["git", "clone", "--quiet", _ROOT, clone], check=True)
  environment = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("LILLY_", "PYTHON", "PYTEST_"))
  }
  command = [clone / "scripts" / "test", "tests/wheel_test.py"]
  with subprocess.Popen(
    command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL
  ) as killed:
    time.sleep(15)
    os.killpg(killed.pid, signal.SIGKILL)
  assert not (clone / ".venv" / "lilly-stamp").exists()

  for first in (True, False):
    result = subprocess.run(
      command, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    assert ("making .venv" in result.stdout) == first
    assert "5 passed" in result.stdout
