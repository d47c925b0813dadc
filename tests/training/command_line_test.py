"""Tests of lilly.training.command_line: presets, resuming, bad invocations."""

import json
import subprocess
import sys

import pytest

from lilly import training
from tests.training import toy
from tests.training.conftest import TOY


def parse(*flags):
  return training.parse(toy.FLAGS, ["toy", *flags], "toy")


def test_user_beats_preset_beats_default():
  assert parse().num_updates == 40
  assert parse("--preset=smoke").num_updates == 8
  assert parse("--preset=smoke", "--task=big").num_updates == 4
  options = parse("--preset=smoke", "--task=big", "--num_updates=12")
  assert options.num_updates == 12 and options.log_every == 4
  assert options.flags["num_updates"] == 12


def test_parsing_twice_forgets_the_first():
  assert parse("--num_seeds=5", "--sweep=noise=1,2").num_seeds == 5
  options = parse()
  assert options.num_seeds == 1 and options.sweep == ()


def test_default_directory_is_new_under_runs():
  options = parse()
  assert options.out_dir.parts[:2] == ("runs", "toy")
  assert not options.out_dir.exists()


def test_the_command_can_be_typed_again():
  command = parse("--sweep=noise=1,2", "--num_seeds=2").command
  assert command == "scripts/run toy --sweep=noise=1,2 --num_seeds=2"


def test_flags_not_given_are_the_recorded_ones(run_toy):
  _, directory, _ = run_toy("--learning_rate=0.05", "--num_updates=8")
  options = parse(f"--out_dir={directory}")
  assert options.num_updates == 8 and options.flags["learning_rate"] == 0.05
  assert parse(f"--out_dir={directory}", "--num_updates=12").num_updates == 12


def test_help_is_quick_and_complete(tmp_path):
  """Quick, for it imports no JAX."""
  code = (
    "import runpy, sys\n"
    f"sys.argv = ['toy', '--help']\n"
    "try:\n"
    f"  runpy.run_path({str(TOY)!r}, run_name='__main__')\n"
    "except SystemExit as stopped:\n"
    "  assert stopped.code == 0, stopped.code\n"
    "assert 'jax' not in sys.modules\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith("A toy experiment")
  for name in toy.FLAGS:
    assert f"--{name} " in done.stdout


# Flags, and what the one sentence must mention.
BAD = [
  (["--no_such_flag=1"], "no_such_flag"),
  (["--num_updats=10"], "num_updates"),  # suggests the right one
  (["extra"], "'extra'"),
  (["--num_seeds=0"], "num_seeds"),
  (["--num_seeds=-3"], "num_seeds"),
  (["--num_seeds=two"], "num_seeds"),
  (["--num_seeds="], "num_seeds"),
  (["--num_seeds"], "num_seeds"),
  (["--seed=-1"], "seed"),
  (["--seed=1.5"], "seed"),
  (["--seed=4294967296"], "--seed"),
  (["--preset=huge"], "preset"),
  (["--resume=maybe"], "resume"),
  (["--seed_batching=pmap"], "seed_batching"),
  (["--num_updates=0"], "num_updates"),
  (["--num_updates=41"], "--num_updates=44"),
  (["--log_every=0"], "log_every"),
  (["--log_every=7"], "--num_updates=42"),
  (["--eval_every=-1"], "eval_every"),
  (["--eval_every=6"], "--eval_every=8"),
  (["--checkpoint_every_s=-1"], "checkpoint_every_s"),
  (["--max_checkpoint_gb=1e-9"], "--max_checkpoint_gb"),
  (["--max_bad_updates=-1"], "max_bad_updates"),
  (["--check_claims=perhaps"], "check_claims"),
  (["--data_dir=/no/such/folder"], "/no/such/folder"),
  (["--sweep=learning_rate"], "--sweep=learning_rate"),
  (["--sweep=learning_rate="], "--sweep=learning_rate="),
  (["--sweep=learning_rate=a,b"], "learning_rate=1e-4,3e-4"),
  (["--sweep=learning_rate=0.1,nan"], "--sweep"),
  (["--sweep==0.1"], "--sweep"),
  (["--sweep=momentum=0.1"], "learning_rate, noise"),
  (["--sweep=noise=1", "--sweep=noise=2"], "noise twice"),
  (["--sweep=noise=0.1,0.1"], "repeats a value"),
  (["--learning_rate=-0.1"], "learning_rate"),
  (["--learning_rate=fast"], "learning_rate"),
  (["--task=tiny"], "task"),
  (["--variants=a/b"], "'a/b'"),
  (["--eval_only", "--resume=never"], "holds no run"),
  (["--resume=must"], "holds no run"),
  (["--flagfile=/no/such/file"], "/no/such/file"),
]


@pytest.mark.parametrize(("flags", "mention"), BAD)
def test_a_bad_invocation_is_one_sentence(run_toy, flags, mention):
  status, directory, err = run_toy(*flags)
  assert status == 1
  assert err.startswith("error: ") and err.count("\n") == 1, err
  assert mention in err and "Traceback" not in err
  assert not (directory / "adam").exists() or not any(
    (directory / "adam").iterdir()
  )


@pytest.mark.parametrize(
  ("flags", "mention"),
  [
    (["--learning_rate=0.2"], "--learning_rate was 0.1, is 0.2"),
    (["--num_seeds=2", "--seed=1"], "--seed was 0, is 1"),
    (["--num_updates=4"], "may only grow"),
    (["--resume=never"], "holds a run already"),
    (["--preset=smoke"], "--preset was cpu"),
  ],
)
def test_a_run_is_not_resumed_with_other_flags(run_toy, flags, mention):
  _, directory, _ = run_toy("--num_updates=8")
  before = sorted(p.name for p in directory.rglob("*"))
  status, _, err = run_toy(*flags)
  assert status == 1 and mention in err and err.count("\n") == 1
  assert sorted(p.name for p in directory.rglob("*")) == before


def test_foreign_directories_are_left_alone(run_toy, tmp_path):
  (tmp_path / "mine").mkdir()
  (tmp_path / "mine" / "thesis.tex").write_text("x")
  status, directory, err = run_toy(out_dir="mine")
  assert status == 1 and "not a run" in err
  assert [p.name for p in directory.iterdir()] == ["thesis.tex"]
  status, _, err = run_toy(out_dir="mine/thesis.tex")
  assert status == 1 and "is a file" in err


@pytest.mark.parametrize(
  ("content", "mention"),
  [
    ("{", "damaged"),
    ("[]", "damaged"),
    (json.dumps({"experiment": "ddpg", "flags": {}}), "a run of ddpg"),
  ],
)
def test_a_config_that_does_not_fit(run_toy, tmp_path, content, mention):
  (tmp_path / "run").mkdir()
  (tmp_path / "run" / "config.json").write_text(content)
  status, _, err = run_toy()
  assert status == 1 and mention in err and err.count("\n") == 1


def test_defects_keep_their_traceback():
  def stumble(options):
    json.loads("{")  # a ValueError, but nobody's sentence

  def refuse(options):
    raise ValueError("density is 2; it must be in (0, 1].")

  with pytest.raises(ValueError, match="Expecting property name"):
    training.main(toy.FLAGS, stumble, ["toy"])
  with pytest.raises(SystemExit):
    training.main(toy.FLAGS, refuse, ["toy"])


def test_runs_of_the_same_second_have_their_own_directories(
  tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr("time.strftime", lambda _: "now")
  found = []
  for _ in range(2):
    with pytest.raises(SystemExit):
      training.main(toy.FLAGS, lambda options: found.append(options), ["toy"])
  assert [options.out_dir.name for options in found] == ["now", "now-2"]


def test_a_refused_cadence_leaves_nothing_behind(run_toy):
  _, directory, _ = run_toy("--num_updates=45")
  assert not directory.exists()
  assert run_toy("--num_updates=45", "--log_every=5", "--eval_every=5")[0] == 0


def test_interrupts_outside_the_loop_exit_130(capsys):
  def main(options):
    raise KeyboardInterrupt

  with pytest.raises(SystemExit) as stopped:
    training.main(toy.FLAGS, main, ["toy"])
  assert stopped.value.code == 130
  assert capsys.readouterr().err == "Interrupted.\n"
