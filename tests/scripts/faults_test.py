"""Tests of scripts/faults: it finds what is broken, and little is."""

import json
import sys
import types

import pytest

from lilly import training
from scripts import faults
from scripts.attacks import case, checkpoints, functions, invocations, worker
from tests.training import toy


def plan(tmp_path, **values):
  return case.Plan(tmp_path, **values)


def assert_held(cases, at_least):
  cases = list(cases)
  assert [c for c in cases if c.verdict == case.FAILED] == []
  assert sum(c.verdict == case.HELD for c in cases) >= at_least


def test_strange_values_are_parsed_or_one_sentence(tmp_path):
  assert_held(invocations.parsed(plan(tmp_path, sample=300, seed=1)), 300)


@pytest.mark.slow
def test_all_strange_values_are_parsed_or_one_sentence(tmp_path):
  assert_held(invocations.parsed(plan(tmp_path)), 5000)


@pytest.mark.slow
def test_accepted_command_lines_can_be_traced(tmp_path):
  assert_held(invocations.traced(plan(tmp_path, sample=20, seed=2)), 10)


@pytest.mark.slow
def test_accepted_command_lines_can_be_run(tmp_path):
  assert_held(invocations.run(plan(tmp_path, sample=8, seed=3)), 4)


@pytest.mark.slow
def test_changed_checkpoints_are_refused(tmp_path):
  assert_held(checkpoints.run(plan(tmp_path, sample=15, seed=4)), 15)


def test_every_flag_of_every_experiment_is_tried():
  tried = invocations.all_invocations(["ddpg"])
  assert ("ddpg", "capacity", str(2**63)) in tried
  assert ("ddpg", "num_seeds", "nan") in tried
  assert ("ddpg", "preset", "") in tried
  assert len(set(tried)) == len(tried)


def test_a_parser_that_raises_is_found(tmp_path, monkeypatch):
  def parse(script, argv):
    raise ZeroDivisionError("by zero")

  monkeypatch.setattr(training, "parse", parse)
  (found,) = invocations.parsed(plan(tmp_path, sample=1))
  assert found.verdict == case.FAILED and "ZeroDivision" in found.detail


@pytest.mark.parametrize(
  ("refusal", "verdict"),
  [
    ("two\nlines", case.FAILED),
    ("something is wrong", case.FAILED),  # names no flag
  ],
)
def test_a_refusal_names_the_flag(tmp_path, monkeypatch, refusal, verdict):
  def parse(script, argv):
    raise training.RunError(refusal)

  monkeypatch.setattr(training, "parse", parse)
  (found,) = invocations.parsed(plan(tmp_path, sample=1))
  assert found.verdict == verdict


@pytest.mark.parametrize(
  ("answer", "fault"),
  [
    (worker.Answer(0, ""), ""),
    (worker.Answer(3, "error: a failed.\nerror: b failed.\n"), ""),
    (worker.Answer(1, "progress\nerror: no.\n"), ""),
    (worker.Answer(1, "no.\n"), "status 1 with 0 lines of error"),
    (worker.Answer(1, "error: a\nerror: b\n"), "status 1 with 2 lines"),
    (worker.Answer(2, "error: a\n"), "status 2"),
    (worker.Answer(None, "", "Traceback ...\nKeyError: 1\n"), "KeyError: 1"),
    (worker.Answer(None, "", end="still running"), "still running"),
  ],
)
def test_an_answer_is_judged(answer, fault):
  assert answer.fault().startswith(fault) and bool(fault) == bool(
    answer.fault()
  )


@pytest.fixture
def broken_script(monkeypatch):
  """Puts another script in the toy's place, in this process."""

  def put(**changes):
    script = toy.SCRIPT._replace(**changes)
    module = types.ModuleType("broken")
    module.SCRIPT = script
    monkeypatch.setitem(sys.modules, "broken", module)
    return script

  return put


def test_a_traceback_is_an_answer(broken_script, tmp_path):
  script = broken_script(make_experiments=lambda settings, options: {}[1])
  answer = worker._answer(script, ["toy", f"--out_dir={tmp_path / 'run'}"])
  assert answer.fault() == "KeyError: 1"


def test_an_error_of_the_user_is_a_sentence(broken_script, tmp_path):
  def refuse(settings, options):
    raise training.RunError("not that.")

  script = broken_script(make_experiments=refuse)
  answer = worker._answer(script, ["toy", f"--out_dir={tmp_path / 'run'}"])
  assert answer.fault() == "" and answer.sentence() == "error: not that."


def test_a_worker_serves_many_and_is_replaced(tmp_path):
  out_dir = f"--out_dir={tmp_path / 'run'}"
  with worker.Worker("tests.training.toy", seconds=120) as one:
    assert one.run(["toy", out_dir, "--noise=-inf"]).status == 1
    process = one._process
    assert one.run(["toy", out_dir, "--preset=smoke"]).status == 0
    assert one._process is process
    process.kill()
    assert "ended with -9" in one.run(["toy", out_dir]).fault()
    assert one._process is None


def test_a_function_that_fails_inside_jax_is_found():
  import jax.numpy as jnp

  multiply = lambda a, b: jnp.dot(a, b)
  assert functions._try(multiply, (jnp.ones(3), jnp.ones(3))) == ""
  fault = functions._try(multiply, (jnp.ones(3), jnp.ones(4)))
  assert fault.startswith("TypeError from ")


def test_help_is_the_docstring(capsys):
  with pytest.raises(SystemExit) as stopped:
    faults.main(["--help"])
  out, err = capsys.readouterr()
  assert stopped.value.code == 0 and err == ""
  assert all(f"\n  {part} " in out for part in faults.PARTS)


def test_an_unknown_part_is_one_sentence(capsys):
  with pytest.raises(SystemExit) as stopped:
    faults.main(["kill"])
  assert stopped.value.code == 2
  assert "there is no part kill; parts: flags" in capsys.readouterr().err


def test_figures_are_printed_and_written(tmp_path, monkeypatch, capsys):
  cases = [
    case.Case("a", case.HELD),
    case.Case("b", case.FAILED, "a traceback"),
    case.Case("c", case.LEFT_OUT),
  ]
  monkeypatch.setattr(faults, "try_part", lambda part, plan: iter(cases))
  file = tmp_path / "figures.json"
  assert faults.main(["kills", f"--json={file}"]) == 1
  out = capsys.readouterr().out
  assert "failed: b: a traceback" in out
  assert "1 of      2  kills survived" in out and "1 left out" in out
  (row,) = json.loads(file.read_text())
  assert (row["held"], row["of"]) == (1, 2)
  assert row["failed"] == [["b", "a traceback"]]
