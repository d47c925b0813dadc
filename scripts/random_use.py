"""Memories in random use: what measurements of a memory alone start from."""

import jax

from lilly.nets import memories

__all__ = ["interface"]


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
