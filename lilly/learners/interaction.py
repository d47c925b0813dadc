"""Exploration and replay, for agents that learn while they act.

The agent provides the greedy action; this module adds noise, steps the
environment and stores the transition in a ring.
"""

import jax
import jax.numpy as jnp

from lilly.control import exploration
from lilly.envs import environment, streams
from lilly.envs.environment import Environment
from lilly.replay import ring

__all__ = ["explore", "fill", "remember", "step"]


def explore(
  key: jax.Array,
  noise: jax.Array,
  action: jax.Array,
  *,
  theta: float | jax.Array = 0.15,
  sigma: float | jax.Array = 0.2,
  dt: float = 1.0,
  innovation: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Adds Ornstein-Uhlenbeck noise to an action.

  Args:
    key: typed key.
    noise: noise of the previous step, [m]; zeros at the start of an episode.
    action: the greedy action, [m].
    theta: mean-reversion rate θ.
    sigma: volatility σ.
    dt: time step.
    innovation: see `exploration.ornstein_uhlenbeck`; None: sampled.

  Returns:
    The noise, and the action to execute, clipped to [-1, 1].

  Reference:
    Lillicrap et al., 2016 (arXiv 1509.02971), algorithm 1.

  >>> noise, action = explore(jax.random.key(0), jnp.zeros(2), jnp.ones(2))
  >>> noise.shape, float(action.max()) <= 1.0
  ((2,), True)
  """
  noise = exploration.ornstein_uhlenbeck(
    key, noise, theta=theta, sigma=sigma, dt=dt, innovation=innovation
  )
  return noise, jnp.clip(action + noise, -1.0, 1.0)


def step(
  key: jax.Array,
  stream: streams.State,
  replay: ring.State,
  env: Environment,
  action: jax.Array,
  *,
  noise: jax.Array | float = 0.0,
  reward_scale: float = 1.0,
  keep_truncated: bool = True,
) -> tuple[streams.State, ring.State]:
  """Executes an action and stores the transition in replay.

  Args:
    key: typed key.
    stream: stream of the agent's environment.
    replay: a ring of `streams.Transition`s.
    env: environment with automatic reset.
    action: the executed action, [m].
    noise: noise of the action, kept in the stream until the episode ends.
    reward_scale: rewards are multiplied by this.
    keep_truncated: as in `remember`.

  Returns:
    The stream and the replay after the step.
  """
  stream, (transition, truncated) = streams.step(
    key, stream, env, action, noise=noise, reward_scale=reward_scale
  )
  replay = remember(
    replay, transition, truncated, keep_truncated=keep_truncated
  )
  return stream, replay


def remember(
  replay: ring.State,
  transition: streams.Transition,
  truncated: jax.Array,
  *,
  keep_truncated: bool = True,
) -> ring.State:
  """Stores a transition in replay.

  Args:
    replay: ring of transitions.
    transition: the transition to store.
    truncated: whether the time limit ended its episode, [] bool.
    keep_truncated: whether truncated transitions are stored.

  Returns:
    The ring.
  """
  kept = True if keep_truncated else ~truncated
  return ring.add(replay, transition, is_kept=kept)


def fill(
  key: jax.Array,
  env: Environment,
  *,
  capacity: int,
  num_steps: int,
  reward_scale: float = 1.0,
  keep_truncated: bool = True,
) -> tuple[streams.State, ring.State]:
  """Starts a stream, and fills replay by random actions.

  Args:
    key: typed key.
    env: environment with automatic reset.
    capacity: capacity of the replay, in transitions.
    num_steps: number of random steps.
    reward_scale: as in `step`.
    keep_truncated: as in `remember`.

  Returns:
    The stream, and the replay of its transitions, with actions of the
    environment's type. Returns are accumulated from here on.

  >>> from lilly.envs import pendulum, wrappers
  >>> env = wrappers.auto_reset(pendulum.make())
  >>> _, replay = fill(jax.random.key(0), env, capacity=9, num_steps=5)
  >>> int(replay.size)
  5
  """
  key_start, key = jax.random.split(key)
  stream = streams.start(key_start, env)
  observation, zero = stream.env.observation, jnp.zeros(())
  action = jnp.zeros(env.action_spec.shape, env.action_spec.dtype)
  example = streams.Transition(observation, action, zero, zero, observation)

  def act_randomly(carry, _):
    key, stream, replay = carry
    key, key_action, key_step = jax.random.split(key, 3)
    action = environment.sample(key_action, env.action_spec)
    stream, replay = step(
      key_step,
      stream,
      replay,
      env,
      action,
      reward_scale=reward_scale,
      keep_truncated=keep_truncated,
    )
    return (key, stream, replay), None

  carry = (key, stream, ring.init(example, capacity))
  (_, stream, replay), _ = jax.lax.scan(act_randomly, carry, length=num_steps)
  return stream._replace(total=zero, last_total=zero), replay
