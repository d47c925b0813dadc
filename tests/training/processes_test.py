"""Several processes as one program."""

import socket
import subprocess
import sys

import pytest

from tests.training.conftest import TOY
from tests.training.driver_test import rows_of

# What a user with two machines writes before the script's main.
START = """
import runpy, sys
import jax
port, index, *argv = sys.argv[1:]
jax.distributed.initialize(f"localhost:{port}", 2, int(index))
sys.argv = ["toy", *argv]
runpy.run_path(%r, run_name="__main__")
"""


def free_port():
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    return str(probe.getsockname()[1])


def run_two(*flags):
  port = free_port()
  command = [sys.executable, "-c", START % str(TOY), port]
  processes = [
    subprocess.Popen(
      [*command, index, *flags],
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for index in ("0", "1")
  ]
  try:
    told = [process.communicate(timeout=300)[0] for process in processes]
  finally:
    for process in processes:
      process.kill()
  assert [process.returncode for process in processes] == [0, 0], told


@pytest.mark.slow
def test_two_processes_are_one_program(tmp_path):
  """They save, resume, and end as one process does, but for rounding."""
  two, one = tmp_path / "two", tmp_path / "one"
  flags = ("--num_seeds=4", "--checkpoint_every_s=0.001")
  run_two(f"--out_dir={two}", "--num_updates=16", "--eval_every=16", *flags)
  run_two(f"--out_dir={two}", "--num_updates=48")
  command = [sys.executable, str(TOY), f"--out_dir={one}", *flags]
  command += ["--num_updates=48", "--eval_every=16"]
  subprocess.run(command, check=True, capture_output=True)
  pairs = zip(rows_of(two), rows_of(one), strict=True)
  for found, expected in pairs:
    assert found == pytest.approx(expected, rel=1e-5)
  assert len(rows_of(two)) == 4 * 13
