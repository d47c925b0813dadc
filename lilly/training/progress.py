"""A progress line for each chunk: live in a terminal, plain elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

import numpy as np

from lilly.training import terminal

__all__ = ["Progress"]

# Outside a terminal, lines are printed at most this often.
_SECONDS_BETWEEN_LINES = 5.0


class Progress:
  """Shows step, key metric, updates per second and time left."""

  def __init__(
    self, name: str, key_metric: str | None, num_updates: int, unit: str
  ):
    self._name = name
    self._key_metric = key_metric
    self._num_updates = num_updates
    self._unit = unit
    self._is_live = terminal.is_terminal(sys.stderr)
    self._is_shown = False
    self._first: tuple[float, int] | None = None
    self._shown_at = -np.inf
    self._text = ""

  def __enter__(self):
    return self

  def __exit__(self, *error):
    if self._is_live and self._is_shown:
      terminal.tell("", sys.stderr)  # what follows begins on a line of its own

  def start(self, hyper: Mapping[str, float]) -> None:
    """Shows the hyper-parameters while the first chunk is compiled."""
    told = ", ".join(f"{name} {value:g}" for name, value in hyper.items())
    line = f"{self._name:12s} compiling; {told}".rstrip("; ")
    self._show(line, time.monotonic(), last=True)

  def update(self, update, metrics, failed) -> None:
    """Shows the progress after a chunk."""
    now = time.monotonic()
    if self._first is None:  # the first chunk includes compilation
      self._first = (now, update)
    parts = [f"{self._name:12s} {update:>9,} / {self._num_updates:,} updates"]
    if self._key_metric in metrics:
      value = np.median(metrics[self._key_metric])
      self._text = f"{self._key_metric} {value:.4g}"
    if self._text:
      parts.append(self._text)
    seconds, done = now - self._first[0], update - self._first[1]
    if done and seconds > 0:
      left = (self._num_updates - update) * seconds / done
      rate = done / seconds
      parts.append(f"{rate:,.{0 if rate >= 10 else 2}f} updates/s")
      parts.append(f"{_duration(left)} left")
    if failed:
      parts.append(f"{len(failed)} failed")
    self._show("  ".join(parts), now, last=update >= self._num_updates)

  def _show(self, line, now, last):
    if self._is_live:
      room = terminal.width(sys.stderr) - 1
      terminal.tell("\r" + line[:room].ljust(room), sys.stderr, end="")
      self._is_shown = True
    elif last or now - self._shown_at >= _SECONDS_BETWEEN_LINES:
      terminal.tell(line, sys.stderr)
      self._shown_at = now


def _duration(seconds):
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f"{hours}h{minutes:02d}m"
  return f"{minutes}m{seconds:02d}s" if minutes else f"{seconds}s"
