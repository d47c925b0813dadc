"""Readers of the published formats, without tensorflow-datasets."""

import io

import numpy as np
import pytest
from PIL import Image

from lilly.data import formats, preparation


def _read(name, folder):
  paths = {file.name: file for file in folder.iterdir()}
  return formats.READERS[name](paths)


def _pixels(image):
  if isinstance(image, bytes):
    image = Image.open(io.BytesIO(image))
  return np.asarray(image.convert("L"))


def test_omniglot_zips_and_bits_are_the_same(tmp_path, maker):
  maker.omniglot_zips(tmp_path / "zips")
  maker.omniglot_bits(tmp_path / "bits")
  zips = _read("omniglot", tmp_path / "zips")
  bits = _read("omniglot", tmp_path / "bits")
  assert zips.names == bits.names
  assert list(zips.splits) == list(bits.splits)
  names = zips.names["alphabet"]
  for split, examples in zips.splits.items():
    a, b = dict(examples), dict(bits.splits[split])
    assert a.keys() == b.keys()  # Keys set tensorflow-datasets' order.
    for key in a:
      assert names.index(a[key]["alphabet"]) == b[key]["alphabet"]
      for feature in ("alphabet_char_id", "label"):
        assert a[key][feature] == b[key][feature]
      np.testing.assert_array_equal(
        _pixels(a[key]["image"]), _pixels(b[key]["image"])
      )


def test_omniglot_content(tmp_path, maker):
  maker.omniglot_zips(tmp_path / "zips")
  examples = _read("omniglot", tmp_path / "zips")
  assert examples.names == {
    "alphabet": maker.OMNIGLOT_ALPHABETS,
    "label": ["Zeta_(old)_0", "Zeta_(old)_1", "Aurek_0", "Latin_0"],
  }
  counts = {split: len(list(e)) for split, e in examples.splits.items()}
  assert counts == {"train": 9, "test": 3, "small1": 6, "small2": 3}
  ink = maker.omniglot_ink()
  for key, example in examples.splits["train"]:
    drawer = int(key[-6:-4]) - 1
    expected = 255 * (1 - ink[example["label"], drawer])
    np.testing.assert_array_equal(_pixels(example["image"]), expected)


def test_mnist_counts_must_agree(tmp_path, maker):
  maker.mnist(tmp_path / "a", num_train=3)
  maker.mnist(tmp_path / "b", num_train=4)
  labels = "train-labels-idx1-ubyte.gz"
  (tmp_path / "b" / labels).replace(tmp_path / "a" / labels)
  with pytest.raises(ValueError, match="longer"):
    list(_read("mnist", tmp_path / "a").splits["train"])


def test_cifar10_keeps_the_order_of_the_batches(tmp_path, maker):
  arrays = maker.cifar10(tmp_path / "cifar10")
  examples = _read("cifar10", tmp_path / "cifar10")
  assert examples.names["label"][3] == "cat"
  for split, (images, labels) in arrays.items():
    rows = list(examples.splits[split])
    assert [key for key, _ in rows] == list(range(len(images)))
    assert rows[1][1]["id"] == f"{split}_00001"
    for (_, row), image, label in zip(rows, images, labels, strict=True):
      np.testing.assert_array_equal(np.asarray(row["image"]), image)
      assert row["label"] == label


def test_a_prepared_image_of_any_size_is_not_unpacked():
  content = io.BytesIO()
  Image.new("L", (4000, 28)).save(content, "PNG")
  with pytest.raises(ValueError, match=r"\(4000, 28\) pixels"):
    preparation._stack([{"image": content.getvalue(), "label": 1}], color=False)
