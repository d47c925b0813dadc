"""Tests of lilly.tasks.algorithmic.

Each task has a solver in numpy that reads the inputs alone, from left to right,
and must produce targets and mask exactly: what is asked can be answered.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.tasks import algorithmic, sequences

_BATCH = 60


def _answer(num_steps, start, rows):
  """Targets and mask with these rows from step `start` on."""
  rows = np.asarray(rows)
  targets, mask = (
    np.zeros((num_steps, rows.shape[1])),
    np.zeros(num_steps, bool),
  )
  targets[start : start + len(rows)] = rows
  mask[start : start + len(rows)] = True
  return targets, mask


def _solve_copy(inputs):
  start, end = inputs[:, -2].argmax(), inputs[:, -1].argmax()
  return _answer(len(inputs), end + 1, inputs[start + 1 : end, :-2])


def _solve_repeat_copy(inputs, max_repeats=3):
  start = inputs[:, -2].argmax()
  (end,) = np.flatnonzero(inputs[:, -1])
  repeats = round(float(inputs[end, -1]) * max_repeats)
  rows = np.pad(
    np.tile(inputs[start + 1 : end, :-2], (repeats, 1)), ((0, 1), (0, 1))
  )
  rows[-1, -1] = 1
  return _answer(len(inputs), end + 1, rows)


def _solve_associative_recall(inputs):
  items, query = [], None
  queries = np.flatnonzero(inputs[:, -1])
  for step in inputs[: queries[0]]:
    if step[-2]:
      items.append([])
    else:
      items[-1].append(step[:-2])
  query = inputs[queries[0] + 1 : queries[1], :-2]
  (place,) = [i for i, item in enumerate(items) if np.array_equal(item, query)]
  return _answer(len(inputs), queries[1] + 1, items[place + 1])


def _solve_priority_sort(inputs, max_inputs=5, max_outputs=3):
  end = inputs[:, -1].argmax()
  ranked = sorted(inputs[:end], key=lambda step: -step[-2])
  number = int(np.ceil(end * max_outputs / max_inputs))
  rows = [step[:-2] for step in ranked[:number]]
  return _answer(len(inputs), end + 1, rows)


# Name -> sizes, solver, scored steps at level l for every n it may draw.
_TASKS = {
  "copy": (
    {"num_bits": 3, "max_length": 5, "min_length": 2},
    _solve_copy,
    lambda level: range(min(2, level), level + 1),
  ),
  "repeat_copy": (
    {"num_bits": 2, "max_length": 5, "max_repeats": 3},
    _solve_repeat_copy,
    lambda level: {
      n * r + 1
      for n in range(1, min(level, 5) + 1)
      for r in range(1, min(level, 3) + 1)
    },
  ),
  "associative_recall": (
    # Four different items: many equal the query by chance.
    {"num_bits": 1, "item_length": 2, "max_items": 5, "min_items": 1},
    _solve_associative_recall,
    lambda level: [2],
  ),
  "priority_sort": (
    {"num_bits": 4, "max_inputs": 5, "max_outputs": 3},
    _solve_priority_sort,
    lambda level: [-(-level * 3 // 5)],
  ),
}
_tasks = pytest.mark.parametrize("name", _TASKS)


@functools.cache
def _drawn(name):
  """A task, and the levels and episodes of a batch with traced levels."""
  task = algorithmic.task(name, **_TASKS[name][0])
  levels = np.arange(_BATCH) % task.max_level + 1

  traced = []

  @jax.jit
  @jax.vmap
  def sample(key, level):
    traced.append(level)
    return task.sample(key, level, data=())

  def draw(levels):
    keys = jax.random.split(jax.random.key(0), _BATCH)
    return jax.tree.map(np.asarray, sample(keys, jnp.asarray(levels)))

  draw(levels[::-1])
  episodes = draw(levels)
  assert len(traced) == 1  # no level asks for a new compilation
  return task, draw, levels, episodes


@_tasks
def test_a_solver_that_reads_the_inputs_knows_all_targets(name):
  task, _, _, episodes = _drawn(name)
  shape = (_BATCH, task.num_steps)
  assert episodes.inputs.shape == (*shape, task.num_inputs)
  assert episodes.targets.shape == (*shape, task.num_outputs)
  assert episodes.inputs.dtype == episodes.targets.dtype == np.float32
  assert episodes.mask.shape == shape and episodes.mask.dtype == bool
  for inputs, targets, mask in zip(*episodes, strict=True):
    expected, asked = _TASKS[name][1](inputs)
    np.testing.assert_array_equal(mask, asked)
    np.testing.assert_array_equal(targets, expected)
    # Nothing is told while it is asked, nor afterwards.
    assert not inputs[mask.argmax() :].any()
    assert not targets[~mask].any()


@_tasks
def test_every_length_up_to_the_level_is_drawn_and_none_above(name):
  task, _, levels, episodes = _drawn(name)
  scored = episodes.mask.sum(1)
  for level in range(1, task.max_level + 1):
    allowed = set(_TASKS[name][2](level))
    assert set(scored[levels == level]) <= allowed
    if level < 3:
      assert set(scored[levels == level]) == allowed


@_tasks
def test_levels_out_of_range_are_clipped_when_traced_and_refused_else(name):
  task, draw, _, _ = _drawn(name)
  for outside, bound in ((-3, 1), (0, 1), (99, task.max_level)):
    clipped, exact = (
      draw(np.full(_BATCH, outside)),
      draw(np.full(_BATCH, bound)),
    )
    chex.assert_trees_all_equal(clipped, exact)
    with pytest.raises(ValueError, match=f"level is {outside}; it must be"):
      task.sample(jax.random.key(0), outside, ())


@_tasks
def test_the_key_decides(name):
  _, draw, levels, episodes = _drawn(name)
  chex.assert_trees_all_equal(draw(levels), episodes)
  assert len({inputs.tobytes() for inputs in episodes.inputs}) > _BATCH / 4


def test_a_level_that_is_a_number_gives_what_a_traced_one_gives():
  task, _, levels, episodes = _drawn("copy")
  key = jax.random.split(jax.random.key(0), _BATCH)[3]
  single = jax.jit(lambda key: task.sample(key, int(levels[3]), ()))(key)
  batched = jax.tree.map(lambda x: x[3], episodes)
  chex.assert_trees_all_equal(jax.tree.map(np.asarray, single), batched)


def test_bits_are_fair_and_priorities_cover_their_range():
  _, _, _, episodes = _drawn("priority_sort")
  shown = episodes.inputs[episodes.inputs[..., -2] != 0]
  p = shown[:, -2]
  assert -1 <= p.min() < -0.9 and 0.9 < p.max() < 1
  num_bits = shown[:, :-2].size
  assert abs(shown[:, :-2].mean() - 0.5) < 4 * 0.5 / np.sqrt(num_bits)


def test_the_published_sizes():
  tasks = {name: algorithmic.task(name) for name in _TASKS}
  shapes = {
    name: (task.num_steps, task.num_inputs, task.num_outputs, task.max_level)
    for name, task in tasks.items()
  }
  assert shapes == {
    "copy": (18, 8, 6, 8),
    "repeat_copy": (113, 10, 9, 10),
    "associative_recall": (32, 8, 6, 6),
    "priority_sort": (37, 10, 8, 20),
  }
  for task in tasks.values():
    assert (task.loss, task.error) == (sequences.bit_loss, sequences.bit_errors)


def test_the_hardest_level_can_be_given():
  for name in _TASKS:
    assert algorithmic.task(name, 7).max_level == 7
  sort = algorithmic.task("priority_sort", 8)
  assert sort.num_steps == 8 + 1 + 7  # of 20 the paper asks for 16


@pytest.mark.parametrize(
  ("name", "sizes", "message"),
  [
    ("copy", {"num_bits": 0}, "num_bits is 0; it must be at least 1"),
    ("copy", {"max_length": -1}, "max_length is -1; it must be at least 1"),
    ("copy", {"min_length": 0}, "min_length is 0; it must be at least 1"),
    ("repeat_copy", {"max_repeats": 0}, "max_repeats is 0; it must be"),
    ("repeat_copy", {"min_repeats": 0}, "min_repeats is 0; it must be"),
    ("associative_recall", {"item_length": 0}, "item_length is 0; it must"),
    ("associative_recall", {"max_items": 1}, "max_items is 1; it must be at"),
    ("priority_sort", {"max_outputs": 0}, "max_outputs is 0; it must be"),
    (
      "priority_sort",
      {"max_inputs": 9},
      "max_inputs is 9; it must be at least 16",
    ),
    ("sort", {}, "name='sort' is unknown; known: copy"),
  ],
)
def test_bad_sizes_are_refused(name, sizes, message):
  with pytest.raises(ValueError, match=message):
    algorithmic.task(name, **sizes)
