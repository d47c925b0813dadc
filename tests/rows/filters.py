"""Conformance rows of Bloom filters."""

import jax
import jax.numpy as jnp
import numpy as np

from lilly.memory import bloom
from tests.rows.row import Row, keyed

__all__ = ["ROWS"]


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
)
