"""Tests of experiments/feedback_alignment.py: it runs, and it says no."""

import json
import os
import pathlib

import pytest

from experiments import feedback_alignment
from lilly import training

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


def test_linear_runs_and_draws(tmp_path):
  rules = "fa,node,mirror"
  assert run(tmp_path, f"--rules={rules}", "--num_seeds=2") == 0
  summary = json.loads((tmp_path / "run" / "summary.json").read_text())
  assert list(summary["variants"]) == rules.split(",")
  for variant, row in summary["variants"].items():
    final = row["points"][0]["final"]
    assert 0 < final["eval/nse"]["median"] < 1.01, variant
    assert row["failed"] == [] and row["updates"] == 40
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
    (["--rules=bp,backprop"], "fa_sparse, dfa"),
    (["--rules="], "--rules="),
    (["--task=cifar10"], "task"),
    (["--hidden=20x"], "--hidden=20x"),
    (["--hidden=0"], "--hidden=0"),
    (["--hidden=-4"], "--hidden=-4"),
    (["--batch_size=0"], "batch_size"),
    (["--omega=-1"], "omega"),
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
      assert options.num_updates % options.log_every == 0
      assert options.eval_every % options.log_every == 0
  for flags in feedback_alignment.REPRODUCE.values():
    training.parse(feedback_alignment.FLAGS, ["x", *flags], "x")


def test_claims_have_names_of_their_own():
  names = [claim.name for claim in feedback_alignment.CLAIMS]
  assert len(set(names)) == len(names) >= 20
