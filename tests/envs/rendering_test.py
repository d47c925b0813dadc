"""Tests of lilly.envs.rendering: distances to points, pixel by pixel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.envs import rendering, wrappers
from tests.envs import scripted

_SIZE, _WIDTH, _CENTRE = 7, 3.5, (0.4, -0.3)


def _circle_outline(t):
  angle = 2 * np.pi * t
  return 0.3 + 0.8 * np.cos(angle), -0.2 + 0.8 * np.sin(angle)


def _box_outline(t):
  """Of half sizes 0.9 and 0.4, turned by 0.6 about (0.2, 0.1)."""
  side, part = np.divmod(4 * t, 1)
  ends = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]]) * [0.9, 0.4]
  side = np.minimum(side.astype(int), 3)[:, None]
  place = ends[side[:, 0]] * (1 - part[:, None])
  x, y = (place + ends[side[:, 0] + 1] * part[:, None]).T
  cos, sin = np.cos(0.6), np.sin(0.6)
  return 0.2 + cos * x - sin * y, 0.1 + sin * x + cos * y


def _capsule_outline(t):
  """From (-0.8, -0.5) to (0.8, 0.7), 0.3 thick on each side."""
  ends = np.array([[-0.8, -0.5], [0.8, 0.7]])
  along = (ends[1] - ends[0]) / np.hypot(*(ends[1] - ends[0]))
  across = np.array([-along[1], along[0]])
  turn = np.pi * (2 * t - 0.5)
  round_ = np.cos(turn)[:, None] * along + np.sin(turn)[:, None] * across
  sides = [ends[0] * (1 - t[:, None]) + ends[1] * t[:, None]] * 2
  sides = [
    side + s * 0.3 * across for side, s in zip(sides, (1, -1), strict=True)
  ]
  caps = [ends[1] + 0.3 * round_[t <= 0.5], ends[0] + 0.3 * round_[t > 0.5]]
  return np.concatenate([*sides, *caps]).T


_SHAPES = {
  "circle": (
    lambda scene: rendering.circle(scene, (0.3, -0.2), 0.8),
    _circle_outline,
    np.pi * 0.8**2,
  ),
  "box": (
    lambda scene: rendering.box(scene, (0.2, 0.1), (0.9, 0.4), 0.6),
    _box_outline,
    4 * 0.9 * 0.4,
  ),
  "capsule": (
    lambda scene: rendering.capsule(scene, (-0.8, -0.5), (0.8, 0.7), 0.3),
    _capsule_outline,
    2.0 * 0.6 + np.pi * 0.3**2,
  ),
}
_shapes = pytest.mark.parametrize("shape", _SHAPES)


@_shapes
def test_distances_are_those_to_the_outline(shape):
  draw, outline, _ = _SHAPES[shape]
  distances = jax.jit(lambda: draw(rendering.canvas(_SIZE, _WIDTH, _CENTRE)))
  actual = np.asarray(distances())
  points = np.transpose(outline(np.linspace(0, 1, 4001)))
  signs = set()
  for row in range(_SIZE):
    for column in range(_SIZE):
      x = _CENTRE[0] + (column + 0.5 - _SIZE / 2) * _WIDTH / _SIZE
      y = _CENTRE[1] - (row + 0.5 - _SIZE / 2) * _WIDTH / _SIZE
      away = np.hypot(*(points - [x, y]).T).min()
      np.testing.assert_allclose(abs(actual[row, column]), away, atol=2e-3)
      signs.add(np.sign(actual[row, column]))
  assert signs == {-1, 1}


@_shapes
def test_the_inside_is_painted(shape):
  draw, _, area = _SHAPES[shape]

  @jax.jit
  def colours():
    scene = rendering.canvas(100, 4.0)
    return rendering.paint(scene, draw(scene), (0.0, 0.0, 0.0)).colours

  cover = 1 - np.asarray(colours())
  np.testing.assert_allclose(cover[..., 0].sum() * 0.04**2, area, rtol=0.005)


def test_pixels_are_covered_in_part_along_an_edge():
  scene = rendering.canvas(4, 4.0)
  # A half plane up to x = 0.25: the third pixel is covered by a quarter.
  scene = rendering.paint(scene, scene.x - 0.25, (1.0, 0.5, 0.0))
  expected = np.array([[255, 128, 0]] * 2 + [[255, 223, 191], [255] * 3])
  np.testing.assert_array_equal(rendering.image(scene), [expected] * 4)
  # What is painted later lies above.
  scene = rendering.paint(scene, scene.y, (0.0, 0.0, 1.0))
  picture = np.asarray(rendering.image(scene))
  assert picture.dtype == np.uint8
  np.testing.assert_array_equal(picture[:2], [expected] * 2)
  np.testing.assert_array_equal(picture[2:], [[[0, 0, 255]] * 4] * 2)


def test_small_movements_show():
  @jax.jit
  def draw(x):
    scene = rendering.canvas(8, 8.0)
    disc = rendering.circle(scene, (x, 0.0), 2.0)
    return rendering.image(rendering.paint(scene, disc, (0, 0, 0)))

  assert (draw(0.0) != draw(0.05)).any()


def test_pixels_show_the_picture_after_each_repeat():
  inner = wrappers.time_limit(scripted.counter(), 5)
  env = rendering.pixels(inner, size=2, num_frames=3)
  assert env.observation_spec.shape == (2, 2, 9)
  assert env.observation_spec.dtype == jnp.uint8

  @jax.jit
  def run(key):
    state, first = env.reset(key)
    state, middle = env.step(jax.random.key(1), state, jnp.zeros(1))
    _, last = env.step(jax.random.key(2), state, jnp.zeros(1))
    return first, middle, last

  first, middle, last = jax.tree.map(np.asarray, run(jax.random.key(0)))
  for observation, frames in (
    (first, [0, 0, 0]),
    (middle.observation, [1, 2, 3]),
    (last.observation, [4, 5, 5]),
  ):
    assert observation.dtype == np.uint8
    expected = np.broadcast_to(np.repeat(frames, 3), (2, 2, 9))
    np.testing.assert_array_equal(observation, expected)
  assert (middle.reward, last.reward, last.truncated) == (6, 9, True)


def test_bad_arguments_are_refused():
  env = scripted.counter()
  with pytest.raises(ValueError, match="env has no render"):
    rendering.pixels(env._replace(render=None))
  with pytest.raises(ValueError, match="size is 0; it must be at least 1"):
    rendering.pixels(env, size=0)
  with pytest.raises(ValueError, match="size is 0; it must be at least 1"):
    rendering.canvas(0, 1.0)
  with pytest.raises(ValueError, match="num_frames is 0"):
    rendering.pixels(env, num_frames=0)
