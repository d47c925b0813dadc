"""What every maker of a task refuses: sizes and constants out of range."""

import functools

import chex
import jax
import numpy as np
import pytest

from lilly.data import stories
from lilly.tasks import (
  algorithmic,
  characters,
  curriculum,
  image_episodes,
  membership,
  one_shot,
  patterns,
  question_answering,
  supervised,
)

_COUNT = (0, -1, 2.5, np.inf)
_teacher = functools.partial(supervised.teacher, [3, 2])
_copy = functools.partial(algorithmic.task, "copy")
_repeat_copy = functools.partial(algorithmic.task, "repeat_copy")
_recall = functools.partial(algorithmic.task, "associative_recall")
_sort = functools.partial(algorithmic.task, "priority_sort")
_generate = functools.partial(characters.generate, jax.random.key(0))
_generated = functools.partial(image_episodes.task, "generated")
_image_task = functools.partial(patterns.make_image_task, "digits")
_ranges = functools.partial(membership.task, "ranges")
_uniform = functools.partial(membership.task, "uniform")
_draw = functools.partial(membership.draw_weighted, jax.random.key(0), 9, 2, 3)
_STORIES = stories.Stories(
  words=np.array([3, 1, stories.ANSWER], np.int16),
  answers=np.array([0, 0, 2], np.int16),
  starts=np.array([0, 3]),
  tasks=np.array([1]),
  vocabulary=np.array(["-", "a", "b", "c"]),
)
_texts = functools.partial(question_answering.texts, _STORIES)

# maker -> keyword -> values that are refused; NaN always is
_CONSTANTS = {
  "teacher": (_teacher, {"scale": (0.0, -1.0, np.inf)}),
  "copy": (
    _copy,
    {
      "max_level": _COUNT,
      "num_bits": _COUNT,
      "max_length": _COUNT,
      "min_length": _COUNT,
    },
  ),
  "repeat_copy": (
    _repeat_copy,
    {
      "num_bits": _COUNT,
      "max_length": _COUNT,
      "max_repeats": _COUNT,
      "min_length": _COUNT,
      "min_repeats": _COUNT,
    },
  ),
  "associative_recall": (
    _recall,
    {
      "num_bits": _COUNT,
      "item_length": _COUNT,
      "max_items": (*_COUNT, 1),
      "min_items": _COUNT,
    },
  ),
  "priority_sort": (
    _sort,
    {
      "num_bits": _COUNT,
      "max_inputs": (*_COUNT, 15),
      "max_outputs": _COUNT,
      "min_inputs": _COUNT,
    },
  ),
  "characters": (
    _generate,
    {"num_classes": _COUNT, "num_drawings": _COUNT, "image_size": _COUNT},
  ),
  "curriculum": (curriculum.init, {"level": _COUNT}),
  "image_episodes": (_generated, {"image_size": _COUNT}),
  "one_shot": (
    one_shot.task,
    {
      "num_classes": _COUNT,
      "num_instances": (*_COUNT, 21),
      "image_size": _COUNT,
    },
  ),
  "patterns of bits": (
    patterns.make_binary_task,
    {"num_bits": _COUNT, "num_redrawn": (-1, 2.5, np.inf, 129)},
  ),
  "patterns of images": (_image_task, {"block_size": (*_COUNT, 9)}),
  "ranges": (_ranges, {"universe": (*_COUNT, 1), "num_letters": _COUNT}),
  "uniform sets": (_uniform, {"universe": (*_COUNT, 1), "num_bits": _COUNT}),
  "weighted sets": (_draw, {"decay": (0.0, -1.0, 1.5, np.inf)}),
  "question_answering": (_texts, {"max_steps": _COUNT}),
}
_makers = pytest.mark.parametrize(
  ("make", "constants"), _CONSTANTS.values(), ids=_CONSTANTS.keys()
)


@_makers
def test_constants_out_of_range_are_refused_whatever_their_type(
  make, constants
):
  for name, refused in constants.items():
    for value in (*refused, np.nan):
      for kind in (type(value), np.float32, np.float64, np.asarray):
        with pytest.raises(ValueError, match=f"^{name} is") as caught:
          make(**{name: kind(value)})
        text = str(caught.value)
        assert "\n" not in text and text.endswith(".")


@pytest.mark.parametrize("sizes", [(3.0, 2), (3, np.nan), (3, np.float32(2))])
def test_sizes_of_a_teacher_are_whole_numbers(sizes):
  with pytest.raises(ValueError, match=r"^sizes is .* must be a whole number"):
    supervised.teacher(sizes)


@pytest.mark.parametrize(
  ("make", "sizes", "given"),
  [
    (_copy, {"num_bits": 3, "max_length": 5}, (4, ())),
    (_sort, {"max_inputs": 20, "max_outputs": 16}, (4, ())),
    (patterns.make_binary_task, {"num_bits": 8, "num_redrawn": 4}, ((), 4)),
  ],
)
def test_sizes_of_numpy_are_those_of_python(make, sizes, given):
  tasks = [make(**sizes)]
  for kind in (np.int32, np.int64, np.asarray):
    tasks.append(make(**{name: kind(size) for name, size in sizes.items()}))
  drawn = []
  for task in tasks:
    key = jax.random.key(0)
    drawn.append(task.sample(key, *given))
  for found in drawn[1:]:
    chex.assert_trees_all_equal(found, drawn[0])
