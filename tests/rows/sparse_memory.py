"""Conformance rows of memories that touch few words in a step."""

from tests.rows.row import Row

__all__ = ["ROWS"]

ROWS: tuple[Row, ...] = ()
