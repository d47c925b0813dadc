"""Tests of lilly.tasks.question_answering, on a few made stories."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.data import stories
from lilly.tasks import question_answering

_WORDS = 7
# (task, words with answers "-n"): of different lengths, two of one task first.
_STORIES = [
  (2, "3 4 -5 6 6 6 -3 -4"),
  (2, "1 -1 2 -2 3 -3 4 -4"),
  (5, "1 2 3 4 5 6 5 4 -3"),
  (9, "6 -1"),
  (9, "6 -2"),
  (9, "6 -3"),
]


def _loaded():
  """The stories as `stories.load` gives them."""
  pairs = [
    [(0, -int(w)) if w[0] == "-" else (int(w), 0) for w in text.split()]
    for _, text in _STORIES
  ]
  words, answers = np.array([pair for p in pairs for pair in p], np.int16).T
  starts = np.cumsum([0, *map(len, pairs)]).astype(np.int32)
  tasks = np.array([task for task, _ in _STORIES], np.int32)
  return stories.Stories(
    words, answers, starts, tasks, np.array(list("-abcdef"))
  )


def _cut(max_steps):
  """Row -> the steps that are kept, in a loop."""
  kept = {}
  for row, (_, text) in enumerate(_STORIES):
    words = text.split()
    for length in range(1, min(len(words), max_steps) + 1):
      is_whole = length == len(words) or words[length][0] != "-"
      if words[length - 1][0] == "-" and is_whole:
        kept[row] = [int(word) for word in words[:length]]
  return kept


@pytest.mark.parametrize("max_steps", [2, 3, 7, 8, 20])
def test_stories_are_read_up_to_the_last_question_that_fits(max_steps):
  texts = question_answering.texts(_loaded(), max_steps=max_steps)
  read = functools.partial(
    question_answering.episode, num_words=_WORDS, max_steps=max_steps
  )
  kept = _cut(max_steps)
  assert texts.tasks.tolist() == [_STORIES[row][0] for row in kept]
  rows = jnp.arange(len(kept))
  episodes = jax.jit(jax.vmap(read, in_axes=(None, 0)))(texts, rows)
  for episode, steps in zip(
    zip(*map(np.asarray, episodes), strict=True), kept.values(), strict=True
  ):
    inputs, targets, mask = (np.zeros((max_steps, _WORDS)) for _ in range(3))
    for t, word in enumerate(steps):
      inputs[t, max(word, 0)] = 1
      if word < 0:
        targets[t, -word] = 1
        mask[t] = 1
    for actual, expected in zip(
      episode, (inputs, targets, mask[:, 0] > 0), strict=True
    ):
      np.testing.assert_array_equal(actual, expected)


def test_what_is_left_out_is_told(caplog):
  question_answering.texts(_loaded(), max_steps=9)
  assert not caplog.records
  question_answering.texts(_loaded(), max_steps=4)
  # Of 2 + 4 + 1 + 3 questions 1 + 2 + 1.
  assert "4 of 10 questions lie beyond max_steps=4" in caplog.text


def test_the_last_tenth_is_a_tenth():
  words, answers = np.array([[1, 0], [0, 1]], np.int16)
  loaded = stories.Stories(
    np.tile(words, 20),
    np.tile(answers, 20),
    np.arange(0, 41, 2, dtype=np.int32),
    np.full(20, 3, np.int32),
    np.array(["-", "a"]),
  )
  for part, number in (("first", 18), ("last", 2)):
    texts = question_answering.texts(loaded, max_steps=5, part=part)
    assert texts.counts.tolist() == [number]


def test_parts_are_disjoint_and_cover_each_task():
  parts = {
    part: question_answering.texts(_loaded(), max_steps=9, part=part)
    for part in ("first", "last")
  }
  # Nine tenths of 2, 1, 3 stories, rounded down: 1, 0, 2.
  assert parts["first"].tasks.tolist() == [2, 9, 9]
  assert parts["last"].tasks.tolist() == [2, 5, 9]
  starts = np.concatenate([texts.starts for texts in parts.values()])
  assert sorted(starts) == _loaded().starts[:-1].tolist()
  with pytest.raises(ValueError, match="part='middle' is unknown; known: all"):
    question_answering.texts(_loaded(), max_steps=9, part="middle")


@pytest.mark.parametrize("max_steps", [-1, 0, 1])
def test_too_few_steps_are_refused(max_steps):
  with pytest.raises(ValueError, match=f"max_steps is {max_steps}; it must be"):
    question_answering.texts(_loaded(), max_steps=max_steps)


def test_an_answer_is_right_when_all_its_words_are():
  rng = np.random.default_rng(0)
  masks = rng.random((50, 12)) < 0.6
  targets = np.eye(3, dtype=np.float32)[rng.integers(0, 3, (50, 12))]
  says = rng.integers(0, 3, (50, 12))
  logits = np.where(
    rng.random((50, 12, 1)) < 0.6, targets, np.eye(3, dtype=np.float32)[says]
  )
  episode = question_answering.Episode(targets, targets, masks)
  wrong, asked = jax.jit(jax.vmap(question_answering.question_errors))(
    episode, logits
  )
  for n, mask in enumerate(masks):
    answers, previous = [], False
    for t in range(12):
      if mask[t]:
        if not previous:
          answers.append(True)
        answers[-1] &= bool((targets[n, t] == logits[n, t]).all())
      previous = mask[t]
    assert (wrong[n], asked[n]) == (answers.count(False), len(answers))
  assert 0 < wrong.sum() < asked.sum()
  errors = jax.vmap(question_answering.error)(episode, logits)
  np.testing.assert_allclose(errors, wrong / np.maximum(asked, 1), rtol=1e-6)


def test_errors_by_task_equal_a_loop():
  rng = np.random.default_rng(0)
  tasks = rng.choice([1, 4, 20], 30)
  asked = rng.integers(1, 5, 30)
  wrong = rng.integers(0, asked + 1)
  errors = question_answering.error_by_task(wrong, asked, tasks)
  for k in range(1, 21):
    of_task = tasks == k
    expected = (
      wrong[of_task].sum() / asked[of_task].sum() if of_task.any() else np.nan
    )
    np.testing.assert_allclose(errors[k - 1], expected, rtol=1e-6)


@pytest.mark.slow
def test_the_task_draws_tasks_evenly(monkeypatch):
  test = _loaded()._replace(tasks=np.array([1, 1, 2, 2, 3, 3], np.int32))
  loaded = {"train": _loaded(), "test": test}

  def load(name, split, data_dir):
    assert (name, data_dir) == ("babi_10k", "somewhere")
    return loaded[split]

  monkeypatch.setattr(stories, "load", load)
  task = question_answering.task("somewhere", max_steps=9)
  assert task[:4] == (_WORDS, _WORDS, 9, 1)
  assert task.error is question_answering.error
  sample = jax.jit(jax.vmap(task.sample, in_axes=(0, None, None)))
  episodes = sample(jax.random.split(jax.random.key(0), 600), 1, task.data)
  lengths = np.asarray(episodes.inputs.sum((1, 2)))
  # Of tasks 2, 5, 9 the stories have 8, 9, 2 words.
  shares = [(lengths == length).mean() for length in (8, 9, 2)]
  np.testing.assert_allclose(shares, 1 / 3, atol=0.08)
  first = np.asarray(episodes.inputs[:, 0].argmax(-1))
  assert 0.1 < (first == 3).mean() < 0.23  # one of two stories of task 2
  due = np.asarray(episodes.targets[:, 1].argmax(-1))[lengths == 2]
  assert set(due) == {1, 2, 3}
  assert task.data[1].tasks.tolist() == [1, 1, 2, 2, 3, 3]
  episode = jax.tree.map(lambda x: x[0], episodes)
  assert task.error(episode, episode.targets) == 0
  assert task.loss(episode, 99 * episode.targets) < 1e-3
  assert task.error(episode, -episode.targets) == 1
  held_out = question_answering.task("somewhere", max_steps=9, held_out=True)
  assert held_out.data[0].tasks.tolist() == [2, 9, 9]
  assert held_out.data[1].tasks.tolist() == [2, 5, 9]
  one = jax.jit(held_out.test)(jax.random.key(3), 1, held_out.data)
  # The second story of task 2, the only one of 5, the last of 9.
  assert int(one.inputs[0].argmax()) in (1, 6)


def test_absent_data_says_what_to_do(tmp_path):
  with pytest.raises(FileNotFoundError, match="give data_dir"):
    question_answering.task()
  with pytest.raises(FileNotFoundError, match="lacks babi"):
    question_answering.task(tmp_path, name="babi")
