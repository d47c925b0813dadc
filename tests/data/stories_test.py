"""`stories.load` from tiny texts, every way it can fail, and the real ones."""

import gzip
import hashlib
import io
import logging
import lzma
import tarfile
import tracemalloc

import numpy as np
import pytest

from lilly.data import stories

_FIRST = """\
1 Mary moved to the Hall.
2 Where is Mary? \thall\t1
3 John left.
4 What is there? \tmilk,apple\t1 3
1 Milk.
2 Who?\tjohn\t1
"""
# The first is read here, the others tell tasks and splits apart.
_WORDS = (
  "mary moved to the hall . where is mary ? - john left . what is there ? - -"
)
_ANSWERS = ["hall", "milk", "apple"]


def _texts(optional=()):
  texts = {(1, "train"): _FIRST, (1, "test"): _FIRST}
  for k in range(2, 21):
    for split in ("train", "test"):
      number = k if split == "train" else k % 7 + 4
      texts[k, split] = f"1 w{number}.\n2 who?\tw{number}\t1\n"
  return {key: text for key, text in texts.items() if key not in optional}


def _sum(texts):
  keys = [(k, s) for s in ("train", "test") for k in range(1, 21)]
  content = "".join(texts[key] for key in keys if key in texts)
  return hashlib.sha256(content.encode()).hexdigest()


def _unpacked(folder, texts):
  folder.mkdir(parents=True)
  (folder / "README.txt").write_text("not a story")
  for (k, split), text in texts.items():
    (folder / f"qa{k}_some-task_{split}.txt").write_text(text)


def _packed(file, texts, folder):
  file.parent.mkdir(parents=True, exist_ok=True)
  with tarfile.open(
    file, "w:xz" if file.suffix == ".xz" else "w:gz"
  ) as archive:
    # Of another language: the same names in another folder.
    others = {
      f"tasks_1-20_v1-2/hn/qa{k}_some-task_{split}.txt": "1 ?"
      for k, split in texts
    }
    named = {
      f"tasks_1-20_v1-2/{folder}/qa{k}_some-task_{split}.txt": text
      for (k, split), text in texts.items()
    }
    for name, text in {**named, **others}.items():
      entry = tarfile.TarInfo(name)
      entry.size = len(text)
      archive.addfile(entry, io.BytesIO(text.encode()))


@pytest.fixture(name="sums")
def _sums(home, monkeypatch):
  """Sums under which the texts above pass for the real ones."""
  sums = {
    "babi": _sum(_texts()),
    "babi_10k": _sum(_texts(optional=[(3, "train")])),
  }
  monkeypatch.setattr(stories, "_SHA256", sums)
  return sums


def _same(x, y):
  return all(
    a.dtype == b.dtype and np.array_equal(a, b)
    for a, b in zip(x, y, strict=True)
  )


def test_a_story_is_words_and_answers(sums, tmp_path):
  _unpacked(tmp_path / "en", _texts())
  train = stories.load("babi", "train", tmp_path)
  assert train.words.dtype == train.answers.dtype == np.int16
  assert train.starts.dtype == train.tasks.dtype == np.int32
  assert train.vocabulary[stories.ANSWER] == "-"
  first = slice(*train.starts[:2])
  assert " ".join(train.vocabulary[train.words[first]]) == _WORDS
  due = train.answers[first][train.words[first] == stories.ANSWER]
  assert train.vocabulary[due].tolist() == _ANSWERS
  assert not train.answers[train.words != stories.ANSWER].any()
  second = slice(*train.starts[1:3])
  assert " ".join(train.vocabulary[train.words[second]]) == "milk . who ? -"
  assert train.tasks.tolist() == [1, *range(1, 21)]
  assert train.starts[-1] == len(train.words) == 20 + 20 * 5
  # Task 10 comes after task 9, not after task 1.
  word = train.words[train.starts[10]]
  assert train.vocabulary[word] == "w10"


def test_splits_share_the_training_vocabulary(sums, tmp_path):
  _unpacked(tmp_path / "en", _texts())
  train = stories.load("babi", "train", tmp_path)
  test = stories.load("babi", "test", tmp_path)
  assert np.array_equal(train.vocabulary, test.vocabulary)
  assert test.vocabulary[test.words[test.starts[2]]] == "w6"


def test_all_places_give_the_same(sums, tmp_path):
  _unpacked(tmp_path / "a" / "en", _texts())
  _unpacked(tmp_path / "b" / "babi" / "tasks_1-20_v1-2" / "en", _texts())
  _packed(tmp_path / "c" / "babi_tasks_1-20_v1-2_en.tar.gz", _texts(), "en")
  _packed(tmp_path / "d" / "babi" / "tasks_1-20_v1-2.tar.gz", _texts(), "en")
  a, *others = [
    stories.load("babi", "test", tmp_path / folder) for folder in "abcd"
  ]
  assert all(_same(a, other) for other in others)


def test_arrays_are_kept(sums, tmp_path, monkeypatch):
  _unpacked(tmp_path / "en", _texts())
  train = stories.load("babi", "train", tmp_path)
  monkeypatch.setattr(stories, "_arrange", None)
  assert _same(stories.load("babi", "train", tmp_path), train)
  stories.load("babi", "test", tmp_path)


def test_one_text_of_the_large_set_may_be_missing(sums, tmp_path, caplog):
  texts = _texts(optional=[(3, "train")])
  archive = tmp_path / "babi_tasks_1-20_v1-2_en-10k.tar.xz"
  _packed(archive, texts, "en-10k")
  with caplog.at_level(logging.WARNING):
    assert 3 in stories.load("babi_10k", "test", tmp_path).tasks
    assert not caplog.records
    train = stories.load("babi_10k", "train", tmp_path)
  assert set(train.tasks) == set(range(1, 21)) - {3}
  assert "no train stories of task 3" in caplog.text
  # It has no known sum; where it is there it is used.
  _packed(archive, _texts(), "en-10k")
  assert 3 in stories.load("babi_10k", "train", tmp_path).tasks


def test_a_missing_text_is_named(sums, tmp_path):
  _unpacked(tmp_path / "en", _texts(optional=[(3, "train")]))
  with pytest.raises(FileNotFoundError, match=r"lacks qa3_\*_train.txt"):
    stories.load("babi", "test", tmp_path)


def test_other_texts_are_refused(sums, tmp_path):
  _unpacked(tmp_path / "en", {**_texts(), (7, "test"): "1 changed.\n"})
  with pytest.raises(stories.DataError, match=f"expected is {sums['babi']}"):
    stories.load("babi", "train", tmp_path)


def test_a_damaged_archive_is_refused(sums, tmp_path):
  archive = tmp_path / "babi_tasks_1-20_v1-2_en.tar.gz"
  _packed(archive, _texts(), "en")
  content = archive.read_bytes()
  flipped = bytearray(content)
  flipped[len(content) // 2] ^= 1
  for damaged in (b"", content[: len(content) // 2], content[9:], flipped):
    archive.write_bytes(damaged)
    with pytest.raises(stories.DataError, match="damaged"):
      stories.load("babi", "train", tmp_path)


def _refusal(name, folder):
  """The message, and bytes that Python held at most while loading."""
  tracemalloc.start()
  try:
    stories.load(name, "train", folder)
  except stories.DataError as error:
    return str(error), tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  raise AssertionError("it was loaded")


@pytest.mark.parametrize("name", ["babi", "babi_10k"])
def test_an_archive_that_unpacks_to_more_is_read_no_further(
  sums, tmp_path, name
):
  archive, limit = next(iter(stories._ARCHIVES[name].items()))
  pack = lzma.open if archive.endswith("xz") else gzip.open
  with pack(tmp_path / archive, "wb") as file:
    for _ in range(limit // (1 << 20) + 1):
      file.write(bytes(1 << 20))
  assert (tmp_path / archive).stat().st_size < 1 << 17
  message, peak = _refusal(name, tmp_path)
  assert f"unpacks to more than {limit} bytes" in message
  assert peak < limit // 4 * 3


@pytest.mark.parametrize("place", ["archive", "folder"])
def test_a_text_that_is_too_long_is_not_read(sums, tmp_path, place):
  size = stories._MAX_TEXT + 1
  if place == "folder":
    _unpacked(tmp_path / "en", _texts())
    with open(tmp_path / "en" / "qa1_some-task_train.txt", "wb") as file:
      file.truncate(size)
  else:
    entry = tarfile.TarInfo("tasks_1-20_v1-2/en/qa1_some-task_train.txt")
    entry.size = size
    archive = tmp_path / "tasks_1-20_v1-2.tar.gz"
    with tarfile.open(archive, "w:gz") as members:
      members.addfile(entry, io.BytesIO(bytes(size)))
  message, peak = _refusal("babi", tmp_path)
  assert f"{stories._MAX_TEXT} bytes" in message
  assert peak < size // 4 * 3


def test_absent_data_says_what_to_do(sums, tmp_path):
  with pytest.raises(FileNotFoundError, match="give data_dir, a folder that h"):
    stories.load("babi_10k", "train")
  with pytest.raises(FileNotFoundError, match="is not a folder"):
    stories.load("babi", "train", tmp_path / "nowhere")
  with pytest.raises(FileNotFoundError, match=r"lacks babi_.*_en.tar.gz .*add"):
    stories.load("babi", "train", tmp_path)


def test_unknown_names_are_refused():
  with pytest.raises(
    ValueError, match="name='bAbI' is unknown; known sets: ba"
  ):
    stories.load("bAbI", "train", ".")
  with pytest.raises(
    ValueError, match="split='valid' is unknown; babi has: tr"
  ):
    stories.load("babi", "valid", ".")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "num"), [("babi", 1000), ("babi_10k", 10000)])
def test_real_stories(home, real, name, num):
  for split, asked in (("train", num), ("test", 1000)):
    loaded = stories.load(name, split, real)
    # The words of Graves et al. (2016): 156, and three signs.
    assert loaded.vocabulary.shape == (159,)
    assert loaded.vocabulary[:3].tolist() == ["-", ".", "?"]
    question = list(loaded.vocabulary).index("?")
    tasks = np.repeat(loaded.tasks, np.diff(loaded.starts))
    counts = np.bincount(tasks[loaded.words == question], minlength=21)[1:]
    expected = np.full(20, asked)
    if (name, split) == ("babi_10k", "train") and not counts[2]:
      expected[2] = 0
    assert np.array_equal(counts, expected)
    # An answer is due after every question mark.
    after = loaded.words[np.flatnonzero(loaded.words == question) + 1]
    assert not after.any()
    assert not np.any(loaded.answers[loaded.words != stories.ANSWER])
