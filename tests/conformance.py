"""Rows of the conformance suite: one for each public pure function.

To cover a new function add a row to its subject's module in `tests/rows`;
`conformance_test.py` says what is checked. A function that no check fits goes
to `EXEMPT`, with the reason.
"""

from tests.rows import (
  actor_critic,
  control,
  dense_memory,
  energy,
  episodes,
  filters,
  hopfield,
  kanerva,
  likelihoods,
  rules,
  sparse_memory,
)
from tests.rows.row import Row

__all__ = ["EXEMPT", "ROWS", "SLOW", "Row"]

ROWS = (
  *rules.ROWS,
  *dense_memory.ROWS,
  *sparse_memory.ROWS,
  *kanerva.ROWS,
  *energy.ROWS,
  *hopfield.ROWS,
  *filters.ROWS,
  *likelihoods.ROWS,
  *control.ROWS,
  *episodes.ROWS,
  *actor_critic.ROWS,
)

# Rows that take seconds to compile: only --full runs them in all ways.
SLOW = frozenset(
  {
    "control.kl_limited.divergence",
    "control.kl_limited.improve",
    "control.linear_models.fit",
    "control.linear_models.mean",
    "control.linear_models.roots",
    "control.linear_models.sample",
    "control.lqr.backward",
    "control.lqr.expand",
    "control.lqr.forward",
    "control.lqr.plan",
    "memory.differentiable_neural_computer.write",
    "memory.energy.loss",
    "memory.energy.writing_terms",
    "memory.kanerva.kl",
    "memory.kanerva.merge",
    "memory.kanerva.write_all",
    "memory.nearest_neighbors.file",
    "memory.nearest_neighbors.insert",
    "memory.nearest_neighbors.query",
    "memory.sparse_access.read",
    "memory.sparse_access.write",
    "memory.sparse_neural_computer.read",
    "memory.sparse_neural_computer.write",
    "memory.sparse_rows.write",
    "memory.temporal_links.update",
  }
)

# Function, "module.name" -> why none of the checks fits it.
EXEMPT: dict[str, str] = {
  "memory.bloom.optimal_size": "Whole numbers for shapes, before any array.",
}
