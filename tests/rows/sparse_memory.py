"""Conformance rows of memories that touch few words in a step."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from lilly.memory import (
  nearest_neighbors,
  recency,
  sparse_access,
  sparse_neural_computer,
  sparse_rows,
  temporal_links,
)
from tests.rows.row import Row, arrays, keyed

__all__ = ["ROWS"]


def _links(seed, dtype):
  """Links of five slots, and three weights at some of them."""
  rng = np.random.default_rng(seed)

  def entries(*leading):
    slots = np.argsort(rng.random((*leading, 5)))[..., :2]
    weights = -np.sort(-rng.random((*leading, 2)) / 2)
    return jnp.asarray(slots, jnp.int32), jnp.asarray(weights, dtype)

  state = temporal_links.State(*entries(5), *entries(5), *entries())
  slots = jnp.asarray(rng.integers(0, 6, 3), jnp.int32)
  return state, slots, jnp.asarray(rng.dirichlet(np.ones(4))[:3], dtype)


_NUM_SLOTS, _WORD_SIZE, _NUM_HEADS, _NUM_READS = 4, 3, 2, 2


def _made(*makers):
  """Makes inputs by functions of a random generator and a type."""

  def make_inputs(seed, dtype):
    rng = np.random.default_rng(seed)
    inputs = tuple(make(rng, dtype) for make in makers)
    return jax.tree.map(jnp.asarray, inputs)

  return make_inputs


def _floats(*shape):
  return lambda rng, dtype: jnp.asarray(rng.normal(size=shape), dtype)


def _slots(*shape):
  """Slots, of which one in five is absent."""
  return lambda rng, _: rng.integers(0, _NUM_SLOTS + 1, shape, np.int32)


def _rows(rng, dtype):
  """Words of which two have been written in this segment."""
  tickets = rng.permutation(np.int32([-1, 1, 4, 3]))
  words = _floats(_NUM_SLOTS, _WORD_SIZE)(rng, dtype)
  tape = jnp.zeros((8, _WORD_SIZE), dtype)
  return sparse_rows.State(words, tape, tickets, np.int32(3), np.int32(5))


def _accesses(rng, _):
  times = rng.permutation(np.int32([-4, -2, 0, 1])).reshape(2, 2)
  return recency.State(times, times.min(axis=1))


def _all_rows(rng, dtype):
  """Words whose tape has a row for each."""
  words = _floats(_NUM_SLOTS, _WORD_SIZE)(rng, dtype)
  return sparse_rows.State(
    words, jnp.zeros_like(words), None, np.int32(0), np.int32(0)
  )


def _time(*_):
  return np.int32(2)


def _index(rng, dtype):
  """Two tables of two buckets; some entries and places belong together."""
  return nearest_neighbors.Index(
    hyperplanes=_floats(2, 1, _WORD_SIZE)(rng, dtype),
    entries=_slots(2, 2, 3)(rng, dtype),
    cursors=rng.integers(0, 9, (2, 2), np.int32),
    places=rng.integers(-1, 6, (_NUM_SLOTS, 2), np.int32),
  )


def _address(num_slots):
  def make(rng, dtype):
    weights = rng.dirichlet(np.ones(num_slots), _NUM_HEADS)
    slots = _slots(_NUM_HEADS, num_slots)(rng, dtype)
    return sparse_access.Address(slots, jnp.asarray(weights, dtype))

  return make


def _memory(rng, dtype):
  words = _floats(_NUM_SLOTS, _WORD_SIZE)(rng, dtype)
  start = np.int32(0)
  return sparse_access.State(
    words=sparse_rows.State(words, jnp.zeros_like(words), None, start, start),
    accesses=_accesses(rng, dtype),
    reads=_address(_NUM_READS)(rng, dtype),
    writes=_address(_NUM_READS + 1)(rng, dtype),
    time=_time(),
    index=None,
  )


def _indexed_memory(rng, dtype):
  """A memory with an index and a tape of few rows."""
  memory = _memory(rng, dtype)
  return memory._replace(words=_rows(rng, dtype), index=_index(rng, dtype))


def _blank(rng, dtype):
  return _access_init(jnp.zeros((), dtype), fill=0.0)


def _blank_follower(rng, dtype):
  return sparse_neural_computer.init(_blank(rng, dtype), num_links=2)


def _zeros(*shape):
  return lambda _, dtype: jnp.zeros(shape, dtype)


_THRESHOLDS = (-0.1, 1.0, math.inf)  # not in [0, 1)
_BY_HEAD = _floats(_NUM_HEADS)
_WORDS = _floats(_NUM_HEADS, _WORD_SIZE)
_NO_GATES = _zeros(_NUM_HEADS)
_NO_WORDS = _zeros(_NUM_HEADS, _WORD_SIZE)
_ADDITIONS = _floats(4, _WORD_SIZE)


# Not more than there are, where a size is changed to 1.
def _least_recent(state):
  return recency.least_recent(state, min(3, state.times.size))


def _exact(words, query):
  return nearest_neighbors.exact(words, query, min(3, len(words)))


def _query(index, words, query):
  return nearest_neighbors.query(index, words, query, 3)


# `init` has no arrays as inputs: the type of one says which it is to have.
def _access_init(like, *, num_heads=_NUM_HEADS, num_reads=_NUM_READS, **hyper):
  return sparse_access.init(
    _NUM_SLOTS,
    _WORD_SIZE,
    num_heads=num_heads,
    num_reads=num_reads,
    dtype=like.dtype,
    **hyper,
  )


def _index_init(key, **hyper):
  return nearest_neighbors.init(key, _NUM_SLOTS, _WORD_SIZE, **hyper)


def _links_init(like, *, num_links=2):
  return temporal_links.init(9, num_links=num_links, dtype=like.dtype)


def _strongest(slots, weights, *, num_slots=5):
  return temporal_links.strongest(slots, weights, 2, num_slots=num_slots)


def _follower(rng, dtype):
  """An SDNC's memory; both heads link all of its slots."""

  def links(*leading):
    slots = np.argsort(rng.random((*leading, _NUM_SLOTS)))[..., :2]
    weights = -np.sort(-rng.random((*leading, 2)) / 2)
    return slots.astype(np.int32), jnp.asarray(weights, dtype)

  rows = _NUM_HEADS, _NUM_SLOTS
  state = temporal_links.State(*links(*rows), *links(*rows), *links(_NUM_HEADS))
  return sparse_neural_computer.State(_memory(rng, dtype), state)


def _modes(rng, dtype):
  return jnp.asarray(rng.dirichlet(np.ones(3), _NUM_HEADS), dtype)


# Uncompiled, one operation after another, these take a minute; what they
# consist of has rows of its own.
_compiled_write = jax.jit(sparse_neural_computer.write)
_compiled_read = jax.jit(sparse_neural_computer.read)


def _follower_write(*inputs, **hyper):
  if hyper:
    return sparse_neural_computer.write(*inputs, **hyper)
  return _compiled_write(*inputs)


def _follower_read(*inputs, **hyper):
  if hyper:
    return sparse_neural_computer.read(*inputs, **hyper)
  return _compiled_read(*inputs)


def _follower_init(like, *, num_links=2):
  return sparse_neural_computer.init(
    sparse_access.init(16, _WORD_SIZE, num_heads=2, dtype=like.dtype),
    num_links=num_links,
  )


ROWS: tuple[Row, ...] = (
  Row(
    sparse_access.write,
    "sparse memory",
    _made(_memory, _WORDS, _BY_HEAD, _BY_HEAD),
    state=0,
    edges={
      "a blank memory": _made(_blank, _NO_WORDS, _NO_GATES, _NO_GATES),
    },
    constants={"delta": _THRESHOLDS},
  ),
  Row(
    sparse_access.read,
    "sparse memory",
    _made(_memory, _WORDS, _BY_HEAD),
    state=0,
    edges={"a blank memory": _made(_blank, _NO_WORDS, _NO_GATES)},
    constants={"delta": _THRESHOLDS},
  ),
  Row(
    sparse_access.content_address,
    "sparse memory",
    _made(_memory, _WORDS, _BY_HEAD),
    state=0,
    edges={"a blank memory": _made(_blank, _NO_WORDS, _NO_GATES)},
  ),
  Row(
    sparse_access.read_at,
    "sparse memory",
    _made(_memory, _address(_NUM_READS)),
    state=0,
    constants={"delta": _THRESHOLDS},
  ),
  Row(
    sparse_access.detach,
    "sparse memory",
    _made(_indexed_memory),
    state=0,
    free=frozenset({"state.words.tape.0", "state.index.entries.2"}),
  ),
  Row(
    sparse_access.init,
    "sparse memory",
    arrays(()),
    call=_access_init,
    any_rank=frozenset({"like"}),
    constants={
      "num_heads": (0, -1),
      "num_reads": (0, -1),
      "fill": (math.inf, -math.inf),
      "gradient_rows": (0, -1),
    },
  ),
  Row(
    sparse_rows.write,
    "sparse memory",
    _made(_rows, _slots(1), _slots(4), _ADDITIONS),
    state=0,
    free=frozenset({"state.tape.0", "erased.0"}),
    edges={
      "a row for each word": _made(_all_rows, _slots(1), _slots(4), _ADDITIONS)
    },
  ),
  Row(
    sparse_rows.read,
    "sparse memory",
    _made(_rows, _slots(4)),
    state=0,
    free=frozenset({"state.tape.0", "slots.0"}),
    edges={"a row for each word": _made(_all_rows, _slots(4))},
  ),
  Row(
    sparse_rows.detach,
    "sparse memory",
    _made(_rows),
    state=0,
    free=frozenset({"state.tape.0"}),
  ),
  Row(
    sparse_rows.init,
    "sparse memory",
    arrays((4, 3)),
    free=frozenset({"words.0", "words.1"}),
    constants={"gradient_rows": (0, -1)},
  ),
  Row(
    recency.touch,
    "sparse memory",
    _made(_accesses, _slots(4), _time),
    state=0,
    free=frozenset({"state.times.1", "slots.0"}),
  ),
  Row(
    recency.least_recent,
    "sparse memory",
    _made(_accesses),
    call=_least_recent,
    free=frozenset({"state.times.1"}),
  ),
  Row(
    recency.init,
    "sparse memory",
    arrays(()),
    call=lambda like: recency.init(_NUM_SLOTS),
    any_rank=frozenset({"like"}),
  ),
  Row(
    nearest_neighbors.insert,
    "sparse memory",
    _made(_index, _slots(4), _ADDITIONS),
    state=0,
    free=frozenset({"index.entries.2", "index.places.0"}),
  ),
  Row(
    nearest_neighbors.file,
    "sparse memory",
    _made(_index, _ADDITIONS),
    state=0,
    free=frozenset({"index.entries.2"}),
  ),
  Row(
    nearest_neighbors.delete,
    "sparse memory",
    _made(_index, _slots(4)),
    state=0,
    free=frozenset(
      {"index.hyperplanes.2", "index.entries.2", "index.places.0", "slots.0"}
    ),
  ),
  Row(
    nearest_neighbors.query,
    "sparse memory",
    _made(_index, _ADDITIONS, _floats(_WORD_SIZE)),
    call=_query,
    free=frozenset({"index.entries.2"}),
  ),
  Row(
    nearest_neighbors.exact,
    "function",
    arrays((4, 3), 3),
    call=_exact,
    free=frozenset({"words.0"}),
  ),
  Row(
    nearest_neighbors.init,
    "random",
    keyed(),
    call=_index_init,
    dtypes=(jnp.float32,),
    constants={
      "num_tables": (0, -1),
      "bucket_size": (0, -1),
      "num_bits": (-1, 25),
    },
  ),
  Row(
    temporal_links.init,
    "function",
    arrays(()),
    call=_links_init,
    any_rank=frozenset({"like"}),
    constants={"num_links": (0, -1)},
  ),
  Row(temporal_links.update, "function", _links, state=0),
  Row(temporal_links.follow, "function", _links),
  Row(
    temporal_links.strongest,
    "function",
    lambda seed, dtype: _links(seed, dtype)[1:],
    call=_strongest,
    constants={"num_slots": (0, -1)},
  ),
  Row(
    sparse_neural_computer.write,
    "sparse memory",
    _made(_follower, _WORDS, _BY_HEAD, _BY_HEAD),
    call=_follower_write,
    state=0,
    edges={
      "a blank memory": _made(_blank_follower, _NO_WORDS, _NO_GATES, _NO_GATES),
    },
    constants={"delta": _THRESHOLDS},
  ),
  Row(
    sparse_neural_computer.read,
    "sparse memory",
    _made(_follower, _WORDS, _BY_HEAD, _modes),
    call=_follower_read,
    state=0,
    edges={
      "a blank memory": _made(
        _blank_follower, _NO_WORDS, _NO_GATES, _zeros(_NUM_HEADS, 3)
      ),
    },
    constants={"delta": _THRESHOLDS},
  ),
  Row(
    sparse_neural_computer.detach, "sparse memory", _made(_follower), state=0
  ),
  Row(
    sparse_neural_computer.init,
    "sparse memory",
    arrays(()),
    call=_follower_init,
    any_rank=frozenset({"like"}),
    constants={"num_links": (0, -1)},
  ),
)
