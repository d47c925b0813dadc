"""Tests that nothing tells a user to install somebody else's package."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
FOLDERS = ("lilly", "experiments", "examples", "scripts", "docs", "tests")
ENDINGS = ("", ".py", ".md", ".txt", ".toml", ".cff")
# `lilly` on the package index is another project: neither it nor its extras.
ADVICE = re.compile(
  r"""pip3?\s+install\s[^.\n]*?\blilly(?![-/\w])  # pip install lilly
  |\blilly\[""",
  re.VERBOSE,
)


def find(text):
  return [match.group() for match in ADVICE.finditer(text)]


def test_the_search_finds_advice():
  for text in (
    "pip install lilly",
    "pip install -U 'lilly[experiments]'",
    'pip install\n"lilly[playground]"',
    "needs lilly[cuda]",
  ):
    assert find(text), text
  for text in ("pip install '.[experiments]'", "pip install . ; import lilly"):
    assert not find(text), text


def test_no_message_and_no_page_asks_the_index_for_lilly():
  paths = [ROOT / "README.md", ROOT / "setup.py", ROOT / "CHANGELOG.md"]
  for folder in FOLDERS:
    paths += (ROOT / folder).rglob("*")
  own = pathlib.Path(__file__)
  found = {
    str(path): find(path.read_text(encoding="utf-8"))
    for path in paths
    if path.is_file() and path.suffix in ENDINGS and path != own
    if "__pycache__" not in path.parts
  }
  assert len(found) > 100
  assert {path: each for path, each in found.items() if each} == {}
