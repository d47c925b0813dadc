"""Rows of the conformance suite: one for each public pure function.

To cover a new function add a row to its subject's module in `tests/rows`;
`conformance_test.py` says what is checked. A function that no check fits goes
to `EXEMPT`, with the reason.
"""

from tests.rows import (
  control,
  dense_memory,
  episodes,
  kanerva,
  rules,
  sparse_memory,
)
from tests.rows.row import Row

__all__ = ["EXEMPT", "ROWS", "Row"]

ROWS = (
  *rules.ROWS,
  *dense_memory.ROWS,
  *sparse_memory.ROWS,
  *kanerva.ROWS,
  *control.ROWS,
  *episodes.ROWS,
)

# Function, "module.name" -> why none of the checks fits it.
EXEMPT: dict[str, str] = {}
