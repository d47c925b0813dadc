"""Supervised tasks: streams of inputs and targets drawn by key.

A task is a record of functions and sizes, so that a learner written for one
runs on all: teacher networks, whose examples are generated, and labelled
images, whose data set stays on the device as bytes.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lilly import checks
from lilly.data import datasets

__all__ = ["Task", "images", "teacher"]


class Task(NamedTuple):
  """A source of examples, and the sizes of a network for them."""

  num_inputs: int
  num_outputs: int
  # init(key) -> instance: the random state of a task, fixed within a run
  init: Callable[[jax.Array], Any]
  # sample(key, instance, data, batch_size) -> inputs [B, in], targets [B, out]
  sample: Callable[..., tuple[jax.Array, jax.Array]]
  # test(instance, data) -> inputs [N, in], targets [N, out], deterministic
  test: Callable[[Any, Any], tuple[jax.Array, jax.Array]]
  # arrays of the data set, () if there is none
  data: Any = ()


def teacher(sizes: Sequence[int], *, scale: float = 1.0) -> Task:
  """Makes a task of imitating a random network.

  y* = W_L tanh(... tanh(W_1 x)), weights U[-scale, scale], x ~ N(0, I); linear
  without hidden layers. No biases.

  Args:
    sizes: numbers of units of the input, the hidden layers and the output.
    scale: bound of the absolute value of the teacher's weights, positive.

  Returns:
    The task; an instance is the list of weights, each [in, out].

  Raises:
    ValueError: there are fewer than two sizes, or one of them or the scale is
      not positive.

  Reference:
    Lillicrap et al., 2014 (arXiv 1411.0247): 30-10 in figure 1, 30-20-10-10 in
    figure 3. The scale of the nonlinear teacher is not published.

  >>> task = teacher([3, 2])
  >>> instance = task.init(jax.random.key(0))
  >>> x, y = task.sample(jax.random.key(1), instance, (), 5)
  >>> x.shape, y.shape
  ((5, 3), (5, 2))
  """
  scale = checks.number("scale", scale, above=0)
  sizes = [checks.whole_number("sizes", n, least=-math.inf) for n in sizes]
  if len(sizes) < 2 or min(sizes) < 1:
    raise ValueError(
      f"sizes is {list(sizes)}; it must be at least two positive integers."
    )

  def init(key):
    keys = jax.random.split(key, len(sizes) - 1)
    shapes = zip(keys, sizes[:-1], sizes[1:], strict=True)
    return [
      jax.random.uniform(key, (n, m), minval=-scale, maxval=scale)
      for key, n, m in shapes
    ]

  def sample(key, weights, data, batch_size):
    del data
    x = h = jax.random.normal(key, (batch_size, sizes[0]))
    for w in weights[:-1]:
      h = jnp.tanh(h @ w)
    return x, h @ weights[-1]

  def test(weights, data):
    return sample(jax.random.key(0), weights, data, 1000)

  return Task(sizes[0], sizes[-1], init, sample, test)


def images(
  name: str, data_dir: str | None = None, *, held_out: bool = False
) -> Task:
  """Makes a task of classifying the images of a data set.

  Inputs are pixels from 0 to 1, flattened; targets are one-hot. Batches are
  drawn with replacement.

  Args:
    name: a data set of `datasets` with classes 0 to 9.
    data_dir: as in `datasets.load`.
    held_out: hold out the last sixth of the training images and test on it
      instead of on the test images, for choosing hyper-parameters.

  Returns:
    The task; an instance is ().

  Raises:
    DataError: the data set is unavailable; see `datasets.load`.
  """
  train = datasets.load(name, "train", data_dir)
  test = datasets.load(name, "test", data_dir)
  parts = [
    (_flat(train.images), train.labels),
    (_flat(test.images), test.labels),
  ]
  if held_out:
    (x, labels), _ = parts
    cut = len(labels) * 5 // 6
    parts = [(x[:cut], labels[:cut]), (x[cut:], labels[cut:])]

  def prepare(x, labels):
    return x.astype(jnp.float32) / 255, jax.nn.one_hot(labels, 10)

  def sample(key, instance, data, batch_size):
    del instance
    x, labels = data[0]
    rows = jax.random.randint(key, (batch_size,), 0, len(labels))
    return prepare(x[rows], labels[rows])

  return Task(
    num_inputs=parts[0][0].shape[1],
    num_outputs=10,
    init=lambda key: (),
    sample=sample,
    test=lambda instance, data: prepare(*data[1]),
    data=parts,
  )


def _flat(x: np.ndarray) -> np.ndarray:
  return x.reshape(len(x), -1)
