"""What is drawn of a memory of patterns: a set as it is recalled."""

from typing import Any

import jax
import numpy as np

from lilly.nets import energy_memory, pattern_memories
from lilly.tasks import patterns

__all__ = ["recalled"]

_MOST = 16


def recalled(
  memory: pattern_memories.PatternMemory,
  params: Any,
  task: patterns.Task,
  count: int,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
  """Writes a test set, always the same one, and reads its damaged queries.

  Args:
    memory: the memory.
    params: of it.
    task: where the set comes from.
    count: patterns in the set, N.

  Returns:
    Rows for `image_pictures.grid`, of at most 16 patterns: what was stored, the
    queries, and what each read gave. And the energies along the reads, above
    the query's, [N, K + 1]; zeros of a memory without an energy.
  """

  @jax.jit
  def read(keys, data):
    stored = task.test(keys[0], data, count)
    queries = jax.vmap(task.damage)(jax.random.split(keys[1], count), stored)
    found = memory.recall(params, stored, queries.pattern)
    values = energy_memory.energies(found, queries.pattern)
    return stored, queries.pattern, found.iterates, values - values[:, :1]

  *images, values = read(jax.random.split(jax.random.key(2)), task.data)
  if len(task.shape) == 1:
    images = [patterns.as_image(x) for x in images]
  stored, query, reads = (np.asarray(x[:_MOST]) for x in images)
  rows = {"stored": stored, "query": query}
  rows |= {f"read {k + 1}": reads[:, k] for k in range(reads.shape[1])}
  return rows, np.asarray(values)
