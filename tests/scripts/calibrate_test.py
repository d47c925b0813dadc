"""Tests of scripts.calibrate: what it records, lists and refuses."""

import json

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


def summary(values, relation="<=", threshold=3.0):
  row = {
    "name": "copy/sam",
    "sentence": "wrong bits",
    "value": 1.0 if values else None,
    "values": values,
    "relation": relation,
    "threshold": threshold,
  }
  return {"claims": [row]}


@pytest.mark.parametrize(
  ("relation", "threshold", "margin"),
  [
    ("<=", 3.0, 0.5),
    ("<", 1.0, -0.5),  # the worst seed, 2, is above it
    ("<=", 2.0, 0.0),
    (">=", 1.0, -0.5),
    (">", -1.0, 0.5),
  ],
)
def test_a_margin_is_counted_from_the_worst_seed(relation, threshold, margin):
  values = [0.0, 2.0, 0.5]
  assert calibrate.margin_of(values, relation, threshold) == margin
  assert calibrate.margin_of([1.0, 1.0], relation, threshold) is None


def test_seeds_of_several_runs_are_put_together(tmp_path, capsys):
  names = []
  for i, values in enumerate(([0.0, 2.0], [0.5, 1.5], [])):
    path = tmp_path / str(i) / "summary.json"
    path.parent.mkdir()
    path.write_text(json.dumps(summary(values)))
    names.append(str(path.parent))
  assert calibrate.main(["--margins", *names]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[2:] == ["| copy/sam: wrong bits | <= 3 | 4 | 0 | 1 | 2 | 0.50 |"]


def test_a_run_that_has_not_finished_is_named(tmp_path, capsys):
  assert calibrate.main(["--margins", str(tmp_path)]) == 1
  assert str(tmp_path / "summary.json") in capsys.readouterr().err
  assert calibrate.main(["--margins"]) == 1
