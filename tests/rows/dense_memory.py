"""Conformance rows of memories whose every word takes part in a step."""

from tests.rows.row import Row

__all__ = ["ROWS"]

ROWS: tuple[Row, ...] = ()
