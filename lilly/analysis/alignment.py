"""Alignment between feedback signals and the true gradient.

Angles are signed, in degrees from 0 to 180: above 90 the signal points uphill,
which an angle clipped to [0, 90] would hide. Arrays are compared as flat
vectors; `vmap` gives the angle of each example. The angle with a zero vector is
90, and its gradient is 0. All functions raise ValueError for arguments of
another shape than stated; whole numbers count as float32.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lilly import checks

__all__ = [
  "Alignment",
  "angle",
  "compare",
  "descent",
  "matrix_angle",
  "norm_ratio",
  "normalised_error",
]


class Alignment(NamedTuple):
  """Angles between a rule's hidden signals and two references, per layer."""

  bp: jax.Array  # to backpropagation, in degrees, [layers]
  pbp: jax.Array  # to pseudo-backpropagation, in degrees, [layers]


def angle(a: jax.Array, b: jax.Array) -> jax.Array:
  """Computes the angle between two arrays.

  2 atan2(|â - b̂|, |â + b̂|) with unit vectors â, b̂: the arccos of the cosine,
  but accurate near 0 and 180 degrees as well.

  Args:
    a: array of any shape.
    b: array shaped as `a`.

  Returns:
    Scalar, in degrees, in [0, 180]; 90 if `a` or `b` is zero.

  Reference:
    Lillicrap et al. (2014), arXiv:1411.0247, the angle of figures 1 and 4.
    Formula: Kahan (2006), "How futile are mindless assessments of roundoff".

  >>> round(angle(jnp.array([1.0, 0.0]), jnp.array([-1.0, 1.0])).item(), 3)
  135.0
  """
  sizes = {}
  a = checks.real("a", a, "*S", sizes)
  b = checks.real("b", b, "*S", sizes)
  dtype = jnp.result_type(a, b)
  wide = jnp.promote_types(dtype, jnp.float32)
  tiny = float(jnp.finfo(wide).eps) ** 2
  a, b = _unit(jnp.asarray(a, wide), tiny), _unit(jnp.asarray(b, wide), tiny)
  # Norms of at least `tiny`: two zero vectors give atan2(tiny, tiny), 45.
  half = jnp.arctan2(optax.safe_norm(a - b, tiny), optax.safe_norm(a + b, tiny))
  return jnp.rad2deg(2 * half).astype(dtype)


def _unit(x: jax.Array, tiny: float) -> jax.Array:
  x = x.ravel()
  # Squares of small signals would underflow; the angle is scale-invariant.
  largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), initial=0.0))
  x = x / jnp.where(largest > 0, largest, 1.0)
  return x / optax.safe_norm(x, tiny)


def matrix_angle(w: jax.Array, feedback: jax.Array) -> jax.Array:
  """Computes the angle between the weights and the transposed feedback.

  Args:
    w: weights, [in, out], or a convolution kernel.
    feedback: matrix of the backward pass, [out, in], or shaped as the kernel.

  Returns:
    Scalar, in degrees, in [0, 180]; 0 for backpropagation.

  Reference:
    Lillicrap et al. (2014), arXiv:1411.0247.

  >>> w = jnp.array([[1.0, 2.0], [3.0, 4.0]])
  >>> matrix_angle(w, 3 * w.T).round(3).item()
  0.0
  """
  w, feedback = _checked_pair(w, feedback)
  return angle(w, feedback.T if w.ndim == 2 else feedback)


def _checked_pair(w, feedback):
  sizes = {}
  w = checks.real("w", w, "...")
  if w.ndim == 2:
    w = checks.real("w", w, "in out", sizes)
    return w, checks.real("feedback", feedback, "out in", sizes)
  w = checks.real("w", w, "*S", sizes)
  return w, checks.real("feedback", feedback, "*S", sizes)


def norm_ratio(w: jax.Array, feedback: jax.Array) -> jax.Array:
  """Computes the norm of the feedback relative to the weights, |B| / |W|.

  Args:
    w: weights, [in, out], or a convolution kernel.
    feedback: matrix of the backward pass, [out, in], or shaped as the kernel.

  Returns:
    Scalar; infinite if the weights are zero. The gradient of the norm of zeros
    counts as 0.

  Reference:
    Lillicrap et al. (2014), arXiv:1411.0247: feedback larger than the weights
    acts as a larger learning rate in the layers below.

  >>> norm_ratio(jnp.ones((3, 2)), jnp.full((2, 3), 4.0)).item()
  4.0
  """
  w, feedback = _checked_pair(w, feedback)
  w_norm = _norm(w.ravel())
  ratio = _norm(feedback.ravel()) / jnp.where(w_norm > 0, w_norm, 1)
  return jnp.where(w_norm > 0, ratio, jnp.inf)


@jax.custom_jvp
def _norm(x):
  """The norm of a vector, with gradient 0 at 0."""
  return jnp.linalg.norm(x)


@_norm.defjvp
def _norm_jvp(primals, tangents):
  (x,), (change,) = primals, tangents
  norm = jnp.linalg.norm(x)
  return norm, jnp.sum(x * change) / jnp.where(norm > 0, norm, 1)


def descent(e: jax.Array, w: jax.Array, feedback: jax.Array) -> jax.Array:
  """Computes eᵀ W B e, positive if the feedback signal is a descent direction.

  W and B are the paper's, which multiply columns: the transposes of `w` and
  `feedback`. In rows it is (e feedback) · (e wᵀ). If it is positive, the signal
  is within 90 degrees of backpropagation's.

  Args:
    e: error at the layer's output, [out].
    w: weights, [in, out].
    feedback: matrix of the backward pass, [out, in].

  Returns:
    Scalar.

  Reference:
    Lillicrap et al. (2014), arXiv:1411.0247: eᵀ W B e > 0 on average.

  >>> w = jnp.array([[1.0, 0.0], [2.0, 1.0], [0.0, 3.0]])
  >>> descent(jnp.array([1.0, -1.0]), w, w.T).item()
  11.0
  """
  sizes = {}
  e = checks.real("e", e, "out", sizes)
  w = checks.real("w", w, "in out", sizes)
  feedback = checks.real("feedback", feedback, "out in", sizes)
  return jnp.vdot(e @ feedback, w @ e)


def normalised_error(target: jax.Array, output: jax.Array) -> jax.Array:
  """Computes the squared error relative to the target's squared norm.

  |target - output|² / |target|², summed over all axes; 1 for an output of 0.

  Args:
    target: array of any shape, not all zero.
    output: array shaped as `target`.

  Returns:
    Scalar.

  Reference:
    Lillicrap et al. (2014), arXiv:1411.0247, the error of figures 1 and 3.

  >>> normalised_error(jnp.array([3.0, 4.0]), jnp.zeros(2)).item()
  1.0
  """
  sizes = {}
  target = checks.real("target", target, "*S", sizes)
  output = checks.real("output", output, "*S", sizes)
  return jnp.sum(jnp.square(target - output)) / jnp.sum(jnp.square(target))


def compare(
  signals: Sequence[jax.Array],
  bp: Sequence[jax.Array],
  pbp: Sequence[jax.Array],
) -> Alignment:
  """Computes the angles of a rule's hidden signals to both references.

  Args:
    signals: the rule's hidden signals, one array per layer, i.e. the cotangents
      of `lilly.nets.feedback.MLP`'s taps.
    bp: the signals of backpropagation, for the same parameters and example.
    pbp: the signals of pseudo-backpropagation, likewise.

  Returns:
    The angles, in degrees, [layers] each.

  Raises:
    ValueError: if there are not equally many layers, or none.

  Reference:
    Lillicrap et al. (2014), arXiv:1411.0247, figure 4.

  >>> a, b = jnp.array([1.0, 0.0]), jnp.array([0.0, 2.0])
  >>> compare([a], [b], [a]).bp.round().tolist()
  [90.0]
  """
  if not len(signals) == len(bp) == len(pbp) > 0:
    raise ValueError(
      f"signals has {len(signals)} layers, bp {len(bp)} and pbp {len(pbp)}; "
      "each must have as many, at least 1."
    )
  to_bp, to_pbp = [], []
  for i in range(len(signals)):
    sizes = {}
    signal = checks.real(f"signals[{i}]", signals[i], "*S", sizes)
    of_bp = checks.real(f"bp[{i}]", bp[i], "*S", sizes)
    of_pbp = checks.real(f"pbp[{i}]", pbp[i], "*S", sizes)
    to_bp.append(angle(signal, of_bp))
    to_pbp.append(angle(signal, of_pbp))
  return Alignment(bp=jnp.stack(to_bp), pbp=jnp.stack(to_pbp))
