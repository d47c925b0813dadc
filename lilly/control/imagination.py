"""Imagination: short rollouts of a policy in a model of the world.

A model is a function that steps a state: a simulator itself, or one learnt.
What a rollout gives is learnt from as if it had happened.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["Imagined", "rollout"]


class Imagined(NamedTuple):
  """Steps that did not happen, [l, ...] each."""

  observation: jax.Array
  action: jax.Array
  reward: jax.Array  # [l]
  discount: jax.Array  # [l], 0 where the model's world ended
  next_observation: jax.Array
  is_valid: jax.Array  # [l] bool, False past an end: not to be learnt from


def rollout(
  key: jax.Array,
  state: Any,
  observation: jax.Array,
  *,
  step: Callable[[jax.Array, Any, jax.Array], tuple[Any, Any]],
  act: Callable[[jax.Array, jax.Array], jax.Array],
  length: int = 10,
  noise: jax.Array | None = None,
) -> Imagined:
  """Rolls a policy out in a model.

  Args:
    key: typed key.
    state: of the model, where it starts.
    observation: of that state.
    step: the model, as the `step` of an environment; one with a horizon
      truncates at its last step.
    act: the policy as it is now, of a key and an observation.
    length: steps, l; paper: 5 or 10.
    noise: added to actions, which are then cut to [-1, 1], [l, m]; or None.

  Returns:
    The steps; after a discount of 0 or a truncation they are not valid.

  Raises:
    ValueError: length is not positive.

  Reference:
    Gu et al., 2016 (arXiv 1603.00748), algorithm 2.

  >>> from lilly.envs import pendulum
  >>> env = pendulum.make(num_steps=5)
  >>> start = env.reset(jax.random.key(0))
  >>> options = {"step": env.step, "act": lambda key, seen: jnp.zeros(1)}
  >>> int(rollout(jax.random.key(1), *start, **options).is_valid.sum())
  5
  """
  if length < 1:
    raise ValueError(f"length is {length}; it must be at least 1.")

  def go(carry, noise):
    key, state, observation, is_valid = carry
    key, key_act, key_step = jax.random.split(key, 3)
    action = act(key_act, observation)
    if noise is not None:
      action = jnp.clip(action + noise, -1, 1)
    state, found = step(key_step, state, action)
    outcome = found.reward, found.discount, found.observation
    imagined = Imagined(observation, action, *outcome, is_valid)
    is_valid &= (found.discount != 0) & ~found.truncated
    return (key, state, found.observation, is_valid), imagined

  carry = key, state, observation, jnp.array(True)
  return jax.lax.scan(go, carry, noise, length=length)[1]
