"""Sets and non-members, for memories that answer membership queries.

A subset of a universe is drawn as the set, other elements as non-members. A
filter can learn the structure that the sets share:

| kind | the set | non-members |
| --- | --- | --- |
| classes | elements of one class | elements of the other classes |
| uniform | any elements | any others |
| nonuniform | any elements, the first ones more often | any others |
| ranges | consecutive sorted keys | any others |

With classes, elements of the set's class outside the set are never queried.
"""

import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lilly import checks
from lilly.tasks import image_episodes

__all__ = [
  "KINDS",
  "NAMES",
  "Episode",
  "Task",
  "draw_noisy_class",
  "draw_queries",
  "draw_range",
  "draw_same_class",
  "draw_weighted",
  "make_sorted_keys",
  "task",
]

KINDS = ("classes", "uniform", "nonuniform", "ranges")
_IMAGES = tuple(n for n, is_binary in image_episodes.NAMES.items() if is_binary)
NAMES = ("bits", *_IMAGES)
_LETTERS = 26
_LEAST_BITS = 32


class Episode(NamedTuple):
  """A set, and elements that are not in it."""

  members: jax.Array  # [n, ...]
  non_members: jax.Array  # [t, ...]


class Task(NamedTuple):
  """A source of sets, and the form of their elements."""

  shape: tuple[int, ...]  # shape of an element, floats
  # sample(key, data, num_members, num_non_members) -> an episode; the last two
  # arguments are static; raises ValueError if there are too few elements
  sample: Callable[..., Episode]
  # test(key, data, num_members, num_non_members) -> likewise, held-out elements
  test: Callable[..., Episode]
  data: Any


def draw_queries(
  key: jax.Array, episode: Episode, num_queries: int
) -> tuple[jax.Array, jax.Array]:
  """Draws queries of an episode: members first, then non-members.

  Args:
    key: typed key.
    episode: a set and at least floor(t / 2) non-members.
    num_queries: number of queries, t; ceil(t / 2) are members, drawn with
      replacement from the set.

  Returns:
    Queries, [t, ...], and whether each is a member, bool [t].

  Raises:
    ValueError: there are too few non-members, no members, or t is not positive.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, section 5: half of the
    queries are members.

  >>> sets = Episode(jnp.ones((3, 1)), jnp.zeros((2, 1)))
  >>> drawn, labels = draw_queries(jax.random.key(0), sets, 4)
  >>> drawn[:, 0].tolist(), labels.tolist()
  ([1.0, 1.0, 0.0, 0.0], [True, True, False, False])
  """
  num_queries = checks.whole_number("num_queries", num_queries, least=1)
  episode = jax.tree.map(jnp.asarray, episode)
  others = num_queries // 2
  if others > len(episode.non_members):
    raise ValueError(
      f"num_queries is {num_queries}, with {len(episode.non_members)} "
      f"non-members; give {others}."
    )
  if not len(episode.members):
    raise ValueError("episode has 0 members; give 1 or more.")
  count = num_queries - others
  rows = jax.random.randint(key, (count,), 0, len(episode.members))
  drawn = jnp.concatenate([episode.members[rows], episode.non_members[:others]])
  return drawn, jnp.arange(num_queries) < count


def draw_noisy_class(
  key: jax.Array,
  prototypes: jax.Array,
  num_members: int,
  num_non_members: int,
  *,
  flip: float = 0.15,
) -> Episode:
  """Draws bit vectors of one class and of others: noisy class prototypes.

  Args:
    key: typed key.
    prototypes: bits of one prototype per class, [C, ...], C at least 2.
    num_members: number of members, n.
    num_non_members: number of non-members, t, each of any other class.
    flip: probability of flipping a bit.

  Returns:
    The episode, floats. With 64 bits duplicates are unlikely; with few bits,
    non-members may equal members.

  Raises:
    ValueError: there are fewer than 2 classes, or flip is not a probability.

  >>> sets = draw_noisy_class(jax.random.key(0), jnp.eye(2), 2, 1, flip=0.0)
  >>> bool(jnp.all(sets.members + sets.non_members == 1))
  True
  """
  if len(prototypes) < 2:
    raise ValueError(f"prototypes has {len(prototypes)} classes; give 2.")
  key_class, key_flip = jax.random.split(key)
  first, others = _classes(key_class, len(prototypes), num_non_members)
  chosen = jnp.append(jnp.repeat(first, num_members), others)
  images = jnp.asarray(prototypes)[chosen].astype(jnp.float32)
  images = image_episodes.flip(key_flip, images, flip)
  return Episode(images[:num_members], images[num_members:])


def _classes(key, num_classes, count):
  """Draws a class, [], and others with replacement, [count]."""
  key_one, key_others = jax.random.split(key)
  first = jax.random.randint(key_one, (), 0, num_classes)
  others = jax.random.randint(key_others, (count,), 0, num_classes - 1)
  return first, others + (others >= first)


def draw_same_class(
  key: jax.Array,
  part: image_episodes.Part,
  num_members: int,
  num_non_members: int,
) -> Episode:
  """Draws images of one class, and images of the others.

  Args:
    key: typed key.
    part: images, sorted by class.
    num_members: number of members, n, at most the size of the smallest class.
    num_non_members: number of non-members, t, drawn with replacement from the
      images of the other classes.

  Returns:
    The episode, floats from 0 to 1; members are distinct.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, section 5.1.

  >>> part = image_episodes.task("digits").data[0]
  >>> sets = draw_same_class(jax.random.key(0), part, 5, 3)
  >>> sets.members.shape, sets.non_members.shape
  ((5, 8, 8, 1), (3, 8, 8, 1))
  """
  key_class, key_rows, key_others = jax.random.split(key, 3)
  of_class = jax.random.randint(key_class, (), 0, len(part.starts) - 1)
  starts = jnp.asarray(part.starts)
  first, end = starts[of_class], starts[of_class + 1]
  bits = jax.random.bits(key_rows, (2, num_members))
  rows = first + image_episodes.sample_below(bits, end - first)
  others = _outside(key_others, num_non_members, len(part.labels), first, end)
  scaled = lambda rows: jnp.asarray(part.images)[rows].astype(jnp.float32) / 255
  return Episode(scaled(rows), scaled(others))


def _outside(key, count, size, first, end):
  """Draws numbers below size, except first to end - 1."""
  rows = jax.random.randint(key, (count,), 0, size - (end - first))
  return rows + jnp.where(rows >= first, end - first, 0)


def draw_weighted(
  key: jax.Array,
  size: int,
  num_members: int,
  num_non_members: int,
  *,
  decay: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
  """Draws members with decaying probabilities, and uniform non-members.

  Member i is drawn with probability proportional to decay^i, without
  replacement. Non-members are drawn uniformly from the rest.

  Args:
    key: typed key.
    size: size of the universe, U.
    num_members: number of members, n.
    num_non_members: number of non-members, t.
    decay: above 0 and at most 1, where all are equally likely.

  Returns:
    Indices of members, [n], and of non-members, [t], all distinct. Takes
    O(U log U) time.

  Raises:
    ValueError: the universe has fewer than n + t elements, or decay is not
      above 0 and at most 1.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, section 5.1: 0.999.
    Sampling without replacement by the Gumbel-top-k trick: Kool et al. (2019),
    arXiv:1903.06059.

  >>> members, non_members = draw_weighted(jax.random.key(0), 5, 3, 2)
  >>> sorted([*members.tolist(), *non_members.tolist()])
  [0, 1, 2, 3, 4]
  """
  size = checks.whole_number("size", size, least=1)
  num_members = checks.whole_number("num_members", num_members)
  num_non_members = checks.whole_number("num_non_members", num_non_members)
  decay = checks.number("decay", decay, above=0, most=1)
  if num_members + num_non_members > size:
    raise ValueError(
      f"A universe of {size} elements has no {num_members} members and "
      f"{num_non_members} non-members."
    )
  key_members, key_non_members = jax.random.split(key)
  scores = jax.random.gumbel(key_members, (size,))
  scores += jnp.log(jnp.float32(decay)) * jnp.arange(size)
  _, members = jax.lax.top_k(scores, num_members)
  scores = jax.random.uniform(key_non_members, (size,))
  _, non_members = jax.lax.top_k(scores.at[members].set(-1.0), num_non_members)
  return members, non_members


def draw_range(
  key: jax.Array, size: int, num_members: int, num_non_members: int
) -> tuple[jax.Array, jax.Array]:
  """Draws a range of consecutive members, and non-members outside it.

  Args:
    key: typed key.
    size: size of the universe, more than n.
    num_members: number of members, n.
    num_non_members: number of non-members, t, drawn with replacement.

  Returns:
    Indices of members, ascending, [n], and of non-members, [t].

  Raises:
    ValueError: the universe has at most n elements.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, section 5.4.

  >>> members, non_members = draw_range(jax.random.key(0), 4, 3, 1)
  >>> sorted([*members.tolist(), *non_members.tolist()])
  [0, 1, 2, 3]
  """
  size = checks.whole_number("size", size, least=1)
  num_members = checks.whole_number("num_members", num_members)
  num_non_members = checks.whole_number("num_non_members", num_non_members)
  if num_members >= size:
    raise ValueError(
      f"A universe of {size} elements has no non-members beside {num_members} "
      "members."
    )
  key_first, key_others = jax.random.split(key)
  first = jax.random.randint(key_first, (), 0, size - num_members + 1)
  end = first + num_members
  members = first + jnp.arange(num_members)
  return members, _outside(key_others, num_non_members, size, first, end)


def make_sorted_keys(key: jax.Array, count: int, length: int) -> np.ndarray:
  """Draws distinct random words, in alphabetical order.

  Letters are independent; the k-th most frequent of 26 has probability
  proportional to 1 / k, in a random ranking of the letters. So words are dense
  in some ranges and sparse in others.

  Args:
    key: typed key.
    count: number of words.
    length: letters per word.

  Returns:
    Letters, 0 to 25, uint8 [count, length].

  Raises:
    ValueError: there are fewer distinct words, because length is too small.

  >>> words = make_sorted_keys(jax.random.key(0), 4, 3)
  >>> words.shape, words.tolist() == sorted(words.tolist())
  ((4, 3), True)
  """
  count = checks.whole_number("count", count, least=1)
  length = checks.whole_number("length", length, least=1)
  key_order, key_words, key_chosen = jax.random.split(key, 3)
  order = jax.random.permutation(key_order, _LETTERS)
  weights = 1 / jnp.arange(1, _LETTERS + 1)
  drawn_letters = jax.random.choice(
    key_words, _LETTERS, (4 * count, length), p=weights / weights.sum()
  )
  words = np.unique(np.asarray(order[drawn_letters], np.uint8), axis=0)
  if len(words) < count:
    raise ValueError(
      f"length is {length}; it is too small for {count} distinct words."
    )
  chosen = jax.random.permutation(key_chosen, len(words))[:count]
  return words[np.sort(np.asarray(chosen))]


def task(
  kind: str = "classes",
  name: str = "bits",
  data_dir: str | os.PathLike[str] | None = None,
  *,
  universe: int = 1000,
  num_bits: int = 64,
  num_letters: int = 8,
) -> Task:
  """Makes a task of telling members of a set from non-members.

  Args:
    kind: one of `KINDS`; see the table above. nonuniform is tested on the
      training elements, as in the paper, because their frequencies are learnt.
    name: the elements. "bits": for classes, 10 prototypes with 15 % of the bits
      flipped at random; else a universe of random bit vectors. Or a task of
      `image_episodes` with binary pixels, whose images are the universe. For
      ranges, omit it: their elements are one-hot words.
    data_dir: as in `image_episodes.task`.
    universe: number of training elements, and of test elements, for ranges and
      for bits without classes.
    num_bits: bits of a vector; with classes at least 32, since non-members
      would often equal members otherwise.
    num_letters: letters of a word.

  Returns:
    The task. Bits and words come from a fixed seed.

  Raises:
    ValueError: there is no such kind or name, or a size is out of range.
    FileNotFoundError: data_dir does not exist or lacks a file.
    DataError: the data set is unavailable; see `datasets.load`.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, section 5. Their
    database keys are words from a newspaper corpus that is not free.
  """
  least = _LEAST_BITS if (kind, name) == ("classes", "bits") else 1
  _check(kind, name, universe=(universe, 2), num_bits=(num_bits, least))
  _check(kind, name, num_letters=(num_letters, 1))
  key = jax.random.key(0)
  if kind == "ranges":
    if name != "bits":
      raise ValueError(f"name is {name!r}; elements of ranges are words only.")
    words = make_sorted_keys(key, 2 * universe, num_letters)
    return _by_number(draw_range, (words[::2], words[1::2]), _one_hot)
  if name == "bits" and kind == "classes":
    prototypes = _bits(key, 10, num_bits)
    sample = draw_noisy_class
    return Task((num_bits,), sample, sample, prototypes)
  if name == "bits":
    parts = np.split(_bits(key, 2 * universe, num_bits), 2)
    return _of_universe(kind, parts, lambda x: x.astype(jnp.float32))
  images = image_episodes.task(name, data_dir)
  found = [_distinct(part) for part in images.data]
  if kind == "classes":
    return _of_classes(images.shape, found)
  scaled = lambda x: x.astype(jnp.float32) / 255
  return _of_universe(kind, [part.images for part in found], scaled)


def _of_universe(kind, parts, scaled):
  if kind == "uniform":
    return _by_number(draw_weighted, parts, scaled)
  # Shuffled: images are sorted, so the frequent ones would share a class.
  order = jax.random.permutation(jax.random.key(0), len(parts[0]))
  first = parts[0][np.asarray(order)]
  draw = functools.partial(draw_weighted, decay=0.999)
  return _by_number(draw, (first, first), scaled)


def _check(kind, name, **sizes):
  for given, value, known in (("kind", kind, KINDS), ("name", name, NAMES)):
    if value not in known:
      names = ", ".join(known)
      raise ValueError(f"{given}={value!r} is unknown; known: {names}.")
  for size, (value, least) in sizes.items():
    checks.whole_number(size, value, least=least)


def _bits(key, count, num_bits):
  """Draws distinct bit vectors."""
  found = np.asarray(jax.random.bernoulli(key, shape=(4 * count, num_bits)))
  _, rows = np.unique(found, axis=0, return_index=True)
  if len(rows) < count:
    raise ValueError(
      f"num_bits is {num_bits}; it is too small for {count} distinct vectors."
    )
  return found[np.sort(rows)[:count]].astype(np.uint8)


def _distinct(part):
  """Drops duplicate images, across classes too."""
  images, labels = np.asarray(part.images), np.asarray(part.labels)
  packed = np.packbits(images.reshape(len(images), -1) > 0, axis=1)
  whole = packed.view(np.dtype((np.void, packed.shape[1])))
  rows = np.sort(np.unique(whole[:, 0], return_index=True)[1])
  _, starts = np.unique(labels[rows], return_index=True)
  starts = np.append(starts, len(rows)).astype(np.int32)
  arrays: Any = images[rows], labels[rows], starts
  return image_episodes.Part(*arrays)


def _one_hot(letters):
  return jax.nn.one_hot(letters, _LETTERS)


def _of_classes(shape, parts):
  def of_part(number):
    smallest = int(np.diff(parts[number].starts).min())

    def sample(key, data, num_members, num_non_members):
      if num_members > smallest:
        raise ValueError(
          f"The smallest class has {smallest} images, not {num_members}."
        )
      return draw_same_class(key, data[number], num_members, num_non_members)

    return sample

  return Task(shape, of_part(0), of_part(1), tuple(parts))


def _by_number(draw, parts, scaled):
  """Makes a task from a function that draws indices of elements."""

  def of_part(number):
    def sample(key, data, num_members, num_non_members):
      part = jnp.asarray(data[number])
      rows = draw(key, len(part), num_members, num_non_members)
      return Episode(*(scaled(part[chosen]) for chosen in rows))

    return sample

  shape = jax.eval_shape(scaled, parts[0][:1]).shape[1:]
  return Task(shape, of_part(0), of_part(1), parts)
