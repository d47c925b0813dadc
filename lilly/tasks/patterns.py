"""Patterns to store, and corrupted patterns as queries.

A query is a pattern of which a part is resampled; a resampled value may equal
the original. The resampled positions are returned too, for memories that are
given them. For flipped pixels, see `image_episodes.flip`.
"""

import functools
import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lilly import checks
from lilly.memory import energy
from lilly.tasks import image_episodes

__all__ = [
  "FILLS",
  "Query",
  "Task",
  "draw_bits",
  "make_binary_task",
  "make_image_task",
  "measure_distance",
  "redraw_bits",
  "replace_block",
  "to_image",
]

FILLS = ("bits", "noise", "hidden")


class Query(NamedTuple):
  """A damaged pattern."""

  pattern: jax.Array  # the damaged pattern, [...]
  is_damaged: jax.Array  # where it may differ from the original, bool [...]


class Task(NamedTuple):
  """Sets of patterns as in `image_episodes.Task`, and how one is damaged."""

  shape: tuple[int, ...]  # shape of a pattern
  is_binary: bool
  sample: Callable[..., jax.Array]  # key, data, num_items -> [N, ...]
  test: Callable[..., jax.Array]  # likewise, from held-out patterns
  data: Any
  damage: Callable[[jax.Array, jax.Array], Query]  # key, pattern


def draw_bits(key: jax.Array, num_bits: int) -> jax.Array:
  """Draws a pattern of independent, uniform bits.

  Args:
    key: typed key.
    num_bits: number of bits, D.

  Returns:
    The pattern, float32 [D].

  Raises:
    ValueError: num_bits is not positive.

  Reference:
    Bartunov et al. (2020), arXiv:1910.02720, section 4: D = 128.

  >>> sorted(set(draw_bits(jax.random.key(0), 64).tolist()))
  [0.0, 1.0]
  """
  num_bits = checks.whole_number("num_bits", num_bits, least=1)
  return jax.random.bernoulli(key, shape=(num_bits,)).astype(jnp.float32)


def redraw_bits(key: jax.Array, pattern: jax.Array, count: int) -> Query:
  """Resamples some bits of a pattern; on average half of them change.

  Args:
    key: typed key.
    pattern: bits 0 and 1, [...].
    count: number of bits to resample, at distinct random positions.

  Returns:
    The query.

  Raises:
    ValueError: count is negative or exceeds the number of bits.

  Reference:
    Bartunov et al. (2020), arXiv:1910.02720, section 4: 64 of 128 bits.

  >>> query = redraw_bits(jax.random.key(0), jnp.zeros(8), 3)
  >>> int(query.is_damaged.sum())
  3
  """
  pattern = checks.array("pattern", pattern, "...")
  count = checks.whole_number("count", count, most=pattern.size)
  # Ranks and bits from a single draw, because each draw takes long to compile.
  drawn = jax.random.bits(key, (2, *pattern.shape))
  ranks = jnp.argsort(jnp.argsort(drawn[0].ravel())).reshape(pattern.shape)
  new = (drawn[1] % 2).astype(pattern.dtype)
  return Query(jnp.where(ranks < count, new, pattern), ranks < count)


def replace_block(
  key: jax.Array, image: jax.Array, size: int, *, fill: str = "noise"
) -> Query:
  """Replaces a square block of an image, at a random position.

  Args:
    key: typed key.
    image: pixels from 0 to 1, [H, W, C].
    size: side of the block in pixels; the block lies within the image.
    fill: new values of the block: "bits" (uniform 0 or 1), "noise" (uniform
      from 0 to 1) or "hidden" (0).

  Returns:
    The query.

  Raises:
    ValueError: the block is empty or does not fit, or fill is unknown.

  Reference:
    Bartunov et al. (2020), arXiv:1910.02720: 16 x 16, with noise in the
    figures.

  >>> image = jnp.ones((4, 4, 1))
  >>> query = replace_block(jax.random.key(0), image, 3, fill="hidden")
  >>> float(query.pattern.sum()), int(query.is_damaged.sum())
  (7.0, 9)
  """
  if fill not in FILLS:
    raise ValueError(f"fill is {fill!r}; it must be one of {FILLS}.")
  image = checks.real("image", image, "H W C")
  key_place, key_fill = jax.random.split(key)
  ones = jnp.ones_like(image)[None]
  is_damaged = image_episodes.occlude(key_place, ones, size)[0] == 0
  new = jnp.zeros_like(image)
  if fill != "hidden":
    new = jax.random.uniform(key_fill, image.shape, image.dtype)
  new = jnp.round(new) if fill == "bits" else new
  return Query(jnp.where(is_damaged, new, image), is_damaged)


def make_binary_task(*, num_bits: int = 128, num_redrawn: int = 64) -> Task:
  """Makes a task of random bit patterns, of which a part is resampled.

  Args:
    num_bits: bits of a pattern, D.
    num_redrawn: bits that are resampled in a query.

  Returns:
    The task.

  Raises:
    ValueError: num_redrawn is negative or exceeds num_bits.

  Reference:
    Bartunov et al. (2020), arXiv:1910.02720, section 4.
  """
  num_bits = checks.whole_number("num_bits", num_bits, least=1)
  num_redrawn = checks.whole_number("num_redrawn", num_redrawn, most=num_bits)
  one = functools.partial(draw_bits, num_bits=num_bits)
  sample = lambda key, _, count: jax.vmap(one)(jax.random.split(key, count))
  damage = functools.partial(redraw_bits, count=num_redrawn)
  return Task((num_bits,), True, sample, sample, (), damage)


def make_image_task(
  name: str,
  data_dir: str | os.PathLike[str] | None = None,
  *,
  block_size: int = 16,
  fill: str = "noise",
) -> Task:
  """Makes a task of images of which a block is replaced.

  Args:
    name: as in `image_episodes.task`.
    data_dir: as in `image_episodes.task`.
    block_size: side of the block in pixels.
    fill: as in `replace_block`.

  Returns:
    The task.

  Raises:
    ValueError: as in those functions, or the block does not fit.

  Reference:
    Bartunov et al. (2020), arXiv:1910.02720, section 4.
  """
  images = image_episodes.task(name, data_dir)
  block_size = checks.whole_number(
    "block_size", block_size, least=1, most=min(images.shape[:2])
  )
  damage = functools.partial(replace_block, size=block_size, fill=fill)
  return Task(*images, damage)


def measure_distance(task: Task, x: jax.Array, pattern: jax.Array) -> jax.Array:
  """Measures the distance between a reconstruction and the stored pattern.

  Args:
    task: the task of the pattern.
    x: the memory's output, of the pattern's shape.
    pattern: the stored pattern, shaped as x.

  Returns:
    The number of wrong bits if patterns are binary, else the sum of squared
    errors, float32 [].

  Reference:
    Bartunov et al. (2020), arXiv:1910.02720, section 4.

  >>> x, pattern = jnp.array([0.75, 0.5]), jnp.array([0.25, 0.5])
  >>> task = make_binary_task(num_bits=2, num_redrawn=1)
  >>> float(measure_distance(task, x, pattern))
  1.0
  >>> float(measure_distance(task._replace(is_binary=False), x, pattern))
  0.25
  """
  sizes = {}
  x = checks.real("x", x, "*S", sizes)
  pattern = checks.real("pattern", pattern, "*S", sizes)
  if task.is_binary:
    return energy.error_bits(x, pattern).astype(jnp.float32)
  return jnp.sum(jnp.square(x - pattern), dtype=jnp.float32)


def to_image(x: jax.Array) -> jax.Array:
  """Reshapes vectors to images, as nearly square as possible.

  Args:
    x: vectors, [..., D].

  Returns:
    [..., H, W], H at most W.

  >>> to_image(jnp.zeros((3, 32))).shape
  (3, 4, 8)
  """
  x = checks.array("x", x, "... D")
  size = x.shape[-1]
  side = max(h for h in range(1, math.isqrt(size) + 1) if size % h == 0)
  return x.reshape(*x.shape[:-1], side, -1)
