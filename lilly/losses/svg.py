"""Model-free stochastic value gradients: SVG(0), and recurrent RSVG(0).

A stochastic policy is a deterministic function of a history and of noise,
a = π(h, ν), so that dQ/da is backpropagated as through a deterministic policy.
Without recurrence h is the state, and RSVG(0) is SVG(0).

Functions take one episode, or several along leading axes, which must be the
same of all arguments. Arguments of another shape than stated are a ValueError;
whole numbers count as float32.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lilly import checks
from lilly.losses import recurrent_dpg

__all__ = ["action", "actor_loss", "average_samples"]


def action(mean: jax.Array, scale: jax.Array, noise: jax.Array) -> jax.Array:
  """Reparameterises a Gaussian action: a = m + s ν, elementwise.

  Args:
    mean: mean m, [..., m].
    scale: standard deviation s, [..., m]; 0 gives a deterministic policy.
    noise: ν ~ N(0, I), sampled anew at each step and each update, [..., m].

  Returns:
    a, [..., m].

  Reference:
    Heess et al., 2015 (arXiv 1510.09142), section 4.1.

  >>> action(jnp.ones(1), 0.5 * jnp.ones(1), 2 * jnp.ones(1)).tolist()
  [2.0]
  """
  sizes = {}
  mean = checks.real("mean", mean, "*B m", sizes)
  scale = checks.real("scale", scale, "*B m", sizes)
  noise = checks.real("noise", noise, "*B m", sizes)
  return mean + scale * noise


def average_samples(value: jax.Array) -> jax.Array:
  """Averages values over noise samples.

  Args:
    value: value of each sample, [S, ...].

  Returns:
    The mean, [...].

  Raises:
    ValueError: if there are no samples.

  Reference:
    Heess et al., 2015 (arXiv 1512.04455), section 3: for Q' in the targets.

  >>> average_samples(jnp.array([1.0, 3.0])).item()
  2.0
  """
  value = checks.real("value", value, "...")
  if not value.shape or not len(value):
    raise ValueError("value has no samples; give at least one.")
  return jnp.mean(value, axis=0)


def actor_loss(
  critic: Callable[[Any, jax.Array], jax.Array],
  memories: Any,
  policy: Callable[[jax.Array], jax.Array],
  noise: jax.Array,
  mask: jax.Array,
) -> jax.Array:
  """Computes the mean of -Q(h_t, π(h_t, ν)) over samples and steps.

  Args:
    critic: see `recurrent_dpg.actor_loss`.
    memories: recurrent states of stored histories, see
      `recurrent_dpg.actor_loss`.
    policy: maps noise [..., T, m] to the actions of all steps, [..., T, m].
    noise: ν, independent of the stored actions' noise, [S, ..., T, m].
    mask: 1 until the end of the episode, [..., T].

  Returns:
    The loss, []; for a policy that ignores the noise it is RDPG's.

  Reference:
    Heess et al., 2015 (arXiv 1512.04455), equation of RSVG(0) in section 3.

  >>> critic = lambda memory, action: memory * action[0]
  >>> memories, noise, mask = jnp.array([2.0]), jnp.ones((3, 1, 1)), jnp.ones(1)
  >>> policy = lambda m: lambda noise: m + noise
  >>> loss = lambda m: actor_loss(critic, memories, policy(m), noise, mask)
  >>> jax.grad(loss)(1.0).item()
  -2.0
  """

  mask = checks.real("mask", mask, "... T")
  noise = checks.real("noise", noise, "... T m")
  if noise.shape[1:-1] != mask.shape:
    raise ValueError(
      f"noise has shape {list(noise.shape)}; its axes between the samples and "
      f"the action's must be those of mask, {list(mask.shape)} (unbatched: "
      "vmap over further axes)."
    )

  def of_sample(noise):
    return recurrent_dpg.actor_loss(critic, memories, policy(noise), mask)

  return average_samples(jax.vmap(of_sample)(noise))
