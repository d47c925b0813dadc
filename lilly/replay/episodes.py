"""Whole episodes for replay: of equal length, masked after their end.

An episode is an item of `lilly.replay.ring`. Recurrent states start from zero
at its first step, so none are stored that could become stale.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lilly import checks

__all__ = ["Episode", "mask_after_end"]


class Episode(NamedTuple):
  """An episode, padded to T steps."""

  observation: jax.Array  # o_1 to o_{T+1}, [T + 1, ...]
  action: jax.Array  # [T, m]
  reward: jax.Array  # [T]
  discount: jax.Array  # [T], 0 at termination
  mask: jax.Array  # [T], 1 up to and including the last step of the episode


def mask_after_end(
  observation: jax.Array,
  action: jax.Array,
  reward: jax.Array,
  discount: jax.Array,
  truncated: jax.Array,
) -> Episode:
  """Masks the steps after the end of an episode.

  Args:
    observation: observations o_1 to o_{T+1}, [T + 1, ...].
    action: actions, [T, m].
    reward: rewards, [T].
    discount: discounts, [T], 0 at termination.
    truncated: whether the time limit was reached, [T] bool.

  Returns:
    The episode, with zeros after its end; its final observation is kept.
    Observations and actions keep their types.

  Raises:
    ValueError: an argument has another shape than stated.

  Reference:
    Heess et al., 2015 (arXiv 1512.04455), algorithm 1: replay of episodes.

  >>> steps, ends = jnp.ones(3), jnp.array([False, True, False])
  >>> o, a = jnp.ones((4, 1)), jnp.ones((3, 1))
  >>> mask_after_end(o, a, steps, steps, ends).mask.tolist()
  [1.0, 1.0, 0.0]
  """
  sizes = {}
  reward = checks.real("reward", reward, "T", sizes)
  discount = checks.real("discount", discount, "T", sizes)
  truncated = checks.mask("truncated", truncated, "T", sizes)
  action = checks.array("action", action, "T m", sizes)
  observation = checks.array("observation", observation, "...")
  if observation.shape[:1] != (len(reward) + 1,):
    raise ValueError(
      f"observation has shape {list(observation.shape)}; it must be [T + 1, "
      f"...] with T = {len(reward)}, as in reward."
    )
  is_end = (discount == 0) | truncated
  is_past = jnp.cumsum(is_end) - is_end > 0

  def cut(x, is_past):
    past = is_past.reshape(-1, *[1] * (x.ndim - 1))
    return jnp.where(past, jnp.zeros_like(x), x)

  seen = jnp.concatenate([jnp.zeros(1, bool), is_past])
  return Episode(
    observation=cut(observation, seen),
    action=cut(action, is_past),
    reward=cut(reward, is_past),
    discount=cut(discount, is_past),
    mask=(~is_past).astype(reward.dtype),
  )
