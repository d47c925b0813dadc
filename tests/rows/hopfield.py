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


def _clamped(make_inputs):
  """Adds a mask of units to keep."""

  def make(seed, dtype):
    return *make_inputs(seed, dtype), jnp.arange(_D) < 3

  return make


def _retrieve_asynchronously(key, weights, query, clamped, **hyper):
  return hopfield.retrieve_asynchronously(
    key, weights, query, clamped=clamped, **hyper
  )


def _retrieve_synchronously(weights, query, clamped, **hyper):
  return hopfield.retrieve_synchronously(
    weights, query, clamped=clamped, **hyper
  )


def _modern_retrieve(patterns, query, clamped, **hyper):
  return hopfield.modern_retrieve(patterns, query, clamped=clamped, **hyper)


def _row(function, make_inputs, **settings):
  return Row(function, "function", make_inputs, **settings)


_ANY_PATTERNS = frozenset({"patterns.0", "patterns.1"})
_SIGNS = {"gradient": "States are signs, which have no gradient."}
_TEMPERATURE = {"inverse_temperature": (0.0, -1.0, np.inf)}

ROWS: tuple[Row, ...] = (
  _row(hopfield.hebb, _signs((_N, _D)), free=_ANY_PATTERNS),
  _row(hopfield.storkey, _signs((_N, _D)), free=_ANY_PATTERNS),
  _row(
    hopfield.pseudo_inverse,
    _signs((_N, _D)),
    constants={"ridge": (-1.0, np.inf)},
    free=_ANY_PATTERNS,
    edges={"more patterns than units": _signs((_D + 1, _D))},
  ),
  _row(hopfield.energy, _stored),
  _row(
    hopfield.retrieve_asynchronously,
    _clamped(_keyed),
    call=_retrieve_asynchronously,
    constants={"max_sweeps": (0, -1, 1.5)},
    without=_SIGNS,
  ),
  _row(
    hopfield.retrieve_synchronously,
    _clamped(_stored),
    call=_retrieve_synchronously,
    constants={"max_sweeps": (0, -1, 1.5)},
    without=_SIGNS,
  ),
  _row(
    hopfield.modern_energy,
    arrays((_N, _D), _D),
    constants=_TEMPERATURE,
    free=frozenset({"patterns.0"}),
  ),
  _row(
    hopfield.modern_retrieve,
    _clamped(arrays((_N, _D), _D)),
    call=_modern_retrieve,
    constants={**_TEMPERATURE, "num_steps": (-1, 1.5)},
    free=frozenset({"patterns.0"}),
  ),
)
