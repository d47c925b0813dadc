"""The cache: whole or absent, never wrong."""

import errno
import os
import pathlib
import time
import tracemalloc
from typing import NamedTuple

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis.extra import numpy as arrays

from lilly.data import array_cache


class Pair(NamedTuple):
  a: np.ndarray
  b: np.ndarray


def _pair():
  rng = np.random.RandomState(0)
  return Pair(
    rng.randint(256, size=(2, 3, 3)).astype(np.uint8),
    rng.randint(9, size=2).astype(np.int32),
  )


def _same(x, y):
  return all(
    p.dtype == q.dtype and np.array_equal(p, q)
    for p, q in zip(x, y, strict=True)
  )


@hypothesis.given(
  a=arrays.arrays(np.uint8, arrays.array_shapes(min_dims=0, min_side=0)),
  n=st.integers(0, 3),
)
@hypothesis.settings(deadline=None, max_examples=30)
def test_what_is_written_is_read(tmp_path_factory, a, n):
  file = tmp_path_factory.mktemp("cache") / "x.npz"
  record = Pair(a, np.arange(n, dtype=np.int32))
  assert array_cache.write(file, record)
  read = array_cache.read(file, Pair, 1 << 20)
  assert isinstance(read, Pair)
  assert _same(read, record)
  assert read.a.flags.writeable
  assert os.listdir(file.parent) == ["x.npz"]


def test_absent_is_nothing_and_no_warning(tmp_path, caplog):
  assert array_cache.read(tmp_path / "x.npz", Pair, 1 << 20) is None
  assert not caplog.records


def test_cuts_are_detected(tmp_path):
  file = tmp_path / "x.npz"
  array_cache.write(file, _pair())
  content = file.read_bytes()
  for length in range(0, len(content), 3):
    file.write_bytes(content[:length])
    assert array_cache.read(file, Pair, 1 << 20) is None, length


def test_a_flip_in_any_byte_is_detected_or_harmless(tmp_path):
  file = tmp_path / "x.npz"
  array_cache.write(file, _pair())
  content = file.read_bytes()
  detected = 0
  for i in range(len(content)):  # Another bit in each byte.
    flipped = bytearray(content)
    flipped[i] ^= 1 << (i % 8)
    file.write_bytes(flipped)
    read = array_cache.read(file, Pair, 1 << 20)
    detected += read is None
    assert read is None or _same(read, _pair()), i
  assert detected > len(content) // 2


def test_a_flip_in_an_uncompressed_header_is_detected(tmp_path):
  # Fewer bytes are then wanted, so the end of the member, where zip compares
  # its sum, is not reached by a reader that stops early.
  file = tmp_path / "x.npz"
  np.savez(file, a=np.zeros(1), b=np.arange(50000, dtype=np.int32))
  content = file.read_bytes()
  assert array_cache.read(file, Pair, 1 << 20) is not None
  assert content.count(b"'<i4'") == 1
  file.write_bytes(content.replace(b"'<i4'", b"'<i2'"))
  assert array_cache.read(file, Pair, 1 << 20) is None


def test_what_unpacks_to_more_is_not_read(tmp_path, caplog):
  file = tmp_path / "x.npz"
  zeros = np.zeros(1 << 25, np.uint8)
  array_cache.write(file, Pair(zeros, zeros[:1]))
  assert file.stat().st_size < 1 << 17
  tracemalloc.start()
  assert array_cache.read(file, Pair, zeros.size - 10_000) is None
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 1 << 20
  assert f"more than {zeros.size - 10_000} bytes" in caplog.text
  assert _same(array_cache.read(file, Pair, zeros.size + 1), (zeros, zeros[:1]))


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_that_cannot_sync_is_written(tmp_path, monkeypatch, code):
  def fail(descriptor):
    raise OSError(code, os.strerror(code))

  monkeypatch.setattr(os, "fsync", fail)
  assert array_cache.write(tmp_path / "x.npz", _pair())
  assert _same(array_cache.read(tmp_path / "x.npz", Pair, 1 << 20), _pair())


def test_objects_are_refused(tmp_path):
  file = tmp_path / "x.npz"
  a = np.empty(2, object)
  np.savez(file, a=a, b=a)
  assert array_cache.read(file, Pair, 1 << 20) is None


def test_another_records_file_is_refused(tmp_path):
  file = tmp_path / "x.npz"
  np.savez(file, a=np.zeros(2))
  assert array_cache.read(file, Pair, 1 << 20) is None


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
  tmp_path, monkeypatch, caplog
):
  file = tmp_path / "x.npz"
  array_cache.write(file, _pair())

  def full(stream, **arrays):
    stream.write(b"half")
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(np, "savez_compressed", full)
  assert not array_cache.write(file, Pair(*map(np.zeros_like, _pair())))
  assert "No space left" in caplog.text
  assert os.listdir(tmp_path) == ["x.npz"]
  assert _same(array_cache.read(file, Pair, 1 << 20), _pair())


def test_an_interrupt_passes_and_leaves_nothing(tmp_path, monkeypatch):
  def interrupted(stream, **arrays):
    stream.write(b"half")
    raise KeyboardInterrupt

  monkeypatch.setattr(np, "savez_compressed", interrupted)
  with pytest.raises(KeyboardInterrupt):
    array_cache.write(tmp_path / "x.npz", _pair())
  assert not os.listdir(tmp_path)


def test_an_unwritable_place_costs_one_warning(tmp_path, caplog):
  (tmp_path / "file").touch()
  assert not array_cache.write(tmp_path / "file" / "x.npz", _pair())
  assert len(caplog.records) == 1
  assert array_cache.read(tmp_path / "file" / "x.npz", Pair, 1 << 20) is None
  assert len(caplog.records) == 1


def test_only_old_leftovers_are_removed(tmp_path):
  old, new = tmp_path / "x.1.tmp", tmp_path / "x.2.tmp"
  old.touch()
  new.touch()
  two_days_ago = time.time() - 2 * 86400
  os.utime(old, (two_days_ago, two_days_ago))
  array_cache.write(tmp_path / "x.npz", _pair())
  assert sorted(os.listdir(tmp_path)) == ["x.2.tmp", "x.npz"]


def test_directory(monkeypatch):
  monkeypatch.setenv("HOME", "/h")
  for lilly, xdg, expected in [
    ("/c", "/x", "/c"),
    ("~/c", "/x", "/h/c"),
    ("", "/x", "/x/lilly"),
    ("", "relative", "/h/.cache/lilly"),
    ("", "", "/h/.cache/lilly"),
  ]:
    monkeypatch.setenv("LILLY_CACHE", lilly)
    monkeypatch.setenv("XDG_CACHE_HOME", xdg)
    assert array_cache.directory() == pathlib.Path(expected)


def test_without_a_home_nothing_is_kept(monkeypatch):
  monkeypatch.delenv("LILLY_CACHE", raising=False)
  monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
  monkeypatch.setattr(os.path, "expanduser", lambda path: path)
  assert array_cache.directory().is_absolute()
  assert not array_cache.write(array_cache.path("x", "y", "z"), _pair())


def test_fingerprint_tells_contents_and_names_apart():
  f = array_cache.fingerprint
  assert f([("a", "1"), ("b", "2")]) == f([("b", "2"), ("a", "1")])
  different = [[("a", "1")], [("a", "2")], [("b", "1")], [], [("a", "1")] * 2]
  assert len({f(files) for files in different}) == 5
