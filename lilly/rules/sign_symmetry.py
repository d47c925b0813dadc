"""Sign symmetry: feedback with the signs of the weights, not their sizes.

Each function returns the matrix to pass to `feedback_alignment.linear` (or
`conv`). Dense weights `[in, out]` give feedback `[out, in]`; convolution
kernels give feedback of the same shape. Exact zeros of `w`, as in a sparse
layer, are zeros of the feedback. Whole numbers count as float32. No gradient
flows through the feedback.
"""

import jax
import jax.numpy as jnp

from lilly import checks

__all__ = ["brsf", "frsf", "usf"]


def usf(w: jax.Array, *, scale: jax.typing.ArrayLike = 1.0) -> jax.Array:
  """Computes uniform sign-concordant feedback, scale sign(wᵀ).

  Args:
    w: weights, [in, out], or a convolution kernel.
    scale: magnitude of every entry, positive; a traced value is not checked.

  Returns:
    Feedback, [out, in], or shaped as the kernel.

  Raises:
    ValueError: if scale is not positive, or w has less than two axes.

  Reference:
    Liao, Leibo and Poggio (2016), arXiv:1510.05067, "uSF"; Xiao, Chen, Liao and
    Poggio (2018), arXiv:1811.03567.

  >>> usf(jnp.array([[2.0, -3.0]]), scale=0.5).tolist()
  [[0.5], [-0.5]]
  """
  w = checks.real("w", w, "... in out")
  scale = checks.number("scale", scale, above=0)
  return (jnp.asarray(scale) * _signs(w)).astype(w.dtype)


def brsf(
  key: jax.Array, w: jax.Array, *, scale: jax.typing.ArrayLike = 1.0
) -> jax.Array:
  """Samples batchwise-random sign-concordant feedback, |R_t| sign(wᵀ).

  Call it with a new key for every batch: |R_t| ~ U[0, scale].

  Args:
    key: typed PRNG key.
    w: weights, [in, out], or a convolution kernel.
    scale: upper bound of the magnitudes, positive; a traced value is not
      checked.

  Returns:
    Feedback, [out, in], or shaped as the kernel.

  Raises:
    ValueError: if scale is not positive, or w has less than two axes.

  Reference:
    Liao et al. (2016), arXiv:1510.05067, "brSF"; the uniform distribution is
    ours.

  >>> w = jnp.array([[2.0, -3.0]])
  >>> jnp.sign(brsf(jax.random.key(0), w)).tolist()
  [[1.0], [-1.0]]
  """
  key = checks.key("key", key)
  w = checks.real("w", w, "... in out")
  scale = checks.number("scale", scale, above=0)
  signs = _signs(w)
  magnitude = jax.random.uniform(key, signs.shape, signs.dtype)
  return (jnp.asarray(scale) * magnitude * signs).astype(w.dtype)


def frsf(w: jax.Array, magnitude: jax.Array) -> jax.Array:
  """Computes fixed-random sign-concordant feedback, |R| sign(wᵀ).

  Args:
    w: weights, [in, out], or a convolution kernel.
    magnitude: R, sampled once, shaped as the feedback; its sign is not used.

  Returns:
    Feedback, [out, in], or shaped as the kernel.

  Raises:
    ValueError: if magnitude has another shape than stated.

  Reference:
    Liao et al. (2016), arXiv:1510.05067, "frSF".

  >>> frsf(jnp.array([[2.0, -3.0]]), jnp.array([[-0.2], [0.4]])).tolist()
  [[0.20000000298023224], [-0.4000000059604645]]
  """
  sizes = {}
  w = checks.real("w", w, "... in out", sizes)
  is_kernel = w.ndim > 2
  shape = " ".join(map(str, w.shape)) if is_kernel else "out in"
  magnitude = checks.real("magnitude", magnitude, shape, sizes)
  signs = _signs(w)
  magnitude = jax.lax.stop_gradient(magnitude)
  return (jnp.abs(magnitude) * signs).astype(w.dtype)


def _signs(w: jax.Array) -> jax.Array:
  signs = jnp.sign(jax.lax.stop_gradient(w))
  return signs.T if w.ndim == 2 else signs
