"""Stories with questions as numpy arrays: `load(name, split, data_dir)`.

bAbI: twenty tasks of short simulated English stories, each of which tests one
kind of reasoning.

| name | questions per task |
| --- | --- |
| babi | train 1,000, test 1,000 |
| babi_10k | train 10,000, test 1,000 (the same) |

Words are in lower case; full stops and question marks are words. A question is
followed by one "-" for each word of its answer, where the network must output
that word. Line numbers and supporting facts are omitted.

Reference:
  Weston et al., 2015, Towards AI-complete question answering
  (arXiv:1502.05698), version 1.2 of the tasks.
"""

import gzip
import hashlib
import logging
import lzma
import os
import pathlib
import re
import tarfile
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import numpy as np

from lilly.data import array_cache, originals
from lilly.data.originals import DataError

__all__ = ["ANSWER", "NUM_TASKS", "DataError", "Stories", "load"]

NUM_TASKS = 20
ANSWER = 0  # index of the word "-", where an answer is expected

_log = logging.getLogger(__name__)
_SPLITS = ("train", "test")
_TREE = "tasks_1-20_v1-2"
_FOLDERS = {"babi": "en", "babi_10k": "en-10k"}
# The archives that hold a set, and bytes that none of them unpacks to: 6 MB,
# 27 MB, and all languages. A damaged or hostile one may unpack to gigabytes.
_ARCHIVES = {
  "babi": {
    f"babi_{_TREE}_en.tar.gz": 1 << 24,
    f"{_TREE}.tar.gz": 1 << 29,
  },
  "babi_10k": {
    f"babi_{_TREE}_en-10k.tar.xz": 1 << 26,
    f"{_TREE}.tar.gz": 1 << 29,
  },
}
_MAX_TEXT = 1 << 24  # bytes of a text
# Texts that some archives lack, and whose checksums are unknown.
_OPTIONAL = {"babi": (), "babi_10k": ((3, "train"),)}
# SHA-256 of all other texts, concatenated in the order of splits and tasks.
_SHA256 = {
  "babi": "cfbb60ec8da7d0fce09d735c373eea43e520be27ec836edf704932feaed05726",
  "babi_10k": (
    "6f701104e3829ebaf5a92a982da87ac2af752fb6400707d4b923d20354529316"
  ),
}

_Texts = dict[tuple[int, str], bytes]  # (task, split) -> text


class Stories(NamedTuple):
  """The stories of a split, concatenated, sorted by task."""

  words: np.ndarray  # int16 [W], indices into the vocabulary
  answers: np.ndarray  # int16 [W], the expected word where words is ANSWER
  starts: np.ndarray  # int32 [N + 1], story n is words[starts[n]:starts[n + 1]]
  tasks: np.ndarray  # int32 [N], 1..20
  vocabulary: np.ndarray  # str [V], the words of all training stories, sorted


def load(
  name: str, split: str, data_dir: str | os.PathLike[str] | None = None
) -> Stories:
  """Load one split of a set of stories.

  The first call reads all texts (half a minute for babi_10k) and caches the
  arrays in `array_cache.directory()`; later calls read the cache. The texts are
  verified against their SHA-256 on every call. Nothing is written to
  `data_dir`.

  Args:
    name: "babi" or "babi_10k".
    split: "train" or "test".
    data_dir: folder which holds, itself or in a subfolder babi/, the archive
      tasks_1-20_v1-2.tar.gz, babi_tasks_1-20_v1-2_en.tar.gz (babi) or
      babi_tasks_1-20_v1-2_en-10k.tar.xz (babi_10k), or the unpacked folder
      tasks_1-20_v1-2/, or its en/ or en-10k/. There is no download. The
      training text of task 3 in babi_10k is optional: without it a warning is
      logged and that task has no stories.

  Returns:
    The stories.

  Raises:
    ValueError: no such set or split.
    FileNotFoundError: data_dir is None, does not exist or lacks a file.
    DataError: a file is damaged or a different version.
  """
  if name not in _FOLDERS:
    known = ", ".join(_FOLDERS)
    raise ValueError(f"name={name!r} is unknown; known sets: {known}.")
  if split not in _SPLITS:
    known = ", ".join(_SPLITS)
    raise ValueError(f"split={split!r} is unknown; {name} has: {known}.")
  texts = _read(name, data_dir)
  for k, each in _OPTIONAL[name]:
    if each == split and (k, each) not in texts:
      _log.warning("%s: there are no %s stories of task %d.", name, split, k)
  sums = ((f"{k}_{s}", _sum(text)) for (k, s), text in texts.items())
  source = array_cache.fingerprint(sums)
  file = array_cache.path(name, split, source)
  # A word, of at least a byte, becomes two numbers of two bytes.
  max_bytes = 16 * sum(map(len, texts.values())) + (1 << 20)
  if (kept := array_cache.read(file, Stories, max_bytes)) is not None:
    return kept
  arrays = _arrange(texts)
  for each, stories in arrays.items():
    array_cache.write(array_cache.path(name, each, source), stories)
  return arrays[split]


def _read(name: str, data_dir: str | os.PathLike[str] | None) -> _Texts:
  """Find the texts, and verify them against their checksum."""
  archive = next(iter(_ARCHIVES[name]))
  if data_dir is None:
    raise FileNotFoundError(
      f"{name} cannot be downloaded: give data_dir, a folder that holds "
      f"{archive}."
    )
  folder = pathlib.Path(data_dir).expanduser()
  if not folder.is_dir():
    raise FileNotFoundError(f"data_dir={str(data_dir)!r} is not a folder.")
  if (place := _find(name, folder)) is None:
    raise FileNotFoundError(
      f"{folder} lacks {archive} (also in a folder babi/) and no "
      f"{_TREE}/{_FOLDERS[name]}/ is there: add one or give another data_dir."
    )
  if place.is_file():
    limit = _ARCHIVES[name][place.name]
    texts = _unpack(place, _FOLDERS[name], limit)
  else:
    texts = _list(place)
  keys = [(k + 1, split) for split in _SPLITS for k in range(NUM_TASKS)]
  for k, split in keys:
    if (k, split) not in texts and (k, split) not in _OPTIONAL[name]:
      raise FileNotFoundError(f"{place} lacks qa{k}_*_{split}.txt of {name}.")
  known = [texts[key] for key in keys if key not in _OPTIONAL[name]]
  if (found := _sum(b"".join(known))) != (expected := _SHA256[name]):
    raise DataError(
      f"{place} is damaged or a different version: its texts of {name} have "
      f"SHA-256 {found}, expected is {expected}."
    )
  return texts


def _sum(content: bytes) -> str:
  return hashlib.sha256(content).hexdigest()


def _find(name: str, data_dir: pathlib.Path) -> pathlib.Path | None:
  """Find an archive or an unpacked folder."""
  for folder in originals.folders("babi", data_dir):
    files = [folder / archive for archive in _ARCHIVES[name]]
    trees = [folder / _TREE / _FOLDERS[name], folder / _FOLDERS[name]]
    for place in [f for f in files if f.is_file()] + trees:
      if place.exists():
        return place
  return None


def _key(file: str) -> tuple[int, str] | None:
  match = re.fullmatch(r"qa(\d+)_.*_(train|test)\.txt", file)
  return (int(match[1]), match[2]) if match else None


def _list(folder: pathlib.Path) -> _Texts:
  texts = {}
  for file in folder.iterdir():
    if key := _key(file.name):
      if file.stat().st_size > _MAX_TEXT:
        raise DataError(f"{file} has more than {_MAX_TEXT} bytes.")
      texts[key] = file.read_bytes()
  return texts


class _Limited:
  """A stream that fails where more than a number of bytes is read."""

  def __init__(self, stream: Any, limit: int):
    self._stream = stream
    self._limit = limit
    self._count = 0

  def read(self, size: int) -> bytes:
    content = self._stream.read(size)
    self._count += len(content)
    if self._count > self._limit:
      raise ValueError(f"it unpacks to more than {self._limit} bytes")
    return content


def _unpack(archive: pathlib.Path, folder: str, limit: int) -> _Texts:
  texts = {}
  read = lzma.open if archive.suffix == ".xz" else gzip.open
  try:
    with read(archive) as stream:
      content = _Limited(stream, limit)
      # As a stream, "r|": what is not a text is not kept.
      with tarfile.open(fileobj=cast(Any, content), mode="r|") as members:
        for member in members:
          parts = pathlib.PurePosixPath(member.name).parts
          key = _key(parts[-1]) if parts[-2:-1] == (folder,) else None
          if key and member.isfile():
            texts[key] = _text(members, member)
      while content.read(1 << 16):  # tarfile may miss damage at the end.
        pass
  except Exception as e:  # Damaged archives raise many types of exception.
    raise DataError(
      f"{archive} is incomplete or damaged ({type(e).__name__}: {e}): download "
      "it again."
    ) from e
  return texts


def _text(members: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
  stream = members.extractfile(member)
  if stream is None or member.issparse() or member.size > _MAX_TEXT:
    raise ValueError(f"{member.name} is not a text of {_MAX_TEXT} bytes")
  return stream.read()


def _stories(text: bytes) -> Iterator[list[tuple[str, str]]]:
  """Yield stories: words, each paired with its expected answer or "-"."""
  story: list[tuple[str, str]] = []
  for line in text.decode("ascii").lower().splitlines():
    number, _, sentence = line.partition(" ")
    if number == "1" and story:
      yield story
      story = []
    sentence, *rest = sentence.split("\t")
    story += [(word, "-") for word in re.findall(r"\w+|[^\w\s]", sentence)]
    if rest:
      story += [("-", answer) for answer in rest[0].split(",")]
  yield story


def _arrange(texts: _Texts) -> dict[str, Stories]:
  found: dict[str, list[list[tuple[str, str]]]] = {s: [] for s in _SPLITS}
  tasks: dict[str, list[int]] = {split: [] for split in _SPLITS}
  for (k, split), text in sorted(texts.items()):
    stories = list(_stories(text))
    found[split] += stories
    tasks[split] += [k] * len(stories)
  words = {w for story in found["train"] for pair in story for w in pair}
  vocabulary = sorted(words)  # "-" comes first
  number = {word: i for i, word in enumerate(vocabulary)}
  arrays = {}
  for split, stories in found.items():
    arrays[split] = Stories(
      np.array([number[w] for s in stories for w, _ in s], np.int16),
      np.array([number[a] for s in stories for _, a in s], np.int16),
      np.cumsum([0, *map(len, stories)]).astype(np.int32),
      np.array(tasks[split], np.int32),
      np.array(vocabulary),
    )
  return arrays
