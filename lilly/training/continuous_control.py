"""GIFs of policies."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

from etils import epy

with epy.lazy_imports():
  import jax
  import numpy as np

  from lilly.envs import environment, episodes
  from lilly.training import pictures

__all__ = ["film", "film_states"]


def film(
  path: pathlib.Path, env: Any, act: Callable[..., Any], num_steps: int = 200
) -> None:
  """Draws an episode, every second step; nothing where there are no pictures.

  Args:
    path: of a GIF.
    env: an environment whose episodes end.
    act: as of `episodes.play`.
    num_steps: at most so many.
  """
  if env.render is None:
    return
  roll = jax.jit(lambda key: episodes.rollout(key, env, act, num_steps))
  states, _, _, steps = roll(jax.random.key(2))
  count = 1 + int(np.sum(np.cumsum(environment.is_last(steps)) == 0))
  film_states(path, env, jax.tree.map(lambda x: x[:count], states))


def film_states(path: pathlib.Path, env: Any, states: Any) -> None:
  """Draws every second of some states; nothing where there are no pictures.

  Args:
    path: of a GIF.
    env: an environment.
    states: of it, [T, ...].
  """
  if env.render is None:
    return
  draw = jax.jit(
    lambda states: jax.lax.map(lambda state: env.render(state, 128), states)
  )
  frames = draw(jax.tree.map(lambda x: x[::2], states))
  pictures.gif(path, jax.device_get(frames), 25)
