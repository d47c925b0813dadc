"""Handwritten characters as ink on small images: generated, or Omniglot's.

Both are uint8 [classes, drawings, size, size], 255 where there is ink.
Generated characters need no file: a class is a few strokes, and each drawing
slightly perturbs their control points and the whole character.
"""

import functools
import math
import os

import jax
import jax.numpy as jnp
import numpy as np

from lilly import checks
from lilly.data import datasets

__all__ = ["generate", "load", "omniglot"]

_MAX_STROKES = 4
_NUM_POINTS = 9  # of the polyline that approximates a stroke
_RADIUS = 0.03  # of the pen, relative to the side of the image
_CHUNK = 1000  # images resized at once


def generate(
  key: jax.Array,
  *,
  num_classes: int = 200,
  num_drawings: int = 20,
  image_size: int = 20,
) -> jax.Array:
  """Generates random characters.

  A class is two to four strokes, quadratic Bezier curves B(u) = (1 - u)² p_0 +
  2 u (1 - u) p_1 + u² p_2, straight or bent, most of which begin at the end or
  the midpoint of the previous one. A drawing adds noise to the control points,
  then rotates, scales and shifts the character. A pixel's ink is clip((radius -
  distance to the nearest stroke) size + 1/2, 0, 1).

  Args:
    key: typed key; the same key gives the same characters.
    num_classes: number of characters.
    num_drawings: number of drawings of each character.
    image_size: side of the images, in pixels.

  Returns:
    Ink from 0 to 255, uint8 [num_classes, num_drawings, image_size,
    image_size].

  Raises:
    ValueError: a size is not positive.

  >>> ink = generate(
  ...   jax.random.key(0), num_classes=2, num_drawings=3, image_size=8
  ... )
  >>> ink.shape, ink.dtype
  ((2, 3, 8, 8), dtype('uint8'))
  """
  num_classes = checks.whole_number("num_classes", num_classes, least=1)
  num_drawings = checks.whole_number("num_drawings", num_drawings, least=1)
  image_size = checks.whole_number("image_size", image_size, least=1)
  return _generate(key, num_classes, num_drawings, image_size)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _generate(key, num_classes, num_drawings, image_size):
  # A single draw, since compiling one takes longer than running it.
  widths = [13 * _MAX_STROKES + 1, num_drawings * (6 * _MAX_STROKES + 5)]
  u = jax.random.uniform(key, (num_classes, sum(widths)))

  def draw_class(u):
    strokes, is_used = _strokes(u[: widths[0]])
    noise = 2 * u[widths[0] :].reshape(num_drawings, -1) - 1
    points = jax.vmap(_moved, in_axes=(None, 0))(strokes, noise)
    return _ink(points, is_used, image_size)

  return jax.lax.map(draw_class, u)


def _strokes(numbers: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Makes control points [strokes, 3, 2] in 0..1, and a mask of used strokes.

  Args:
    numbers: uniform random numbers in [0, 1), [13 strokes + 1].
  """
  strokes = []
  for u in numbers[:-1].reshape(_MAX_STROKES, 13):
    p0 = 0.15 + 0.7 * u[:2]
    if strokes:  # Most begin at the end or the midpoint of the previous one.
      last = strokes[-1]
      middle = jnp.array([0.25, 0.5, 0.25]) @ last
      p0 = jnp.where(u[2] < 0.35, last[2], jnp.where(u[2] < 0.7, middle, p0))
    p2 = _end(u[3:11], p0, strokes)
    across = (p2 - p0)[::-1] * jnp.array([1.0, -1.0])
    bend = jnp.where(u[11] < 0.4, 0.0, 3 * (u[12] - 0.5))
    strokes.append(jnp.stack([p0, 0.5 * (p0 + p2) + bend * across, p2]))
  is_used = jnp.arange(_MAX_STROKES) < 2 + jnp.floor(3 * numbers[-1])
  return jnp.clip(jnp.stack(strokes), 0.0, 1.0), is_used


def _end(u: jax.Array, start: jax.Array, strokes: list[jax.Array]) -> jax.Array:
  """Chooses an end far from existing points; two of four are axis-aligned."""
  across, down, anywhere, other = 0.1 + 0.8 * u.reshape(4, 2)
  ends = jnp.stack(
    [
      jnp.stack([start[0], down[1]]),
      jnp.stack([across[0], start[1]]),
      anywhere,
      other,
    ]
  )
  drawn = jnp.concatenate([start[None], *strokes])
  distance = jnp.square(ends[:, None] - drawn[None]).sum(-1).min(-1)
  return ends[distance.argmax()]


def _moved(strokes: jax.Array, noise: jax.Array) -> jax.Array:
  """Returns the control points of one drawing; noise U[-1, 1)."""
  shake, (angle, *rest) = noise[:-5], noise[-5:]
  points = strokes + 0.05 * shake.reshape(strokes.shape)
  cos, sin = jnp.cos(0.25 * angle), jnp.sin(0.25 * angle)
  scale = 0.9 + 0.2 * jnp.stack(rest[:2])
  turn = jnp.array([[cos, -sin], [sin, cos]]) * scale[:, None]
  shift = 0.1 * jnp.stack(rest[2:])
  return (points - 0.5) @ turn + (0.5 + shift)[None, None]


def _ink(strokes: jax.Array, is_used: jax.Array, size: int) -> jax.Array:
  """Renders strokes [..., s, 3, 2], with one image per drawing."""
  u = jnp.linspace(0.0, 1.0, _NUM_POINTS)
  basis = jnp.stack([(1 - u) ** 2, 2 * u * (1 - u), u**2], axis=1)
  points = jnp.einsum("uk,dskx->dsux", basis, strokes)
  start, along = points[:, :, :-1], jnp.diff(points, axis=2)  # [d, s, m, 2]
  middles = (jnp.arange(size) + 0.5) / size
  pixels = jnp.stack(jnp.meshgrid(middles, middles, indexing="ij"), axis=-1)
  offset = pixels[:, :, None, None, None] - start[None, None]
  part = (offset * along[None, None]).sum(-1)
  part = part / jnp.maximum(jnp.square(along).sum(-1), 1e-12)[None, None]
  nearest = jnp.clip(part, 0, 1)[..., None] * along[None, None]
  distance = jnp.sqrt(jnp.square(offset - nearest).sum(-1)).min(-1)
  distance = jnp.where(is_used, distance, jnp.inf).min(-1)  # [size, size, d]
  ink = jnp.clip((_RADIUS - distance) * size + 0.5, 0, 1)
  return jnp.round(255 * jnp.moveaxis(ink, -1, 0)).astype(jnp.uint8)


def omniglot(
  split: str,
  data_dir: str | os.PathLike[str] | None = None,
  *,
  image_size: int = 20,
) -> np.ndarray:
  """Loads Omniglot's characters, resized.

  A pixel is the mean ink of the area it covers in the 105 x 105 image.

  Args:
    split: "train", "test", "small1" or "small2", as in `datasets.load`.
    data_dir: as in `datasets.load`.
    image_size: side of the images, in pixels, at most 105.

  Returns:
    Ink from 0 to 255, uint8 [classes, 20, image_size, image_size].

  Raises:
    ValueError: there is no such split, or a size is out of range.
    FileNotFoundError: data_dir does not exist or lacks a file.
    DataError: the data set is unavailable; see `datasets.load`.

  Reference:
    Lake, Salakhutdinov and Tenenbaum, 2015, Science 350:1332; 20 x 20 pixels in
    Santoro et al., 2016 (arXiv 1605.06065), section 4.2.
  """
  image_size = checks.whole_number("image_size", image_size, least=1, most=105)
  loaded = datasets.load("omniglot", split, data_dir)
  _, counts = np.unique(loaded.labels, return_counts=True)
  shape = (len(counts), math.gcd(*counts.tolist()), image_size, image_size)
  return _smaller(255 - loaded.images, image_size).reshape(shape)


def load(
  name: str,
  data_dir: str | os.PathLike[str] | None = None,
  *,
  image_size: int = 20,
) -> tuple[np.ndarray, np.ndarray]:
  """Loads training characters and different test characters.

  Args:
    name: "generated" (150 and 50, from a fixed seed) or "omniglot" (964 and
      659, of different alphabets).
    data_dir: for Omniglot, as in `datasets.load`.
    image_size: side of the images, in pixels.

  Returns:
    Ink of both, uint8 [classes, 20, image_size, image_size].

  Raises:
    ValueError: there are no such characters, or a size is out of range.
    FileNotFoundError: data_dir does not exist or lacks a file.
    DataError: the data set is unavailable; see `datasets.load`.
  """
  if name == "generated":
    ink = np.asarray(generate(jax.random.key(0), image_size=image_size))
    return ink[:150], ink[150:]
  if name == "omniglot":
    return (
      omniglot("train", data_dir, image_size=image_size),
      omniglot("test", data_dir, image_size=image_size),
    )
  raise ValueError(f"name={name!r} is unknown; known: generated, omniglot.")


def _smaller(images: np.ndarray, size: int) -> np.ndarray:
  """Resizes images uint8 [N, S, S] to uint8 [N, size, size] by averaging."""
  full = images.shape[1]
  edges = np.arange(size + 1) * (full / size)
  low, high = edges[:-1, None], edges[1:, None]
  pixel = np.arange(full)[None]
  covered = np.clip(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0, 1)
  weights = (covered * (size / full)).astype(np.float32)
  small = np.empty((len(images), size, size), np.uint8)
  for start in range(0, len(images), _CHUNK):
    part = images[start : start + _CHUNK].astype(np.float32)
    small[start : start + _CHUNK] = np.rint(weights @ part @ weights.T)
  return small
