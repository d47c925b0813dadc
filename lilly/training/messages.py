"""Messages for users: one line each, on a terminal of any encoding."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from lilly.training import terminal

__all__ = ["as_sentence", "encodable", "fail", "show"]

# Longer words and sentences, such as of a long value, are cut in messages.
_LONGEST_WORD = 200
_LONGEST_SENTENCE = 2000


def fail(error: BaseException) -> Any:
  """Prints an error on one line and exits with status 1."""
  terminal.tell(f"error: {as_sentence(error)}", sys.stderr)
  sys.exit(1)


def as_sentence(error: BaseException) -> str:
  """Formats an error on one line, without control characters, long ones cut."""
  text = str(error)
  if isinstance(error, OSError) and error.strerror:
    text = error.strerror
    if error.filename is not None:
      text += f": {error.filename}"
  words = [_shorten(_escape(word), _LONGEST_WORD) for word in text.split()]
  return _shorten(" ".join(words), _LONGEST_SENTENCE)


def _escape(word):
  if word.isprintable():
    return word
  each = [c if c.isprintable() else ascii(c)[1:-1] for c in word]
  return "".join(each)


def _shorten(text, most):
  half = (most - 3) // 2
  return text if len(text) <= most else f"{text[:half]}...{text[-half:]}"


@contextlib.contextmanager
def encodable(stream: Any) -> Iterator[None]:
  """Lets a stream escape the characters that its encoding lacks."""
  if not hasattr(stream, "reconfigure"):
    yield
    return
  errors = stream.errors
  stream.reconfigure(errors="backslashreplace")
  try:
    yield
  finally:
    stream.reconfigure(errors=errors)


def show(text: str) -> None:
  """Prints text on a terminal of any encoding, or into a pipe closed early."""
  try:
    with encodable(sys.stdout):
      print(text, flush=True)
  except OSError as error:
    # What is left in the buffer would fail again when the process ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if not isinstance(error, BrokenPipeError):
      fail(error)
