"""Streams: an agent's life in an environment that resets itself, step by step.

A stream gives transitions to learn from. The environment is one of
`wrappers.auto_reset`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lilly.envs import environment
from lilly.envs.environment import Environment
from lilly.envs.wrappers import AutoResetState
from lilly.replay import ring

__all__ = ["State", "Transition", "fill", "start", "step"]


class Transition(NamedTuple):
  """What a step of an environment taught."""

  observation: jax.Array  # s
  action: jax.Array  # a, [m]
  reward: jax.Array  # r, []
  discount: jax.Array  # [], 0 where s' is terminal, else 1, also at time limits
  next_observation: jax.Array  # s', the true one


class State(NamedTuple):
  """Where a stream is."""

  env: AutoResetState  # with the observation to act on
  noise: (
    jax.Array
  )  # of the exploration, as actions are; 0 when an episode begins
  total: jax.Array  # [], return of the episode so far
  last_total: jax.Array  # [], return of the last whole episode


def start(key: jax.Array, env: Environment) -> State:
  """Starts a stream.

  Args:
    key: typed key.
    env: one that resets itself.

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
    env: of the stream.
    action: the one executed, [m].
    noise: the exploration's, which is kept within an episode.
    reward_scale: factor of the transition's reward.

  Returns:
    The stream; the transition, and whether its episode was truncated, [] bool.

  >>> from lilly.envs import pendulum, wrappers
  >>> env = wrappers.auto_reset(pendulum.make(num_steps=1))
  >>> stream = start(jax.random.key(0), env)
  >>> _, (_, over) = step(jax.random.key(1), stream, env, jnp.zeros(1))
  >>> bool(over)
  True
  """
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
    noise=jnp.where(ends, 0, jnp.broadcast_to(noise, action.shape)),
    total=jnp.where(ends, 0, total),
    last_total=jnp.where(ends, total, state.last_total),
  )
  return state, (transition, found.truncated)


def fill(
  key: jax.Array,
  env: Environment,
  *,
  capacity: int,
  num_steps: int,
  reward_scale: float = 1.0,
  keep_truncated: bool = True,
) -> tuple[State, ring.State]:
  """Starts a stream and a replay of its first steps, whose actions are random.

  Args:
    key: typed key.
    env: one that resets itself.
    capacity: of the replay.
    num_steps: how many steps are taken.
    reward_scale: as of `step`.
    keep_truncated: whether a step that the clock ended is remembered.

  Returns:
    The stream, and the replay of its transitions. Returns are counted from
    here on.

  >>> from lilly.envs import pendulum, wrappers
  >>> env = wrappers.auto_reset(pendulum.make())
  >>> _, replay = fill(jax.random.key(0), env, capacity=9, num_steps=5)
  >>> int(replay.size)
  5
  """
  key_start, key = jax.random.split(key)
  stream = start(key_start, env)
  observation, zero = stream.env.observation, jnp.zeros(())
  example = Transition(observation, stream.noise, zero, zero, observation)

  def act(carry, _):
    key, stream, replay = carry
    key, key_action, key_step = jax.random.split(key, 3)
    action = environment.sample(key_action, env.action_spec)
    stream, (transition, truncated) = step(
      key_step, stream, env, action, reward_scale=reward_scale
    )
    kept = True if keep_truncated else ~truncated
    return (key, stream, ring.add(replay, transition, is_kept=kept)), None

  carry = (key, stream, ring.init(example, capacity))
  (_, stream, replay), _ = jax.lax.scan(act, carry, length=num_steps)
  return stream._replace(total=zero, last_total=zero), replay
