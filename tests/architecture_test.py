"""Tests of the tree: what imports what, and what importing does."""

import ast
import os
import pathlib
import re
import subprocess
import sys

import pytest

import lilly

_LIBRARY = pathlib.Path(lilly.__file__).parent
# Absent where the library is tested from its wheel.
_EXPERIMENTS = pathlib.Path(__file__).parents[1] / "experiments"

_FLOORS = {
  "checks": 0,
  "losses": 0,
  "memory": 0,
  "rules": 0,
  "control": 0,
  "search": 0,
  "replay": 0,
  "analysis": 0,
  "envs": 1,
  "tasks": 1,
  "data": 1,
  "nets": 2,
  "learners": 3,
  "training": 4,
  "figures": 5,
}
_PURE = {"jax", "numpy", "chex", "optax", "rlax", "lilly"}
_LAZY_EXPORTS = {"training"}
# Guards against the absurd, in lines: no code is folded to fit them.
_MAX_FUNCTION, _MAX_MODULE = 120, 600
# What the library may use, but must not need to be imported.
_OPTIONAL = (
  "PIL",
  "ale_py",
  "brax",
  "etils",
  "gymnasium",
  "gymnax",
  "importlib_resources",
  "matplotlib",
  "mujoco",
  "mujoco_playground",
  "pgx",
  "requests",
  "sklearn",
  "tensorflow",
  "tensorflow_datasets",
)

_FORBIDDEN = {
  "pickle": r"\b(pickle|dill|cloudpickle|joblib)\b.*\bimport\b"
  r"|\bimport (pickle|dill|cloudpickle|joblib)\b|allow_pickle\s*=\s*True",
  "an untyped key": r"\bPRNGKey\(",
  "a deprecated jax name": r"\bjax\.(tree_map|tree_util\.tree_map|core)\b"
  r"|device_put_replicated|device_put_sharded|jax\.experimental\.maps",
  "an unfinished part": r"\b(TODO|FIXME|XXX)\b",
}


def _modules(*roots):
  return sorted(path for root in roots for path in root.rglob("*.py"))


def _name(path):
  root = _LIBRARY if path.is_relative_to(_LIBRARY) else _EXPERIMENTS
  return path.relative_to(root.parent).as_posix()


_LIBRARY_MODULES = _modules(_LIBRARY)
_ALL_MODULES = [*_LIBRARY_MODULES, *_modules(_EXPERIMENTS)]


def _imports(tree):
  """All imported names, dotted, with those inside functions."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, "a relative import"
      for alias in node.names:
        yield f"{node.module}.{alias.name}"


def _misplaced_imports(module, tree):
  """Lists the imports that a module of the library must not have."""
  parts = module.split("/")
  if len(parts) < 3:
    return [name for name in _imports(tree) if name.startswith("lilly.")]
  floor, found = _FLOORS[parts[1]], []
  for name in _imports(tree):
    top, *rest = name.split(".")
    upwards = top == "lilly" and rest and _FLOORS.get(rest[0], 9) > floor
    impure = floor == 0 and top not in _PURE | sys.stdlib_module_names
    plots = top == "matplotlib" and parts[1] != "figures"
    outside = top in ("experiments", "examples", "scripts", "tests")
    if upwards or impure or plots or outside:
      found.append(name)
  return found


@pytest.mark.parametrize("path", _LIBRARY_MODULES, ids=_name)
def test_imports_go_down_only(path):
  tree = ast.parse(path.read_text(encoding="utf-8"))
  assert _misplaced_imports(_name(path), tree) == []


@pytest.mark.parametrize(
  ("module", "statement"),
  [
    ("lilly/rules/a.py", "import haiku as hk"),
    ("lilly/rules/a.py", "def f():\n  from absl import flags"),
    ("lilly/rules/a.py", "from lilly.nets import feedback"),
    ("lilly/nets/a.py", "import lilly.training.driver"),
    ("lilly/learners/a.py", "from lilly.training import experiment"),
    ("lilly/training/a.py", "from experiments import ddpg"),
    ("lilly/training/a.py", "from scripts import report"),
    ("lilly/training/a.py", "from lilly.figures import curves"),
    ("lilly/training/a.py", "def f():\n  from matplotlib import figure"),
    ("lilly/__init__.py", "from lilly.rules import weight_mirror"),
  ],
)
def test_misplaced_imports_are_found(module, statement):
  assert len(_misplaced_imports(module, ast.parse(statement))) == 1


def test_every_folder_has_a_floor():
  folders = {path.parent.name for path in _LIBRARY.glob("*/__init__.py")}
  assert folders <= _FLOORS.keys()


def test_packages_hold_a_docstring_only():
  for path in _LIBRARY.glob("*/__init__.py"):
    body = ast.parse(path.read_text(encoding="utf-8")).body
    assert isinstance(body[0], ast.Expr), path
    if path.parent.name not in _LAZY_EXPORTS:
      assert len(body) == 1, path


@pytest.mark.parametrize("path", _ALL_MODULES, ids=_name)
def test_module_is_documented_short_and_has_no_forbidden_text(path):
  text = path.read_text(encoding="utf-8")
  for what, pattern in _FORBIDDEN.items():
    match = re.search(pattern, text)
    assert match is None, f"{what}: {match[0]}"
  tree = ast.parse(text)
  assert ast.get_docstring(tree)
  lines = [line.strip() for line in text.splitlines()]
  code = [line for line in lines if line and not line.startswith("#")]
  assert len(code) <= _MAX_MODULE
  for node in ast.walk(tree):
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
      length = (node.end_lineno or 0) - node.lineno + 1
      assert length <= _MAX_FUNCTION, f"{node.name} is {length} lines"


def _import_all(before, after, **environment):
  """Imports all modules of the library in a new process; returns its output."""
  names = [
    _name(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    for path in _LIBRARY_MODULES
  ]
  program = f"""
import importlib, sys
{before}
for name in {names!r}:
  importlib.import_module(name)
{after}
"""
  done = subprocess.run(
    [sys.executable, "-c", program],
    env={**os.environ, **environment, "PYTHONPATH": str(_LIBRARY.parent)},
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


def test_importing_starts_no_backend_and_defines_no_flag():
  after = """
from absl import flags
owners = flags.FLAGS.flags_by_module_dict()
defined = [name for name in owners if name.startswith("lilly")]
assert not defined, defined
for heavy in ("brax", "tensorflow_datasets", "tensorflow", "matplotlib"):
  assert heavy not in sys.modules, heavy
try:
  import jax.numpy
  jax.numpy.zeros(())
except RuntimeError:
  print("ended without a backend")
"""
  # With a platform that does not exist, the first array raises an error.
  output = _import_all("", after, JAX_PLATFORMS="absent")
  assert "ended without a backend" in output


def test_importing_needs_the_core_requirements_only():
  before = f"""
import importlib.abc

class Absent(importlib.abc.MetaPathFinder):

  def find_spec(self, name, path=None, target=None):
    if name.partition(".")[0] in {_OPTIONAL!r}:
      raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
try:
  import matplotlib
except ModuleNotFoundError:
  print("extras are absent")
"""
  assert "extras are absent" in _import_all(before, "")


def test_optional_packages_are_those_of_the_extras():
  """No module imports another package, even inside a function."""
  core = {"jax", "numpy", "chex", "optax", "rlax", "haiku", "absl", "lilly"}
  known = core | {*_OPTIONAL} | sys.stdlib_module_names
  for path in _LIBRARY_MODULES:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tops = {name.partition(".")[0] for name in _imports(tree)}
    assert tops <= known, (path, tops - known)
