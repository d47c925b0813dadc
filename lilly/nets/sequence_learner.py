"""What training any core on any sequence task needs, and looking into it."""

from typing import Any

import jax
import jax.numpy as jnp

from lilly.memory import sparse_access, sparse_neural_computer
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
  """Looks where a core's memory is accessed along a sequence.

  Args:
    params: of the core.
    core: the recurrent network.
    inputs: [T, D].

  Returns:
    Weights of writing and of reading, summed over heads, [T, N] each; None for
    a core without a memory.
  """
  if not isinstance(core.initial_state(), recurrent.State):
    return None

  def step(state, x):
    state, _ = core.apply(params, x, state)
    return state, _weights(state.memory)

  return jax.lax.scan(step, core.initial_state(), inputs)[1]


def _weights(memory):
  """Of writing and of reading, [N] each."""
  if isinstance(memory, sparse_neural_computer.State):
    return _weights(memory.memory)
  if isinstance(memory, sparse_access.State):
    num_slots = len(memory.words.words)
    return _spread(memory.writes, num_slots), _spread(memory.reads, num_slots)
  heads = jnp.atleast_2d(memory.write_weights)
  return heads.sum(axis=0), memory.read_weights.sum(axis=0)


def _spread(address, num_slots):
  weights = jnp.zeros(num_slots)
  return weights.at[address.slots].add(address.weights, mode="drop")
