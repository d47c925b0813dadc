"""Memories in random use: what measurements of a memory alone start from."""

from typing import Any

import jax

from lilly.memory import (
  nearest_neighbors,
  sparse_access,
  sparse_neural_computer,
)
from lilly.nets import memories

__all__ = ["fill", "interface"]


def fill(key: jax.Array, state: Any) -> Any:
  """Puts a random word into every slot, and files it if there is an index.

  Args:
    key: typed key.
    state: of a memory in `memories`.

  Returns:
    The state; words are standard normal.
  """
  if isinstance(state, sparse_neural_computer.State):
    return state._replace(memory=fill(key, state.memory))
  if not isinstance(state, sparse_access.State):
    return state._replace(memory=jax.random.normal(key, state.memory.shape))
  words = jax.random.normal(key, state.words.words.shape)
  state = state._replace(words=state.words._replace(words=words))
  if state.index is None:
    return state
  return state._replace(index=nearest_neighbors.file(state.index, words))


def interface(
  key: jax.Array, memory: memories.Memory, num_steps: int
) -> dict[str, jax.Array]:
  """Draws what a controller would emit.

  Args:
    key: typed key.
    memory: the memory.
    num_steps: T.

  Returns:
    For each name of the memory's interface standard normal numbers, [T, ...].
  """
  return {
    name: jax.random.normal(jax.random.fold_in(key, i), (num_steps, *shape))
    for i, (name, shape) in enumerate(memory.interface.items())
  }
