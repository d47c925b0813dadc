"""A copy of the scripts, with a fake Python, for the tests of scripts/."""

import pathlib
import shutil
import subprocess
import sys
import time

import pytest

_ROOT = pathlib.Path(__file__).parents[2]
_TOOLS = (
  *("awk", "bash", "cat", "chmod", "cksum", "cp", "cut", "dirname", "env"),
  *(
    "find",
    "grep",
    "ls",
    "mkdir",
    "mktemp",
    "mv",
    "readlink",
    "rm",
    "sed",
    "sh",
  ),
  *("sleep", "sort", "tail", "tar", "touch", "tr"),
)
_EXPERIMENT = '''"""{doc}

A second paragraph.
"""
import json, os, signal, sys, time

if __name__ == "__main__":
  if "--wait" in sys.argv:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
      signal.signal(number, lambda number, _: sys.exit(40 + number))
    print("ready", flush=True)
    time.sleep(20)
  print(json.dumps([sys.argv[1:], os.getcwd(), __file__]))
  sys.exit(int(os.environ.get("EXIT_CODE", "0")))
'''


class Checkout:
  """A copy of the scripts whose only Python is the fake one."""

  def __init__(self, folder):
    self.root = folder / "a checkout"
    self.tools = folder / "tools"
    self.notes = folder / "notes"
    self.temporary = folder / "temporary"
    for path in (self.root, self.tools, self.temporary):
      path.mkdir()
    scripts = shutil.ignore_patterns("__pycache__")
    shutil.copytree(_ROOT / "scripts", self.root / "scripts", ignore=scripts)
    for name in ("setup.py", "constraints.txt", "pyproject.toml"):
      shutil.copy(_ROOT / name, self.root)
    for name, doc in (
      ("__init__", "Not an experiment."),
      ("ddpg", "Deep deterministic policy gradient."),
      ("kanerva_machine", "The Kanerva machine."),
      ("dynamic_kanerva_machine", "The dynamic Kanerva machine."),
    ):
      self.write(f"experiments/{name}.py", _EXPERIMENT.format(doc=doc))
    for tool in _TOOLS:
      (self.tools / tool).symlink_to(shutil.which(tool))
    self.add_python("python3.11")
    self.environment = {
      "PATH": str(self.tools),
      "FAKE_NOTES": str(self.notes),
      "TRUE_PYTHON": sys.executable,
      "TMPDIR": str(self.temporary),
    }
    self.venv = self.root / ".venv"
    self.stamp = self.venv / "lilly-stamp"

  def write(self, path, text):
    path = self.root / path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")

  def add_python(self, name):
    path = self.tools / name
    shutil.copy(pathlib.Path(__file__).with_name("fake_python.sh"), path)
    path.chmod(0o755)
    return path

  def start(self, script="run", *arguments, cwd=None, **environment):
    return subprocess.Popen(
      [self.root / "scripts" / script, *arguments],
      cwd=cwd or self.root,
      env=self.environment | environment,
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      start_new_session=True,
    )

  def call(self, script="run", *arguments, **options):
    with self.start(script, *arguments, **options) as process:
      out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(script, process.returncode, out, err)

  def done(self, what):
    """How often the fake Python has done `what`."""
    if not self.notes.exists():
      return 0
    lines = self.notes.read_text().splitlines()
    return sum(line.split()[0] == what for line in lines)

  def wait_until_it_hangs(self):
    flag = self.notes.with_name("notes.hangs")
    for _ in range(1000):
      if flag.exists():
        flag.unlink()
        return
      time.sleep(0.01)
    raise AssertionError("the fake Python was never started")

  def assert_one_sentence(self, result, *words, code=1):
    assert result.returncode == code
    assert result.stderr.startswith(f"scripts/{result.args}: ")
    assert result.stderr.endswith(".\n")
    assert result.stderr.count("\n") == 1
    for word in words:
      assert word in result.stderr

  def assert_works(self, result):
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""


@pytest.fixture(name="checkout")
def _checkout(tmp_path):
  return Checkout(tmp_path)
