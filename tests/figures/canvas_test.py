"""Tests of lilly.figures.canvas: nothing of the surroundings is drawn."""

import os
import pathlib
import subprocess
import sys

import matplotlib
import numpy as np
import pytest

import lilly
from lilly.figures import (
  canvas,
  curves,
  filters,
  heatmaps,
  images,
  paths,
  scatter,
)

ROOT = str(pathlib.Path(lilly.__file__).parent.parent)
MODULES = (curves, filters, heatmaps, images, paths, scatter)
STYLE = {
  "figure.facecolor": "red",
  "font.size": 30.0,
  "text.usetex": True,
  "savefig.bbox": "tight",
  "savefig.format": "pdf",
  "savefig.dpi": 10.0,
  "axes.prop_cycle": matplotlib.cycler(color=["red"]),
}


def draw(folder, name):
  path = folder / name
  values = {"a": np.array([[1.0, 2.0, 3.0], [1.5, 2.5, 4.0]])}
  curves.plot_lines(values, path, ("x", "y"))
  return path.read_bytes()


def test_a_users_style_changes_no_figure_and_stays(tmp_path):
  expected = draw(tmp_path, "plain.png")
  with matplotlib.rc_context(STYLE):
    assert draw(tmp_path, "styled.png") == expected
    found = {name: matplotlib.rcParams[name] for name in STYLE}
    assert found == STYLE
  with matplotlib.rc_context({"figure.facecolor": "red"}):
    fig, ((ax,),) = canvas.subplots(1, 1)  # the style is not ineffective
    ax.plot([1.0])
    canvas.save(fig, tmp_path / "bare.png")
  assert (tmp_path / "bare.png").read_bytes() != expected


def test_every_function_that_draws_has_its_own_style():
  undecorated = []
  for module in MODULES:
    for name in module.__all__:
      function = getattr(module, name)
      code = getattr(function, "__wrapped__", function).__code__
      if "subplots" in code.co_names and not hasattr(function, "__wrapped__"):
        undecorated.append((module.__name__, name))
  assert undecorated == []


PROGRAM = """
import pathlib, sys
import numpy as np
from lilly.figures import curves
values = {"a": np.array([[1.0, 2.0, 3.0], [1.5, 2.5, 4.0]])}
curves.plot_lines(values, pathlib.Path(sys.argv[1]), ("x", "y"))
"""


@pytest.mark.parametrize(
  "environment",
  [
    {"MPLBACKEND": "module://matplotlib_inline.backend_inline"},
    {"MPLBACKEND": "tkagg", "DISPLAY": ""},
  ],
)
def test_any_backend_may_be_named(tmp_path, environment):
  (tmp_path / "matplotlibrc").write_text("text.usetex: True\nbackend: none\n")
  subprocess.run(
    [sys.executable, "-c", PROGRAM, str(tmp_path / "found.png")],
    cwd=tmp_path,
    env=os.environ | environment | {"PYTHONPATH": ROOT},
    check=True,
    capture_output=True,
    timeout=120,
  )
  expected = draw(tmp_path, "expected.png")
  assert (tmp_path / "found.png").read_bytes() == expected
