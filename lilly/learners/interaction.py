"""Acting and remembering, for agents that learn from replay while they act.

How an agent acts greedily is its own; what comes after is here: noise is added,
the environment steps, the transition goes into a ring.
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
    noise: of the step before, [m]; zeros at the start of an episode.
    action: the greedy one, [m].
    theta: mean-reversion rate θ.
    sigma: volatility σ.
    dt: time step.
    innovation: as of `exploration.ornstein_uhlenbeck`; None: drawn.

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
    stream: where the agent is.
    replay: a ring of `streams.Transition`s.
    env: one that resets itself.
    action: the one executed, [m].
    noise: the noise in it, which the stream keeps until the episode ends.
    reward_scale: rewards are multiplied by this.
    keep_truncated: as of `remember`.

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
    replay: the ring.
    transition: one.
    truncated: whether the time limit ended its episode, [] bool.
    keep_truncated: whether such transitions are stored, too.

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
  """Starts a stream, and a replay of its first steps by random actions.

  Args:
    key: typed key.
    env: one that resets itself.
    capacity: transitions that the replay holds.
    num_steps: how many steps are taken.
    reward_scale: as of `step`.
    keep_truncated: as of `remember`.

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
  stream = streams.start(key_start, env)
  observation, zero = stream.env.observation, jnp.zeros(())
  example = streams.Transition(
    observation, stream.noise, zero, zero, observation
  )

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
