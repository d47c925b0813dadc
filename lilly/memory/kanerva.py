"""The memory of the Kanerva Machine: a matrix of which a Gaussian is known.

M, [K, C], of K rows and codes of size C, is N(R, U) in each column: the rows
covary by U, the columns not at all. An item is a code z = Mᵀ w + noise at an
address w. To write it is Bayesian linear regression, exact and in closed form:
in any order, in parts that are merged, and taken back again.

Addresses are what a network puts out: not normalised, and negative as well. One
episode at a time: `vmap` gives several. Types are kept; of thousands of writes
with little noise (a variance of 1e-4) U stays positive definite in float32 for
few rows and addresses that differ, else in float64.
"""

import functools
import math
import numbers
from typing import Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp

from lilly.control import small_matrices

__all__ = [
  "State",
  "address",
  "erase",
  "kl",
  "merge",
  "prior",
  "rank_one_write",
  "read",
  "step_kl",
  "write",
  "write_all",
]

# Not in the faster, coarser products that accelerators offer by default: what
# is left of U after many writes is a small difference.
_product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class State(NamedTuple):
  """What is known of the memory M: N(R, U) in each column."""

  mean: jax.Array  # R, [K, C]
  cov: jax.Array  # U, [K, K], of the rows, the same for every column


def prior(mean: jax.Array, log_variance: float | jax.Array) -> State:
  """Makes the memory before anything is written: U = diag(exp(log_variance)).

  Args:
    mean: R, [K, C]. Learned, as is the variance; not 0 where addresses are
      found by looking at the memory.
    log_variance: ln of the variance of each row, [K] or [].

  Returns:
    The memory.

  Raises:
    ValueError: if K or C is 0.

  Reference:
    Wu et al. (2018), arXiv:1804.01756.

  >>> prior(jnp.ones((2, 1)), jnp.zeros(())).cov.tolist()
  [[1.0, 0.0], [0.0, 1.0]]
  """
  _check_sizes(mean)
  log_variance = jnp.asarray(log_variance, mean.dtype)
  variances = jnp.broadcast_to(jnp.exp(log_variance), mean.shape[:1])
  return State(mean, jnp.diag(variances))


def address(address_matrix: jax.Array, b: jax.Array) -> jax.Array:
  """Finds where an item is: w = A b, without a softmax.

  Args:
    address_matrix: A, [K, S], learned.
    b: what a network makes of the item's latent address, [S].

  Returns:
    w, [K], of either sign and any sum.

  Reference:
    Wu et al. (2018), arXiv:1804.01756.

  >>> address(jnp.array([[1.0, 2.0], [0.0, -1.0]]), jnp.ones(2)).tolist()
  [3.0, -1.0]
  """
  chex.assert_rank([address_matrix, b], [2, 1])
  chex.assert_equal_shape_suffix([address_matrix, b], 1)
  return _product(address_matrix, b)


def read(state: State, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Reads at an address: the code is N(Rᵀ w, (wᵀ U w) I), before noise.

  Args:
    state: the memory.
    weights: w, [K].

  Returns:
    The mean Rᵀ w, [C], and the variance wᵀ U w of each of its numbers, [].

  Reference:
    Wu et al. (2018), arXiv:1804.01756.

  >>> mean, variance = read(prior(jnp.ones((2, 1)), 0.0), jnp.ones(2))
  >>> mean.tolist(), float(variance)
  ([2.0], 2.0)
  """
  _check_state(state)
  chex.assert_shape(weights, state.mean.shape[:1])
  code = _product(weights, state.mean)
  return code, _product(weights, _product(state.cov, weights))


def rank_one_write(
  state: State,
  weights: jax.Array,
  value: jax.Array,
  *,
  noise_variance: float | jax.Array,
  joseph: bool = False,
) -> State:
  """Writes one item.

  Δ = z - Rᵀ w,  s = wᵀ U w + σ²,  g = U w / s,  R <- R + g Δᵀ,
  U <- U - (U w)(U w)ᵀ / s, or, as Joseph, (I - g wᵀ) U (I - g wᵀ)ᵀ + σ² g gᵀ.

  Both are the same U. What the first takes off is symmetric to the last digit:
  that makes it as exact as Joseph's form, which g (U w)ᵀ is not.

  Args:
    state: the memory.
    weights: w, [K].
    value: z, [C].
    noise_variance: σ², of the code; positive.
    joseph: whether to take Joseph's form.

  Returns:
    The memory; U is symmetric. Time is O(K² + K C).

  Raises:
    ValueError: if the variance is a number that is not positive.

  Reference:
    Wu et al. (2018), arXiv:1804.01756. Joseph's form: Bucy and Joseph (1968).

  >>> state = prior(jnp.zeros((2, 1)), 0.0)
  >>> w, z = jnp.array([1.0, 0.0]), jnp.array([2.0])
  >>> rank_one_write(state, w, z, noise_variance=1.0).mean.tolist()
  [[1.0], [0.0]]
  """
  noise = _check_item(state, weights, value, noise_variance)
  return _write_item(state, weights, value, noise, joseph)


def _write_item(state, w, z, noise, joseph=False):
  """Writes one item; with a noise below 0 takes it back."""
  mean, cov = state
  c = _product(cov, w)
  total = _product(w, c) + noise
  gain = c / total
  mean = mean + gain[:, None] * (z - _product(w, mean))[None]
  if not joseph:
    # A product of numbers is that of their exchange: it stays symmetric.
    return State(mean, cov - c[:, None] * c[None] / total)
  left = cov - gain[:, None] * c[None]
  left = left - _product(left, w)[:, None] * gain[None]
  cov = left + noise * gain[:, None] * gain[None]
  return State(mean, 0.5 * (cov + cov.T))


_Method = Literal["sequential", "batch", "information", "joseph"]


def write(
  state: State,
  weights: jax.Array,
  values: jax.Array,
  *,
  noise_variance: float | jax.Array,
  method: _Method = "sequential",
) -> State:
  """Writes an episode: p(M | Z, W), the same in any order of its items.

  R + Sᵀ Q⁻¹ Δ,  U - Sᵀ Q⁻¹ S,  Δ = Z - W R,  S = W U,  Q = W U Wᵀ + σ² I.

  Args:
    state: the memory.
    weights: W, [T, K].
    values: Z, [T, C].
    noise_variance: σ², of the codes; positive.
    method: the result is the same, but for rounding. "sequential": item by
      item, O(T (K² + K C)), no matrix is inverted; "joseph": so too, in
      Joseph's form; "batch": as above, O(T³ + T² (K + C) + T K (K + C));
      "information": by inverse covariances, O(K³ + (T + K) K (K + C)).

  Returns:
    The memory.

  Raises:
    ValueError: if T is 0, the method is unknown, or the variance is a number
      that is not positive.

  Reference:
    Wu et al. (2018), arXiv:1804.01756.

  >>> state = prior(jnp.zeros((2, 1)), 0.0)
  >>> W, Z = jnp.array([[1.0, 0.0], [1.0, 1.0]]), jnp.array([[2.0], [3.0]])
  >>> mean = write(state, W, Z, noise_variance=1.0).mean
  >>> [round(float(x), 3) for x in mean[:, 0]]
  [1.4, 0.8]
  """
  noise = _check_items(state, weights, values, noise_variance)
  if method in ("sequential", "joseph"):
    return _write_items(state, weights, values, noise, method == "joseph")
  if method == "batch":
    return _write_batch(state, weights, values, noise)
  if method == "information":
    precision, _ = small_matrices.invert(state.cov)
    precision += _product(weights.T, weights) / noise
    delta = values - _product(weights, state.mean)
    return _known(state.mean, precision, _product(weights.T, delta) / noise)
  allowed = "sequential, batch, information or joseph"
  raise ValueError(f"method is {method!r}; it must be {allowed}.")


def _write_items(state, weights, values, noise, joseph=False):
  def step(state, item):
    w, z = item
    return _write_item(state, w, z, noise, joseph), None

  return jax.lax.scan(step, state, (weights, values))[0]


def _write_batch(state, weights, values, noise):
  s = _product(weights, state.cov)
  q = _product(s, weights.T) + noise * jnp.eye(len(s), dtype=s.dtype)
  delta = values - _product(weights, state.mean)
  # One inverse for both.
  right = jnp.concatenate([delta, s], axis=1)
  moved = _product(s.T, small_matrices.solve_by_inverse(q, right))
  code_size = delta.shape[1]
  cov = state.cov - moved[:, code_size:]
  return State(state.mean + moved[:, :code_size], 0.5 * (cov + cov.T))


def _known(mean, precision, information):
  """Makes U of its inverse, and R of a mean and of U⁻¹ times its distance."""
  cov, _ = small_matrices.invert(precision)
  return State(mean + _product(cov, information), cov)


def write_all(
  state: State,
  weights: jax.Array,
  values: jax.Array,
  *,
  noise_variance: float | jax.Array,
) -> State:
  """Writes an episode and keeps the memory after each item, all side by side.

  U_t⁻¹ = U⁻¹ + Σ_{i≤t} w_i w_iᵀ / σ²,  R_t = R + U_t Σ_{i≤t} w_i Δ_iᵀ / σ²,
  Δ_i = z_i - Rᵀ w_i: sums of what is before each item, not a loop.

  Args:
    state: the memory.
    weights: W, [T, K].
    values: Z, [T, C].
    noise_variance: σ², of the codes; positive.

  Returns:
    Memories, with a leading axis T: the last one is that of `write`. Time is
    O(T (K³ + K² C)), space O(T K (K + C)).

  Raises:
    ValueError: as `write`.

  Reference:
    Wu et al. (2018), arXiv:1804.01756, as prefix sums.

  >>> state, ones = prior(jnp.zeros((1, 1)), 0.0), jnp.ones((3, 1))
  >>> states = write_all(state, ones, ones, noise_variance=1.0)
  >>> [round(float(x), 2) for x in states.cov[:, 0, 0]]
  [0.5, 0.33, 0.25]
  """
  noise = _check_items(state, weights, values, noise_variance)
  delta = values - _product(weights, state.mean)
  squares = weights[:, :, None] * weights[:, None] / noise
  products = weights[:, :, None] * delta[:, None] / noise
  precision, _ = small_matrices.invert(state.cov)
  known = jax.vmap(_known, in_axes=(None, 0, 0))
  precisions = precision[None] + jnp.cumsum(squares, axis=0)
  return known(state.mean, precisions, jnp.cumsum(products, axis=0))


def erase(
  state: State,
  weights: jax.Array,
  values: jax.Array,
  *,
  noise_variance: float | jax.Array,
) -> State:
  """Takes items back: the memory is as if they had never been written.

  It is `write` with -σ² for σ².

  Args:
    state: a memory to which these items were written, whenever.
    weights: W, [T, K].
    values: Z, [T, C].
    noise_variance: σ², with which they were written.

  Returns:
    The memory. Rounding is enlarged by about wᵀ U w / σ² before the write.

  Raises:
    ValueError: as `write`.

  Reference:
    Wu et al. (2018), arXiv:1804.01756, solved for what was
    before.

  >>> W, Z = jnp.ones((1, 1)), jnp.ones((1, 1))
  >>> state = write(prior(0 * Z, 0.0), W, Z, noise_variance=1.0)
  >>> erase(state, W, Z, noise_variance=1.0).mean.tolist()
  [[0.0]]
  """
  noise = _check_items(state, weights, values, noise_variance)
  return _write_items(state, weights, values, -noise)


def merge(a: State, b: State, prior: State) -> State:
  """Merges memories that were written apart, from the same prior.

  Λ = Λ_a + Λ_b - Λ_0,  Λ R = Λ_a R_a + Λ_b R_b - Λ_0 R_0,  Λ = U⁻¹: what the
  two know is added, and the prior counted once.

  Args:
    a: a memory.
    b: another.
    prior: what both were before.

  Returns:
    The memory to which the items of both were written. Time is O(K³ + K² C).

  Reference:
    Wu et al. (2018), arXiv:1804.01756, by inverse covariances.

  >>> empty = prior(jnp.zeros((1, 1)), 0.0)
  >>> a = rank_one_write(empty, jnp.ones(1), jnp.ones(1), noise_variance=1.0)
  >>> round(float(merge(a, a, empty).mean[0, 0]), 4)
  0.6667
  """
  for state in (a, b, prior):
    _check_state(state)
  chex.assert_equal_shape([a.mean, b.mean, prior.mean])
  covs = jnp.stack([a.cov, b.cov, prior.cov])
  (of_a, of_b, of_prior), _ = jax.vmap(small_matrices.invert)(covs)
  moved = _product(of_a, a.mean - prior.mean)
  moved += _product(of_b, b.mean - prior.mean)
  return _known(prior.mean, of_a + of_b - of_prior, moved)


def kl(
  posterior: State,
  prior: State,
  *,
  diagonal: bool = False,
  scale: float = 1.0,
) -> jax.Array:
  """Measures KL(N(R, U) || N(R₀, U₀)) of the whole memory.

  ½ [C tr(U₀⁻¹ U) + tr((R - R₀)ᵀ U₀⁻¹ (R - R₀)) - C K + C (ln|U₀| - ln|U|)].

  Args:
    posterior: R, U.
    prior: R₀, U₀.
    diagonal: takes the product of U's diagonal for its determinant, as the
      authors' released module does; it is larger. With scale=2 it is theirs:
      they leave out the ½.
    scale: the result is multiplied by it.

  Returns:
    The divergence, in nats, []; not a number where U or U₀ is not positive
    definite.

  Reference:
    Wu et al. (2018), arXiv:1811.09556. Exact by default; the
    module at github.com/google-deepmind/dynamic-kanerva-machines is not.

  >>> ones = prior(jnp.ones((2, 1)), 0.0)
  >>> float(kl(ones, ones._replace(mean=0 * ones.mean)))
  1.0
  """
  for state in (posterior, prior):
    _check_state(state)
  chex.assert_equal_shape([posterior.mean, prior.mean])
  num_rows, code_size = prior.mean.shape
  inverse, of_prior = small_matrices.invert(prior.cov)
  if diagonal:
    of_posterior = jnp.sum(jnp.log(jnp.diagonal(posterior.cov)))
  else:
    _, of_posterior = small_matrices.invert(posterior.cov)
  spread = jnp.sum(inverse * posterior.cov) - num_rows + of_prior - of_posterior
  moved = posterior.mean - prior.mean
  distance = jnp.sum(moved * _product(inverse, moved))
  return 0.5 * scale * (code_size * spread + distance)


def step_kl(
  state: State,
  weights: jax.Array,
  value: jax.Array,
  *,
  noise_variance: float | jax.Array,
) -> jax.Array:
  """Measures by how much one item changes the memory, without writing it.

  ½ [-C β + β |Δ|² / (v + σ²) - C ln(1 - β)],  β = v / (v + σ²),  v = wᵀ U w:
  KL of the memory after to that before. Over an episode these do not add up to
  the KL of its end to its beginning.

  Args:
    state: the memory before.
    weights: w, [K].
    value: z, [C].
    noise_variance: σ², of the code; positive.

  Returns:
    The divergence, in nats, [].

  Raises:
    ValueError: if the variance is a number that is not positive.

  Reference:
    Wu et al. (2018), arXiv:1811.09556.

  >>> state = prior(jnp.zeros((1, 1)), 0.0)
  >>> step_kl(state, jnp.ones(1), jnp.zeros(1), noise_variance=1.0).round(4)
  Array(0.0966, dtype=float32)
  """
  noise = _check_item(state, weights, value, noise_variance)
  code, variance = read(state, weights)
  beta = variance / (variance + noise)
  squares = jnp.sum(jnp.square(value - code)) / (variance + noise)
  grown = jnp.log1p(variance / noise)  # -ln(1 - β)
  return 0.5 * (beta * squares + value.size * (grown - beta))


def _check_sizes(mean):
  chex.assert_rank(mean, 2)
  # Variances are cast to its type: of whole numbers nothing would be left.
  chex.assert_type(mean, float)
  for name, size in zip(("rows", "columns"), mean.shape, strict=True):
    if not size:
      raise ValueError(f"the mean has 0 {name}; give 1 or more.")


def _check_state(state):
  _check_sizes(state.mean)
  chex.assert_shape(state.cov, (len(state.mean), len(state.mean)))


def _check_item(state, weights, value, noise_variance):
  """Checks an item; returns the noise's variance in the memory's type."""
  _check_state(state)
  chex.assert_shape(weights, state.mean.shape[:1])
  chex.assert_shape(value, state.mean.shape[1:])
  return _checked(noise_variance, state.mean.dtype)


def _checked(noise_variance, dtype):
  """The noise's variance in the memory's type, one for all items."""
  is_number = isinstance(noise_variance, numbers.Real)
  if is_number and not 0 < float(noise_variance) < math.inf:
    raise ValueError(
      f"noise_variance is {noise_variance}; it must be positive and finite."
    )
  noise = jnp.asarray(noise_variance, dtype)
  chex.assert_rank(noise, 0)
  return noise


def _check_items(state, weights, values, noise_variance):
  chex.assert_rank([weights, values], 2)
  chex.assert_equal_shape_prefix([weights, values], 1)
  if not len(weights):
    raise ValueError("weights has 0 items; give 1 or more.")
  return _check_item(state, weights[0], values[0], noise_variance)
