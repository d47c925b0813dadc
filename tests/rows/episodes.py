"""Conformance rows of what is said of whole episodes."""

import jax.numpy as jnp

from lilly.losses import recurrent_dpg, svg
from lilly.replay import episodes
from tests.rows.row import Row, arrays

__all__ = ["ROWS"]


def _critic(memory, action):
  return jnp.sum(jnp.sin(memory)) * jnp.sum(jnp.tanh(action))


def _critic_loss(value, target, mask):
  return recurrent_dpg.critic_loss(value, target, jnp.square(mask))


def _actor_loss(memories, action, mask):
  mask = jnp.square(mask)
  return recurrent_dpg.actor_loss(_critic, memories, action, mask)


def _stochastic_loss(memories, mean, noise, mask):
  policy = lambda nu: svg.action(mean, jnp.ones_like(mean), nu)
  return svg.actor_loss(_critic, memories, policy, noise, jnp.square(mask))


def _masked(observation, action, reward, discount):
  ends = discount > 1
  return episodes.mask_after_end(observation, action, reward, discount, ends)


ROWS = (
  Row(
    recurrent_dpg.history,
    "function",
    arrays((3, 2), (2, 1)),
    free=frozenset({"observation.1", "action.1"}),
    without={"integers": "Observations keep their type, as pictures must."},
  ),
  Row(recurrent_dpg.targets, "function", arrays(2, 2, 3)),
  Row(
    recurrent_dpg.critic_loss,
    "loss",
    arrays(3, 3, 3),
    call=_critic_loss,
  ),
  Row(
    recurrent_dpg.actor_loss,
    "loss",
    arrays((3, 2), (3, 2), 3),
    call=_actor_loss,
    free=frozenset({"memories.1", "action.1"}),
  ),
  Row(svg.action, "function", arrays(3, 3, 3)),
  Row(
    svg.average_samples,
    "function",
    arrays((3, 2)),
    any_rank=frozenset({"value"}),
    free=frozenset({"value.0", "value.1"}),
  ),
  Row(
    svg.actor_loss,
    "loss",
    arrays((3, 2), (3, 2), (4, 3, 2), 3),
    call=_stochastic_loss,
    free=frozenset({"memories.1", "noise.0"}),
  ),
  Row(
    episodes.mask_after_end,
    "function",
    arrays((4, 2), (3, 1), 3, 3),
    call=_masked,
    free=frozenset({"observation.1", "action.1"}),
    any_rank=frozenset({"observation"}),
  ),
)
