"""The toy experiment of the tests, in processes of their own."""

from __future__ import annotations

import hashlib
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

__all__ = ["LONG", "digest", "finish", "start", "updates", "wait_for"]

_ROOT = pathlib.Path(__file__).parents[2]
_TESTS = _ROOT / "tests" / "training"

# A checkpoint after every chunk, so that a kill finds one to resume from.
LONG = ("--num_updates=400", "--eval_every=40", "--checkpoint_every_s=1e-9")


def start(
  folder: pathlib.Path,
  *flags: str,
  out_dir: str = "run",
  gate: str | None = None,
  before: Sequence[str] = (),
  shell: str = "",
  **popen,
) -> subprocess.Popen:
  """Starts the toy.

  Args:
    folder: working directory of the process.
    *flags: its flags.
    out_dir: its output directory, relative to the folder.
    gate: where it waits, as in tests/training/gated_toy.py.
    before: words before the command.
    shell: redirections and limits, as "ulimit -f 100; exec {}": {} is the
      command.
    **popen: arguments of subprocess.Popen.

  Returns:
    The process, whose standard error is a pipe.
  """
  script = _TESTS / ("toy.py" if gate is None else "gated_toy.py")
  env = os.environ | {"PYTHONPATH": str(_ROOT)} | popen.pop("env", {})
  if gate is not None:
    env["GATE"] = gate
  command = [*before, sys.executable, str(script), f"--out_dir={out_dir}"]
  command += flags
  if shell:
    command = ["bash", "-c", shell.replace("{}", '"$@"'), "bash", *command]
  return subprocess.Popen(
    command,
    **{
      "cwd": folder,
      "env": env,
      "stdout": subprocess.DEVNULL,
      "stderr": subprocess.PIPE,
      "text": True,
    }
    | popen,
  )


def finish(process: subprocess.Popen, seconds: float) -> tuple[int | None, str]:
  """Waits for a process; returns its status, None if it had to be ended."""
  try:
    _, err = process.communicate(timeout=seconds)
    return process.returncode, err or ""
  except subprocess.TimeoutExpired:
    process.kill()
    _, err = process.communicate()
    return None, err or ""


def wait_for(
  condition: Callable[[], bool], process: subprocess.Popen, seconds: float
) -> bool:
  """Waits until a condition holds; tells whether it did in time."""
  end = time.monotonic() + seconds
  while time.monotonic() < end and process.poll() is None:
    if condition():
      return True
    time.sleep(0.001)
  return condition()


def updates(directory: pathlib.Path) -> list[int]:
  """Lists the updates of the checkpoints."""
  return [
    int(path.name)
    for path in directory.glob("adam/checkpoints/*")
    if path.name.isdigit()
  ]


def digest(directory: pathlib.Path) -> str:
  """Sums up the metrics, the parameters and the newest state of a run."""
  newest = max(updates(directory))
  files = [
    directory / "adam" / "metrics.jsonl",
    directory / "adam" / "params.npz",
    directory / "adam" / "checkpoints" / str(newest) / "arrays.npz",
  ]
  total = hashlib.sha256()
  for file in files:
    total.update(file.read_bytes())
  return total.hexdigest()
