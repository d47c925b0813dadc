"""A process that runs one command line after another in a script.

Importing JAX takes longer than most runs at smoke size, so the process stays
for many. It is replaced when it has died, or has not answered in time.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import pathlib
import resource
import select
import subprocess
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NamedTuple

__all__ = ["Answer", "Worker"]

_ROOT = pathlib.Path(__file__).parents[2]
# Compiled programs are dropped with the process.
_RUNS_PER_PROCESS = 40
_TRACES_PER_PROCESS = 200


class Answer(NamedTuple):
  """How a command line ended."""

  # exit status; None if there is none
  status: int | None
  # what was written to standard error
  stderr: str
  # the traceback of an exception that was not caught, else ""
  traceback: str = ""
  # how the process ended if it did not answer, else ""
  end: str = ""

  def fault(self) -> str:
    """Says what is wrong with this ending, "" if nothing is."""
    if self.end:
      return self.end
    if self.traceback:
      return self.traceback.strip().splitlines()[-1]
    lines = [line for line in self.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    if self.status == 1 and len(errors) != 1:
      return f"status 1 with {len(errors)} lines of error"
    if self.status not in (0, 1, 3, 4):
      return f"status {self.status}"
    return ""

  def sentence(self) -> str:
    """Returns the last line of an error."""
    return next(
      (
        line
        for line in reversed(self.stderr.splitlines())
        if line.startswith("error: ")
      ),
      "",
    )


class Worker:
  """Runs command lines of a script in a process that is kept."""

  def __init__(
    self,
    module: str,
    *,
    seconds: float = 60.0,
    memory_gb: float = 0.0,
    folder: pathlib.Path | None = None,
    cache: pathlib.Path | None = None,
    only_traces: bool = False,
  ):
    """Remembers what to start; nothing is started yet.

    Args:
      module: module with a `SCRIPT`, such as experiments.ddpg.
      seconds: time after which a command line is given up.
      memory_gb: address space of the process; 0: as much as there is.
      folder: working directory of the process.
      cache: folder of compiled programs, kept between processes.
      only_traces: whether programs are traced, and not compiled and run.
    """
    self._module, self._seconds, self._memory_gb = module, seconds, memory_gb
    self._folder, self._only_traces = folder, only_traces
    self._env = {}
    if cache is not None:
      self._env = {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
      }
    self._process: Any = None
    self._runs = 0

  def run(self, argv: Sequence[str]) -> Answer:
    """Runs `main` with a command line, the program's name first."""
    most = _TRACES_PER_PROCESS if self._only_traces else _RUNS_PER_PROCESS
    if self._runs >= most:
      self.close()
    if self._process is None:
      self._start()
    self._runs += 1
    process = self._process
    try:
      process.stdin.write(json.dumps(list(argv)) + "\n")
      process.stdin.flush()
      ready, _, _ = select.select([process.stdout], [], [], self._seconds)
      if not ready:
        self.close()
        return Answer(None, "", end="still running")
      line = process.stdout.readline()
    except BrokenPipeError:
      line = ""
    if not line:
      status = process.wait()
      self.close()
      return Answer(None, "", end=f"the process ended with {status}")
    return Answer(**json.loads(line))

  def close(self) -> None:
    """Ends the process."""
    if self._process is not None:
      self._process.kill()
      self._process.wait()
      self._process.stdin.close()
      self._process.stdout.close()
      self._process = None
    self._runs = 0

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  def _start(self):
    path = os.environ.get("PYTHONPATH")
    self._process = subprocess.Popen(
      [
        sys.executable,
        "-m",
        "scripts.attacks.worker",
        self._module,
        str(self._memory_gb),
        "trace" if self._only_traces else "run",
      ],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      text=True,
      cwd=self._folder,
      env=os.environ
      | self._env
      | {"PYTHONPATH": f"{_ROOT}:{path}" if path else str(_ROOT)},
    )


def _serve(module: str, memory_gb: float, only_traces: bool) -> None:
  """Answers command lines, one JSON list a line, until the input ends."""
  from tests import haste

  if memory_gb:
    most = int(memory_gb * 1e9)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
  haste.hurry()
  script = importlib.import_module(module).SCRIPT
  if only_traces:
    from lilly.training import driver

    driver.run = _trace
  answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
  for line in sys.stdin:
    answer = _answer(script, json.loads(line))
    print(json.dumps(answer._asdict()), file=answers, flush=True)


def _trace(experiments, options, **_) -> None:
  """Traces init, update and evaluate, in place of `driver.run`."""
  import jax

  from lilly import training
  from lilly.training import compilation

  for name, item in experiments.items():
    if isinstance(item, training.Program):
      continue
    functions = compilation._functions(item, options, name)
    state = jax.eval_shape(functions.init, functions.start, functions.data)
    jax.eval_shape(functions.step, state, functions.data)
    jax.eval_shape(functions.evaluate, state, functions.data)
  jax.clear_caches()
  raise SystemExit(0)


def _answer(script, argv) -> Answer:
  from lilly import training

  status, told = None, ""
  out, err = io.StringIO(), io.StringIO()
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    try:
      training.main(script, argv)
    except SystemExit as stopped:
      status = stopped.code or 0
    except BaseException:
      told = traceback.format_exc()
  return Answer(status, err.getvalue()[-20_000:], told[-20_000:])


if __name__ == "__main__":
  _serve(sys.argv[1], float(sys.argv[2]), sys.argv[3] == "trace")
