"""Tiny files in the published formats, and a place of their own for tests."""

import gzip
import hashlib
import io
import os
import pathlib
import sys
import tarfile
import tempfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from lilly.data import originals


@pytest.fixture(name="maker", scope="session")
def _maker():
  """The functions below."""
  return sys.modules[__name__]


@pytest.fixture(name="home")
def _home(tmp_path, monkeypatch):
  """An empty cache and an empty folder for temporary files."""
  monkeypatch.setenv("LILLY_CACHE", str(tmp_path / "cache"))
  (tmp_path / "temporary").mkdir()
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
  return tmp_path


@pytest.fixture(name="real", scope="session")
def _real():
  """The folder with real originals, if there is one."""
  beside = pathlib.Path(__file__).parents[2].parent / "shared" / "data"
  folder = pathlib.Path(os.environ.get("LILLY_DATA_DIR", beside))
  if not folder.is_dir():
    pytest.skip("LILLY_DATA_DIR does not name a folder with the originals")
  return folder


def form(folder, base=""):
  """Describe all files of a folder as one form, published under `base`."""
  return tuple(
    originals.Original(
      base + file.name, file.stat().st_size, originals.sha256(file)
    )
    for file in sorted(folder.iterdir())
  )


def mnist(folder, num_train=30, num_test=7, seed=0):
  """Write four idx files; pixel (0, 0) of image i is i. Return the arrays."""
  folder.mkdir(parents=True)
  rng = np.random.RandomState(seed)
  arrays = {}
  for part, n in (("train", num_train), ("t10k", num_test)):
    images = rng.randint(256, size=(n, 28, 28)).astype(np.uint8)
    images[:, 0, 0] = np.arange(n)
    labels = rng.randint(10, size=n).astype(np.uint8)
    _idx(folder / f"{part}-images-idx3-ubyte.gz", 2051, images)
    _idx(folder / f"{part}-labels-idx1-ubyte.gz", 2049, labels)
    arrays[part.replace("t10k", "test")] = images, labels
  return arrays


def _idx(file, magic, array):
  header = np.array([magic, *array.shape], ">i4").tobytes()
  file.write_bytes(gzip.compress(header + array.tobytes(), mtime=0))


def cifar10(folder, seed=0):
  """Write the binary tarball, 4 images a batch. Return the arrays."""
  folder.mkdir(parents=True)
  rng = np.random.RandomState(seed)
  images = rng.randint(256, size=(24, 32, 32, 3)).astype(np.uint8)
  images[:, 0, 0, 0] = np.arange(24)
  labels = rng.randint(10, size=24).astype(np.uint8)
  names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
  with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as archive:
    for k in reversed(range(6)):  # The order in the archive is not promised.
      content = b"".join(
        bytes([labels[i]]) + images[i].transpose(2, 0, 1).tobytes()
        for i in range(4 * k, 4 * k + 4)
      )
      entry = tarfile.TarInfo(f"cifar-10-batches-bin/{names[k]}")
      entry.size = len(content)
      archive.addfile(entry, io.BytesIO(content))
  return {
    "train": (images[:20], labels[:20]),
    "test": (images[20:], labels[20:]),
  }


def cifar10_small(folder):
  """Write the zip of JPEG images: plain colors, class c has level 20 c."""
  folder.mkdir(parents=True)
  classes = "airplane automobile bird cat deer dog frog horse ship truck"
  with zipfile.ZipFile(folder / "cifar10_jpeg_10000_2000.zip", "w") as archive:
    for split, n in (("train", 2), ("test", 1)):
      for c, name in enumerate(classes.split()):
        for i in range(n):
          content = io.BytesIO()
          Image.new("RGB", (32, 32), (20 * c,) * 3).save(content, "JPEG")
          archive.writestr(f"{split}/{name}/{i:04d}.jpg", content.getvalue())


# Two background alphabets (2 + 1 characters), one for evaluation (1 character);
# names whose order differs from the order of the characters.
OMNIGLOT_ALPHABETS = ["Aurek", "Latin", "Zeta_(old)"]
OMNIGLOT_CHARACTERS = [(2, 0), (2, 1), (0, 0), (1, 0)]  # alphabet, its number
OMNIGLOT_SPLITS = {
  "images_background": [0, 1, 2],
  "images_evaluation": [3],
  "images_background_small1": [0, 1],
  "images_background_small2": [2],
}


def omniglot_ink(seed=0):
  """Return ink [4 characters, 3 drawers, 105, 105] in {0, 1}."""
  rng = np.random.RandomState(seed)
  return rng.randint(2, size=(4, 3, 105, 105)).astype(np.uint8)


def omniglot_zips(folder):
  """Write the four zips of 1-bit images."""
  folder.mkdir(parents=True)
  ink = omniglot_ink()
  for part, characters in OMNIGLOT_SPLITS.items():
    with zipfile.ZipFile(folder / f"{part}.zip", "w") as archive:
      archive.writestr(f"{part}/", "")
      for c in characters:
        alphabet, number = OMNIGLOT_CHARACTERS[c]
        path = (
          f"{part}/{OMNIGLOT_ALPHABETS[alphabet]}/character{number + 1:02d}"
        )
        for d in range(3):
          content = io.BytesIO()
          Image.fromarray(ink[c, d] == 0).save(content, "PNG")
          file = f"{path}/{c + 1:04d}_{d + 1:02d}.png"
          archive.writestr(file, content.getvalue())


def omniglot_bits(folder):
  """Write the npz with one row per image."""
  folder.mkdir(parents=True)
  character = np.repeat(np.arange(4), 3)
  alphabets, numbers = np.array(OMNIGLOT_CHARACTERS).T
  names = np.array(OMNIGLOT_ALPHABETS)
  np.savez(
    folder / "omniglot_105.npz",
    images=np.packbits(omniglot_ink().reshape(12, 105, 105), axis=2),
    character=character.astype(np.int16),
    alphabet=alphabets[character].astype(np.int16),
    alphabet_char_id=numbers[character].astype(np.int16),
    drawer=np.tile(np.arange(3), 4).astype(np.uint8),
    split=(character == 3).astype(np.uint8),
    small1=np.isin(character, [0, 1]),
    small2=character == 2,
    alphabet_names=names,
    label_names=np.array([f"{names[a]}_{n}" for a, n in OMNIGLOT_CHARACTERS]),
  )


def digest(*arrays):
  """Return the SHA-256 of arrays' bytes."""
  return hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()
