"""The metrics file: one JSON line per row, bit-identical for equal flags."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lilly.training import experiment

__all__ = ["MetricsFile", "read"]


class MetricsFile:
  """Appends rows to metrics.jsonl, and truncates it on resuming.

  With no path the rows are kept in memory only.
  """

  def __init__(self, path: pathlib.Path | None):
    self._path = path
    self._file = None
    self._hash = hashlib.sha256()
    self._size = 0
    self.rows: list[dict[str, Any]] = []

  def open(self, mark: Mapping[str, Any] | None = None) -> None:
    """Starts the file afresh, or truncates it to a mark and appends from there.

    Args:
      mark: result of `mark` when the checkpoint to resume was written.

    Raises:
      RunError: rows of the file are missing or were changed.
    """
    if self._path is None:
      return
    if mark:
      try:
        head = self._path.read_bytes()[: mark["bytes"]]
      except FileNotFoundError:
        head = b""
      self._hash.update(head)
      if self._hash.hexdigest() != mark["sha256"]:
        raise experiment.RunError(
          f"{self._path} lacks rows that were written before the checkpoint or "
          "was changed; put it back, or start again with another --out_dir."
        )
      self._size = len(head)
      self.rows = _parse(head)
    self._path.parent.mkdir(parents=True, exist_ok=True)
    self._file = open(self._path, "ab")  # noqa: SIM115
    self._file.truncate(self._size)

  def write(self, step: int, metrics: Mapping[str, np.ndarray]) -> None:
    """Appends a row for each run.

    Args:
      step: position on the horizontal axis.
      metrics: [R] values by name; a non-finite one is written as null.
    """
    num_runs = len(next(iter(metrics.values()), ()))
    lines = []
    for run in range(num_runs):
      values = {name: _number(v[run]) for name, v in metrics.items()}
      row = {"step": step, "run": run, **values}
      self.rows.append(row)
      lines.append(json.dumps(row) + "\n")
    if self._file is not None:
      text = "".join(lines).encode()
      self._file.write(text)
      self._file.flush()
      self._hash.update(text)
      self._size += len(text)

  def mark(self) -> dict[str, Any]:
    """Flushes the rows to disk and returns the file's position."""
    if self._file is not None:
      os.fsync(self._file.fileno())
    return {"bytes": self._size, "sha256": self._hash.hexdigest()}

  def close(self) -> None:
    if self._file is not None:
      self._file.close()
      self._file = None


def read(
  rows: Sequence[Mapping[str, Any]], num_runs: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Converts rows to arrays.

  Args:
    rows: as `MetricsFile.rows`, in the order written.
    num_runs: R.

  Returns:
    For each metric its steps [T] and values [R, T]; NaN where null.
  """
  columns: dict[str, dict[int, np.ndarray]] = {}
  for row in rows:
    for name, value in row.items():
      if name not in ("step", "run"):
        column = columns.setdefault(name, {})
        values = column.setdefault(row["step"], np.full(num_runs, np.nan))
        values[row["run"]] = np.nan if value is None else value
  return {
    name: (np.array(list(column)), np.stack(list(column.values()), axis=1))
    for name, column in columns.items()
  }


def _parse(text):
  return [json.loads(line) for line in text.splitlines()]


def _number(value):
  value = float(value)
  return value if math.isfinite(value) else None
