"""Question answering: stories and questions word by word, answered in words.

Every word of a story and of its questions is one step, one-hot. A question is
followed by one "-" for each word of the answer; only at these steps is the
network's output scored, against that word.
"""

import functools
import logging
import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lilly import checks
from lilly.data import stories
from lilly.tasks import sequences
from lilly.tasks.sequences import Episode

__all__ = [
  "Texts",
  "episode",
  "error",
  "error_by_task",
  "question_errors",
  "task",
  "texts",
]

_log = logging.getLogger(__name__)
_Array = jax.Array | np.ndarray


class Texts(NamedTuple):
  """Stories as arrays for the device; none is longer than `max_steps`."""

  words: _Array  # [W] int16, indices of words, padded by max_steps zeros
  answers: _Array  # [W] int16, the expected word where words is ANSWER
  starts: _Array  # [N] int32, index of each story's first word
  lengths: _Array  # [N] int32, number of words of each story
  tasks: _Array  # [N] int32, 1..20, sorted
  firsts: _Array  # [K] int32, the first story of each task present
  counts: _Array  # [K] int32, number of stories of each task present


def texts(
  loaded: stories.Stories, *, max_steps: int, part: str = "all"
) -> Texts:
  """Truncates stories to a maximum length.

  A longer story ends after the last question that fits together with its
  answer. Later questions are dropped, as are stories without any question left.

  Args:
    loaded: as returned by `stories.load`.
    max_steps: largest number of words of a story.
    part: "all" stories, or of each task the "first" nine tenths or the "last"
      tenth.

  Returns:
    The remaining stories.

  Raises:
    ValueError: no story has a question within max_steps, or part is unknown.
  """
  if part not in ("all", "first", "last"):
    raise ValueError(f"part={part!r} is unknown; known: all, first, last.")
  max_steps = checks.whole_number("max_steps", max_steps, least=1)
  starts, lengths = loaded.starts[:-1], np.diff(loaded.starts)
  is_due = loaded.words == stories.ANSWER
  ends = np.flatnonzero(is_due & ~np.append(is_due[1:], False)) + 1
  # End of the last answer within the limit, possibly of an earlier story.
  limits = np.minimum(lengths, max_steps) + starts
  last = np.append(ends, 0)[np.searchsorted(ends, limits, side="right") - 1]
  kept = np.maximum(last - starts, 0)
  ranks = np.arange(len(starts)) - np.searchsorted(loaded.tasks, loaded.tasks)
  is_first = ranks < np.bincount(loaded.tasks)[loaded.tasks] * 9 // 10
  chosen = {"all": kept >= 0, "first": is_first, "last": ~is_first}[part]
  rows = np.flatnonzero(chosen & (kept > 0))
  before = functools.partial(np.searchsorted, ends, side="right")
  questions = before(loaded.starts[1:]) - before(starts)
  lost = (questions - before(starts + kept) + before(starts))[chosen].sum()
  if lost:
    _log.warning(
      "%d of %d questions lie beyond max_steps=%d and are dropped.",
      lost,
      questions[chosen].sum(),
      max_steps,
    )
  if not len(rows):
    raise ValueError(
      f"max_steps is {max_steps}; it must be long enough for one question."
    )
  _, firsts, counts = np.unique(
    loaded.tasks[rows], return_index=True, return_counts=True
  )
  return Texts(
    np.pad(loaded.words, (0, max_steps)),
    np.pad(loaded.answers, (0, max_steps)),
    starts[rows].astype(np.int32),
    kept[rows].astype(np.int32),
    loaded.tasks[rows].astype(np.int32),
    firsts.astype(np.int32),
    counts.astype(np.int32),
  )


def episode(
  texts: Texts, row: int | jax.Array, *, num_words: int, max_steps: int
) -> Episode:
  """Makes an episode of one story.

  Args:
    texts: as returned by the function `texts`, with the same max_steps.
    row: index of the story, [] int32.
    num_words: size of the vocabulary.
    max_steps: steps of an episode, T.

  Returns:
    The episode, D = O = num_words; scored where an answer is expected.

  Reference:
    Graves et al., 2016 (Nature 538:471), methods, "bAbI": one-hot words, "-"
    where an answer is expected; Rae et al., 2016 (arXiv 1610.09027),
    supplementary G.
  """
  texts = jax.tree.map(jnp.asarray, texts)
  start = texts.starts[row]
  is_read = jnp.arange(max_steps) < texts.lengths[row]
  words = jax.lax.dynamic_slice(texts.words, (start,), (max_steps,))
  due = jax.lax.dynamic_slice(texts.answers, (start,), (max_steps,))
  mask = is_read & (words == stories.ANSWER)
  return Episode(
    jnp.where(is_read[:, None], jax.nn.one_hot(words, num_words), 0.0),
    jnp.where(mask[:, None], jax.nn.one_hot(due, num_words), 0.0),
    mask,
  )


def question_errors(
  episode: Episode, logits: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Counts wrong answers and questions.

  Args:
    episode: the episode; consecutive scored steps are the words of one answer.
    logits: network outputs, [T, O].

  Returns:
    Number of answers with a wrong word, [], and of questions, [], both int32.

  Reference:
    Graves et al., 2016 (Nature 538:471), methods, "bAbI": all words of an
    answer must be right.

  >>> word = jax.nn.one_hot(jnp.array([0, 1, 1, 0, 1]), 2)
  >>> mask = jnp.array([False, True, True, False, True])
  >>> logits = word.at[2].set(0)
  >>> wrong, questions = question_errors(Episode(word, word, mask), logits)
  >>> int(wrong), int(questions)
  (1, 2)
  """
  sizes = {}
  targets = checks.real("episode.targets", episode.targets, "T O", sizes)
  logits = checks.real("logits", logits, "T O", sizes)
  mask = checks.mask("episode.mask", episode.mask, "T", sizes)
  begins = mask & ~jnp.pad(mask, (1, 0))[:-1]
  number = jnp.cumsum(begins)  # of the question, from 1
  is_wrong = mask & (logits.argmax(-1) != targets.argmax(-1))
  wrong = jax.ops.segment_sum(is_wrong.astype(jnp.int32), number, len(mask) + 1)
  return (wrong > 0).sum(), begins.sum()


def error(episode: Episode, logits: jax.Array) -> jax.Array:
  """Computes the fraction of an episode's questions answered wrongly.

  Args:
    episode: the episode.
    logits: network outputs, [T, O].

  Returns:
    The error, [], from 0 to 1.
  """
  wrong, questions = question_errors(episode, logits)
  return wrong / jnp.maximum(questions, 1)


def error_by_task(
  wrong: jax.Array, questions: jax.Array, tasks: jax.Array
) -> jax.Array:
  """Computes the error of each of the twenty tasks.

  A task counts as failed if its error is above 0.05.

  Args:
    wrong: number of wrong answers in each story, [N].
    questions: number of questions in each story, [N].
    tasks: task of each story, 1..20, [N].

  Returns:
    The fraction of each task's questions answered wrongly, [20]; NaN for tasks
    without questions.

  Reference:
    Weston et al., 2015 (arXiv 1502.05698); Rae et al., 2016 (arXiv 1610.09027),
    supplementary G.

  >>> wrong, questions, tasks = jnp.array([[1, 0, 2], [1, 3, 2], [1, 1, 2]])
  >>> error_by_task(wrong, questions, tasks)[:2].tolist()
  [0.25, 1.0]
  """
  counts = jnp.stack([wrong, questions], axis=1).astype(jnp.float32)
  sums = jax.ops.segment_sum(counts, tasks - 1, stories.NUM_TASKS)
  return sums[:, 0] / jnp.where(sums[:, 1] > 0, sums[:, 1], jnp.nan)


def task(
  data_dir: str | os.PathLike[str] | None = None,
  *,
  name: str = "babi_10k",
  max_steps: int = 512,
  held_out: bool = False,
) -> sequences.Task:
  """Makes a task of bAbI's twenty tasks, jointly.

  An episode draws a task, then one of its stories, each uniformly. There is
  only one level.

  Args:
    data_dir: as in `stories.load`.
    name: "babi_10k" or "babi".
    max_steps: steps of an episode, T; longer stories are truncated, see
      `texts`. The longest has 1,393 words. Dropped questions are logged.
    held_out: hold out the last tenth of the training stories and test on it
      instead of on the test stories, for choosing hyper-parameters.

  Returns:
    The task; data are training and test `Texts`. O is 159: 156 words, ".", "?"
    and "-".

  Raises:
    ValueError: there is no such set, or max_steps is too small.
    FileNotFoundError: data_dir is None, does not exist or lacks a file.
    DataError: a file is damaged.

  Reference:
    Rae et al., 2016 (arXiv 1610.09027), supplementary G. How stories are
    sampled and truncated there is not known (unconfirmed).
  """
  train = stories.load(name, "train", data_dir)
  cut = functools.partial(texts, max_steps=max_steps)
  if held_out:
    data = (cut(train, part="first"), cut(train, part="last"))
  else:
    data = (cut(train), cut(stories.load(name, "test", data_dir)))
  num_words = len(train.vocabulary)
  read = functools.partial(episode, num_words=num_words, max_steps=max_steps)

  def draw(key, texts):
    texts = jax.tree.map(jnp.asarray, texts)
    task_key, story_key = jax.random.split(key)
    k = jax.random.randint(task_key, (), 0, len(texts.firsts))
    story = jax.random.randint(story_key, (), 0, texts.counts[k])
    return read(texts, texts.firsts[k] + story)

  return sequences.Task(
    num_inputs=num_words,
    num_outputs=num_words,
    num_steps=max_steps,
    max_level=1,
    sample=lambda key, level, data: draw(key, data[0]),
    test=lambda key, level, data: draw(key, data[1]),
    loss=sequences.label_loss,
    error=error,
    data=data,
  )
