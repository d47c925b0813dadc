"""What is only shown decides nothing: standard streams that fail."""

import ast
import io
import json
import os
import pathlib
import subprocess
import sys

import pytest

import lilly
from lilly.training import terminal
from tests.training.conftest import TOY

ANSWERS = ("command_line.py", "messages.py")
FAILING = ("--learning_rate=0", "--num_seeds=2", "--check_claims")


class Broken(io.StringIO):
  """A stream whose every write fails."""

  def __init__(self, error):
    super().__init__()
    self._error = error

  def write(self, text):
    raise self._error


@pytest.mark.parametrize(
  "stream",
  [
    None,
    Broken(OSError(28, "No space left on device")),
    Broken(BrokenPipeError()),
    Broken(ValueError("I/O operation on closed file")),
  ],
)
def test_what_cannot_be_written_is_dropped(stream):
  terminal.tell("text", stream)
  assert not terminal.is_terminal(stream)
  assert terminal.width(stream) == 100


def test_a_closed_stream_is_no_terminal():
  stream = io.StringIO()
  stream.close()
  terminal.tell("text", stream)
  assert not terminal.is_terminal(stream)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_character_that_a_stream_lacks_is_escaped(encoding):
  raw = io.BytesIO()
  stream = io.TextIOWrapper(raw, encoding=encoding)
  terminal.tell("rate \u03b2 \udcff", stream)
  terminal.tell("next", stream, end="")
  assert raw.getvalue() == b"rate \\u03b2 \\udcff\nnext"


def test_a_table_has_a_line_for_each_row():
  rows = [("one", "1"), ("", "22")]
  assert terminal.lay_out(("name", "n"), rows).splitlines() == [
    "name  n",
    "----  --",
    "one   1",
    "      22",
  ]
  assert terminal.lay_out(("name",), []).splitlines() == ["name", "----"]


@pytest.mark.parametrize("width", [20, 40, 77])
def test_a_table_fits_where_words_do(width):
  sentence = "the squared error of the weights ends at most at a half"
  rows = [(sentence, "1.5", "holds"), ("[b] is no markup", "2", "fails")]
  lines = terminal.lay_out(("claim", "v", "verdict"), rows, width).splitlines()
  size = max(map(len, lines))
  assert size <= max(width, 12 + 2 + 3 + 2 + 7)
  first = lines[0].index("v")
  words = " ".join(line[:first] for line in lines[2:]).split()
  assert " ".join(words) == f"{sentence} [b] is no markup"
  assert any(line.endswith("1.5  holds") for line in lines)


def test_a_live_line_fills_the_terminal_and_is_ended(monkeypatch):
  from lilly.training import progress

  class Terminal(io.StringIO):
    def isatty(self):
      return True

  stream = Terminal()
  monkeypatch.setattr(sys, "stderr", stream)
  monkeypatch.setenv("COLUMNS", "50")
  with progress.Progress("adam", None, 8, "updates") as show:
    show.start({"learning_rate": 0.1, "noise": 0.1, "decay": 1.0})
    show.update(8, {}, {})
  parts = stream.getvalue().split("\r")[1:]
  assert [len(part) for part in parts] == [49, 50]
  assert parts[-1].endswith("\n") and "8 / 8" in parts[-1]


def run_shell(tmp_path, redirection, *flags):
  """Runs the toy in a shell; returns the status and the output directory."""
  directory = tmp_path / "run"
  command = [sys.executable, str(TOY), f"--out_dir={directory}", *flags]
  shell = f'"$@" {redirection}; exit ${{PIPESTATUS[0]}}'
  # Unbuffered, nothing would be left to be written at the end.
  env = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
  done = subprocess.run(
    ["bash", "-c", shell, "bash", *command],
    env=env,
    capture_output=True,
    check=False,
    timeout=300,
  )
  return done.returncode, directory


@pytest.mark.parametrize(
  "redirection",
  [
    ">&- 2>&- <&-",
    ">/dev/full 2>/dev/full",
    pytest.param("2>&1 | true", marks=pytest.mark.slow),
    pytest.param(">&-", marks=pytest.mark.slow),
    pytest.param("2>&-", marks=pytest.mark.slow),
  ],
)
def test_broken_streams_do_not_change_a_runs_end(tmp_path, redirection):
  """Even the status of a claim that fails."""
  status, directory = run_shell(tmp_path, redirection, *FAILING)
  assert status == 4
  for name in ("params.npz", "checkpoints/40"):
    assert (directory / "adam" / name).exists()
  summary = json.loads((directory / "summary.json").read_text())
  assert summary["claims"][0]["verdict"] == "fails"
  # A closed descriptor is not that of a file: nothing was printed into it.
  lines = (directory / "adam" / "metrics.jsonl").read_text().splitlines()
  assert len([json.loads(line) for line in lines]) == 2 * 11


def test_an_error_on_broken_streams_has_its_status(tmp_path):
  status, _ = run_shell(tmp_path, ">&- 2>/dev/full", "--noise=a")
  assert status == 1


def test_nothing_else_prints():
  """But for the modules that answer before there is a run, as to --help."""
  package = pathlib.Path(lilly.__file__).parent
  scripts = pathlib.Path(__file__).parents[2] / "experiments"
  found = []
  for path in [*package.rglob("*.py"), *scripts.glob("*.py")]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
      name = getattr(getattr(node, "func", None), "id", None)
      if name == "print" and path.name not in ANSWERS:
        found.append((path.name, node.lineno))
  assert found == []


CORE_ONLY = """
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):

  def find_spec(self, name, path=None, target=None):
    if name.partition(".")[0] in ("rich", "matplotlib", "etils", "brax", "PIL"):
      raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import jax
from lilly import training
experiment = training.Experiment(
  init=lambda key, hyper, data: hyper["rate"],
  update=lambda x, data: (0.5 * x, {"x": x}),
  evaluate=lambda key, x, data: {"x": x},
  hyper={"rate": 1.0},
)
options = training.Options(num_updates=4, log_every=2, num_seeds=2)
results = training.run({"own": experiment}, options)
claim = training.Claim(
  "falls", "x ends below 0.1", training.last("own", "eval/x"), "<", 0.1
)
sys.exit(training.finish(results, [("own/falls", claim, 2, None, True)]))
"""


def test_with_the_core_requirements_a_run_prints_its_tables():
  done = subprocess.run(
    [sys.executable, "-c", CORE_ONLY],
    env=os.environ | {"TERM": "dumb"},
    capture_output=True,
    text=True,
    check=False,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr
  lines = [line.split() for line in done.stdout.splitlines()]
  assert ["own", "eval/x", "0.0625", "0.0625", "to", "0.0625", "2"] in lines
  assert any(line[-1:] == ["holds"] for line in lines)


def test_no_file_is_left_open_at_a_standard_descriptor():
  program = """
import os
from lilly.training import terminal
terminal.secure()
print(*[os.readlink(f"/proc/self/fd/{i}") for i in range(3)], file=open(3, "w"))
"""
  if not pathlib.Path("/proc/self/fd").exists():
    pytest.skip("needs /proc")
  shell = '"$@" 3>&1 >&- 2>&- <&-'
  done = subprocess.run(
    ["bash", "-c", shell, "bash", sys.executable, "-c", program],
    capture_output=True,
    text=True,
    check=True,
    timeout=60,
  )
  assert done.stdout.split() == [os.devnull] * 3
