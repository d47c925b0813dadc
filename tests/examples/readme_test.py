"""Tests that README says what is there."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]
README = ROOT / "README.md"


def test_the_example_is_the_one_that_the_tests_run():
  (block,) = re.findall(r"```python\n(.+?)```", README.read_text(), re.DOTALL)
  example = ROOT / "examples" / "feedback_alignment_layer.py"
  assert block == example.read_text()


def test_every_paper_has_a_row_and_what_is_built_is_there():
  rows = re.findall(r"^\| .+arxiv.+\|$", README.read_text(), re.MULTILINE)
  assert len(rows) == 20
  scripts = {path.stem for path in (ROOT / "experiments").glob("[a-z]*.py")}
  for row in rows:
    script = row.split("|")[2].strip(" `")
    assert ("not built yet" in row) == (script not in scripts), row


def test_links_and_pictures_exist():
  for link in re.findall(r"\]\(((?!http)[^)]+)\)", README.read_text()):
    assert (ROOT / link).exists(), link
