"""Pseudo-backpropagation: the weights' pseudo-inverse as feedback."""

import chex
import jax
import jax.numpy as jnp

__all__ = ["feedback"]


def feedback(w: jax.Array, *, rtol: float | None = None) -> jax.Array:
  """Returns the Moore-Penrose inverse of `w`, as feedback.

  A reference signal rather than a learning rule: from small weights, feedback
  alignment ends nearer to this than to backpropagation. Costs a singular value
  decomposition, O(in out min(in, out)). The gradient is stopped.

  Args:
    w: weights, [in, out].
    rtol: singular values below `rtol` times the largest count as zero; None is
      10 max(in, out) times the type's resolution.

  Returns:
    Feedback, [out, in].

  Raises:
    ValueError: if rtol is not in [0, 1).

  Reference:
    Lillicrap et al. (2014), arXiv:1411.0247, figure 4.

  >>> feedback(jnp.array([[2.0], [0.0]])).tolist()
  [[0.5, 0.0]]
  """
  chex.assert_rank(w, 2)
  if rtol is not None and not 0 <= rtol < 1:
    raise ValueError(f"rtol is {rtol}; it must be in [0, 1).")
  w = jax.lax.stop_gradient(w)
  # The decomposition has no 16-bit kernels.
  wide = jnp.asarray(w, jnp.promote_types(w.dtype, jnp.float32))
  return jnp.linalg.pinv(wide, rtol=rtol).astype(w.dtype)
