"""Losses of the recurrent deterministic policy gradient (RDPG), per episode.

A history h_t = (o_1, a_1, ..., a_{t-1}, o_t) consists of stored observations
and actions: the policy's action replaces only the last one, in Q(h_t, μ(h_t)),
never those within the history. `actor_loss` ensures this if its memories are
those of stored histories.

All functions take one episode, or several along leading axes, which must be
the same of all arguments. The mask is 1 until the end of the episode; sums are
divided by its sum. Arguments of another shape than stated are a ValueError;
whole numbers count as float32.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lilly import checks

__all__ = ["actor_loss", "critic_loss", "history", "targets"]


def history(
  observation: jax.Array, action: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Pairs each observation with the previous action: o_t, a_{t-1}; a_0 = 0.

  Args:
    observation: o_1 to o_{T+1}, [..., T + 1, ...].
    action: a_1 to a_T, [..., T, m].

  Returns:
    Inputs of a recurrent network at each step: the observations, and the
    previous actions, [..., T + 1, m].

  Reference:
    Heess et al., 2015 (arXiv 1512.04455), section 2: histories of observations
    and actions.

  >>> history(jnp.ones((3, 1)), jnp.array([[8.0], [9.0]]))[1].ravel().tolist()
  [0.0, 8.0, 9.0]
  """
  action = checks.real("action", action, "*B T m")
  before = jnp.concatenate(
    [jnp.zeros_like(action[..., :1, :]), action], axis=-2
  )
  steps = before.shape[:-1]
  return _with_steps("observation", observation, steps, "action"), before


def _with_steps(name, x, steps, where):
  """Checks that an array's first axes are those of episodes and steps."""
  x = checks.array(name, x, "...")
  if x.shape[: len(steps)] != steps:
    raise ValueError(
      f"{name} has shape {list(x.shape)}; its first axes must be {list(steps)} "
      f"to fit {where} (unbatched: vmap over further axes)."
    )
  return x


def targets(
  reward: jax.Array, discount: jax.Array, value: jax.Array
) -> jax.Array:
  """Computes the critic's targets: y_t = r_t + γ_t Q'(h_{t+1}, μ'(h_{t+1})).

  Args:
    reward: r, [..., T].
    discount: γ, or 0 at termination, [..., T].
    value: Q'(h, μ'(h)) of the target networks, at h_1 to h_{T+1},
      [..., T + 1]; the first one is not used.

  Returns:
    y, [..., T], a constant.

  Reference:
    Heess et al., 2015 (arXiv 1512.04455), algorithm 1.

  >>> discount, value = jnp.array([0.5, 0.0]), jnp.array([7.0, 4.0, 9.0])
  >>> targets(jnp.ones(2), discount, value).tolist()
  [3.0, 1.0]
  """
  sizes = {}
  reward = checks.real("reward", reward, "*B T", sizes)
  discount = checks.real("discount", discount, "*B T", sizes)
  # T + 1 values
  value = checks.real("value", value, f"*B {reward.shape[-1] + 1}", sizes)
  return jax.lax.stop_gradient(reward + discount * value[..., 1:])


def critic_loss(
  value: jax.Array, target: jax.Array, mask: jax.Array
) -> jax.Array:
  """Computes a critic's mean squared error over the steps of episodes.

  Args:
    value: Q(h_t, a_t) at the stored actions, [..., T].
    target: y, [..., T]; a constant.
    mask: 1 until the end of the episode, [..., T].

  Returns:
    The loss, [].

  Reference:
    Heess et al., 2015 (arXiv 1512.04455), algorithm 1, which divides by N T.

  >>> critic_loss(jnp.zeros(2), jnp.array([3.0, 9]), jnp.array([1.0, 0])).item()
  9.0
  """
  sizes = {}
  value = checks.real("value", value, "*B T", sizes)
  target = checks.real("target", target, "*B T", sizes)
  mask = checks.real("mask", mask, "*B T", sizes)
  errors = jnp.where(mask > 0, jax.lax.stop_gradient(target) - value, 0)
  return jnp.sum(mask * jnp.square(errors)) / _count(mask)


def actor_loss(
  critic: Callable[[Any, jax.Array], jax.Array],
  memories: Any,
  action: jax.Array,
  mask: jax.Array,
) -> jax.Array:
  """Computes the mean of -Q(h_t, a) over the steps of episodes.

  Each action is evaluated with the critic's recurrent state of the stored
  history, a constant. So no gradient flows through the critic's later states,
  as it would if the critic were unrolled over the policy's actions.

  Args:
    critic: maps one recurrent state and one action to Q, [].
    memories: recurrent states of the critic given h_t, without a_t; trees of
      [..., T, ...].
    action: μ(h_t), [..., T, m].
    mask: 1 until the end of the episode, [..., T].

  Returns:
    The loss, []. Its gradient is minus that of the expected return, without the
    factors γ^t.

  Reference:
    Heess et al., 2015 (arXiv 1512.04455), equation of RDPG in section 3.

  >>> critic = lambda memory, action: memory * action[0]
  >>> memories, mask = jnp.array([2.0, 5.0]), jnp.ones(2)
  >>> slope = jax.grad(lambda a: actor_loss(critic, memories, a, mask))
  >>> slope(jnp.zeros((2, 1))).ravel().tolist()
  [-1.0, -2.5]
  """
  sizes = {}
  action = checks.real("action", action, "*B T m", sizes)
  mask = checks.real("mask", mask, "*B T", sizes)
  memories = jax.tree.map(
    lambda x: _with_steps("memories", x, mask.shape, "mask"), memories
  )
  of_steps = critic
  for _ in range(mask.ndim):
    of_steps = jax.vmap(of_steps)
  memories = jax.lax.stop_gradient(memories)
  is_on = mask > 0
  # Mask before the critic: masking a NaN after it would leave a NaN gradient.
  action = jnp.where(is_on[..., None], action, 0)
  memories = jax.tree.map(
    lambda x: jnp.where(
      is_on.reshape(mask.shape + (1,) * (x.ndim - mask.ndim)), x, 0
    ),
    memories,
  )
  return -jnp.sum(mask * of_steps(memories, action)) / _count(mask)


def _count(mask):
  return jnp.maximum(jnp.sum(mask), 1)
