"""Stochastic value gradients without a model: SVG(0), and with memory RSVG(0).

A stochastic policy is a deterministic function of a history and of noise,
a = π(h, ν), so that dQ/da goes through it as through a deterministic one. Where
there is no recurrence h is the state, and RSVG(0) is SVG(0).
"""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from lilly.losses import recurrent_dpg

__all__ = ["action", "actor_loss", "expected"]


def action(mean: jax.Array, scale: jax.Array, noise: jax.Array) -> jax.Array:
  """Re-parameterises a Gaussian: a = m + s ν, number by number.

  Args:
    mean: m, [..., m].
    scale: s, [..., m]; 0 gives a deterministic policy.
    noise: ν ~ N(0, I), drawn anew at each step and each update, [..., m].

  Returns:
    a, [..., m].

  Reference:
    Heess et al., 2015 (arXiv 1510.09142), section 4.1.

  >>> action(jnp.ones(1), 0.5 * jnp.ones(1), 2 * jnp.ones(1)).tolist()
  [2.0]
  """
  chex.assert_equal_shape([mean, noise])
  return mean + scale * noise


def expected(value: jax.Array) -> jax.Array:
  """Averages over samples of the noise.

  Args:
    value: of each sample, [S, ...].

  Returns:
    The mean, [...].

  Raises:
    ValueError: there is no sample.

  Reference:
    Heess et al., 2015 (arXiv 1512.04455), section 3: of Q' in the targets.

  >>> expected(jnp.array([1.0, 3.0])).item()
  2.0
  """
  if not len(value):
    raise ValueError("value has no samples; give at least one.")
  return jnp.mean(value, axis=0)


def actor_loss(
  critic: Callable[[Any, jax.Array], jax.Array],
  memories: Any,
  policy: Callable[[jax.Array], jax.Array],
  noise: jax.Array,
  mask: jax.Array,
) -> jax.Array:
  """Averages -Q(h_t, π(h_t, ν)) over samples and over the steps of episodes.

  Args:
    critic: as in `recurrent_dpg.actor_loss`.
    memories: likewise: of stored histories, constants.
    policy: maps noise [..., T, m] to the actions of all steps, [..., T, m].
    noise: ν, not that of the stored actions, [S, ..., T, m].
    mask: 1 while an episode runs, [..., T].

  Returns:
    The loss, []; with a policy that ignores noise that of RDPG.

  Reference:
    Heess et al., 2015 (arXiv 1512.04455), equation of RSVG(0) in section 3.

  >>> critic = lambda memory, action: memory * action[0]
  >>> memories, noise, mask = jnp.array([2.0]), jnp.ones((3, 1, 1)), jnp.ones(1)
  >>> policy = lambda m: lambda noise: m + noise
  >>> loss = lambda m: actor_loss(critic, memories, policy(m), noise, mask)
  >>> jax.grad(loss)(1.0).item()
  -2.0
  """

  def of_sample(noise):
    return recurrent_dpg.actor_loss(critic, memories, policy(noise), mask)

  return expected(jax.vmap(of_sample)(noise))
