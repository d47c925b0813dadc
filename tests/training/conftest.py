"""Fixtures of the driver's tests."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

import lilly
from lilly import training
from tests.training import toy

TOY = pathlib.Path(toy.__file__)


@pytest.fixture(scope="session", autouse=True)
def import_path():
  """Processes started here import the lilly that is tested."""
  os.environ["PYTHONPATH"] = str(pathlib.Path(lilly.__file__).parent.parent)


@pytest.fixture(scope="session", autouse=True)
def hangups_are_heard():
  """Also where the tests themselves run under nohup."""
  if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def run_toy(tmp_path, capsys):
  """Runs the toy in this process; returns status, output directory, stderr."""

  def run(*flags, out_dir="run"):
    directory = tmp_path / out_dir
    argv = ["toy", f"--out_dir={directory}", *flags]
    with pytest.raises(SystemExit) as stopped:
      training.main(toy.SCRIPT, argv=argv)
    return stopped.value.code or 0, directory, capsys.readouterr().err

  return run


@pytest.fixture
def start_toy(tmp_path):
  """Starts the toy in a process of its own; `gate` is told in gated_toy."""
  started = []

  def start(*flags, out_dir="run", limit_kb=None, gate=None, **popen):
    directory = tmp_path / out_dir
    script = TOY if gate is None else TOY.with_name("gated_toy.py")
    command = [sys.executable, str(script), f"--out_dir={directory}", *flags]
    if gate is not None:
      popen["env"] = os.environ | {"GATE": gate}
    if limit_kb is not None:  # on the size of a file
      shell = f'ulimit -f {limit_kb} && exec "$@"'
      command = ["bash", "-c", shell, "bash", *command]
    process = subprocess.Popen(
      command,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      cwd=tmp_path,
      **popen,
    )
    started.append(process)
    return process, directory

  yield start
  for process in started:
    process.kill()
    process.communicate()
