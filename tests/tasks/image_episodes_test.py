"""Tests of lilly.tasks.image_episodes."""

import functools
import os
import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.tasks import characters, image_episodes

# Absent on most machines.
DATA = pathlib.Path(os.environ.get("LILLY_DATA_DIR", "../shared/data"))

# Image i of 12 is filled with i; classes of 3, 4 and 5 images.
_COUNTS = (3, 4, 5)
_PART = image_episodes.Part(
  images=np.broadcast_to(
    np.arange(12, dtype=np.uint8)[:, None, None, None], (12, 2, 3, 1)
  ),
  labels=np.repeat(np.arange(3, dtype=np.int32), _COUNTS),
  starts=np.array([0, 3, 7, 12], np.int32),
)
_NUM_DRAWS = 3000


@functools.cache
def drawn(num_items, num_classes=None):
  """Draws many episodes; returns which images they show, and the labels."""

  @jax.jit
  def draw(keys, part):
    make = functools.partial(
      image_episodes.episode, num_items=num_items, num_classes=num_classes
    )
    return jax.vmap(make, (0, None))(keys, part)

  keys = jax.random.split(jax.random.key(0), _NUM_DRAWS)
  images, labels = draw(keys, _PART)
  assert images.shape == (_NUM_DRAWS, num_items, 2, 3, 1)
  assert images.dtype == np.float32 and labels.dtype == np.int32
  shown = 255 * np.asarray(images)
  assert np.allclose(shown, shown[..., :1, :1, :], atol=1e-4)
  rows = np.rint(shown[..., 0, 0, 0]).astype(int)
  assert np.array_equal(labels, _PART.labels[rows])
  return rows, np.asarray(labels)


def assert_equally_often(values, num_values):
  """Each value's count lies within five standard deviations of the mean."""
  counts = np.bincount(values, minlength=num_values)
  p = 1 / num_values
  spread = np.sqrt(len(values) * p * (1 - p))
  assert len(counts) == num_values
  assert np.abs(counts - len(values) * p).max() < 5 * spread


def test_episodes_show_no_image_twice_and_all_orders_equally_often():
  rows, _ = drawn(3)
  ordered = np.sort(rows, axis=1)
  assert (np.diff(ordered, axis=1) > 0).all()
  for first, second in ((0, 1), (1, 2), (0, 2)):
    pair = 11 * rows[:, first] + rows[:, second]
    pair -= rows[:, second] > rows[:, first]
    assert_equally_often(pair, 132)
  assert_equally_often(rows.ravel(), 12)


def test_more_images_than_there_are_come_more_than_once():
  rows, _ = drawn(14)
  assert_equally_often(rows[:, 0], 12)
  assert_equally_often(rows[:, 13], 12)
  is_equal = rows[:, 0] == rows[:, 1]
  assert abs(is_equal.mean() - 1 / 12) < 5 * np.sqrt(1 / 12 / len(rows))


def test_few_classes_have_all_the_images():
  rows, labels = drawn(4, 2)
  which = np.array([sorted(set(row)) for row in labels if len(set(row)) == 2])
  # All pairs of classes, each image of them.
  assert {tuple(pair) for pair in which.tolist()} == {(0, 1), (0, 2), (1, 2)}
  assert max(len(set(row)) for row in labels) == 2
  assert min(len(set(row)) for row in rows) == 4
  assert set(rows.ravel().tolist()) == set(range(12))


def test_one_class_is_drawn_before_its_images():
  rows, labels = drawn(4, 1)
  assert (labels == labels[:, :1]).all()
  assert_equally_often(labels[:, 0], 3)
  for label, count in enumerate(_COUNTS):
    of_class = rows[labels[:, 0] == label]
    assert_equally_often(of_class[:, 0] - _PART.starts[label], count)
    has_twice = [len(set(row)) < 4 for row in of_class]
    # The smallest has three images, too few for four items.
    assert all(has_twice) if count == 3 else not any(has_twice)


def test_dequantized_bytes_fill_their_interval():
  @jax.jit
  def draw(key, part):
    make = functools.partial(image_episodes.episode, num_items=12)
    return make(key, part, dequantized=True).images

  part = _PART._replace(
    images=np.tile(_PART.images[:, :1, :1] + np.uint8(244), (1, 20, 20, 1))
  )
  x = 256 * np.asarray(draw(jax.random.key(0), part))
  bytes_of = np.floor(x)
  assert x.max() < 256
  assert sorted(bytes_of[:, 0, 0, 0].tolist()) == list(range(244, 256))
  assert np.array_equal(bytes_of, np.tile(bytes_of[:, :1, :1], (1, 20, 20, 1)))
  assert abs((x - bytes_of).mean() - 0.5) < 5 * np.sqrt(1 / 12 / x.size)
  assert (x - bytes_of).std() > 0.28


def draws(task, num_items):
  """Functions of key and data."""
  return [
    jax.jit(functools.partial(f, num_items=num_items))
    for f in (task.sample, task.test)
  ]


def test_digits_are_ink_or_paper_and_those_of_tests_are_others():
  task = image_episodes.task("digits")
  assert task.shape == (8, 8, 1) and task.is_binary
  sizes = [len(part.labels) for part in task.data]
  assert sizes == [1437, 360]
  seen = []
  for draw, part in zip(draws(task, 300), task.data, strict=True):
    assert np.array_equal(np.bincount(part.labels), np.diff(part.starts))
    images = draw(jax.random.key(0), task.data)
    images, again, other = (
      np.asarray(draw(jax.random.key(k), task.data)) for k in (0, 0, 1)
    )
    assert images.shape == (300, 8, 8, 1)
    assert set(np.unique(images).tolist()) == {0.0, 1.0}
    assert np.array_equal(images, again) and not np.array_equal(images, other)
    own = {row.tobytes() for row in part.images}
    shown = {row.tobytes() for row in (255 * images).astype(np.uint8)}
    assert shown <= own
    seen.append((own, shown))
  # A few digits look the same when they are black and white.
  (train, _), (_, tested) = seen
  assert len(tested & train) < len(tested) / 20


def test_more_than_half_is_ink():
  # 8 of the 16 grey levels of digits are 128.
  images = np.array([[[0, 128, 129, 255]]], np.uint8)
  part = image_episodes._part(images, np.array([3]), is_binary=True)
  assert part.images.ravel().tolist() == [0, 0, 255, 255]
  part = image_episodes._part(images, np.array([3]), is_binary=False)
  assert part.images.ravel().tolist() == [0, 128, 129, 255]


def test_images_are_sorted_by_class():
  images = np.arange(12, dtype=np.uint8).reshape(4, 1, 1, 3)
  part = image_episodes._part(images, np.array([7, 2, 7, 2]), is_binary=False)
  assert part.images[:, 0, 0, 0].tolist() == [3, 9, 0, 6]
  assert part.labels.tolist() == [2, 2, 7, 7]
  assert part.starts.tolist() == [0, 2, 4] and part.images.shape == (4, 1, 1, 3)


def test_photographs_are_dequantised(monkeypatch):
  whole = types.SimpleNamespace(
    images=np.full((5, 4, 4, 3), 128, np.uint8), labels=np.zeros(5, np.int32)
  )
  load = lambda name, part, data_dir: whole
  monkeypatch.setattr(image_episodes.datasets, "load", load)
  task = image_episodes.task("cifar10")
  assert not task.is_binary
  for draw in (task.sample, task.test):
    images = np.asarray(draw(jax.random.key(0), task.data, 5))
    assert len(np.unique(images)) > 100
    assert images.min() >= 0.5 and images.max() < 129 / 256


def test_data_are_an_argument():
  task = image_episodes.task("digits")
  sample, _ = draws(task, 5)
  train, test = task.data
  white = train._replace(images=np.full_like(train.images, 255))
  assert sample(jax.random.key(0), (white, test)).all()
  text = sample.lower(jax.random.key(0), task.data).as_text()
  assert "tensor<1437x8x8x1xui8>" in text
  assert len(text) < 100_000  # no image is written there


def test_generated_characters_of_tests_are_others(monkeypatch):
  def generate(key, *, image_size):
    number = np.arange(200)[:, None, None, None]
    bits = number >> np.arange(image_size) & 1
    shape = (200, 20, image_size, image_size)
    return np.broadcast_to(255 * bits, shape).astype(np.uint8)

  monkeypatch.setattr(characters, "generate", generate)
  task = image_episodes.task("generated", image_size=9)
  assert task.shape == (9, 9, 1) and task.is_binary
  labels = [set(part.labels.tolist()) for part in task.data]
  assert labels == [set(range(150)), set(range(150, 200))]
  for draw, known in zip(draws(task, 40), labels, strict=True):
    images = np.asarray(draw(jax.random.key(0), task.data))
    shown = images[:, 0, :, 0] @ 2 ** np.arange(9)
    assert set(shown.astype(int).tolist()) <= known


def test_flips_are_as_many_as_asked_for():
  images = (np.arange(20_000) % 3 == 0).astype(np.float32).reshape(20, 50, 20)
  flip = jax.jit(image_episodes.flip)
  for probability in (0.0, 0.15, 1.0):
    damaged = np.asarray(flip(jax.random.key(0), images, probability))
    assert set(np.unique(damaged).tolist()) == {0.0, 1.0}
    for pixels in (damaged[images == 0], 1 - damaged[images == 1]):
      spread = np.sqrt(probability * (1 - probability) / pixels.size)
      assert abs(pixels.mean() - probability) <= 4 * spread
  again = flip(jax.random.key(0), images, 0.15)
  other = flip(jax.random.key(1), images, 0.15)
  assert not np.array_equal(again, other)


def test_a_block_of_each_image_is_hidden():
  rng = np.random.default_rng(0)
  images = rng.uniform(0.1, 1, (400, 5, 6, 2)).astype(np.float32)
  occlude = jax.jit(image_episodes.occlude, static_argnums=2)
  left = np.asarray(occlude(jax.random.key(0), images, 3))
  places = set()
  for x, y in zip(images, left, strict=True):
    rows, columns = (np.flatnonzero((y == 0).any(a)) for a in ((1, 2), (0, 2)))
    places.add((rows[0], columns[0]))
    expected = x.copy()
    expected[rows[0] : rows[0] + 3, columns[0] : columns[0] + 3] = 0
    assert np.array_equal(y, expected)
  assert places == {(i, j) for i in range(3) for j in range(4)}


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: episode(0), "num_items is 0; it must be at least 1"),
    (
      lambda: episode(2, 0),
      "num_classes is 0; it must be at least 1 and at most 3",
    ),
    (
      lambda: episode(2, 4),
      "num_classes is 4; it must be at least 1 and at most 3",
    ),
    (
      lambda: flip(1.5),
      "probability is 1.5; it must be at least 0 and at most 1",
    ),
    (
      lambda: flip(-1),
      "probability is -1; it must be at least 0 and at most 1",
    ),
    (lambda: occlude(0), "size is 0; it must be at least 1 and at most 4"),
    (lambda: occlude(5), "size is 5; it must be at least 1 and at most 4"),
    (lambda: image_episodes.task("fish"), "name='fish' is unknown; known: d"),
  ],
)
def test_bad_arguments_are_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()


def episode(*args):
  return image_episodes.episode(jax.random.key(0), _PART, *args)


def flip(probability):
  images = jnp.zeros((1, 4, 5, 1))
  return image_episodes.flip(jax.random.key(0), images, probability)


def occlude(size):
  images = jnp.zeros((1, 4, 5, 1))
  return image_episodes.occlude(jax.random.key(0), images, size)


def test_absent_data_says_what_to_do(tmp_path):
  for name in ("mnist", "omniglot", "cifar10"):
    with pytest.raises(FileNotFoundError, match="lacks"):
      image_episodes.task(name, tmp_path)


@pytest.mark.skipif(
  not (DATA / "mnist").is_dir(),
  reason="needs the original files of data sets: set LILLY_DATA_DIR",
)
@pytest.mark.parametrize(
  ("name", "sizes", "classes", "shape"),
  [
    ("mnist", [60_000, 10_000], [10, 10], (28, 28, 1)),
    ("omniglot", [19_280, 13_180], [964, 659], (28, 28, 1)),
    ("cifar10_small", [10_000, 2_000], [10, 10], (32, 32, 3)),
  ],
)
@pytest.mark.slow
def test_real_images(name, sizes, classes, shape):
  task = image_episodes.task(name, DATA)
  assert task.shape == shape
  assert [len(part.labels) for part in task.data] == sizes
  assert [len(part.starts) - 1 for part in task.data] == classes
  for draw in draws(task, 32):
    images = np.asarray(draw(jax.random.key(0), task.data))
    assert images.shape == (32, *shape) and images.dtype == np.float32
    assert images.min() >= 0 and images.max() <= 1
    assert (len(np.unique(images)) == 2) == task.is_binary
    assert 0.03 < images.mean() < 0.7
  if name == "omniglot":
    labels = [set(part.labels.tolist()) for part in task.data]
    assert not labels[0] & labels[1]
