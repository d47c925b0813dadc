"""Tests of experiments/feedback_alignment.py: it runs, and it says no."""

import json
import os
import pathlib
import typing

import jax
import numpy as np
import pytest

from experiments import feedback_alignment as experiment
from lilly import training
from lilly.learners import feedback_alignment
from lilly.training import claims, reproduction, settings
from tests.running import final, parse, run

SCRIPT = experiment.SCRIPT
DATA = pathlib.Path(os.environ.get("LILLY_DATA_DIR", "../shared/data"))
CLAIMS = {
  f"{name}/{claim.name}"
  for name, each in experiment.REPRODUCTIONS.items()
  for claim in each.claims
}


def test_linear_learns_and_draws(tmp_path):
  rules = "fa,node,mirror"
  rate = "--learning_rate=0.01"  # 40 examples suffice
  flags = (f"--rules={rules}", "--num_seeds=2", rate)
  assert run(experiment, tmp_path, *flags) == 0
  summary = json.loads((tmp_path / "run" / "summary.json").read_text())
  assert list(summary["variants"]) == rules.split(",")
  assert len(summary["claims"]) == len(CLAIMS)
  finals = {rule: final(tmp_path, rule) for rule in rules.split(",")}
  assert finals["fa"]["eval/nse"] < 0.9 and finals["mirror"]["eval/nse"] < 0.9
  # The mirror moves its feedback, towards the weights; alignment's is fixed.
  for measured in ("norm_ratio_1", "matrix_angle_1"):
    name = f"eval/{measured}"
    assert finals["mirror"][name] != finals["fa"][name]
  for picture in ("curves.png", "angles.png"):
    assert (tmp_path / "run" / picture).stat().st_size > 5000
  # What another program needs to go on: the weights and the feedback.
  with np.load(tmp_path / "run" / "fa" / "params.npz") as exported:
    shapes = sorted(value.shape for value in exported.values())
  assert shapes == [(2, 10, 20), (2, 20, 10), (2, 30, 20)]


def test_digits_and_two_networks_and_a_sweep(tmp_path):
  status = run(
    experiment,
    tmp_path,
    "--task=digits",
    "--rules=fa_sparse",
    "--hidden=16,8x8",
    "--sweep=omega=0.1,0.2",
  )
  assert status == 0
  summary = json.loads((tmp_path / "run" / "summary.json").read_text())
  assert list(summary["variants"]) == ["fa_sparse-16", "fa_sparse-8x8"]
  points = summary["variants"]["fa_sparse-8x8"]["points"]
  assert [p["point"]["omega"] for p in points] == [0.1, 0.2]
  assert 0 <= points[0]["final"]["eval/error"]["median"] <= 100
  assert (tmp_path / "run" / "omega.png").exists()


@pytest.mark.skipif(
  not (DATA / "mnist").is_dir(),
  reason="needs MNIST's original files: set LILLY_DATA_DIR",
)
def test_mnist_runs(tmp_path):
  flags = ("--task=mnist", f"--data_dir={DATA}", "--rules=fa", "--validation")
  assert run(experiment, tmp_path, *flags) == 0


@pytest.mark.parametrize(
  ("flags", "mention"),
  [
    (["--rules=bp,backprop"], "kp, mirror"),
    (["--rules="], "--rules="),
    (["--rules=fa,fa"], "names something twice"),
    (["--task=cifar10"], "task"),
    (["--hidden=20x"], "--hidden=20x"),
    (["--hidden=0"], "--hidden=0"),
    (["--hidden=20,x"], "--hidden=x"),
    (["--hidden="], "hidden"),
    (["--sweep=omega=-0.1,0.1"], "omega=-0.1"),
    (["--sweep=noise_std=0,0.1"], "noise_std=0"),
    (["--hidden=-4"], "--hidden=-4"),
    (["--batch_size=0"], "batch_size"),
    (["--omega=-1"], "omega"),
    (["--beta=nan"], "beta"),
    (["--learning_rate="], "learning_rate"),
    (["--noise_std=0"], "noise_std"),
    (["--sweep=width=3"], "learning_rate"),
    (["--task=mnist", "--data_dir=tests"], "tests"),
  ],
)
def test_bad_flags_are_one_sentence(tmp_path, capsys, flags, mention):
  assert run(experiment, tmp_path, *flags) == 1
  err = capsys.readouterr().err
  assert err.startswith("error: ") and err.count("\n") == 1, err
  assert mention in err


def test_the_rules_are_those_of_the_learner():
  annotation = typing.get_type_hints(experiment.Settings)["rules"]
  (rules, _) = typing.get_args(annotation)
  assert set(typing.get_args(rules)) == set(feedback_alignment.RULES)


def hyper(rule, *flags):
  return experiment.make_hyper(parse(experiment, *flags)[0], rule)


def test_hyper_parameters_are_the_users_else_the_rules_own_on_the_task():
  tuned = ("learning_rate", "hidden_rate", "omega", "beta")
  for task, rule, numbers in (
    ("linear", "fa", (1e-3, 1.0, 0.01, 0.5)),
    ("linear", "node", (2e-3, 1.0, 0.01, 0.5)),
    ("nonlinear", "node", (1e-3, 1.0, 0.01, 1.0)),
    ("digits", "bp", (0.5, 1.0, 0.1, 0.5)),
    ("mnist", "bp", (0.1, 600.0, 0.05, 0.5)),
    ("fashion_mnist", "kp", (0.2, 150.0, 0.1, 0.5)),
  ):
    for preset in ("smoke", "cpu", "gpu"):
      found = hyper(rule, f"--preset={preset}", f"--task={task}")
      assert tuple(found[name] for name in tuned) == numbers, (task, rule)
      assert found["weight_decay"] == 0 and found["noise_std"] == 0.01
  found = hyper("node", "--omega=0", "--learning_rate=0.3")
  assert found["omega"] == 0 and found["learning_rate"] == 0.3
  assert found["hidden_rate"] == 1.0


def test_the_published_rate_is_one_for_all_layers_and_rules():
  for task in ("linear", "nonlinear", "mnist"):
    for rule in ("bp", "node"):
      found = hyper(rule, "--preset=paper", f"--task={task}")
      assert found["learning_rate"] == 1e-3 and found["hidden_rate"] == 1
      assert found["weight_decay"] == (1e-6 if task == "mnist" else 0)


def test_every_task_has_a_model_of_its_own():
  x = np.linspace(-1, 1, 5, dtype=np.float32)
  for task, hidden, output, with_bias in (
    ("linear", x, x, False),
    ("nonlinear", np.tanh(x), x, True),
    ("digits", jax.nn.sigmoid(x), jax.nn.sigmoid(x), True),
  ):
    own = parse(experiment, f"--task={task}")[0]
    model = experiment.make_model(own, "dfa", [4, 3])
    assert model.rule == "dfa" and model.sizes == [4, 3]
    np.testing.assert_allclose(model.activation(x), hidden, rtol=1e-5)
    np.testing.assert_allclose(model.output(x), output, rtol=1e-5)
    assert model.with_bias == with_bias


def fabricate(options, variants, value, seeds=8):
  """Results in which every metric of every run ends at one value."""
  grid = {} if not options.sweep else dict(options.sweep)
  points = [{}]
  for name, numbers in grid.items():
    points = [{**point, name: x} for point in points for x in numbers]
  runs = tuple({"seed": s, **p} for p in points for s in range(seeds))
  steps = np.array([0, 500, 2000])
  metrics = ("nse", "error", "angle_bp_1", "angle_pbp_1")
  values = np.full((len(runs), 3), value)
  of_one = {f"eval/{name}": (steps, values) for name in metrics}
  return training.Results(
    {"variants": {v: {"failed": []} for v in variants}},
    {},
    dict.fromkeys(variants, of_one),
    dict.fromkeys(variants, runs),
    options,
  )


def verdicts(flags, variants=None, value=0.1, seeds=8):
  own, options = parse(experiment, *flags)
  if variants is None:
    one = len(own.hidden) == 1
    variants = [r if one else f"{r}-{h}" for h in own.hidden for r in own.rules]
  results = fabricate(options, variants, value, seeds)
  rows = claims.judge(reproduction.state(SCRIPT, options.flags), results)
  return {row["name"]: row for row in rows}


def test_every_claim_is_judged_by_its_own_reproduction_alone():
  for preset in ("cpu", "gpu"):
    for name, each in experiment.REPRODUCTIONS.items():
      rows = verdicts([f"--preset={preset}", *each.command])
      judged = {n for n, r in rows.items() if r["verdict"] != "not applicable"}
      assert judged == {f"{name}/{claim.name}" for claim in each.claims}


def test_claims_are_silent_on_other_settings_and_rules():
  for flags, variants in (
    (["--learning_rate=1e-4"], None),
    (["--hidden=30"], None),
    (["--num_updates=50"], None),
    (["--rules=pbp"], None),
    (["--beta=0.4"], None),
    (["--weight_decay=1e-6"], None),
    (["--preset=paper"], None),
    (["--sweep=omega=0.01,0.1,0.25", "--rules=fa"], None),
    (["--task=digits", "--batch_size=5"], None),
    (["--task=digits", "--validation"], None),
    # One of gpu's values in cpu's row.
    (["--task=mnist", "--num_updates=37520"], None),
  ):
    for row in verdicts(flags, variants).values():
      assert row["verdict"] == "not applicable", (flags, row)


def test_seeds_that_diverged_are_no_evidence():
  for each in experiment.REPRODUCTIONS.values():
    for row in verdicts(each.command, value=np.nan).values():
      assert row["verdict"] == "not applicable", row


def test_what_is_tuned_is_allowed():
  parsers = settings.parsers(experiment.Settings)
  for rules in experiment.TUNED.values():
    assert "others" in rules and set(rules) - {"others"} <= {"bp", "node"}
    for numbers in rules.values():
      assert {n: parsers[n].parse(x) for n, x in numbers.items()} == numbers
