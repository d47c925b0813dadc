"""Tests of scripts.calibrate: what it records, and what it refuses."""

import pytest

from scripts import calibrate


@pytest.fixture(name="recorded")
def _recorded(monkeypatch):
  found = []
  monkeypatch.setattr(calibrate, "record", lambda of, *rest: found.append(rest))
  return found


def test_a_date_may_be_given(recorded):
  assert calibrate.main(["ddpg", "pendulum", "cpu", "8", "2026-12-31"]) == 0
  assert calibrate.main(["ddpg", "pendulum", "cpu", "16"]) == 0
  assert recorded[0] == ("pendulum", "cpu", 8, "2026-12-31")
  assert recorded[1][:3] == ("pendulum", "cpu", 16)


@pytest.mark.parametrize(
  ("argv", "mention"),
  [
    ([], "usage"),
    (["ddpg"], "usage"),
    (["nothing", "a", "cpu", "8"], "'nothing'"),
    (["../ddpg", "a", "cpu", "8"], "no experiment"),
    (["ddpg", "nothing", "cpu", "8"], "pendulum cpu"),
    (["ddpg", "pendulum", "huge", "8"], "pendulum cpu"),
    (["ddpg", "pendulum", "cpu", "eight"], "NUM_SEEDS=eight"),
    (["ddpg", "pendulum", "cpu", "0"], "NUM_SEEDS=0"),
    (["ddpg", "pendulum", "cpu", "8", "tomorrow"], "DATE=tomorrow"),
  ],
)
def test_a_bad_invocation_is_one_line(recorded, capsys, argv, mention):
  assert calibrate.main(argv) == 1
  err = capsys.readouterr().err
  assert mention in err and err.count("\n") == 1 and not recorded
