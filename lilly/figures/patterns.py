"""A set of patterns as recalled by a memory, for an image grid."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lilly.nets import energy_memory, set_memories
from lilly.tasks import patterns

__all__ = ["recall_examples"]

_MAX_SHOWN = 16


def recall_examples(
  memory: set_memories.SetMemory,
  params: Any,
  task: patterns.Task,
  count: int,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
  """Writes a fixed test set, and reads its damaged queries.

  Args:
    memory: the memory.
    params: parameters of the memory.
    task: task that the set is drawn from.
    count: number of patterns in the set, N.

  Returns:
    Rows for `images.plot_grid`, of at most 16 patterns: the stored ones, the
    queries, and the result of each of the K read steps. And the energies along
    the reads minus the query's, [N, K + 1]; zeros for a memory without an
    energy.
  """

  energy = memory.energy or (lambda params, state, content, x: jnp.zeros(()))

  @jax.jit
  def read(keys, data):
    stored = task.test(keys[0], data, count)
    queries = jax.vmap(task.damage)(jax.random.split(keys[1], count), stored)
    written, reads = set_memories.recall(
      memory, params, {}, stored, queries.pattern
    )
    energy_of = functools.partial(energy, params, {}, written)
    values = energy_memory.measure_energies(energy_of, queries.pattern, reads)
    return stored, queries.pattern, reads, values - values[:, :1]

  *images, values = read(jax.random.split(jax.random.key(2)), task.data)
  if len(task.shape) == 1:
    images = [patterns.to_image(x) for x in images]
  stored, query, reads = (np.asarray(x[:_MAX_SHOWN]) for x in images)
  read_rows = {f"read {k + 1}": reads[:, k] for k in range(reads.shape[1])}
  rows = {"stored": stored, "query": query, **read_rows}
  return rows, np.asarray(values)
