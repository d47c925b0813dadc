"""Kolen-Pollack learning: feedback that receives the weights' own update.

Forward and feedback weights receive the same update, so with equal learning
rates and equal weight decay their difference decays geometrically: feedback
converges to the transposed weights without copying them. It is therefore a
trained parameter and belongs to the same optimiser as `w`; decay both or
neither.

The functions raise ValueError for arguments of another shape than stated. Whole
numbers count as float32.
"""

import jax

from lilly import checks
from lilly.rules import feedback_alignment

__all__ = ["conv", "linear"]


@jax.custom_vjp
def _share(w, feedback):
  """Returns `w`; its cotangent goes to both arguments."""
  del feedback
  return w


_share.defvjp(lambda w, feedback: (w, None), lambda _, dw: (dw, dw))


def linear(x: jax.Array, w: jax.Array, feedback: jax.Array) -> jax.Array:
  """Multiplies by `w`; backward by `feedback`, which gets w's gradient.

  y = x w;  dx = dy feedback,  dw = xᵀ dy,  dfeedback = dwᵀ.

  With w <- (1 - λ) w - η dw and the same for feedback,
  (w - feedbackᵀ)_t = (1 - λ)^t (w - feedbackᵀ)_0 exactly under plain SGD. Under
  momentum or Adam both must have the same optimiser state at the start.

  Args:
    x: inputs, [..., in].
    w: weights, [in, out].
    feedback: matrix of the backward pass, [out, in].

  Returns:
    Outputs, [..., out].

  Reference:
    Akrout, Wilson, Humphreys, Lillicrap and Tweed (2019), arXiv:1904.05391,
    "Kolen-Pollack"; after Kolen and Pollack (1994). Without decay (the default
    of the authors' code) the difference never shrinks; here the decay is left
    to the optimiser.

  >>> import jax.numpy as jnp
  >>> x, w, feedback = jnp.ones(3), jnp.ones((3, 2)), jnp.zeros((2, 3))
  >>> jax.grad(lambda b: linear(x, w, b).sum())(feedback).tolist()
  [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
  """
  sizes = {}
  w = checks.real("w", w, "in out", sizes)
  feedback = checks.real("feedback", feedback, "out in", sizes)
  shared = _share(w, feedback.astype(w.dtype).T)
  return feedback_alignment.linear(x, shared, jax.lax.stop_gradient(feedback))


def conv(
  x: jax.Array,
  w: jax.Array,
  feedback: jax.Array,
  *,
  stride: int | tuple[int, int] = 1,
  padding: feedback_alignment.Padding = "SAME",
  rhs_dilation: int | tuple[int, int] | None = None,
  feature_group_count: int = 1,
) -> jax.Array:
  """Convolves with `w`; backward with `feedback`, which gets w's gradient.

  As `feedback_alignment.conv`, with dfeedback = dw.

  Args:
    x: images, [..., height, width, in_channels].
    w: kernel, [height, width, in_channels / groups, out_channels].
    feedback: kernel of the backward pass, shaped as w.
    stride: stride of the window, in pixels.
    padding: "SAME", "VALID", or the (low, high) pixels of each spatial axis.
    rhs_dilation: dilation of the kernel, in pixels; None is 1.
    feature_group_count: number of groups of channels.

  Returns:
    Images, [..., out_height, out_width, out_channels].

  Raises:
    ValueError: as `feedback_alignment.conv`.

  Reference:
    Akrout et al. (2019), arXiv:1904.05391, "Kolen-Pollack".

  >>> import jax.numpy as jnp
  >>> x, w = jnp.ones((4, 4, 1)), jnp.ones((3, 3, 1, 2))
  >>> conv(x, w, jnp.zeros_like(w), stride=2).shape
  (2, 2, 2)
  """
  sizes = {}
  w = checks.real("w", w, "h w in out", sizes)
  feedback = checks.real("feedback", feedback, "h w in out", sizes)
  shared = _share(w, feedback.astype(w.dtype))
  return feedback_alignment.conv(
    x,
    shared,
    jax.lax.stop_gradient(feedback),
    stride=stride,
    padding=padding,
    rhs_dilation=rhs_dilation,
    feature_group_count=feature_group_count,
  )
