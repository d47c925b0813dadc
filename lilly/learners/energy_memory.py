"""Trains memories of patterns, and measures their recall.

An energy-based memory, or one with the same interface, is trained on the errors
of all steps of its reads. Hopfield networks need no training, and are measured
on the same test sets.
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
  """Initialises the parameters; there is no network state.

  Args:
    key: typed key.
    memory: memory from `energy_memory.make` or `pattern_memories`.
    pattern: an example, with the task's shape.

  Returns:
    Parameters, and (), as `descent.make` takes them.

  Raises:
    ValueError: the memory has a state in addition to its parameters.
  """
  return set_memories.init_params(memory, key, pattern), ()


def make_loss(
  memory: set_memories.SetMemory, task: patterns.Task
) -> descent.Loss:
  """Makes the loss of a set, which is written, then read by damaged queries.

  1/N Σ_n Σ_k |x_n^k - x_n|², where x_n^k is the output of read step k for query
  n.

  Args:
    memory: as in `init`.
    task: task that damages the queries and measures distances.

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
  """Measures the recall of test sets.

  Args:
    key: typed key; the same key draws the same sets, damaged in the same way.
    measure: maps a key, stored patterns [N, ...] and their queries to metrics
      of each pattern, [N, ...]: `measure_memory` or `measure_rule`.
    task: task that the sets are drawn from.
    data: data of the task.
    num_patterns: patterns per set, N.
    counts: further numbers of patterns, for which only errors are measured.
    num_sets: test sets for each number of patterns.
    batch_size: sets measured in parallel.

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
    found = jax.lax.map(measure_set, keys, batch_size=min(batch_size, num_sets))
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
  """Measures the reads of a trained memory.

  Args:
    key: typed key; draws the other set.
    memory: as in `init`.
    params: parameters of the memory.
    task: task that the set is drawn from.
    data: data of the task.
    stored: the stored patterns, [N, ...].
    queries: one per pattern, [N, ...].

  Returns:
    For each pattern: error; error_elsewhere, with another test set in the
    memory; and the metrics of `energy_memory.measure_reads`.
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
    rule: a rule of `energy_memory.retrieve`, or "query", which returns the
      query.
    task: task that measures distances.
    stored: the stored patterns, [N, ...].
    queries: one per pattern, [N, ...].

  Returns:
    For each pattern: error; and, except for "query", error_clamped, with the
    undamaged part of the query known and fixed.

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
