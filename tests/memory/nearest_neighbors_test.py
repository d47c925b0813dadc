"""Tests of searches: sorting all words, and tables kept as Python lists."""

import collections
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.memory import addressing, nearest_neighbors

_N, _W, _J, _K = 12, 3, 4, 5


def _cosines(query, words):
  norms = np.sqrt((words**2).sum(1) + 1e-6) * np.sqrt(query @ query + 1e-6)
  return words @ query / norms


def _distances(query, words):
  return -np.sqrt(((words - query) ** 2).sum(1))


def _ranked(scores, slots):
  return sorted(slots, key=lambda slot: (-scores[slot], slot))


@pytest.mark.parametrize(
  ("similarity", "naive"),
  [
    (addressing.cosine_similarity, _cosines),
    (addressing.euclidean_similarity, _distances),
  ],
)
def test_exact_sorts_all_words(similarity, naive):
  rng = np.random.default_rng(0)
  words = rng.normal(size=(_N, _W)).astype(np.float32)
  words[[4, 9]] = words[7]  # ties, to the lowest
  for query in (words[7], *rng.normal(size=(3, _W)).astype(np.float32)):
    found = nearest_neighbors.exact(words, query, _N, similarity=similarity)
    expected = _ranked(naive(query, words), range(_N))
    if np.array_equal(query, words[7]):
      assert expected[:3] == [4, 7, 9]
    assert found.tolist() == expected
    few = nearest_neighbors.exact(words, query, 2, similarity=similarity)
    assert few.tolist() == expected[:2]


@dataclasses.dataclass(eq=False)
class _Entry:
  slot: int


class _Tables:
  """Buckets that remember the last few entries; slots know their entry."""

  def __init__(self, hyperplanes, bucket_size):
    self.hyperplanes = np.asarray(hyperplanes)
    self.buckets = collections.defaultdict(
      lambda: collections.deque(maxlen=bucket_size)
    )
    self.entry_of = {}
    self.seen = collections.Counter()

  def keys(self, word):
    """Table and bucket, for each table."""
    for table, planes in enumerate(self.hyperplanes):
      yield table, tuple(bool(plane @ word > 0) for plane in planes)

  def insert(self, slots, words):
    done, fresh = set(), []
    for slot, word in zip(slots, words, strict=True):
      if not 0 <= slot < _N:
        self.seen["out of range"] += 1
      elif slot in done:
        self.seen["repeated"] += 1
      elif not word.any():
        self.delete([slot])
      else:
        for key in self.keys(word):
          entry = self.entry_of.get((slot, key[0]))
          if entry in self.buckets[key]:
            self.seen["stays"] += 1
          else:
            self.seen["moves" if entry else "is filed"] += 1
            fresh.append((key, slot))
      done.add(slot)
    for key, slot in fresh:
      bucket = self.buckets[key]
      if len(bucket) == bucket.maxlen and self.is_live(key, bucket[0]):
        self.seen["pushed out"] += 1
      entry = _Entry(slot)
      bucket.append(entry)
      self.entry_of[slot, key[0]] = entry

  def delete(self, slots):
    for slot in slots:
      for table in range(len(self.hyperplanes)):
        removed = self.entry_of.pop((slot, table), None)
        self.seen["deleted"] += removed is not None

  def is_live(self, key, entry):
    return self.entry_of.get((entry.slot, key[0])) is entry

  def query(self, words, query, count):
    found = []
    for key in self.keys(query):
      for entry in self.buckets[key]:
        if self.is_live(key, entry):
          found.append(entry.slot)
        else:
          self.seen["stale"] += 1
    self.seen["twice"] += len(found) - len(set(found))
    found = _ranked(_cosines(query, words), set(found))[:count]
    return found + [_N] * (count - len(found))


@functools.cache
def _run(num_tables, num_bits, bucket_size):
  """Scans insertions, deletions and queries."""

  def step(index, inputs):
    slots, new_words, deleted, words, query = inputs
    index = nearest_neighbors.insert(index, slots, new_words)
    index = nearest_neighbors.delete(index, deleted)
    return index, nearest_neighbors.query(index, words, query, _K)

  def run(key, *inputs):
    index = nearest_neighbors.init(
      *(key, _N, _W),
      num_tables=num_tables,
      num_bits=num_bits,
      bucket_size=bucket_size,
    )
    found = jax.lax.scan(step, index, inputs)[1]
    return index.hyperplanes, found

  return jax.jit(run)


@pytest.mark.parametrize("sizes", [(3, 2, 3), (2, 1, 1), (1, 0, 2)], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_tables_equal_lists(sizes, seed):
  steps, rng = 300, np.random.default_rng(seed)
  slots = rng.integers(-1, _N + 2, (steps, _J))
  is_copy = rng.random(steps) < 0.3
  slots[is_copy, 2] = slots[is_copy, 0]
  new_words = rng.normal(size=(steps, _J, _W))
  new_words[rng.random((steps, _J)) < 0.1] = 0
  deleted = rng.integers(-1, 3 * _N, (steps, 2))
  queries, history = rng.normal(size=(steps, _W)), []
  words = np.zeros((_N, _W))
  for t in range(steps):
    for j in reversed(range(_J)):
      slot = slots[t, j]
      if 0 <= slot < _N:
        if words[slot].any() and rng.random() < 0.4:  # written again
          same = slots[t] == slot
          new_words[t, same] = words[slot]
        words[slot] = new_words[t, j]
    history.append(words.copy())
  floats = [new_words, np.stack(history), queries]
  new_words, words, queries = (x.astype(np.float32) for x in floats)
  inputs = (slots, new_words, deleted, words, queries)
  hyperplanes, found = _run(*sizes)(jax.random.key(seed), *inputs)
  found = np.asarray(found)
  tables = _Tables(hyperplanes, bucket_size=sizes[-1])
  for t in range(steps):
    tables.insert(slots[t], new_words[t])
    tables.delete(deleted[t])
    expected = tables.query(words[t], queries[t], _K)
    assert found[t].tolist() == expected, t
  kinds = {"out of range", "repeated", "stays", "is filed", "pushed out"}
  kinds |= {"deleted", "stale"}
  kinds |= {"moves"} if sizes[1] else set()
  kinds |= {"twice"} if sizes[0] > 1 else set()
  assert kinds <= {kind for kind, times in tables.seen.items() if times > 20}


def test_one_table_without_bits_is_exact():
  rng = np.random.default_rng(0)
  index = nearest_neighbors.init(
    jax.random.key(0), _N, _W, num_tables=1, num_bits=0, bucket_size=_N
  )

  @jax.jit
  def both(index, words, queries):
    index = nearest_neighbors.file(index, words)
    return [
      jax.vmap(lambda query, search=search: search(query))(queries)
      for search in (
        lambda query: nearest_neighbors.query(index, words, query, _N),
        lambda query: nearest_neighbors.exact(words, query, _N),
      )
    ]

  words = rng.normal(size=(_N, _W)).astype(np.float32)
  found, expected = both(index, words, rng.normal(size=(20, _W)))
  np.testing.assert_array_equal(found, expected)


# One table, of one bucket or, with six bits, of one for each word.


def _index(bucket_size=4, num_bits=0):
  return nearest_neighbors.init(
    *(jax.random.key(0), _N, _W),
    num_tables=1,
    num_bits=num_bits,
    bucket_size=bucket_size,
  )


_compiled_insert = jax.jit(nearest_neighbors.insert)
_compiled_query = jax.jit(nearest_neighbors.query, static_argnums=3)
_WORDS = np.random.default_rng(1).normal(size=(_N, _W)).astype(np.float32)


def _insert(index, *slots, words=_WORDS):
  """Files slots, which are filled up to four with one that is absent."""
  slots = np.array([*slots, *[_N] * (4 - len(slots))])
  return _compiled_insert(index, slots, words[slots % _N])


def _found(index, words=_WORDS, query=_WORDS[0]):
  found = _compiled_query(index, words, query, _N).tolist()
  present = [slot for slot in found if slot < _N]
  assert found == present + [_N] * (_N - len(present))
  assert len(present) == len(set(present))
  return sorted(present)


def test_an_empty_index_finds_nothing():
  nothing = jnp.zeros(0, jnp.int32), jnp.zeros((0, _W))
  assert _found(nearest_neighbors.insert(_index(), *nothing)) == []


@pytest.mark.slow
def test_a_full_bucket_forgets_the_oldest():
  index = _insert(_insert(_index(), 0, 1, 2), 3, 4)
  assert _found(index) == [1, 2, 3, 4]
  assert _found(_insert(index, 0)) == [0, 2, 3, 4]


@pytest.mark.slow
def test_of_more_than_a_bucket_holds_the_last_are_found():
  index = _insert(_index(bucket_size=3), 7, 3, 5, 1)
  assert _found(index) == [1, 3, 5]
  assert _found(_insert(index, 7)) == [1, 5, 7]


def test_writing_a_slot_again_pushes_nothing_out():
  index = _insert(_index(), 0, 1, 2, 3)
  for _ in range(9):
    index = _insert(index, 2, 2)
  assert _found(index) == [0, 1, 2, 3]


def test_a_slot_that_was_pushed_out_and_is_written_again_is_found():
  index = _insert(_insert(_index(), 0, 1, 2, 3), 4, 5)
  assert _found(index) == [2, 3, 4, 5]
  index = _insert(index, 0)
  assert _found(index) == [0, 3, 4, 5]
  assert _found(_insert(index, 0)) == [0, 3, 4, 5]


def test_a_slot_that_was_overwritten_is_not_where_it_was():
  index = _index(num_bits=6)
  index = _insert(index, 3, 8)
  moved = _WORDS.copy()
  moved[3] = -_WORDS[3]
  assert _found(index, query=_WORDS[3]) == [3]
  index = _insert(index, 3, words=moved)
  assert _found(index, moved, query=_WORDS[3]) == []
  assert _found(index, moved, query=moved[3]) == [3]
  # Back again: the entry that was left is not a second one.
  index = _insert(index, 3)
  assert _found(index, query=_WORDS[3]) == [3]
  assert _found(index, query=_WORDS[8]) == [8]


def test_zeros_are_removed():
  index = _insert(_index(), 0, 1)
  words = _WORDS.copy()
  words[1] = 0
  index = _insert(index, 1, 6, words=words)
  assert _found(index) == [0, 6]
  assert _found(_insert(index, 1)) == [0, 1, 6]


def test_the_first_word_of_a_repeated_slot_counts():
  index = _compiled_insert(
    _index(num_bits=6),
    np.array([3, 5, 3, 3]),
    np.stack([_WORDS[3], _WORDS[5], -_WORDS[3], 0 * _WORDS[3]]),
  )
  assert _found(index, query=_WORDS[3]) == [3]
  assert _found(index, query=-_WORDS[3]) == []


@pytest.mark.parametrize("outside", [-1, -_N, _N, _N + 1, 2**31 - 1])
def test_slots_out_of_range_change_nothing(outside):
  index = _insert(_index(), 0, _N - 1)
  other = _compiled_insert(index, np.full(4, outside), _WORDS[:4])
  for actual, expected in zip(other, index, strict=True):
    np.testing.assert_array_equal(actual, expected)
  deleted = nearest_neighbors.delete(index, jnp.array([outside]))
  np.testing.assert_array_equal(deleted.places, index.places)


def test_filing_all_words_files_each_where_it_belongs():
  words = np.random.default_rng(0).normal(size=(150, 2)).astype(np.float32)
  words[[0, 70, 149]] = 0
  index = nearest_neighbors.init(
    jax.random.key(0), 150, 2, num_tables=2, num_bits=2, bucket_size=150
  )
  file = jax.jit(nearest_neighbors.file)
  other = file(index, -words)  # and what is filed elsewhere moves
  for filed in (file(index, words), file(file(other, words), words)):
    places = np.asarray(filed.places)
    entries = np.asarray(filed.entries).reshape(2, -1)
    signs = np.einsum("lbw,nw->nlb", filed.hyperplanes, words) > 0
    for slot, word in enumerate(words):
      if word.any():
        np.testing.assert_array_equal(places[slot] // 150, signs[slot] @ [1, 2])
        np.testing.assert_array_equal(entries[[0, 1], places[slot]], slot)
      else:
        np.testing.assert_array_equal(places[slot], -1)
  with pytest.raises(ValueError, match=r"words has shape .* as in index"):
    nearest_neighbors.file(index, words[1:])


def test_deleted_slots_are_gone_until_they_are_filed_again():
  index = _insert(_index(), 0, 1, 2, 3)
  index = nearest_neighbors.delete(index, jnp.array([1, 3, 3, 7]))
  assert _found(index) == [0, 2]
  assert _found(_insert(index, 3)) == [2, 3]  # the ring has gone on


def test_a_word_that_is_not_finite_hides_no_others():
  words = _WORDS.copy()
  words[2, 1] = np.nan
  index = _insert(_index(), 0, 1, 2, words=words)
  assert _found(index, words) == [0, 1, 2]
  assert nearest_neighbors.exact(words, words[0], 2).tolist() == [2, 0]


def test_a_hyperplane_parts_words_as_often_as_their_angle_is_wide():
  angles = np.linspace(0, np.pi, 7).astype(np.float32)
  words = np.stack([np.cos(angles), np.sin(angles)], axis=1)
  index = nearest_neighbors.init(
    jax.random.key(3), 7, 2, num_tables=4000, num_bits=1, bucket_size=7
  )
  buckets = np.asarray(index.hyperplanes)[:, 0] @ words.T > 0
  rates = (buckets != buckets[:, :1]).mean(axis=0)
  np.testing.assert_allclose(rates, angles / np.pi, atol=0.03)


def test_searches_have_no_gradient():
  def loss(words, query):
    slots = nearest_neighbors.exact(words, query, 2)
    index = nearest_neighbors.insert(_index(), jnp.arange(4), words[:4])
    filed = nearest_neighbors.query(index, words, query, 2)
    return jnp.sum(words[slots]) + jnp.sum(words[filed])

  grads, of_query = jax.jit(jax.grad(loss, (0, 1)))(_WORDS, _WORDS[0])
  assert not np.any(of_query)
  assert set(np.unique(grads)) <= {0.0, 1.0, 2.0}


def test_buckets_are_half_full_by_default():
  def shape(num_slots, bucket_size):
    index = jax.eval_shape(
      lambda: nearest_neighbors.init(
        jax.random.key(0), num_slots, 2, bucket_size=bucket_size
      )
    )
    return index.entries.shape[1]

  assert shape(1024, 32) == 64
  assert shape(1025, 32) == 128
  assert shape(16, 32) == 1
  assert shape(1, 32) == 1


def test_bad_arguments_are_refused():
  key = jax.random.key(0)
  for name in ("num_slots", "word_size"):
    sizes = {"num_slots": 4, "word_size": 2, name: 0}
    with pytest.raises(ValueError, match=f"{name} is 0; .* at least 1"):
      nearest_neighbors.init(key, **sizes)
  for name in ("num_tables", "bucket_size"):
    with pytest.raises(ValueError, match=f"{name} is -1; .* at least 1"):
      nearest_neighbors.init(key, 4, 2, **{name: -1})
  for num_bits in (-1, 25):
    with pytest.raises(ValueError, match=f"num_bits is {num_bits}; .* 24"):
      nearest_neighbors.init(key, 4, 2, num_bits=num_bits)
  for count in (0, _N + 1):
    with pytest.raises(ValueError, match=f"count is {count}; .* most {_N}"):
      nearest_neighbors.exact(_WORDS, _WORDS[0], count)
  with pytest.raises(ValueError, match=r"words has shape"):
    nearest_neighbors.insert(_index(), jnp.arange(2), jnp.ones(_W))


def test_bfloat16_words_are_ranked_as_they_are():
  rng = np.random.default_rng(0)
  words = jnp.asarray(rng.normal(size=(300, 8)), jnp.bfloat16)
  queries = jnp.asarray(rng.normal(size=(20, 8)), jnp.bfloat16)

  @jax.jit
  @functools.partial(jax.vmap, in_axes=(None, 0))
  def find(words, query):
    return nearest_neighbors.exact(words, query, 4)

  wide = find(words.astype(jnp.float32), queries.astype(jnp.float32))
  np.testing.assert_array_equal(find(words, queries), wide)


def test_words_of_other_shapes_are_refused():
  index = nearest_neighbors.init(jax.random.key(0), 4, 2)
  for words in (jnp.ones((1, 2)), jnp.ones((2, 3))):
    with pytest.raises(ValueError, match=r"words has shape .* \[J, W\]"):
      nearest_neighbors.insert(index, jnp.array([0, 1]), words)
  with pytest.raises(ValueError, match=r"words has shape .* \[N, W\]"):
    nearest_neighbors.query(index, jnp.ones((3, 2)), jnp.ones(2), 1)
