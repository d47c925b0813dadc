"""Rendering with signed distances: images as uint8, drawn inside `jit`.

A shape is an array of signed distances to every pixel, in world units:
negative inside. Edges are anti-aliased, so that small movements are visible in
small images. Shapes are painted over one another onto a canvas; `image`
converts it to uint8.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lilly import checks
from lilly.envs import wrappers
from lilly.envs.environment import Environment, Spec

__all__ = [
  "BLACK",
  "BLUE",
  "GREEN",
  "GREY",
  "ORANGE",
  "Canvas",
  "box",
  "canvas",
  "capsule",
  "circle",
  "image",
  "paint",
  "pixels",
]

Point = Sequence[float | jax.Array] | jax.Array  # x and y, scalars

# Distinguishable by colour-blind readers.
BLACK = (0.15, 0.15, 0.15)
GREY = (0.75, 0.75, 0.75)
BLUE = (0.0, 0.447, 0.698)
ORANGE = (0.835, 0.369, 0.0)
GREEN = (0.0, 0.62, 0.451)


class Canvas(NamedTuple):
  """An unfinished image."""

  colours: jax.Array  # [size, size, 3], from 0 to 1; first row on top
  x: jax.Array  # [size, size], pixel centres in world units
  y: jax.Array  # [size, size], upwards
  pixel: float  # width of a pixel in world units


def canvas(
  size: int, width: float, centre: tuple[float, float] = (0.0, 0.0)
) -> Canvas:
  """Makes a white canvas.

  Args:
    size: height and width of the image, in pixels.
    width: width of the visible square, in world units.
    centre: centre of that square.

  Returns:
    The canvas.

  Raises:
    ValueError: size or width is not positive.

  >>> canvas(2, 4.0).x[0].tolist()
  [-1.0, 1.0]
  """
  size = checks.whole_number("size", size, least=1)
  width = checks.number("width", width, above=0)
  places = ((np.arange(size) + 0.5) / size - 0.5) * width
  x, y = np.meshgrid(centre[0] + places, centre[1] - places)
  x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
  return Canvas(jnp.ones((size, size, 3)), x, y, width / size)


def circle(canvas: Canvas, centre: Point, radius: float) -> jax.Array:
  """Measures the signed distance to a disc.

  Args:
    canvas: the canvas to be painted on.
    centre: centre of the disc.
    radius: radius of the disc.

  Returns:
    Distances, [size, size].

  >>> circle(canvas(1, 1.0), (3.0, 4.0), 1.0).tolist()
  [[4.0]]
  """
  return jnp.hypot(canvas.x - centre[0], canvas.y - centre[1]) - radius


def capsule(
  canvas: Canvas, start: Point, end: Point, radius: float
) -> jax.Array:
  """Measures the signed distance to a thick line with round ends.

  Args:
    canvas: the canvas to be painted on.
    start: one end of the line.
    end: the other end, a different point.
    radius: half the thickness.

  Returns:
    Distances, [size, size].

  >>> capsule(canvas(1, 1.0), (-1.0, 2.0), (1.0, 2.0), 0.5).tolist()
  [[1.5]]
  """
  along_x, along_y = end[0] - start[0], end[1] - start[1]
  x, y = canvas.x - start[0], canvas.y - start[1]
  part = (x * along_x + y * along_y) / (along_x**2 + along_y**2)
  part = jnp.clip(part, 0, 1)
  return jnp.hypot(x - part * along_x, y - part * along_y) - radius


def box(
  canvas: Canvas,
  centre: Point,
  half_sizes: tuple[float, float],
  angle: float | jax.Array = 0.0,
) -> jax.Array:
  """Measures the signed distance to a rectangle.

  Args:
    canvas: the canvas to be painted on.
    centre: centre of the rectangle.
    half_sizes: half its width and half its height.
    angle: counter-clockwise rotation, in radians.

  Returns:
    Distances, [size, size].

  >>> box(canvas(1, 1.0), (4.0, 5.0), (1.0, 1.0)).tolist()
  [[5.0]]
  """
  x, y = canvas.x - centre[0], canvas.y - centre[1]
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  beyond_x = jnp.abs(cos * x + sin * y) - half_sizes[0]
  beyond_y = jnp.abs(cos * y - sin * x) - half_sizes[1]
  outside = jnp.hypot(jnp.maximum(beyond_x, 0), jnp.maximum(beyond_y, 0))
  return outside + jnp.minimum(jnp.maximum(beyond_x, beyond_y), 0)


def paint(
  canvas: Canvas, distances: jax.Array, colour: tuple[float, float, float]
) -> Canvas:
  """Paints a shape.

  A pixel is covered by clip(1/2 - distance / width of a pixel, 0, 1).

  Args:
    canvas: the canvas so far.
    distances: signed distances to the shape, [size, size].
    colour: red, green and blue, from 0 to 1.

  Returns:
    The canvas.

  >>> white = canvas(1, 1.0)
  >>> paint(white, jnp.zeros((1, 1)), (0.0, 0.0, 1.0)).colours.tolist()
  [[[0.5, 0.5, 1.0]]]
  """
  cover = jnp.clip(0.5 - distances / canvas.pixel, 0, 1)[..., None]
  painted = cover * jnp.asarray(colour)[None, None]
  return canvas._replace(colours=(1 - cover) * canvas.colours + painted)


def image(canvas: Canvas) -> jax.Array:
  """Converts a canvas to a uint8 image.

  Args:
    canvas: the painted canvas.

  Returns:
    [size, size, 3] uint8.

  >>> image(canvas(1, 1.0)).tolist()
  [[[255, 255, 255]]]
  """
  return jnp.round(255 * canvas.colours).astype(jnp.uint8)


def pixels(
  env: Environment, size: int = 64, num_frames: int = 3
) -> Environment:
  """Replaces observations by rendered images.

  Each action is repeated `num_frames` times, and the frames after each repeat
  are stacked along the channels, oldest first.

  Args:
    env: an environment with `render`.
    size: height and width of the frames, in pixels.
    num_frames: frames in an observation, and repeats of an action.

  Returns:
    The environment, with the states of `env`; observations are
    [size, size, 3 num_frames] uint8.

  Raises:
    ValueError: env has no `render`, or a size is not positive.

  Reference:
    Lillicrap et al., 2016 (arXiv 1509.02971), section 4: 64 x 64 pixels, 3
    frames.

  >>> from lilly.envs import pendulum
  >>> pixels(pendulum.make()).observation_spec.shape
  (64, 64, 9)
  """
  render = env.render
  if render is None:
    raise ValueError("env has no render function; pixels needs one.")
  size = checks.whole_number("size", size, least=1)
  num_frames = checks.whole_number("num_frames", num_frames, least=1)

  def reset(key):
    state, _ = env.reset(key)
    return state, render(state, size)

  def step(key, state, action):
    state, step = env.step(key, state, action)
    return state, step._replace(observation=render(state, size))

  low, high = np.zeros((), np.uint8), np.full((), 255, np.uint8)
  spec = Spec((size, size, 3), jnp.uint8, low, high)
  seen = env._replace(
    reset=reset, step=step, observation_spec=spec, observe=None
  )
  return wrappers.action_repeat(seen, num_frames, stack=True)
