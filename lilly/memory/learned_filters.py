"""Learned filters: a score threshold, and a backup filter for missed members.

A network scores elements. Those above a threshold are classified as members, as
are those found in the backup, a classical filter that holds the members below
the threshold. So there are no false negatives, whatever the scores are; better
scores make the backup smaller.
"""

import math
import numbers

import chex
import jax
import jax.numpy as jnp

from lilly.memory import bloom

__all__ = [
  "auc",
  "calibrate",
  "contains",
  "false_positive_rate",
  "fill_backup",
  "find_missed",
  "make_backup",
  "space",
]


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
    O((n + t) log t).

  Raises:
    ValueError: if n or t is 0.

  Reference:
    Mann and Whitney (1947), Annals of Mathematical Statistics 18:50.

  >>> float(auc(jnp.array([1.0, 2.0]), jnp.array([0.0, 1.0])))
  0.875
  """
  chex.assert_rank([members, non_members], 1)
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
  is_float = jnp.issubdtype(members.dtype, jnp.floating)
  return area.astype(members.dtype) if is_float else area


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
    ValueError: if n is 0, or ε is a number that is not from 0 to 1.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, section 3.

  >>> float(calibrate(jnp.array([1.0, 4.0, 2.0, 3.0]), fpr=0.25))
  3.0
  """
  chex.assert_rank(scores, 1)
  if not scores.size:
    raise ValueError("scores has 0 items; give 1 or more.")
  _check_rate("fpr", fpr)
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
  if not margin >= 0:
    raise ValueError(f"margin is {margin}; it must not be negative.")
  threshold = jnp.asarray(threshold)
  limits = jnp.finfo(threshold.dtype)
  if margin:
    margin = max(margin, 4 * float(limits.eps))
  # Infinite thresholds stay what they are.
  scale = jnp.clip(jnp.abs(threshold), 1, limits.max)
  return ~(scores > threshold + margin * scale)


def fill_backup(
  backup: bloom.State,
  elements: jax.Array,
  scores: jax.Array,
  threshold: jax.Array,
  *,
  margin: float = 1e-3,
) -> bloom.State:
  """Inserts the members that the network misses into the backup.

  Each write changes the scores of elements written before. So to add elements
  to a set, either insert them into the backup only and leave the memory as it
  is; or rescore all elements with the new memory and fill an empty backup.

  Args:
    backup: a Bloom filter; see `bloom.optimal_size` for its size.
    elements: members of the set, [n, ...].
    scores: their scores under the memory that will be queried, [n].
    threshold: τ, [].
    margin: see `find_missed`.

  Returns:
    The backup.

  Raises:
    ValueError: as `find_missed`.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, section 3.

  >>> empty, few = bloom.init(jax.random.key(0), 40, 3), jnp.array([5, 7])
  >>> backup = fill_backup(empty, few, jnp.array([-1.0, 1.0]), jnp.array(0.0))
  >>> [bool(bloom.query(backup, x)) for x in few]
  [True, False]
  """
  chex.assert_shape(scores, elements.shape[:1])
  where = find_missed(scores, threshold, margin=margin)
  return bloom.insert(backup, elements, where=where)


def make_backup(
  key: jax.Array,
  elements: jax.Array,
  scores: jax.Array,
  threshold: jax.Array,
  *,
  fpr: float,
  margin: float = 1e-3,
) -> bloom.State:
  """Creates a backup of the members that the network misses, sized to fit.

  Args:
    key: typed PRNG key for the hash functions.
    elements: members of the set, [n, ...].
    scores: their scores, [n].
    threshold: τ, [].
    fpr: false-positive rate δ of the backup, between 0 and 1.
    margin: see `find_missed`.

  Returns:
    The backup. Its array has room for all elements, so that shapes do not
    depend on scores. Only the first `num_bits` are used, as many as the missed
    members need with the number of hash functions that is optimal for n.

  Raises:
    ValueError: as `find_missed` and `bloom.optimal_size`.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, section 3.

  >>> few, scores = jnp.array([5, 7]), jnp.array([-1.0, 1.0])
  >>> backup = make_backup(
  ...   jax.random.key(0), few, scores, jnp.array(0.0), fpr=0.01
  ... )
  >>> [bool(bloom.query(backup, x)) for x in few]
  [True, False]
  """
  num_bits, num_hashes = bloom.optimal_size(len(elements), fpr)
  empty = bloom.init(key, num_bits, num_hashes)
  count = jnp.sum(find_missed(scores, threshold, margin=margin))
  # As in `optimal_size`, for a count known only at run time.
  is_zero = math.log1p(-(fpr ** (1 / num_hashes))) / num_hashes
  used = jnp.ceil(-1 / jnp.expm1(is_zero / jnp.maximum(count, 1)))
  # Cast before comparing: the float nearest to `num_bits` may exceed it.
  used = jnp.minimum(used.astype(empty.num_bits.dtype), num_bits)
  empty = empty._replace(num_bits=used)
  return fill_backup(empty, elements, scores, threshold, margin=margin)


def contains(
  score: jax.Array,
  element: jax.Array,
  threshold: jax.Array,
  backup: bloom.State,
) -> jax.Array:
  """Tests whether an element may be in the set, by network or backup.

  Args:
    score: score of the element, [].
    element: shaped as the backup's elements, [...].
    threshold: τ, [].
    backup: filter filled with the members that the network misses.

  Returns:
    Bool []; always true for members.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, section 3.

  >>> backup = bloom.init(jax.random.key(0), 40, 3)
  >>> bool(contains(jnp.array(2.0), jnp.array(5), jnp.array(0.0), backup))
  True
  """
  chex.assert_rank([score, threshold], 0)
  return (score > threshold) | bloom.query(backup, element)


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
    ValueError: if a rate is a number that is not from 0 to 1.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, section 3.

  >>> float(false_positive_rate(0.5, 0.5))
  0.75
  """
  _check_rate("fpr", fpr)
  _check_rate("backup_fpr", backup_fpr)
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
    num_missed: n_fn, number of elements in the backup.
    fpr: total false-positive rate α, between 0 and 1; half of it is the
      backup's.
    bits: bits per number.

  Returns:
    Bits, [].

  Raises:
    ValueError: if α is a number that is not between 0 and 1.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, section 5.1.

  >>> float(space(8 * 4, 0, fpr=0.01))
  1024.0
  """
  if isinstance(fpr, numbers.Real) and not 0 < float(fpr) < 1:
    raise ValueError(f"fpr is {fpr}; it must be between 0 and 1.")
  return 1.0 * bits * num_floats + bloom.space(num_missed, fpr / 2)


def _check_rate(name, value):
  if isinstance(value, numbers.Real) and not 0 <= float(value) <= 1:
    raise ValueError(f"{name} is {value}; it must be from 0 to 1.")
