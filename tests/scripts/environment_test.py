"""The scripts' environment, made by a fake Python: trust, errors, kills."""

import os
import re
import shutil
import signal
import subprocess

import pytest


def test_first_call_makes_it_and_the_second_trusts_it(checkout):
  first = checkout.call("run", "ddpg")
  checkout.assert_works(first)
  assert "making .venv" in first.stdout
  second = checkout.call("run", "ddpg")
  checkout.assert_works(second)
  assert second.stdout.count("\n") == 1
  assert (checkout.done("venv"), checkout.done("pip")) == (1, 1)


@pytest.mark.parametrize(
  ("setting", "words"),
  [
    ({"FAKE_VERSION": "3.9.18"}, ["3.9.18", "python3.11", "LILLY_PYTHON"]),
    ({"FAKE_VERSION": "3.14.0"}, ["3.14.0", "3.13"]),
    ({"FAKE_VENV": "bare"}, ["ensurepip", "apt install python3.11-venv"]),
    ({"FAKE_PIP": "network"}, ["download failed", ".venv.log"]),
    ({"FAKE_PIP": "full"}, ["disk is full", ".venv.log"]),
    ({"FAKE_PIP": "conflict"}, ["Cannot install jax==1", ".venv.log"]),
    ({"FAKE_PIP": "killed"}, ["signal 9", ".venv.log"]),
    ({"LILLY_PYTHON": "/no/such/python"}, ["/no/such/python", "3.11"]),
    ({"LILLY_EXTRAS": "cuba"}, ['"cuba"', "cuda", "atari"]),
  ],
  ids=lambda value: str(value)[:30],
)
def test_failure_is_one_sentence_and_leaves_nothing_trusted(
  checkout, setting, words
):
  checkout.assert_one_sentence(checkout.call("run", "ddpg", **setting), *words)
  assert not checkout.stamp.exists()
  made = checkout.done("venv")
  checkout.assert_works(checkout.call("run", "ddpg"))
  assert checkout.done("venv") == made + 1


def test_no_python_at_all(checkout):
  (checkout.tools / "python3.11").unlink()
  checkout.assert_one_sentence(
    checkout.call("run", "ddpg"), "no Python was found"
  )


def test_takes_the_first_python_that_will_do(checkout):
  old = checkout.add_python("python3.12")
  old.write_text(f"#!/bin/sh\nFAKE_VERSION=3.8.1 . {old}.real\n")
  shutil.copy(checkout.tools / "python3.11", f"{old}.real")
  (checkout.tools / "python3.11").unlink()
  checkout.assert_one_sentence(
    checkout.call("run", "ddpg"), "python3.12 (3.8.1)"
  )
  checkout.add_python("python3.13")
  checkout.assert_works(checkout.call("run", "ddpg"))
  assert f"python {checkout.tools / 'python3.13'}" in checkout.stamp.read_text()


def test_another_python_asked_for_makes_it_anew_once(checkout):
  checkout.call("run", "ddpg")
  other = checkout.add_python("other")
  for _ in range(2):
    checkout.assert_works(checkout.call("run", "ddpg", LILLY_PYTHON=str(other)))
  checkout.assert_works(checkout.call("run", "ddpg"))
  assert checkout.done("venv") == 2


@pytest.mark.parametrize("name", ["constraints.txt", "setup.py"])
def test_changed_requirements_install_again(checkout, name):
  checkout.call("run", "ddpg")
  with (checkout.root / name).open("a") as file:
    file.write("# another line\n")
  assert checkout.done("uninstalled") == 0
  for _ in range(2):
    checkout.assert_works(checkout.call("run", "ddpg"))
  assert (checkout.done("venv"), checkout.done("pip")) == (1, 2)
  # The distribution had another name once.
  assert checkout.done("uninstalled") == 1


def test_failed_second_install_is_not_trusted(checkout):
  checkout.call("run", "ddpg")
  failed = checkout.call("run", "ddpg", LILLY_EXTRAS="atari", FAKE_PIP="full")
  checkout.assert_one_sentence(failed, "disk is full")
  assert not checkout.stamp.exists()
  checkout.assert_works(checkout.call("run", "ddpg"))
  assert checkout.done("venv") == 2


def test_extras_accumulate(checkout):
  for extras in ("", "atari", "", "docs", "docs,atari", "docs atari"):
    checkout.assert_works(checkout.call("run", "ddpg", LILLY_EXTRAS=extras))
  assert re.findall(r"\[(.*)\]", checkout.notes.read_text()) == [
    "experiments",
    "atari,experiments",
    "atari,docs,experiments",
  ]


@pytest.mark.parametrize(
  ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_interrupted_install_is_made_anew(checkout, number, code):
  with checkout.start("run", "ddpg", FAKE_PIP="hang") as process:
    checkout.wait_until_it_hangs()
    process.send_signal(number)
    _, err = process.communicate(timeout=10)
  result = subprocess.CompletedProcess("run", process.returncode, "", err)
  checkout.assert_one_sentence(result, "interrupted", code=code)
  checkout.assert_works(checkout.call("run", "ddpg"))
  assert (checkout.done("venv"), checkout.done("pip")) == (2, 2)


@pytest.mark.parametrize("mending", [False, True])
def test_killed_install_is_made_anew(checkout, mending):
  if mending:
    checkout.call("run", "ddpg")
  with checkout.start(
    "run", "ddpg", FAKE_PIP="hang", LILLY_EXTRAS="atari"
  ) as process:
    checkout.wait_until_it_hangs()
    os.killpg(process.pid, signal.SIGKILL)
  assert checkout.venv.is_dir()
  checkout.assert_works(checkout.call("run", "ddpg"))
  assert (checkout.done("venv"), checkout.done("pip")) == (2, 2 + mending)


@pytest.mark.parametrize("left", [[], ["made-by-lilly"], ["lilly-stamp.new"]])
def test_remains_of_any_moment_are_made_anew(checkout, left):
  if "lilly-stamp.new" in left:
    checkout.call("run", "ddpg")
    checkout.stamp.rename(checkout.stamp.with_name("lilly-stamp.new"))
  else:
    checkout.venv.mkdir()
    for name in left:
      (checkout.venv / name).touch()
  checkout.assert_works(checkout.call("run", "ddpg"))
  assert checkout.done("venv") == 1 + ("lilly-stamp.new" in left)


def test_calls_at_the_same_time_make_it_once(checkout):
  processes = [checkout.start("run", "ddpg", FAKE_PIP="slow") for _ in range(3)]
  for process in processes:
    with process:
      _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
  assert (checkout.done("venv"), checkout.done("pip")) == (1, 1)


@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_foreign_venv_is_refused_and_left_alone(checkout, kind, tmp_path):
  other = tmp_path / "other"
  other.mkdir()
  (other / "mine").touch()
  if kind == "file":
    checkout.venv.touch()
  elif kind == "link":
    checkout.venv.symlink_to(other)
  else:
    shutil.copytree(other, checkout.venv)
  result = checkout.call("run", "ddpg")
  checkout.assert_one_sentence(result, ".venv is ", "move it away")
  assert checkout.venv.exists()
  assert (other / "mine").exists()
  assert kind != "folder" or (checkout.venv / "mine").exists()


def test_environment_of_another_hand_is_kept_aside(checkout):
  checkout.venv.mkdir()
  (checkout.venv / "pyvenv.cfg").touch()
  checkout.assert_works(checkout.call("run", "ddpg"))
  assert (checkout.root / ".venv.saved" / "pyvenv.cfg").exists()
  assert checkout.stamp.exists()


def test_moved_checkout_and_vanished_interpreter_make_it_anew(checkout):
  checkout.call("run", "ddpg")
  moved = checkout.root.with_name("moved")
  checkout.root.rename(moved)
  checkout.root, checkout.venv = moved, moved / ".venv"
  checkout.assert_works(checkout.call("run", "ddpg"))
  assert checkout.done("venv") == 2
  (checkout.venv / "bin" / "python").unlink()
  checkout.assert_works(checkout.call("run", "ddpg"))
  assert checkout.done("venv") == 3


def test_read_only_checkout(checkout):
  if os.geteuid() == 0:
    pytest.skip("root may write everywhere")
  checkout.root.chmod(0o555)
  result = checkout.call("run", "ddpg")
  checkout.root.chmod(0o755)
  checkout.assert_one_sentence(result, "not writable")
