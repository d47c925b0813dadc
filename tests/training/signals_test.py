"""Tests of lilly.training.signals, also in a process whose device is stuck."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from lilly.training import signals
from tests.training import stuck

HANDLED = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


def handlers():
  descriptor = signal.set_wakeup_fd(-1)
  signal.set_wakeup_fd(descriptor)
  return [signal.getsignal(number) for number in HANDLED], descriptor


@pytest.mark.parametrize("number", HANDLED)
def test_the_first_signal_is_handed_on_and_told(number, capsys):
  caught = []
  note = lambda signum, frame: caught.append(signum)
  before = handlers()
  with signals.handled(note, "stopping after this chunk"):
    signal.raise_signal(number)
    assert caught == [number]
  assert handlers() == before
  err = capsys.readouterr().err
  assert f"{number.name}: stopping after this chunk; a second" in err
  assert signals.exit_status(number) == 128 + number


def test_all_is_restored_after_an_error():
  before, threads = handlers(), threading.active_count()
  with pytest.raises(ZeroDivisionError), signals.handled(print, "stopping"):
    assert handlers() != before
    raise ZeroDivisionError
  assert handlers() == before
  assert threading.active_count() == threads


def test_inside_of_another_one_the_inner_one_handles(capsys):
  outer, inner = [], []
  with signals.handled(lambda *given: outer.append(given), "leaving"):
    with signals.handled(lambda *given: inner.append(given), "saving"):
      signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
  assert len(outer) == len(inner) == 1
  err = capsys.readouterr().err
  assert err.index("SIGTERM: saving") < err.index("SIGTERM: leaving")


def test_a_hangup_that_is_ignored_stays_ignored():
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
  try:
    with signals.handled(pytest.fail, "stopping"):
      signal.raise_signal(signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
  finally:
    signal.signal(signal.SIGHUP, before)


def test_another_thread_leaves_signals_alone():
  found, before = [], handlers()

  def look():
    with signals.handled(print, "stopping"):
      found.append([signal.getsignal(number) for number in HANDLED])

  thread = threading.Thread(target=look)
  thread.start()
  thread.join()
  assert found == [before[0]]


def read_until(process, word):
  """Reads standard error up to a line that holds a word."""
  lines = []
  for line in process.stderr:
    lines.append(line)
    if word in line:
      return "".join(lines)
  raise AssertionError("".join(lines))


@pytest.mark.parametrize(
  ("where", "first", "second"),
  [
    ("update", signal.SIGTERM, signal.SIGTERM),
    ("init", signal.SIGINT, signal.SIGINT),
    pytest.param(
      *("evaluate", signal.SIGTERM, signal.SIGHUP), marks=pytest.mark.slow
    ),
  ],
)
def test_two_signals_end_a_run_whose_device_is_stuck(
  tmp_path, where, first, second
):
  source = pathlib.Path(stuck.__file__)
  command = [sys.executable, str(source), f"--where={where}"]
  with subprocess.Popen(
    [*command, f"--out_dir={tmp_path / 'run'}"],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env=os.environ | {"PYTHONPATH": str(source.parents[2])},
  ) as process:
    try:
      assert process.stdout.readline() == "begins\n"
      time.sleep(3)  # until the device has begun
      process.send_signal(first)
      told = read_until(process, first.name)
      assert "a second signal ends the run at once, without saving" in told
      with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=2)  # Python's own handler is never reached
      process.send_signal(second)
      status = process.wait(timeout=5)
    finally:
      process.kill()
    rest = process.stderr.read()
  assert status == 128 + second
  assert rest.strip() == f"{second.name}: ended at once, without saving."
  assert not list(tmp_path.rglob("checkpoints/[0-9]*"))
