"""Linear-quadratic control with a KL limit to the previous controller.

A model fitted to rollouts is accurate only near these rollouts. Controllers are
therefore stochastic, and an update is limited by the Kullback-Leibler
divergence of the new controller's trajectory distribution from the old one's.
All functions raise ValueError for arguments of another shape than stated; whole
numbers count as float32.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lilly import checks
from lilly.control import lqr, small_matrices

__all__ = ["Controller", "Limited", "divergence", "improve"]

# A range wide enough for rewards of any usual scale.
_LEAST_ETA, _MOST_ETA = 1e-8, 1e16


class Controller(NamedTuple):
  """Actions u ~ N(û + k + K (x - x̂), Σ), around a trajectory x̂, û."""

  feedforward: jax.Array  # k, [T, m]
  feedback: jax.Array  # K, [T, m, d]
  covariance: jax.Array  # Σ, [T, m, m], positive definite


class Limited(NamedTuple):
  """An improved controller, with its KL divergence from the previous one."""

  controller: Controller
  eta: jax.Array  # η, [], price of one nat of divergence, in rewards
  kl: jax.Array  # [], divergence summed over time


def divergence(
  expansion: lqr.Expansion,
  controller: Controller,
  previous: Controller,
  *,
  noise: jax.Array | None = None,
  start_covariance: jax.Array | None = None,
) -> jax.Array:
  """Computes the expected KL between two controllers, on states of the first.

  E KL(π_t(·|x) || π̂_t(·|x)) over states x under π, in closed form. With
  Δk = k - k̂, ΔK = K - K̂ and x - x̂ of mean μ and covariance C, it is half of
  tr(Σ̂⁻¹ Σ) - m + log |Σ̂| / |Σ| + |Δk + ΔK μ|² + tr(ΔKᵀ Σ̂⁻¹ ΔK C),
  in the norm of Σ̂⁻¹. The sum over steps is the KL between the trajectory
  distributions.

  Args:
    expansion: only its dynamics, f_x and f_u, are used; the other fields may be
      None.
    controller: π.
    previous: π̂, around the same trajectory.
    noise: covariances of the dynamics noise, [T, d, d]; None: deterministic.
    start_covariance: initial C, [d, d]; None: all rollouts start at x̂.

  Returns:
    The expected divergence of each step, [T].

  Reference:
    Levine and Abbeel, 2014, section 4.

  >>> one, zero = jnp.ones((1, 1, 1)), jnp.zeros((1, 1))
  >>> expansion = lqr.Expansion(one, one, *[None] * 7)
  >>> controller, previous = (Controller(k, one, one) for k in (zero + 2, zero))
  >>> divergence(expansion, controller, previous).tolist()
  [2.0]
  """
  sizes = {}
  expansion = _checked_expansion(expansion, sizes)
  controller = _checked_controller("controller", controller, sizes)
  previous = _checked_controller("previous", previous, sizes)
  f_x, f_u = expansion.f_x, expansion.f_u
  still = jnp.zeros_like(f_x[0])
  start = still if start_covariance is None else start_covariance
  start = checks.real("start_covariance", start, "d d", sizes)
  noise = jnp.zeros_like(f_x) if noise is None else noise
  noise = checks.real("noise", noise, "T d d", sizes)

  def step(carry, at):
    mean, spread = carry
    f_x, f_u, noise, new, old, precision, log_ratio = at
    change = new.feedback - old.feedback
    gap = new.feedforward - old.feedforward + change @ mean
    apart = jnp.outer(gap, gap) + change @ spread @ change.T + new.covariance
    kl = jnp.sum(precision * apart) - len(gap) + log_ratio
    closed = f_x + f_u @ new.feedback
    mean = closed @ mean + f_u @ new.feedforward
    spread = closed @ spread @ closed.T + f_u @ new.covariance @ f_u.T + noise
    return (mean, spread), 0.5 * kl

  # Factor all steps at once: one by one would dominate the time.
  precisions = jax.vmap(_inverse)(previous.covariance)
  ratios = _log_det(previous.covariance) - _log_det(controller.covariance)
  per_step = (f_x, f_u, noise, controller, previous, precisions, ratios)
  return jax.lax.scan(step, (still[0], start), per_step)[1]


def _checked_expansion(expansion, sizes):
  """Checks the fields that are not None; the dynamics must not be."""
  fields = {}
  for name, shape in lqr.SHAPES.items():
    x = getattr(expansion, name)
    if x is not None or name in ("f_x", "f_u"):
      fields[name] = checks.real(f"expansion.{name}", x, shape, sizes)
  return expansion._replace(**fields)


def _checked_controller(name, controller, sizes):
  k, gain, covariance = controller
  return Controller(
    checks.real(f"{name}.feedforward", k, "T m", sizes),
    checks.real(f"{name}.feedback", gain, "T m d", sizes),
    checks.real(f"{name}.covariance", covariance, "T m m", sizes),
  )


def improve(
  expansion: lqr.Expansion,
  previous: Controller,
  *,
  max_kl: float,
  noise: jax.Array | None = None,
  start_covariance: jax.Array | None = None,
  num_bisections: int = 30,
) -> Limited:
  """Computes the best controller within a KL limit to the previous one.

  max E Σ_t r_t  such that  Σ_t E KL(π_t || π̂_t) <= max_kl.

  For a price η of the divergence, the controller is `lqr.backward` of
  r + η log π̂, with Σ = -η Q_uu⁻¹. log η is found by bisection between 1e-8 and
  1e16. If Q_uu is not negative definite at every step the price is too low:
  there the expected return has no maximum.

  Args:
    expansion: as from `lqr.expand`, or with f_x and f_u of a fitted model.
    previous: π̂, around the trajectory of the expansion. To move it to another
      trajectory x̃, ũ, replace k̂ by k̂ + û - ũ + K̂ (x̃ - x̂).
    max_kl: KL limit, in nats, summed over time.
    noise: see `divergence`.
    start_covariance: see `divergence`.
    num_bisections: bisection steps in log η.

  Returns:
    The controller, η and the KL. The KL equals the limit, or is lower if it is
    so at the lowest price already; it exceeds the limit only if it does so at
    the highest price. Time is O(num_bisections T (d + m)³).

  Raises:
    ValueError: if max_kl or num_bisections is not positive.

  Reference:
    Levine and Abbeel, 2014, section 4, which finds η by a bracketing search.

  >>> one, zero = jnp.ones((1, 1, 1)), jnp.zeros((1, 1))
  >>> steps = (one, one, zero, zero + 9.0, -one, -one, 0 * one)
  >>> expansion = lqr.Expansion(*steps, zero[0], zero)
  >>> found = improve(expansion, Controller(zero, 0 * one, one), max_kl=0.1)
  >>> round(float(found.kl), 3), bool(found.controller.feedforward > 0)
  (0.1, True)
  """
  max_kl = checks.number("max_kl", max_kl, above=0)
  num_bisections = checks.whole_number(
    "num_bisections", num_bisections, least=1
  )
  sizes = {}
  expansion = _checked_expansion(expansion, sizes)
  previous = _checked_controller("previous", previous, sizes)
  options = {"noise": noise, "start_covariance": start_covariance}

  def at(log_eta):
    eta = jnp.exp(log_eta)
    controller, is_bounded = _best(expansion, previous, eta)
    kl = divergence(expansion, controller, previous, **options).sum()
    return Limited(controller, eta, kl), is_bounded & (kl <= max_kl)

  is_near = lambda log_eta: at(log_eta)[1]
  return at(_least(is_near, num_bisections, expansion.f_x.dtype))[0]


def _least(is_near, num_bisections, dtype):
  """Finds the lowest feasible log η; the upper end if none is feasible."""

  def halve(bounds, _):
    low, high = bounds
    middle = 0.5 * (low + high)
    found = is_near(middle)  # False if the divergence is NaN
    low = jnp.where(found, low, middle)
    return (low, jnp.where(found, middle, high)), None

  ends = jnp.log(jnp.array([_LEAST_ETA, _MOST_ETA], dtype))
  bounds = ends[0], ends[1]
  (_, high), _ = jax.lax.scan(halve, bounds, length=num_bisections)
  return high


def _best(expansion, previous, eta):
  """Computes the best controller at a price, and whether a maximum exists."""
  gains = lqr.backward(_priced(expansion, previous, eta), least=0.0)
  covariance = eta * jax.vmap(_inverse)(-gains.q_uu)
  is_bounded = jnp.all(gains.damping == 0)
  return Controller(gains.feedforward, gains.feedback, covariance), is_bounded


def _priced(expansion, previous, eta):
  """Adds η log π̂(u|x), up to a constant, to the rewards."""
  k, gain, covariance = previous
  price = eta * jax.vmap(_inverse)(covariance)
  to_gain = price @ gain
  to_k = jnp.einsum("tij,tj->ti", price, k)
  back = gain.transpose(0, 2, 1)
  return expansion._replace(
    r_x=expansion.r_x - jnp.einsum("tij,tj->ti", back, to_k),
    r_u=expansion.r_u + to_k,
    r_xx=expansion.r_xx - back @ to_gain,
    r_uu=expansion.r_uu - price,
    r_ux=expansion.r_ux + to_gain,
  )


def _inverse(matrix):
  eye = jnp.eye(len(matrix), dtype=matrix.dtype)
  found = small_matrices.solve(matrix, eye)
  return 0.5 * (found + found.T)


def _log_det(matrices):
  """Log determinants of matrices, [T, m, m]; NaN if not positive definite."""
  factors = jax.vmap(small_matrices.cholesky)(matrices)
  return 2 * jnp.log(jnp.diagonal(factors, axis1=1, axis2=2)).sum(1)
