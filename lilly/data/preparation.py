"""Data sets through tensorflow-datasets, without TensorFlow.

The stock builders keep their name, version and features; those parts that need
TensorFlow (unpacking archives, encoding arrays) are replaced, and records are
written as ArrayRecord.
"""

import contextlib
import io
import json
import logging
import os
import pathlib
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lilly.data import formats, originals

__all__ = ["find", "prepare", "read"]

_log = logging.getLogger(__name__)
_CHUNK = 1000  # Examples per read.
_TIMEOUT_S = 15.0  # Until the first byte from the publisher.
_MAX_EDGE = 105  # Pixels, of the largest images (omniglot).
_STOCK = {
  "mnist": "MNIST",
  "fashion_mnist": "FashionMNIST",
  "omniglot": "Omniglot",
  "cifar10": "Cifar10",
  "cifar10_small": "Cifar10",
}


def find(name: str, data_dir: pathlib.Path) -> pathlib.Path | None:
  """Find a data set prepared by tensorflow-datasets.

  Args:
    name: name of the data set.
    data_dir: folder that contains `<name>/<version>/`, or either of these two.

  Returns:
    The folder of the highest version, or None.

  Raises:
    DataError: the prepared data set has a format that needs TensorFlow.
  """
  found = []
  for folder in (data_dir / name, data_dir):
    for info in [*folder.glob("*/dataset_info.json"),
                 folder / "dataset_info.json"]:  # fmt: skip
      version = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)", info.parent.name)
      if version and info.is_file() and _info(info).get("name") == name:
        found.append(([int(part) for part in version.groups()], info))
  if not found:
    return None
  info = max(found)[1]
  if _info(info).get("fileFormat") != "array_record":
    raise originals.DataError(
      f"{info.parent} is not in the ArrayRecord format, and other formats need "
      'TensorFlow: prepare it again with file_format="array_record".'
    )
  return info.parent


def _info(file: pathlib.Path) -> dict[str, Any]:
  try:
    return json.loads(file.read_text(encoding="utf-8"))
  except ValueError as e:
    raise originals.DataError(
      f"{file} is damaged ({e}): prepare the data set again."
    ) from e


@contextlib.contextmanager
def prepare(
  name: str,
  folder: pathlib.Path | None,
  form: Sequence[originals.Original],
) -> Iterator[pathlib.Path]:
  """Prepare a data set in a temporary directory.

  Args:
    name: name of the data set.
    folder: folder of the files of `form`, already verified; None to download.
    form: published files of the data set.

  Yields:
    The prepared directory, for `read`; removed on exit.

  Raises:
    DataError: a file cannot be downloaded or is not the expected one.
  """
  tfds = _tfds()
  if folder is None:
    _reach(name, form)
  _log.warning("Preparing %s once; this may take a minute.", name)
  with tempfile.TemporaryDirectory(
    prefix="lilly-", ignore_cleanup_errors=True
  ) as work:
    builder = _builder(tfds, name, form)(
      data_dir=os.path.join(work, "prepared"), file_format="array_record"
    )
    config = tfds.download.DownloadConfig(
      manual_dir=folder, try_download_gcs=False
    )
    try:
      with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(
          download_dir=os.path.join(work, "downloads"), download_config=config
        )
    except _download_errors(tfds) as e:
      raise originals.DataError(_unreachable(name, form, e)) from e
    yield pathlib.Path(builder.data_dir)


def _tfds() -> Any:
  try:
    import importlib_resources  # noqa: F401 (undeclared dependency of tfds)
    import PIL  # noqa: F401
    import tensorflow_datasets as tfds
  except ImportError as e:
    raise originals.DataError(
      f"This data set needs {e.name}: pip install tensorflow-datasets "
      "importlib_resources Pillow."
    ) from e
  if not sys.stderr.isatty():
    tfds.disable_progress_bar()
  return tfds


def _builder(tfds: Any, name: str, form: Sequence[originals.Original]) -> Any:
  """Derive a builder from the stock one, outside tfds's registry."""
  stock = getattr(tfds.image_classification, _STOCK[name])
  infos = {
    file.url: tfds.download.checksums.UrlInfo(
      size=tfds.core.utils.Size(file.size),
      checksum=file.sha256,
      filename=file.filename,
    )
    for file in form
  }

  def split_generators(self, manager):
    # Sequentially, so that a failure leaves no other download running.
    paths = {file.filename: manager.download(file.url) for file in form}
    examples = formats.READERS[name](paths)
    for feature, names in examples.names.items():
      self.info.features[feature].names = names
    return examples.splits

  members = {
    "__module__": __name__,
    "name": name,
    "url_infos": infos,
    "_split_generators": split_generators,
  }
  with tfds.core.registered.skip_registration():
    return type(stock.__name__, (stock,), members)


def _reach(name: str, form: Sequence[originals.Original]) -> None:
  """Fail fast without a network: tfds would retry for minutes."""
  import requests

  try:
    requests.get(form[0].url, stream=True, timeout=_TIMEOUT_S).close()
  except requests.exceptions.RequestException as e:
    raise originals.DataError(_unreachable(name, form, e)) from e


def _download_errors(tfds: Any) -> tuple[type[Exception], ...]:
  import requests

  manager = tfds.download.download_manager
  return (
    requests.exceptions.RequestException,
    manager.NonMatchingChecksumError,
    tfds.download.util.DownloadError,
  )


def _unreachable(
  name: str, form: Sequence[originals.Original], error: Exception
) -> str:
  names = ", ".join(file.filename for file in form)
  site = form[0].url.rsplit("/", 1)[0]
  return (
    f"{name} cannot be downloaded from {site} ({type(error).__name__}): give "
    f"data_dir, a folder that holds {names}."
  )


def read(directory: pathlib.Path, split: str) -> dict[str, np.ndarray]:
  """Read one split of a prepared data set into arrays.

  Args:
    directory: as returned by `find` or `prepare`.
    split: name of the split.

  Returns:
    All features except "id": `image` uint8 [N,H,W] for greyscale images, else
    [N,H,W,3]; the others int32 [N]. In tensorflow-datasets' order, a fixed
    shuffle.

  Raises:
    DataError: the directory lacks the split or is damaged.
  """
  tfds = _tfds()
  try:
    builder = tfds.builder_from_directory(directory)
    if split not in builder.info.splits:
      raise originals.DataError(f"{directory} has no split {split!r}.")
    color = builder.info.name.startswith("cifar")
    source = builder.as_data_source(
      split, decoders={"image": tfds.decode.SkipDecoding()}
    )
    rows = []
    for start in range(0, len(source), _CHUNK):
      stop = min(start + _CHUNK, len(source))
      rows += source.__getitems__(list(range(start, stop)))
    return _stack(rows, color)
  except originals.DataError:
    raise
  except Exception as e:  # Damaged files raise many types of exception.
    raise originals.DataError(
      f"{directory} cannot be read ({type(e).__name__}: {e}): prepare the data "
      "set again."
    ) from e


def _stack(rows: Sequence[Any], color: bool) -> dict[str, np.ndarray]:
  mode = "RGB" if color else "L"
  arrays = {"image": np.stack([_pixels(row["image"], mode) for row in rows])}
  for feature in rows[0].keys() - {"id", "image"}:
    arrays[feature] = np.array([row[feature] for row in rows], np.int32)
  return arrays


def _pixels(content: bytes, mode: str) -> np.ndarray:
  from PIL import Image

  with Image.open(io.BytesIO(content)) as image:  # Not yet unpacked.
    if max(image.size) > _MAX_EDGE:
      raise ValueError(f"an image has {image.size} pixels")
    return np.asarray(image.convert(mode))
