"""Conformance rows of the Kanerva Machine's memory and of the dynamic one."""

import jax
import jax.numpy as jnp
import numpy as np

from lilly.memory import dynamic_kanerva, kanerva, kanerva_bounds
from tests.rows.row import Row, arrays, together

__all__ = ["ROWS"]

_K, _C, _T = 2, 3, 2


def _made(*makers):
  """Makes inputs by functions of a random generator."""

  def make_inputs(seed, dtype):
    rng = np.random.default_rng(seed)
    inputs = tuple(make(rng) for make in makers)
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), inputs)

  return make_inputs


def _state(rng):
  root = rng.normal(size=(_K, _K))
  return kanerva.State(rng.normal(size=(_K, _C)), root @ root.T + np.eye(_K))


def _floats(*shape):
  return lambda rng: rng.normal(size=shape)


_ITEM = _floats(_K), _floats(_C)
_ITEMS = _floats(_T, _K), _floats(_T, _C)
_BOUNDED = arrays(_T, _T, _T)


@together
def _written(seed, dtype):
  state, weights, values = _made(_state, *_ITEMS)(seed, dtype)
  return kanerva.write(state, weights, values, noise_variance=1.0), state


@together
def _erasable(seed, dtype):
  state, *items = _made(_state, *_ITEMS)(seed, dtype)
  return kanerva.write(state, *items, noise_variance=1.0), *items


@together
def _apart(seed, dtype):
  state, w, z = _made(_state, *_ITEMS)(seed, dtype)
  parts = [
    kanerva.write(state, w[i:][:1], z[i:][:1], noise_variance=1.0)
    for i in range(2)
  ]
  return *parts, state


def _code(rng):
  return rng.normal(size=_C), rng.random(_C) + 0.5


def _code_kl(code, read):
  return kanerva_bounds.code_kl(*code, read, noise_variance=0.5)


def _keyed(seed, dtype):
  return jax.random.key(seed), *_made(_state, _floats(_C))(seed, dtype)


def _retrieve(state, x):
  return dynamic_kanerva.retrieve(
    *(state, x, jnp.tanh, jnp.sin, lambda x, z: -jnp.sum((x - z) ** 2)),
    num_steps=2,
  )


def _row(function, make_inputs, *, call=None, state=None):
  dtypes = (jnp.float32,)
  return Row(function, "function", make_inputs, call, state, dtypes)


ROWS: tuple[Row, ...] = (
  _row(kanerva.prior, arrays((_K, _C), _K)),
  _row(kanerva.address, arrays((_K, 3), 3)),
  _row(kanerva.read, _made(_state, _floats(_K))),
  _row(
    kanerva.rank_one_write,
    _made(_state, *_ITEM),
    call=lambda *x: kanerva.rank_one_write(*x, noise_variance=0.5),
    state=0,
  ),
  _row(
    kanerva.write,
    _made(_state, *_ITEMS),
    call=lambda *x: kanerva.write(*x, noise_variance=0.5),
    state=0,
  ),
  _row(
    kanerva.write_all,
    _made(_state, *_ITEMS),
    call=lambda *x: kanerva.write_all(*x, noise_variance=0.5),
  ),
  _row(
    kanerva.erase,
    _erasable,
    call=lambda *inputs: kanerva.erase(*inputs, noise_variance=1.0),
    state=0,
  ),
  _row(kanerva.merge, _apart, state=0),
  _row(kanerva.kl, _written),
  _row(
    kanerva.step_kl,
    _made(_state, *_ITEM),
    call=lambda *x: kanerva.step_kl(*x, noise_variance=0.5),
  ),
  _row(
    kanerva_bounds.log_evidence,
    _made(_state, *_ITEMS),
    call=lambda *x: kanerva_bounds.log_evidence(*x, noise_variance=0.5),
  ),
  _row(kanerva_bounds.code_kl, _made(_code, _floats(_C)), call=_code_kl),
  _row(kanerva_bounds.conditional_bound, _BOUNDED),
  _row(dynamic_kanerva.address, _made(_state, _floats(_C))),
  _row(dynamic_kanerva.write, _made(_state, _ITEMS[1]), state=0),
  _row(dynamic_kanerva.read, _made(_state, _floats(_C))),
  _row(dynamic_kanerva.sample_read, _keyed),
  _row(dynamic_kanerva.retrieve, _made(_state, _floats(_C)), call=_retrieve),
  _row(dynamic_kanerva.lyapunov, arrays((), ())),
  _row(dynamic_kanerva.weight_kl, arrays(_K)),
  _row(dynamic_kanerva.optimal_weight_stddev, _made(_state)),
  _row(dynamic_kanerva.loss, arrays(_T, _T, (), _T)),
)
