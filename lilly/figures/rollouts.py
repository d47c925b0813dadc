"""Rollouts: GIFs of a policy at work in an environment."""

import pathlib
from typing import Any

import jax
import numpy as np

from lilly.envs import environment, episodes

__all__ = ["save_gif", "save_policy_gif", "save_states_gif"]

_SIZE = 128  # pixels of a frame's edge


def save_policy_gif(
  env: environment.Environment,
  act: episodes.Policy,
  path: pathlib.Path,
  num_steps: int = 200,
) -> None:
  """Writes a GIF of one episode of a policy, with every second step.

  The episode is always the same. Nothing is written if the environment cannot
  be rendered.

  Args:
    env: the environment, without `auto_reset`.
    act: policy, as in `episodes.rollout`.
    path: GIF to write.
    num_steps: maximum number of steps.
  """
  if env.render is None:
    return
  roll = jax.jit(lambda key: episodes.rollout(key, env, act, num_steps))
  states, _, _, steps = roll(jax.random.key(2))
  # Steps after the end of the episode are not shown.
  count = 1 + int(np.sum(np.cumsum(environment.is_last(steps)) == 0))
  save_states_gif(env, jax.tree.map(lambda x: x[:count], states), path)


def save_states_gif(
  env: environment.Environment, states: Any, path: pathlib.Path
) -> None:
  """Writes a GIF of every second state, at 25 frames a second.

  Nothing is written if the environment cannot be rendered.

  Args:
    env: the environment.
    states: its states, [T, ...].
    path: GIF to write.
  """
  render = env.render
  if render is None:
    return
  draw = jax.jit(
    lambda states: jax.lax.map(lambda state: render(state, _SIZE), states)
  )
  frames = draw(jax.tree.map(lambda x: x[::2], states))
  save_gif(jax.device_get(frames), path, fps=25)


def save_gif(frames: np.ndarray, path: pathlib.Path, fps: float = 30.0) -> None:
  """Writes frames as a looping GIF.

  Args:
    frames: [T, height, width, 3] uint8.
    path: GIF to write.
    fps: frames per second. The format counts in hundredths of a second: above
      50, the GIF is slower.

  Raises:
    ValueError: frames is empty or of another shape or type, or fps is not
      positive.
  """
  frames = np.asarray(frames)
  is_rgb = frames.ndim == 4 and frames.shape[-1] == 3 and frames.size > 0
  if not is_rgb or frames.dtype != np.uint8:
    raise ValueError(
      f"frames has shape {frames.shape} and type {frames.dtype}; it must be "
      "[T, height, width, 3] uint8, with at least one frame."
    )
  if not fps > 0:
    raise ValueError(f"fps is {fps}; it must be positive.")
  from PIL import Image

  first, *rest = map(Image.fromarray, frames)
  duration = 10 * max(2, round(100 / fps))  # in ms
  first.save(path, save_all=True, append_images=rest, duration=duration, loop=0)
