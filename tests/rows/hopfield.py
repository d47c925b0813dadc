"""Conformance rows of Hopfield networks."""

import jax
import jax.numpy as jnp
import numpy as np

from lilly.memory import hopfield
from tests.rows.row import Row, arrays

__all__ = ["ROWS"]

_N, _D = 2, 8


def _signs(*shapes):
  """Makes inputs of -1 and 1."""

  def make_inputs(seed, dtype):
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.choice([-1, 1], s), dtype) for s in shapes)

  return make_inputs


def _stored(seed, dtype):
  patterns, query = _signs((_N, _D), _D)(seed, dtype)
  return hopfield.hebb(patterns), query


def _keyed(seed, dtype):
  return jax.random.key(seed), *_stored(seed, dtype)


def _row(function, make_inputs):
  return Row(function, "function", make_inputs)


ROWS: tuple[Row, ...] = (
  _row(hopfield.hebb, _signs((_N, _D))),
  _row(hopfield.storkey, _signs((_N, _D))),
  _row(hopfield.pseudo_inverse, _signs((_N, _D))),
  _row(hopfield.energy, _stored),
  _row(hopfield.retrieve_asynchronously, _keyed),
  _row(hopfield.retrieve_synchronously, _stored),
  _row(hopfield.modern_energy, arrays((_N, _D), _D)),
  _row(hopfield.modern_retrieve, arrays((_N, _D), _D)),
)
