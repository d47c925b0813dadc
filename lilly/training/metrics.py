"""The metrics file: one JSON line per row, bit-identical for equal flags."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lilly.training import experiment, files

__all__ = ["MetricsFile", "read"]


class MetricsFile:
  """Appends rows to metrics.jsonl, and truncates it on resuming.

  With no path the rows are kept in memory only.
  """

  def __init__(self, path: pathlib.Path | None):
    self._path: Any = path
    self._descriptor: Any = None
    self._hash = hashlib.sha256()
    self._size = 0
    self.rows: list[dict[str, Any]] = []

  def open(self, mark: Mapping[str, Any] | None = None) -> None:
    """Starts the file afresh, or truncates it to a mark and appends from there.

    Args:
      mark: result of `mark` when the checkpoint to resume was written.

    Raises:
      RunError: rows of the file are missing or were changed, or it is a link
        or cannot be opened.
    """
    if self._path is None:
      return
    flags = os.O_RDWR | os.O_APPEND
    if not mark:
      self._path.parent.mkdir(parents=True, exist_ok=True)
      flags |= os.O_CREAT
    try:
      self._descriptor = files.open_plain(self._path, flags)
    except FileNotFoundError:
      raise self._damage() from None
    try:
      if mark:
        self._read_rows(mark)
      os.ftruncate(self._descriptor, self._size)
    except BaseException:
      self.close()
      raise

  def _read_rows(self, mark):
    """Reads the rows up to a mark and compares their SHA-256."""
    # Compared first: nothing longer than the file is asked for.
    if os.fstat(self._descriptor).st_size < mark["bytes"]:
      raise self._damage()
    with open(self._descriptor, "rb", closefd=False) as file:
      head = file.read(mark["bytes"])
    self._hash.update(head)
    if self._hash.hexdigest() != mark["sha256"]:
      raise self._damage()
    self._size = len(head)
    self.rows = _parse(head)

  def _damage(self):
    return experiment.RunError(
      f"{self._path} lacks rows that were written before the checkpoint or "
      "was changed; put it back, or start again with another --out_dir."
    )

  def write(self, step: int, metrics: Mapping[str, np.ndarray]) -> None:
    """Appends a row for each run.

    Args:
      step: position on the horizontal axis.
      metrics: [R] values by name; a non-finite one is written as null.

    Raises:
      RunError: the file cannot be written, or was moved or removed.
    """
    num_runs = len(next(iter(metrics.values()), ()))
    lines = []
    for run in range(num_runs):
      values = {name: _number(v[run]) for name, v in metrics.items()}
      row = {"step": step, "run": run, **values}
      self.rows.append(row)
      lines.append(json.dumps(row, allow_nan=False) + "\n")
    if self._descriptor is not None:
      self._check_place()
      text = "".join(lines).encode()
      with self._explained():
        _write_all(self._descriptor, text)
      self._hash.update(text)
      self._size += len(text)

  def mark(self) -> dict[str, Any]:
    """Flushes the rows to disk and returns the file's position."""
    if self._descriptor is not None:
      self._check_place()
      with self._explained():
        files.sync(self._descriptor)
    return {"bytes": self._size, "sha256": self._hash.hexdigest()}

  def close(self) -> None:
    if self._descriptor is not None:
      descriptor, self._descriptor = self._descriptor, None
      with self._explained():
        os.close(descriptor)

  def _check_place(self):
    """Refuses to go on where the path leads to another file, or to none.

    What is written later into the same folder would not be with these rows.
    """
    try:
      is_same = os.path.samestat(
        os.fstat(self._descriptor), os.lstat(self._path)
      )
    except (FileNotFoundError, NotADirectoryError):
      is_same = False
    if not is_same:
      raise experiment.RunError(
        f"{self._path} was moved, removed or replaced while the run was in "
        "progress; leave the output directory in its place, and resume from "
        "wherever it is now by --out_dir."
      )

  @contextlib.contextmanager
  def _explained(self):
    try:
      yield
    except OSError as error:
      raise experiment.RunError(
        f"could not write {self._path}: {files.explain(error)}."
      ) from error


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


def _write_all(descriptor, text):
  while text:
    text = text[os.write(descriptor, text) :]


def _parse(text):
  return [json.loads(line) for line in text.splitlines()]


def _number(value):
  value = float(value)
  return value if math.isfinite(value) else None
