"""What the scripts do once the (fake) environment stands."""

import json
import pathlib
import re
import signal
import subprocess

import pytest

_ROOT = pathlib.Path(__file__).parents[2]
_STAGES = (
  *("environment", "wheel", "library tests, against the wheel", "doctests"),
  *("tests/scripts", "ruff format", "ruff check", "pyright"),
)


@pytest.mark.parametrize("flags", [(), ("--help",), ("-h",)])
def test_run_lists_the_experiments_without_an_environment(checkout, flags):
  checkout.write("experiments/bare.py", "import no_such_module\n")
  checkout.write("experiments/split.py", 'r"""\nBelow the quotes.\n"""\n')
  result = checkout.call("run", *flags)
  checkout.assert_works(result)
  listed = result.stdout.split("\n\n")[-1].splitlines()
  assert [line.split(maxsplit=1) for line in listed] == [
    ["bare"],
    ["ddpg", "Deep deterministic policy gradient."],
    ["dynamic_kanerva_machine", "The dynamic Kanerva machine."],
    ["kanerva_machine", "The Kanerva machine."],
    ["split", "Below the quotes."],
  ]
  assert not checkout.venv.exists()
  assert not checkout.notes.exists()


@pytest.mark.parametrize(
  ("name", "words"),
  [
    ("dpgd", ["did you mean ddpg?"]),
    ("ddpg.py", ["did you mean ddpg?"]),
    ("experiments/ddpg", ["did you mean ddpg?"]),
    ("Kanerva-Machine", ["did you mean kanerva_machine?"]),
    ("kanerva", ["dynamic_kanerva_machine or kanerva_machine?"]),
    ("bloom_filter", ["scripts/run lists them"]),
    ("__init__", ["scripts/run lists them"]),
    ("../setup", ["scripts/run lists them"]),
    ("a name; touch x", ["scripts/run lists them"]),
    ("--preset=cpu", ["before the flags"]),
  ],
)
def test_run_refuses_an_unknown_name(checkout, name, words):
  result = checkout.call("run", name)
  checkout.assert_one_sentence(result, *words)
  assert ("did you mean" in result.stderr) == ("?" in words[0])
  assert not checkout.venv.exists()


def test_run_passes_flags_and_stays_in_the_folder_of_the_caller(
  checkout, tmp_path
):
  here = tmp_path / "some where"
  (here / "experiments").mkdir(parents=True)
  for name in ("__init__.py", "ddpg.py"):
    (here / "experiments" / name).write_text("raise SystemExit(9)\n")
  link = tmp_path / "link"
  link.symlink_to(checkout.root / "scripts" / "run")
  flags = ["--out_dir=a b", "", "--x=$HOME"]
  checkout.call("run", "ddpg")
  done = subprocess.run(
    [link, "ddpg", *flags],
    cwd=here,
    env=checkout.environment | {"CDPATH": "/", "PYTHONPATH": str(here)},
    capture_output=True,
    text=True,
    check=True,
  )
  assert json.loads(done.stdout) == [
    flags,
    str(here),
    str(checkout.root / "experiments" / "ddpg.py"),
  ]


@pytest.mark.parametrize("code", [0, 1, 3, 4, 129, 130, 143])
def test_run_passes_the_exit_code(checkout, code):
  readme = (_ROOT / "README.md").read_text()
  assert re.search(rf"^- [\d, ]*\b{code}\b.*: ", readme, re.MULTILINE)
  result = checkout.call("run", "ddpg", EXIT_CODE=str(code))
  assert result.returncode == code


@pytest.mark.parametrize(
  "number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
)
def test_run_becomes_the_experiment_so_signals_reach_it(checkout, number):
  checkout.call("run", "ddpg")
  with checkout.start("run", "ddpg", "--wait") as process:
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    process.communicate(timeout=10)
  assert process.returncode == 40 + number


def test_reproduce_runs_the_report(checkout, tmp_path):
  checkout.write(
    "scripts/report.py", "import sys, os; print(sys.argv, os.getcwd())"
  )
  result = checkout.call("reproduce", "--preset=cpu", "ddpg", cwd=tmp_path)
  checkout.assert_works(result)
  assert result.stdout.endswith(f"'--preset=cpu', 'ddpg'] {tmp_path}\n")


def test_bench_prints_one_json_object_and_survives_a_failure(checkout):
  (checkout.root / "lilly").symlink_to(_ROOT / "lilly")
  # Stands in for JAX, which takes seconds to import.
  checkout.write(
    "jax.py",
    "class D:\n  device_kind = 'abacus'\ndef devices():\n  return [D, D]\n"
    "class config:\n  jax_platforms = None\n",
  )
  checkout.write(
    "scripts/benchmarks/speed.py",
    "import numpy\nfrom benchmarks import timing\nprint('chatter')\n"
    "def measure(): return {'ratio': numpy.float32(0.5), 'steps': [1]}\n",
  )
  checkout.write("scripts/benchmarks/wrong.py", "def measure(): return 1 / 0\n")
  result = checkout.call("bench", "speed", "--json", "figures.json")
  assert result.returncode == 0
  assert "chatter" in result.stderr
  report = json.loads(result.stdout)
  assert report["figures"] == {"speed": {"ratio": 0.5, "steps": [1]}}
  assert report["machine"]["device"] == "2 x abacus"
  assert set(report["machine"]) == {
    *("cpus", "platform", "python", "jax", "device"),
  }
  assert json.loads((checkout.root / "figures.json").read_text()) == report

  checkout.write("scripts/benchmarks/speed.py", "def measure(): return {}\n")
  for path in (checkout.root / "scripts/benchmarks").glob("[a-z]*.py"):
    if path.stem not in ("speed", "timing", "wrong"):  # the checkout's own
      path.unlink()
  result = checkout.call("bench")
  assert result.returncode == 1
  figures = json.loads(result.stdout)["figures"]
  assert figures == {
    "speed": {},
    "wrong": {"error": "wrong ended with exit code 1."},
  }
  result = checkout.call("bench", "sped")
  assert 'did you mean "speed"?' in result.stderr
  assert (result.returncode, result.stdout) == (1, "")


@pytest.mark.parametrize(
  ("path", "mention"),
  [
    ("gs://bucket/figures.json", "is an address"),
    ("~no_such_user/x.json", "no_such_user"),
    ("nowhere/figures.json", "cannot be written"),
    (".", "cannot be written"),
    ("x" * 5000 + "/y", "name too long"),
  ],
)
def test_bench_refuses_a_path_before_it_measures(checkout, path, mention):
  (checkout.root / "lilly").symlink_to(_ROOT / "lilly")
  result = checkout.call("bench", "--json", path)
  assert (result.returncode, result.stdout) == (2, "")
  assert mention in result.stderr and "Traceback" not in result.stderr


def test_bench_says_in_a_sentence_that_a_platform_is_absent(checkout):
  (checkout.root / "lilly").symlink_to(_ROOT / "lilly")
  checkout.write("scripts/benchmarks/speed.py", "def measure(): return {}\n")
  result = checkout.call("bench", "speed", JAX_PLATFORMS="abacus")
  assert result.returncode == 1 and "Traceback" not in result.stderr
  assert "error: JAX_PLATFORMS=abacus: JAX cannot start it" in result.stderr


def _prepare_tests(checkout):
  for folder in ("rules", "scripts", "experiments"):
    checkout.write(f"tests/{folder}/.keep", "")
  checkout.write("tests/rules/mirror_test.py", "")
  checkout.write("tests/scripts/run_test.py", "")


def _verdicts(result):
  summary = result.stdout.split("== summary\n")[1].splitlines()
  return {line.split("  ")[-1]: line.split()[0] for line in summary}


def test_test_runs_every_stage_and_sums_up(checkout):
  _prepare_tests(checkout)
  result = checkout.call("test", "--full", "-x")
  checkout.assert_works(result)
  verdicts = _verdicts(result)
  assert {verdicts[name] for name in _STAGES} == {"PASS"}
  assert verdicts["tests/experiments (tests/experiments holds no tests)"]
  assert verdicts["tests/examples (there is no tests/examples)"] == "SKIP"
  runs = [
    line
    for line in checkout.notes.read_text().splitlines()
    if line.startswith("pytest")
  ]
  temporary = runs[0].split()[1]
  assert temporary.startswith(str(checkout.temporary))
  assert runs[0].endswith("-n 2 --dist loadfile --durations=15 -x tests")
  assert f"--doctest-modules {temporary.split(':')[0]}" in runs[1]
  assert runs[2].startswith(f"pytest {checkout.root}:")
  assert runs[2].endswith("-x tests/scripts")
  assert not any("not slow" in run for run in runs)
  assert list(checkout.temporary.iterdir()) == []


def test_test_goes_on_after_a_failure_and_fails(checkout):
  _prepare_tests(checkout)
  result = checkout.call("test", FAKE_PYTEST="1")
  assert result.returncode == 1
  verdicts = _verdicts(result)
  failed = {name for name in _STAGES if verdicts[name] == "FAIL"}
  assert failed == set(_STAGES[2:5])
  assert verdicts["in all"] == "FAIL"
  assert "not slow" in checkout.notes.read_text()


def test_test_fails_if_the_library_has_no_tests(checkout):
  _prepare_tests(checkout)
  assert checkout.call("test", FAKE_PYTEST="5").returncode == 1
  assert checkout.call("test", "-k", "x", FAKE_PYTEST="5").returncode == 0


def test_test_runs_only_the_paths_given(checkout):
  _prepare_tests(checkout)
  result = checkout.call("test", "tests/rules", "./tests/scripts/run_test.py")
  assert set(_verdicts(result)) == {
    *("environment", "wheel", "library tests, against the wheel"),
    *("tests/scripts/run_test.py", "in all"),
  }


@pytest.mark.parametrize(
  ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_test_cleans_up_when_interrupted(checkout, number, code):
  _prepare_tests(checkout)
  with checkout.start("test", FAKE_PYTEST="hang") as process:
    checkout.wait_until_it_hangs()
    process.send_signal(number)
    _, err = process.communicate(timeout=10)
  assert (process.returncode, err) == (code, "scripts/test: interrupted.\n")
  assert list(checkout.temporary.iterdir()) == []
