"""Tests of lilly.training.command_line: presets, resuming, bad invocations."""

import errno
import importlib.metadata
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading

import jax
import pytest

from lilly import training
from lilly.training import messages, script
from tests.training import toy
from tests.training.conftest import TOY


def parse(*flags):
  return training.parse(toy.SCRIPT, ["toy", *flags])[1]


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
  for name in (*toy.Settings._fields, *script.Common._fields, "preset"):
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


@pytest.mark.parametrize("flag", ["--eval_only", "--resume=must"])
@pytest.mark.parametrize(
  ("folder", "mention"),
  [
    ("nowhere", "holds no run"),
    ("empty", "holds no run"),
    ("foreign", "holds no run"),
    ("other", "holds a run of ddpg"),
    ("file", "is a file"),
    ("file/below", "holds no run"),
    ("x" * 300, "File name too long"),
    ("x/" * 3000, "File name too long"),
  ],
)
@pytest.mark.parametrize("more", [[], ["--check_claims"]])
def test_a_folder_without_a_run_is_one_sentence(
  run_toy, tmp_path, flag, folder, mention, more
):
  for name in ("empty", "foreign", "other"):
    (tmp_path / name).mkdir()
  (tmp_path / "file").touch()
  (tmp_path / "foreign" / "thesis.tex").touch()
  other = {"experiment": "ddpg", "flags": {}}
  (tmp_path / "other" / "config.json").write_text(json.dumps(other))
  before = sorted(tmp_path.rglob("*"))
  status, _, err = run_toy(flag, *more, out_dir=folder)
  assert status == 1 and mention in err and len(err) < 1000
  assert err.startswith("error: ") and err.count("\n") == 1
  assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("flag", ["--eval_only", "--resume=must"])
def test_what_needs_a_run_asks_for_its_folder(capsys, flag):
  with pytest.raises(SystemExit) as stopped:
    training.main(toy.SCRIPT, argv=["toy", flag])
  assert stopped.value.code == 1
  assert f"{flag} needs --out_dir" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["num_seeds", "seed", "task", "poison"])
def test_a_sweep_of_what_is_no_float_is_one_sentence(run_toy, name):
  status, _, err = run_toy(f"--sweep={name}=1,2.5")
  assert status == 1 and err.count("\n") == 1
  assert f"--sweep names {name}, which is not a hyper-parameter here" in err
  assert "these are: learning_rate, noise" in err


@pytest.mark.parametrize(
  ("flags", "mention"),
  [
    (["--learning_rate=0.2"], "--learning_rate was 0.1, is 0.2"),
    (["--num_seeds=2", "--seed=1"], "--seed was 0, is 1"),
    (["--num_updates=4"], "may only increase"),
    (["--resume=never"], "already holds a run"),
    (["--preset=smoke"], "--preset was cpu"),
  ],
)
def test_a_run_is_not_resumed_with_other_flags(run_toy, flags, mention):
  _, directory, _ = run_toy("--num_updates=8")
  before = sorted(p.name for p in directory.rglob("*"))
  status, _, err = run_toy(*flags)
  assert status == 1 and mention in err and err.count("\n") == 1
  assert sorted(p.name for p in directory.rglob("*")) == before


@pytest.mark.skipif(
  importlib.metadata.version("optax") != "0.2.8",
  reason="the stored run holds the optimiser's state of optax 0.2.8",
)
def test_a_run_of_an_older_version_is_resumed(run_toy, tmp_path):
  """Its record lacks flags that are newer and has some that are gone."""
  stored = pathlib.Path(__file__).parent / "stored_run"
  shutil.copytree(stored, tmp_path / "run")
  config = tmp_path / "run" / "config.json"
  record = json.loads(config.read_text())
  del record["flags"]["noise"], record["flags"]["max_bad_updates"]
  record["flags"]["verbosity"] = 3
  config.write_text(json.dumps(record))
  before = (stored / "adam" / "metrics.jsonl").read_text()
  status, directory, err = run_toy("--num_updates=16")
  assert status == 0, err
  assert (directory / "adam" / "metrics.jsonl").read_text().startswith(before)
  now = json.loads(config.read_text())["flags"]
  assert now["learning_rate"] == 0.05 and now["noise"] == 0.1
  status, _, err = run_toy("--learning_rate=0.1")
  assert status == 1 and "--learning_rate was 0.05, is 0.1" in err


def test_a_setting_that_a_record_lacks_has_the_recorded_presets_value(run_toy):
  _, directory, _ = run_toy("--preset=smoke")
  config = directory / "config.json"
  record = json.loads(config.read_text())
  del record["flags"]["log_every"], record["flags"]["noise"]
  config.write_text(json.dumps(record))
  newer = toy.SCRIPT._replace(
    presets=toy.PRESETS | {"smoke": {"log_every": 2, "noise": 0.3}}
  )
  settings, options = training.parse(newer, ["toy", f"--out_dir={directory}"])
  assert settings.noise == 0.3 and options.log_every == 2
  assert options.num_updates == 8


@pytest.mark.parametrize("value", ["tiny", 3, None])
def test_a_recorded_value_that_is_not_allowed_is_one_sentence(run_toy, value):
  _, directory, _ = run_toy("--num_updates=8")
  config = directory / "config.json"
  record = json.loads(config.read_text())
  record["flags"]["task"] = value
  config.write_text(json.dumps(record))
  status, _, err = run_toy()
  assert status == 1 and "must be one of small, big" in err
  assert err.count("\n") == 1


def test_help_shows_the_values_in_force_and_what_presets_set(capsys):
  flags = ["--help", "--preset=smoke", "--task=big", "--noise=0.25"]
  with pytest.raises(SystemExit) as stopped:
    training.main(toy.SCRIPT, argv=["toy", *flags])
  assert stopped.value.code == 0
  out = capsys.readouterr().out
  assert "--num_updates  (integer) [4]" in out
  assert "--noise  (number) [0.25]" in out
  assert "--preset=cpu: num_updates=40 log_every=4 eval_every=8" in out
  assert "with --task=big: num_updates=4" in out


def test_settings_that_do_not_fit_each_other_are_refused_when_parsed(capsys):
  def check(settings):
    if settings.noise > settings.learning_rate:
      raise training.RunError("--noise is above --learning_rate; lower it.")

  with pytest.raises(SystemExit) as stopped:
    training.main(toy.SCRIPT._replace(check=check), argv=["toy", "--noise=0.2"])
  assert stopped.value.code == 1
  assert "lower it" in capsys.readouterr().err


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
    ("", "damaged"),
    ("[]", "damaged"),
    ("null", "damaged"),
    ("[" * 100_000, "damaged"),
    ('{"flags":' * 100_000, "damaged"),
    ('{"num_seeds": ' + "1" * 5000, "damaged"),
    ("\xff", "damaged"),
    (json.dumps({"experiment": "toy"}), "damaged"),
    (json.dumps({"experiment": "toy", "flags": []}), "flags is not a dict"),
    (json.dumps({"experiment": "toy", "flags": [["a", 1]]}), "flags is not"),
    (json.dumps({"experiment": "toy", "flags": None}), "flags is not a dict"),
    (json.dumps({"experiment": "toy", "flags": "no"}), "flags is not a dict"),
    (json.dumps({"experiment": ["toy"], "flags": {}}), "experiment is not"),
    (
      json.dumps({"experiment": "toy", "flags": {}, "command": 5}),
      "command is not a str",
    ),
    (
      json.dumps({"experiment": "toy", "flags": {}, "resumed_on": None}),
      "resumed_on is not a list",
    ),
    (json.dumps({"experiment": "ddpg", "flags": {}}), "a run of ddpg"),
  ],
)
def test_a_config_that_does_not_fit(run_toy, tmp_path, content, mention):
  (tmp_path / "run").mkdir()
  config = tmp_path / "run" / "config.json"
  config.write_text(content, encoding="latin-1")
  status, _, err = run_toy()
  assert status == 1 and mention in err and err.count("\n") == 1
  assert str(config.parent) in err


def test_a_config_that_is_no_readable_file(run_toy, tmp_path, monkeypatch):
  config = tmp_path / "run" / "config.json"
  config.mkdir(parents=True)
  status, _, err = run_toy()
  assert status == 1 and err == (
    f"error: {config} is not a file; give another --out_dir.\n"
  )
  config.rmdir()
  os.mkfifo(config)  # nobody writes into it
  status, _, err = run_toy()
  assert status == 1 and "is not a file" in err
  config.unlink()
  config.write_text("{}")

  def refuse(*args, **kwargs):  # root may read what nobody may
    raise PermissionError(errno.EACCES, "Permission denied", str(config))

  monkeypatch.setattr(pathlib.Path, "read_text", refuse)
  status, _, err = run_toy()
  assert status == 1 and err == (
    f"error: {config} cannot be read (Permission denied); give another "
    "--out_dir.\n"
  )
  monkeypatch.setattr(pathlib.Path, "exists", refuse)
  status, directory, err = run_toy()
  assert status == 1 and err == (
    f"error: --out_dir={directory} cannot be used: Permission denied; give "
    "another one.\n"
  )


def test_an_error_is_one_line_of_a_length_that_is_read():
  error = training.RunError("a\nb \x1b[2J " + "x" * 10**6 + " must\tbe less.")
  sentence = messages.as_sentence(error)
  assert sentence.startswith(r"a b \x1b[2J xxx")
  assert sentence.endswith("xxx must be less.") and len(sentence) < 300
  error = training.RunError("not " * 10**5)
  assert len(messages.as_sentence(error)) <= 2000
  error = FileNotFoundError(2, "No such file", "some/file")
  assert messages.as_sentence(error) == "No such file: some/file"
  assert messages.as_sentence(OSError(28, "Full")) == "Full"


def test_paths_are_recorded_and_shown_as_they_are_used(
  tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  argv = ["toy", "--num_updates=4", "--eval_every=4", "--out_dir=~/runs/a"]
  with pytest.raises(SystemExit) as stopped:
    training.main(toy.SCRIPT, argv)
  assert not stopped.value.code
  run = tmp_path / "home" / "runs" / "a"
  assert f"Files: {run}" in capsys.readouterr().out
  config = json.loads((run / "config.json").read_text())
  assert config["flags"]["out_dir"] == str(run)
  assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize("flag", ["out_dir", "data_dir"])
@pytest.mark.parametrize(
  ("path", "mention"),
  [
    ("gs://bucket/run", "only local directories"),
    ("file:///tmp/x", "only local directories"),
    ("~no_such_user/x", "no user of that name has a home directory"),
    ("", "must not be empty"),
  ],
)
def test_a_path_that_cannot_be_used_is_one_sentence(
  tmp_path, monkeypatch, capsys, flag, path, mention
):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(SystemExit) as stopped:
    training.main(toy.SCRIPT, argv=["toy", f"--{flag}={path}"])
  err = capsys.readouterr().err
  assert stopped.value.code == 1 and mention in err and err.count("\n") == 1
  assert f"--{flag}={path}" in err
  assert not list(tmp_path.iterdir())


def test_a_binary_flagfile_is_one_sentence(run_toy, tmp_path):
  (tmp_path / "flags").write_bytes(b"\xff\0")
  for path, mention in (
    (tmp_path / "flags", "is not text"),
    (tmp_path, "Is a"),
  ):
    status, _, err = run_toy(f"--flagfile={path}")
    assert status == 1 and mention in err and err.count("\n") == 1


@pytest.mark.parametrize(
  ("target", "status"), [("| head -n 2", 0), ("> /dev/full", 1)]
)
def test_help_for_a_reader_that_leaves(tmp_path, target, status):
  command = f'"$0" "$1" --help {target}; exit ${{PIPESTATUS[0]}}'
  done = subprocess.run(
    ["bash", "-c", command, sys.executable, str(TOY)],
    capture_output=True,
    text=True,
    cwd=tmp_path,
  )
  assert done.returncode == status, done.stderr
  wanted = "" if status == 0 else "error: No space left on device\n"
  assert done.stderr == wanted


def test_names_that_no_terminal_shows_are_escaped(tmp_path):
  """A path of bytes that are not UTF-8, on a terminal of ASCII."""
  done = subprocess.run(
    [sys.executable, str(TOY), b"--out_dir=\xc3\xbc\xff", "--num_updates=8"],
    capture_output=True,
    cwd=tmp_path,
    env=os.environ | {"PYTHONIOENCODING": "ascii"},
  )
  assert done.returncode == 0, done.stderr
  assert rb"Files: \xfc\udcff" in done.stdout
  assert (os.fsencode(tmp_path) + b"/\xc3\xbc\xff/summary.json") in [
    os.fsencode(path) for path in tmp_path.rglob("*.json")
  ]


def test_a_script_runs_in_another_thread(tmp_path, capsys):
  numbers = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
  before, ends = [signal.getsignal(number) for number in numbers], []

  def work():
    argv = ["toy", "--preset=smoke", f"--out_dir={tmp_path}/run"]
    with pytest.raises(SystemExit) as stopped:
      training.main(toy.SCRIPT, argv)
    ends.append(stopped.value.code)

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert ends == [0] and "Traceback" not in capsys.readouterr().err
  assert (tmp_path / "run" / "summary.json").exists()
  work()  # and the main thread gets its handlers back
  assert ends == [0, 0]
  assert [signal.getsignal(number) for number in numbers] == before


@pytest.mark.parametrize(
  ("variable", "value", "mention"),
  [
    ("JAX_PLATFORMS", "abacus", "it can start cpu; leave JAX_PLATFORMS out"),
    ("JAX_PLATFORMS", "cuda", "JAX_PLATFORMS=cuda: JAX cannot start it here"),
    ("JAX_NUM_CPU_DEVICES", "two", "must be a positive whole number"),
    ("JAX_NUM_CPU_DEVICES", "0", "must be a positive whole number"),
  ],
)
def test_devices_that_are_absent_are_one_sentence(
  tmp_path, variable, value, mention
):
  if value == "cuda" and jax.default_backend() == "gpu":
    pytest.skip("there is a GPU")
  done = subprocess.run(
    # A poisoned seed makes an array before there is a program.
    [sys.executable, str(TOY), "--out_dir=run", "--poison=1"],
    capture_output=True,
    text=True,
    cwd=tmp_path,
    env=os.environ | {variable: value},
  )
  assert done.returncode == 1
  assert done.stderr.startswith("error: ") and mention in done.stderr
  assert done.stderr.count("\n") == 1 and value in done.stderr
  assert not list(tmp_path.iterdir())


def test_an_update_can_be_debugged_with_values(tmp_path):
  """The documented way: JAX_DISABLE_JIT=1, and print inside of update."""
  code = (
    "import jax\n"
    "from tests.training import toy\n"
    "from lilly import training\n"
    "def make(settings, options):\n"
    "  (name, one), = toy.make_experiments(settings, options).items()\n"
    "  def update(state, data):\n"
    "    print('step', int(state.step))\n"
    "    return one.update(state, data)\n"
    "  return {name: one._replace(update=update)}\n"
    "script = toy.SCRIPT._replace(make_experiments=make)\n"
    "training.main(script, ['toy', '--out_dir=run', '--preset=smoke',\n"
    "  '--num_seeds=2'])\n"
  )
  root = pathlib.Path(toy.__file__).parents[2]
  path = os.pathsep.join([str(root), os.environ["PYTHONPATH"]])
  done = subprocess.run(
    [sys.executable, "-c", code],
    capture_output=True,
    text=True,
    cwd=tmp_path,
    env=os.environ | {"JAX_DISABLE_JIT": "1", "PYTHONPATH": path},
  )
  assert done.returncode == 0, done.stderr
  steps = [line for line in done.stdout.splitlines() if "step" in line]
  assert steps == [f"step {i}" for i in (*range(4),) * 2 + (*range(4, 8),) * 2]
  assert (tmp_path / "run" / "summary.json").exists()


def test_defects_keep_their_traceback():
  def stumble(settings, options):
    json.loads("{")  # a ValueError, but nobody's sentence

  def refuse(settings, options):
    raise ValueError("density is 2; it must be in (0, 1].")

  with pytest.raises(ValueError, match="Expecting property name"):
    training.main(toy.SCRIPT._replace(make_experiments=stumble), argv=["toy"])
  with pytest.raises(SystemExit):
    training.main(toy.SCRIPT._replace(make_experiments=refuse), argv=["toy"])


def test_runs_of_the_same_second_have_their_own_directories(
  tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr("time.strftime", lambda _: "now")
  found = []

  def make(settings, options):
    found.append(options)
    raise training.RunError("enough.")

  def make_meanwhile(settings, options):
    training.main(toy.SCRIPT._replace(make_experiments=make), argv=["toy"])

  for _ in range(2):
    with pytest.raises(SystemExit):
      script_of = toy.SCRIPT._replace(make_experiments=make_meanwhile)
      training.main(script_of, argv=["toy"])
  assert [options.out_dir.name for options in found] == ["now-2", "now-2"]
  assert not list(tmp_path.iterdir())  # for nothing was written


def test_a_refused_sweep_leaves_no_default_directory(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "runs").mkdir()
  (tmp_path / "runs" / "other").touch()
  with pytest.raises(SystemExit) as stopped:
    training.main(toy.SCRIPT, argv=["toy", "--sweep=seed=1,2"])
  assert stopped.value.code == 1
  assert [path.name for path in tmp_path.rglob("*")] == ["runs", "other"]


def test_a_refused_cadence_leaves_nothing_behind(run_toy):
  _, directory, _ = run_toy("--num_updates=45")
  assert not directory.exists()
  assert run_toy("--num_updates=45", "--log_every=5", "--eval_every=5")[0] == 0


def test_interrupts_outside_the_loop_exit_130(capsys):
  def interrupted(settings, options):
    raise KeyboardInterrupt

  with pytest.raises(SystemExit) as stopped:
    script_of = toy.SCRIPT._replace(make_experiments=interrupted)
    training.main(script_of, argv=["toy"])
  assert stopped.value.code == 130
  assert capsys.readouterr().err == "Interrupted.\n"
