"""Standard output and error, whose faults never decide about a run."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

__all__ = ["is_terminal", "lay_out", "secure", "tell", "width"]

_MIN_COLUMN = 12  # a wider column may be wrapped to this


def secure() -> None:
  """Prepares a process whose standard streams are absent or will fail.

  A closed one is led to the null device: its descriptor would be the next
  file's, and what libraries print would go there. At exit, what could not be
  written is dropped: Python would exit with status 120.
  """
  for descriptor in range(3):
    try:
      os.fstat(descriptor)
    except OSError:
      null = os.open(os.devnull, os.O_RDWR)
      if null != descriptor:
        os.dup2(null, descriptor)
        os.close(null)
      os.set_inheritable(descriptor, True)
  for name in ("stdout", "stderr"):
    if getattr(sys, name) is None:
      setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
  atexit.unregister(_drop_unwritten)
  atexit.register(_drop_unwritten)


def tell(text: str, stream: Any, end: str = "\n") -> None:
  """Prints, as far as the stream can be written.

  Args:
    text: text to print.
    stream: where; None, as in a process started without it, is nowhere.
    end: text after it.
  """
  if stream is None:
    return
  with contextlib.suppress(OSError, ValueError):  # full, gone, closed
    try:
      stream.write(text + end)
    except UnicodeError:
      plain = text.encode("ascii", "backslashreplace").decode("ascii")
      stream.write(plain + end)
    stream.flush()


def is_terminal(stream: Any) -> bool:
  """Whether a stream is an open terminal."""
  with contextlib.suppress(AttributeError, OSError, ValueError):
    return stream.isatty()
  return False


def width(stream: Any) -> int:
  """Returns the columns of a terminal; 100 for other streams."""
  return shutil.get_terminal_size().columns if is_terminal(stream) else 100


def lay_out(
  header: Sequence[str], rows: Sequence[Sequence[str]], width: int = 100
) -> str:
  """Lays out a table as plain text, long cells wrapped.

  Args:
    header: a title for each column.
    rows: the cells.
    width: number of columns of the terminal.

  Returns:
    The lines of the table.

  >>> print(lay_out(["a", "size"], [["one", "1"], ["eleven", "11"]]))
  a       size
  ------  ----
  one     1
  eleven  11
  """
  widths = [
    max(len(cell) for cell in column)
    for column in zip(header, *rows, strict=True)
  ]
  while sum(widths) + 2 * (len(widths) - 1) > width:
    widest = widths.index(max(widths))
    if widths[widest] <= _MIN_COLUMN:
      break
    widths[widest] -= 1
  lines = []
  for row in (header, ["-" * size for size in widths], *rows):
    cells = [
      textwrap.wrap(cell, size) or [""]
      for cell, size in zip(row, widths, strict=True)
    ]
    for i in range(max(len(cell) for cell in cells)):
      parts = [
        (cell[i] if i < len(cell) else "").ljust(size)
        for cell, size in zip(cells, widths, strict=True)
      ]
      lines.append("  ".join(parts).rstrip())
  return "\n".join(lines)


def _drop_unwritten():
  """Lets the flush at the end of the process succeed."""
  for stream in (sys.stdout, sys.stderr):
    try:
      stream.flush()
    except (AttributeError, OSError, ValueError):
      _lead_to_null(stream)


def _lead_to_null(stream):
  with contextlib.suppress(AttributeError, OSError, ValueError):
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
    stream.flush()
