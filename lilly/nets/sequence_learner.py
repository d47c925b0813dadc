"""What training any core on any sequence task needs, and looking into it."""

from typing import Any

import jax
import jax.numpy as jnp

from lilly.nets import recurrent
from lilly.tasks import sequences

__all__ = ["accesses", "scores"]


def scores(
  params: Any,
  core: recurrent.Core,
  task: sequences.Task,
  episodes: sequences.Episode,
) -> tuple[jax.Array, jax.Array]:
  """Scores a core on a batch of episodes, each from a fresh state.

  Args:
    params: of the core.
    core: the recurrent network.
    task: where the episodes are from.
    episodes: with a leading axis [B, ...].

  Returns:
    Mean loss and mean error of the task, two scalars: a loss and its auxiliary
    for `jax.value_and_grad(scores, has_aux=True)`.
  """

  def score(episode):
    start = core.initial_state()
    _, logits = recurrent.unroll(core, params, episode.inputs, start)
    return task.loss(episode, logits), task.error(episode, logits)

  loss, error = jax.vmap(score)(episodes)
  return jnp.mean(loss), jnp.mean(error)


def accesses(
  params: Any, core: recurrent.Core, inputs: jax.Array
) -> tuple[jax.Array, jax.Array] | None:
  """Records where a core's memory is accessed along a sequence.

  Args:
    params: of the core.
    core: the recurrent network.
    inputs: [T, D].

  Returns:
    Write and read weights, summed over heads, [T, N] each; None for a core
    whose memory cannot be looked into, or that has none.
  """
  if core.accesses is None:
    return None
  accesses_of_step = core.accesses

  def step(state, x):
    state, _ = core.apply(params, x, state)
    return state, accesses_of_step(state)

  return jax.lax.scan(step, core.initial_state(), inputs)[1]
