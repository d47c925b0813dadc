"""Pictures of images, of what a memory makes of them, and of its weights."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from lilly.training import experiment, pictures

__all__ = ["by_length", "by_size", "grid", "heat", "lines"]

_INCHES = 0.5  # the side of an image


def grid(rows: Mapping[str, np.ndarray], path: pathlib.Path) -> None:
  """Draws images, a row with its name for each kind of them.

  The range of values is fixed: 0 is black, 1 is white.

  Args:
    rows: by name, [N, H, W] or [N, H, W, C] with one channel or three.
    path: of the PNG.

  Raises:
    ValueError: there is none, they are of several shapes, or have another
      number of channels.
  """
  images = {name: _with_channels(name, found) for name, found in rows.items()}
  shapes = {found.shape for found in images.values()}
  if len(shapes) != 1 or 0 in next(iter(shapes)):
    raise ValueError(
      f"rows have the shapes {sorted(shapes)}; give images of one shape, and "
      "as many in each row."
    )
  ((count, height, width, channels),) = shapes
  # One picture of all: axes for each image would take many seconds.
  tiles = np.stack([*images.values()])
  gap = [(0, 0), (0, 0), (0, 1), (0, 1), (0, 0)]
  tiles = np.pad(np.clip(tiles, 0, 1), gap, constant_values=1.0)
  tiles = tiles.transpose(0, 2, 1, 3, 4)
  sheet_shape = len(images) * (height + 1), count * (width + 1), channels
  mosaic = tiles.reshape(sheet_shape)[:-1, :-1]
  sheet, ((ax,),) = pictures.axes(1, 1)
  shown = mosaic[..., 0] if channels == 1 else mosaic
  ax.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
  middles = (height + 1) * np.arange(len(images)) + (height - 1) / 2
  ax.set_yticks(middles, [*images])
  ax.set_xticks([])
  ax.tick_params(length=0)
  ax.spines[:].set_visible(False)
  ax.grid(False)
  _fit(sheet, ax, _INCHES * count, _INCHES * len(images) * height / width)
  pictures.save(sheet, path)


def _fit(sheet, ax, width, height, margin=0.08):
  """Makes the figure as large as axes of this size, in inches, and their names.

  The layout of matplotlib's own cuts names off beside axes of fixed proportion.
  """
  sheet.set_layout_engine("none")
  names = [label.get_window_extent().width for label in ax.get_yticklabels()]
  left = max(names) / sheet.dpi + 2 * margin
  size = left + width + margin, height + 2 * margin
  sheet.set_size_inches(size)
  ax.set_position(
    (left / size[0], margin / size[1], width / size[0], height / size[1])
  )


def _with_channels(name, images):
  images = np.asarray(images, float)
  if images.ndim == 3:
    images = images[..., None]
  if images.ndim != 4 or images.shape[-1] not in (1, 3):
    raise ValueError(
      f"rows[{name!r}] has shape {images.shape}; it must be [N, H, W], or "
      "[N, H, W, C] with one channel or three."
    )
  return images


def heat(
  values: np.ndarray,
  path: pathlib.Path,
  labels: tuple[str, str],
  limit: float | None = None,
) -> None:
  """Draws a matrix as colours, such as the addresses of what is written.

  Red is negative, white 0, blue positive. The first row is at the top.

  Args:
    values: [R, C].
    path: of the PNG.
    labels: of the horizontal and the vertical axis: what columns and rows are.
    limit: value of the darkest blue; None: the largest there is, of any sign.
  """
  sheet, ((ax,),) = pictures.axes(1, 1)
  limit = limit or float(np.abs(values).max()) or 1.0
  shown = ax.imshow(*(values, "RdBu"), aspect="auto", vmin=-limit, vmax=limit)
  ax.set(xlabel=labels[0], ylabel=labels[1])
  ax.grid(False)
  for axis in (ax.xaxis, ax.yaxis):
    axis.get_major_locator().set_params(integer=True)
  sheet.colorbar(shown, ax=ax)
  pictures.save(sheet, path)


def lines(
  values: Mapping[str, np.ndarray],
  x: np.ndarray,
  path: pathlib.Path,
  labels: tuple[str, str],
  *,
  log_x: bool = False,
) -> None:
  """Draws a `pictures.band` for each name: errors by iterations or by lengths.

  Args:
    values: by name, [num_seeds, T].
    x: where the T points stand.
    path: of the PNG.
    labels: of the horizontal and the vertical axis.
    log_x: x doubles from point to point: a logarithmic axis, x at its ticks.
  """
  sheet, ((ax,),) = pictures.axes(1, 1)
  for k, (name, found) in enumerate(values.items()):
    colour = pictures.COLOURS[k % len(pictures.COLOURS)]
    pictures.band(ax, x, found, colour=colour, label=name)
  for line in ax.get_lines():
    line.set_marker(".")  # a single point is to be seen too
  ax.set(xlabel=labels[0], ylabel=labels[1])
  if log_x:
    ax.set_xscale("log", base=2)
    ax.set_xticks(x, [f"{at:g}" for at in x])
    ax.minorticks_off()
  if len(values) > 4:  # they leave no room for it among them
    ax.legend(
      frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1)
    )
    sheet.set_figwidth(sheet.get_figwidth() + 2)
  else:
    ax.legend(frameon=False)
  pictures.save(sheet, path)


def by_length(
  results: experiment.Results,
  variants: Sequence[str],
  metric: str,
  lengths: Sequence[int],
  path: pathlib.Path,
  label: str,
  x_label: str = "images in an episode",
) -> None:
  """Draws what was measured in the end on episodes of several lengths.

  Args:
    results: of `run`; a line for each grid point.
    variants: which are drawn.
    metric: its name without the length, "eval/nats" for "eval/nats_at_16".
    lengths: images in an episode, each named once.
    path: of the PNG.
    label: of the vertical axis.
    x_label: of the horizontal axis.
  """
  values: dict[str, list[np.ndarray]] = {}
  for length in lengths:
    for name, _, found in pictures.by_point(results, f"{metric}_at_{length}"):
      if name.split()[0] in variants:
        values.setdefault(name, []).append(found[:, -1])
  labels = x_label, label
  stacked = {name: np.stack(found, 1) for name, found in values.items()}
  lines(stacked, np.array(lengths), path, labels, log_x=True)


def by_size(
  results: experiment.Results,
  sizes: Mapping[str, tuple[str, int]],
  metric: str,
  path: pathlib.Path,
  labels: tuple[str, str],
) -> None:
  """Draws what was measured in the end of variants that differ in size.

  Args:
    results: of `run`; without a sweep.
    sizes: of each variant the line that it belongs to, and its size.
    metric: which one.
    path: of the PNG.
    labels: of the horizontal and the vertical axis.

  Raises:
    ValueError: the lines have not all the same sizes.
  """
  lines_of: dict[str, dict[int, np.ndarray]] = {}
  for name, _, found in pictures.by_point(results, metric):
    if name in sizes:
      line, size = sizes[name]
      lines_of.setdefault(line, {})[size] = found[:, -1]
  every = {tuple(sorted(found)) for found in lines_of.values()}
  if len(every) != 1:
    raise ValueError(
      f"lines have the sizes {sorted(every)}; give all the same."
    )
  (x,) = every
  values = {
    line: np.stack([found[size] for size in x], 1)
    for line, found in lines_of.items()
  }
  lines(values, np.array(x), path, labels, log_x=True)
