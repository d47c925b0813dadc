"""Patterns to be stored, and the damage that is done to queries.

A query is a pattern of which a part was drawn anew; what is drawn may be what
was there. The places are given, for memories that may know them. Pixels that
are exchanged: `image_episodes.flip`.
"""

import functools
import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

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

  pattern: jax.Array  # as the one that was stored, [...]
  is_damaged: jax.Array  # where it may be another, bool [...]


class Task(NamedTuple):
  """Sets of patterns, and what damages one: `image_episodes.Task`, and more."""

  shape: tuple[int, ...]  # of a pattern
  is_binary: bool
  sample: Callable[..., jax.Array]  # key, data, num_items -> [N, ...]
  test: Callable[..., jax.Array]  # the same, of other patterns
  data: Any
  damage: Callable[[jax.Array, jax.Array], Query]  # key, pattern


def draw_bits(key: jax.Array, num_bits: int) -> jax.Array:
  """Draws a pattern of bits, each 0 or 1 with equal chance.

  Args:
    key: typed key.
    num_bits: D.

  Returns:
    The pattern, float32 [D].

  Raises:
    ValueError: if num_bits is not positive.

  Reference:
    Bartunov et al. (2020), arXiv:1910.02720, section 4: D = 128.

  >>> sorted(set(draw_bits(jax.random.key(0), 64).tolist()))
  [0.0, 1.0]
  """
  if num_bits < 1:
    raise ValueError(f"num_bits is {num_bits}; it must be at least 1.")
  return jax.random.bernoulli(key, shape=(num_bits,)).astype(jnp.float32)


def redraw_bits(key: jax.Array, pattern: jax.Array, count: int) -> Query:
  """Draws some bits of a pattern anew: half of them come out as they were.

  Args:
    key: typed key.
    pattern: of 0 and 1, [...].
    count: how many bits are drawn anew, places chosen at random, none twice.

  Returns:
    The query.

  Raises:
    ValueError: if there are not so many bits, or count is negative.

  Reference:
    Bartunov et al. (2020), arXiv:1910.02720, section 4: 64 of 128 bits.

  >>> query = redraw_bits(jax.random.key(0), jnp.zeros(8), 3)
  >>> int(query.is_damaged.sum())
  3
  """
  if not 0 <= count <= pattern.size:
    raise ValueError(f"count is {count}; it must be from 0 to {pattern.size}.")
  # Of one draw, for each takes long to compile: ranks, and the bits.
  drawn = jax.random.bits(key, (2, *pattern.shape))
  ranks = jnp.argsort(jnp.argsort(drawn[0].ravel())).reshape(pattern.shape)
  new = (drawn[1] % 2).astype(pattern.dtype)
  return Query(jnp.where(ranks < count, new, pattern), ranks < count)


def replace_block(
  key: jax.Array, image: jax.Array, size: int, *, fill: str = "noise"
) -> Query:
  """Replaces a square block of an image, at a place drawn at random.

  Args:
    key: typed key.
    image: from 0 to 1, [H, W, C].
    size: side of the block, which lies wholly within the image.
    fill: what comes there: "bits" of 0 and 1, "noise" from 0 to 1, or 0,
      "hidden".

  Returns:
    The query.

  Raises:
    ValueError: if the block is empty or does not fit, or fill is another.

  Reference:
    Bartunov et al. (2020), arXiv:1910.02720: 16 x 16, in their figures noise.

  >>> image = jnp.ones((4, 4, 1))
  >>> query = replace_block(jax.random.key(0), image, 3, fill="hidden")
  >>> float(query.pattern.sum()), int(query.is_damaged.sum())
  (7.0, 9)
  """
  if fill not in FILLS:
    raise ValueError(f"fill is {fill!r}; it must be one of {FILLS}.")
  key_place, key_fill = jax.random.split(key)
  ones = jnp.ones_like(image)[None]
  is_damaged = image_episodes.occlude(key_place, ones, size)[0] == 0
  new = jnp.zeros_like(image)
  if fill != "hidden":
    new = jax.random.uniform(key_fill, image.shape, image.dtype)
  new = jnp.round(new) if fill == "bits" else new
  return Query(jnp.where(is_damaged, new, image), is_damaged)


def make_binary_task(*, num_bits: int = 128, num_redrawn: int = 64) -> Task:
  """Makes sets of random bits, of which a part is drawn anew.

  Args:
    num_bits: D.
    num_redrawn: bits of a query.

  Returns:
    The task.

  Raises:
    ValueError: if there are not so many bits.

  Reference:
    Bartunov et al. (2020), arXiv:1910.02720, section 4.
  """
  if not 0 <= num_redrawn <= num_bits:
    raise ValueError(
      f"num_redrawn is {num_redrawn}; it must be from 0 to {num_bits}."
    )
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
  """Makes sets of images of which a block is replaced.

  Args:
    name: as of `image_episodes.task`.
    data_dir: the same.
    block_size: side of the block.
    fill: as of `replace_block`.

  Returns:
    The task.

  Raises:
    ValueError: as those functions; also if the block does not fit.

  Reference:
    Bartunov et al. (2020), arXiv:1910.02720, section 4.
  """
  images = image_episodes.task(name, data_dir)
  side = min(images.shape[:2])
  if not 1 <= block_size <= side:
    raise ValueError(
      f"block_size is {block_size}; it must be from 1 to {side}."
    )
  damage = functools.partial(replace_block, size=block_size, fill=fill)
  return Task(*images, damage)


def measure_distance(task: Task, x: jax.Array, pattern: jax.Array) -> jax.Array:
  """Measures how far what was read is from what was stored.

  Args:
    task: any.
    x: what was read, as a pattern of the task.
    pattern: what was stored.

  Returns:
    Wrong bits where patterns are binary, else the sum of squares, float32 [].

  Reference:
    Bartunov et al. (2020), arXiv:1910.02720, section 4.

  >>> x, pattern = jnp.array([0.75, 0.5]), jnp.array([0.25, 0.5])
  >>> task = make_binary_task(num_bits=2, num_redrawn=1)
  >>> float(measure_distance(task, x, pattern))
  1.0
  >>> float(measure_distance(task._replace(is_binary=False), x, pattern))
  0.25
  """
  chex.assert_equal_shape([x, pattern])
  if task.is_binary:
    return energy.error_bits(x, pattern).astype(jnp.float32)
  return jnp.sum(jnp.square(x - pattern), dtype=jnp.float32)


def to_image(x: jax.Array) -> jax.Array:
  """Lays bits out as a picture, as square as may be.

  Args:
    x: [..., D].

  Returns:
    [..., H, W], H at most W.

  >>> to_image(jnp.zeros((3, 32))).shape
  (3, 4, 8)
  """
  size = x.shape[-1]
  side = max(h for h in range(1, math.isqrt(size) + 1) if size % h == 0)
  return x.reshape(*x.shape[:-1], side, -1)
