"""Heat maps: matrices, functions of two variables, accesses to a memory."""

import pathlib
from collections.abc import Mapping

import numpy as np

from lilly.figures import canvas

__all__ = ["plot_accesses", "plot_functions", "plot_matrix"]


@canvas.with_own_style
def plot_matrix(
  values: np.ndarray,
  path: pathlib.Path,
  labels: tuple[str, str],
  limit: float | None = None,
) -> None:
  """Plots a matrix as colours, such as the addresses of a memory's writes.

  Red is negative, white 0, blue positive. The first row is at the top.

  Args:
    values: [R, C].
    path: PNG to write.
    labels: names of the horizontal and the vertical axis.
    limit: value of the darkest blue; None: the largest absolute value.
  """
  fig, ((ax,),) = canvas.subplots(1, 1)
  limit = limit or float(np.abs(values).max()) or 1.0
  image = ax.imshow(
    values,
    cmap="RdBu",
    aspect="auto",
    interpolation="nearest",
    vmin=-limit,
    vmax=limit,
  )
  ax.set(xlabel=labels[0], ylabel=labels[1])
  ax.grid(False)
  _use_integer_ticks(ax)
  fig.colorbar(image, ax=ax)
  canvas.save(fig, path)


@canvas.with_own_style
def plot_functions(
  values: Mapping[str, tuple[np.ndarray, tuple[float, float]]],
  path: pathlib.Path,
  x: np.ndarray,
  y: np.ndarray,
  labels: tuple[str, str],
) -> None:
  """Plots functions of two variables as colours, each in its own axes.

  Args:
    values: title -> (values [Y, X], (lowest, highest) of the colour scale); if
      the limits are symmetric, 0 is white.
    path: PNG to write.
    x: [X], positions of the columns.
    y: [Y], positions of the rows.
    labels: names of the horizontal and the vertical axis.
  """
  fig, (row,) = canvas.subplots(1, len(values))
  for ax, (title, (matrix, (low, high))) in zip(
    row, values.items(), strict=True
  ):
    colours = "RdBu" if low == -high else "viridis"
    mesh = ax.pcolormesh(x, y, matrix, cmap=colours, vmin=low, vmax=high)
    ax.set(title=title, xlabel=labels[0], ylabel=labels[1])
    ax.grid(False)
    fig.colorbar(mesh, ax=ax)
  canvas.save(fig, path)


@canvas.with_own_style
def plot_accesses(
  memories: Mapping[str, tuple[np.ndarray, np.ndarray]],
  path: pathlib.Path,
  threshold: float = 0.01,
) -> None:
  """Plots where memories are written and read along an episode.

  Args:
    memories: name -> (write weights [T, N], read weights [T, N]).
    path: PNG to write.
    threshold: words whose weights never exceed it are left out; the others are
      sorted by the first step at which they do.
  """
  fig, axes = canvas.subplots(len(memories), 2)
  for row, (name, weights) in zip(axes, memories.items(), strict=True):
    used = _sort_by_first_use(np.add(*weights) > threshold)
    for ax, kind, shown in zip(
      row, ("write weights", "read weights"), weights, strict=True
    ):
      ax.set_title(f"{name}: {kind}")
      ax.set_xlabel("step")
      ax.set_ylabel("words, by first use")
      ax.grid(False)
      if not used.size:
        ax.set(xticks=[], yticks=[])
        ax.text(0.5, 0.5, f"no weight above {threshold:g}", ha="center")
        continue
      image = ax.imshow(
        shown[:, used].T,
        aspect="auto",
        cmap="viridis",
        interpolation="nearest",
        vmin=0,
      )
      _use_integer_ticks(ax)
      fig.colorbar(image, ax=ax)
  canvas.save(fig, path)


def _sort_by_first_use(is_used):
  """Returns the used columns, sorted by first use."""
  used = np.flatnonzero(is_used.any(axis=0))
  return used[np.argsort(is_used.argmax(axis=0)[used], kind="stable")]


def _use_integer_ticks(ax):
  for axis in (ax.xaxis, ax.yaxis):
    axis.get_major_locator().set_params(integer=True)
