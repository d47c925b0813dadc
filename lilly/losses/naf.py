"""Normalized advantage functions (NAF): Q-learning for continuous actions.

Q(x, u) = V(x) + A(x, u), where A is a quadratic form whose maximum, 0, is at
μ(x), so no separate actor is needed. Networks output V(x), μ(x) and the entries
of a triangular matrix.

All functions raise ValueError for arguments of another shape than stated; whole
numbers count as float32.
"""

import jax
import jax.numpy as jnp

from lilly import checks
from lilly.control import small_matrices
from lilly.losses import dpg

__all__ = ["advantage", "loss", "noise", "triangle"]


def triangle(numbers: jax.Array, *, bound: float = 5.0) -> jax.Array:
  """Packs network outputs into L, where P = L Lᵀ is positive definite.

  Row by row: l_1 -> (1, 1), l_2 -> (2, 1), l_3 -> (2, 2), ... The diagonal is
  exponentiated, so log det P is twice the sum of the diagonal outputs.

  Args:
    numbers: network outputs l, [m (m + 1) / 2].
    bound: the diagonal's outputs are clipped to ±bound; otherwise P could grow
      without bound while targets are far from V. Not stated in the paper
      (unconfirmed). inf: they are not clipped.

  Returns:
    L, [m, m].

  Raises:
    ValueError: if the length is not m (m + 1) / 2 for any m, or bound is
      negative.

  Reference:
    Gu et al., 2016 (arXiv 1603.00748), section 4.

  >>> triangle(jnp.array([0.0, 7.0, 0.0])).tolist()
  [[1.0, 0.0], [7.0, 1.0]]
  """
  numbers = checks.real("numbers", numbers, "N")
  bound = checks.number("bound", bound, least=0, may_be_infinite=True)
  size = int((2 * len(numbers)) ** 0.5)
  if not size or size * (size + 1) // 2 != len(numbers):
    raise ValueError(
      f"numbers has {len(numbers)} entries; a triangle of m rows has "
      "m (m + 1) / 2."
    )
  rows, columns = jnp.tril_indices(size)
  packed = jnp.zeros((size, size), numbers.dtype).at[rows, columns].set(numbers)
  diagonal = jnp.exp(jnp.clip(jnp.diag(packed), -bound, bound))
  return jnp.tril(packed, -1) + jnp.diag(diagonal)


def advantage(
  action: jax.Array, mean: jax.Array, factor: jax.Array
) -> jax.Array:
  """Computes the advantage of an action, a quadratic form.

  A(x, u) = -½ (u - μ)ᵀ P (u - μ) = -½ |Lᵀ (u - μ)|²,  P = L Lᵀ.

  Args:
    action: u, [m].
    mean: μ(x), [m].
    factor: L(x), [m, m], as from `triangle`.

  Returns:
    A, [], non-positive.

  Reference:
    Gu et al., 2016 (arXiv 1603.00748), eq. 9 and 10.

  >>> float(advantage(jnp.ones(1), jnp.zeros(1), 2.0 * jnp.eye(1)))
  -2.0
  """
  sizes = {}
  action = checks.real("action", action, "m", sizes)
  mean = checks.real("mean", mean, "m", sizes)
  factor = checks.real("factor", factor, "m m", sizes)
  return -0.5 * jnp.sum(jnp.square((action - mean) @ factor))


def loss(
  v_tm1: jax.Array,
  advantage_tm1: jax.Array,
  r_t: jax.Array,
  discount_t: jax.Array,
  v_t: jax.Array,
) -> jax.Array:
  """Computes the squared temporal-difference error of Q = V + A.

  L = (y - V(x) - A(x, u))²,  y = r + γ V'(x'), a constant.

  Args:
    v_tm1: V(x), [].
    advantage_tm1: A(x, u), [].
    r_t: reward, [].
    discount_t: γ, or 0 at termination; a time limit is not a termination, [].
    v_t: V'(x') of the target network, [].

  Returns:
    The loss, []; no gradient flows to v_t.

  Reference:
    Gu et al., 2016 (arXiv 1603.00748), algorithm 1.

  >>> float(loss(*map(jnp.asarray, (1.0, -1.0, 2.0, 0.5, 4.0))))
  16.0
  """
  v_tm1 = checks.real("v_tm1", v_tm1, "")
  advantage_tm1 = checks.real("advantage_tm1", advantage_tm1, "")
  v_t = checks.real("v_t", v_t, "")
  return dpg.critic_loss(v_tm1 + advantage_tm1, r_t, discount_t, v_t)


def noise(
  key: jax.Array, factor: jax.Array, *, scale: float = 1.0
) -> jax.Array:
  """Samples exploration noise with covariance in proportion to P⁻¹.

  √c L⁻ᵀ ε ~ N(0, c P⁻¹),  ε ~ N(0, I): sampling from exp(Q / c). The noise is
  small in directions in which Q falls off steeply.

  Args:
    key: typed PRNG key.
    factor: L(x), [m, m], as from `triangle`.
    scale: temperature c, non-negative.

  Returns:
    Noise for an action, [m]; not finite if the diagonal of L has a zero.

  Raises:
    ValueError: if scale is negative.

  Reference:
    Gu et al., 2016 (arXiv 1603.00748), section 4 and appendix. The paper does
    not state how it rescales the noise (unconfirmed).

  >>> noise(jax.random.key(0), jnp.eye(2)).shape
  (2,)
  """
  key = checks.key("key", key)
  factor = checks.real("factor", factor, "m m")
  scale = checks.number("scale", scale, least=0)
  normal = jax.random.normal(key, factor.shape[:1], factor.dtype)
  shaped = small_matrices.solve_triangular(factor, normal, is_transposed=True)
  return jnp.sqrt(jnp.asarray(scale, factor.dtype)) * shaped
