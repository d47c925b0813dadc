"""The wheel that scripts/test has built: what it holds and declares."""

import importlib.metadata
import os
import pathlib

import pytest

import lilly

_SITE = os.environ.get("LILLY_SITE")

pytestmark = pytest.mark.skipif(
  _SITE is None, reason="scripts/test sets LILLY_SITE to the wheel's folder"
)


@pytest.fixture(name="distribution")
def _distribution():
  (distribution,) = importlib.metadata.distributions(
    name="lilly-jax", path=[_SITE]
  )
  return distribution


def test_tests_run_against_the_wheel():
  assert pathlib.Path(lilly.__file__).is_relative_to(_SITE)


def test_holds_the_package_lilly_only(distribution):
  folders = {file.parts[0] for file in distribution.files}
  metadata = {name for name in folders if name.endswith(".dist-info")}
  assert folders - metadata == {"lilly"}
  assert len(metadata) == 1


def test_holds_every_subpackage_and_the_typing_marker(distribution):
  files = {file.as_posix() for file in distribution.files}
  assert "lilly/py.typed" in files
  for floor in (
    "analysis",
    "data",
    "figures",
    "memory",
    "nets",
    "rules",
    "tasks",
    "training",
  ):
    assert f"lilly/{floor}/__init__.py" in files


def test_declares_version_python_and_extras(distribution):
  metadata = distribution.metadata
  assert metadata["Version"] == lilly.__version__
  assert "3.11" in metadata["Requires-Python"]
  extras = set(metadata.get_all("Provides-Extra"))
  assert extras >= {
    *("experiments", "atari", "playground", "cuda", "test", "docs"),
  }


def test_core_requirements_are_few_and_need_no_extra(distribution):
  core = [text for text in distribution.requires if "extra ==" not in text]
  names = {text.split(">")[0].split("[")[0].strip() for text in core}
  assert names == {
    *("absl-py", "chex", "dm-haiku", "jax", "numpy", "optax", "rlax"),
  }
