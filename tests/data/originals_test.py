"""The real originals: check numbers of the data sets."""

import numpy as np
import pytest

from lilly.data import datasets


@pytest.mark.slow
def test_mnist(home, real):
  train = datasets.load("mnist", "train", real)
  test = datasets.load("mnist", "test", real / "mnist")
  assert train.images.shape == (60000, 28, 28)
  assert test.images.shape == (10000, 28, 28)
  pixels = train.images / 255
  assert round(float(pixels.mean()), 5) == 0.13066
  assert round(float(pixels.std()), 5) == 0.30811
  # Classification by the nearest class mean.
  flat, queries = pixels.reshape(-1, 784), test.images.reshape(-1, 784) / 255
  means = np.stack([flat[train.labels == c].mean(0) for c in range(10)])
  score = queries @ means.T - (means**2).sum(1)[None] / 2
  assert (score.argmax(1) == test.labels).mean() == 0.8203


@pytest.mark.slow
def test_omniglot(home, real):
  with np.load(real / "omniglot" / "omniglot_105.npz") as file:
    rows = dict(file)
  chosen = {
    "train": rows["split"] == 0,
    "test": rows["split"] == 1,
    "small1": rows["small1"],
    "small2": rows["small2"],
  }
  for split, n in zip(chosen, (19280, 13180, 2720, 3120), strict=True):
    loaded = datasets.load("omniglot", split, real)
    assert loaded.images.shape == (n, 105, 105)
    index = np.flatnonzero(chosen[split])
    for field, column in (
      ("labels", "character"),
      ("alphabets", "alphabet"),
      ("alphabet_char_ids", "alphabet_char_id"),
    ):
      np.testing.assert_array_equal(getattr(loaded, field), rows[column][index])
    # Every 40th character: the same 20 drawings, in any order.
    for start in range(0, n, 800):
      ink = np.unpackbits(rows["images"][index[start : start + 20]], axis=2)
      paper = 255 * (1 - ink[:, :, :105])
      drawn = loaded.images[start : start + 20]
      assert {d.tobytes() for d in drawn} == {p.tobytes() for p in paper}


@pytest.mark.slow
def test_cifar10_small(home, real):
  for split, n in (("train", 1000), ("test", 200)):
    loaded = datasets.load("cifar10_small", split, real)
    assert loaded.images.shape == (10 * n, 32, 32, 3)
    assert np.bincount(loaded.labels).tolist() == [n] * 10
  with pytest.raises(FileNotFoundError, match="cifar10_small"):
    datasets.load("cifar10", "train", real)
