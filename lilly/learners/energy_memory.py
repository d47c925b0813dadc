"""Learns memories of patterns, and measures what they recall.

An energy-based memory, or another of the same form, is trained by the errors of
all steps of its reads. Hopfield networks need no training, and are measured on
the same test sets.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lilly.learners import descent
from lilly.memory import energy
from lilly.nets import energy_memory, set_memories
from lilly.tasks import patterns

__all__ = ["evaluate", "init", "make_loss", "measure_memory", "measure_rule"]


def init(
  key: jax.Array, memory: set_memories.SetMemory, pattern: jax.Array
) -> Any:
  """Draws the parameters; there is no state of networks.

  Args:
    key: typed key.
    memory: as from `energy_memory.make`, or one of `pattern_memories`.
    pattern: one, of the task's shape.

  Returns:
    Parameters, and (), as `descent.make` takes them.

  Raises:
    ValueError: the memory has a state beside its parameters.
  """
  return set_memories.init_params(memory, key, pattern), ()


def make_loss(
  memory: set_memories.SetMemory, task: patterns.Task
) -> descent.Loss:
  """Makes the loss of a set: it is written, then read from damaged queries.

  1/N Σ_n Σ_k |x_n^k - x_n|², where x_n^k is what step k reads of query n.

  Args:
    memory: as of `init`.
    task: damages the queries, and measures distances.

  Returns:
    Maps key, parameters, () and stored patterns [N, ...] to the loss, and to
    metrics: loss, and error, the distance of the last step's read.

  Reference:
    Bartunov et al. (2020), arXiv:1910.02720, equation 3.
  """

  def loss(key, params, state, stored):
    del state
    queries = _damage(key, task, stored).pattern
    _, reads = set_memories.recall(memory, params, {}, stored, queries)
    value = jnp.mean(jax.vmap(energy.reconstruction_loss)(reads, stored))
    error = jnp.mean(_distances(task, reads[:, -1], stored))
    return value, {"loss": value, "error": error}

  return loss


def evaluate(
  key: jax.Array,
  measure: Callable[[jax.Array, jax.Array, patterns.Query], Any],
  task: patterns.Task,
  data: Any,
  *,
  num_patterns: int,
  counts: Sequence[int] = (),
  num_sets: int = 64,
  batch_size: int = 16,
) -> dict[str, jax.Array]:
  """Measures what is recalled of test sets.

  Args:
    key: typed key; the same key draws the same sets, damaged in the same way.
    measure: maps a key, stored patterns [N, ...] and their queries to metrics
      of each pattern, [N, ...]: `measure_memory` or `measure_rule`.
    task: where the sets come from.
    data: its data.
    num_patterns: patterns in a set, N.
    counts: further numbers of patterns; of these only errors are kept.
    num_sets: test sets of each number of patterns.
    batch_size: sets that are measured at once.

  Returns:
    Means over patterns and sets of N patterns: those of `measure`, and query,
    the distance of the queries; and of every number of patterns error_at_<n>,
    and error_clamped_at_<n> if there is one.
  """
  metrics = {}
  for count in sorted({num_patterns, *counts}):

    def measure_set(keys, count=count):
      stored = task.test(keys[0], data, count)
      queries = _damage(keys[1], task, stored)
      found = measure(keys[2], stored, queries)
      found = found | {"query": _distances(task, queries.pattern, stored)}
      return jax.tree.map(jnp.mean, found)

    keys = jax.random.split(jax.random.clone(key), (num_sets, 3))
    found = jax.lax.map(measure_set, keys, batch_size=batch_size)
    found = jax.tree.map(jnp.mean, found)
    for name in ("error", "error_clamped"):
      if name in found:
        metrics[f"{name}_at_{count}"] = found[name]
    if count == num_patterns:
      metrics |= found
  return metrics


def measure_memory(
  key: jax.Array,
  memory: set_memories.SetMemory,
  params: Any,
  task: patterns.Task,
  data: Any,
  stored: jax.Array,
  queries: patterns.Query,
) -> dict[str, jax.Array]:
  """Measures the reads of a memory that is trained.

  Args:
    key: typed key; draws the other set.
    memory: as of `init`.
    params: its parameters.
    task: where the set comes from.
    data: its data.
    stored: what is written, [N, ...].
    queries: one per pattern, [N, ...].

  Returns:
    For each pattern: error; error_elsewhere, where another test set is written
    in place of this one; and those of `energy_memory.measure_reads`.
  """

  def recall(written):
    return set_memories.recall(memory, params, {}, written, queries.pattern)

  written, reads = recall(stored)
  _, elsewhere = recall(task.test(key, data, len(stored)))
  found = energy_memory.measure_reads(
    memory, params, written, stored, queries.pattern, reads
  )
  return found | {
    "error": _distances(task, reads[:, -1], stored),
    "error_elsewhere": _distances(task, elsewhere[:, -1], stored),
  }


def measure_rule(
  key: jax.Array,
  rule: str,
  task: patterns.Task,
  stored: jax.Array,
  queries: patterns.Query,
) -> dict[str, jax.Array]:
  """Measures a rule that needs no training.

  Args:
    key: typed key.
    rule: as of `energy_memory.retrieve`, or "query", which returns the query.
    task: measures distances.
    stored: what is written, [N, ...].
    queries: one per pattern, [N, ...].

  Returns:
    For each pattern: error; and, but for "query", error_clamped, where the
    undamaged part of the query is known and kept.

  Raises:
    ValueError: as `energy_memory.retrieve`.
  """
  if rule == "query":
    return {"error": _distances(task, queries.pattern, stored)}

  def measure(is_known):
    found = energy_memory.retrieve(key, rule, stored, queries.pattern, is_known)
    return _distances(task, found, stored)

  is_known = ~queries.is_damaged
  both = jax.vmap(measure)(jnp.stack([jnp.zeros_like(is_known), is_known]))
  return {"error": both[0], "error_clamped": both[1]}


def _damage(key, task, stored):
  return jax.vmap(task.damage)(jax.random.split(key, len(stored)), stored)


def _distances(task, x, stored):
  measure = lambda x, pattern: patterns.measure_distance(task, x, pattern)
  return jax.vmap(measure)(x, stored)
