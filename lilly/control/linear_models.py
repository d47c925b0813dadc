"""Time-varying linear models of dynamics, fitted to a few rollouts.

p_t(x' | x, u) = N(F_t [x; u] + f_t, N_t), with separate parameters for each t.
All functions raise ValueError for arguments of another shape than stated; whole
numbers count as float32.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lilly import checks
from lilly.control import small_matrices

__all__ = [
  "LinearGaussian",
  "Prior",
  "fit",
  "mean",
  "pooled_prior",
  "roots",
  "sample",
]


class LinearGaussian(NamedTuple):
  """Distribution of the next state given state and action, at each step."""

  weights: jax.Array  # F, [T, d, d + m]
  offset: jax.Array  # f, [T, d]
  covariance: jax.Array  # N, [T, d, d], positive semidefinite


class Prior(NamedTuple):
  """A normal-inverse-Wishart prior of z = [x; u; x'], k = d + m + d numbers."""

  mean: jax.Array  # m_0, [k]
  scatter: jax.Array  # Φ, [k, k]
  mean_count: jax.Array  # n_0', [], number of pseudo-rollouts for the mean
  count: jax.Array  # n_0, [], number of pseudo-rollouts for the scatter


def fit(
  states: jax.Array,
  actions: jax.Array,
  next_states: jax.Array,
  *,
  prior: Prior | None = None,
  ridge: float = 1e-3,
) -> LinearGaussian:
  """Fits a model to n rollouts, per step from the moments of z = [x; u; x'].

  S = (Φ + n S_emp + n n_0' / (n + n_0') (m - m_0)(m - m_0)ᵀ) / (n + n_0),
  F = S_x'z (S_zz + ρ I)⁻¹ with z = [x; u],  f = m_x' - F m_z,
  N = S_x'x' - F S_zx' - S_x'z Fᵀ + F S_zz Fᵀ.

  N is the covariance of the residuals of F; without a ridge it is the paper's
  S_x'x' - F S_zz Fᵀ. m is the mean of the rollouts alone. S_emp divides by n,
  not n - 1.

  Args:
    states: x, [n, T, d].
    actions: u, [n, T, m].
    next_states: x', [n, T, d].
    prior: as from `pooled_prior`; None uses S_emp for S.
    ridge: ρ, non-negative, in squared units of x and u.

  Returns:
    The fitted model.

  Raises:
    ValueError: if ridge is negative, or there are too few rollouts: at least 1
      with a prior, 2 without, d + m + 1 with neither prior nor ridge.

  Reference:
    Gu et al., 2016 (arXiv 1603.00748), section 5.2; Levine and Abbeel, 2014,
    section 3, for the prior. The paper states neither which prior it used nor
    whether there was a ridge (unconfirmed).

  >>> x = jnp.array([0.0, 1.0, 3.0]).reshape(3, 1, 1)
  >>> u = jnp.array([1.0, 0.0, 1.0]).reshape(3, 1, 1)
  >>> fit(x, u, 2 * x - u, ridge=0.0).weights.round(3).tolist()
  [[[2.0, -1.0]]]
  """
  ridge = checks.number("ridge", ridge, least=0)
  z, num_given = _checked_rollouts(states, actions, next_states)
  _check_count(len(z), num_given, prior, ridge)
  if prior is not None:
    prior = _checked_prior(prior, z.shape[-1])
  return jax.vmap(lambda at: _fit_step(at, num_given, prior, ridge), 1)(z)


def pooled_prior(
  states: jax.Array,
  actions: jax.Array,
  next_states: jax.Array,
  *,
  mean_count: float = 1.0,
  count: float = 1.0,
) -> Prior:
  """Creates a prior from the moments pooled over all steps of all rollouts.

  Φ = n_0 times the covariance of [x; u; x'], m_0 its mean.

  Args:
    states: x, [n, T, d].
    actions: u, [n, T, m].
    next_states: x', [n, T, d].
    mean_count: n_0', number of rollouts by which the mean is weighted.
    count: n_0, number of rollouts by which the covariance is weighted.

  Returns:
    The prior: one Gaussian, where Levine and Abbeel fit a mixture and, at each
    step, infer the components from the rollouts.

  Raises:
    ValueError: if a count is not positive.

  Reference:
    Levine and Abbeel, 2014, section 3.

  >>> x = jnp.arange(4.0).reshape(2, 2, 1)
  >>> pooled_prior(x, x, x + 1).mean.tolist()
  [1.5, 1.5, 2.5]
  """
  mean_count = checks.number("mean_count", mean_count, above=0)
  count = checks.number("count", count, above=0)
  z, _ = _checked_rollouts(states, actions, next_states)
  rows = z.reshape(-1, z.shape[-1])
  middle = rows.mean(0)
  centred = rows - middle[None]
  covariance = centred.T @ centred / len(rows)
  counts = (jnp.asarray(c, z.dtype) for c in (mean_count, count))
  return Prior(middle, jnp.asarray(count, z.dtype) * covariance, *counts)


def _checked_rollouts(states, actions, next_states):
  """Returns z = [x; u; x'], and how many numbers x and u are."""
  sizes = {}
  states = checks.real("states", states, "n T d", sizes)
  actions = checks.real("actions", actions, "n T m", sizes)
  next_states = checks.real("next_states", next_states, "n T d", sizes)
  num_given = states.shape[-1] + actions.shape[-1]
  return jnp.concatenate([states, actions, next_states], axis=-1), num_given


def _checked_prior(prior, size):
  return Prior(
    checks.real("prior.mean", prior.mean, f"{size}"),
    checks.real("prior.scatter", prior.scatter, f"{size} {size}"),
    checks.real("prior.mean_count", prior.mean_count, ""),
    checks.real("prior.count", prior.count, ""),
  )


def _checked_model(model, sizes):
  """Checks the fields that are given: the covariance may be None."""
  shapes = {"weights": "T d k", "offset": "T d", "covariance": "T d d"}
  fields = {
    name: checks.real(f"model.{name}", getattr(model, name), shape, sizes)
    for name, shape in shapes.items()
    if name != "covariance" or model.covariance is not None
  }
  return model._replace(**fields)


def mean(
  model: LinearGaussian,
  time: int | jax.Array,
  state: jax.Array,
  action: jax.Array,
) -> jax.Array:
  """Predicts the next state: F_t [x; u] + f_t.

  Args:
    model: as from `fit`; the covariance may be None.
    time: t, an integer; clipped to the range from 0 to T - 1.
    state: x, [d].
    action: u, [m].

  Returns:
    The expected x', [d].

  Reference:
    Gu et al., 2016 (arXiv 1603.00748), section 5.2.

  >>> model = LinearGaussian(jnp.ones((1, 1, 2)), jnp.ones((1, 1)), None)
  >>> mean(model, 0, jnp.ones(1), jnp.ones(1)).tolist()
  [3.0]
  """
  sizes = {}
  model = _checked_model(model, sizes)
  t = _at(model, time)
  state = checks.real("state", state, "d", sizes)
  action = checks.real("action", action, "m", sizes)
  num_given = model.weights.shape[-1]
  if len(state) + len(action) != num_given:
    raise ValueError(
      f"action has {len(action)} numbers and state {len(state)}; model.weights "
      f"is for {num_given} numbers in all."
    )
  return model.weights[t] @ jnp.concatenate([state, action]) + model.offset[t]


def roots(model: LinearGaussian) -> jax.Array:
  """Factors the covariances once for many samples: N_t = R_t R_tᵀ.

  Args:
    model: as from `fit`; N_t may be singular, as with few rollouts.

  Returns:
    R, [T, d, d].

  Reference:
    Gu et al., 2016 (arXiv 1603.00748), section 5.2.

  >>> x = jnp.arange(6.0).reshape(3, 2, 1)
  >>> roots(fit(x, x**2, x)).shape
  (2, 1, 1)
  """
  sizes = {}
  model = _checked_model(model, sizes)
  covariance = checks.real("model.covariance", model.covariance, "T d d", sizes)
  return jax.vmap(small_matrices.semidefinite_root)(covariance)


def sample(
  key: jax.Array,
  model: LinearGaussian,
  time: int | jax.Array,
  state: jax.Array,
  action: jax.Array,
  *,
  factors: jax.Array | None = None,
) -> jax.Array:
  """Samples the next state: x' ~ N(F_t [x; u] + f_t, N_t).

  Args:
    key: typed PRNG key.
    model: as from `fit`; N_t may be singular, as with few rollouts.
    time: t, see `mean`.
    state: x, [d].
    action: u, [m].
    factors: R, as from `roots`; None computes the root for this sample.

  Returns:
    x', [d].

  Reference:
    Gu et al., 2016 (arXiv 1603.00748), section 5.2.

  >>> x = jnp.arange(6.0).reshape(3, 2, 1)
  >>> sample(jax.random.key(0), fit(x, x**2, x), 1, x[0, 0], x[0, 0]).shape
  (1,)
  """
  key = checks.key("key", key)
  sizes = {}
  model = _checked_model(model, sizes)
  t = _at(model, time)
  state = checks.real("state", state, "d", sizes)
  if factors is None:
    root = small_matrices.semidefinite_root(model.covariance[t])
  else:
    root = checks.real("factors", factors, "T d d", sizes)[t]
  normal = jax.random.normal(key, state.shape, root.dtype)
  return mean(model, time, state, action) + root @ normal


def _check_count(num_rollouts, num_given, prior, ridge):
  needed = 2 if prior is None else 1
  if num_rollouts < needed:
    raise ValueError(f"states has {num_rollouts} rollouts; give {needed}.")
  if prior is None and ridge == 0 and num_rollouts <= num_given:
    raise ValueError(
      f"states has {num_rollouts} rollouts; without a ridge or a prior "
      f"d + m + 1 = {num_given + 1} are needed."
    )


def _fit_step(z, num_given, prior, ridge):
  """Fits one step; z: [n, d + m + d], the first num_given columns x and u."""
  middle = z.mean(0)
  # S is a sum of outer products of these rows and, with a prior, Φ.
  rows, scatter, total = z - middle[None], jnp.zeros((), z.dtype), len(z)
  if prior is not None:
    weight = jnp.sqrt(len(z) * prior.mean_count / (len(z) + prior.mean_count))
    rows = jnp.concatenate([rows, weight * (middle - prior.mean)[None]])
    scatter, total = prior.scatter, len(z) + prior.count
  s = (rows.T @ rows + scatter) / total
  given = s[:num_given, :num_given]
  given += jnp.asarray(ridge, z.dtype) * jnp.eye(num_given, dtype=z.dtype)
  weights = small_matrices.solve(given, s[:num_given, num_given:]).T
  offset = middle[num_given:] - weights @ middle[:num_given]
  # From the residuals, not from S: a difference of large numbers might not be
  # positive semidefinite.
  rest = jnp.concatenate([-weights, jnp.eye(len(weights), dtype=z.dtype)], 1)
  left = rows @ rest.T
  covariance = left.T @ left
  if prior is not None:
    covariance += rest @ scatter @ rest.T
  covariance = 0.5 * (covariance + covariance.T) / total
  return LinearGaussian(weights, offset, covariance)


def _at(model, time):
  return jnp.clip(checks.integers("time", time, ""), 0, len(model.offset) - 1)
