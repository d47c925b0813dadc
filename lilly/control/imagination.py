"""Imagination rollouts: short rollouts of a policy in a dynamics model.

A model is a function that steps a state: either the simulator or a learnt
model. Imagined transitions are learnt from like real ones.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lilly import checks

__all__ = ["Imagined", "rollout"]


class Imagined(NamedTuple):
  """Imagined transitions, each field [l, ...]."""

  observation: jax.Array
  action: jax.Array
  reward: jax.Array  # [l]
  discount: jax.Array  # [l], 0 at termination in the model
  next_observation: jax.Array
  is_valid: jax.Array  # [l] bool, False after an episode end: not for learning


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
    key: typed PRNG key.
    state: initial state of the model.
    observation: observation of that state.
    step: the model, with the signature of an environment's `step`; a model with
      a finite horizon truncates at its last step.
    act: the current policy, maps a key and an observation to an action.
    length: number of steps l; 5 or 10 in the paper.
    noise: added to the actions, which are then clipped to [-1, 1], [l, m]; or
      None. Whole numbers count as float32.

  Returns:
    The transitions; those after a discount of 0 or a truncation are invalid.

  Raises:
    ValueError: if length is not positive, or noise has another shape than
      [l, m].

  Reference:
    Gu et al., 2016 (arXiv 1603.00748), algorithm 2.

  >>> from lilly.envs import pendulum
  >>> env = pendulum.make(num_steps=5)
  >>> start = env.reset(jax.random.key(0))
  >>> options = {"step": env.step, "act": lambda key, obs: jnp.zeros(1)}
  >>> int(rollout(jax.random.key(1), *start, **options).is_valid.sum())
  5
  """
  key = checks.key("key", key)
  length = checks.whole_number("length", length, least=1)
  observation = checks.array("observation", observation, "...")
  state = jax.tree.map(jnp.asarray, state)
  if noise is not None:
    noise = checks.real("noise", noise, f"{length} m")

  def go(carry, noise):
    key, state, observation, is_valid = carry
    key, key_act, key_step = jax.random.split(key, 3)
    action = act(key_act, observation)
    if noise is not None:
      noise = checks.real("noise", noise, str(jnp.shape(action)[-1]))
      action = jnp.clip(action + noise, -1, 1)
    state, found = step(key_step, state, action)
    outcome = found.reward, found.discount, found.observation
    imagined = Imagined(observation, action, *outcome, is_valid)
    is_valid &= (found.discount != 0) & ~found.truncated
    return (key, state, found.observation, is_valid), imagined

  carry = key, state, observation, jnp.array(True)
  return jax.lax.scan(go, carry, noise, length=length)[1]
