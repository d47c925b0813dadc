"""Streams of transitions from an auto-resetting environment, step by step.

The environment must be wrapped in `wrappers.auto_reset`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lilly import checks
from lilly.envs import environment
from lilly.envs.environment import Environment
from lilly.envs.wrappers import AutoResetState

__all__ = ["State", "Transition", "start", "step"]


class Transition(NamedTuple):
  """One step of an environment, as replay stores it."""

  observation: jax.Array  # s
  action: jax.Array  # a, [m]
  reward: jax.Array  # r, []
  discount: jax.Array  # [], 0 where s' is terminal, else 1, also at time limits
  next_observation: jax.Array  # s', also at the end of an episode


class State(NamedTuple):
  """State of a stream."""

  env: AutoResetState  # with the observation to act on
  # exploration noise, [m]; 0 at the start of an episode
  noise: jax.Array
  total: jax.Array  # [], return of the episode so far
  last_total: jax.Array  # [], return of the last complete episode


def start(key: jax.Array, env: Environment) -> State:
  """Starts a stream.

  Args:
    key: typed key.
    env: an auto-resetting environment.

  Returns:
    The stream.

  >>> from lilly.envs import pendulum, wrappers
  >>> env = wrappers.auto_reset(pendulum.make())
  >>> start(jax.random.key(0), env).noise.shape
  (1,)
  """
  state, _ = env.reset(key)
  return State(
    state, jnp.zeros(env.action_spec.shape), jnp.zeros(()), jnp.zeros(())
  )


def step(
  key: jax.Array,
  state: State,
  env: Environment,
  action: jax.Array,
  *,
  noise: jax.Array | float = 0.0,
  reward_scale: float = 1.0,
) -> tuple[State, tuple[Transition, jax.Array]]:
  """Takes a step.

  Args:
    key: typed key.
    state: the stream.
    env: the stream's environment.
    action: the executed action, [m].
    noise: exploration noise, carried over within an episode.
    reward_scale: factor of the transition's reward, a finite number.

  Returns:
    The stream; the transition, and whether its episode was truncated, [] bool.

  >>> from lilly.envs import pendulum, wrappers
  >>> env = wrappers.auto_reset(pendulum.make(num_steps=1))
  >>> stream = start(jax.random.key(0), env)
  >>> _, (_, over) = step(jax.random.key(1), stream, env, jnp.zeros(1))
  >>> bool(over)
  True
  """
  reward_scale = checks.number("reward_scale", reward_scale)
  action = jnp.asarray(action)
  following, found = env.step(key, state.env, action)
  transition = Transition(
    observation=state.env.observation,
    action=action,
    reward=reward_scale * found.reward,
    discount=found.discount,
    next_observation=found.observation,
  )
  ends = environment.is_last(found)
  total = state.total + found.reward
  state = State(
    following,
    noise=jnp.where(ends, 0, jnp.full_like(state.noise, noise)),
    total=jnp.where(ends, 0, total),
    last_total=jnp.where(ends, total, state.last_total),
  )
  return state, (transition, found.truncated)
