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


def _known_row(rng):
  """A memory that knows a row exactly."""
  return kanerva.State(rng.normal(size=(_K, _C)), np.diag([1.5, 0.0]))


def _equal_rows(rng):
  """A memory of two equal rows."""
  mean = np.broadcast_to(rng.normal(size=_C), (_K, _C))
  return kanerva.State(mean, np.ones((_K, _K)))


def _floats(*shape):
  return lambda rng: rng.normal(size=shape)


_ITEM = _floats(_K), _floats(_C)
_ITEMS = _floats(_T, _K), _floats(_T, _C)
_BOUNDED = arrays(_T, _T, _T)


@together
def _written(seed, dtype):
  """A memory after a write and before."""
  state, weights, values = _made(_state, *_ITEMS)(seed, dtype)
  return kanerva.write(state, weights, values, noise_variance=1.0), state


def _erasable(make_state):
  """A memory with items, and the items."""

  @together
  def make_inputs(seed, dtype):
    state, *items = _made(make_state, *_ITEMS)(seed, dtype)
    return kanerva.write(state, *items, noise_variance=1.0), *items

  return make_inputs


def _apart(make_state):
  """Memories with an item each, and the one before."""

  @together
  def make_inputs(seed, dtype):
    state, w, z = _made(make_state, *_ITEMS)(seed, dtype)
    parts = [
      kanerva.write(state, w[i:][:1], z[i:][:1], noise_variance=1.0)
      for i in range(2)
    ]
    return *parts, state

  return make_inputs


def _stddev(rng):
  return rng.random(_C) + 0.5


def _keyed(seed, dtype):
  return jax.random.key(seed), *_made(_state, _floats(_C))(seed, dtype)


def _retrieve(state, x, **hyper):
  return dynamic_kanerva.retrieve(
    state,
    x,
    jnp.tanh,
    jnp.sin,
    lambda x, z: -jnp.sum((x - z) ** 2),
    **{"num_steps": 2, **hyper},
  )


_NOISE = {"noise_variance": 0.5}
_REFUSED = (0.0, -1.0, np.inf)
_VARIANCES = {"noise_variance": _REFUSED, "weight_variance": _REFUSED}
_STDDEV = {"weight_stddev": _REFUSED}


def _with_noise(function):
  """Passes a noise variance, which has no default."""
  return lambda *inputs, **hyper: function(*inputs, **{**_NOISE, **hyper})


def _row(function, make_inputs, **settings):
  dtypes = (jnp.float32,)
  return Row(function, "function", make_inputs, dtypes=dtypes, **settings)


def _noisy_row(function, make, *others, **settings):
  """A row of a function of a memory and items, seen with some noise."""
  return _row(
    function,
    make(_state, *others),
    call=_with_noise(function),
    constants={"noise_variance": _REFUSED},
    edges={
      "a row known exactly": make(_known_row, *others),
      "two equal rows": make(_equal_rows, *others),
    },
    **settings,
  )


_NO_COVARIANCE = {"equal": "A matrix of equal rows is no covariance."}

ROWS: tuple[Row, ...] = (
  _row(
    kanerva.prior,
    arrays((_K, _C), _K),
    free=frozenset({"mean.1"}),
    any_rank=frozenset({"log_variance"}),
  ),
  _row(
    kanerva.address,
    arrays((_K, 3), 3),
    free=frozenset({"address_matrix.0"}),
  ),
  _row(
    kanerva.read, _made(_state, _floats(_K)), free=frozenset({"state.mean.1"})
  ),
  _noisy_row(kanerva.rank_one_write, _made, *_ITEM, state=0),
  _noisy_row(kanerva.write, _made, *_ITEMS, state=0),
  _noisy_row(kanerva.write_all, _made, *_ITEMS),
  _noisy_row(kanerva.erase, _erasable, state=0),
  _row(
    kanerva.merge,
    _apart(_state),
    state=0,
    edges={"a row known exactly": _apart(_known_row)},
    without=_NO_COVARIANCE,
  ),
  _row(
    kanerva.kl,
    _written,
    constants={"scale": ()},
    without={
      **_NO_COVARIANCE,
      "zeros": "It is NaN for a singular covariance, as documented.",
    },
  ),
  _noisy_row(kanerva.step_kl, _made, *_ITEM),
  _noisy_row(kanerva_bounds.log_evidence, _made, *_ITEMS),
  _row(
    kanerva_bounds.code_kl,
    _made(_floats(_C), _stddev, _floats(_C)),
    call=_with_noise(kanerva_bounds.code_kl),
    constants={"noise_variance": _REFUSED, "read_variance": (np.inf,)},
    without={
      "zeros": "At a standard deviation of 0 it is infinite.",
      "equal": "These standard deviations are negative.",
    },
  ),
  _row(kanerva_bounds.conditional_bound, _BOUNDED),
  _row(
    dynamic_kanerva.address,
    _made(_state, _floats(_C)),
    constants=_VARIANCES,
  ),
  _row(
    dynamic_kanerva.write,
    _made(_state, _ITEMS[1]),
    state=0,
    constants={**_VARIANCES, **_STDDEV, "num_iterations": (0, -1, 1.5)},
    free=frozenset({"values.0"}),
  ),
  _row(dynamic_kanerva.read, _made(_state, _floats(_C)), constants=_VARIANCES),
  _row(
    dynamic_kanerva.sample_read, _keyed, constants={**_VARIANCES, **_STDDEV}
  ),
  _row(
    dynamic_kanerva.retrieve,
    _made(_state, _floats(_C)),
    call=_retrieve,
    constants={**_VARIANCES, **_STDDEV, "num_steps": (0, -1, 1.5)},
  ),
  _row(dynamic_kanerva.lyapunov, arrays((), ())),
  _row(
    dynamic_kanerva.weight_kl,
    arrays(_K),
    constants={"weight_variance": _REFUSED, **_STDDEV},
    free=frozenset({"weights.0"}),
  ),
  _row(
    dynamic_kanerva.optimal_weight_stddev,
    _made(_state),
    constants=_VARIANCES,
    free=frozenset({"state.mean.1"}),
  ),
  _row(dynamic_kanerva.loss, arrays(_T, _T, (), _T)),
)
