"""Grids of images: originals, queries, reconstructions, samples."""

import pathlib
from collections.abc import Mapping

import numpy as np

from lilly.figures import canvas

__all__ = ["plot_grid"]

_INCHES = 0.5  # width of an image


@canvas.with_own_style
def plot_grid(rows: Mapping[str, np.ndarray], path: pathlib.Path) -> None:
  """Plots named rows of images.

  The range of values is fixed: 0 is black, 1 is white.

  Args:
    rows: name -> images, [N, H, W] or [N, H, W, C] with one channel or three.
    path: PNG to write.

  Raises:
    ValueError: there are no images, their shapes differ, or the number of
      channels is not 1 or 3.
  """
  images = {name: _with_channels(name, found) for name, found in rows.items()}
  shapes = {found.shape for found in images.values()}
  if len(shapes) != 1 or 0 in next(iter(shapes)):
    raise ValueError(
      f"rows have the shapes {sorted(shapes)}; give images of one shape, and "
      "the same number in each row."
    )
  ((count, height, width, channels),) = shapes
  # One combined image: separate axes for each would take many seconds.
  tiles = np.stack([*images.values()])
  gap = [(0, 0), (0, 0), (0, 1), (0, 1), (0, 0)]
  tiles = np.pad(np.clip(tiles, 0, 1), gap, constant_values=1.0)
  tiles = tiles.transpose(0, 2, 1, 3, 4)
  mosaic_shape = len(images) * (height + 1), count * (width + 1), channels
  mosaic = tiles.reshape(mosaic_shape)[:-1, :-1]
  fig, ((ax,),) = canvas.subplots(1, 1)
  shown = mosaic[..., 0] if channels == 1 else mosaic
  ax.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
  middles = (height + 1) * np.arange(len(images)) + (height - 1) / 2
  ax.set_yticks(middles, [*images])
  ax.set_xticks([])
  ax.tick_params(length=0)
  ax.spines[:].set_visible(False)
  ax.grid(False)
  _fit(fig, ax, _INCHES * count, _INCHES * len(images) * height / width)
  canvas.save(fig, path)


def _fit(fig, ax, width, height, margin=0.08):
  """Fits the figure to axes of this size, in inches, and their labels.

  Matplotlib's own layout cuts off labels beside axes of fixed aspect ratio.
  """
  fig.set_layout_engine("none")
  names = [label.get_window_extent().width for label in ax.get_yticklabels()]
  left = max(names) / fig.dpi + 2 * margin
  size = left + width + margin, height + 2 * margin
  fig.set_size_inches(size)
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
