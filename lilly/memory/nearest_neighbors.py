"""Nearest neighbours of a query among words: exact, or by hashing.

`exact` compares all N words. `Index` implements locality-sensitive hashing with
arrays: a word is hashed to the signs of a few random projections, in several
tables, and a query searches only its own bucket of each table. Insertion,
deletion and query take time independent of N. Neither is differentiable: slots
are integers. Whole numbers as words count as float32. All functions raise
ValueError for arguments of another shape than stated.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lilly import checks
from lilly.memory import addressing

__all__ = ["Index", "delete", "exact", "file", "init", "insert", "query"]


class Index(NamedTuple):
  """Hash tables of slots."""

  hyperplanes: jax.Array  # [L, b, W]
  entries: jax.Array  # [L, 2^b, C] int32 slots, each bucket a ring
  cursors: jax.Array  # [L, 2^b] int32, total insertions into the bucket
  # The entry of a slot in each table, bucket * C + position, or -1. An entry is
  # valid only if its slot points back at it.
  places: jax.Array  # [N, L] int32


def exact(
  words: jax.Array,
  query: jax.Array,
  count: int,
  *,
  similarity: addressing.Similarity = addressing.cosine_similarity,
) -> jax.Array:
  """Finds the words most similar to a query; O(N W).

  Args:
    words: [N, W].
    query: [W].
    count: number of words to find, K.
    similarity: maps a query [W] and words [N, W] to similarities [N].

  Returns:
    Slots, [K] int32, most similar first, ties to the lowest slot.

  Raises:
    ValueError: if count is not from 1 to N.

  Reference:
    Rae et al. (2016), arXiv:1610.09027, section 3.1.

  >>> exact(jnp.eye(3), jnp.array([0.1, 0.9, 0.5]), 2).tolist()
  [1, 2]
  """
  sizes = {}
  words = checks.real("words", words, "N W", sizes)
  query = checks.real("query", query, "W", sizes)
  count = checks.whole_number("count", count, least=1, most=len(words))
  words, query = _wide(words), _wide(query)
  return jax.lax.top_k(similarity(query, words), count)[1]


def _wide(x):
  """Stops gradients and widens to float32 at least: rounding makes ties."""
  wide = jnp.promote_types(x.dtype, jnp.float32)
  return jax.lax.stop_gradient(x).astype(wide)


def init(
  key: jax.Array,
  num_slots: int,
  word_size: int,
  *,
  num_tables: int = 8,
  bucket_size: int = 32,
  num_bits: int | None = None,
) -> Index:
  """Creates an empty index.

  Args:
    key: PRNG key for the hyperplanes.
    num_slots: number of memory slots, N.
    word_size: size of a memory word, W.
    num_tables: number of hash tables, L; more tables raise recall.
    bucket_size: entries per bucket, C; a new entry replaces the oldest.
    num_bits: hyperplanes per table, b; None fills buckets to a half on average
      when every slot is indexed.

  Returns:
    The index.

  Raises:
    ValueError: if a size is not positive or `num_bits` is negative or above 24.

  Reference:
    Rae et al. (2016), arXiv:1610.09027, section 3.5; Charikar (2002) for signs
    of projections. The paper does not describe its tables.

  >>> init(jax.random.key(0), 1024, 4, bucket_size=32).entries.shape
  (8, 64, 32)
  """
  key = checks.key("key", key)
  num_slots = checks.whole_number("num_slots", num_slots, least=1)
  word_size = checks.whole_number("word_size", word_size, least=1)
  num_tables = checks.whole_number("num_tables", num_tables, least=1)
  bucket_size = checks.whole_number("bucket_size", bucket_size, least=1)
  if num_bits is None:
    num_bits = max(0, math.ceil(math.log2(2 * num_slots / bucket_size)))
  num_bits = checks.whole_number("num_bits", num_bits, most=24)
  buckets = 2**num_bits
  empty = jnp.full((num_tables, buckets, bucket_size), num_slots, jnp.int32)
  return Index(
    hyperplanes=jax.random.normal(key, (num_tables, num_bits, word_size)),
    entries=empty,
    cursors=jnp.zeros((num_tables, buckets), jnp.int32),
    places=jnp.full((num_slots, num_tables), -1, jnp.int32),
  )


def _checked_index(index, sizes):
  hyperplanes = checks.real(
    "index.hyperplanes", index.hyperplanes, "L b W", sizes
  )
  buckets = 2 ** hyperplanes.shape[1]
  entries = checks.integers(
    "index.entries", index.entries, f"L {buckets} C", sizes
  )
  cursors = checks.integers(
    "index.cursors", index.cursors, f"L {buckets}", sizes
  )
  places = checks.integers("index.places", index.places, "N L", sizes)
  # Fixes the type of what was whole numbers.
  hyperplanes = hyperplanes.astype(hyperplanes.dtype)
  return Index(hyperplanes, entries, cursors, places)


def _buckets(index: Index, words: jax.Array) -> jax.Array:
  """The bucket of a word in each table, [..., L]."""
  hyperplanes = index.hyperplanes.astype(words.dtype)
  signs = jnp.einsum("lbw,...w->...lb", hyperplanes, words) > 0
  powers = 2 ** jnp.arange(signs.shape[-1], dtype=jnp.int32)
  return jnp.sum(jnp.where(signs, powers, 0), axis=-1, dtype=jnp.int32)


def insert(index: Index, slots: jax.Array, words: jax.Array) -> Index:
  """Inserts slots under their words, and moves slots whose word has changed.

  O(J L (W b + J)) for J slots. A slot already in the right bucket stays where
  it is, so rewriting it repeatedly does not evict its neighbours.

  Args:
    index: the index.
    slots: [J] int32; for a repeated slot the first word is used, and a slot out
      of range is ignored.
    words: the words these slots now hold, [J, W]; a zero word has no direction
      and is removed.

  Returns:
    The updated index.

  Reference:
    Rae et al. (2016), arXiv:1610.09027, section 3.5.

  >>> index = init(jax.random.key(0), 4, 2)
  >>> index = insert(index, jnp.array([3]), jnp.ones((1, 2)))
  >>> query(index, jnp.ones((4, 2)), jnp.ones(2), 2).tolist()
  [3, 4]
  """
  sizes = {}
  index = _checked_index(index, sizes)
  slots = checks.integers("slots", slots, "J", sizes)
  words = checks.real("words", words, "J W", sizes)
  if not slots.size:
    return index
  num_slots, num_tables = index.places.shape
  _, num_buckets, bucket_size = index.entries.shape
  tables = jnp.arange(num_tables)[None]
  slots = jnp.where(slots < 0, num_slots, slots).astype(jnp.int32)
  buckets = _buckets(index, words)  # [J, L]
  places = index.places.at[slots].get(mode="fill", fill_value=-1)
  old_buckets, old_positions = jnp.divmod(places, bucket_size)
  held = index.entries.at[tables, old_buckets, old_positions].get(mode="clip")
  is_filed = (old_buckets == buckets) & (held == slots[:, None])
  earliest = jnp.argmax(slots[:, None] == slots[None], axis=1)
  is_earliest = earliest == jnp.arange(slots.size)
  is_word = jnp.any(words != 0, axis=1)
  is_new = ~is_filed & (is_earliest & is_word & (slots < num_slots))[:, None]
  # Several new entries of one bucket take consecutive positions.
  count, rank = _places_in_line(buckets, is_new)
  new_buckets = jnp.where(is_new, buckets, num_buckets)
  cursors = index.cursors.at[tables, new_buckets].add(1, mode="drop")
  # Read after the write: see `recency`.
  end = cursors.at[tables, buckets].get(mode="clip")
  positions = (end - count + rank) % bucket_size
  new_places = jnp.where(is_new, buckets * bucket_size + positions, places)
  new_places = jnp.where(is_word[:, None], new_places, -1)
  # Slots out of range and repeated ones change nothing.
  kept = jnp.where(is_earliest, slots, num_slots)
  # If more are inserted than a bucket holds, the last ones remain.
  new_buckets = jnp.where(count - rank > bucket_size, num_buckets, new_buckets)
  return index._replace(
    entries=index.entries.at[tables, new_buckets, positions].set(
      slots[:, None], mode="drop"
    ),
    cursors=cursors,
    places=index.places.at[kept].set(new_places, mode="drop"),
  )


def _places_in_line(buckets, is_new):
  """Number of new entries in the same bucket, and how many come earlier."""
  same = buckets[:, None] == buckets[None]
  same &= is_new[:, None] & is_new[None]  # [J, J, L]
  count = jnp.sum(same, axis=1, dtype=jnp.int32)
  earlier = jnp.tril(same.transpose(2, 0, 1), -1)
  return count, jnp.sum(earlier, axis=2, dtype=jnp.int32).T


def file(index: Index, words: jax.Array) -> Index:
  """Inserts every slot under its word, e.g. for a memory that starts full.

  In chunks, since `insert` is quadratic in the number of slots.

  Args:
    index: the index.
    words: [N, W].

  Returns:
    The updated index.

  Reference:
    Rae et al. (2016), arXiv:1610.09027, section 3.5: rebuilding the index.

  >>> index = file(init(jax.random.key(0), 3, 3), jnp.eye(3))
  >>> query(index, jnp.eye(3), jnp.ones(3), 3).tolist()
  [0, 1, 2]
  """
  sizes = {}
  index = _checked_index(index, sizes)
  words = checks.real("words", words, "N W", sizes)
  num_slots, _ = index.places.shape
  at_once = 64
  slots = jnp.arange(num_slots + -num_slots % at_once).reshape(-1, at_once)

  def step(index, slots):
    rows = words.at[slots].get(mode="fill", fill_value=0)
    return insert(index, slots, rows), None

  return jax.lax.scan(step, index, slots)[0]


def delete(index: Index, slots: jax.Array) -> Index:
  """Deletes slots; O(J L).

  Args:
    index: the index.
    slots: [J] int32; a slot that is not indexed changes nothing.

  Returns:
    The updated index.

  Reference:
    Rae et al. (2016), arXiv:1610.09027, section 3.5.

  >>> words = jnp.eye(3)
  >>> index = insert(init(jax.random.key(0), 3, 3), jnp.arange(3), words)
  >>> query(delete(index, jnp.array([1])), words, words[1], 3).tolist()
  [0, 2, 3]
  """
  index = _checked_index(index, {})
  slots = checks.integers("slots", slots, "J")
  slots = jnp.where(slots < 0, len(index.places), slots)
  return index._replace(places=index.places.at[slots].set(-1, mode="drop"))


def query(
  index: Index,
  words: jax.Array,
  query: jax.Array,
  count: int,
  *,
  similarity: addressing.Similarity = addressing.cosine_similarity,
) -> jax.Array:
  """Finds similar words in the query's buckets; O(L C (W + K)).

  Args:
    index: the index.
    words: the words the slots now hold, [N, W].
    query: [W].
    count: number of words to find, K.
    similarity: maps a query [W] and words [M, W] to similarities [M]. Tables
      hash directions only, so recall is lower for measures other than cosine.

  Returns:
    Distinct slots, [K] int32, most similar first; padded with N if fewer are
    found.

  Raises:
    ValueError: if count is not positive.

  Reference:
    Rae et al. (2016), arXiv:1610.09027, section 3.5.

  >>> index = insert(init(jax.random.key(0), 3, 3), jnp.arange(3), jnp.eye(3))
  >>> query(index, jnp.eye(3), jnp.array([0.0, 1.0, 0.0]), 1).tolist()
  [1]
  """
  sizes = {}
  index = _checked_index(index, sizes)
  words = checks.real("words", words, "N W", sizes)
  query = checks.real("query", query, "W", sizes)
  count = checks.whole_number("count", count, least=1)
  num_slots, num_tables = index.places.shape
  words, query = jax.lax.stop_gradient((words, query))
  bucket_size = index.entries.shape[-1]
  tables = jnp.arange(num_tables)
  buckets = _buckets(index, query)  # [L]
  found = index.entries[tables, buckets]  # [L, C]
  filed = index.places.at[found, tables[:, None]].get(
    mode="fill", fill_value=-1
  )
  here = buckets[:, None] * bucket_size + jnp.arange(bucket_size)[None]
  found = jnp.where(filed == here, found, num_slots).reshape(-1)
  rows = words.at[found].get(mode="fill", fill_value=0)
  scores = similarity(_wide(query), _wide(rows))
  scores = jnp.where(found < num_slots, scores, -jnp.inf)

  # A word may be found in several tables: taking the maximum K times is cheaper
  # than sorting to remove duplicates.
  def best(scores, _):
    slot = found[jnp.argmax(scores)]
    slot = jnp.where(scores.max() == -jnp.inf, num_slots, slot)
    return jnp.where(found == slot, -jnp.inf, scores), slot

  return jax.lax.scan(best, scores, length=count, unroll=True)[1]
