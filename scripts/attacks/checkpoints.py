"""Attacks on the checkpoints of a run that is to be resumed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pathlib
import random
import shutil
import zipfile
from collections.abc import Callable, Iterator

import numpy as np

from scripts.attacks.case import FAILED, HELD, Case, Plan, sampled
from scripts.attacks.worker import Worker

__all__ = ["run"]

_FILES = ("arrays.npz", "manifest.json")
_FIRST = ("--num_updates=24", "--checkpoint_every_s=1e-9")


def run(plan: Plan) -> Iterator[Case]:
  """Changes a checkpoint in many ways; resuming must refuse each of them."""
  original = plan.folder / "original"
  directory = plan.folder / "run"
  with Worker(
    "tests.training.toy", seconds=plan.seconds, folder=plan.folder
  ) as worker:
    for seed, place in enumerate((original, plan.folder / "other")):
      argv = ["toy", f"--out_dir={place}", f"--seed={seed}", *_FIRST]
      answer = worker.run(argv)
      if answer.fault() or answer.status:
        yield Case("the run to attack", FAILED, f"{answer}")
        return
    for name, attack in sampled(_attacks(plan), plan):
      shutil.rmtree(directory, ignore_errors=True)
      shutil.copytree(original, directory, symlinks=True)
      attack(directory / "adam" / "checkpoints")
      answer = worker.run(["toy", f"--out_dir={directory}", "--num_updates=40"])
      fault = answer.fault()
      if not fault and answer.status != 1:
        fault = f"status {answer.status}: it was believed"
      verdict = FAILED if fault else HELD
      yield Case(name, verdict, fault or answer.sentence())


def _attacks(plan) -> list[tuple[str, Callable[[pathlib.Path], None]]]:
  """Lists (name, attack): an attack changes a folder of checkpoints."""
  rng = random.Random(plan.seed)
  found = []
  for file in _FILES:
    for _ in range(10):
      found.append((f"{file}: a bit flipped", _flip(file, rng.random())))
    for share in (0.0, 0.3, 0.999):
      found.append((f"{file}: cut to {share:g}", _cut(file, share)))
    found += [
      (f"{file}: a byte more", _append(file)),
      (f"{file}: removed", lambda d, f=file: (d / "24" / f).unlink()),
      (f"{file}: a link", _link(file)),
      (f"{file}: a folder", _folder(file)),
      (f"{file}: a pipe", _pipe(file)),
      (f"{file}: of the checkpoint before", _older(file)),
      (f"{file}: of another run", _other(file, plan.folder)),
    ]
  for field, value in (
    ("format", 0),
    ("format", 2),
    ("format", None),
    ("update", 20),
    ("update", "24"),
    ("record", None),
    ("leaves", []),
    ("leaves", None),
    ("arrays", ""),
  ):
    found.append((f"manifest: {field}={value}", _rewrite(field, value)))
  found += [
    ("two leaves swapped", _swap_leaves),
    ("a leaf of another shape", _reshape_leaf),
    ("a pickled leaf", _pickle_leaf),
    ("a leaf missing", _drop_leaf),
    ("a checkpoint of another run", _other_checkpoint(plan.folder)),
    ("renamed to a later update", _rename("32")),
    ("renamed to an earlier update", _rename("21")),
    ("renamed to a word", _rename("best")),
    ("renamed to another form of its number", _rename("0024")),
    ("a foreign file in a checkpoint", _touch("24/notes.txt")),
    ("a hidden file in a checkpoint", _touch("24/.hidden")),
    ("a foreign file beside the checkpoints", _touch("notes.txt")),
    ("a foreign folder beside the checkpoints", _make_folder("old")),
    ("an empty checkpoint", _make_folder("28")),
    ("a checkpoint that is a link", _link_checkpoint),
    ("a folder of checkpoints that is a link", _link_all),
  ]
  return found


def _flip(file, where):
  def attack(directory):
    path = directory / "24" / file
    content = bytearray(path.read_bytes())
    bit = int(where * 8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)

  return attack


def _cut(file, share):
  def attack(directory):
    path = directory / "24" / file
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])

  return attack


def _append(file):
  def attack(directory):
    with open(directory / "24" / file, "ab") as stream:
      stream.write(b"\n")

  return attack


def _link(file):
  def attack(directory):
    path = directory / "24" / file
    away = directory.parent / f"away-{file}"
    path.rename(away)
    path.symlink_to(away)

  return attack


def _folder(file):
  def attack(directory):
    (directory / "24" / file).unlink()
    (directory / "24" / file).mkdir()

  return attack


def _pipe(file):
  def attack(directory):
    (directory / "24" / file).unlink()
    os.mkfifo(directory / "24" / file)

  return attack


def _older(file):
  def attack(directory):
    shutil.copy(directory / "20" / file, directory / "24" / file)

  return attack


def _other(file, folder):
  def attack(directory):
    other = folder / "other" / "adam" / "checkpoints"
    shutil.copy(other / "24" / file, directory / "24" / file)

  return attack


def _other_checkpoint(folder):
  def attack(directory):
    shutil.rmtree(directory / "24")
    other = folder / "other" / "adam" / "checkpoints" / "24"
    shutil.copytree(other, directory / "24")

  return attack


def _rename(name):
  return lambda directory: (directory / "24").rename(directory / name)


def _touch(name):
  return lambda directory: (directory / name).write_text("mine\n")


def _make_folder(name):
  return lambda directory: (directory / name).mkdir()


def _link_checkpoint(directory):
  away = directory.parent / "away"
  (directory / "24").rename(away)
  (directory / "24").symlink_to(away)


def _link_all(directory):
  away = directory.parent / "away"
  directory.rename(away)
  directory.symlink_to(away)


def _manifest(directory):
  text = (directory / "24" / "manifest.json").read_text()
  return json.loads(text.partition("\n")[2])


def _sign(directory, manifest):
  """Writes a manifest whose own digest is right."""
  body = json.dumps(manifest, indent=1, sort_keys=True)
  digest = hashlib.sha256(body.encode()).hexdigest()
  (directory / "24" / "manifest.json").write_text(f"{digest}\n{body}\n")


def _rewrite(field, value):
  def attack(directory):
    manifest = _manifest(directory)
    if value is None:
      del manifest[field]
    else:
      manifest[field] = value
    _sign(directory, manifest)

  return attack


def _change_members(directory, change):
  """Changes the arrays, with a manifest that has the new file's digest."""
  path = directory / "24" / "arrays.npz"
  with zipfile.ZipFile(path) as archive:
    members = {name: archive.read(name) for name in archive.namelist()}
  change(members)
  with zipfile.ZipFile(path, "w") as archive:
    for name, content in members.items():
      archive.writestr(name, content)
  digest = hashlib.sha256(path.read_bytes()).hexdigest()
  _sign(directory, _manifest(directory) | {"arrays": digest})


def _swap_leaves(directory):
  def change(members):
    first, second = sorted(members)[:2]
    members[first], members[second] = members[second], members[first]

  _change_members(directory, change)


def _drop_leaf(directory):
  _change_members(directory, lambda members: members.pop(min(members)))


def _reshape_leaf(directory):
  _replace_leaf(directory, np.zeros(7, np.uint8))


def _pickle_leaf(directory):
  _replace_leaf(directory, np.array([{"an": "object"}], dtype=object))


def _replace_leaf(directory, array):
  def change(members):
    content = io.BytesIO()
    np.save(content, array, allow_pickle=array.dtype == object)
    members[min(members)] = content.getvalue()

  _change_members(directory, change)
