"""Pseudo-backpropagation: the weights' pseudo-inverse as feedback."""

import jax

from lilly import checks
from lilly.control import small_matrices

__all__ = ["feedback"]


def feedback(w: jax.Array, *, rtol: float | None = None) -> jax.Array:
  """Computes the Moore-Penrose inverse of `w`, as feedback.

  A reference signal rather than a learning rule: from small initial weights,
  feedback alignment converges closer to it than to backpropagation. Costs a
  singular value decomposition, O(in out min(in, out)), without LAPACK. The
  gradient is stopped.

  Args:
    w: weights, [in, out].
    rtol: singular values up to `rtol` times the largest count as zero; None is
      10 max(in, out) times the machine epsilon of the dtype, or of float32 for
      narrower dtypes.

  Returns:
    Feedback, [out, in].

  Raises:
    ValueError: if rtol is not in [0, 1), or w is no matrix.

  Reference:
    Lillicrap et al. (2014), arXiv:1411.0247, figure 4.

  >>> import jax.numpy as jnp
  >>> feedback(jnp.array([[2.0], [0.0]])).tolist()
  [[0.5, 0.0]]
  """
  w = checks.real("w", w, "in out")
  if rtol is not None:
    rtol = checks.number("rtol", rtol, least=0, below=1)
  return small_matrices.pseudo_inverse(w, rtol=rtol)
