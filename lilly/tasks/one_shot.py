"""One-shot classification of characters that were not in the training set.

An episode shows drawings of a few classes in random order. Labels are assigned
to classes at random in every episode, and the true label of a drawing is input
one step later. So the network must bind drawings to labels in its memory, and
can be correct from the second presentation of a class on.
"""

import functools
import math
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lilly import checks
from lilly.tasks import characters, sequences
from lilly.tasks.sequences import Episode

__all__ = ["accuracy_by_instance", "episode", "task"]

# Encoding -> function of num_classes: symbols per label, values per symbol.
_ENCODINGS = {"one_hot": lambda n: (1, n), "letters": lambda n: (5, 5)}


def episode(
  key: jax.Array,
  level: int | jax.Array,
  drawings: jax.Array,
  *,
  num_classes: int = 5,
  num_instances: int = 10,
  num_rotations: int = 4,
  label_encoding: str = "one_hot",
) -> Episode:
  """Makes a random episode: classes, labels, drawings and their order.

  Input t is the drawing x_t and the label y_{t-1} (zeros at the first step),
  target t is y_t; num_instances different drawings of each class are shown.
  T = num_classes num_instances, of which level num_instances are scored.

  Args:
    key: typed key.
    level: number of classes, 1..num_classes (clipped if traced), [] int32.
    drawings: ink, uint8 [characters, drawings, size, size].
    num_classes: largest number of classes.
    num_instances: presentations of each class.
    num_rotations: 4 to make four classes of each character, rotated by
      multiples of 90 degrees; 1 for no rotation.
    label_encoding: "one_hot", or "letters": five letters from an alphabet of
      five, one-hot each, different for every class.

  Returns:
    The episode, D = size² + O, O = num_classes, or 25 with letters.

  Raises:
    ValueError: there are too few drawings, or the level is out of range.

  Reference:
    Santoro et al., 2016 (arXiv 1605.06065), sections 2 and 4.2: 5 classes in 50
    steps, 15 in 100. There drawings are also slightly shifted and rotated. That
    each class is shown equally often is our reading (unconfirmed).

  >>> drawings = np.zeros((6, 10, 4, 4), np.uint8)
  >>> shown = episode(jax.random.key(0), 5, drawings)
  >>> shown.inputs.shape, shown.targets.shape
  ((50, 21), (50, 5))
  """
  drawings = checks.array("drawings", drawings, "characters drawings size size")
  _check(drawings.shape, num_classes, num_instances, num_rotations)
  symbols, values = _encoding(label_encoding, num_classes)
  num_shown = sequences.clip_level(level, num_classes)
  choices = (len(drawings) * num_rotations, values**symbols, drawings.shape[1])
  classes, labels, rows = _schedule(
    key, num_shown, num_classes, num_instances, choices
  )
  mask = jnp.arange(num_classes * num_instances) < num_shown * num_instances
  rotation, character = jnp.divmod(classes, len(drawings))
  images = _turned(drawings[character, rows], rotation)
  pixels = images.reshape(len(images), -1).astype(jnp.float32) / 255
  targets = jnp.where(mask[:, None], _written(labels, symbols, values), 0.0)
  told = jnp.pad(targets, ((1, 0), (0, 0)))[:-1]
  inputs = jnp.concatenate([pixels, told], axis=1)
  return Episode(jnp.where(mask[:, None], inputs, 0.0), targets, mask)


def accuracy_by_instance(
  episode: Episode,
  logits: jax.Array,
  *,
  num_instances: int = 10,
  num_groups: int = 1,
) -> jax.Array:
  """Computes the accuracy on the k-th presentation of a class.

  The first presentation can only be guessed; the second measures one-shot
  learning.

  Args:
    episode: the episode.
    logits: network outputs, [T, O].
    num_instances: presentations of each class.
    num_groups: as in `sequences.label_errors`; 5 for labels of letters.

  Returns:
    The accuracies, [num_instances]; 0 where there are no presentations.

  Raises:
    ValueError: num_groups does not divide O.

  Reference:
    Santoro et al., 2016 (arXiv 1605.06065), table 1.

  >>> label = jax.nn.one_hot(jnp.array([1, 0, 1]), 2)
  >>> shown = Episode(label, label, jnp.ones(3, bool))
  >>> logits = jnp.array([[0.0, 1.0]] * 3)
  >>> accuracy_by_instance(shown, logits, num_instances=2).tolist()
  [0.5, 1.0]
  """
  sizes = {}
  targets = checks.real("episode.targets", episode.targets, "T O", sizes)
  logits = checks.real("logits", logits, "T O", sizes)
  mask = checks.mask("episode.mask", episode.mask, "T", sizes)
  num_instances = checks.whole_number("num_instances", num_instances, least=1)
  labels = _label_numbers(targets, num_groups)
  is_right = labels == _label_numbers(logits, num_groups)
  steps = jnp.arange(len(labels))
  # Stable sort by label, so in order of presentation; unscored steps come last.
  order = jnp.argsort(jnp.where(mask, labels, jnp.iinfo(jnp.int32).max))
  is_first = jnp.diff(labels[order], prepend=-1) != 0
  first = jax.lax.cummax(jnp.where(is_first, steps, 0))
  is_scored = mask[order]
  counted = jnp.stack([is_right[order] & is_scored, is_scored], axis=1)
  right, count = jax.ops.segment_sum(
    counted.astype(jnp.float32), steps - first, num_instances
  ).T
  return right / jnp.maximum(count, 1)


def task(
  name: str = "generated",
  data_dir: str | os.PathLike[str] | None = None,
  *,
  num_classes: int = 5,
  num_instances: int = 10,
  image_size: int = 20,
  label_encoding: str = "one_hot",
) -> sequences.Task:
  """Makes a task of labelling characters, with other characters for tests.

  In training, rotations give four times as many classes; tests do not rotate.

  Args:
    name: "generated" (150 training and 50 test characters, from a fixed seed)
      or "omniglot" (964 and 659, of different alphabets).
    data_dir: for Omniglot, as in `datasets.load`.
    num_classes: largest number of classes in an episode.
    num_instances: presentations of each class, at most 20.
    image_size: side of the drawings, in pixels.
    label_encoding: "one_hot" or "letters", as in `episode`.

  Returns:
    The task; data are training and test drawings, uint8 [.., 20, size, size].

  Raises:
    ValueError: there is no such task, or there are too few characters.
    FileNotFoundError: data_dir does not exist or lacks a file.
    DataError: the data set is unavailable; see `datasets.load`.

  Reference:
    Rae et al., 2016 (arXiv 1610.09027), section 4.4; Santoro et al., 2016
    (arXiv 1605.06065), who train on 1,200 characters and also rotate test
    characters. The split of Omniglot is that of Lake et al. (2015).
  """
  image_size = checks.whole_number("image_size", image_size, least=1)
  num_classes = checks.whole_number("num_classes", num_classes, least=1)
  num_instances = checks.whole_number("num_instances", num_instances, least=1)
  data = characters.load(name, data_dir, image_size=image_size)
  symbols, values = _encoding(label_encoding, num_classes)
  _check(data[1].shape, num_classes, num_instances, num_rotations=1)
  draw = functools.partial(
    episode,
    num_classes=num_classes,
    num_instances=num_instances,
    label_encoding=label_encoding,
  )
  return sequences.Task(
    num_inputs=image_size**2 + symbols * values,
    num_outputs=symbols * values,
    num_steps=num_classes * num_instances,
    max_level=num_classes,
    sample=lambda key, level, data: draw(key, level, data[0]),
    test=lambda key, level, data: draw(key, level, data[1], num_rotations=1),
    loss=functools.partial(sequences.label_loss, num_groups=symbols),
    error=functools.partial(sequences.label_errors, num_groups=symbols),
    data=data,
  )


def _check(
  shape: Any, num_classes: int, num_instances: int, num_rotations: int
) -> None:
  if num_rotations not in (1, 4):
    raise ValueError(f"num_rotations is {num_rotations}; it must be 1 or 4.")
  for name, value, most in (
    ("num_classes", num_classes, shape[0] * num_rotations),
    ("num_instances", num_instances, shape[1]),
  ):
    checks.whole_number(name, value, least=1, most=most)


def _encoding(name: str, num_classes: int) -> tuple[int, int]:
  """Returns the symbols per label and the values per symbol."""
  if name not in _ENCODINGS:
    known = ", ".join(_ENCODINGS)
    raise ValueError(f"label_encoding={name!r} is unknown; known: {known}.")
  symbols, values = _ENCODINGS[name](num_classes)
  if num_classes > values**symbols:
    raise ValueError(
      f"num_classes is {num_classes}; it must be at most {values**symbols}, "
      f"the number of labels in the encoding {name}."
    )
  return symbols, values


def _schedule(
  key: jax.Array,
  num_shown: jax.Array,
  num_classes: int,
  num_instances: int,
  choices: tuple[int, int, int],
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Draws the class, the label and the drawing of each step, all [T].

  Each class has num_instances slots. Those of the first num_shown classes come
  first, in random order. `choices` has the numbers of classes, labels and
  drawings to draw from.
  """
  slots = jnp.arange(num_classes * num_instances)
  # A single draw compiles faster. Sorting its numbers gives permutations.
  sizes = np.cumsum([*choices[:2], num_classes * choices[2], len(slots)])
  u = jax.random.uniform(key, (int(sizes[-1]),))
  by_class, by_label, by_row, by_slot = jnp.split(u, sizes[:-1])
  classes = jnp.argsort(by_class)[:num_classes]
  labels = jnp.argsort(by_label)[:num_classes]
  rows = jnp.argsort(by_row.reshape(num_classes, -1), axis=1)[:, :num_instances]
  order = jnp.argsort(
    jnp.where(slots < num_shown * num_instances, by_slot, 2.0)
  )
  shown, instance = jnp.divmod(slots[order], num_instances)
  return classes[shown], labels[shown], rows[shown, instance]


def _written(labels: jax.Array, symbols: int, values: int) -> jax.Array:
  """Encodes labels [n] as one-hot symbols, [n, symbols values]."""
  digits = labels[:, None] // values ** jnp.arange(symbols)[None] % values
  return jax.nn.one_hot(digits, values).reshape(len(labels), -1)


def _label_numbers(x: jax.Array, symbols: int) -> jax.Array:
  """Decodes labels from outputs [T, O]: the inverse of `_written`."""
  symbols = checks.whole_number("num_groups", symbols, least=-math.inf)
  if symbols < 1 or x.shape[-1] % symbols:
    raise ValueError(
      f"num_groups is {symbols}; it must divide the {x.shape[-1]} outputs."
    )
  grouped = x.reshape(len(x), symbols, -1)
  return grouped.argmax(-1) @ grouped.shape[-1] ** jnp.arange(symbols)


def _turned(images: jax.Array, rotation: jax.Array) -> jax.Array:
  """Rotates image t of [T, size, size] by rotation[t] times 90 degrees."""
  turned = [jnp.rot90(images, k, axes=(1, 2)) for k in range(4)]
  return jnp.stack(turned)[rotation, jnp.arange(len(images))]
