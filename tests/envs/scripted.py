"""An environment whose every number is known beforehand."""

import jax
import jax.numpy as jnp
import numpy as np

from lilly.envs import environment

__all__ = ["counter"]


def counter(length=None, on_reset=None):
  """Counts its steps, from a start that is a random multiple of 100.

  Observations and rewards are the count; after `length` steps the world ends.
  Pictures show the count modulo 100 in every byte.
  """

  def reset(key):
    if on_reset is not None:
      on_reset()
    start = 100 * jax.random.randint(key, (), 1, 2**16)
    return start, jnp.asarray(start, jnp.float32)[None]

  def step(key, state, action):
    del key, action
    state = state + 1
    count = jnp.asarray(state, jnp.float32)
    is_over = False if length is None else state % 100 == length
    return state, environment.make_step(count[None], count % 100, is_over)

  def render(state, size):
    return jnp.full((size, size, 3), state % 100, jnp.uint8)

  return environment.Environment(
    reset,
    step,
    observation_spec=environment.box([-np.inf], [np.inf]),
    action_spec=environment.box([-3.0], [5.0]),
    render=render,
  )
