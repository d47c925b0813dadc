"""Algorithmic tasks: copy, repeat copy, associative recall, priority sort.

Random bit vectors are shown one by one; then the inputs are zero, and the
network must output a function of the vectors. Each task is a function of a key
and a level (the length), and every level has the same shape, so the level may
be traced: a curriculum changes it without recompilation.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from lilly import checks
from lilly.tasks import sequences
from lilly.tasks.sequences import Episode

__all__ = [
  "associative_recall",
  "copy",
  "priority_sort",
  "repeat_copy",
  "task",
]


def copy(
  key: jax.Array,
  level: int | jax.Array,
  *,
  num_bits: int = 6,
  max_length: int = 8,
  min_length: int = 1,
) -> Episode:
  """Shows a sequence of bit vectors; the target is the same sequence.

  Start flag, x_1 .. x_l, end flag, then l zero inputs with targets x_1 .. x_l;
  l ~ U{min(min_length, level) .. level}. So with `min_length=max_length` the
  length equals the level. T = 2 max_length + 2.

  Args:
    key: typed key.
    level: largest length, 1..max_length (clipped if traced), [] int32.
    num_bits: bits of a vector; the flags have two further channels.
    max_length: largest level.
    min_length: shortest length, limited by the level.

  Returns:
    The episode, D = num_bits + 2, O = num_bits.

  Raises:
    ValueError: a size is too small, or the level is out of range.

  Reference:
    Graves, Wayne and Danihelka, 2014 (arXiv 1410.5401), section 4.1, who use 8
    bits and lengths up to 20; Rae et al., 2016 (arXiv 1610.09027), section 4.2,
    use lengths up to 20. The defaults are a smaller problem.

  >>> episode = copy(jax.random.key(0), 3)
  >>> episode.inputs.shape, episode.targets.shape, int(episode.mask.sum()) <= 3
  ((18, 8), (18, 6), True)
  """
  num_bits = checks.whole_number("num_bits", num_bits, least=1)
  max_length = checks.whole_number("max_length", max_length, least=1)
  min_length = checks.whole_number("min_length", min_length, least=1)
  length_key, bits_key = jax.random.split(key)
  length = _draw(length_key, level, min_length, max_length)
  x = _bits(bits_key, max_length, num_bits)
  steps = jnp.arange(2 * max_length + 2)
  end = length + 1
  inputs = [_place(x, steps - 1, length), _flag(steps == 0, steps == end)]
  since_end = steps - end - 1
  return Episode(
    jnp.concatenate(inputs, axis=1),
    _place(x, since_end, length),
    _inside(since_end, length),
  )


def repeat_copy(
  key: jax.Array,
  level: int | jax.Array,
  *,
  num_bits: int = 8,
  max_length: int = 10,
  max_repeats: int = 10,
  min_length: int = 1,
  min_repeats: int = 1,
) -> Episode:
  """Shows a sequence and a number r; the target is r copies and an end marker.

  Start flag, x_1 .. x_l, the number r / max_repeats in a separate channel, then
  r l zero inputs whose targets are r repetitions of x_1 .. x_l, and one whose
  target is the end marker alone. l and r are drawn as in `copy`, each up to the
  level or its own maximum. T = max_length (max_repeats + 1) + 3.

  Args:
    key: typed key.
    level: largest length and number of repeats, 1..max(max_length,
      max_repeats) (clipped if traced), [] int32.
    num_bits: bits of a vector.
    max_length: largest length.
    max_repeats: largest number of repeats.
    min_length: shortest length, limited by the level.
    min_repeats: smallest number of repeats, limited by the level.

  Returns:
    The episode, D = num_bits + 2 (start, number), O = num_bits + 1 (marker).

  Raises:
    ValueError: a size is too small, or the level is out of range.

  Reference:
    Graves, Wayne and Danihelka, 2014 (arXiv 1410.5401), section 4.2; there the
    number has mean 0 and variance 1; here it is in (0, 1], so never zero.

  >>> episode = repeat_copy(jax.random.key(0), 3)
  >>> episode.inputs.shape, episode.targets.shape
  ((113, 10), (113, 9))
  """
  num_bits = checks.whole_number("num_bits", num_bits, least=1)
  max_length = checks.whole_number("max_length", max_length, least=1)
  max_repeats = checks.whole_number("max_repeats", max_repeats, least=1)
  min_length = checks.whole_number("min_length", min_length, least=1)
  min_repeats = checks.whole_number("min_repeats", min_repeats, least=1)
  length_key, repeats_key, bits_key = jax.random.split(key, 3)
  level = sequences.clip_level(level, max(max_length, max_repeats))
  length = _draw(length_key, level, min_length, max_length)
  repeats = _draw(repeats_key, level, min_repeats, max_repeats)
  x = _bits(bits_key, max_length, num_bits)
  steps = jnp.arange(max_length * (max_repeats + 1) + 3)
  end = length + 1
  number = _flag(steps == end) * (repeats / max_repeats)
  inputs = [_place(x, steps - 1, length), _flag(steps == 0), number]
  since_end, num_asked = steps - end - 1, length * repeats
  copies = x[since_end % length] * _inside(since_end, num_asked)[:, None]
  return Episode(
    jnp.concatenate(inputs, axis=1),
    jnp.concatenate([copies, _flag(since_end == num_asked)], axis=1),
    _inside(since_end, num_asked + 1),
  )


def associative_recall(
  key: jax.Array,
  level: int | jax.Array,
  *,
  num_bits: int = 6,
  item_length: int = 3,
  max_items: int = 6,
  min_items: int = 3,
) -> Episode:
  """Shows items, then one of them again; the target is the item after it.

  An item is a flag and item_length bit vectors. n items are followed by a query
  flag, any item except the last, a query flag, and item_length zero inputs
  whose targets are the next item; n ~ U{min(min_items, level) .. level}, where
  level 1 counts as 2. The query is unique: an item equal to it by chance has
  its first bit flipped. T = (max_items + 2) (item_length + 1).

  Args:
    key: typed key.
    level: largest number of items, 1..max_items (clipped if traced), [] int32.
    num_bits: bits of a vector; the flags have two further channels.
    item_length: vectors of an item.
    max_items: largest level, at least 2.
    min_items: smallest number of items, limited by the level.

  Returns:
    The episode, D = num_bits + 2, O = num_bits.

  Raises:
    ValueError: a size is too small, or the level is out of range.

  Reference:
    Graves, Wayne and Danihelka, 2014 (arXiv 1410.5401), section 4.3 (2 to 6
    items of three 6-bit vectors); Rae et al., 2016 (arXiv 1610.09027), section
    4.2 (3 to 6).

  >>> episode = associative_recall(jax.random.key(0), 6)
  >>> episode.inputs.shape, episode.targets.shape, int(episode.mask.sum())
  ((32, 8), (32, 6), 3)
  """
  num_bits = checks.whole_number("num_bits", num_bits, least=1)
  item_length = checks.whole_number("item_length", item_length, least=1)
  min_items = checks.whole_number("min_items", min_items, least=1)
  max_items = checks.whole_number("max_items", max_items, least=2)
  number_key, items_key = jax.random.split(key)
  number = jnp.maximum(_draw(number_key, level, min_items, max_items), 2)
  query, items = _items(items_key, number, max_items, item_length, num_bits)

  width = item_length + 1  # steps of an item with its flag
  flagged = jnp.pad(items, ((0, 0), (1, 0), (0, 0)))  # the flag's own step
  steps, end = jnp.arange((max_items + 2) * width), number * width
  shown = _place(flagged.reshape(-1, num_bits), steps, end)
  asked = _place(items[query], steps - end - 1, item_length)
  is_item = (steps % width == 0) & (steps < end)
  is_query = (steps == end) | (steps == end + width)
  since_query = steps - end - width - 1
  return Episode(
    jnp.concatenate([shown + asked, _flag(is_item, is_query)], axis=1),
    _place(items[query + 1], since_query, item_length),
    _inside(since_query, item_length),
  )


def priority_sort(
  key: jax.Array,
  level: int | jax.Array,
  *,
  num_bits: int = 8,
  max_inputs: int = 20,
  max_outputs: int = 16,
  min_inputs: int | None = None,
) -> Episode:
  """Shows vectors with priorities; targets are the highest ones, in order.

  x_1 .. x_n with priorities p_i ~ U[-1, 1) in a separate channel, an end flag,
  then m zero inputs whose targets are the vectors of the m highest priorities
  in descending order (of equal ones, the earlier first);
  n ~ U{min(min_inputs, level) .. level}, m = ⌈n max_outputs / max_inputs⌉.
  T = max_inputs + 1 + max_outputs.

  Args:
    key: typed key.
    level: largest n, 1..max_inputs (clipped if traced), [] int32.
    num_bits: bits of a vector.
    max_inputs: largest level, at least max_outputs.
    max_outputs: m at n = max_inputs.
    min_inputs: smallest n, limited by the level; None: max_inputs, so that n
      equals the level.

  Returns:
    The episode, D = num_bits + 2 (priority, flag), O = num_bits.

  Raises:
    ValueError: a size is too small, or the level is out of range.

  Reference:
    Graves, Wayne and Danihelka, 2014 (arXiv 1410.5401), section 4.5: 20 vectors
    of 8 bits, the 16 highest; also Rae et al., 2016 (arXiv 1610.09027), section
    4.2. The number of outputs for other n is not given there.

  >>> episode = priority_sort(jax.random.key(0), 20)
  >>> episode.inputs.shape, episode.targets.shape, int(episode.mask.sum())
  ((37, 10), (37, 8), 16)
  """
  num_bits = checks.whole_number("num_bits", num_bits, least=1)
  max_outputs = checks.whole_number("max_outputs", max_outputs, least=1)
  max_inputs = checks.whole_number("max_inputs", max_inputs, least=max_outputs)
  if min_inputs is None:
    min_inputs = max_inputs
  min_inputs = checks.whole_number("min_inputs", min_inputs, least=1)
  number_key, priority_key, bits_key = jax.random.split(key, 3)
  number = _draw(number_key, level, min_inputs, max_inputs)
  x = _bits(bits_key, max_inputs, num_bits)
  p = jax.random.uniform(priority_key, (max_inputs,), minval=-1.0)
  is_shown = jnp.arange(max_inputs) < number
  order = jnp.argsort(jnp.where(is_shown, -p, jnp.inf))  # stable
  steps = jnp.arange(max_inputs + 1 + max_outputs)
  shown = _place(jnp.concatenate([x, p[:, None]], axis=1), steps, number)
  num_outputs = -(-number * max_outputs // max_inputs)
  since_end = steps - number - 1
  return Episode(
    jnp.concatenate([shown, _flag(steps == number)], axis=1),
    _place(x[order], since_end, num_outputs),
    _inside(since_end, num_outputs),
  )


# Name -> its function, and the sizes whose maximum is the hardest level.
_TASKS: dict[str, tuple[Any, tuple[str, ...]]] = {
  "copy": (copy, ("max_length",)),
  "repeat_copy": (repeat_copy, ("max_length", "max_repeats")),
  "associative_recall": (associative_recall, ("max_items",)),
  "priority_sort": (priority_sort, ("max_inputs",)),
}


def task(
  name: str, max_level: int | None = None, **sizes: int
) -> sequences.Task:
  """Makes a task of one of this module's functions.

  Args:
    name: "copy", "repeat_copy", "associative_recall" or "priority_sort".
    max_level: the hardest level, which sets the corresponding sizes; sorting
      then has four fifths as many outputs, as in the paper. None: the
      function's default.
    **sizes: keyword arguments of that function.

  Returns:
    The task; test and training episodes have the same distribution, data is ().

  Raises:
    ValueError: there is no such task, or a size is invalid for its function.

  >>> recall = task("associative_recall", 10)
  >>> recall.num_inputs, recall.num_outputs, recall.max_level
  (8, 6, 10)
  """
  if name not in _TASKS:
    raise ValueError(f"name={name!r} is unknown; known: {', '.join(_TASKS)}.")
  function, bounds = _TASKS[name]
  if max_level is not None:
    max_level = checks.whole_number("max_level", max_level, least=1)
    sizes = dict.fromkeys(bounds, max_level) | sizes
    if name == "priority_sort":
      sizes.setdefault("max_outputs", math.ceil(0.8 * max_level))
  sizes = {**function.__kwdefaults__, **sizes}

  def sample(key, level, data):
    del data
    return function(key, level, **sizes)

  shapes = jax.eval_shape(lambda: sample(jax.random.key(0), 1, ()))
  return sequences.Task(
    num_inputs=shapes.inputs.shape[1],
    num_outputs=shapes.targets.shape[1],
    num_steps=shapes.inputs.shape[0],
    max_level=max(sizes[bound] for bound in bounds),
    sample=sample,
    test=sample,
    loss=sequences.bit_loss,
    error=sequences.bit_errors,
  )


def _draw(
  key: jax.Array, level: int | jax.Array, least: int, most: int
) -> jax.Array:
  """Draws from U{min(least, level) .. level}."""
  high = sequences.clip_level(level, most)
  return jax.random.randint(key, (), jnp.minimum(least, high), high + 1)


def _bits(key: jax.Array, *shape: int) -> jax.Array:
  return jax.random.bernoulli(key, shape=shape).astype(jnp.float32)


def _inside(rows: jax.Array, length: int | jax.Array) -> jax.Array:
  return (rows >= 0) & (rows < length)


def _place(
  values: jax.Array, rows: jax.Array, length: int | jax.Array
) -> jax.Array:
  """Returns values[rows] where rows are in 0..length - 1, zeros elsewhere."""
  chosen = values[jnp.clip(rows, 0, len(values) - 1)]
  return jnp.where(_inside(rows, length)[:, None], chosen, 0.0)


def _flag(*channels: jax.Array) -> jax.Array:
  return jnp.stack(channels, axis=1).astype(jnp.float32)


def _items(
  key: jax.Array, number: jax.Array, *shape: int
) -> tuple[jax.Array, jax.Array]:
  """Draws a query index below number - 1, and items [n, l, bits].

  Items that equal the query by chance have their first bit flipped.
  """
  query_key, bits_key = jax.random.split(key)
  query = jax.random.randint(query_key, (), 0, number - 1)
  items = _bits(bits_key, *shape)
  equal = (items == items[query][None]).all((1, 2))
  twins = equal & (jnp.arange(len(items)) != query)
  first = items[:, 0, 0]
  return query, items.at[:, 0, 0].set(jnp.where(twins, 1 - first, first))
