"""The data sets' original files, as published by their authors."""

import hashlib
import pathlib
from collections.abc import Iterable
from typing import NamedTuple

__all__ = [
  "FORMS",
  "DataError",
  "Original",
  "find",
  "folders",
  "sha256",
  "verify",
]


class DataError(Exception):
  """A data set is unavailable; the message says what to do."""


class Original(NamedTuple):
  """One published file."""

  url: str  # download URL; only a file name if there is none
  size: int  # bytes
  sha256: str  # SHA-256 of the content, hexadecimal

  @property
  def filename(self) -> str:
    return self.url.rsplit("/", 1)[-1]


_MNIST = "https://storage.googleapis.com/cvdf-datasets/mnist/"
_FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_OMNIGLOT = "https://github.com/brendenlake/omniglot/raw/master/python/"
_CIFAR = "https://www.cs.toronto.edu/~kriz/"

# Data set -> accepted sets of files, the downloadable one first. Sizes and
# checksums are those registered in tensorflow-datasets (a test compares them).
# omniglot_105.npz: every image once, packed to bits, with its labels.
# cifar10_jpeg_10000_2000.zip: `split/class/NNNN.jpg`.
FORMS: dict[str, tuple[tuple[Original, ...], ...]] = {
  "mnist": (
    (
      Original(
        _MNIST + "train-images-idx3-ubyte.gz",
        9912422,
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
      ),
      Original(
        _MNIST + "train-labels-idx1-ubyte.gz",
        28881,
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
      ),
      Original(
        _MNIST + "t10k-images-idx3-ubyte.gz",
        1648877,
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
      ),
      Original(
        _MNIST + "t10k-labels-idx1-ubyte.gz",
        4542,
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
      ),
    ),
  ),
  "fashion_mnist": (
    (
      Original(
        _FASHION + "train-images-idx3-ubyte.gz",
        26421880,
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
      ),
      Original(
        _FASHION + "train-labels-idx1-ubyte.gz",
        29515,
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
      ),
      Original(
        _FASHION + "t10k-images-idx3-ubyte.gz",
        4422102,
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
      ),
      Original(
        _FASHION + "t10k-labels-idx1-ubyte.gz",
        5148,
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
      ),
    ),
  ),
  "omniglot": (
    (
      Original(
        _OMNIGLOT + "images_background.zip",
        9464212,
        "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
      ),
      Original(
        _OMNIGLOT + "images_evaluation.zip",
        6462886,
        "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee",
      ),
      Original(
        _OMNIGLOT + "images_background_small1.zip",
        1319022,
        "f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4",
      ),
      Original(
        _OMNIGLOT + "images_background_small2.zip",
        1580917,
        "3ccaa407515a8778e5d0861875af38b17e418f301ad5bb3b5a6b65d901a41c7f",
      ),
    ),
    (
      Original(
        "omniglot_105.npz",
        4339383,
        "220e109c55a86e4870b21c94313d3fcff944e21221f69760225377c06986ea3c",
      ),
    ),
  ),
  "cifar10": (
    (
      Original(
        _CIFAR + "cifar-10-binary.tar.gz",
        170052171,
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
      ),
    ),
  ),
  "cifar10_small": (
    (
      Original(
        "cifar10_jpeg_10000_2000.zip",
        12440855,
        "785b18a4e40681c6d7b5d72ce4479f3f0391501f08256d2c38d6655777f255b3",
      ),
    ),
  ),
}


def folders(name: str, data_dir: pathlib.Path) -> list[pathlib.Path]:
  """Return folders to search for files of a data set, most likely first."""
  own = [name, "cifar10"] if name == "cifar10_small" else [name]
  return [*(data_dir / each for each in own), data_dir]


def find(
  name: str, data_dir: pathlib.Path
) -> tuple[pathlib.Path, tuple[Original, ...]] | None:
  """Find the originals of a data set.

  Args:
    name: a key of `FORMS`.
    data_dir: folder that holds them, or has a subfolder of them named after the
      data set.

  Returns:
    The folder and the form found in it, or None.
  """
  for folder in folders(name, data_dir):
    for form in FORMS[name]:
      if all((folder / file.filename).is_file() for file in form):
        return folder, form
  return None


def sha256(file: pathlib.Path) -> str:
  """Return the SHA-256 of a file's content, hexadecimal."""
  with open(file, "rb") as stream:
    return hashlib.file_digest(stream, "sha256").hexdigest()


def verify(folder: pathlib.Path, form: Iterable[Original]) -> None:
  """Verify files against their known sizes and checksums.

  Raises:
    DataError: a file differs; the message names the first one.
  """
  for expected in form:
    file = folder / expected.filename
    size = file.stat().st_size
    found = sha256(file)
    if (size, found) != expected[1:]:
      raise DataError(
        f"{file} is incomplete, damaged or a different file: it has {size} "
        f"bytes and SHA-256 {found}, expected are {expected.size} and "
        f"{expected.sha256} ({expected.url})."
      )
