"""`load`, end to end from tiny originals, and every way it can fail."""

import functools
import http.server
import importlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
from typing import ClassVar

import numpy as np
import pytest

import lilly
from lilly.data import array_cache, datasets, formats, originals, preparation

tfds = pytest.importorskip("tensorflow_datasets")


@pytest.fixture(name="mnist")
def _mnist(home, maker, monkeypatch):
  """Tiny originals in `home/originals/mnist` that pass for the real ones."""
  folder = home / "originals" / "mnist"
  arrays = maker.mnist(folder)
  monkeypatch.setitem(originals.FORMS, "mnist", (maker.form(folder),))
  return arrays


@pytest.fixture(name="no_preparation")
def _no_preparation(monkeypatch):
  """Call it, and from then on preparing or reading is an error."""

  def forbid():
    for function in ("prepare", "read"):
      monkeypatch.setattr(preparation, function, _forbidden)

  return forbid


def _forbidden(*args, **kwargs):
  raise AssertionError("called again")


def _left(home):
  return sorted(
    file.name
    for folder in ("cache", "temporary")
    for file in (home / folder).rglob("*")
    if file.is_file()
  )


def _check(loaded, images, labels, index):
  """Compare with the originals in any order; `index(image)` is its row."""
  rows = [index(image) for image in loaded.images]
  assert sorted(rows) == list(range(len(images)))
  assert loaded.images.dtype == np.uint8
  assert loaded.labels.dtype == np.int32
  np.testing.assert_array_equal(loaded.images, images[rows])
  np.testing.assert_array_equal(loaded.labels, labels[rows])


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_mnist_through_tfds_and_back(home, maker, monkeypatch, name):
  arrays = maker.mnist(home / "originals" / name)
  form = maker.form(home / "originals" / name)
  monkeypatch.setitem(originals.FORMS, name, (form,))
  monkeypatch.setattr(preparation, "_CHUNK", 4)  # 30 and 7 images: a rest.
  for split, (images, labels) in arrays.items():
    loaded = datasets.load(name, split, home / "originals")
    assert isinstance(loaded, datasets.Images)
    _check(loaded, images, labels, lambda image: image[0, 0])
  assert _left(home) == ["test.npz", "train.npz"]


def test_cifar10_through_tfds_and_back(home, maker, monkeypatch):
  arrays = maker.cifar10(home / "originals")
  form = maker.form(home / "originals")
  monkeypatch.setitem(originals.FORMS, "cifar10", (form,))
  for split, (images, labels) in arrays.items():
    loaded = datasets.load("cifar10", split, home / "originals")
    first = images[0, 0, 0, 0]
    _check(loaded, images, labels, lambda image, f=first: image[0, 0, 0] - f)


def test_cifar10_small_through_tfds_and_back(home, maker, monkeypatch):
  maker.cifar10_small(home / "originals" / "cifar10")
  form = maker.form(home / "originals" / "cifar10")
  monkeypatch.setitem(originals.FORMS, "cifar10_small", (form,))
  for split, n in (("train", 2), ("test", 1)):
    loaded = datasets.load("cifar10_small", split, home / "originals")
    assert loaded.images.shape == (10 * n, 32, 32, 3)
    assert np.bincount(loaded.labels).tolist() == [n] * 10
    level = loaded.images.mean((1, 2, 3))
    np.testing.assert_allclose(level, 20 * loaded.labels, atol=1)
  with pytest.raises(FileNotFoundError, match="use the name 'cifar10_small'"):
    datasets.load("cifar10", "train", home / "originals")


@pytest.mark.parametrize("kind", ["zips", "bits"])
def test_omniglot_through_tfds_and_back(home, maker, monkeypatch, kind):
  module = importlib.import_module(
    "tensorflow_datasets.image_classification.omniglot"
  )
  monkeypatch.setattr(module, "_NUM_CLASSES", 4)
  monkeypatch.setattr(module, "_NUM_ALPHABETS", 3)
  getattr(maker, f"omniglot_{kind}")(home / "originals")
  form = maker.form(home / "originals")
  other = (originals.Original("absent.zip", 1, ""),)
  monkeypatch.setitem(originals.FORMS, "omniglot", (other, form))
  paper = 255 * (1 - maker.omniglot_ink())
  parts = {"train": [0, 1, 2], "test": [3], "small1": [0, 1], "small2": [2]}
  for split, characters in parts.items():
    loaded = datasets.load("omniglot", split, home / "originals")
    assert isinstance(loaded, datasets.Omniglot)
    assert loaded.images.shape == (3 * len(characters), 105, 105)
    assert [array.dtype for array in loaded] == [np.uint8] + [np.int32] * 3
    np.testing.assert_array_equal(loaded.labels, np.repeat(characters, 3))
    where = np.array(maker.OMNIGLOT_CHARACTERS)[loaded.labels].T
    np.testing.assert_array_equal(loaded.alphabets, where[0])
    np.testing.assert_array_equal(loaded.alphabet_char_ids, where[1])
    drawings = loaded.images.reshape(-1, 3, 105, 105)
    for c, drawn in zip(characters, drawings, strict=True):
      assert {d.tobytes() for d in drawn} == {d.tobytes() for d in paper[c]}


def test_second_load_is_equal_and_builds_nothing(home, mnist, no_preparation):
  folder = home / "originals"
  first = datasets.load("mnist", "train", folder)
  no_preparation()
  for data_dir in (folder, str(folder), folder / "mnist"):
    again = datasets.load("mnist", "train", data_dir)
    np.testing.assert_array_equal(first.images, again.images)
    np.testing.assert_array_equal(first.labels, again.labels)
  # The sums are those of the download, so it is not needed either.
  datasets.load("mnist", "test")


def test_two_folders_do_not_mix(home, mnist, maker, monkeypatch):
  other = maker.mnist(home / "other", seed=1)
  datasets.load("mnist", "train", home / "originals")
  monkeypatch.setitem(originals.FORMS, "mnist", (maker.form(home / "other"),))
  loaded = datasets.load("mnist", "train", home / "other")
  _check(loaded, *other["train"], lambda image: image[0, 0])


def test_the_folder_named_after_the_set_comes_first(
  home, mnist, maker, monkeypatch
):
  # The two sets' files have the same names.
  folder = home / "originals" / "mnist"
  fashion = maker.mnist(folder / "fashion_mnist", seed=1)
  form = maker.form(folder / "fashion_mnist")
  monkeypatch.setitem(originals.FORMS, "fashion_mnist", (form,))
  for name, arrays in (("mnist", mnist), ("fashion_mnist", fashion)):
    loaded = datasets.load(name, "test", folder)
    _check(loaded, *arrays["test"], lambda image: image[0, 0])


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_original_is_named(home, mnist, damage):
  folder = home / "originals"
  file = folder / "mnist" / "t10k-labels-idx1-ubyte.gz"
  content = file.read_bytes()
  datasets.load("mnist", "train", folder)
  if damage == "cut":
    file.write_bytes(content[:-1])
  else:
    file.write_bytes(content[:20] + bytes([content[20] ^ 1]) + content[21:])
  shutil.rmtree(home / "cache")
  with pytest.raises(datasets.DataError) as error:
    datasets.load("mnist", "train", folder)
  expected = originals.FORMS["mnist"][0][1]
  for part in (
    str(file),
    f"{file.stat().st_size} bytes",
    originals.sha256(file),
    f"expected are {expected.size} and {expected.sha256}",
  ):
    assert part in str(error.value)
  assert not _left(home)
  file.write_bytes(content)
  datasets.load("mnist", "train", folder)


def test_a_damaged_cache_is_made_anew(home, mnist, caplog):
  folder = home / "originals"
  first = datasets.load("mnist", "train", folder)
  (file,) = (home / "cache").rglob("train.npz")
  file.write_bytes(file.read_bytes()[:-30])
  again = datasets.load("mnist", "train", folder)
  np.testing.assert_array_equal(first.images, again.images)
  assert "cannot be read and will be rebuilt" in caplog.text
  assert array_cache.read(file, datasets.Images, 1 << 20) is not None


def test_an_unwritable_cache_costs_only_time(home, mnist, monkeypatch):
  (home / "file").touch()
  monkeypatch.setenv("LILLY_CACHE", str(home / "file" / "cache"))
  for _ in range(2):
    loaded = datasets.load("mnist", "test", home / "originals")
    _check(loaded, *mnist["test"], lambda image: image[0, 0])
  assert not _left(home)


def test_an_exception_while_preparing_leaves_nothing(home, mnist, monkeypatch):
  reader = formats.READERS["mnist"]

  def interrupted(examples):
    yield next(examples)
    raise KeyboardInterrupt

  def reading(paths):
    examples = reader(paths)
    examples.splits["test"] = interrupted(examples.splits["test"])
    return examples

  with monkeypatch.context() as patch:
    patch.setitem(formats.READERS, "mnist", reading)
    with pytest.raises(KeyboardInterrupt):
      datasets.load("mnist", "train", home / "originals")
  assert not _left(home)
  loaded = datasets.load("mnist", "train", home / "originals")
  _check(loaded, *mnist["train"], lambda image: image[0, 0])


# A process which prepares the tiny data set, perhaps killed on its way.
_CHILD = """
import os, signal, sys
import numpy as np
from lilly.data import array_cache, datasets, formats, originals
folder, when = sys.argv[1:]
originals.FORMS['mnist'] = (tuple(
  originals.Original(f, os.path.getsize(f'{folder}/{f}'),
                     originals.sha256(f'{folder}/{f}'))
  for f in sorted(os.listdir(folder))),)
def kill(*args, **kwargs):
  os.kill(os.getpid(), signal.SIGKILL)
if when == 'preparing':
  reader = formats.READERS['mnist']
  def examples(paths):
    read = reader(paths)
    read.splits['test'] = (kill() for _ in range(1))
    return read
  formats.READERS['mnist'] = examples
if when == 'writing':
  def half(stream, **arrays):
    stream.write(b'half')
    stream.flush()
    kill()
  np.savez_compressed = half
print(datasets.load('mnist', 'train', folder).images.shape)
"""


def _start(folder, when):
  path = str(pathlib.Path(lilly.__file__).parents[1])
  environment = {**os.environ, "PYTHONPATH": path, "TMPDIR": str(folder)}
  return subprocess.Popen(
    [sys.executable, "-c", _CHILD, str(folder / "originals" / "mnist"), when],
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )


@pytest.mark.parametrize(
  "names",
  [
    ("writing", "to the end", "also to the end"),
    pytest.param(("preparing", "to the end"), marks=pytest.mark.slow),
  ],
)
def test_killed_or_at_the_same_time(home, mnist, names):
  # All at once on one cache: the first dies on its way, the others finish.
  children = {name: _start(home, name) for name in names}
  for name, child in children.items():
    out, err = child.communicate(timeout=120)
    if "end" in name:
      assert out == b"(30, 28, 28)\n", err
    else:
      assert child.returncode == -signal.SIGKILL, err
  files = _left(home)
  assert [f for f in files if not f.endswith(".tmp")] == [
    "test.npz",
    "train.npz",
  ]
  loaded = datasets.load("mnist", "train", home / "originals")
  _check(loaded, *mnist["train"], lambda image: image[0, 0])


def _prepare_by_recipe(data_dir, arrays):
  """Prepare as any user of tensorflow-datasets might."""
  from PIL import Image

  class Mnist(tfds.image_classification.MNIST):
    name = "mnist"
    pkg_dir_path = None

    def _split_generators(self, manager):
      return {
        split: self._generate_examples(*arrays[split]) for split in arrays
      }

    def _generate_examples(self, images, labels):
      for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        yield i, {"image": Image.fromarray(image), "label": int(label)}

  builder = Mnist(data_dir=data_dir, file_format="array_record")
  builder.download_and_prepare(
    download_config=tfds.download.DownloadConfig(try_download_gcs=False)
  )
  return data_dir / "mnist" / "3.0.1"


@pytest.fixture(name="prepared")
def _prepared(home, maker):
  arrays = maker.mnist(home / "elsewhere")
  with tfds.core.registered.skip_registration():
    return arrays, _prepare_by_recipe(home / "prepared", arrays)


def test_a_prepared_directory(home, prepared, maker, monkeypatch):
  arrays, version = prepared
  newest = version.rename(version.parent / "10.0.0")
  for other in ("9.0.0", "incomplete.AB_11.0.0"):
    shutil.copytree(newest, version.parent / other)
    for file in (version.parent / other).glob("*array_record*"):
      file.write_bytes(b"")
  for data_dir in (home / "prepared", version.parent, newest):
    loaded = datasets.load("mnist", "test", data_dir)
    _check(loaded, *arrays["test"], lambda image: image[0, 0])
  assert _left(home) == ["test.npz"]
  # The order is the same as from the originals.
  form = maker.form(home / "elsewhere")
  monkeypatch.setitem(originals.FORMS, "mnist", (form,))
  other = datasets.load("mnist", "test", home / "elsewhere")
  np.testing.assert_array_equal(other.images, loaded.images)


def test_two_prepared_directories_do_not_mix(home, prepared, maker):
  arrays, _ = prepared
  others = maker.mnist(home / "another", seed=1)
  with tfds.core.registered.skip_registration():
    _prepare_by_recipe(home / "prepared2", others)
  for folder, expected in (("prepared", arrays), ("prepared2", others)):
    loaded = datasets.load("mnist", "test", home / folder)
    _check(loaded, *expected["test"], lambda image: image[0, 0])


def test_damaged_or_foreign_prepared_directories(home, prepared):
  _, version = prepared
  file = next(version.glob("*test*array_record*"))
  content = file.read_bytes()
  info = version / "dataset_info.json"
  facts = json.loads(info.read_text())
  load = functools.partial(datasets.load, "mnist", "test", home / "prepared")
  at = len(content) // 2
  flipped = content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]
  for damaged in (content[:-9], content[: len(content) // 3], flipped, b""):
    file.write_bytes(damaged)
    with pytest.raises(datasets.DataError, match="prepare the data set again"):
      load()
  file.write_bytes(content)
  info.write_text(json.dumps({**facts, "splits": facts["splits"][1:]}))
  with pytest.raises(datasets.DataError, match=r"no split|cannot be read"):
    datasets.load("mnist", facts["splits"][0]["name"], home / "prepared")
  info.write_text(json.dumps({**facts, "fileFormat": "tfrecord"}))
  with pytest.raises(datasets.DataError, match='file_format="array_record"'):
    load()
  info.write_text("{")
  with pytest.raises(
    datasets.DataError, match=r"dataset_info\.json is damaged"
  ):
    load()
  info.write_text(json.dumps({**facts, "name": "kmnist"}))
  with pytest.raises(FileNotFoundError, match="no prepared"):
    load()
  assert not _left(home)


def test_unknown_names_list_the_known(home):
  with pytest.raises(ValueError, match=r"'mnits' .*digits, mnist, fashion"):
    datasets.load("mnits", "train")
  with pytest.raises(ValueError, match=r"'dev' .*train, test, small1, small2"):
    datasets.load("omniglot", "dev")


def test_missing_folders_and_files_are_named(home, mnist):
  with pytest.raises(FileNotFoundError, match="nowhere' is not a folder"):
    datasets.load("mnist", "train", home / "nowhere")
  gone = "train-labels-idx1-ubyte.gz"
  (home / "originals" / "mnist" / gone).unlink()
  for data_dir in (home / "originals", home / "originals" / "mnist"):
    with pytest.raises(FileNotFoundError, match=f"lacks {gone} "):
      datasets.load("mnist", "train", data_dir)
  with pytest.raises(FileNotFoundError, match=r"cifar10_jpeg_10000_2000\.zip"):
    datasets.load("cifar10_small", "train")
  assert not _left(home)


def test_nothing_reaches_for_the_network(home, mnist, monkeypatch):
  def offline(*args, **kwargs):
    raise socket.gaierror("offline")

  monkeypatch.setattr(socket, "getaddrinfo", offline)
  monkeypatch.setattr(socket.socket, "connect", offline)
  datasets.load("mnist", "train", home / "originals")
  with pytest.raises(datasets.DataError) as error:
    datasets.load("fashion_mnist", "train")
  assert "give data_dir, a folder that holds train-images-" in str(error.value)


class _Quiet(http.server.SimpleHTTPRequestHandler):
  asked: ClassVar[list[str]] = []

  def log_message(self, *args):
    self.asked.append(self.path)


@pytest.fixture(name="site")
def _site(home, monkeypatch):
  """A web server for the folder `home/site`."""
  monkeypatch.setenv("NO_PROXY", "127.0.0.1")
  monkeypatch.setenv("no_proxy", "127.0.0.1")
  _Quiet.asked.clear()
  handler = functools.partial(_Quiet, directory=str(home / "site"))
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()


def test_download(home, maker, site, monkeypatch):
  arrays = maker.mnist(home / "site")
  form = maker.form(home / "site", site)
  monkeypatch.setitem(originals.FORMS, "mnist", (form,))
  file = home / "site" / "t10k-labels-idx1-ubyte.gz"
  content = file.read_bytes()
  for damaged in (content[:-1] + b"?", None):
    file.unlink() if damaged is None else file.write_bytes(damaged)
    with pytest.raises(datasets.DataError, match="cannot be downloaded from"):
      datasets.load("mnist", "train")
    assert not _left(home)
  # One after another: none was still running when the failed one was cleared.
  assert not any("train" in path for path in _Quiet.asked)
  file.write_bytes(content)
  loaded = datasets.load("mnist", "train")
  _check(loaded, *arrays["train"], lambda image: image[0, 0])


@pytest.mark.parametrize(
  "package", ["tensorflow_datasets", "PIL", "importlib_resources"]
)
def test_a_missing_package_names_what_to_install(
  home, mnist, monkeypatch, package
):
  monkeypatch.setitem(sys.modules, package, None)
  with pytest.raises(
    datasets.DataError, match=rf"{package}: pip install tensorflow-datasets "
  ):
    datasets.load("mnist", "train", home / "originals")


def test_known_sums_are_those_registered_in_tfds():
  registered = tfds.download.checksums.get_all_url_infos()
  for name in ("mnist", "fashion_mnist", "omniglot", "cifar10"):
    for file in originals.FORMS[name][0]:
      info = registered[file.url]
      assert (info.filename, int(info.size), info.checksum) == (
        file.filename,
        file.size,
        file.sha256,
      )


def test_digits(home, maker):
  train, test = (datasets.load("digits", s) for s in ("train", "test"))
  labels = np.concatenate([train.labels, test.labels])
  images = np.concatenate([train.images, test.images])
  counts = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
  assert np.bincount(labels).tolist() == counts
  assert train.images.shape == (1437, 8, 8) and test.labels.shape == (360,)
  assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
  assert images.min() == 0 and images.max() == 255
  # Exactly scikit-learn's images, each once.
  pixels = pytest.importorskip("sklearn.datasets").load_digits().data
  scaled = np.round(images.reshape(-1, 64) / 255 * 16)
  np.testing.assert_array_equal(
    scaled[np.lexsort(scaled.T)], pixels[np.lexsort(pixels.T)]
  )
  # The split is part of the results: it must never change.
  assert maker.digest(train.labels)[:16] == "aa78bab817165183"
  means = np.stack([train.images[train.labels == c].mean(0) for c in range(10)])
  distance = ((test.images[:, None] - means[None]) ** 2).sum((2, 3))
  accuracy = (distance.argmin(1) == test.labels).mean()
  assert accuracy > 0.85


def test_digits_without_scikit_learn(monkeypatch):
  monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
  with pytest.raises(
    datasets.DataError, match=r"sklearn.*: pip install scikit-learn"
  ):
    datasets.load("digits", "train")


def test_import_brings_no_heavy_package():
  path = str(pathlib.Path(lilly.__file__).parents[1])
  code = (
    "import sys; import lilly.data.datasets; print({'jax', 'PIL', 'sklearn',"
    "'tensorflow_datasets', 'absl', 'requests'} & set(sys.modules))"
  )
  out = subprocess.check_output(
    [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}
  )
  assert out == b"set()\n"
