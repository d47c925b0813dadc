"""Whole-state checkpoints: atomic, asynchronous, verified, never unpickled.

A checkpoint is a directory `<update>/` that holds `arrays.npz`, each leaf as
raw bytes, and `manifest.json`: type, shape and SHA-256 of each leaf, and a
record of the run's progress. It is written under a temporary name and renamed
as the last step, so a directory with a checkpoint's name is complete.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import pathlib
import shutil
import stat
import threading
import zipfile
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lilly.training import experiment, files, placement

__all__ = ["Store", "host_copy", "nbytes"]

_MANIFEST = "manifest.json"
_ARRAYS = "arrays.npz"
_PARTIAL = ".partial-"
_FORMAT = 1
# A larger manifest is not read; a leaf takes about 200 bytes.
_MANIFEST_BYTES = 1 << 26
# Bytes of a member of an npz file besides its array.
_HEADER_BYTES = 1 << 12


class Store:
  """The checkpoints of one variant in one directory; keeps the newest two."""

  def __init__(self, directory: pathlib.Path, keep: int = 2):
    self._directory = directory
    self._keep = keep
    self._thread: threading.Thread | None = None
    self._error: BaseException | None = None

  def clean(self) -> None:
    """Removes partial checkpoints; raises if there are foreign files."""
    if self._directory.is_symlink():
      raise _refusal(self._directory, "is a link")
    if not self._directory.exists():
      return
    if not self._directory.is_dir():
      raise _refusal(self._directory, "is not a folder")
    for path in self._directory.iterdir():
      if path.is_symlink() or not path.is_dir():
        raise _refusal(path, "is not a checkpoint")
      if path.name.startswith(_PARTIAL):
        shutil.rmtree(path)
      elif not path.name.isdigit():
        raise _refusal(path, "is not a checkpoint")

  def newest(self) -> int | None:
    """Returns the update of the newest checkpoint, None if there is none."""
    if not self._directory.exists():
      return None
    updates = [
      int(p.name) for p in self._directory.iterdir() if p.name.isdigit()
    ]
    return max(updates, default=None)

  def save(self, update: int, state: Any, record: Mapping[str, Any]) -> None:
    """Starts writing a checkpoint, after waiting for the previous one.

    Args:
      update: number of updates done.
      state: any pytree of arrays and typed keys; copied before this returns, so
        its buffers may be donated afterwards.
      record: JSON-able values kept in the manifest.
    """
    self.wait()
    leaves = host_copy(state)
    if jax.process_index() != 0:
      return
    self._thread = threading.Thread(
      target=self._write_guarded, args=(update, leaves, dict(record))
    )
    self._thread.start()

  def wait(self) -> None:
    """Waits for a pending save and raises its error, if any."""
    if self._thread is not None:
      self._thread.join()
      self._thread = None
    if self._error is not None:
      error, self._error = self._error, None
      raise experiment.RunError(
        f"could not write a checkpoint into {self._directory}: "
        f"{files.explain(error)}; earlier checkpoints are intact."
      ) from error

  def read(self, update: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads a checkpoint after verifying every file and every leaf.

    Args:
      update: which one.

    Returns:
      The leaves by name, typed keys as key data, and the record given to
      `save`.

    Raises:
      RunError: a file is missing, foreign, a link, or damaged.
    """
    return self._read(update, None)

  def restore(self, update: int, template: Any) -> tuple[Any, dict[str, Any]]:
    """Reads a checkpoint into a state like the template.

    Args:
      update: which one.
      template: a state of the expected structure, shapes, types and placement.

    Returns:
      The state, bit for bit as saved, and the record given to `save`.

    Raises:
      RunError: as `read`, or the checkpoint is from a different program.
    """
    leaves = dict(zip(_names(template), jax.tree.leaves(template), strict=True))
    arrays, record = self._read(update, leaves)
    placed = [_place(arrays[name], leaf) for name, leaf in leaves.items()]
    return jax.tree.unflatten(jax.tree.structure(template), placed), record

  def _read(self, update, leaves):
    """Reads what `leaves` describes, or everything if it is None."""
    directory = self._directory / str(update)
    manifest = _read_manifest(directory, update)
    if leaves is not None:  # before the arrays are read: their sizes are known
      _check_leaves(directory, manifest["leaves"], leaves)
    return _read_arrays(directory, manifest["leaves"]), manifest["record"]

  def _write_guarded(self, update, leaves, record):
    try:
      self._write(update, leaves, record)
    except BaseException as error:  # raised again by wait, in the main thread
      self._error = error

  def _write(self, update, leaves, record):
    # Not its parents: a folder that was moved away is not made again.
    self._directory.mkdir(exist_ok=True)
    final = self._directory / str(update)
    if final.exists():
      return
    partial = self._directory / f"{_PARTIAL}{update}"
    shutil.rmtree(partial, ignore_errors=True)
    try:
      _write_partial(partial, update, leaves, record)
      os.rename(partial, final)
    except BaseException:
      shutil.rmtree(partial, ignore_errors=True)
      raise
    files.sync_folder(self._directory)
    updates = sorted(
      int(p.name) for p in self._directory.iterdir() if p.name.isdigit()
    )
    for old in updates[: -self._keep]:
      # Renamed first: a kill midway must not leave a damaged checkpoint.
      doomed = self._directory / f"{_PARTIAL}{old}"
      os.rename(self._directory / str(old), doomed)
      shutil.rmtree(doomed)


def nbytes(state: Any) -> int:
  """Returns the size of a state in a checkpoint, in bytes."""
  leaves = map(_key_data, jax.tree.leaves(state))
  return sum(getattr(leaf, "nbytes", 8) for leaf in leaves)


def host_copy(state: Any) -> dict[str, np.ndarray]:
  """Copies every leaf to host memory, typed keys as their key data.

  Args:
    state: any pytree of arrays and typed keys.

  Returns:
    The leaves by name. The arrays own their memory: a view of a device buffer
    would keep it from being donated.
  """
  leaves = [_key_data(leaf) for leaf in jax.tree.leaves(state)]
  copies = [np.array(leaf) for leaf in placement.fetch(leaves)]
  return dict(zip(_names(state), copies, strict=True))


def _is_key(leaf):
  dtype = getattr(leaf, "dtype", None)
  return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def _key_data(leaf):
  return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _describe(leaf):
  if _is_key(leaf):
    leaf = jax.eval_shape(jax.random.key_data, leaf)
  elif not hasattr(leaf, "dtype"):
    leaf = np.asarray(leaf)
  return f"{leaf.dtype}{list(leaf.shape)}"


def _names(state):
  paths = jax.tree_util.tree_leaves_with_path(state)
  return [jax.tree_util.keystr(path) for path, _ in paths]


def _place(array, leaf):
  """Gives a host array the template leaf's type and placement."""
  if not isinstance(leaf, jax.Array):  # state of a host simulator
    return array if isinstance(leaf, np.ndarray) else array[()].item()
  if _is_key(leaf):
    data = jax.random.key_data(leaf)
    placed = jax.make_array_from_callback(
      array.shape, data.sharding, lambda index: array[index].copy()
    )
    return jax.random.wrap_key_data(placed, impl=jax.random.key_impl(leaf))
  # Copies: a buffer that aliases host memory could not be donated.
  return jax.make_array_from_callback(
    array.shape, leaf.sharding, lambda index: array[index].copy()
  )


def _digest(content):
  return hashlib.sha256(content).hexdigest()


def _write_partial(partial, update, leaves, record):
  partial.mkdir()
  # Raw bytes, as npz has no bfloat16; numbered, as names contain slashes.
  members = {
    str(i): leaf.reshape(-1).view(np.uint8)
    for i, leaf in enumerate(leaves.values())
  }
  with files.create(partial / _ARRAYS) as file:
    np.savez(file, **members)
    file.flush()
    files.sync(file.fileno())
  rows = [
    {
      "name": name,
      "shape": list(leaf.shape),
      "dtype": str(leaf.dtype),
      "sha256": _digest(members[str(i)]),
    }
    for i, (name, leaf) in enumerate(leaves.items())
  ]
  arrays = _hash_file(partial / _ARRAYS)
  manifest = {
    "format": _FORMAT,
    "update": update,
    "record": files.finite(record),
    "leaves": rows,
    "arrays": arrays,
  }
  _write_manifest(partial, manifest)


def _write_manifest(directory, manifest):
  """Writes the manifest after a line with the SHA-256 of its own text."""
  body = json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False)
  digest = hashlib.sha256(body.encode()).hexdigest()
  with files.create(directory / _MANIFEST) as file:
    file.write(f"{digest}\n{body}\n".encode())
    file.flush()
    files.sync(file.fileno())


def _read_manifest(directory, update):
  _check_files(directory)
  path, arrays = directory / _MANIFEST, directory / _ARRAYS
  try:
    if path.stat().st_size > _MANIFEST_BYTES:
      raise ValueError(f"{_MANIFEST} has more than {_MANIFEST_BYTES} bytes")
    text = path.read_text(encoding="utf-8")
    digest, _, body = text.partition("\n")
    body = body.removesuffix("\n")
    whole = digest == hashlib.sha256(body.encode()).hexdigest()
    if not whole or not text.endswith("\n"):
      raise ValueError("its text differs from its SHA-256")
    manifest = json.loads(body)
    _check_version(directory, manifest, update)
    stored = sum(map(_row_bytes, manifest["leaves"]))
    spare = _HEADER_BYTES * (len(manifest["leaves"]) + 1)
    if not stored <= arrays.stat().st_size <= stored + spare:
      raise ValueError(f"{_ARRAYS} is not of the leaves' size")
    if _hash_file(arrays) != manifest["arrays"]:
      raise ValueError(f"{_ARRAYS} differs from its SHA-256")
    return manifest
  except experiment.RunError:
    raise
  except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
    raise _refusal(directory, f"is damaged ({files.explain(error)})") from error


def _check_files(directory):
  """Refuses links and foreign files."""
  if directory.is_symlink():
    raise _refusal(directory, "is a link")
  for entry in directory.iterdir():
    if entry.name not in (_MANIFEST, _ARRAYS):
      raise _refusal(directory, f"holds a foreign file {entry.name}")
    if not stat.S_ISREG(entry.lstat().st_mode):
      raise _refusal(directory, f"holds {entry.name}, not a plain file")


def _check_version(directory, manifest, update):
  """Compares what a manifest says of itself with what and where it is."""
  if manifest["format"] != _FORMAT:
    raise _refusal(
      directory,
      f"has format {manifest['format']} of another version of lilly, which "
      f"writes {_FORMAT}",
    )
  if manifest["update"] != update:
    raise _refusal(
      directory, f"was renamed: it is of update {manifest['update']}"
    )
  if not isinstance(manifest["record"], dict):
    raise ValueError("its record is no object")


def _check_leaves(directory, rows, leaves):
  """Compares the manifest's leaves with those of a state."""
  saved = {row["name"]: f"{row['dtype']}{row['shape']}" for row in rows}
  for name in sorted(set(saved) ^ set(leaves)):
    where = "only in the checkpoint" if name in saved else "missing from it"
    raise _refusal(directory, f"is from a different program: {name} is {where}")
  for name, leaf in leaves.items():
    was, now = saved[name], _describe(leaf)
    if was != now:
      raise _refusal(
        directory, f"is from a different program: {name} was {was}, is {now}"
      )


def _row_bytes(row):
  return math.prod(row["shape"]) * np.dtype(row["dtype"]).itemsize


def _read_arrays(directory, rows):
  """Reads the leaves and compares each with its SHA-256."""
  arrays = {}
  try:
    with zipfile.ZipFile(directory / _ARRAYS) as members:
      for i, row in enumerate(rows):
        content = _read_member(members, f"{i}.npy", _row_bytes(row))
        if _digest(content) != row["sha256"]:
          raise ValueError(f"{row['name']} differs from its SHA-256")
        array = content.view(row["dtype"]).reshape(row["shape"])
        arrays[row["name"]] = array
  except Exception as error:  # zipfile and numpy raise many kinds
    raise _refusal(directory, f"is damaged ({files.explain(error)})") from error
  return arrays


def _read_member(members, name, size):
  """Reads an array of bytes whose size is known before."""
  spare = members.getinfo(name).file_size - size
  if not 0 <= spare <= _HEADER_BYTES:
    raise ValueError(f"{name} unpacks to another size than {size} bytes")
  with members.open(name) as member:
    content = np.lib.format.read_array(member, allow_pickle=False)
  if content.dtype != np.uint8 or content.shape != (size,):
    raise ValueError(f"{name} is not of {size} bytes")
  return content


def _hash_file(path):
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _refusal(path, why):
  return experiment.RunError(
    f"{path} {why}; remove it to resume from an earlier checkpoint or from the "
    "start."
  )
