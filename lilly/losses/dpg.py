"""Losses of the deterministic policy gradient (DPG), for one transition.

All functions raise ValueError for arguments of another shape than stated; whole
numbers count as float32.
"""

import jax
import jax.numpy as jnp
import rlax

from lilly import checks

__all__ = ["actor_loss", "critic_loss"]


def critic_loss(
  q_tm1: jax.Array, r_t: jax.Array, discount_t: jax.Array, q_t: jax.Array
) -> jax.Array:
  """Computes the squared temporal-difference error of a critic.

  L = (y - Q(s, a))²,  y = r + γ Q'(s', μ'(s')), a constant.

  The plain square, as in the paper: twice `rlax.l2_loss` of the error.

  Args:
    q_tm1: Q(s, a), [].
    r_t: reward, [].
    discount_t: γ, or 0 at termination; a time limit is not a termination, [].
    q_t: Q'(s', μ'(s')) of the target networks, [].

  Returns:
    The loss, []; no gradient flows to q_t.

  Reference:
    Lillicrap et al., 2016 (arXiv 1509.02971), eq. 4 and 5.

  >>> float(critic_loss(*map(jnp.asarray, (1.0, 2.0, 0.5, 4.0))))
  9.0
  """
  q_tm1 = checks.real("q_tm1", q_tm1, "")
  r_t = checks.real("r_t", r_t, "")
  discount_t = checks.real("discount_t", discount_t, "")
  q_t = checks.real("q_t", q_t, "")
  return jnp.square(rlax.td_learning(q_tm1, r_t, discount_t, q_t))


def actor_loss(
  a_t: jax.Array,
  dqda_t: jax.Array,
  *,
  max_norm: float | None = None,
) -> jax.Array:
  """Computes a loss whose gradient is minus the deterministic policy gradient.

  ∇ L = -∇_a Q(s, a)|_{a = μ(s)} ∇_θ μ(s).

  The value itself, half the squared norm of ∇_a Q, has no meaning.

  Args:
    a_t: μ(s), [m].
    dqda_t: ∇_a Q(s, a) at that action, [m]; a constant.
    max_norm: norm to which ∇_a Q is clipped; None, as in the paper, does not
      clip.

  Returns:
    The loss, [].

  Raises:
    ValueError: if max_norm is not positive.

  Reference:
    Silver et al., 2014; Lillicrap et al., 2016 (arXiv 1509.02971), eq. 6. It is
    `rlax.dpg_loss`, summed.

  >>> jax.grad(actor_loss)(jnp.zeros(2), jnp.array([1.0, -3.0])).tolist()
  [-1.0, 3.0]
  """
  if max_norm is not None:
    max_norm = checks.number("max_norm", max_norm, above=0)
  sizes = {}
  a_t = checks.real("a_t", a_t, "m", sizes)
  dqda_t = checks.real("dqda_t", dqda_t, "m", sizes)
  return jnp.sum(rlax.dpg_loss(a_t, dqda_t, max_norm))
