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
LONG = ("--num_updates=400", "--eval_every=40", "--checkpoint_every_s=1e-9")


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
  gate = f"{'save' if in_save else 'chunk'} 300"
  process, directory = start_toy(*LONG, gate=gate, start_new_session=True)
  held = directory.with_name("held")
  if in_save:
    assert wait_for(held.exists, process), finish(process)
  else:
    assert wait_for(lambda: updates(directory), process), finish(process)
    time.sleep(random.Random(seed).uniform(0, 0.4))
  process.send_signal(signal.SIGKILL)
  finish(process)
  assert is_saving(directory) or not in_save
  held.unlink(missing_ok=True)
  return directory


def check_kills(start_toy, uninterrupted, count):
  for seed in range(count):
    directory = kill(start_toy, seed, in_save=seed % 2 == 1)
    assert 0 < max(updates(directory)) <= 300
    if max(updates(directory)) > 200:  # start another run
      assert_resumes(start_toy, uninterrupted)
      directory.rename(directory.with_name(f"finished-{seed}"))
  if directory.exists():
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
  process, directory = start_toy(*flags, gate="chunk 200")
  # In the loop, whose handlers are there.
  assert wait_for(directory.with_name("held").exists, process)
  process.send_signal(number)
  directory.with_name("go").touch()
  status, _, err = finish(process)
  assert status == expected and "Traceback" not in err
  assert "stopping after this chunk" in err and "resumes from there" in err
  (update,) = updates(directory)
  assert update == 204 and not (directory / "summary.json").exists()
  process, _ = start_toy(*flags)
  assert finish(process)[0] == 0
  assert bits(directory) == uninterrupted


def test_a_folder_that_is_moved_ends_the_run_and_is_whole(
  start_toy, uninterrupted
):
  process, directory = start_toy(*LONG, gate="chunk 200")
  assert wait_for(directory.with_name("held").exists, process)
  moved = directory.with_name("moved")
  directory.rename(moved)
  directory.with_name("go").touch()
  status, _, err = finish(process)
  assert status == 1 and "Traceback" not in err
  assert err.count("error: ") == 1 and "was moved, removed or" in err
  assert not directory.exists()
  process, _ = start_toy(*LONG, out_dir="moved")
  status, _, err = finish(process)
  assert status == 0, err
  assert bits(moved) == uninterrupted


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
  first, directory = start_toy(*LONG, gate="chunk 200")
  assert wait_for(directory.with_name("held").exists, first)
  second, _ = start_toy(*LONG)
  status, _, err = finish(second)
  directory.with_name("go").touch()
  assert status == 1 and "another process is running" in err
  assert err.count("\n") == 1
  assert finish(first)[0] == 0


@pytest.mark.slow
def test_a_kill_before_the_first_checkpoint_starts_anew(start_toy):
  process, directory = start_toy("--num_updates=40", gate="chunk 0")
  assert wait_for(directory.with_name("held").exists, process)
  assert (directory / "config.json").exists() and not updates(directory)
  process.send_signal(signal.SIGKILL)
  finish(process)
  process, _ = start_toy("--num_updates=40")
  status, _, err = finish(process)
  assert status == 0, err
  assert json.loads((directory / "summary.json").read_text())["claims"]
