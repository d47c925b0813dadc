"""A cache of array records, one file each, in the user's cache directory."""

import contextlib
import errno
import hashlib
import io
import logging
import os
import pathlib
import time
import uuid
import zipfile
from collections.abc import Iterable
from typing import Any

import numpy as np

__all__ = ["directory", "fingerprint", "path", "read", "write"]

_LAYOUT = "1"  # Change this when the meaning of a cached record changes.
_STALE_S = 86400.0  # Age at which a temporary file counts as abandoned.
_HEADER_BYTES = 4096  # Of an array in a file, at most.
_log = logging.getLogger(__name__)


def directory() -> pathlib.Path:
  """Return the cache directory, which need not exist.

  Returns:
    `$LILLY_CACHE`, else `$XDG_CACHE_HOME/lilly`, else `~/.cache/lilly`.
  """
  if chosen := os.environ.get("LILLY_CACHE"):
    return pathlib.Path(os.path.expanduser(chosen))
  base = os.environ.get("XDG_CACHE_HOME", "")
  if not os.path.isabs(base):  # The XDG specification: ignore relative paths.
    home = os.path.expanduser("~")
    if not os.path.isabs(home):  # No home directory: nothing can be cached.
      home = os.devnull
    base = os.path.join(home, ".cache")
  return pathlib.Path(base) / "lilly"


def fingerprint(files: Iterable[tuple[str, str]]) -> str:
  """Return a joint hash of the content of several files.

  Args:
    files: pairs of file name and SHA-256 of the content, in any order.

  Returns:
    16 hexadecimal digits.
  """
  text = "\n".join(f"{sha256}  {name}" for name, sha256 in sorted(files))
  return hashlib.sha256(f"{_LAYOUT}\n{text}".encode()).hexdigest()[:16]


def path(name: str, split: str, source: str) -> pathlib.Path:
  """Return the cache file of one split of a data set.

  Args:
    name: name of the data set.
    split: name of the split.
    source: `fingerprint` of the files the arrays were made from.
  """
  return directory() / "data" / f"{name}-{source}" / f"{split}.npz"


def read(file: pathlib.Path, record: type, max_bytes: int) -> Any:
  """Read a record; return None if the file is absent, damaged or too large.

  Every array in the file has a checksum (zip's CRC-32), which is verified
  because arrays are read completely.

  Args:
    file: as returned by `path`.
    record: the `NamedTuple` type to return.
    max_bytes: most bytes that the arrays can have; a small file may unpack to
      gigabytes, and is not read then.

  Returns:
    An instance of `record`, or None.
  """
  try:
    with zipfile.ZipFile(file) as archive:
      _check_size(archive, record._fields, max_bytes)
      return record(
        **{field: _array(archive, field) for field in record._fields}
      )
  except (FileNotFoundError, NotADirectoryError):
    return None
  except Exception as e:  # Damaged files raise a dozen types of exception.
    _log.warning("%s cannot be read and will be rebuilt (%r).", file, e)
    return None


def _check_size(archive, fields, max_bytes):
  sizes = [archive.getinfo(f"{field}.npy").file_size for field in fields]
  if sum(sizes) > max_bytes + _HEADER_BYTES * len(sizes):
    raise ValueError(f"it unpacks to more than {max_bytes} bytes")


def _array(archive: zipfile.ZipFile, field: str) -> np.ndarray:
  content = io.BytesIO(archive.read(f"{field}.npy"))
  return np.lib.format.read_array(content, allow_pickle=False)


def write(file: pathlib.Path, record: Any) -> bool:
  """Write a record atomically.

  Args:
    file: as returned by `path`; its folder is created.
    record: a `NamedTuple` of numpy arrays.

  Returns:
    Whether it was written; a full or read-only disk only logs a warning.
  """
  temporary = file.with_name(f"{file.name}.{uuid.uuid4().hex}.tmp")
  try:
    file.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(file.parent)
    with open(temporary, "xb") as stream:
      np.savez_compressed(stream, **record._asdict())
      stream.flush()
      _sync(stream.fileno())
    os.replace(temporary, file)
    return True
  except OSError as e:
    _log.warning("%s cannot be written; nothing is cached (%s).", file, e)
    return False
  finally:
    with contextlib.suppress(OSError):
      temporary.unlink()


def _sync(descriptor: int) -> None:
  """Make a file durable, on file systems that can."""
  try:
    os.fsync(descriptor)
  except OSError as e:
    if e.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
      raise


def _remove_stale(folder: pathlib.Path) -> None:
  """Remove temporary files left by killed processes."""
  for left in folder.glob("*.tmp"):
    if time.time() - left.stat().st_mtime > _STALE_S:
      left.unlink(missing_ok=True)
