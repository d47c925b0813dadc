"""Scatter plots of two measures of the same quantity."""

import pathlib
from collections.abc import Mapping

import numpy as np

from lilly.figures import canvas

__all__ = ["plot_agreement"]

_COLUMNS = 4


@canvas.with_own_style
def plot_agreement(
  pairs: Mapping[str, tuple[np.ndarray, np.ndarray]],
  path: pathlib.Path,
  labels: tuple[str, str],
) -> None:
  """Plots two measures of the same quantity against each other, and y = x.

  Args:
    pairs: title -> (x, y), arrays of one shape; non-finite points are left out.
    path: PNG to write.
    labels: names of the horizontal and the vertical axis.
  """
  num_rows, num_columns = -(-len(pairs) // _COLUMNS), min(len(pairs), _COLUMNS)
  fig, axes = canvas.subplots(num_rows, num_columns)
  for ax in axes.flat[len(pairs) :]:
    ax.remove()
  for ax, (title, (x, y)) in zip(axes.flat, pairs.items(), strict=False):
    points = np.stack([np.ravel(x), np.ravel(y)])
    points = points[:, np.isfinite(points).all(axis=0)]
    ax.plot(*points, ".", color=canvas.colour(0), markersize=2, alpha=0.5)
    if points.size:
      ends = [points.min(), points.max()]
      ax.plot(ends, ends, color="black", linewidth=1)
    ax.locator_params(axis="x", nbins=6)  # long numbers would touch
    ax.set(xlabel=labels[0], ylabel=labels[1], title=title)
  canvas.save(fig, path)
