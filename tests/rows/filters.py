"""Conformance rows of Bloom filters, classical and neural."""

import jax
import jax.numpy as jnp
import numpy as np

from lilly.memory import bloom, learned_filters, neural_bloom, sphering
from tests.rows.row import Row, arrays, keyed, together

__all__ = ["ROWS"]


@together
def _filled(seed, dtype):
  """A filter with something in it, and elements of which some are new."""
  rng = np.random.default_rng(seed)
  elements = jnp.asarray(rng.normal(size=(3, 2)), dtype)
  state = bloom.init(jax.random.key(seed), 70, 3)
  return bloom.insert(state, elements[:2]), elements[1:]


def _numbers(*values):
  """Makes inputs of these values, whatever the seed."""

  def make_inputs(seed, dtype):
    del seed
    return tuple(jnp.asarray(x, dtype) for x in values)

  return make_inputs


def _rates(seed, dtype):
  return jnp.asarray(10 + seed, dtype), jnp.asarray(0.05, dtype)


_NUM_SLOTS, _WORD_SIZE, _NUM_ITEMS, _COUNT = 4, 2, 3, 2


def _placed(seed, dtype):
  """A memory, and slots and weights of items with their words."""
  rng = np.random.default_rng(seed)
  memory, words, weights = arrays(
    (_NUM_SLOTS, _WORD_SIZE), (_NUM_ITEMS, _WORD_SIZE), (_NUM_ITEMS, _COUNT)
  )(seed, dtype)
  slots = rng.integers(0, _NUM_SLOTS, (_NUM_ITEMS, _COUNT), np.int32)
  return memory, jnp.asarray(slots), weights, words


@together
def _scored(seed, dtype):
  """A backup, elements, scores and a threshold."""
  state, elements = _filled(seed, dtype)
  scores = jnp.asarray([-1.0, 1.0 - 3 * seed], dtype)
  backup = learned_filters.Backup(state, jnp.int32(2), jnp.int32(9))
  return backup, elements, scores, jnp.zeros((), dtype)


def _to_back_up(seed, dtype):
  return keyed()(seed, dtype)[0], *_scored(seed, dtype)[1:]


def _to_find(seed, dtype):
  backup, elements, scores, threshold = _scored(seed, dtype)
  return scores[0], elements[1], threshold, backup


def _make_backup(key, elements, scores, threshold, fpr=0.1, **hyper):
  return learned_filters.make_backup(
    key, elements, scores, threshold, fpr=fpr, **hyper
  )


def _empty_backup(key, capacity=10, fpr=0.1):
  return learned_filters.init(key, capacity, fpr=fpr)


def _sparse_address(query, keys, count=None):
  if count is None:
    count = min(_COUNT, len(keys))
  return neural_bloom.sparse_address(query, keys, count=count)


def _sphering(seed, dtype):
  rng = np.random.default_rng(seed)
  root = rng.normal(size=(3, 3))
  moments = rng.normal(size=3), root @ root.T + 9 * np.eye(3), np.eye(3)
  state = sphering.State(*(jnp.asarray(x, dtype) for x in moments))
  return state, *arrays((4, 3))(seed, dtype)


def _constant_features(seed, dtype):
  """Moments of features that never change: they have no covariance."""
  state, batch = _sphering(seed, dtype)
  moment = state.mean[:, None] * state.mean[None]
  return state._replace(second_moment=moment), batch


def _refresh(state, features, **hyper):
  del features
  return sphering.refresh(state, **hyper)


_SINGLE = {"dtypes": (jnp.float32,)}
_BITS = {"integers": "Elements are hashed by the bits of their type."}
_RATE = {
  "zeros": "A rate is above 0.",
  "integers": "A rate is a fraction.",
}
# Inputs are filters or elements: how many bits, hashes, elements and numbers in
# an element there are is free.
_FREE_FILTER = {"state.words.0", "state.seeds.0", "elements.0", "elements.1"}
_FREE_BACKUP = {
  *("backup.filter.words.0", "backup.filter.seeds.0", "elements.1"),
  "element.0",
}

ROWS: tuple[Row, ...] = (
  Row(
    bloom.init,
    "function",
    keyed(),
    call=lambda key, num_bits=40, num_hashes=3: bloom.init(
      key, num_bits, num_hashes
    ),
    constants={
      "num_bits": (0, -1, 2.5),
      "num_hashes": (0, -1, 2.5),
    },
  ),
  Row(
    bloom.insert,
    "function",
    _filled,
    state=0,
    free=frozenset(_FREE_FILTER),
    any_rank=frozenset({"elements"}),
    without=_BITS,
  ),
  Row(
    bloom.query,
    "function",
    lambda *given: (_filled(*given)[0], _filled(*given)[1][1]),
    free=frozenset({*_FREE_FILTER, "element.0"}),
    any_rank=frozenset({"element"}),
    without=_BITS,
  ),
  Row(
    bloom.false_positive_rate,
    "function",
    _numbers(64, 3, 10),
    edges={
      "no elements": _numbers(64, 3, 0),
      "a full filter": _numbers(2, 3, 1000),
    },
    without={"zeros": "A filter has at least one bit."},
  ),
  Row(
    bloom.space,
    "function",
    _rates,
    edges={"no elements": _numbers(0, 0.05)},
    without=_RATE,
  ),
  Row(
    bloom.cuckoo_space,
    "function",
    _rates,
    constants={"load": (0.0, -0.5, 1.5), "overhead": (-1.0, np.inf)},
    edges={"no elements": _numbers(0, 0.05)},
    without=_RATE,
  ),
  Row(
    bloom.least_space,
    "function",
    _rates,
    edges={"no elements": _numbers(0, 0.05)},
    without=_RATE,
  ),
  Row(
    neural_bloom.init,
    "function",
    arrays(()),
    call=lambda like, num_slots=2, word_size=3: neural_bloom.init(
      num_slots, word_size, dtype=like.dtype
    ),
    constants={"num_slots": (0, -1, 2.5), "word_size": (0, -1, 2.5)},
    without={
      "ranks": "The input only has a type.",
      "integers": "The memory has the type that is asked for.",
    },
  ),
  Row(
    neural_bloom.random_keys,
    "function",
    keyed(),
    call=lambda key, num_slots=3, query_size=2: neural_bloom.random_keys(
      key, num_slots, query_size
    ),
    constants={"num_slots": (0, -1, 2.5), "query_size": (0, -1, 2.5)},
    **_SINGLE,
  ),
  Row(
    neural_bloom.address,
    "function",
    arrays(3, (_NUM_SLOTS, 3)),
    free=frozenset({"keys.0"}),
  ),
  Row(
    neural_bloom.sparse_address,
    "function",
    arrays(3, (_NUM_SLOTS, 3)),
    call=_sparse_address,
    free=frozenset({"keys.0"}),
    constants={"count": (0, -1, _NUM_SLOTS + 1, 1.5)},
  ),
  Row(
    neural_bloom.write,
    "function",
    arrays(
      (_NUM_SLOTS, _WORD_SIZE),
      (_NUM_ITEMS, _NUM_SLOTS),
      (_NUM_ITEMS, _WORD_SIZE),
    ),
    state=0,
  ),
  Row(
    neural_bloom.sparse_write,
    "function",
    _placed,
    state=0,
    free=frozenset({"memory.0"}),
  ),
  Row(
    neural_bloom.read,
    "function",
    arrays((_NUM_SLOTS, 2), _NUM_SLOTS),
    free=frozenset({"memory.1"}),
  ),
  Row(
    neural_bloom.sparse_read,
    "function",
    lambda *given: (_placed(*given)[0], *(x[0] for x in _placed(*given)[1:3])),
    free=frozenset({"memory.0", "memory.1"}),
  ),
  Row(neural_bloom.loss, "function", arrays(4, 4)),
  Row(
    learned_filters.calibrate,
    "function",
    arrays(8),
    call=lambda scores, fpr=0.25: learned_filters.calibrate(scores, fpr=fpr),
    free=frozenset({"scores.0"}),
    constants={"fpr": (-0.1, 1.1)},
  ),
  Row(
    learned_filters.auc,
    "function",
    arrays(5, 4),
    free=frozenset({"members.0", "non_members.0"}),
  ),
  Row(
    learned_filters.init,
    "function",
    keyed(),
    call=_empty_backup,
    constants={"capacity": (-1, 2.5), "fpr": (0.0, 1.0, -0.1)},
  ),
  Row(
    learned_filters.make_backup,
    "function",
    _to_back_up,
    call=_make_backup,
    free=frozenset(_FREE_BACKUP),
    any_rank=frozenset({"elements"}),
    constants={"margin": (-1.0, np.inf), "fpr": (0.0, 1.0, -0.1)},
    without=_BITS,
  ),
  Row(
    learned_filters.find_missed,
    "function",
    lambda *given: _scored(*given)[2:],
    free=frozenset({"scores.0"}),
    any_rank=frozenset({"scores"}),
    constants={"margin": (-1.0, np.inf)},
  ),
  Row(
    learned_filters.fill_backup,
    "function",
    _scored,
    state=0,
    free=frozenset(_FREE_BACKUP),
    any_rank=frozenset({"elements"}),
    constants={"margin": (-1.0, np.inf)},
    without=_BITS,
  ),
  Row(
    learned_filters.contains,
    "function",
    _to_find,
    free=frozenset(_FREE_BACKUP),
    any_rank=frozenset({"element"}),
    without=_BITS,
  ),
  Row(
    learned_filters.false_positive_rate,
    "function",
    _numbers(0.1, 0.3),
    edges={"ones": _numbers(1, 1)},
  ),
  Row(
    learned_filters.space,
    "function",
    _numbers(32, 10),
    call=lambda num_floats, num_missed, fpr=0.05, **hyper: (
      learned_filters.space(num_floats, num_missed, fpr=fpr, **hyper)
    ),
    constants={"bits": (0, -1), "fpr": (0.0, 1.0, -0.1)},
  ),
  Row(
    sphering.init,
    "function",
    arrays(()),
    call=lambda like, size=3: sphering.init(size, dtype=like.dtype),
    any_rank=frozenset({"like"}),
    constants={"size": (0, -1, 1.5)},
    without={"integers": "The call gives the type of its input to the state."},
  ),
  Row(
    sphering.update,
    "function",
    _sphering,
    state=0,
    constants={"decay": (-0.5, 1.5)},
    free=frozenset({"features.0"}),
  ),
  Row(
    sphering.refresh,
    "function",
    _sphering,
    call=_refresh,
    state=0,
    any_rank=frozenset({"features"}),
    free=frozenset({"features.0", "features.1"}),
    constants={
      "decay": (-0.5, 1.5),
      "every": (0, -1, 1.5),
      "epsilon": (0.0, -1.0, np.inf),
    },
    edges={"features that never change": _constant_features},
  ),
  Row(
    sphering.apply,
    "function",
    _sphering,
    call=lambda state, features: sphering.apply(state, features[0]),
    free=frozenset({"features.0"}),
  ),
)
