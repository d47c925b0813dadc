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


def _counts(seed, dtype):
  del seed
  return tuple(jnp.asarray(x, dtype) for x in (64, 3, 10))


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


def _read_sparsely(memory, slots, weights, words):
  del words
  return neural_bloom.sparse_read(memory, slots[0], weights[0])


@together
def _scored(seed, dtype):
  """A backup, elements, scores and a threshold."""
  state, elements = _filled(seed, dtype)
  scores = jnp.asarray([-1.0, 1.0 - 3 * seed], dtype)
  return state, elements, scores, jnp.zeros((), dtype)


def _contains(state, elements, scores, threshold):
  return learned_filters.contains(scores[0], elements[1], threshold, state)


def _made(state, elements, scores, threshold):
  del state
  return learned_filters.make_backup(
    jax.random.key(0), elements, scores, threshold, fpr=0.1
  )


def _missed(state, elements, scores, threshold):
  del state, elements
  return learned_filters.find_missed(scores, threshold)


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

ROWS: tuple[Row, ...] = (
  Row(bloom.init, "function", keyed(), call=lambda key: bloom.init(key, 40, 3)),
  Row(bloom.insert, "function", _filled, state=0),
  Row(
    bloom.query,
    "function",
    _filled,
    call=lambda state, elements: bloom.query(state, elements[1]),
  ),
  Row(bloom.false_positive_rate, "function", _counts),
  Row(bloom.space, "function", _rates),
  Row(bloom.cuckoo_space, "function", _rates),
  Row(bloom.least_space, "function", _rates),
  Row(
    neural_bloom.init,
    "function",
    arrays(()),
    call=lambda like: neural_bloom.init(2, 3, dtype=like.dtype),
  ),
  Row(
    neural_bloom.random_keys,
    "function",
    keyed(),
    call=lambda key: neural_bloom.random_keys(key, 3, 2),
    **_SINGLE,
  ),
  Row(neural_bloom.address, "function", arrays(3, (_NUM_SLOTS, 3))),
  Row(
    neural_bloom.sparse_address,
    "function",
    arrays(3, (_NUM_SLOTS, 3)),
    call=lambda *x: neural_bloom.sparse_address(*x, count=_COUNT),
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
  Row(neural_bloom.sparse_write, "function", _placed, state=0),
  Row(neural_bloom.read, "function", arrays((_NUM_SLOTS, 2), _NUM_SLOTS)),
  Row(neural_bloom.sparse_read, "function", _placed, call=_read_sparsely),
  Row(neural_bloom.loss, "function", arrays(4, 4)),
  Row(
    learned_filters.calibrate,
    "function",
    arrays(8),
    call=lambda scores: learned_filters.calibrate(scores, fpr=0.25),
  ),
  Row(learned_filters.auc, "function", arrays(5, 4)),
  Row(learned_filters.make_backup, "function", _scored, call=_made),
  Row(learned_filters.find_missed, "function", _scored, call=_missed),
  Row(learned_filters.fill_backup, "function", _scored, state=0),
  Row(learned_filters.contains, "function", _scored, call=_contains),
  Row(learned_filters.false_positive_rate, "function", arrays((), ())),
  Row(
    learned_filters.space,
    "function",
    _rates,
    call=lambda n, rate: learned_filters.space(32, n, fpr=rate),
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
