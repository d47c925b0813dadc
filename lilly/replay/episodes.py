"""Whole episodes for replay: of one length, masked after their end.

An episode is an item of `lilly.replay.ring`. Memories begin empty at its first
step, so that nothing of a network is stored and nothing goes stale.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

__all__ = ["Episode", "masked"]


class Episode(NamedTuple):
  """T steps, of which the first ones are an episode."""

  observation: jax.Array  # o_1 to o_{T+1}, [T + 1, ...]
  action: jax.Array  # [T, m]
  reward: jax.Array  # [T]
  discount: jax.Array  # [T], 0 where the world ended
  mask: jax.Array  # [T], 1 while the episode runs, also at its last step


def masked(
  observation: jax.Array,
  action: jax.Array,
  reward: jax.Array,
  discount: jax.Array,
  truncated: jax.Array,
) -> Episode:
  """Cuts what came after the end off an episode.

  Args:
    observation: o_1 to o_{T+1}, [T + 1, ...].
    action: [T, m].
    reward: [T].
    discount: [T], 0 where the world ended.
    truncated: [T] bool, where the time was up.

  Returns:
    The episode; what follows its end is zeros, but for its last observation,
    which the end led to.

  Reference:
    Heess et al., 2015 (arXiv 1512.04455), algorithm 1: replay of episodes.

  >>> steps, ends = jnp.ones(3), jnp.array([False, True, False])
  >>> masked(jnp.ones((4, 1)), steps[:, None], steps, steps, ends).mask.tolist()
  [1.0, 1.0, 0.0]
  """
  chex.assert_equal_shape([reward, discount, truncated])
  chex.assert_equal(len(observation), len(reward) + 1)
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
