"""Whole-state checkpoints: atomic, asynchronous, verified, never unpickled.

A checkpoint is a directory `<update>/` that holds `arrays/`, written by orbax,
and `manifest.json`: a SHA-256 for each leaf and each file, the versions, and
how far the metrics had come. It is written under a temporary name and renamed
as the last step, so a directory with a checkpoint's name is always whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shutil
import stat
import threading
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from lilly.training import experiment

__all__ = ["Store", "host_copy", "nbytes"]

_MANIFEST = "manifest.json"
_PARTIAL = ".partial-"


class Store:
  """The checkpoints of one variant in one directory; keeps the newest two."""

  def __init__(self, directory: pathlib.Path, keep: int = 2):
    self._directory = directory
    self._keep = keep
    self._thread: threading.Thread | None = None
    self._error: BaseException | None = None

  def clean(self) -> None:
    """Removes what a killed save left; raises if a foreign file is there."""
    if self._directory.is_symlink():
      raise _refusal(self._directory, "is a link")
    if not self._directory.exists():
      return
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
    """Starts writing a checkpoint; waits for the one before it first.

    Args:
      update: updates done.
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
    """Waits for a save under way and raises what went wrong in it."""
    if self._thread is not None:
      self._thread.join()
      self._thread = None
    if self._error is not None:
      error, self._error = self._error, None
      raise experiment.RunError(
        f"could not write a checkpoint into {self._directory}: "
        f"{_one_line(error)}; earlier checkpoints are intact."
      ) from error

  def read(self, update: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads a checkpoint after verifying every file and every leaf.

    Args:
      update: which one.

    Returns:
      Leaf by name, typed keys as key data, and the record `save` was given.

    Raises:
      RunError: a file is missing, foreign, a link, or differs from the
        manifest.
    """
    directory = self._directory / str(update)
    manifest = _read_manifest(directory)
    _verify_files(directory, manifest["files"])
    saved = manifest["leaves"]
    try:
      arrays = _read_arrays(directory / "arrays", saved)
    except Exception as error:
      raise _refusal(
        directory, f"cannot be read ({_one_line(error)})"
      ) from error
    for name, array in arrays.items():
      if _digest(array) != saved[name]["sha256"]:
        raise _refusal(
          directory, f"is damaged: {name} differs from its SHA-256"
        )
    return arrays, manifest["record"]

  def restore(self, update: int, template: Any) -> tuple[Any, dict[str, Any]]:
    """Reads a checkpoint into a state like the template.

    Args:
      update: which one.
      template: a state of the expected structure, shapes, types and placement.

    Returns:
      The state, bit for bit what was saved, and the record `save` was given.

    Raises:
      RunError: as `read`, or the checkpoint is of another program.
    """
    arrays, record = self.read(update)
    directory = self._directory / str(update)
    leaves = dict(zip(_names(template), jax.tree.leaves(template), strict=True))
    for name in sorted(set(arrays) ^ set(leaves)):
      where = "only in the checkpoint" if name in arrays else "missing from it"
      raise _refusal(directory, f"is of another program: {name} is {where}")
    for name, leaf in leaves.items():
      was, now = _describe(arrays[name]), _describe(leaf)
      if was != now:
        raise _refusal(
          directory, f"is of another program: {name} was {was} and is {now} now"
        )
    placed = [_place(arrays[name], leaf) for name, leaf in leaves.items()]
    return jax.tree.unflatten(jax.tree.structure(template), placed), record

  def _write_guarded(self, update, leaves, record):
    try:
      self._write(update, leaves, record)
    except BaseException as error:  # raised again by wait, in the main thread
      self._error = error

  def _write(self, update, leaves, record):
    self._directory.mkdir(parents=True, exist_ok=True)
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
    _sync(self._directory)
    updates = sorted(
      int(p.name) for p in self._directory.iterdir() if p.name.isdigit()
    )
    for old in updates[: -self._keep]:
      # Renamed first: a kill in the middle must not leave a damaged one.
      doomed = self._directory / f"{_PARTIAL}{old}"
      os.rename(self._directory / str(old), doomed)
      shutil.rmtree(doomed)


def nbytes(state: Any) -> int:
  """Returns the size of a state as a checkpoint holds it, in bytes."""
  return sum(_key_data(leaf).nbytes for leaf in jax.tree.leaves(state))


def host_copy(state: Any) -> dict[str, np.ndarray]:
  """Copies every leaf to host memory, typed keys as their key data.

  Args:
    state: any pytree of arrays and typed keys.

  Returns:
    Leaf by name. The arrays own their memory: a view of a device buffer would
    keep it from being donated.
  """
  leaves = [_key_data(leaf) for leaf in jax.tree.leaves(state)]
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    leaves = multihost_utils.process_allgather(leaves, tiled=True)
  copies = [np.array(leaf) for leaf in leaves]
  return dict(zip(_names(state), copies, strict=True))


def _is_key(leaf):
  return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key_data(leaf):
  return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _describe(leaf):
  data = jax.eval_shape(_key_data, leaf)
  return f"{data.dtype}{list(data.shape)}"


def _names(state):
  paths = jax.tree_util.tree_leaves_with_path(state)
  return [jax.tree_util.keystr(path) for path, _ in paths]


def _place(array, leaf):
  """Gives a host array the template leaf's placement and key type."""
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


def _digest(array):
  return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def _leaf_keys(leaves):
  """Pairs orbax's flat key of each non-empty leaf with the leaf's name."""
  # Paths hold slashes and quotes; orbax makes file names of keys.
  return [
    (f"leaf_{i}", name)
    for i, (name, leaf) in enumerate(sorted(leaves.items()))
    if np.prod(_shape(leaf))
  ]


def _shape(leaf):
  return leaf["shape"] if isinstance(leaf, dict) else leaf.shape


def _checkpointer():
  import orbax.checkpoint as ocp

  return ocp.Checkpointer(ocp.PyTreeCheckpointHandler())


def _write_partial(partial, update, leaves, record):
  partial.mkdir()
  tree = {key: leaves[name] for key, name in _leaf_keys(leaves)}
  # Absolute, as orbax demands.
  _checkpointer().save((partial / "arrays").absolute(), tree)
  files = {
    path.relative_to(partial).as_posix(): [
      path.stat().st_size,
      _hash_file(path),
    ]
    for path in sorted(partial.rglob("*"))
    if path.is_file()
  }
  manifest = {
    "format": 1,
    "update": update,
    "record": record,
    "leaves": {
      name: {
        "shape": list(leaf.shape),
        "dtype": str(leaf.dtype),
        "sha256": _digest(leaf),
      }
      for name, leaf in leaves.items()
    },
    "files": files,
  }
  _write_manifest(partial, manifest)


def _write_manifest(directory, manifest):
  """Writes the manifest after a line with the SHA-256 of its own text."""
  body = json.dumps(manifest, indent=1, sort_keys=True)
  digest = hashlib.sha256(body.encode()).hexdigest()
  with open(directory / _MANIFEST, "w", encoding="utf-8") as file:
    file.write(f"{digest}\n{body}\n")
    file.flush()
    os.fsync(file.fileno())


def _read_manifest(directory):
  path = directory / _MANIFEST
  if directory.is_symlink() or path.is_symlink():
    raise _refusal(directory, "holds a link")
  try:
    text = path.read_text(encoding="utf-8")
    digest, _, body = text.partition("\n")
    body = body.removesuffix("\n")
    whole = digest == hashlib.sha256(body.encode()).hexdigest()
    if not whole or not text.endswith("\n"):
      raise ValueError("its text differs from its SHA-256")
    return json.loads(body)
  except (OSError, ValueError) as error:
    raise _refusal(
      directory, f"has no valid {_MANIFEST} ({_one_line(error)})"
    ) from error


def _verify_files(directory, files):
  found = set()
  for path in directory.rglob("*"):
    mode = path.lstat().st_mode
    name = path.relative_to(directory).as_posix()
    if stat.S_ISDIR(mode):
      continue
    if not stat.S_ISREG(mode):
      raise _refusal(directory, f"holds {name}, which is not a plain file")
    if name != _MANIFEST and name not in files:
      raise _refusal(directory, f"holds a foreign file {name}")
    found.add(name)
  for name, (size, digest) in files.items():
    if name not in found:
      raise _refusal(directory, f"is damaged: {name} is missing")
    path = directory / name
    if path.stat().st_size != size or _hash_file(path) != digest:
      raise _refusal(directory, f"is damaged: {name} differs from its SHA-256")


def _read_arrays(directory, saved):
  import orbax.checkpoint as ocp

  arrays = {
    name: np.zeros(leaf["shape"], leaf["dtype"]) for name, leaf in saved.items()
  }
  keys = _leaf_keys(saved)
  restore_args = {
    key: ocp.RestoreArgs(restore_type=np.ndarray) for key, _ in keys
  }
  tree = _checkpointer().restore(
    directory.absolute(),
    args=ocp.args.PyTreeRestore(restore_args=restore_args),
  )
  return arrays | {name: np.asarray(tree[key]) for key, name in keys}


def _hash_file(path):
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(directory):
  descriptor = os.open(directory, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def _one_line(error):
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  return " ".join(str(error).split())[:200] or type(error).__name__


def _refusal(path, why):
  return experiment.RunError(
    f"{path} {why}; remove it to go on from an earlier checkpoint or from the "
    "start."
  )
