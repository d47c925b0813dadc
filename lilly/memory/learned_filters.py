"""Filters of scores: a threshold, and a backup for what falls below it.

A network scores elements. Those above a threshold are said to be in the set,
and so are those that a classical filter holds, the backup: the members that
fall below. So there are no false negatives, whatever the scores are; the better
they are, the smaller the backup.
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
  "make_backup",
  "missed",
  "space",
]


def auc(members: jax.Array, non_members: jax.Array) -> jax.Array:
  """Measures how well scores separate: the area under the ROC curve.

  P(s > s') + P(s = s') / 2, of any member's score s and any non-member's s'.

  Args:
    members: scores of elements of the set, [n]; those that are not numbers
      pass no threshold, and count as the least.
    non_members: of others, [t]; of these they count as the largest.

  Returns:
    The area, []: 1 where a threshold separates all, 0.5 by chance. Time is
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
  """Finds the least threshold that few scores of no members are above.

  An answer is yes where a score is above the threshold. The paper has "not
  below": by that, a threshold among equal scores would let all of them in.

  Args:
    scores: of queries that are not in their sets, of many sets, [n]; one that
      is not a number counts as the largest.
    fpr: ε, which part of them may be above, from 0 to 1.

  Returns:
    τ, []: of all thresholds with at most ε n scores above them the least, so
    that most members are above; -inf where ε is 1.

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
  # A rate of 0.29 and 100 scores are 29, for all that products round: by one
  # place, or of millions of scores one too many would be let through.
  most = jnp.floor(jnp.asarray(fpr, jnp.float32) * (scores.size * (1 + 2**-23)))
  most = most.astype(jnp.int32)
  sorted_scores = jnp.sort(scores, descending=True)
  return sorted_scores.at[most].get(mode="fill", fill_value=-jnp.inf)


def missed(
  scores: jax.Array, threshold: jax.Array, *, margin: float = 1e-3
) -> jax.Array:
  """Tells which elements of a set need the backup.

  Args:
    scores: of elements of the set, after the last write, [...].
    threshold: τ, [].
    margin: so much above the threshold a score must be, times |τ| where that
      is more than 1: computed again, in another program or a batch of another
      size, it may differ by rounding. Of scores of few bits it is never less
      than rounding is. 0 is the paper's.

  Returns:
    Whether, booleans, [...]; also where a score is not a number. They are n_fn
    of `space`.

  Raises:
    ValueError: if the margin is negative.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304; the margin is ours.

  >>> missed(jnp.array([1.0, 2.0, 3.0]), jnp.array(2.0)).tolist()
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
  """Inserts what the network misses.

  Each write moves the scores of what was written before. So later elements of a
  set either go to the backup alone, by this, the memory left as it is; or all
  elements are scored by the new memory, and an empty backup is filled.

  Args:
    backup: a classical filter; `bloom.optimal_size` tells how large.
    elements: of the set, [n, ...].
    scores: of these, by the memory that will be queried, [n].
    threshold: τ, [].
    margin: as of `missed`.

  Returns:
    The backup.

  Raises:
    ValueError: as `missed`.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, section 3.

  >>> empty, few = bloom.init(jax.random.key(0), 40, 3), jnp.array([5, 7])
  >>> backup = fill_backup(empty, few, jnp.array([-1.0, 1.0]), jnp.array(0.0))
  >>> [bool(bloom.query(backup, x)) for x in few]
  [True, False]
  """
  chex.assert_shape(scores, elements.shape[:1])
  where = missed(scores, threshold, margin=margin)
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
  """Makes a backup of what the network misses, as large as that needs.

  Args:
    key: typed key; draws the hashes.
    elements: of the set, [n, ...].
    scores: of these, [n].
    threshold: τ, [].
    fpr: δ, of the backup, between 0 and 1.
    margin: as of `missed`.

  Returns:
    The backup. Its array has room for all elements, so that shapes do not
    depend on scores; it uses the first `num_bits`, as many as what is missed
    needs with as many hashes as are best for all n.

  Raises:
    ValueError: as `missed` and `bloom.optimal_size`.

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
  count = jnp.sum(missed(scores, threshold, margin=margin))
  # As `optimal_size`, of a count that is known when the program runs.
  is_zero = math.log1p(-(fpr ** (1 / num_hashes))) / num_hashes
  used = jnp.ceil(-1 / jnp.expm1(is_zero / jnp.maximum(count, 1)))
  # Whole before it is compared: a float next to `num_bits` may be more.
  used = jnp.minimum(used.astype(empty.num_bits.dtype), num_bits)
  empty = empty._replace(num_bits=used)
  return fill_backup(empty, elements, scores, threshold, margin=margin)


def contains(
  score: jax.Array,
  element: jax.Array,
  threshold: jax.Array,
  backup: bloom.State,
) -> jax.Array:
  """Answers: by the network, or by the backup.

  Args:
    score: of the element, [].
    element: as the backup's, [...].
    threshold: τ, [].
    backup: filled with what the network misses.

  Returns:
    Whether the element may be in the set, [] bool: always true where it is.

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
  """Returns the rate of false positives of the whole: ε + (1 - ε) δ.

  Args:
    fpr: ε, of the network, from 0 to 1, [].
    backup_fpr: δ, of the backup, from 0 to 1, []. With ε = δ = α / 2 the whole
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
  """Tells how many bits a set takes: 32 m W + n_fn log2(2/α) log2(e).

  The networks' weights, which all sets share, are not counted, nor is τ.

  Args:
    num_floats: how many numbers the memory has: of a Neural Bloom Filter m W,
      of a Memory Network n W.
    num_missed: n_fn, how many elements are in the backup.
    fpr: α, of the whole, between 0 and 1; half of it is the backup's.
    bits: of each number.

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
