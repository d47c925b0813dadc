"""Signals that stop a run, even if its device hangs."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from lilly.training import terminal

__all__ = ["STOPPING", "exit_status", "handled", "is_stopping"]

STOPPING = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)

_END = b"\0"  # no signal has this number
_caught = threading.Event()


def exit_status(signum: int) -> int:
  """Returns the exit status that a shell reports for a signal."""
  return 128 + signum


def is_stopping() -> bool:
  """Tells, in any thread, whether a signal asked the run to stop."""
  return _caught.is_set()


@contextlib.contextmanager
def handled(
  handler: Callable[[int, Any], Any], consequence: str
) -> Iterator[None]:
  """Handles SIGHUP, SIGINT and SIGTERM; a second one ends the process.

  Python calls handlers in the main thread, between two of its instructions, and
  so never while that thread waits for a device that hangs. Therefore another
  thread counts the signals, reports the first one, and at the second one ends
  the process at once with 128 plus the signal's number. Outside the main thread
  this does nothing. An ignored SIGHUP, as under nohup, stays ignored.

  Args:
    handler: called in the main thread, as by `signal.signal`.
    consequence: effect of the first signal, for display.

  Yields:
    Nothing; all handlers are restored afterwards.
  """
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  _caught.clear()
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  watcher = threading.Thread(
    target=_watch, args=(reader, consequence), daemon=True
  )
  watcher.start()
  descriptor = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
  previous = {}
  try:
    for number in STOPPING:
      before = signal.getsignal(number)
      if number != signal.SIGHUP or before is not signal.SIG_IGN:
        previous[number] = before
        signal.signal(number, handler)
    yield
  finally:
    _caught.clear()
    for number, before in previous.items():
      # None stands for a handler that Python cannot name.
      signal.signal(number, signal.SIG_DFL if before is None else before)
    signal.set_wakeup_fd(descriptor)
    os.write(writer, _END)
    watcher.join()
    os.close(writer)
    os.close(reader)


def _watch(reader, consequence):
  """Counts the signals whose numbers Python writes into a pipe."""
  caught = 0
  while True:
    for number in os.read(reader, 512):
      if number == _END[0]:
        return
      if number not in STOPPING:
        continue
      caught += 1
      name = signal.Signals(number).name
      if caught == 1:
        _caught.set()
        terminal.tell(
          f"\n{name}: {consequence}; a second signal ends the run at once, "
          "without saving.",
          sys.stderr,
        )
      else:
        # Not through sys.stderr: the blocked thread may hold its lock.
        with contextlib.suppress(OSError):
          os.write(2, f"\n{name}: ended at once, without saving.\n".encode())
        os._exit(exit_status(number))
