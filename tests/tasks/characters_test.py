"""Tests of lilly.tasks.characters."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.data import datasets
from lilly.tasks import characters
from tests.whole import whole


@functools.cache
def _generated(seed):
  return np.asarray(
    characters.generate(jax.random.key(seed), num_classes=40, num_drawings=6)
  )


def test_the_key_decides():
  ink = _generated(0)
  assert ink.shape == (40, 6, 20, 20) and ink.dtype == np.uint8
  again = characters.generate(jax.random.key(0), num_classes=40, num_drawings=6)
  assert np.array_equal(ink, again)
  assert not np.array_equal(ink, _generated(1))


def test_classes_can_be_told_apart_and_drawings_differ():
  ink = _generated(0).reshape(40, 6, -1).astype(float)
  share = ink.mean(-1) / 255
  assert share.min() > 0.01 and share.max() < 0.4
  assert len(np.unique(ink.reshape(240, -1), axis=0)) == 240
  # One shot, five classes, by the nearest drawing: chance is 0.2, Omniglot's
  # figure about 0.5.
  ink /= np.linalg.norm(ink, axis=-1, keepdims=True)
  rng, right = np.random.default_rng(0), 0
  for _ in range(1000):
    classes = rng.choice(40, 5, replace=False)
    shown, asked = rng.choice(6, 2, replace=False)
    right += (ink[classes, shown] @ ink[classes[0], asked]).argmax() == 0
  assert 400 < right < 850


def test_ink_is_where_a_stroke_is_near():
  rng = np.random.default_rng(0)
  strokes, size = rng.uniform(size=(2, 3, 3, 2)).astype(np.float32), 7
  is_used = np.array([True, False, True])
  ink = np.asarray(whole(characters._ink)(strokes, is_used, size))
  u = np.linspace(0, 1, characters._NUM_POINTS)
  for drawing in range(2):
    for i in range(size):
      for j in range(size):
        pixel = (np.array([i, j]) + 0.5) / size
        distances = []
        for p0, p1, p2 in strokes[drawing, is_used]:
          curve = [
            (1 - v) ** 2 * p0 + 2 * v * (1 - v) * p1 + v**2 * p2 for v in u
          ]
          # Between two points of the curve: a hundred more.
          for a, b in itertools.pairwise(curve):
            line = a + np.linspace(0, 1, 100)[:, None] * (b - a)
            distances.append(np.linalg.norm(line - pixel, axis=1).min())
        near = (characters._RADIUS - min(distances)) * size + 0.5
        expected = 255 * np.clip(near, 0, 1)
        assert abs(int(ink[drawing, i, j]) - expected) < 3


def test_characters_have_two_to_four_strokes_straight_or_bent():
  u = np.random.default_rng(0).uniform(size=(300, 4 * 13 + 1))
  u[:, -1] = np.arange(300) / 300
  strokes, is_used = jax.jit(jax.vmap(characters._strokes))(jnp.asarray(u))
  assert np.bincount(is_used.sum(1)).tolist() == [0, 0, 100, 100, 100]
  assert is_used[:, :2].all() and strokes.min() >= 0 and strokes.max() <= 1
  p0, p1, p2 = np.moveaxis(np.asarray(strokes), 2, 0)
  is_straight = np.isclose(p1, (p0 + p2) / 2, atol=1e-5).all(-1)
  assert 0.3 < is_straight.mean() < 0.5  # 0.4
  # Strokes are seldom short, and most begin on the one before.
  assert np.median(np.linalg.norm(p2 - p0, axis=-1)) > 0.3
  middle = p0 / 4 + p1 / 2 + p2 / 4
  ends, begins = np.stack([p2, middle])[:, :, :-1], p0[:, 1:]
  is_linked = np.isclose(ends, begins[None], atol=1e-5).all(-1)
  is_linked = is_linked.mean((1, 2))
  assert 0.3 < is_linked[0] < 0.4 and 0.2 < is_linked[1] < 0.4  # 0.35 each


def test_a_drawing_moves_points_and_the_whole():
  rng = np.random.default_rng(0)
  strokes = rng.uniform(size=(4, 3, 2)).astype(np.float32)
  noise = rng.uniform(-1, 1, 29).astype(np.float32)
  moved = np.asarray(
    characters._moved(jnp.asarray(strokes), jnp.asarray(noise))
  )
  angle = 0.25 * noise[24]
  for s in range(4):
    for k in range(3):
      x, y = strokes[s, k] + 0.05 * noise[6 * s + 2 * k :][:2] - 0.5
      x, y = x * (0.9 + 0.2 * noise[25]), y * (0.9 + 0.2 * noise[26])
      expected = (
        x * np.cos(angle) + y * np.sin(angle) + 0.5 + 0.1 * noise[27],
        -x * np.sin(angle) + y * np.cos(angle) + 0.5 + 0.1 * noise[28],
      )
      np.testing.assert_allclose(moved[s, k], expected, rtol=1e-4)


def test_small_images_hold_the_mean_ink_of_an_area(monkeypatch):
  monkeypatch.setattr(characters, "_CHUNK", 2)
  images = np.random.default_rng(0).integers(0, 256, (3, 7, 7)).astype(np.uint8)
  assert np.array_equal(characters._smaller(images, 7), images)
  # Each pixel as 3 x 3, then the mean of blocks of 7 x 7.
  fine = np.kron(images.astype(float), np.ones((1, 3, 3)))
  expected = fine.reshape(3, 3, 7, 3, 7).mean((2, 4))
  small = characters._smaller(images, 3)
  assert small.dtype == np.uint8
  np.testing.assert_allclose(small, expected, atol=0.51)


def test_omniglot_is_ink_by_character(monkeypatch):
  images = np.full((40, 105, 105), 255, np.uint8)
  images[20:, :21] = 0  # the second character: ink above
  labels = np.repeat([3, 8], 20).astype(np.int32)
  loaded = datasets.Omniglot(images, labels, labels, labels)
  monkeypatch.setattr(datasets, "load", lambda *args: loaded)
  ink = characters.omniglot("train", "somewhere", image_size=5)
  assert ink.shape == (2, 20, 5, 5) and ink.dtype == np.uint8
  assert not ink[0].any() and not ink[1, :, 1:].any()
  assert (ink[1, :, 0] == 255).all()


def test_bad_sizes_are_refused():
  for name in ("num_classes", "num_drawings", "image_size"):
    with pytest.raises(ValueError, match=f"{name} is 0; it must be at least 1"):
      characters.generate(jax.random.key(0), **{name: 0})
  with pytest.raises(
    ValueError, match="image_size is 106; it must be at least 1"
  ):
    characters.omniglot("train", image_size=106)
