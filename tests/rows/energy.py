"""Conformance rows of energy-based memory."""

import jax.numpy as jnp

from lilly.memory import energy
from tests.rows.row import Row, arrays

__all__ = ["ROWS"]

_N, _D = 2, 3


def _energy(params, x):
  return jnp.sum(jnp.tanh(params @ x)) + 0.5 * jnp.sum(jnp.square(x))


def _rates(dtype):
  return energy.write_rates(0, initial=0.1, dtype=dtype)


def _schedule(dtype):
  return energy.read_rates(2, dtype=dtype)


def _write(params, patterns):
  rates = _rates(params.dtype)
  return energy.write(params, patterns, _energy, rates, num_steps=2)


def _loss(params, patterns, queries):
  dtype = params.dtype
  return energy.loss(
    *(params, patterns, queries, _energy, _rates(dtype), _schedule(dtype)),
    num_steps=1,
  )


def _row(function, make_inputs, call=None, state=None):
  return Row(function, "function", make_inputs, call, state)


ROWS: tuple[Row, ...] = (
  _row(
    energy.write_rates,
    arrays((_D, _D)),
    lambda x: energy.write_rates(x, dtype=x.dtype),
  ),
  _row(
    energy.read_rates,
    arrays(()),
    lambda x: energy.read_rates(3, dtype=x.dtype),
  ),
  _row(energy.decay_rates, arrays((), 3)),
  _row(
    energy.writing_terms,
    arrays((_D, _D), (_D, _D), (_N, _D)),
    lambda *x: energy.writing_terms(*x, _energy),
  ),
  _row(energy.write, arrays((_D, _D), (_N, _D)), _write, state=0),
  _row(
    energy.read,
    arrays((_D, _D), _D),
    lambda *x: energy.read(*x, _energy, _schedule(x[0].dtype)),
  ),
  _row(energy.reconstruction_loss, arrays((3, _D), _D)),
  _row(energy.loss, arrays((_D, _D), (_N, _D), (_N, _D)), _loss),
  _row(energy.error_bits, arrays(_D, _D)),
)
