"""Tests that docs/reliability.md says what happens."""

import ast
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text()


def test_the_program_that_calls_lapack_is_refused_as_shown():
  *_, program = re.findall(r"```python\n(.+?)```", PAGE, re.DOTALL)
  (shown,) = re.findall(r"```text\n(.+?)```", PAGE, re.DOTALL)
  done = subprocess.run(
    [sys.executable, "-c", program],
    capture_output=True,
    text=True,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
    timeout=120,
  )
  assert done.returncode == 1
  assert done.stderr.splitlines()[-1].split() == shown.split()


def test_the_program_that_hangs_is_one():
  program, _ = re.findall(r"```python\n(.+?)```", PAGE, re.DOTALL)
  assert "jnp.linalg.pinv" in ast.unparse(ast.parse(program))


def test_the_figures_name_every_part():
  from scripts import faults

  named = re.findall(r"^\| `(\w+)` \| [\d,]+ of [\d,]+", PAGE, re.MULTILINE)
  assert named == list(faults.PARTS)
