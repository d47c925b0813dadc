"""Episodes of images, for memories that store and recall a set of them.

An episode is T random images, distinct if there are enough. Data sets stay on
the device as uint8. Queries for recall are corrupted images: `flip` and
`occlude`.

| name | training images | test images | values |
| --- | --- | --- | --- |
| digits | 1,437 | 360 others | 8x8x1, 0 or 1 |
| mnist | 60,000 | 10,000 others | 28x28x1, 0 or 1 |
| generated | 3,000 of 150 characters | 1,000 of 50 others | 28x28x1, 0 or 1 |
| omniglot | 19,280 of 964 characters | 13,180 of 659 others | 28x28x1, 0 or 1 |
| cifar10 | 50,000 | 10,000 others | 32x32x3, 0 to 1 |
| cifar10_small | 10,000 | 2,000 others | 32x32x3, 0 to 1 |

The splits are those of `lilly.data.datasets`; Omniglot's is its authors' split
by alphabets.
"""

import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lilly import checks
from lilly.data import datasets
from lilly.tasks import characters

__all__ = [
  "NAMES",
  "Episode",
  "Part",
  "Task",
  "episode",
  "flip",
  "occlude",
  "sample_below",
  "task",
]

# Task -> whether pixels are binary, rather than any number from 0 to 1.
NAMES: dict[str, bool] = {
  "digits": True,
  "mnist": True,
  "generated": True,
  "omniglot": True,
  "cifar10": False,
  "cifar10_small": False,
}


class Part(NamedTuple):
  """Training or test images of a data set, sorted by class."""

  images: jax.Array  # uint8 [N, H, W, C]; 0 or 255 if binary
  labels: jax.Array  # int32 [N], ascending
  starts: jax.Array  # int32 [classes + 1], first index of each class, and N


class Episode(NamedTuple):
  """Images and their classes."""

  images: jax.Array  # [T, H, W, C] float32, from 0 to 1
  labels: jax.Array  # [T] int32


class Task(NamedTuple):
  """A source of episodes, and the form of their images."""

  shape: tuple[int, int, int]  # shape of an image: H, W, C
  is_binary: bool  # pixels are 0 or 1
  # sample(key, data, num_items, num_classes=None) -> images [T, H, W, C]; the
  # last two arguments are static, num_classes as in `episode`
  sample: Callable[..., jax.Array]
  # test(key, data, num_items, num_classes=None) -> likewise, of test images
  test: Callable[..., jax.Array]
  data: tuple[Part, Part]  # training and test images


def episode(
  key: jax.Array,
  part: Part,
  num_items: int,
  num_classes: int | None = None,
  *,
  dequantized: bool = False,
) -> Episode:
  """Draws images without replacement, from all classes or from a few.

  The classes are drawn first, without replacement, and then the images from the
  union of these classes. If that has fewer than num_items images, they are
  drawn with replacement. O(T²), independent of the size of the data set.

  Args:
    key: typed key.
    part: images to draw from.
    num_items: number of images, T.
    num_classes: number of classes to draw the images from; None: all.
    dequantized: add noise U[0, 1) to bytes x and divide by 256, so that the
      likelihood is a density; else x / 255.

  Returns:
    The episode.

  Raises:
    ValueError: num_items is not positive, or num_classes is out of range.

  Reference:
    Wu et al., 2018 (arXiv 1804.01756): 32 images, and fewer classes to measure
    a memory's capacity (unconfirmed).

  >>> part = task("digits").data[0]
  >>> drawn = episode(jax.random.key(0), part, 32, num_classes=2)
  >>> drawn.images.shape, len(set(drawn.labels.tolist()))
  ((32, 8, 8, 1), 2)
  """
  part = jax.tree.map(jnp.asarray, part)
  num_items = checks.whole_number("num_items", num_items, least=1)
  if num_classes is not None:
    num_classes = checks.whole_number(
      "num_classes", num_classes, least=1, most=len(part.starts) - 1
    )
  key, key_noise = jax.random.split(key)
  if num_classes is None:
    bits = jax.random.bits(key, (2, num_items))
    rows = sample_below(bits, len(part.labels))
  else:
    key_class, key_row = jax.random.split(key)
    bits = jax.random.bits(key_class, (2, num_classes))
    classes = sample_below(bits, len(part.starts) - 1)
    first = part.starts[classes]
    counts = part.starts[classes + 1] - first
    ends = jnp.cumsum(counts)
    numbers = sample_below(jax.random.bits(key_row, (2, num_items)), ends[-1])
    which = jnp.searchsorted(ends, numbers, side="right")
    rows = numbers + (first - (ends - counts))[which]
  images = part.images[rows].astype(jnp.float32)
  if dequantized:
    images = (images + jax.random.uniform(key_noise, images.shape)) / 256
  else:
    images = images / 255
  return Episode(images, part.labels[rows])


def sample_below(bits: jax.Array, size: int | jax.Array) -> jax.Array:
  """Samples T of the numbers 0 .. size - 1 by Floyd's algorithm.

  The numbers are distinct if size >= T. A permutation of all numbers would take
  time proportional to size.

  Args:
    bits: random bits for the sample and for its order, uint32 [2, T].
    size: at least 1, and small compared with 2^32.

  Returns:
    The numbers in random order, int32 [T].

  >>> bits = jax.random.bits(jax.random.key(0), (2, 3))
  >>> sorted(sample_below(bits, 3).tolist())
  [0, 1, 2]
  """
  count = bits.shape[1]
  is_enough = size >= count
  last = size - count + jnp.arange(count)
  bounds = jnp.where(is_enough, last + 1, size).astype(bits.dtype)
  drawn = (bits[0] % bounds).astype(last.dtype)

  def insert(i, chosen):
    is_taken = is_enough & (chosen == drawn[i]).any()
    # last[i] is larger than all previous numbers, so it is not taken.
    return chosen.at[i].set(jnp.where(is_taken, last[i], drawn[i]))

  none = jnp.full(count, -1, drawn.dtype)
  chosen = jax.lax.fori_loop(0, count, insert, none)
  return chosen[jnp.argsort(bits[1])]  # shuffled: large numbers come late


def flip(
  key: jax.Array, images: jax.Array, probability: float | jax.Array
) -> jax.Array:
  """Inverts each pixel independently with a given probability.

  x becomes 1 - x with that probability: salt-and-pepper noise on binary images.

  Args:
    key: typed key.
    images: pixels from 0 to 1, of any shape; whole numbers count as float32.
    probability: probability of inverting a pixel, [].

  Returns:
    Images of the same shape.

  Raises:
    ValueError: probability is not between 0 and 1.

  Reference:
    Wu et al., 2018 (arXiv 1811.09556): 0.15 (unconfirmed).

  >>> flip(jax.random.key(0), jnp.array([0.0, 1.0]), 1.0).tolist()
  [1.0, 0.0]
  """
  images = checks.real("images", images, "...")
  probability = checks.number("probability", probability, least=0, most=1)
  is_flipped = jax.random.bernoulli(key, probability, images.shape)
  return jnp.where(is_flipped, 1 - images, images)


def occlude(key: jax.Array, images: jax.Array, size: int) -> jax.Array:
  """Sets a square block of each image to 0, at a random position.

  Args:
    key: typed key.
    images: images, [T, H, W, C].
    size: side of the block in pixels; the block lies within the image.

  Returns:
    Images of the same shape.

  Raises:
    ValueError: the block is empty or does not fit.

  Reference:
    Bartunov et al., 2020 (arXiv 1910.02720): 16 x 16.

  >>> left = occlude(jax.random.key(0), jnp.ones((3, 8, 8, 1)), 5)
  >>> left.sum((1, 2, 3)).tolist()
  [39.0, 39.0, 39.0]
  """
  images = checks.array("images", images, "T H W C")
  count, *sides, _ = images.shape
  size = checks.whole_number("size", size, least=1, most=min(sides))
  most = jnp.array([[side - size + 1 for side in sides]])
  corners = jax.random.randint(key, (count, 2), 0, most)
  from_corner = [
    jnp.arange(side)[None] - corners[:, i, None] for i, side in enumerate(sides)
  ]
  rows, columns = ((d >= 0) & (d < size) for d in from_corner)
  is_hidden = rows[:, :, None, None] & columns[:, None, :, None]
  return jnp.where(is_hidden, 0, images)


def task(
  name: str = "digits",
  data_dir: str | os.PathLike[str] | None = None,
  *,
  image_size: int = 28,
) -> Task:
  """Makes a task of episodes of images, with held-out images for tests.

  Handwriting is binarised: pixels are 1 where more than half is ink, else 0.
  Photographs are dequantised, also in tests.

  Args:
    name: a key of `NAMES`; see the table above.
    data_dir: as in `datasets.load`; not used for digits and generated.
    image_size: side of characters' images (generated, omniglot) in pixels; not
      used for other data sets.

  Returns:
    The task. For labelled episodes, call `episode` with a part of its data.

  Raises:
    ValueError: there is no such task, or a size is out of range.
    FileNotFoundError: data_dir does not exist or lacks a file.
    DataError: the data set is unavailable; see `datasets.load`.

  Reference:
    Wu et al., 2018 (arXiv 1804.01756), with a different split of Omniglot, into
    24,345 and 8,070 images.
  """
  if name not in NAMES:
    known = ", ".join(NAMES)
    raise ValueError(f"name={name!r} is unknown; known: {known}.")
  image_size = checks.whole_number("image_size", image_size, least=1)
  is_binary = NAMES[name]
  train, test = (
    _part(*labelled, is_binary)
    for labelled in _labelled(name, data_dir, image_size)
  )
  draw = functools.partial(episode, dequantized=not is_binary)

  def sample(key, data, num_items, num_classes=None):
    return draw(key, data[0], num_items, num_classes).images

  def held_out(key, data, num_items, num_classes=None):
    return draw(key, data[1], num_items, num_classes).images

  _, rows, columns, channels = train.images.shape
  shape = rows, columns, channels
  return Task(shape, is_binary, sample, held_out, (train, test))


def _labelled(
  name: str, data_dir: Any, image_size: int
) -> list[tuple[np.ndarray, np.ndarray]]:
  """Loads training and test images with their labels."""
  if name not in ("generated", "omniglot"):
    parts = [datasets.load(name, part, data_dir) for part in ("train", "test")]
    return [(part.images, part.labels) for part in parts]
  parts, first = [], 0
  for ink in characters.load(name, data_dir, image_size=image_size):
    # Test characters have labels different from the training characters'.
    labels = np.repeat(first + np.arange(len(ink)), ink.shape[1])
    parts.append((ink.reshape(-1, image_size, image_size), labels))
    first += len(ink)
  return parts


def _part(images, labels, is_binary):
  """Sorts by class, binarises at half, and adds the channel axis."""
  order = np.argsort(labels, kind="stable")
  images, labels = images[order], labels[order].astype(np.int32)
  if is_binary:
    images = np.where(images > 128, 255, 0).astype(np.uint8)
  images = images.reshape(*images.shape[:3], -1)
  _, starts = np.unique(labels, return_index=True)
  starts = np.append(starts, len(labels)).astype(np.int32)
  arrays: Any = images, labels, starts  # numpy arrays until moved to a device
  return Part(*arrays)
