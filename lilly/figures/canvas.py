"""Shared parts of all figures: axes, colours, legends, saving."""

import pathlib
from typing import Any

import numpy as np

__all__ = ["COLOURS", "add_legend", "colour", "save", "subplots"]

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
  fig.savefig(path, dpi=120, metadata={"Software": None})
