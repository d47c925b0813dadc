"""Image data sets as numpy arrays: `load(name, split, data_dir)`.

`digits` is bundled with scikit-learn and needs no file and no network. The
others are read through tensorflow-datasets (without TensorFlow): from the
original files in `data_dir`, from a prepared tensorflow-datasets directory in
`data_dir`, or by download. The arrays are then cached by `array_cache`.

| name | splits (examples) | images |
| --- | --- | --- |
| digits | train 1,437, test 360 | 8x8 |
| mnist, fashion_mnist | train 60,000, test 10,000 | 28x28 |
| omniglot | train 19,280, test 13,180, small1 2,720, small2 3,120 | 105x105 |
| cifar10 | train 50,000, test 10,000 | 32x32x3 |
| cifar10_small | train 10,000, test 2,000, from JPEG (lossy) | 32x32x3 |

All images are uint8, from 0 to 255.

References:
  digits: Alpaydin and Kaynak, 1998, Optical recognition of handwritten digits
  (UCI), in 8x8 as bundled with scikit-learn.
  mnist: LeCun, Cortes and Burges, 1998, The MNIST database.
  fashion_mnist: Xiao, Rasul and Vollgraf, 2017, arXiv:1708.07747.
  omniglot: Lake, Salakhutdinov and Tenenbaum, 2015, Science 350:1332.
  cifar10: Krizhevsky, 2009, Learning multiple layers of features from tiny
  images (technical report).
"""

import os
import pathlib
from typing import Any, Literal, NamedTuple, overload

import numpy as np

from lilly.data import array_cache, originals, preparation
from lilly.data.originals import DataError

__all__ = ["SPLITS", "DataError", "Images", "Omniglot", "load"]

# Data set -> its splits.
SPLITS: dict[str, tuple[str, ...]] = {
  "digits": ("train", "test"),
  "mnist": ("train", "test"),
  "fashion_mnist": ("train", "test"),
  "omniglot": ("train", "test", "small1", "small2"),
  "cifar10": ("train", "test"),
  "cifar10_small": ("train", "test"),
}

# Data set -> examples of its largest split, bytes of an image.
_LARGEST = {
  "mnist": (60_000, 28 * 28),
  "fashion_mnist": (60_000, 28 * 28),
  "omniglot": (19_280, 105 * 105),
  "cifar10": (50_000, 32 * 32 * 3),
  "cifar10_small": (10_000, 32 * 32 * 3),
}

_NUM_TRAIN_DIGITS = 1437  # 80 %


class Images(NamedTuple):
  """Labelled images, in tensorflow-datasets' order (a fixed shuffle)."""

  images: np.ndarray  # uint8 [N,H,W], or [N,H,W,3] for cifar10
  labels: np.ndarray  # int32 [N], class 0..9


class Omniglot(NamedTuple):
  """Characters, sorted: every 20 rows are the 20 drawings of one character."""

  images: np.ndarray  # uint8 [N,105,105], ink 0 on paper 255
  labels: np.ndarray  # int32 [N], character 0..1622
  alphabets: np.ndarray  # int32 [N], alphabet 0..49, numbered by name
  alphabet_char_ids: np.ndarray  # int32 [N], character within its alphabet


@overload
def load(
  name: Literal["omniglot"],
  split: str,
  data_dir: str | os.PathLike[str] | None = None,
) -> Omniglot: ...


@overload
def load(
  name: str, split: str, data_dir: str | os.PathLike[str] | None = None
) -> Images: ...


def load(
  name: str, split: str, data_dir: str | os.PathLike[str] | None = None
) -> Images | Omniglot:
  """Load one split of a data set.

  The first call prepares all splits (half a minute for mnist) and caches the
  arrays in `array_cache.directory()`; later calls read the cache. Original
  files are verified against their SHA-256 on every call. Nothing is written to
  `data_dir`.

  Args:
    name: a key of `SPLITS`.
    split: one of `SPLITS[name]`.
    data_dir: folder of the original files, or with a subfolder of them named
      after the data set, or with a prepared tensorflow-datasets directory
      (`data_dir/name/version`, ArrayRecord); None to download. The original
      files are all those of any one form in `originals.FORMS`. Not used for
      digits.

  Returns:
    `Images`, or `Omniglot` for omniglot.

  Raises:
    ValueError: no such data set or split.
    FileNotFoundError: `data_dir` does not exist or lacks a file.
    DataError: a file is damaged, cannot be downloaded, or a package is missing.

  >>> train = load("digits", "train")
  >>> train.images.shape, train.images.dtype, train.labels.dtype
  ((1437, 8, 8), dtype('uint8'), dtype('int32'))
  """
  if name not in SPLITS:
    known = ", ".join(SPLITS)
    raise ValueError(f"name={name!r} is unknown; known data sets: {known}.")
  if split not in SPLITS[name]:
    known = ", ".join(SPLITS[name])
    raise ValueError(f"split={split!r} is unknown; {name} has: {known}.")
  if name == "digits":
    return _digits(split)
  if data_dir is None:
    return _from_originals(name, split, None, originals.FORMS[name][0])
  folder = pathlib.Path(data_dir).expanduser()
  if not folder.is_dir():
    raise FileNotFoundError(f"data_dir={str(data_dir)!r} is not a folder.")
  if found := originals.find(name, folder):
    originals.verify(*found)
    return _from_originals(name, split, *found)
  if prepared := preparation.find(name, folder):
    return _from_prepared(name, split, prepared)
  raise FileNotFoundError(_missing(name, folder))


def _from_originals(
  name: str,
  split: str,
  folder: pathlib.Path | None,
  form: tuple[originals.Original, ...],
) -> Any:
  """Return the cached arrays, or prepare and cache all splits."""
  source = array_cache.fingerprint((f.filename, f.sha256) for f in form)
  file = array_cache.path(name, split, source)
  if (kept := _cached(name, file)) is not None:
    return kept
  if folder is None and "://" not in form[0].url:
    raise FileNotFoundError(
      f"{name} cannot be downloaded: give data_dir, a folder that holds "
      f"{form[0].filename}."
    )
  with preparation.prepare(name, folder, form) as directory:
    for each in SPLITS[name]:
      record = _arrange(name, preparation.read(directory, each))
      array_cache.write(array_cache.path(name, each, source), record)
      if each == split:
        kept = record
  return kept


def _from_prepared(name: str, split: str, directory: pathlib.Path) -> Any:
  """Return the cached arrays, or read and cache one split."""
  files = sorted(f for f in directory.iterdir() if f.is_file())
  source = array_cache.fingerprint((f.name, originals.sha256(f)) for f in files)
  file = array_cache.path(name, split, source)
  if (kept := _cached(name, file)) is None:
    kept = _arrange(name, preparation.read(directory, split))
    array_cache.write(file, kept)
  return kept


def _cached(name: str, file: pathlib.Path) -> Any:
  """Return the cached arrays, None if there are none that can be."""
  record = Omniglot if name == "omniglot" else Images
  num_examples, image_bytes = _LARGEST[name]
  label_bytes = 4 * (len(record._fields) - 1)
  max_bytes = num_examples * (image_bytes + label_bytes)
  return array_cache.read(file, record, max_bytes)


def _arrange(name: str, arrays: dict[str, np.ndarray]) -> Images | Omniglot:
  if name != "omniglot":
    return Images(arrays["image"], arrays["label"])
  order = np.argsort(arrays["label"], kind="stable")
  features = ("image", "label", "alphabet", "alphabet_char_id")
  return Omniglot(*(arrays[feature][order] for feature in features))


def _missing(name: str, data_dir: pathlib.Path) -> str:
  """Name the missing files of the form with the fewest missing."""
  absent = min(
    (
      [file.filename for file in form if not (folder / file.filename).is_file()]
      for folder in originals.folders(name, data_dir)
      for form in originals.FORMS[name]
    ),
    key=len,
  )
  if name == "cifar10" and originals.find("cifar10_small", data_dir):
    return (
      f"{data_dir} lacks {absent[0]} but holds the reduced set of JPEG images: "
      "use the name 'cifar10_small' for that."
    )
  return (
    f"{data_dir} lacks {', '.join(absent)} (also in a folder {name}/) and no "
    f"prepared {name}/<version>/ is there: add the files or another data_dir, "
    "or leave it out to download."
  )


def _digits(split: str) -> Images:
  """Scale scikit-learn's 0..16 to 0..255 and split by a fixed permutation."""
  try:
    from sklearn.datasets import load_digits
  except ImportError as e:
    raise DataError(f"digits needs {e.name}: pip install scikit-learn.") from e
  pixels, labels = load_digits(return_X_y=True)
  images = np.round(pixels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
  # RandomState's stream is frozen; default_rng's may change with numpy.
  order = np.random.RandomState(0).permutation(len(labels))
  first, rest = np.split(order, [_NUM_TRAIN_DIGITS])
  rows = first if split == "train" else rest
  return Images(images[rows], labels[rows].astype(np.int32))
