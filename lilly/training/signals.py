"""Signals that stop a run, and one that stops a run whose device is stuck."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["STOPPING", "exit_status", "handled"]

STOPPING = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)

_END = b"\0"  # no signal has this number


def exit_status(signum: int) -> int:
  """Returns a shell's status of a process that a signal has ended."""
  return 128 + signum


@contextlib.contextmanager
def handled(
  handler: Callable[[int, Any], Any], consequence: str
) -> Iterator[None]:
  """Hands SIGHUP, SIGINT and SIGTERM to a function; a second one ends it all.

  Python calls handlers in the main thread, between two of its instructions, and
  so never while that thread waits for a device that is stuck. Therefore another
  thread counts the signals, tells of the first one, and at the second one ends
  the process at once with 128 plus the signal's number. Outside of the main
  thread nothing is done: its owner handles signals. A SIGHUP that is ignored,
  as under nohup, stays ignored.

  Args:
    handler: called in the main thread, as those of `signal.signal`.
    consequence: what the first signal leads to, shown to people.

  Yields:
    Nothing; all handlers are restored afterwards.
  """
  if threading.current_thread() is not threading.main_thread():
    yield
    return
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
        print(
          f"\n{name}: {consequence}; a second signal ends the run at once, "
          "unsaved.",
          file=sys.stderr,
          flush=True,
        )
      else:
        # Not by sys.stderr: the thread that is stuck may hold its lock.
        os.write(2, f"\n{name}: ended at once, unsaved.\n".encode())
        os._exit(exit_status(number))
