"""Trains Neural Bloom Filters, and evaluates them with their backup.

Training, by `descent.make`, is of a memory of sets, any of `nets.filters`.
Evaluation is of a filter without false negatives: the memory's scores, a
threshold, and a Bloom filter of the members below it.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lilly.learners import descent
from lilly.memory import bloom, learned_filters, neural_bloom
from lilly.nets import set_memories
from lilly.nets.set_memories import SetMemory
from lilly.tasks import membership

__all__ = [
  "Counts",
  "count_answers",
  "count_bloom_answers",
  "evaluate",
  "evaluate_bloom",
  "make_loss",
  "make_observe",
  "score",
]

# Maps a key to an evaluation set of fixed size.
Draw = Callable[[jax.Array], membership.Episode]


class Counts(NamedTuple):
  """Counts of one filter's answers."""

  missed: jax.Array  # members stored in the backup, int32 []
  false_negatives: jax.Array  # members that are not found, int32 []
  false_positive_rate: jax.Array  # fraction of non-members found, []


def make_loss(memory: SetMemory, *, num_queries: int = 32) -> descent.Loss:
  """Makes the loss of an episode: of queries after writing the set.

  Args:
    memory: one of `nets.filters`.
    num_queries: number of queries, t; half, rounded up, are members.

  Returns:
    Maps key, parameters, state and an episode with at least t // 2 non-members
    to the loss, in nats per query, and metrics: loss, accuracy (fraction of
    queries answered correctly at a threshold of 0).

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, algorithm 2.
  """

  def loss(key, params, state, episode):
    queries, labels = membership.draw_queries(key, episode, num_queries)
    _, logits = set_memories.recall(
      memory, params, state, episode.members, queries
    )
    value = neural_bloom.loss(logits, labels)
    accuracy = jnp.mean((logits > 0) == labels)
    return value, {"loss": value, "accuracy": accuracy}

  return loss


def make_observe(memory: SetMemory) -> Callable[[Any, Any, Any], Any]:
  """Makes the update of the memory's state, such as its query covariance.

  Args:
    memory: one of `nets.filters`.

  Returns:
    Maps parameters, state and episodes [B, ...] to the next state, as
    `descent.make` takes it; all members are observed as one batch.
  """

  def observe(params, state, episodes):
    members = episodes.members
    return memory.observe(
      params, state, members.reshape(-1, *members.shape[2:])
    )

  return observe


def score(
  memory: SetMemory, params: Any, state: Any, episode: membership.Episode
) -> tuple[jax.Array, jax.Array]:
  """Writes a set and scores its members and its non-members.

  Args:
    memory: one of `nets.filters`.
    params: parameters of the memory.
    state: state of the memory.
    episode: a set of n members, and t non-members.

  Returns:
    Logits of members, [n], and of non-members, [t].
  """
  content = memory.write(params, state, episode.members)

  def read(elements):
    one = lambda x: memory.read(params, state, content, x)
    return jax.vmap(one)(elements)

  return read(episode.members), read(episode.non_members)


def evaluate(
  key: jax.Array,
  memory: SetMemory,
  params: Any,
  state: Any,
  draw: Draw,
  *,
  rates: Sequence[float] = (0.05, 0.01, 0.001),
  num_sets: int = 64,
  batch_size: int = 8,
) -> dict[str, jax.Array]:
  """Evaluates complete filters: bits and errors at each allowed rate.

  One threshold for all sets is calibrated on separate sets; half of an allowed
  rate is for the network and half for the backup.

  Args:
    key: typed key; the same key draws the same sets.
    memory: one of `nets.filters`.
    params: parameters of the memory.
    state: state of the memory.
    draw: maps a key to a set of n members, and non-members.
    rates: allowed rates of false positives R, each between 0 and 1.
    num_sets: number of calibration sets, and of evaluation sets.
    batch_size: sets evaluated at once.

  Returns:
    Metrics; at each rate bits_at_R and missed_at_R (bits per set, and fraction
    of members in the backup), false_negatives_at_R (of all sets; 0) and
    false_positive_rate_at_R; also auc, of the pooled scores of all sets, and
    auc_within, its mean over individual sets.

  Raises:
    ValueError: a rate is out of range, or `draw` cannot draw such sets.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, sections 3 and 5.1.
  """
  keys_calibration, keys = jax.random.split(key, (2, num_sets, 2))
  shapes = jax.eval_shape(draw, jax.random.key(0))
  size, *shape = shapes.members.shape

  def score_set(keys):
    return score(memory, params, state, draw(keys[0]))[1]

  batch_size = min(batch_size, num_sets)
  scores = jax.lax.map(score_set, keys_calibration, batch_size=batch_size)
  scores = scores.ravel()
  thresholds = [learned_filters.calibrate(scores, fpr=r / 2) for r in rates]

  def evaluate_set(keys):
    key_set, key_hashes = keys
    episode = draw(key_set)
    scores = score(memory, params, state, episode)
    counts = [
      count_answers(
        jax.random.clone(key_hashes), episode, scores, threshold, fpr=rate
      )
      for threshold, rate in zip(thresholds, rates, strict=True)
    ]
    return counts, scores

  counts, (members, non_members) = jax.lax.map(
    evaluate_set, keys, batch_size=batch_size
  )
  num_floats = set_memories.num_floats(memory, size, jnp.zeros(shape))
  metrics = {}
  for rate, found in zip(rates, counts, strict=True):
    missed = found.missed.astype(jnp.float32)
    space = functools.partial(learned_filters.space, num_floats, fpr=rate)
    bits = jax.vmap(space)(missed)
    metrics |= _summarise(found, bits, rate, size)
  # Pooled over all sets, which share one threshold, and set by set.
  auc = learned_filters.auc(members.ravel(), non_members.ravel())
  within = jax.vmap(learned_filters.auc)(members, non_members)
  return metrics | {"auc": auc, "auc_within": jnp.mean(within)}


def evaluate_bloom(
  key: jax.Array,
  draw: Draw,
  *,
  rates: Sequence[float] = (0.05, 0.01, 0.001),
  num_sets: int = 64,
  batch_size: int = 8,
) -> dict[str, jax.Array]:
  """Evaluates classical Bloom filters on the sets that `evaluate` draws.

  Args:
    key: typed key; the same key draws the same sets.
    draw: maps a key to a set of n members, and non-members.
    rates: allowed rates of false positives R, each between 0 and 1.
    num_sets: number of evaluation sets.
    batch_size: sets evaluated at once.

  Returns:
    Metrics: as `evaluate`, without auc and auc_within; missed_at_R is 1.

  Raises:
    ValueError: a rate is out of range, or `draw` cannot draw such sets.

  Reference:
    Bloom (1970), Communications of the ACM 13:422.
  """
  _, keys = jax.random.split(key, (2, num_sets, 2))
  size = len(jax.eval_shape(draw, jax.random.key(0)).members)

  def evaluate_set(keys):
    key_set, key_hashes = keys
    episode = draw(key_set)
    return [
      count_bloom_answers(jax.random.clone(key_hashes), episode, fpr=rate)
      for rate in rates
    ]

  counts = jax.lax.map(evaluate_set, keys, batch_size=min(batch_size, num_sets))
  metrics = {}
  for rate, found in zip(rates, counts, strict=True):
    missed = found.missed.astype(jnp.float32)
    bits = jax.vmap(lambda count, rate=rate: bloom.space(count, rate))(missed)
    metrics |= _summarise(found, bits, rate, size)
  return metrics


def count_answers(
  key: jax.Array,
  episode: membership.Episode,
  scores: tuple[jax.Array, jax.Array],
  threshold: jax.Array,
  *,
  fpr: float,
) -> Counts:
  """Counts the answers of a filter: scores, a threshold and a backup.

  Args:
    key: typed key; draws the backup's hashes.
    episode: a set of n members, and t non-members.
    scores: of members [n] and of non-members [t], as from `score`.
    threshold: threshold τ, []; calibrated for half of the rate.
    fpr: allowed rate of false positives; half of it is for the backup.

  Returns:
    The counts.

  Raises:
    ValueError: the rate is not between 0 and 1.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, section 3.
  """
  backup = learned_filters.make_backup(
    key, episode.members, scores[0], threshold, fpr=fpr / 2
  )

  def contain(scores, elements):
    one = lambda s, x: learned_filters.contains(s, x, threshold, backup)
    return jax.vmap(one)(scores, elements)

  return _count(
    jnp.sum(learned_filters.find_missed(scores[0], threshold)),
    contain(scores[0], episode.members),
    contain(scores[1], episode.non_members),
  )


def count_bloom_answers(
  key: jax.Array, episode: membership.Episode, *, fpr: float
) -> Counts:
  """Counts the answers of a classical Bloom filter, which holds all members.

  Args:
    key: typed key; draws the hashes.
    episode: a set of n members, and t non-members.
    fpr: allowed rate of false positives, between 0 and 1.

  Returns:
    The counts; missed is n.

  Raises:
    ValueError: the rate is not between 0 and 1.

  Reference:
    Bloom (1970), Communications of the ACM 13:422.
  """
  size = len(episode.members)
  empty = bloom.init(key, *bloom.optimal_size(size, fpr))
  filled = bloom.insert(empty, episode.members)
  query = jax.vmap(bloom.query, (None, 0))
  return _count(
    jnp.int32(size),
    query(filled, episode.members),
    query(filled, episode.non_members),
  )


def _count(missed, of_members, of_non_members):
  """Makes the counts from answers, bool [n] and [t]."""
  return Counts(
    missed,
    jnp.sum(~of_members),
    jnp.mean(of_non_members, dtype=jnp.float32),
  )


def _summarise(counts, bits, rate, size):
  """Averages over sets; names contain the allowed rate."""
  missed = counts.missed.astype(jnp.float32)
  return {
    f"bits_at_{rate:g}": jnp.mean(bits),
    f"missed_at_{rate:g}": jnp.mean(missed) / size,
    f"false_negatives_at_{rate:g}": jnp.sum(counts.false_negatives),
    f"false_positive_rate_at_{rate:g}": jnp.mean(counts.false_positive_rate),
  }
