"""Tests of experiments/feedback_alignment.py: it runs, and it says no."""

import json
import os
import pathlib

import numpy as np
import pytest

from experiments import feedback_alignment
from lilly import training
from lilly.training import claims

DATA = pathlib.Path(os.environ.get("LILLY_DATA_DIR", "../shared/data"))


def run(tmp_path, *flags):
  argv = ["feedback_alignment", "--preset=smoke", *flags]
  with pytest.raises(SystemExit) as stopped:
    training.main(
      feedback_alignment.FLAGS,
      feedback_alignment.main,
      [*argv, f"--out_dir={tmp_path / 'run'}"],
    )
  return stopped.value.code


def test_linear_learns_and_draws(tmp_path):
  rules = "fa,node,mirror"
  rate = "--learning_rate=0.01"  # 40 examples suffice
  assert run(tmp_path, f"--rules={rules}", "--num_seeds=2", rate) == 0
  summary = json.loads((tmp_path / "run" / "summary.json").read_text())
  assert list(summary["variants"]) == rules.split(",")
  finals = {
    variant: {k: v["median"] for k, v in row["points"][0]["final"].items()}
    for variant, row in summary["variants"].items()
  }
  assert finals["fa"]["eval/nse"] < 0.9 and finals["mirror"]["eval/nse"] < 0.9
  # The mirror moves its feedback, towards the weights; alignment's is fixed.
  for measured in ("norm_ratio_1", "matrix_angle_1"):
    name = f"eval/{measured}"
    assert finals["mirror"][name] != finals["fa"][name]
  assert all(row["failed"] == [] for row in summary["variants"].values())
  assert len(summary["claims"]) == len(feedback_alignment.CLAIMS)
  for picture in ("curves.png", "angles.png"):
    assert (tmp_path / "run" / picture).stat().st_size > 5000


def test_digits_and_two_networks_and_a_sweep(tmp_path):
  status = run(
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
  assert run(tmp_path, *flags) == 0


@pytest.mark.parametrize(
  ("flags", "mention"),
  [
    (["--rules=bp,backprop"], "kp, mirror"),
    (["--rules="], "--rules="),
    (["--task=cifar10"], "task"),
    (["--hidden=20x"], "--hidden=20x"),
    (["--hidden=0"], "--hidden=0"),
    (["--hidden="], "--hidden is empty"),
    (["--sweep=omega=-0.1,0.1"], "omega=-0.1"),
    (["--hidden=-4"], "--hidden=-4"),
    (["--batch_size=0"], "batch_size"),
    (["--omega=-1"], "omega"),
    (["--noise_std=0"], "noise_std"),
    (["--sweep=width=3"], "learning_rate"),
    (["--task=mnist", "--data_dir=tests"], "tests"),
  ],
)
def test_bad_flags_are_one_sentence(tmp_path, capsys, flags, mention):
  assert run(tmp_path, *flags) == 1
  err = capsys.readouterr().err
  assert err.startswith("error: ") and err.count("\n") == 1, err
  assert mention in err


def test_every_preset_and_reproduction_parses():
  for preset in feedback_alignment.PRESETS:
    for task in feedback_alignment.TUNED:
      options = training.parse(
        feedback_alignment.FLAGS,
        ["x", f"--preset={preset}", f"--task={task}"],
        "feedback_alignment",
      )
      assert options.num_updates > 1
      assert options.num_updates % options.log_every == 0
      assert options.eval_every % options.log_every == 0
  for flags in feedback_alignment.REPRODUCE.values():
    training.parse(feedback_alignment.FLAGS, ["x", *flags], "x")


def test_claims_have_names_of_their_own():
  names = [claim.name for claim in feedback_alignment.CLAIMS]
  assert len(set(names)) == len(names) >= 20


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
  options = training.parse(feedback_alignment.FLAGS, ["x", *flags], "x")
  if variants is None:
    hidden, rules = options.flags["hidden"], options.flags["rules"]
    one = len(hidden) == 1
    variants = [r if one else f"{r}-{h}" for h in hidden for r in rules]
  results = fabricate(options, variants, value, seeds)
  rows = claims.judge(feedback_alignment.CLAIMS, results)
  return {row["name"]: row for row in rows}


def test_every_claim_is_judged_by_a_reproduction_of_its_preset():
  judged = set()
  for preset in ("cpu", "gpu"):
    for flags in feedback_alignment.REPRODUCE.values():
      rows = verdicts([f"--preset={preset}", *flags])
      judged |= {n for n, r in rows.items() if r["verdict"] != "not applicable"}
  assert judged == {claim.name for claim in feedback_alignment.CLAIMS}


def test_claims_are_silent_on_other_settings_and_rules():
  for flags, variants in (
    (["--learning_rate=1e-4"], None),
    (["--hidden=30"], None),
    (["--num_updates=50"], None),
    (["--rules=pbp"], None),
    (["--task=digits", "--batch_size=5"], None),
  ):
    for row in verdicts(flags, variants).values():
      assert row["verdict"] == "not applicable", (flags, row)


def test_seeds_that_diverged_are_no_evidence():
  for flags in feedback_alignment.REPRODUCE.values():
    for row in verdicts(flags, value=np.nan).values():
      assert row["verdict"] == "not applicable", row
