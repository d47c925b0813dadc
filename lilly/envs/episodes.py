"""Plays episodes of an environment."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lilly import checks
from lilly.envs import environment
from lilly.envs.environment import Environment
from lilly.replay import episodes as replayed

__all__ = [
  "discounted",
  "mean_return",
  "play",
  "play_with_memory",
  "recorded",
  "rollout",
  "rollout_with_memory",
]

# act(key, observation) -> action
Policy = Callable[[jax.Array, Any], jax.Array]
# act(key, memory, observation, previous action) -> (memory, action)
RememberingPolicy = Callable[
  [jax.Array, Any, Any, jax.Array], tuple[Any, jax.Array]
]


def discounted(
  steps: environment.Step, discount: float | jax.Array
) -> jax.Array:
  """Computes the discounted return from each step on.

  G_t = r_t + γ d_t G_{t+1},  0 after the last step.

  Args:
    steps: the steps of one episode, as returned by `rollout`, [T, ...] each.
    discount: discount factor γ, from 0 to 1.

  Returns:
    G, [T]; NaN at steps after a termination.

  Raises:
    ValueError: discount is out of range, or rewards and discounts of the steps
      are not [T].

  >>> steps = environment.make_step(jnp.zeros(1), 1.0)
  >>> steps = jax.tree.map(lambda x: jnp.stack([x, x]), steps)
  >>> discounted(steps, 0.5).tolist()
  [1.5, 1.0]
  """

  sizes = {}
  rewards = checks.real("steps.reward", steps.reward, "T", sizes)
  discounts = checks.real("steps.discount", steps.discount, "T", sizes)
  discount = checks.number("discount", discount, least=0, most=1)

  def back(total, step):
    reward, continues = step
    total = reward + discount * continues * total
    return total, total

  start = jnp.zeros(())
  totals = jax.lax.scan(back, start, (rewards, discounts), reverse=True)[1]
  is_end = discounts == 0
  is_past = jnp.cumsum(is_end) - is_end > 0
  return jnp.where(is_past, jnp.nan, totals)


def play(key: jax.Array, env: Environment, act: Policy) -> jax.Array:
  """Plays one episode to its end.

  Args:
    key: typed key.
    env: an environment whose episodes end, not auto-resetting.
    act: maps a key and an observation to an action.

  Returns:
    The return: the sum of the rewards, [].

  >>> from lilly.envs import point_mass
  >>> env = point_mass.make(num_steps=2)
  >>> act = lambda key, observation: environment.sample(key, env.action_spec)
  >>> play(jax.random.key(0), env, act).shape
  ()
  """
  forget = lambda key, memory, observation: (memory, act(key, observation))
  return play_with_memory(key, env, forget, ())


def play_with_memory(
  key: jax.Array,
  env: Environment,
  act: Callable[[jax.Array, Any, Any], tuple[Any, jax.Array]],
  memory: Any,
) -> jax.Array:
  """Plays one episode of a recurrent policy to its end.

  Args:
    key: typed key.
    env: an environment whose episodes end, not auto-resetting.
    act: maps a key, the memory and an observation to the new memory and an
      action.
    memory: initial memory.

  Returns:
    The return: the sum of the rewards, [].

  >>> from lilly.envs import point_mass
  >>> env = point_mass.make(num_steps=2)
  >>> act = lambda key, count, observation: (count + 1, jnp.ones(2) / count)
  >>> play_with_memory(jax.random.key(0), env, act, jnp.ones(())).shape
  ()
  """
  key_reset, key = jax.random.split(key)
  state, observation = env.reset(key_reset)

  def step(carry):
    key, memory, state, observation, total, _ = carry
    key, key_act, key_step = jax.random.split(key, 3)
    memory, action = act(key_act, memory, observation)
    state, step = env.step(key_step, state, action)
    ends = environment.is_last(step)
    return key, memory, state, step.observation, total + step.reward, ends

  start = (key, memory, state, observation, jnp.zeros(()), jnp.array(False))
  return jax.lax.while_loop(lambda carry: ~carry[-1], step, start)[4]


def mean_return(
  key: jax.Array, env: Environment, act: Policy, num_starts: int
) -> jax.Array:
  """Plays episodes from different starts.

  Args:
    key: typed key; the same key gives the same starts.
    env: an environment whose episodes end, not auto-resetting.
    act: maps a key and an observation to an action.
    num_starts: number of episodes, at least 1.

  Returns:
    The mean return, [].

  Raises:
    ValueError: num_starts is not positive.

  >>> from lilly.envs import point_mass
  >>> env = point_mass.make(num_steps=2)
  >>> act = lambda key, observation: environment.sample(key, env.action_spec)
  >>> mean_return(jax.random.key(0), env, act, num_starts=3).shape
  ()
  """
  num_starts = checks.whole_number("num_starts", num_starts, least=1)
  keys = jax.random.split(key, num_starts)
  return jnp.mean(jax.vmap(lambda key: play(key, env, act))(keys))


def rollout(
  key: jax.Array, env: Environment, act: Policy, num_steps: int
) -> tuple[Any, Any, jax.Array, environment.Step]:
  """Runs a policy for a fixed number of steps, starting with a reset.

  Args:
    key: typed key.
    env: an environment; only an auto-resetting one may pass an episode's end.
    act: maps a key and an observation to an action.
    num_steps: number of steps, T.

  Returns:
    States, observations and actions at each step, and the resulting steps,
    [T, ...] each.

  >>> from lilly.envs import point_mass
  >>> env = point_mass.make()
  >>> act = lambda key, observation: environment.sample(key, env.action_spec)
  >>> rollout(jax.random.key(0), env, act, 5)[2].shape
  (5, 2)
  """
  forget = lambda key, memory, observation: (memory, act(key, observation))
  return _rollout(key, env, forget, (), num_steps)


def recorded(
  played: tuple[Any, Any, jax.Array, environment.Step],
) -> replayed.Episode:
  """Converts a rollout of one episode into an item for replay.

  Args:
    played: as returned by `rollout` or `rollout_with_memory`.

  Returns:
    The episode, masked after its end.

  >>> from lilly.envs import point_mass
  >>> env = point_mass.make(num_steps=2)
  >>> act = lambda key, observation: environment.sample(key, env.action_spec)
  >>> played = rollout(jax.random.key(0), env, act, 3)
  >>> recorded(played).mask.tolist()
  [1.0, 1.0, 0.0]
  """
  _, seen, actions, steps = played
  seen = jnp.concatenate([seen, steps.observation[-1:]])
  return replayed.mask_after_end(seen, actions, *steps[1:])


def rollout_with_memory(
  key: jax.Array,
  env: Environment,
  act: RememberingPolicy,
  memory: Any,
  num_steps: int,
) -> tuple[Any, Any, jax.Array, environment.Step]:
  """Runs a recurrent policy for a fixed number of steps, after a reset.

  Args:
    key: typed key.
    env: an environment; steps after an episode's end are returned unmasked.
      Where an auto-resetting one starts anew, the memory is reset too.
    act: maps a key, the memory, an observation and the previous action
      (initially zeros) to the new memory and an action.
    memory: initial memory of an episode.
    num_steps: number of steps, T.

  Returns:
    States, observations and actions at each step, and the resulting steps,
    [T, ...] each.

  >>> from lilly.envs import point_mass
  >>> act = lambda key, count, seen, before: (count + 1, before + count)
  >>> found = rollout_with_memory(
  ...   jax.random.key(0), point_mass.make(), act, jnp.ones(()), 3
  ... )
  >>> found[2][:, 0].tolist()
  [1.0, 3.0, 6.0]
  """

  def remember(key, carry, observation):
    carry = act(key, carry[0], observation, carry[1])
    return carry, carry[1]

  before = jnp.zeros(env.action_spec.shape, env.action_spec.dtype)
  return _rollout(key, env, remember, (memory, before), num_steps)


def _rollout(key, env, act, memory, num_steps):
  num_steps = checks.whole_number("num_steps", num_steps)
  key_reset, key = jax.random.split(key)
  state, observation = env.reset(key_reset)

  def step(carry, _):
    key, now, state, observation = carry
    key, key_act, key_step = jax.random.split(key, 3)
    now, action = act(key_act, now, observation)
    following, step = env.step(key_step, state, action)
    # An auto-resetting environment holds the observation to act on next. If it
    # belongs to a new episode, the memory starts anew.
    seen = step.observation
    if hasattr(following, "observation"):
      seen, is_over = following.observation, environment.is_last(step)
      now = jax.tree.map(lambda x, y: jnp.where(is_over, x, y), memory, now)
    found = state, observation, action, step
    return (key, now, following, seen), found

  carry = (key, memory, state, observation)
  return jax.lax.scan(step, carry, length=num_steps)[1]
