"""Files of a run: no link is followed, none is left half written."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import pathlib
import re
import shutil
import stat
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from lilly.training import experiment, terminal

__all__ = [
  "check_places",
  "create",
  "explain",
  "finite",
  "locked",
  "open_plain",
  "partial_path",
  "read_json",
  "sync",
  "sync_folder",
  "write_bytes",
  "write_json",
]

# Names of files and folders that are not yet in their place.
_PARTIAL = re.compile(r"\..+\.[0-9a-f]{32}\.partial")
# The file system has no such operation.
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_NO_LOCKS = (*_UNSUPPORTED, errno.ENOLCK)
_IS_LOCKED = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


def explain(error: BaseException) -> str:
  """Returns an error's message on one line."""
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  return " ".join(str(error).split())[:200] or type(error).__name__


def open_plain(path: pathlib.Path, flags: int) -> int:
  """Opens a plain file, not one behind a link.

  Args:
    path: the file.
    flags: as of `os.open`.

  Returns:
    The file descriptor.

  Raises:
    RunError: the path is a link or a folder, or cannot be opened.
    FileNotFoundError: there is no such file.
  """
  # Without O_NONBLOCK a named pipe would block.
  flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
  try:
    descriptor = os.open(path, flags, 0o666)
  except FileNotFoundError:
    raise
  except OSError as error:
    if path.is_symlink() or path.is_dir():
      raise _refusal(path) from error
    raise experiment.RunError(
      f"{path} cannot be opened: {explain(error)}."
    ) from error
  if not stat.S_ISREG(os.fstat(descriptor).st_mode):
    os.close(descriptor)
    raise _refusal(path)
  return descriptor


def partial_path(path: pathlib.Path) -> pathlib.Path:
  """Returns a new name beside a path, for what is moved there when whole."""
  return path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")


def create(path: pathlib.Path) -> BinaryIO:
  """Makes a new file; there must be nothing of that name, not even a link."""
  return open(path, "xb")  # O_EXCL follows no link


def sync(descriptor: int) -> None:
  """Makes a file durable, on file systems that can."""
  try:
    os.fsync(descriptor)
  except OSError as error:
    if error.errno not in _UNSUPPORTED:
      raise


def sync_folder(folder: pathlib.Path) -> None:
  """Makes the names in a folder durable, on file systems that can."""
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    sync(descriptor)
  finally:
    os.close(descriptor)


def write_bytes(path: pathlib.Path, content: bytes) -> None:
  """Writes a file atomically into a folder that exists.

  Args:
    path: the file; an old one is replaced, a link or a folder is not.
    content: what it holds afterwards.

  Raises:
    RunError: it cannot be written; an old file is intact.
  """
  _check_plain(path)
  partial = partial_path(path)
  try:
    with create(partial) as file:
      file.write(content)
      file.flush()
      sync(file.fileno())
    os.replace(partial, path)
  except OSError as error:
    with contextlib.suppress(OSError):
      partial.unlink()
    raise experiment.RunError(
      f"could not write {path}: {explain(error)}."
    ) from error


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes JSON atomically; numbers that JSON does not have as null."""
  text = json.dumps(finite(value), indent=2, allow_nan=False)
  write_bytes(path, (text + "\n").encode())


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """Reads a file that holds one JSON object.

  Raises:
    RunError: it is absent, cannot be read, or holds something else.
  """
  try:
    value = json.loads(path.read_text(encoding="utf-8"))
  except OSError as error:
    raise experiment.RunError(
      f"{path} cannot be read: {explain(error)}."
    ) from error
  except (ValueError, RecursionError) as error:
    raise experiment.RunError(
      f"{path} is damaged; give another --out_dir."
    ) from error
  if not isinstance(value, dict):
    raise experiment.RunError(f"{path} is damaged; give another --out_dir.")
  return value


def finite(value: Any) -> Any:
  """Replaces NaN and infinities in a JSON-able value by None.

  >>> finite({"a": [1.0, float("nan")]})
  {'a': [1.0, None]}
  """
  if isinstance(value, Mapping):
    return {name: finite(each) for name, each in value.items()}
  if isinstance(value, Sequence) and not isinstance(value, str):
    return [finite(each) for each in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
  """Locks a folder against other processes and removes partial files.

  The lock ends with the process, however it ends. A file system without locks
  costs a warning.

  Args:
    folder: the folder, which exists.

  Yields:
    Nothing.

  Raises:
    RunError: another process holds the lock, or it cannot be made.
  """
  path = folder / ".lock"
  descriptor = open_plain(path, os.O_RDWR | os.O_CREAT)
  try:
    if _lock(descriptor, path):
      _remove_partial(folder)
    yield
  finally:
    os.close(descriptor)


def _lock(descriptor, path):
  """Returns whether the lock is held; False where there are no locks."""
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return True
  except OSError as error:
    if error.errno in _IS_LOCKED:
      raise experiment.RunError(
        f"another process is running in --out_dir={path.parent}; wait for it "
        "or give another one."
      ) from error
    if error.errno not in _NO_LOCKS:
      raise experiment.RunError(
        f"{path} cannot be locked: {explain(error)}."
      ) from error
    terminal.tell(
      f"warning: the file system of --out_dir={path.parent} has no locks; a "
      "second run in it at the same time would not be noticed.",
      sys.stderr,
    )
    return False


def _remove_partial(folder):
  """Removes what killed processes left, in the folder and one level below."""
  for place in (folder, *filter(_is_folder, folder.iterdir())):
    with contextlib.suppress(OSError):
      for path in list(place.iterdir()):
        if _PARTIAL.fullmatch(path.name):
          _remove(path)


def _remove(path):
  if _is_folder(path):
    shutil.rmtree(path)
  else:
    path.unlink()


def _is_folder(path):
  return path.is_dir() and not path.is_symlink()


def check_places(out_dir: pathlib.Path, variants: Sequence[str]) -> None:
  """Refuses links and folders where a run writes files.

  Args:
    out_dir: output directory of the run.
    variants: names of its variants.

  Raises:
    RunError: a place is taken; the message names it.
  """
  for name in ("config.json", "summary.json", "evaluation.json"):
    _check_plain(out_dir / name)
  for variant in variants:
    folder = out_dir / variant
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
      raise experiment.RunError(
        f"{folder} is not a folder; remove it, or give another --out_dir."
      )
    for name in ("metrics.jsonl", "params.npz"):
      _check_plain(folder / name)


def _check_plain(path):
  with contextlib.suppress(FileNotFoundError):
    if not stat.S_ISREG(path.lstat().st_mode):
      raise _refusal(path)


def _refusal(path):
  kind = "a link" if path.is_symlink() else "not a plain file"
  return experiment.RunError(
    f"{path} is {kind}; remove it, or give another --out_dir."
  )
