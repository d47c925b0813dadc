"""Evidence, code KL and training bound of a Kanerva Machine's memory.

In nats, summed over the dimensions of an item. Whole numbers count as float32.
All functions raise ValueError for arguments of another shape than stated.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lilly import checks
from lilly.memory import kanerva

__all__ = ["ConditionalTerms", "code_kl", "conditional_bound", "log_evidence"]


class ConditionalTerms(NamedTuple):
  """Terms of the conditional bound: means over items, in nats."""

  log_likelihood: jax.Array  # ln p(x | z), []
  kl_address: jax.Array  # KL(q(y | x) || p(y)), []
  kl_code: jax.Array  # KL(q(z | x, y, M) || p(z | y, M)), []


def log_evidence(
  state: kanerva.State,
  weights: jax.Array,
  values: jax.Array,
  *,
  noise_variance: float | jax.Array,
) -> jax.Array:
  """Computes the log evidence of each item given those before it.

  ln N(z_t; R_{t-1}ᵀ w_t, (w_tᵀ U_{t-1} w_t + σ²) I); the sum is ln p(Z | W).

  Args:
    state: the memory before the episode.
    weights: W, [T, K].
    values: Z, [T, C].
    noise_variance: σ², observation noise of the codes; positive.

  Returns:
    Log likelihoods, in nats, [T]; negated, they measure surprise.

  Raises:
    ValueError: if T is 0, or noise_variance is known not to be positive and
      finite.

  Reference:
    Wu et al. (2018), arXiv:1804.01756, by the chain rule over items.

  >>> zero = jnp.zeros((1, 1))
  >>> state = kanerva.prior(zero, 0.0)
  >>> log_evidence(state, zero, zero, noise_variance=1.0).round(3)
  Array([-0.919], dtype=float32)
  """
  sizes = {}
  mean = checks.real("state.mean", state.mean, "K C", sizes)
  cov = checks.real("state.cov", state.cov, "K K", sizes)
  weights = checks.real("weights", weights, "T K", sizes)
  values = checks.real("values", values, "T C", sizes)
  _refuse_empty("weights", weights)
  noise = checks.number("noise_variance", noise_variance, above=0)
  noise = jnp.asarray(noise, mean.dtype)

  def step(state, item):
    w, z = item
    code, variance = kanerva.read(state, w)
    new = kanerva.rank_one_write(state, w, z, noise_variance=noise)
    return new, _log_normal(z, code, variance + noise)

  start = kanerva.State(mean, cov)
  return jax.lax.scan(step, start, (weights, values))[1]


def _log_normal(z, mean, variance):
  squares = jnp.sum(jnp.square(z - mean)) / variance
  return -0.5 * (squares + z.size * jnp.log(2 * jnp.pi * variance))


def code_kl(
  mean: jax.Array,
  stddev: jax.Array,
  read_mean: jax.Array,
  *,
  noise_variance: float | jax.Array,
  read_variance: float | jax.Array = 0.0,
) -> jax.Array:
  """Computes KL(q(z) || p(z | w, M)), of a code from the memory's prediction.

  KL(N(μ, diag s²) || N(m, σ² I)) with M at its mean; the expectation over M
  adds C v / (2 σ²).

  Args:
    mean: μ, [C].
    stddev: s, [C], positive.
    read_mean: m = Rᵀ w, as from `kanerva.read`, [C].
    noise_variance: σ², observation noise of the code; positive.
    read_variance: v = wᵀ U w, as from `kanerva.read`, to take the expectation
      over M; 0 uses M's mean. Which one the paper uses is unconfirmed.

  Returns:
    The divergence, in nats, summed over the code, [].

  Raises:
    ValueError: if noise_variance is known not to be positive and finite, or
      read_variance not to be finite.

  Reference:
    Wu et al. (2018), arXiv:1804.01756.

  >>> float(
  ...   code_kl(jnp.zeros(2), jnp.ones(2), jnp.ones(2), noise_variance=1.0)
  ... )
  1.0
  """
  sizes = {}
  mean = checks.real("mean", mean, "C", sizes)
  stddev = checks.real("stddev", stddev, "C", sizes)
  read_mean = checks.real("read_mean", read_mean, "C", sizes)
  noise = checks.number("noise_variance", noise_variance, above=0)
  variance = checks.number("read_variance", read_variance)
  noise = jnp.asarray(noise, mean.dtype)
  variance = jnp.asarray(variance, mean.dtype)
  squares = jnp.square(stddev) + jnp.square(mean - read_mean) + variance
  logs = mean.size * jnp.log(noise) - 2 * jnp.sum(jnp.log(stddev))
  return 0.5 * (jnp.sum(squares) / noise - mean.size + logs)


def conditional_bound(
  log_px: jax.Array, kl_address: jax.Array, kl_code: jax.Array
) -> tuple[jax.Array, ConditionalTerms]:
  """Computes a lower bound on ln p(x | M) given the memory of the episode.

  1/T Σ_t [ln p(x_t | z_t) - KL(q(y_t) || p(y_t)) - KL(q(z_t) || p(z_t))]. It
  does not include the KL of the memory, so it is not comparable to bounds that
  do, such as the Dynamic Kanerva Machine's.

  Args:
    log_px: ln p(x_t | z_t), summed over an item's dimensions, [T].
    kl_address: KL of each item's latent address, [T].
    kl_code: as from `code_kl`, [T].

  Returns:
    The bound, in nats per item, [], to be maximised; and its terms.

  Raises:
    ValueError: if T is 0.

  Reference:
    Wu et al. (2018), arXiv:1804.01756.

  >>> bound, terms = conditional_bound(-jnp.ones(2), jnp.ones(2), jnp.ones(2))
  >>> float(bound), float(terms.kl_code)
  (-3.0, 1.0)
  """
  sizes = {}
  log_px = checks.real("log_px", log_px, "T", sizes)
  kl_address = checks.real("kl_address", kl_address, "T", sizes)
  kl_code = checks.real("kl_code", kl_code, "T", sizes)
  _refuse_empty("log_px", log_px)
  terms = ConditionalTerms(*(x.mean() for x in (log_px, kl_address, kl_code)))
  return terms.log_likelihood - terms.kl_address - terms.kl_code, terms


def _refuse_empty(name, x):
  if not len(x):
    raise ValueError(f"{name} has 0 items; give 1 or more.")
