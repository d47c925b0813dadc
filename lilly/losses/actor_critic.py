"""Returns and losses of A3C, asynchronous Q-learning and Sarsa, and V-trace.

A segment is T consecutive steps of one environment with automatic reset; it may
hold ends of episodes. As in rlax, `_tm1` marks what belongs to the observation
that was acted on, and `_t` what followed. `v_t[i]` is the value of the true
next observation, `Step.observation`. It differs from `v_tm1[i + 1]` where an
episode ends: after a termination `discount_t` is 0, and after a truncation the
return is bootstrapped from `v_t[i]`, and the steps of the next episode have no
part in it.

Losses are sums over the steps of a segment, not means (Mnih et al., 2016,
algorithm S3), and functions of network outputs. Targets are constants. All
functions raise ValueError for arguments of another shape than stated.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import rlax

from lilly import checks

__all__ = [
  "VTrace",
  "a3c_loss",
  "gaussian_a3c_loss",
  "gaussian_log_prob",
  "n_step_returns",
  "q_targets",
  "sarsa_targets",
  "value_loss",
  "vtrace",
]


class VTrace(NamedTuple):
  """Targets and advantages of V-trace."""

  target_tm1: jax.Array  # [T], targets of the values v_tm1
  advantage_tm1: jax.Array  # [T], advantages, weighted by min(c, ρ)


def n_step_returns(
  r_t: jax.Array,
  discount_t: jax.Array,
  v_t: jax.Array,
  is_truncated_t: jax.Array,
) -> jax.Array:
  """Computes the longest available n-step return of each step of a segment.

  R_i = r_i + γ_i R_{i+1} within an episode, and r_i + γ_i v_i at the last step
  of the segment and at a truncation.

  Args:
    r_t: rewards, [T].
    discount_t: γ, or 0 where the episode terminated, [T].
    v_t: values of the true next observations, [T].
    is_truncated_t: whether a time limit ended the episode, [T] bool.

  Returns:
    Returns R, [T], constants.

  Reference:
    Mnih et al., 2016 (arXiv 1602.01783), algorithms S2 and S3; truncation is
    not in the paper.

  >>> r, v = jnp.ones(3), jnp.array([7.0, 8.0, 9.0])
  >>> no = jnp.zeros(3, bool)
  >>> n_step_returns(r, jnp.array([1.0, 0.0, 1.0]), v, no).tolist()
  [2.0, 1.0, 10.0]
  """
  sizes = {}
  r_t = checks.real("r_t", r_t, "T", sizes)
  discount_t = checks.real("discount_t", discount_t, "T", sizes)
  v_t = checks.real("v_t", v_t, "T", sizes)
  is_truncated_t = checks.mask("is_truncated_t", is_truncated_t, "T", sizes)
  continues = 1 - is_truncated_t.astype(v_t.dtype)
  returns = rlax.lambda_returns(r_t, discount_t, v_t, continues)
  return jax.lax.stop_gradient(jnp.asarray(returns))


def q_targets(
  r_t: jax.Array, discount_t: jax.Array, q_t: jax.Array
) -> jax.Array:
  """Computes the targets of one-step Q-learning: r + γ max_a Q(s', a; θ⁻).

  Args:
    r_t: rewards, [T].
    discount_t: γ, or 0 where the episode terminated, [T].
    q_t: values of the true next observations by the target network, [T, A].

  Returns:
    Targets, [T], constants.

  Reference:
    Mnih et al., 2016 (arXiv 1602.01783), algorithm 1.

  >>> q_t = jnp.array([[1.0, 3.0], [5.0, 2.0]])
  >>> q_targets(jnp.ones(2), jnp.array([0.5, 0.0]), q_t).tolist()
  [2.5, 1.0]
  """
  sizes = {}
  r_t = checks.real("r_t", r_t, "T", sizes)
  discount_t = checks.real("discount_t", discount_t, "T", sizes)
  q_t = checks.real("q_t", q_t, "T A", sizes)
  return jax.lax.stop_gradient(r_t + discount_t * jnp.max(q_t, axis=1))


def sarsa_targets(
  r_t: jax.Array, discount_t: jax.Array, q_t: jax.Array, a_t: jax.Array
) -> jax.Array:
  """Computes the targets of one-step Sarsa: r + γ Q(s', a'; θ⁻).

  Args:
    r_t: rewards, [T].
    discount_t: γ, or 0 where the episode terminated, [T].
    q_t: values of the true next observations by the target network, [T, A].
    a_t: a', the actions that the behaviour policy takes next, [T] integers.

  Returns:
    Targets, [T], constants.

  Reference:
    Mnih et al., 2016 (arXiv 1602.01783), section 4.

  >>> q_t = jnp.array([[1.0, 3.0], [5.0, 2.0]])
  >>> discount_t, a_t = jnp.array([0.5, 1.0]), jnp.array([0, 1])
  >>> sarsa_targets(jnp.ones(2), discount_t, q_t, a_t).tolist()
  [1.5, 3.0]
  """
  sizes = {}
  r_t = checks.real("r_t", r_t, "T", sizes)
  discount_t = checks.real("discount_t", discount_t, "T", sizes)
  q_t = checks.real("q_t", q_t, "T A", sizes)
  a_t = checks.integers("a_t", a_t, "T", sizes)
  return jax.lax.stop_gradient(r_t + discount_t * rlax.batched_index(q_t, a_t))


def value_loss(
  q_tm1: jax.Array, a_tm1: jax.Array, target_tm1: jax.Array
) -> jax.Array:
  """Sums the squared errors of action values: Σ (y - Q(s, a))².

  Args:
    q_tm1: action values, [T, A].
    a_tm1: executed actions, [T] integers.
    target_tm1: targets y, [T], constants: those of `q_targets`,
      `sarsa_targets` or, for n-step Q-learning, `n_step_returns` with v_t =
      max_a Q(s', a; θ⁻).

  Returns:
    The loss, [].

  Reference:
    Mnih et al., 2016 (arXiv 1602.01783), algorithms 1 and S2.

  >>> q = jnp.array([[1.0, 3.0]])
  >>> float(value_loss(q, jnp.array([1]), jnp.array([5.0])))
  4.0
  """
  sizes = {}
  q_tm1 = checks.real("q_tm1", q_tm1, "T A", sizes)
  a_tm1 = checks.integers("a_tm1", a_tm1, "T", sizes)
  target_tm1 = checks.real("target_tm1", target_tm1, "T", sizes)
  target_tm1 = jax.lax.stop_gradient(target_tm1)
  errors = target_tm1 - rlax.batched_index(q_tm1, a_tm1)
  return jnp.sum(jnp.square(errors))


def a3c_loss(
  logits_tm1: jax.Array,
  v_tm1: jax.Array,
  a_tm1: jax.Array,
  target_tm1: jax.Array,
  *,
  advantage_tm1: jax.Array | None = None,
  value_cost: float | jax.Array = 0.5,
  entropy_cost: float | jax.Array = 0.01,
) -> jax.Array:
  """Computes the loss of the advantage actor-critic for discrete actions.

  Σ_i -log π(a_i|s_i) A_i + c (R_i - V(s_i))² - β H(π(·|s_i)), where the
  advantages A_i = R_i - V(s_i) are constants.

  Args:
    logits_tm1: logits of π, [T, A].
    v_tm1: values V, [T].
    a_tm1: executed actions, [T] integers.
    target_tm1: returns R, as of `n_step_returns`, [T]; constants.
    advantage_tm1: other advantages, as of `vtrace`, [T]; constants.
    value_cost: weight c of the squared errors. The paper's sum has c = 1;
      implementations with a shared trunk have 0.25 or 0.5.
    entropy_cost: weight β of the entropy.

  Returns:
    The loss, [].

  Raises:
    ValueError: a cost is negative.

  Reference:
    Mnih et al., 2016 (arXiv 1602.01783), section 4 and algorithm S3, which
    leaves out the entropy of the text.

  >>> logits, a = jnp.zeros((1, 2)), jnp.array([0])
  >>> loss = a3c_loss(logits, jnp.ones(1), a, 3 * jnp.ones(1), entropy_cost=0)
  >>> print(f"{loss:.3f}")
  3.386
  """
  sizes = {}
  logits_tm1 = checks.real("logits_tm1", logits_tm1, "T A", sizes)
  a_tm1 = checks.integers("a_tm1", a_tm1, "T", sizes)
  log_probs = jax.nn.log_softmax(logits_tm1)
  entropy = -jnp.sum(jnp.exp(log_probs) * log_probs)
  return _actor_critic_loss(
    rlax.batched_index(log_probs, a_tm1),
    entropy,
    v_tm1,
    target_tm1,
    advantage_tm1,
    value_cost,
    entropy_cost,
    sizes,
  )


def gaussian_log_prob(
  mean: jax.Array, variance: jax.Array, action: jax.Array
) -> jax.Array:
  """Computes the log density of a spherical Gaussian.

  log N(a; μ, σ² I) = -(m log 2πσ² + |a - μ|² / σ²) / 2.

  Args:
    mean: μ, [m].
    variance: σ², [], positive.
    action: a, [m].

  Returns:
    The log density, [].

  Reference:
    Mnih et al., 2016 (arXiv 1602.01783), supplement 9.

  >>> zeros = jnp.zeros(2)
  >>> print(gaussian_log_prob(zeros, jnp.array(1.0), zeros).round(3))
  -1.838
  """
  sizes = {}
  mean = checks.real("mean", mean, "m", sizes)
  variance = checks.real("variance", variance, "", sizes)
  action = checks.real("action", action, "m", sizes)
  squares = jnp.sum(jnp.square(action - mean)) / variance
  return -0.5 * (mean.size * jnp.log(2 * jnp.pi * variance) + squares)


def gaussian_a3c_loss(
  mean_tm1: jax.Array,
  variance_tm1: jax.Array,
  v_tm1: jax.Array,
  a_tm1: jax.Array,
  target_tm1: jax.Array,
  *,
  advantage_tm1: jax.Array | None = None,
  value_cost: float | jax.Array = 0.5,
  entropy_cost: float | jax.Array = 1e-4,
) -> jax.Array:
  """Computes the loss of the advantage actor-critic for Gaussian actions.

  As `a3c_loss`, with π = N(μ, σ² I) and its entropy of one dimension,
  H = (log 2πσ² + 1) / 2.

  Args:
    mean_tm1: μ, [T, m].
    variance_tm1: σ², [T], positive.
    v_tm1: values V, [T].
    a_tm1: executed actions, before any clipping, [T, m].
    target_tm1: returns R, [T]; constants.
    advantage_tm1: other advantages, [T]; constants.
    value_cost: weight c of the squared errors.
    entropy_cost: weight β of the entropy.

  Returns:
    The loss, [].

  Raises:
    ValueError: a cost is negative.

  Reference:
    Mnih et al., 2016 (arXiv 1602.01783), supplement 9.

  >>> ones, action = jnp.ones(1), jnp.zeros((1, 2))
  >>> loss = gaussian_a3c_loss(action, ones, ones, action, ones)
  >>> print(f"{loss:.5f}")
  -0.00014
  """
  sizes = {}
  mean_tm1 = checks.real("mean_tm1", mean_tm1, "T m", sizes)
  variance_tm1 = checks.real("variance_tm1", variance_tm1, "T", sizes)
  a_tm1 = checks.real("a_tm1", a_tm1, "T m", sizes)
  log_probs = jax.vmap(gaussian_log_prob)(mean_tm1, variance_tm1, a_tm1)
  entropy = 0.5 * jnp.sum(jnp.log(2 * jnp.pi * variance_tm1) + 1)
  return _actor_critic_loss(
    log_probs,
    entropy,
    v_tm1,
    target_tm1,
    advantage_tm1,
    value_cost,
    entropy_cost,
    sizes,
  )


def _actor_critic_loss(
  log_probs,
  entropy,
  v_tm1,
  target_tm1,
  advantage_tm1,
  value_cost,
  entropy_cost,
  sizes,
):
  v_tm1 = checks.real("v_tm1", v_tm1, "T", sizes)
  target_tm1 = checks.real("target_tm1", target_tm1, "T", sizes)
  value_cost = checks.number("value_cost", value_cost, least=0)
  entropy_cost = checks.number("entropy_cost", entropy_cost, least=0)
  errors = jax.lax.stop_gradient(target_tm1) - v_tm1
  if advantage_tm1 is None:
    advantage_tm1 = errors
  else:
    advantage_tm1 = checks.real("advantage_tm1", advantage_tm1, "T", sizes)
  gains = log_probs * jax.lax.stop_gradient(advantage_tm1)
  squares = jnp.sum(jnp.square(errors))
  return -jnp.sum(gains) + value_cost * squares - entropy_cost * entropy


def vtrace(
  v_tm1: jax.Array,
  v_t: jax.Array,
  r_t: jax.Array,
  discount_t: jax.Array,
  is_truncated_t: jax.Array,
  rho_tm1: jax.Array,
  *,
  lambda_: float | jax.Array = 1.0,
  clip_rho: float | jax.Array = 1.0,
  clip_advantage_rho: float | jax.Array = 1.0,
) -> VTrace:
  """Computes V-trace targets, and advantages, of a segment.

  δ_i = min(ρ̄, ρ_i) (r_i + γ_i v_t[i] - v_tm1[i])
  target_i - v_tm1[i] = δ_i + γ_i c_i (target_{i+1} - v_tm1[i+1]),
  advantage_i = min(ρ̄', ρ_i) (r_i + γ_i u_i - v_tm1[i]),

  where c_i = λ min(1, ρ_i) and u_i = λ target_{i+1} + (1 - λ) v_tm1[i+1]
  within an episode; at the last step of the segment and at a truncation c_i is
  0 and u_i is v_t[i]. rlax's advantage has v_tm1[i+1] there, after an automatic
  reset the value of another episode.

  Args:
    v_tm1: values of the observations that were acted on, [T].
    v_t: values of the true next observations, [T].
    r_t: rewards, [T].
    discount_t: γ, or 0 where the episode terminated, [T].
    is_truncated_t: whether a time limit ended the episode, [T] bool.
    rho_tm1: importance weights ρ = π(a|s) / μ(a|s), [T].
    lambda_: λ, in [0, 1].
    clip_rho: ρ̄, the largest weight of a temporal difference; may be infinite.
    clip_advantage_rho: ρ̄', likewise of an advantage.

  Returns:
    Targets and advantages, constants.

  Raises:
    ValueError: λ is not in [0, 1], or a threshold is negative.

  Reference:
    Espeholt et al., 2018 (arXiv 1802.01561), section 4.1; truncation is not in
    the paper.

  >>> v, ones, no = jnp.zeros(2), jnp.ones(2), jnp.zeros(2, bool)
  >>> vtrace(v, v, ones, ones, no, ones).target_tm1.tolist()
  [2.0, 1.0]
  """
  sizes = {}
  v_tm1 = checks.real("v_tm1", v_tm1, "T", sizes)
  v_t = checks.real("v_t", v_t, "T", sizes)
  r_t = checks.real("r_t", r_t, "T", sizes)
  discount_t = checks.real("discount_t", discount_t, "T", sizes)
  is_truncated_t = checks.mask("is_truncated_t", is_truncated_t, "T", sizes)
  rho_tm1 = checks.real("rho_tm1", rho_tm1, "T", sizes)
  lambda_ = checks.number("lambda_", lambda_, least=0, most=1)
  largest: Any = checks.number(
    "clip_rho", clip_rho, least=0, may_be_infinite=True
  )
  clip_advantage_rho = checks.number(
    "clip_advantage_rho", clip_advantage_rho, least=0, may_be_infinite=True
  )
  continues = lambda_ * (1 - is_truncated_t.astype(v_tm1.dtype))
  errors = rlax.vtrace(
    v_tm1,
    v_t,
    r_t,
    discount_t,
    rho_tm1,
    continues,
    largest,
    stop_target_gradients=False,
  )
  targets = v_tm1 + errors
  # Of the next row, which at the end of an episode or segment is not used.
  mixed = continues[:-1] * targets[1:] + (1 - continues[:-1]) * v_tm1[1:]
  is_cut = is_truncated_t[:-1]
  following = jnp.append(jnp.where(is_cut, v_t[:-1], mixed), v_t[-1:])
  advantages = r_t + discount_t * following - v_tm1
  advantages = jnp.minimum(clip_advantage_rho, rho_tm1) * advantages
  return VTrace(*jax.lax.stop_gradient((targets, advantages)))
