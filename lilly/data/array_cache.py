"""Records of arrays kept in one file each, in the user's cache directory."""

import contextlib
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

_LAYOUT = "1"  # Change it when a cached record changes its meaning.
_STALE_S = 86400.0  # A temporary file this old belongs to nobody.
_log = logging.getLogger(__name__)


def directory() -> pathlib.Path:
  """Return where the arrays are kept; it need not exist.

  Returns:
    `$LILLY_CACHE`, else `$XDG_CACHE_HOME/lilly`, else `~/.cache/lilly`.
  """
  if chosen := os.environ.get("LILLY_CACHE"):
    return pathlib.Path(os.path.expanduser(chosen))
  base = os.environ.get("XDG_CACHE_HOME", "")
  if not os.path.isabs(base):  # The XDG specification: ignore relative ones.
    home = os.path.expanduser("~")
    if not os.path.isabs(home):  # A user without one: nothing can be kept.
      home = os.devnull
    base = os.path.join(home, ".cache")
  return pathlib.Path(base) / "lilly"


def fingerprint(files: Iterable[tuple[str, str]]) -> str:
  """Return one name for the content of several files.

  Args:
    files: pairs of file name and SHA-256 of the content, in any order.

  Returns:
    16 hexadecimal digits.
  """
  text = "\n".join(f"{sha256}  {name}" for name, sha256 in sorted(files))
  return hashlib.sha256(f"{_LAYOUT}\n{text}".encode()).hexdigest()[:16]


def path(name: str, split: str, source: str) -> pathlib.Path:
  """Return the file which keeps one split of one data set.

  Args:
    name: data set.
    split: its part.
    source: `fingerprint` of the files the arrays were made from.
  """
  return directory() / "data" / f"{name}-{source}" / f"{split}.npz"


def read(file: pathlib.Path, record: type) -> Any:
  """Read a record, or nothing when the file is absent or damaged.

  Every array in the file carries a checksum of its bytes (zip's CRC-32); each
  is read whole, so all of it is compared.

  Args:
    file: as from `path`.
    record: the `NamedTuple` type to return.

  Returns:
    An instance of `record`, or None.
  """
  try:
    with zipfile.ZipFile(file) as archive:
      return record(
        **{field: _array(archive, field) for field in record._fields}
      )
  except (FileNotFoundError, NotADirectoryError):
    return None
  except Exception as e:  # Whatever damage provokes: a dozen kinds.
    _log.warning("%s cannot be used and will be made anew (%r).", file, e)
    return None


def _array(archive: zipfile.ZipFile, field: str) -> np.ndarray:
  content = io.BytesIO(archive.read(f"{field}.npy"))
  return np.lib.format.read_array(content, allow_pickle=False)


def write(file: pathlib.Path, record: Any) -> bool:
  """Write a record so that the file appears whole or not at all.

  Args:
    file: as from `path`; its folder is made.
    record: a `NamedTuple` of numpy arrays.

  Returns:
    Whether it was written: a full or read-only disk costs one warning, no more.
  """
  temporary = file.with_name(f"{file.name}.{uuid.uuid4().hex}.tmp")
  try:
    file.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(file.parent)
    with open(temporary, "xb") as stream:
      np.savez_compressed(stream, **record._asdict())
      stream.flush()
      os.fsync(stream.fileno())
    os.replace(temporary, file)
    return True
  except OSError as e:
    _log.warning("%s cannot be written, so nothing is kept (%s).", file, e)
    return False
  finally:
    with contextlib.suppress(OSError):
      temporary.unlink()


def _remove_stale(folder: pathlib.Path) -> None:
  """Remove what a killed writer left behind."""
  for left in folder.glob("*.tmp"):
    if time.time() - left.stat().st_mtime > _STALE_S:
      left.unlink(missing_ok=True)
