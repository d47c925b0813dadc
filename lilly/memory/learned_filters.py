"""Learned filters: a score threshold, and a backup filter for missed members.

A network scores elements. Those above a threshold are classified as members, as
are those found in the backup, a classical filter that holds the members below
the threshold. So there are no false negatives, whatever the scores are; better
scores make the backup smaller.

A backup keeps its false-positive rate up to a number of elements, its capacity.
To add elements to a set later, ask for the room when making the backup.

All functions raise ValueError for arguments of another shape than stated. Whole
numbers count as float32.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lilly import checks
from lilly.memory import bloom

__all__ = [
  "Backup",
  "auc",
  "calibrate",
  "contains",
  "false_positive_rate",
  "fill_backup",
  "find_missed",
  "init",
  "make_backup",
  "space",
]


class Backup(NamedTuple):
  """A Bloom filter of the members that a network misses."""

  filter: bloom.State
  count: jax.Array  # number of elements inserted, int32 []
  # number of elements up to which the rate holds, int32 []; it is broken if
  # `count` is above
  capacity: jax.Array


def auc(members: jax.Array, non_members: jax.Array) -> jax.Array:
  """Computes how well scores separate members: the area under the ROC curve.

  P(s > s') + P(s = s') / 2, with s the score of a random member and s' that of
  a random non-member.

  Args:
    members: scores of members, [n]; NaN passes no threshold and counts as the
      lowest score.
    non_members: scores of non-members, [t]; NaN counts as the highest score.

  Returns:
    The area, []: 1 for perfect separation, 0.5 for chance. Time is
    O((n + t) log t). Piecewise constant: its gradient is 0.

  Raises:
    ValueError: if n or t is 0.

  Reference:
    Mann and Whitney (1947), Annals of Mathematical Statistics 18:50.

  >>> float(auc(jnp.array([1.0, 2.0]), jnp.array([0.0, 1.0])))
  0.875
  """
  members = checks.real("members", members, "n")
  non_members = checks.real("non_members", non_members, "t")
  for name, scores in (("members", members), ("non_members", non_members)):
    if not scores.size:
      raise ValueError(f"{name} has 0 items; give 1 or more.")
  ordered = jnp.sort(non_members)
  below, not_above = (
    jnp.searchsorted(ordered, members, side=side) for side in ("left", "right")
  )
  wide = jnp.promote_types(members.dtype, jnp.float32)
  parts = (below.astype(wide) + not_above.astype(wide)) / (2 * non_members.size)
  area = jnp.mean(jnp.where(jnp.isnan(members), 0, parts))
  return area.astype(members.dtype)


def calibrate(scores: jax.Array, *, fpr: float | jax.Array) -> jax.Array:
  """Finds the lowest threshold with a given false-positive rate.

  An element is classified as a member if its score is above the threshold. The
  paper has "at or above", by which a threshold among tied scores would admit
  all of them.

  Args:
    scores: scores of non-members, pooled over many sets, [n]; NaN counts as the
      highest score.
    fpr: ε, the fraction of them allowed above the threshold, from 0 to 1.

  Returns:
    τ, []: the lowest threshold with at most ε n scores above it, which admits
    the most members; -inf if ε is 1.

  Raises:
    ValueError: if n is 0, or ε is not from 0 to 1.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, section 3.

  >>> float(calibrate(jnp.array([1.0, 4.0, 2.0, 3.0]), fpr=0.25))
  3.0
  """
  scores = checks.real("scores", scores, "n")
  if not scores.size:
    raise ValueError("scores has 0 items; give 1 or more.")
  fpr = checks.number("fpr", fpr, least=0, most=1)
  # 0.29 of 100 scores is 29 despite rounding of the product: add one unit in
  # the last place. More would let one too many of millions of scores pass.
  most = jnp.floor(jnp.asarray(fpr, jnp.float32) * (scores.size * (1 + 2**-23)))
  most = most.astype(jnp.int32)
  sorted_scores = jnp.sort(scores, descending=True)
  return sorted_scores.at[most].get(mode="fill", fill_value=-jnp.inf)


def find_missed(
  scores: jax.Array, threshold: jax.Array, *, margin: float = 1e-3
) -> jax.Array:
  """Computes which members need the backup.

  Args:
    scores: scores of members, after the last write, [...].
    threshold: τ, [].
    margin: how far above the threshold a score must be, relative to
      max(1, |τ|): recomputed in another program or batch size, a score may
      change by rounding. A positive margin is raised to at least the rounding
        error of the dtype. 0 is the paper's.

  Returns:
    Booleans, [...]; true also if a score is NaN. Their count is n_fn in
    `space`.

  Raises:
    ValueError: if the margin is negative.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304; the margin is ours.

  >>> find_missed(jnp.array([1.0, 2.0, 3.0]), jnp.array(2.0)).tolist()
  [True, True, False]
  """
  scores = checks.real("scores", scores, "...")
  threshold = checks.real("threshold", threshold, "")
  margin = float(checks.number("margin", margin, least=0))
  limits = jnp.finfo(threshold.dtype)
  if margin:
    margin = max(margin, 4 * float(limits.eps))
  # Infinite thresholds stay what they are.
  scale = jnp.clip(jnp.abs(threshold), 1, limits.max)
  return ~(scores > threshold + margin * scale)


def init(key: jax.Array, capacity: int, *, fpr: float) -> Backup:
  """Creates an empty backup.

  Args:
    key: typed PRNG key for the hash functions.
    capacity: number of elements up to which the rate holds.
    fpr: false-positive rate δ, between 0 and 1.

  Returns:
    The backup.

  Raises:
    ValueError: as `bloom.optimal_size`.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, section 3.

  >>> int(init(jax.random.key(0), 100, fpr=0.01).filter.num_bits)
  960
  """
  capacity = checks.whole_number("capacity", capacity, most=2**31 - 1)
  num_bits, num_hashes = bloom.optimal_size(capacity, fpr)
  return Backup(
    bloom.init(key, num_bits, num_hashes), jnp.int32(0), jnp.int32(capacity)
  )


def fill_backup(
  backup: Backup,
  elements: jax.Array,
  scores: jax.Array,
  threshold: jax.Array,
  *,
  margin: float = 1e-3,
) -> Backup:
  """Inserts the members that the network misses into the backup.

  Each write changes the scores of elements written before. So to add elements
  to a set, either insert them into the backup only, which needs the room for
  them, and leave the memory as it is; or rescore all elements with the new
  memory and make a new backup.

  Args:
    backup: the backup.
    elements: members of the set, [n, ...].
    scores: their scores under the memory that will be queried, [n].
    threshold: τ, [].
    margin: see `find_missed`.

  Returns:
    The backup. Members that are found in it already take no room; those that
    occur twice in `elements` count twice. Inside `jit` nothing can be raised:
    `count` above `capacity` tells that the rate is broken. Members are found
    all the same.

  Raises:
    ValueError: as `find_missed`, or if the backup would hold more elements than
      it has room for (where their number is known: outside `jit`).

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, section 3.

  >>> empty, few = init(jax.random.key(0), 2, fpr=0.01), jnp.array([5, 7])
  >>> backup = fill_backup(empty, few, jnp.array([-1.0, 1.0]), jnp.array(0.0))
  >>> [bool(bloom.query(backup.filter, x)) for x in few]
  [True, False]
  """
  backup = _checked_backup(backup)
  elements, scores = _elements_and_scores(elements, scores)
  where = find_missed(scores, threshold, margin=margin)
  # What the filter finds sets no bit.
  is_found = jax.vmap(bloom.query, (None, 0))(backup.filter, elements)
  is_new = where & ~is_found
  count = backup.count + jnp.sum(is_new, dtype=jnp.int32)
  _check_room(count, backup.capacity)
  filled = bloom.insert(backup.filter, elements, where=is_new)
  return Backup(filled, count, backup.capacity)


def _checked_backup(backup):
  words = checks.integers("backup.filter.words", backup.filter.words, "w")
  num_bits = checks.integers(
    "backup.filter.num_bits", backup.filter.num_bits, ""
  )
  seeds = checks.integers("backup.filter.seeds", backup.filter.seeds, "k")
  count = checks.integers("backup.count", backup.count, "")
  capacity = checks.integers("backup.capacity", backup.capacity, "")
  return Backup(bloom.State(words, num_bits, seeds), count, capacity)


def _elements_and_scores(elements, scores):
  elements = checks.array("elements", elements, "...")
  if not elements.ndim:
    raise ValueError("elements is a scalar; it must be an array of elements.")
  sizes = {"n": (len(elements), "elements")}
  return elements, checks.real("scores", scores, "n", sizes)


def _check_room(count, capacity):
  """Raises an error if a backup is too full, where this is known."""
  count, capacity = checks.known(count), checks.known(capacity)
  if count is not None and capacity is not None and count > capacity:
    raise ValueError(
      f"backup would hold {count} elements, and has room for {capacity}: make "
      "one of larger capacity."
    )


def make_backup(
  key: jax.Array,
  elements: jax.Array,
  scores: jax.Array,
  threshold: jax.Array,
  *,
  fpr: float,
  capacity: int | None = None,
  margin: float = 1e-3,
) -> Backup:
  """Creates a backup of the members that the network misses.

  Args:
    key: typed PRNG key for the hash functions.
    elements: members of the set, [n, ...].
    scores: their scores, [n].
    threshold: τ, [].
    fpr: false-positive rate δ of the backup, between 0 and 1.
    capacity: number of elements up to which the rate holds: of those missed now
      and of those that are to be inserted later. None: as many as are missed
      now, with no room for later ones.
    margin: see `find_missed`.

  Returns:
    The backup. With a capacity of None its array has room for all elements, so
    that shapes do not depend on scores, but only the first `num_bits` are used:
    as many as the missed members need with the number of hash functions that is
    optimal for n.

  Raises:
    ValueError: as `fill_backup` and `bloom.optimal_size`.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, section 3.

  >>> few, scores = jnp.array([5, 7]), jnp.array([-1.0, 1.0])
  >>> backup = make_backup(
  ...   jax.random.key(0), few, scores, jnp.array(0.0), fpr=0.01
  ... )
  >>> [bool(bloom.query(backup.filter, x)) for x in few]
  [True, False]
  """
  elements, scores = _elements_and_scores(elements, scores)
  if capacity is not None:
    empty = init(key, capacity, fpr=fpr)
    return fill_backup(empty, elements, scores, threshold, margin=margin)
  empty = init(key, len(elements), fpr=fpr)
  where = find_missed(scores, threshold, margin=margin)
  count = jnp.sum(where, dtype=jnp.int32)
  used = _bits_for(count, empty.filter, float(fpr))
  empty_filter = empty.filter._replace(num_bits=used)
  filled = bloom.insert(empty_filter, elements, where=where)
  return Backup(filled, count, count)


def _bits_for(count, empty, fpr):
  """As `optimal_size`, for a count known only at run time."""
  num_hashes = len(empty.seeds)
  is_zero = math.log1p(-(fpr ** (1 / num_hashes))) / num_hashes
  used = jnp.ceil(-1 / jnp.expm1(is_zero / jnp.maximum(count, 1)))
  # Cast before comparing: the float nearest to `num_bits` may exceed it.
  return jnp.minimum(used.astype(empty.num_bits.dtype), empty.num_bits)


def contains(
  score: jax.Array,
  element: jax.Array,
  threshold: jax.Array,
  backup: Backup,
) -> jax.Array:
  """Tests whether an element may be in the set, by network or backup.

  Args:
    score: score of the element, [].
    element: shaped as the backup's elements, [...].
    threshold: τ, [].
    backup: backup that holds the members that the network misses.

  Returns:
    Bool []; always true for members.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, section 3.

  >>> backup = init(jax.random.key(0), 4, fpr=0.01)
  >>> bool(contains(jnp.array(2.0), jnp.array(5), jnp.array(0.0), backup))
  True
  """
  score = checks.real("score", score, "")
  threshold = checks.real("threshold", threshold, "")
  backup = _checked_backup(backup)
  return (score > threshold) | bloom.query(backup.filter, element)


def false_positive_rate(
  fpr: float | jax.Array, backup_fpr: float | jax.Array
) -> jax.Array:
  """Computes the false-positive rate of network and backup: ε + (1 - ε) δ.

  Args:
    fpr: ε, of the network, from 0 to 1, [].
    backup_fpr: δ, of the backup, from 0 to 1, []. With ε = δ = α / 2 the total
      is at most α.

  Returns:
    The rate, [].

  Raises:
    ValueError: if a rate is not from 0 to 1.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, section 3.

  >>> float(false_positive_rate(0.5, 0.5))
  0.75
  """
  fpr = checks.number("fpr", fpr, least=0, most=1)
  backup_fpr = checks.number("backup_fpr", backup_fpr, least=0, most=1)
  return jnp.asarray(fpr + (1 - fpr) * backup_fpr)


def space(
  num_floats: float | jax.Array,
  num_missed: float | jax.Array,
  *,
  fpr: float | jax.Array,
  bits: int = 32,
) -> jax.Array:
  """Computes the bits required by a set: 32 m W + n_fn log2(2/α) log2(e).

  Network weights, which all sets share, and τ are not counted.

  Args:
    num_floats: numbers in the memory: m W for a Neural Bloom Filter, n W for a
      Memory Network.
    num_missed: n_fn, number of elements that the backup has room for: those
      missed, unless it was given a capacity.
    fpr: total false-positive rate α, between 0 and 1; half of it is the
      backup's.
    bits: bits per number.

  Returns:
    Bits, [].

  Raises:
    ValueError: if a number is out of range.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, section 5.1.

  >>> float(space(8 * 4, 0, fpr=0.01))
  1024.0
  """
  num_floats = checks.number("num_floats", num_floats, least=0)
  num_missed = checks.number("num_missed", num_missed, least=0)
  fpr = checks.number("fpr", fpr, above=0, below=1)
  bits = checks.whole_number("bits", bits, least=1)
  return 1.0 * bits * num_floats + bloom.space(num_missed, fpr / 2)
