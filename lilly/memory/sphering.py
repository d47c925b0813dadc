"""Moving ZCA: whitens features by moving averages over batches.

ZCA is the whitening closest to the identity, so networks trained on its output
are hardly disturbed by a new projection. Moments and projection are moving
averages, not learned; only `update` and `refresh` change them, so do not call
them in evaluation. Whole numbers count as float32. All functions raise
ValueError for arguments of another shape than stated.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lilly import checks

__all__ = ["State", "apply", "init", "refresh", "update"]

_product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
_NUM_ITERATIONS = 32  # enough for eigenvalues down to 1e-7 of the largest
_ROUNDINGS = 64  # rounding errors that accumulate in the averaged moments


class State(NamedTuple):
  """Moving averages of the features' moments, and the whitening projection."""

  mean: jax.Array  # μ, [D]
  second_moment: jax.Array  # Σ, not centred, [D, D]
  projection: jax.Array  # θ, [D, D]


def init(size: int, *, dtype: jax.typing.DTypeLike = jnp.float32) -> State:
  """Creates a state whose projection is the identity.

  Args:
    size: number of features, D.
    dtype: data type of all arrays.

  Returns:
    The state: μ is 0; Σ and θ are the identity.

  Raises:
    ValueError: if D is not a positive whole number.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, which states no
    initial values: these are ours.

  >>> init(2).projection.tolist()
  [[1.0, 0.0], [0.0, 1.0]]
  """
  size = checks.whole_number("size", size, least=1)
  eye = jnp.eye(size, dtype=dtype)
  return State(jnp.zeros(size, dtype), eye, jnp.copy(eye))


def update(
  state: State, features: jax.Array, *, decay: float | jax.Array = 0.99
) -> State:
  """Updates the moving moments with a batch.

  μ <- γ μ + (1 - γ) mean(s),  Σ <- γ Σ + (1 - γ) sᵀ s / b.

  Args:
    state: the state.
    features: s, [b, D]. No gradient passes through them.
    decay: γ, from 0 (no averaging) to 1 (no update); the paper states no value.

  Returns:
    The state with new moments and the old projection.

  Raises:
    ValueError: if b is 0, or γ is known not to be from 0 to 1.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, which prints sᵀ s
    without the division by b.

  >>> update(init(1), jnp.array([[1.0], [3.0]]), decay=0.5).mean.tolist()
  [1.0]
  """
  sizes = {}
  state = _checked_state(state, sizes)
  features = checks.real("features", features, "b D", sizes)
  if not len(features):
    raise ValueError("features has 0 items; give 1 or more.")
  decay = checks.number("decay", decay, least=0, most=1)
  s = jax.lax.stop_gradient(features).astype(state.mean.dtype)
  decay = jnp.asarray(decay, state.mean.dtype)
  mixed = lambda old, new: decay * old + (1 - decay) * new
  return state._replace(
    mean=mixed(state.mean, jnp.mean(s, axis=0)),
    second_moment=mixed(state.second_moment, _product(s.T, s) / len(s)),
  )


def refresh(
  state: State,
  *,
  decay: float | jax.Array = 0.95,
  every: int = 1,
  epsilon: float | jax.Array = 1e-3,
) -> State:
  """Updates the moving projection from the moments.

  θ <- η^T θ + (1 - η^T) (C + ε I)^(-1/2),  C = Σ - μ μᵀ.

  Args:
    state: the state.
    decay: η, from 0 (no averaging) to 1 (no update).
    every: T, updates of the moments per call of this function: the projection
      then moves as fast as with T = 1. The paper prints η / T, which would move
      it faster.
    epsilon: ε, positive: regularises the inverse root for constant features.
      It is raised to the rounding error of C where means are much larger than
      standard deviations.

  Returns:
    The state; it keeps its projection if the moments are not finite. Time is
    O(D³); no LAPACK is called.

  Raises:
    ValueError: if η is known not to be from 0 to 1, or ε not to be positive and
      finite, or T is not a positive whole number.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304; ε is ours. The inverse
    root: Higham (2008), Functions of matrices, section 6.7.

  >>> state = init(1)._replace(second_moment=jnp.array([[4.0]]))
  >>> f"{float(refresh(state, decay=0.0).projection[0, 0]):.2f}"
  '0.50'
  """
  state = _checked_state(state, {})
  decay = checks.number("decay", decay, least=0, most=1)
  every = checks.whole_number("every", every, least=1)
  epsilon = checks.number("epsilon", epsilon, above=0)
  mean, second_moment, projection = state
  decay, epsilon = (jnp.asarray(x, mean.dtype) for x in (decay, epsilon))
  kept = decay**every
  cov = second_moment - mean[:, None] * mean[None]
  rounding = jnp.finfo(mean.dtype).eps * jnp.diag(second_moment)
  cov += jnp.diag(jnp.maximum(epsilon, _ROUNDINGS * rounding))
  new = kept * projection + (1 - kept) * _inverse_root(cov)
  # A NaN would never leave the moving average.
  new = jnp.where(jnp.isfinite(new).all(), new, projection)
  return state._replace(projection=new)


def _inverse_root(matrix):
  """A^(-1/2) by matrix products only: the Newton-Schulz iteration."""
  wide = jnp.promote_types(matrix.dtype, jnp.float32)
  eye = jnp.eye(len(matrix), dtype=wide)
  scale = jnp.sqrt(jnp.sum(jnp.square(matrix.astype(wide))))

  def step(carry, _):
    root, inverse = carry
    factor = 1.5 * eye - 0.5 * _product(inverse, root)
    return (_product(root, factor), _product(factor, inverse)), None

  start = matrix.astype(wide) / scale, eye
  (_, inverse), _ = jax.lax.scan(step, start, length=_NUM_ITERATIONS)
  inverse = 0.5 * (inverse + inverse.T) / jnp.sqrt(scale)
  return inverse.astype(matrix.dtype)


def apply(
  state: State, features: jax.Array, *, is_centred: bool = False
) -> jax.Array:
  """Whitens features: q = θ s, or θ (s - μ).

  Args:
    state: the state, treated as constant: gradients reach the features only.
    features: s, [D].
    is_centred: whether to subtract μ; the paper's equation does not.

  Returns:
    q, [D].

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304.

  >>> apply(init(2), jnp.array([3.0, 4.0])).tolist()
  [3.0, 4.0]
  """
  sizes = {}
  mean, _, projection = jax.lax.stop_gradient(_checked_state(state, sizes))
  features = checks.real("features", features, "D", sizes)
  s = features - mean if is_centred else features
  return _product(projection, s)


def _checked_state(state, sizes):
  mean = checks.real("state.mean", state.mean, "D", sizes)
  moment = checks.real("state.second_moment", state.second_moment, "D D", sizes)
  projection = checks.real("state.projection", state.projection, "D D", sizes)
  dtype = jnp.result_type(mean, moment, projection)
  return State(*(x.astype(dtype) for x in (mean, moment, projection)))
