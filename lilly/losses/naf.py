"""Normalized advantage functions: Q-learning without a second network to act.

Q(x, u) = V(x) + A(x, u), where A is a quadratic form whose maximum, 0, is at
μ(x). Networks give V(x), μ(x) and the numbers of a triangle.
"""

import chex
import jax
import jax.numpy as jnp

from lilly.control import small_matrices
from lilly.losses import dpg

__all__ = ["advantage", "loss", "noise", "triangle"]


def triangle(numbers: jax.Array, *, bound: float = 5.0) -> jax.Array:
  """Packs numbers into L, of which P = L Lᵀ is positive definite.

  Row by row: l_1 -> (1, 1), l_2 -> (2, 1), l_3 -> (2, 2), ... The diagonal is
  exponentiated, so that log det P is twice the sum of its numbers.

  Args:
    numbers: l, [m (m + 1) / 2].
    bound: numbers of the diagonal are cut to ±bound, or P could grow without
      end where targets are far from V. The paper does not say (unconfirmed).

  Returns:
    L, [m, m].

  Raises:
    ValueError: no m has so many numbers.

  Reference:
    Gu et al., 2016 (arXiv 1603.00748), section 4.

  >>> triangle(jnp.array([0.0, 7.0, 0.0])).tolist()
  [[1.0, 0.0], [7.0, 1.0]]
  """
  chex.assert_rank(numbers, 1)
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
  """Measures what an action loses against the best one.

  A(x, u) = -½ (u - μ)ᵀ P (u - μ) = -½ |Lᵀ (u - μ)|²,  P = L Lᵀ.

  Args:
    action: u, [m].
    mean: μ(x), [m].
    factor: L(x), [m, m], as from `triangle`.

  Returns:
    A, [], at most 0.

  Reference:
    Gu et al., 2016 (arXiv 1603.00748), eq. 9 and 10.

  >>> float(advantage(jnp.ones(1), jnp.zeros(1), 2.0 * jnp.eye(1)))
  -2.0
  """
  chex.assert_equal_shape([action, mean])
  return -0.5 * jnp.sum(jnp.square((action - mean) @ factor))


def loss(
  v_tm1: jax.Array,
  advantage_tm1: jax.Array,
  r_t: jax.Array,
  discount_t: jax.Array,
  v_t: jax.Array,
) -> jax.Array:
  """Squares the temporal-difference error of Q = V + A.

  L = (y - V(x) - A(x, u))²,  y = r + γ V'(x'), a constant.

  Args:
    v_tm1: V(x), [].
    advantage_tm1: A(x, u), [].
    r_t: reward, [].
    discount_t: γ, or 0 where x' is terminal; a time limit is not terminal, [].
    v_t: V'(x') by the target network, [].

  Returns:
    The loss, []; no gradient goes to v_t.

  Reference:
    Gu et al., 2016 (arXiv 1603.00748), algorithm 1.

  >>> float(loss(*map(jnp.asarray, (1.0, -1.0, 2.0, 0.5, 4.0))))
  16.0
  """
  return dpg.critic_loss(v_tm1 + advantage_tm1, r_t, discount_t, v_t)


def noise(
  key: jax.Array, factor: jax.Array, *, scale: float = 1.0
) -> jax.Array:
  """Draws noise that is small where Q falls off steeply.

  √c L⁻ᵀ ε ~ N(0, c P⁻¹),  ε ~ N(0, I): of a policy in proportion to exp(Q / c).

  Args:
    key: typed key.
    factor: L(x), [m, m], as from `triangle`.
    scale: c.

  Returns:
    Noise for an action, [m].

  Reference:
    Gu et al., 2016 (arXiv 1603.00748), section 4 and appendix. How the paper
    rescales it is not given (unconfirmed).

  >>> noise(jax.random.key(0), jnp.eye(2)).shape
  (2,)
  """
  normal = jax.random.normal(key, factor.shape[:1], factor.dtype)
  shaped = small_matrices.solve_triangular(factor, normal, is_transposed=True)
  return jnp.sqrt(jnp.asarray(scale, factor.dtype)) * shaped
