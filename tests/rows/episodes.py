"""Conformance rows of what is said of whole episodes."""

import jax.numpy as jnp

from lilly.losses import recurrent_dpg, svg
from lilly.replay import episodes
from tests.rows.row import Row, arrays

__all__ = ["ROWS"]


def _critic(memory, action):
  return jnp.sum(memory * jnp.tanh(action))


def _actor_loss(memories, action, weights):
  return recurrent_dpg.actor_loss(_critic, memories, action, weights**2)


def _stochastic_loss(memories, mean, noise, weights):
  policy = lambda nu: svg.action(mean, jnp.ones_like(mean), nu)
  return svg.actor_loss(_critic, memories, policy, noise, weights**2)


def _masked(observation, action, reward, discount):
  ends = discount > 1
  return episodes.mask_after_end(observation, action, reward, discount, ends)


ROWS = (
  Row(recurrent_dpg.history, "function", arrays((3, 2), (2, 1))),
  Row(recurrent_dpg.targets, "function", arrays(2, 2, 3)),
  Row(
    recurrent_dpg.critic_loss,
    "loss",
    arrays(3, 3, 3),
    call=lambda q, y, w: recurrent_dpg.critic_loss(q, y, w**2),
  ),
  Row(
    recurrent_dpg.actor_loss,
    "loss",
    arrays((3, 2), (3, 2), 3),
    call=_actor_loss,
  ),
  Row(svg.action, "function", arrays(3, 3, 3)),
  Row(svg.average_samples, "function", arrays((3, 2))),
  Row(
    svg.actor_loss,
    "loss",
    arrays((3, 2), (3, 2), (4, 3, 2), 3),
    call=_stochastic_loss,
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
