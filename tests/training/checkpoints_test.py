"""Tests of lilly.training.checkpoints."""

import errno
import json
import os
import pathlib
import shutil
import tracemalloc

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lilly.training import checkpoints, experiment


def make_state(seed=0):
  key = jax.random.key(seed)
  params = {"a/b": jax.random.normal(jax.random.clone(key), (64, 33))}
  return {
    "params": params,
    "optimiser": optax.adam(1e-3).init(params),
    "key": key,
    "half": jnp.arange(7, dtype=jnp.bfloat16),
    "bytes": jnp.arange(300, dtype=jnp.uint8),
    "flags": jnp.array([True, False]),
    "empty": jnp.zeros((3, 0)),
    "scalar": jnp.float32(3.5),
    "none": None,
  }


@pytest.fixture
def saved(tmp_path):
  """A store with one checkpoint, at update 7, of make_state()."""
  store = checkpoints.Store(tmp_path / "checkpoints")
  store.save(7, make_state(), {"seconds": 1.5})
  store.wait()
  return store, tmp_path / "checkpoints" / "7"


def test_restores_every_type_bit_for_bit(saved):
  store, _ = saved
  state, record = store.restore(7, make_state(seed=1))
  assert record == {"seconds": 1.5}
  expected = make_state()
  assert jax.random.key_data(state["key"]).tolist() == (
    jax.random.key_data(expected["key"]).tolist()
  )
  del state["key"], expected["key"]
  chex.assert_trees_all_equal(state, expected)
  chex.assert_trees_all_equal_dtypes(state, expected)


def test_restored_state_can_be_donated(saved):
  store, _ = saved
  state, _ = store.restore(7, make_state())
  leaf = state["params"]["a/b"]
  jax.jit(lambda x: x + 1, donate_argnums=0)(leaf)
  assert leaf.is_deleted()


def test_keeps_placement_on_two_devices(tmp_path):
  mesh = jax.make_mesh(
    (2,), ("runs",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  spread = jax.sharding.NamedSharding(mesh, jax.P("runs"))
  keys = jax.device_put(jax.random.split(jax.random.key(0), 4), spread)
  state = {"x": jax.device_put(jnp.arange(4.0), spread), "keys": keys}
  store = checkpoints.Store(tmp_path)
  store.save(1, state, {})
  store.wait()
  restored, _ = store.restore(1, state)
  assert restored["x"].sharding == spread
  assert restored["keys"].sharding.is_equivalent_to(spread, 1)
  chex.assert_trees_all_equal(restored["x"], state["x"])


def test_keeps_the_newest_two(tmp_path):
  store = checkpoints.Store(tmp_path)
  for update in (9, 10, 11):
    store.save(update, {"x": jnp.float32(update)}, {})
  store.wait()
  assert sorted(p.name for p in tmp_path.iterdir()) == ["10", "11"]
  assert store.newest() == 11
  state, _ = store.restore(10, {"x": jnp.float32(0)})
  assert state["x"] == 10


def truncate(path):
  os.truncate(path, path.stat().st_size // 2)


def empty(path):
  os.truncate(path, 0)


def flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def link(path):
  """A link to the very same bytes: refused for being a link."""
  shutil.copy(path, path.parent.parent.parent / "elsewhere")
  path.unlink()
  path.symlink_to(path.parent.parent.parent / "elsewhere")


@pytest.mark.parametrize(
  "damage", [truncate, empty, flip, pathlib.Path.unlink, link]
)
def test_every_damaged_file_is_refused(saved, tmp_path, damage):
  store, directory = saved
  files = [
    path.relative_to(directory)
    for path in directory.rglob("*")
    if path.is_file() and path.stat().st_size
  ]
  assert len(files) == 2
  backup = tmp_path / "backup"
  shutil.copytree(directory, backup)
  for file in files:
    damage(directory / file)
    with pytest.raises(experiment.RunError) as refused:
      store.restore(7, make_state())
    message = str(refused.value)
    assert str(directory) in message and "\n" not in message, file
    shutil.rmtree(directory)
    shutil.copytree(backup, directory)
  store.restore(7, make_state())


@pytest.mark.parametrize(
  "count", [100, pytest.param(1000, marks=pytest.mark.slow)]
)
def test_a_flip_of_any_bit_is_refused(saved, count):
  store, directory = saved
  rng = np.random.default_rng(0)
  files = [p for p in sorted(directory.rglob("*")) if p.is_file()]
  for _ in range(count):
    path = files[rng.integers(len(files))]
    content = path.read_bytes()
    if not content:
      continue
    wrong = bytearray(content)
    wrong[rng.integers(len(wrong))] ^= 1 << rng.integers(8)
    path.write_bytes(wrong)
    with pytest.raises(experiment.RunError):
      store.read(7)
    path.write_bytes(content)


def test_foreign_files_are_refused(saved):
  store, directory = saved
  (directory / "extra").write_text("x")
  with pytest.raises(experiment.RunError, match="foreign file"):
    store.restore(7, make_state())


def test_a_linked_directory_is_refused(saved, tmp_path):
  store, directory = saved
  shutil.move(directory, tmp_path / "moved")
  directory.symlink_to(tmp_path / "moved")
  with pytest.raises(experiment.RunError, match="is not a checkpoint"):
    store.clean()
  with pytest.raises(experiment.RunError, match="link"):
    store.read(7)


def test_a_consistent_forgery_of_array_data_is_refused(saved):
  """Arrays of another checkpoint, the file's hash made to fit."""
  store, directory = saved
  other = checkpoints.Store(directory.parent.parent / "other")
  state = make_state()
  state["scalar"] = jnp.float32(4.5)
  other.save(7, state, {})
  other.wait()
  forged = directory.parent.parent / "other" / "7"
  manifest = checkpoints._read_manifest(directory, 7)
  manifest["arrays"] = checkpoints._read_manifest(forged, 7)["arrays"]
  shutil.copy(forged / "arrays.npz", directory / "arrays.npz")
  (directory / "manifest.json").unlink()
  checkpoints._write_manifest(directory, manifest)
  with pytest.raises(experiment.RunError, match=r"scalar.*SHA-256"):
    store.read(7)


def rewrite(directory, **changes):
  """Changes a manifest and makes its SHA-256 fit."""
  path = directory / "manifest.json"
  manifest = json.loads(path.read_text().partition("\n")[2])
  path.unlink()
  checkpoints._write_manifest(directory, manifest | changes)


def test_a_renamed_checkpoint_is_refused(saved):
  store, directory = saved
  directory.rename(directory.with_name("9"))
  with pytest.raises(experiment.RunError, match="renamed: it is of update 7"):
    store.restore(9, make_state())


@pytest.mark.parametrize("number", [0, 2, "1", None])
def test_another_format_is_refused_in_one_sentence(saved, number):
  store, directory = saved
  rewrite(directory, format=number)
  with pytest.raises(experiment.RunError, match="of another version") as error:
    store.read(7)
  assert f"has format {number} " in str(error.value)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["format", "update", "leaves", "arrays"])
@pytest.mark.parametrize("value", [None, 3.5, [], [3], {"a": 1}, "x", [{}]])
def test_a_manifest_of_any_other_form_is_refused(saved, name, value):
  store, directory = saved
  rewrite(directory, **{name: value})
  with pytest.raises(experiment.RunError) as error:
    store.restore(7, make_state())
  assert str(directory) in str(error.value) and "\n" not in str(error.value)


def test_what_unpacks_to_more_than_its_leaves_is_not_read(saved, monkeypatch):
  """A compressed file with a member that is longer than the manifest says."""
  store, directory = saved
  manifest = checkpoints._read_manifest(directory, 7)
  with np.load(directory / "arrays.npz") as stored:
    members = dict(stored)
  members["0"] = np.zeros(1 << 25, np.uint8)
  np.savez_compressed(directory / "arrays.npz", **members)
  manifest["arrays"] = checkpoints._hash_file(directory / "arrays.npz")
  rewrite(directory, arrays=manifest["arrays"])
  tracemalloc.start()
  with pytest.raises(experiment.RunError, match="another size"):
    store.restore(7, make_state())
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 1 << 24


def test_leaves_larger_than_the_file_are_not_read(saved):
  store, directory = saved
  rows = checkpoints._read_manifest(directory, 7)["leaves"]
  rewrite(directory, leaves=[rows[0] | {"shape": [1 << 40]}, *rows[1:]])
  with pytest.raises(experiment.RunError, match="not of the leaves' size"):
    store.read(7)


def test_a_state_of_another_size_is_refused_before_it_is_read(
  saved, monkeypatch
):
  store, _ = saved
  monkeypatch.setattr(checkpoints, "_read_arrays", None)
  with pytest.raises(experiment.RunError, match=r"scalar.* was float32\[\]"):
    store.restore(7, make_state() | {"scalar": jnp.zeros(2)})


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"scalar": jnp.zeros(2)}, r"scalar.* was float32\[\]"),
    ({"half": jnp.zeros(7)}, "half.* was bfloat16"),
    ({"more": jnp.zeros(1)}, "more.* is missing from it"),
    ({"params": {}}, "only in the checkpoint"),
  ],
)
def test_a_state_of_another_program_is_refused(saved, change, message):
  store, _ = saved
  with pytest.raises(experiment.RunError, match=message):
    store.restore(7, make_state() | change)


def test_an_unfinished_save_is_removed_and_foreign_files_are_not(tmp_path):
  store = checkpoints.Store(tmp_path)
  (tmp_path / ".partial-3" / "arrays").mkdir(parents=True)
  store.clean()
  assert not list(tmp_path.iterdir())
  (tmp_path / "notes").mkdir()
  with pytest.raises(experiment.RunError, match="notes is not a checkpoint"):
    store.clean()
  assert (tmp_path / "notes").exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_failed_write_leaves_earlier_checkpoints(saved, monkeypatch, code):
  store, directory = saved

  def fail(*args):
    raise OSError(code, os.strerror(code))

  monkeypatch.setattr(checkpoints.os, "fsync", fail)
  store.save(8, make_state(), {})
  with pytest.raises(experiment.RunError, match=os.strerror(code)):
    store.wait()
  assert [p.name for p in directory.parent.iterdir()] == ["7"]
  store.read(7)


def test_a_folder_that_went_away_is_not_made_again(tmp_path):
  store = checkpoints.Store(tmp_path / "run" / "checkpoints")
  store.save(8, {"x": jnp.zeros(1)}, {})
  with pytest.raises(experiment.RunError, match="No such file"):
    store.wait()
  assert not (tmp_path / "run").exists()


def test_nbytes_counts_what_is_stored():
  state = {"x": jnp.zeros((3, 5)), "key": jax.random.key(0)}
  assert checkpoints.nbytes(state) == 3 * 5 * 4 + 8
