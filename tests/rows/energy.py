"""Conformance rows of energy-based memory."""

import jax.numpy as jnp
import numpy as np

from lilly.memory import energy
from tests.rows.row import Row, arrays

__all__ = ["ROWS"]

_N, _D = 2, 3


def _energy(params, x):
  """An energy of weights and of a pattern of any shapes."""
  return jnp.sum(jnp.tanh(params * jnp.sum(x))) + 0.5 * jnp.sum(jnp.square(x))


def _rates(dtype):
  return energy.write_rates(0, initial=0.1, dtype=dtype)


def _schedule(dtype):
  return energy.read_rates(2, dtype=dtype)


def _with(make_inputs, *makers):
  """Adds what depends on the type only."""

  def make(seed, dtype):
    return *make_inputs(seed, dtype), *(maker(dtype) for maker in makers)

  return make


def _writing_terms(params, prior_params, patterns):
  return energy.writing_terms(params, prior_params, patterns, _energy)


def _write(params, patterns, rates, *, num_steps=2):
  return energy.write(params, patterns, _energy, rates, num_steps=num_steps)


def _read(params, query, rates, **hyper):
  return energy.read(params, query, _energy, rates, **hyper)


def _loss(params, patterns, queries, rates, schedule, **hyper):
  return energy.loss(
    params,
    patterns,
    queries,
    _energy,
    rates,
    schedule,
    **{"num_steps": 1, **hyper},
  )


def _write_rates(layers, **hyper):
  return energy.write_rates(layers, dtype=layers.dtype, **hyper)


def _read_rates(like, *, num_steps=3, **hyper):
  return energy.read_rates(num_steps, dtype=like.dtype, **hyper)


def _row(function, make_inputs, **settings):
  return Row(function, "function", make_inputs, **settings)


_COUNTS = (-1, 1.5)
_BOX = {"lower": (1.0, 2.0), "upper": (0.0, -1.0)}
_PARAMS = frozenset({"params", "params.0", "params.1"})
# One for all steps, or one for each.
_RATES = frozenset({"rates.energy", "rates.gradient_norm", "rates.prior"})

ROWS: tuple[Row, ...] = (
  _row(
    energy.write_rates,
    arrays((_D, _D)),
    call=_write_rates,
    constants={"initial": (0.0, -1.0, np.inf)},
    any_rank=frozenset({"layers"}),
    free=frozenset({"layers.0", "layers.1"}),
    without={"integers": "The call gives the type of its input to the rates."},
  ),
  _row(
    energy.read_rates,
    arrays(()),
    call=_read_rates,
    constants={
      "num_steps": (0, -1, 1.5),
      "step_size": (-1.0, np.inf),
      "momentum": (-0.5, 1.5),
      "decay": (0.0, 1.0, -1.0),
    },
    any_rank=frozenset({"like"}),
    without={"integers": "The call gives the type of its input to the rates."},
  ),
  _row(energy.decay_rates, arrays((), 3), free=frozenset({"logits.0"})),
  _row(
    energy.writing_terms,
    arrays((_D, _D), (_D, _D), (_N, _D)),
    call=_writing_terms,
    any_rank=frozenset({"patterns"}),
    free=frozenset({"patterns.0", "patterns.1"}),
  ),
  _row(
    energy.write,
    _with(arrays((_D, _D), (_N, _D)), _rates),
    call=_write,
    state=0,
    constants={"num_steps": _COUNTS},
    any_rank=_PARAMS | _RATES | {"patterns"},
    free=_PARAMS | {"patterns.0", "patterns.1"},
  ),
  _row(
    energy.read,
    _with(arrays((_D, _D), _D), _schedule),
    call=_read,
    constants=_BOX,
    any_rank=_PARAMS | {"query"},
    free=_PARAMS | {"query.0"},
  ),
  _row(
    energy.reconstruction_loss,
    arrays((3, _D), _D),
    any_rank=frozenset({"iterates"}),
    free=frozenset({"iterates.0"}),
  ),
  _row(
    energy.loss,
    _with(arrays((_D, _D), (_N, _D), (_N, _D)), _rates, _schedule),
    call=_loss,
    constants={"num_steps": _COUNTS, **_BOX},
    any_rank=_PARAMS | _RATES | {"patterns"},
    free=_PARAMS,
  ),
  _row(energy.error_bits, arrays(_D, _D), any_rank=frozenset({"x"})),
)
