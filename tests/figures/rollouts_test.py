"""Tests of lilly.figures.rollouts: GIFs hold the frames of an episode."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from lilly.envs import environment, point_mass
from lilly.figures import rollouts


def test_a_gif_holds_the_frames(tmp_path):
  frames = np.zeros((3, 8, 12, 3), np.uint8)
  frames[:, :, :4] = [255, 0, 0]
  for t in range(3):
    frames[t, 2 * t, 6:] = [0, 0, 255]
  rollouts.save_gif(frames, tmp_path / "a.gif", fps=20)
  with Image.open(tmp_path / "a.gif") as gif:
    assert (gif.format, gif.size, gif.n_frames) == ("GIF", (12, 8), 3)
    assert gif.info["loop"] == 0  # without end
    for t in range(3):
      gif.seek(t)
      assert gif.info["duration"] == 50
      np.testing.assert_array_equal(gif.convert("RGB"), frames[t])


def test_a_gif_is_not_faster_than_viewers_play(tmp_path):
  frames = np.arange(2, dtype=np.uint8)[:, None, None, None] * np.uint8(255)
  frames = np.broadcast_to(frames, (2, 4, 4, 3))
  rollouts.save_gif(frames, tmp_path / "a.gif", fps=1000)
  with Image.open(tmp_path / "a.gif") as gif:
    assert gif.info["duration"] == 20


@pytest.mark.parametrize(
  ("shape", "dtype", "fps", "message"),
  [
    ((0, 4, 4, 3), np.uint8, 30, "frames has shape"),
    ((4, 4, 3), np.uint8, 30, "frames has shape"),
    ((2, 4, 4, 1), np.uint8, 30, "frames has shape"),
    ((2, 4, 4, 3), np.float32, 30, "type float32"),
    ((2, 4, 4, 3), np.uint8, 0, "fps is 0"),
    ((2, 4, 4, 3), np.uint8, float("nan"), "fps is nan"),
  ],
)
def test_a_gif_of_something_else_is_refused(
  tmp_path, shape, dtype, fps, message
):
  with pytest.raises(ValueError, match=message):
    rollouts.save_gif(np.zeros(shape, dtype), tmp_path / "a.gif", fps)
  assert not list(tmp_path.iterdir())


def counting(num_steps):
  """Counts its steps from 3 on; a frame's brightness is 10 times the count."""

  def step(key, state, action):
    del key
    state = state + action
    done = state >= 3 + num_steps
    return state, environment.make_step(state, 0.0, is_terminal=done)

  return point_mass.make()._replace(
    reset=lambda key: (jnp.float32(3), jnp.float32(3)),
    step=step,
    render=lambda state, size: jnp.full(
      (size, size, 3), 10 * state, dtype=jnp.uint8
    ),
  )


def brightness(path):
  """The first pixel of each frame."""
  with Image.open(path) as gif:
    assert gif.info["duration"] == 40 and gif.size == (128, 128)
    frames = []
    for t in range(gif.n_frames):
      gif.seek(t)
      frames.append(gif.convert("RGB").getpixel((0, 0))[0])
  return frames


@pytest.mark.parametrize(
  ("length", "expected"),
  [(100, [30, 50, 70, 90]), (7, [30, 50, 70, 90]), (4, [30, 50])],
)
def test_a_policy_is_shown_every_second_step_to_the_end(
  tmp_path, length, expected
):
  act = lambda key, observation: jnp.ones_like(observation)
  path = tmp_path / "a.gif"
  rollouts.save_policy_gif(counting(length), act, path, num_steps=8)
  assert brightness(path) == expected


def test_states_are_shown_every_second_one(tmp_path):
  states = jnp.array([3.0, 9.0, 4.0, 9.0, 5.0])
  rollouts.save_states_gif(counting(9), states, tmp_path / "a.gif")
  assert brightness(tmp_path / "a.gif") == [30, 40, 50]


def test_an_environment_that_cannot_be_rendered_has_no_gif(tmp_path):
  env = counting(9)._replace(render=None)
  act = lambda key, observation: jnp.ones_like(observation)
  rollouts.save_policy_gif(env, act, tmp_path / "a.gif")
  rollouts.save_states_gif(env, jnp.zeros(3), tmp_path / "b.gif")
  assert not list(tmp_path.iterdir())


def test_the_episode_is_always_the_same(tmp_path):
  env = point_mass.make(num_steps=5)
  act = lambda key, observation: environment.sample(key, env.action_spec)
  paths = [tmp_path / "a.gif", tmp_path / "b.gif"]
  for path in paths:
    rollouts.save_policy_gif(env, act, path)
  first, second = [path.read_bytes() for path in paths]
  assert first == second
