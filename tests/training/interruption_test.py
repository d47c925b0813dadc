"""Kills, signals and resumption, each in processes of their own."""

import json
import os
import random
import signal
import subprocess
import time

import pytest

from tests.training.driver_test import bits

# A checkpoint after every chunk, so that a kill finds one to resume from.
LONG = ("--num_updates=400", "--eval_every=40", "--checkpoint_every_s=0.001")


def finish(process):
  out, err = process.communicate(timeout=300)
  return process.returncode, out, err


def wait_for(condition, process, seconds=120):
  """Waits until a condition holds; tells whether it did in time."""
  end = time.monotonic() + seconds
  while time.monotonic() < end and process.poll() is None:
    if condition():
      return True
    time.sleep(0.001)
  return False


def updates(directory):
  return [
    int(path.name)
    for path in directory.glob("adam/checkpoints/*")
    if path.name.isdigit()
  ]


def is_saving(directory):
  return any(directory.glob("adam/checkpoints/.partial-*/*"))


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
  """The bits of a run that nobody disturbed."""
  from tests.training.conftest import TOY, sys

  directory = tmp_path_factory.mktemp("uninterrupted") / "run"
  command = [sys.executable, str(TOY), f"--out_dir={directory}", *LONG]
  subprocess.run(command, check=True, capture_output=True)
  return bits(directory)


def kill(start_toy, seed, in_save):
  """Starts or resumes the toy and kills it, at random or inside a save."""
  process, directory = start_toy(*LONG, start_new_session=True)
  before = max(updates(directory), default=0)
  reached = wait_for(
    lambda: max(updates(directory), default=0) > before, process
  )
  if reached and in_save:
    wait_for(lambda: is_saving(directory), process)
  else:
    time.sleep(random.Random(seed).uniform(0, 0.4))
  process.send_signal(signal.SIGKILL)
  finish(process)
  return directory


def check_kills(start_toy, uninterrupted, count):
  for seed in range(count):
    directory = kill(start_toy, seed, in_save=seed % 2 == 1)
    assert 0 < max(updates(directory)) < 400, "the kill came too late"
    if max(updates(directory)) > 300:  # near the end: start another run
      assert_resumes(start_toy, uninterrupted)
      directory.rename(directory.with_name(f"finished-{seed}"))
  assert_resumes(start_toy, uninterrupted)


def assert_resumes(start_toy, uninterrupted):
  process, directory = start_toy(*LONG)
  status, _, err = finish(process)
  assert status == 0, err
  assert bits(directory) == uninterrupted
  assert not list(directory.glob("adam/checkpoints/.partial*"))


def test_killed_twice_ends_with_the_same_bits(start_toy, uninterrupted):
  check_kills(start_toy, uninterrupted, 2)  # at random, and inside a save


@pytest.mark.slow
def test_killed_twenty_times_ends_with_the_same_bits(start_toy, uninterrupted):
  check_kills(start_toy, uninterrupted, 20)


@pytest.mark.parametrize(
  ("number", "expected"),
  [
    (signal.SIGTERM, 143),
    pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
    pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),
  ],
)
def test_a_signal_saves_and_exits(start_toy, uninterrupted, number, expected):
  flags = (*LONG[:2], "--checkpoint_every_s=600")
  process, directory = start_toy(*flags)
  metrics = directory / "adam" / "metrics.jsonl"
  # The rows of update 0 are there, so the loop and its handlers are.
  assert wait_for(lambda: metrics.exists() and metrics.stat().st_size, process)
  process.send_signal(number)
  status, _, err = finish(process)
  assert status == expected and "Traceback" not in err
  assert "stopping after this chunk" in err and "goes on from there" in err
  (update,) = updates(directory)
  assert 0 < update < 400 and not (directory / "summary.json").exists()
  process, _ = start_toy(*flags)
  assert finish(process)[0] == 0
  assert bits(directory) == uninterrupted


@pytest.mark.slow
def test_a_full_disk_is_one_sentence(start_toy):
  """A limit on the size of files stands in for a disk that is full."""

  # The cache of compiled programs, a thing of these tests, is not limited.
  env = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
  process, directory = start_toy("--task=big", env=env, limit_kb=100)
  status, _, err = finish(process)
  assert status == 1, err
  assert "could not write a checkpoint" in err and "Traceback" not in err
  assert updates(directory) == []
  process, _ = start_toy("--task=big")
  assert finish(process)[0] == 0


def test_two_processes_do_not_share_a_directory(start_toy):
  first, directory = start_toy(*LONG)
  wait_for(lambda: (directory / "config.json").exists(), first)
  # It must not end before the other one has begun.
  first.send_signal(signal.SIGSTOP)
  second, _ = start_toy(*LONG)
  status, _, err = finish(second)
  first.send_signal(signal.SIGCONT)
  assert status == 1 and "another process is running" in err
  assert err.count("\n") == 1
  assert finish(first)[0] == 0


@pytest.mark.slow
def test_a_kill_before_the_first_checkpoint_starts_anew(start_toy):
  process, directory = start_toy("--num_updates=40")
  wait_for(lambda: (directory / "config.json").exists(), process)
  process.send_signal(signal.SIGKILL)
  finish(process)
  process, _ = start_toy("--num_updates=40")
  status, _, err = finish(process)
  assert status == 0, err
  assert json.loads((directory / "summary.json").read_text())["claims"]
