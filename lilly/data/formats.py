"""Readers of the published files, as tensorflow-datasets examples."""

import gzip
import os
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

__all__ = ["READERS", "Examples"]

_CIFAR10_CLASSES: list[str] = [
  "airplane",
  "automobile",
  "bird",
  "cat",
  "deer",
  "dog",
  "frog",
  "horse",
  "ship",
  "truck",
]


class Examples(NamedTuple):
  """Input of a tensorflow-datasets builder."""

  names: dict[str, list[str]]  # feature -> its class names
  splits: dict[str, Iterable[tuple[Any, dict[str, Any]]]]  # key, features


_Paths = Mapping[str, str | os.PathLike[str]]  # file name -> its path


def _mnist(paths: _Paths) -> Examples:
  """Read four idx files: a big-endian header, then uint8."""

  def examples(part: str) -> Iterator[tuple[int, dict[str, Any]]]:
    from PIL import Image

    with gzip.open(paths[f"{part}-images-idx3-ubyte.gz"]) as stream:
      data = stream.read()
    shape = np.frombuffer(data, ">i4", count=4)[1:]
    images = np.frombuffer(data, np.uint8, offset=16).reshape(shape)
    with gzip.open(paths[f"{part}-labels-idx1-ubyte.gz"]) as stream:
      labels = np.frombuffer(stream.read(), np.uint8, offset=8)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
      yield i, {"image": Image.fromarray(image), "label": int(label)}

  return Examples({}, {"train": examples("train"), "test": examples("t10k")})


def _omniglot(paths: _Paths) -> Examples:
  """Read the four zip files, or one npz file of packed bits."""
  if "omniglot_105.npz" in paths:
    return _omniglot_bits(paths["omniglot_105.npz"])
  parts = {
    "train": "images_background",
    "test": "images_evaluation",
    "small1": "images_background_small1",
    "small2": "images_background_small2",
  }
  alphabets: set[str] = set()
  labels: dict[int, str] = {}
  splits: dict[str, list[tuple[str, dict[str, Any]]]] = {}
  for split, part in parts.items():
    splits[split] = list(_omniglot_zip(paths[f"{part}.zip"]))
    for _, example in splits[split]:
      alphabet, character = example["alphabet"], example["alphabet_char_id"]
      alphabets.add(alphabet)
      labels[example["label"]] = f"{alphabet}_{character}"
  names = [labels[k] for k in sorted(labels)]
  return Examples({"alphabet": sorted(alphabets), "label": names}, {**splits})


def _omniglot_zip(
  path: str | os.PathLike[str],
) -> Iterator[tuple[str, dict[str, Any]]]:
  """Read `images_x/Alphabet/characterNN/IIII_DD.png`, numbered from 1."""
  pattern = re.compile(r"[^/]+/([^/]+)/character(\d+)/((\d+)_\d+\.png)")
  with zipfile.ZipFile(path) as archive:
    for entry in archive.namelist():
      if match := pattern.fullmatch(entry):
        alphabet, character = match[1], int(match[2]) - 1
        yield (
          f"{alphabet}_{character}_{match[3]}",
          {
            "image": archive.read(entry),
            "alphabet": alphabet,
            "alphabet_char_id": character,
            "label": int(match[4]) - 1,
          },
        )


def _omniglot_bits(path: str | os.PathLike[str]) -> Examples:
  """Read one npz file with a row per image; bit 1 is ink."""
  with np.load(path) as file:
    rows = dict(file)
  names = {
    "alphabet": [str(name) for name in rows["alphabet_names"]],
    "label": [str(name) for name in rows["label_names"]],
  }

  def examples(chosen: np.ndarray) -> Iterator[tuple[str, dict[str, Any]]]:
    from PIL import Image

    for i in np.flatnonzero(chosen):
      ink = np.unpackbits(rows["images"][i], axis=1)[:, :105]
      alphabet, label = int(rows["alphabet"][i]), int(rows["character"][i])
      character = int(rows["alphabet_char_id"][i])
      file = f"{label + 1:04d}_{int(rows['drawer'][i]) + 1:02d}.png"
      yield (
        f"{names['alphabet'][alphabet]}_{character}_{file}",
        {
          "image": Image.fromarray(255 * (1 - ink)),
          "alphabet": alphabet,
          "alphabet_char_id": character,
          "label": label,
        },
      )

  splits = {
    "train": examples(rows["split"] == 0),
    "test": examples(rows["split"] == 1),
    "small1": examples(rows["small1"]),
    "small2": examples(rows["small2"]),
  }
  return Examples(names, {**splits})


def _cifar10(paths: _Paths) -> Examples:
  """Read the binary version: a label, then 3 planes of 32x32, per image."""
  batches: dict[str, bytes] = {}
  with tarfile.open(paths["cifar-10-binary.tar.gz"]) as archive:
    for member in archive:
      if member.name.endswith(".bin") and (f := archive.extractfile(member)):
        batches[member.name.rsplit("/", 1)[-1]] = f.read()

  def examples(
    prefix: str, files: list[str]
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    from PIL import Image

    rows = np.frombuffer(b"".join(batches[f] for f in files), np.uint8)
    for i, row in enumerate(rows.reshape(-1, 1 + 3 * 32 * 32)):
      image = row[1:].reshape(3, 32, 32).transpose(1, 2, 0)
      yield (
        i,
        {
          "id": f"{prefix}{i:05d}",
          "image": Image.fromarray(np.ascontiguousarray(image)),
          "label": int(row[0]),
        },
      )

  splits = {
    "train": examples("train_", [f"data_batch_{i}.bin" for i in range(1, 6)]),
    "test": examples("test_", ["test_batch.bin"]),
  }
  return Examples({"label": _CIFAR10_CLASSES}, {**splits})


def _cifar10_small(paths: _Paths) -> Examples:
  """Read a zip of `split/class/NNNN.jpg`."""
  splits: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "train": [],
    "test": [],
  }
  with zipfile.ZipFile(paths["cifar10_jpeg_10000_2000.zip"]) as archive:
    for entry in archive.namelist():
      if entry.endswith(".jpg"):
        split, label, _ = entry.split("/")
        example = {"id": entry, "image": archive.read(entry), "label": label}
        splits[split].append((entry, example))
  return Examples({"label": _CIFAR10_CLASSES}, {**splits})


# Data set -> its reader, which takes {file name: path}.
READERS: dict[str, Callable[[_Paths], Examples]] = {
  "mnist": _mnist,
  "fashion_mnist": _mnist,
  "omniglot": _omniglot,
  "cifar10": _cifar10,
  "cifar10_small": _cifar10_small,
}
