"""Random inputs for memories, to measure them without a controller."""

import jax

from lilly.nets import memories

__all__ = ["interface"]


def interface(
  key: jax.Array, memory: memories.Memory, num_steps: int
) -> dict[str, jax.Array]:
  """Draws random controller outputs.

  Args:
    key: typed key.
    memory: the memory.
    num_steps: number of steps, T.

  Returns:
    For each name of the memory's interface standard normal values, [T, ...].
  """
  return {
    name: jax.random.normal(jax.random.fold_in(key, i), (num_steps, *shape))
    for i, (name, shape) in enumerate(memory.interface.items())
  }
