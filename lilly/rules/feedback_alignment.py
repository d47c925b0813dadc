"""Feedback alignment: backpropagation through separate feedback weights.

The forward pass, the loss and the outer-product update are those of
backpropagation; only the matrix that carries the signal to the layer below is
`feedback` instead of the transposed weights. Every rule that differs only in
the choice of that matrix (`sign_symmetry`, `weight_mirror`, `pseudo_backprop`,
low-rank feedback) calls the functions of this module with its own matrix.

Weights are stored as in haiku: `w [in, out]`, `feedback [out, in]`, an example
is a row. In the papers an example is a column: their W and B are the
transposes.

The functions define a reverse-mode rule only: `jax.jvp`, `jax.jacfwd` and
`jax.hessian` raise a TypeError. They raise ValueError for arguments of another
shape than stated. Whole numbers count as float32.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from lilly import checks

__all__ = ["Padding", "conv", "linear"]

Padding = str | Sequence[tuple[int, int]]


@jax.custom_vjp
def _linear(x, w, feedback) -> jax.Array:
  del feedback
  return x @ w


def _linear_fwd(x, w, feedback):
  return x @ w, (x, feedback)


def _linear_bwd(residuals, g):
  x, feedback = residuals
  dw = jnp.einsum("...i,...o->io", x, g)
  return g @ feedback, dw, jnp.zeros_like(feedback)


_linear.defvjp(_linear_fwd, _linear_bwd)


def linear(x: jax.Array, w: jax.Array, feedback: jax.Array) -> jax.Array:
  """Multiplies by `w`; the backward pass multiplies by `feedback`.

  y = x w;  dx = dy feedback,  dw = xᵀ dy,  dfeedback = 0.

  The backward pass stores `x` and `feedback`, not `w`. With `feedback = w.T` it
  is backpropagation; with `feedback = 0` no gradient reaches the layer below.

  Args:
    x: inputs, [..., in].
    w: weights, [in, out].
    feedback: matrix of the backward pass, [out, in].

  Returns:
    Outputs, [..., out], with the dtype of `x @ w`.

  Reference:
    Lillicrap, Cownden, Tweed and Akerman (2014), arXiv:1411.0247, the rule
    "feedback alignment"; Nature Communications 7:13276 (2016).

  >>> x, w, feedback = jnp.ones(3), jnp.ones((3, 2)), jnp.full((2, 3), 7.0)
  >>> jax.grad(lambda x: linear(x, w, feedback).sum())(x).tolist()
  [14.0, 14.0, 14.0]
  """
  sizes = {}
  x = checks.real("x", x, "... in", sizes)
  w = checks.real("w", w, "in out", sizes)
  feedback = checks.real("feedback", feedback, "out in", sizes)
  dtype = jnp.result_type(x, w)
  x, w, feedback = (a.astype(dtype) for a in (x, w, feedback))
  return _linear(x, w, feedback)


def _conv_primal(convolve, x, w, feedback) -> jax.Array:
  del feedback
  return convolve(x, w)


def _conv_fwd(convolve, x, w, feedback):
  return convolve(x, w), (x, feedback)


def _conv_bwd(convolve, residuals, g):
  x, feedback = residuals
  # Exact for every stride, padding, dilation and grouping, without primal work.
  (dx,) = jax.linear_transpose(lambda x: convolve(x, feedback), x)(g)
  (dw,) = jax.linear_transpose(lambda w: convolve(x, w), feedback)(g)
  return dx, dw, jnp.zeros_like(feedback)


_conv = jax.custom_vjp(_conv_primal, nondiff_argnums=(0,))
_conv.defvjp(_conv_fwd, _conv_bwd)


def conv(
  x: jax.Array,
  w: jax.Array,
  feedback: jax.Array,
  *,
  stride: int | tuple[int, int] = 1,
  padding: Padding = "SAME",
  rhs_dilation: int | tuple[int, int] | None = None,
  feature_group_count: int = 1,
) -> jax.Array:
  """Convolves with `w`; the backward pass uses `feedback`.

  y = x * w;  dx = the transpose of (x -> x * feedback) at dy,
  dw = the transpose of (w -> x * w) at dy,  dfeedback = 0.

  Args:
    x: images, [..., height, width, in_channels].
    w: kernel, [height, width, in_channels / groups, out_channels].
    feedback: kernel of the backward pass, shaped as w (not transposed).
    stride: stride of the window, in pixels.
    padding: "SAME", "VALID", or the (low, high) pixels of each spatial axis.
    rhs_dilation: dilation of the kernel, in pixels; None is 1.
    feature_group_count: number of channel groups.

  Returns:
    Images, [..., out_height, out_width, out_channels].

  Raises:
    ValueError: an argument has another shape than stated, or the geometry of
      the window is no whole number above 0.

  Reference:
    Lillicrap et al. (2014), arXiv:1411.0247. The paper has dense layers only;
    here the same rule is applied to the linear map of the convolution.

  >>> x, w = jnp.ones((4, 4, 1)), jnp.ones((3, 3, 1, 2))
  >>> conv(x, w, jnp.zeros_like(w), padding="VALID").shape
  (2, 2, 2)
  """
  groups = checks.whole_number(
    "feature_group_count", feature_group_count, least=1
  )
  sizes = {}
  x = checks.real("x", x, "... height width channels")
  w = checks.real("w", w, "h w in out", sizes)
  feedback = checks.real("feedback", feedback, "h w in out", sizes)
  if x.shape[-1] != w.shape[2] * groups or w.shape[3] % groups:
    raise ValueError(
      f"w has shape {list(w.shape)}; for x with {x.shape[-1]} channels in "
      f"{groups} groups it must be [h, w, {x.shape[-1]} / {groups}, a multiple "
      f"of {groups}]."
    )
  dtype = jnp.result_type(x, w)
  x, w, feedback = (a.astype(dtype) for a in (x, w, feedback))
  convolve = functools.partial(
    jax.lax.conv_general_dilated,
    window_strides=_pair("stride", stride),
    padding=padding if isinstance(padding, str) else tuple(padding),
    rhs_dilation=_pair(
      "rhs_dilation", 1 if rhs_dilation is None else rhs_dilation
    ),
    feature_group_count=groups,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  leading = x.shape[:-3]
  images = x.reshape((math.prod(leading), *x.shape[-3:]))
  y = _conv(convolve, images, w, feedback)
  return y.reshape((*leading, *y.shape[1:]))


def _pair(name, value):
  height, width = value if isinstance(value, Sequence) else (value, value)
  return (
    checks.whole_number(name, height, least=1),
    checks.whole_number(name, width, least=1),
  )
