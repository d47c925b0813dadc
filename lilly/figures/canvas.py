"""Shared parts of all figures: axes, colours, legends, saving."""

import contextlib
import functools
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np

__all__ = [
  "COLOURS",
  "add_legend",
  "colour",
  "save",
  "subplots",
  "with_own_style",
]

_Args = ParamSpec("_Args")
_Value = TypeVar("_Value")

# Okabe and Ito's palette for colour-blind readers, without yellow.
COLOURS = (
  "#0072b2",
  "#d55e00",
  "#009e73",
  "#cc79a7",
  "#56b4e9",
  "#e69f00",
  "#000000",
)
_MAX_INSIDE = 4  # most lines for a legend inside the axes


def with_own_style(
  function: Callable[_Args, _Value],
) -> Callable[_Args, _Value]:
  """Decorates a function that draws: a user's matplotlibrc has no effect.

  Args:
    function: makes a figure by `subplots` and writes it by `save`.

  Returns:
    The function, under matplotlib's default style; the caller's is restored.
  """

  @functools.wraps(function)
  def styled(*args: _Args.args, **kwargs: _Args.kwargs) -> _Value:
    matplotlib = _import_matplotlib()
    style = dict(matplotlib.rcParamsDefault)
    del style["backend"]  # to set it would choose one for the process
    with matplotlib.rc_context(style):
      return function(*args, **kwargs)

  return styled


def _import_matplotlib():
  """Imports matplotlib, whatever backend the environment names.

  Notebooks name one that may not be installed, and the import would fail.
  """
  is_first = "matplotlib" not in sys.modules
  named = os.environ.pop("MPLBACKEND", None) if is_first else None
  try:
    import matplotlib
  finally:
    if named is not None:
      os.environ["MPLBACKEND"] = named
  if named:
    with contextlib.suppress(ValueError):  # as matplotlib itself does
      matplotlib.rcParams["backend"] = named
  return matplotlib


def subplots(
  num_rows: int, num_columns: int, size: tuple[float, float] = (4.6, 3.4)
) -> tuple[Any, np.ndarray]:
  """Makes a figure with a grid of axes.

  Args:
    num_rows: rows of the grid.
    num_columns: columns of the grid.
    size: width and height of one of the axes, in inches.

  Returns:
    The matplotlib figure and its axes, [num_rows, num_columns].
  """
  from matplotlib import figure

  width, height = size[0] * num_columns, size[1] * num_rows
  # Not by pyplot, which keeps global state and may need a display.
  fig = figure.Figure(figsize=(width, height))
  # Matplotlib's own margins are so narrow that labels touch the edge.
  fig.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)
  axes = fig.subplots(num_rows, num_columns, squeeze=False)
  for ax in axes.flat:
    ax.grid(alpha=0.25, linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)
  return fig, axes


def colour(index: int) -> str:
  """Returns the colour of a line; they repeat after `len(COLOURS)` lines.

  Args:
    index: number of the line, from 0.

  Returns:
    The colour, for matplotlib.

  >>> colour(0) == colour(len(COLOURS))
  True
  """
  return COLOURS[index % len(COLOURS)]


def add_legend(fig: Any, ax: Any) -> None:
  """Adds a legend; beside the axes if there are too many lines.

  Args:
    fig: matplotlib figure; made wider by a legend beside the axes.
    ax: matplotlib axes whose lines have labels.
  """
  labels = ax.get_legend_handles_labels()[1]
  if not labels:
    return
  if len(labels) <= _MAX_INSIDE:
    ax.legend(frameon=False, fontsize=8)
    return
  legend = ax.legend(
    frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0)
  )
  width = legend.get_window_extent().width / fig.dpi
  fig.set_figwidth(fig.get_figwidth() + width)


def save(fig: Any, path: pathlib.Path) -> None:
  """Writes a figure as PNG; equal figures give equal bytes.

  Args:
    fig: matplotlib figure.
    path: file to write.
  """
  # By name: a backend of windows may be absent or need a display.
  fig.savefig(path, dpi=120, metadata={"Software": None}, backend="agg")
