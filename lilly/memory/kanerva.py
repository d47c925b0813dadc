"""The memory of the Kanerva Machine: a matrix with a Gaussian posterior.

The memory M, [K, C], has K rows for codes of size C. Each column is distributed
as N(R, U): rows covary by U, columns are independent. An item is a code
z = Mᵀ w + noise at an address w. Writing is Bayesian linear regression, exact
and in closed form: items can be written in any order, in parts that are merged,
and erased again.

Addresses are network outputs: not normalised, and of either sign. Functions
take one episode; `vmap` over several. Dtypes are kept; whole numbers count as
float32. After thousands of writes with little noise (a variance of 1e-4) U
stays positive definite in float32 if K is small and addresses differ; otherwise
use float64. U may be singular: a row of variance 0 is known exactly and is
never changed. Only what needs U⁻¹ cannot tell: `kl` is NaN then, and `merge`
and the method "information" of `write` are if rows depend on each other, such
as two equal ones.

All functions raise ValueError for arguments of another shape than stated.
"""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from lilly import checks
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

# Full precision, as accelerators default to lower: after many writes U is a
# small difference of large terms.
_product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class State(NamedTuple):
  """Distribution of the memory M: N(R, U) in each column."""

  mean: jax.Array  # R, [K, C]
  cov: jax.Array  # U, [K, K], row covariance shared by all columns


def prior(mean: jax.Array, log_variance: float | jax.Array) -> State:
  """Creates the prior of the memory, with U = diag(exp(log_variance)).

  Args:
    mean: R, [K, C]. Usually learned, as is the variance; must not be 0 if
      addresses are inferred from the memory.
    log_variance: log of each row's variance, [K] or []; -inf for a row that is
      known exactly.

  Returns:
    The memory.

  Raises:
    ValueError: if K or C is 0.

  Reference:
    Wu et al. (2018), arXiv:1804.01756.

  >>> prior(jnp.ones((2, 1)), jnp.zeros(())).cov.tolist()
  [[1.0, 0.0], [0.0, 1.0]]
  """
  sizes = {}
  mean = checks.real("mean", mean, "K C", sizes)
  _refuse_empty("mean", mean)
  mean = mean.astype(mean.dtype)  # no longer weakly typed
  shape = "K" if jnp.ndim(log_variance) else ""
  logs = checks.real("log_variance", log_variance, shape, sizes)
  variances = jnp.exp(logs.astype(mean.dtype))
  variances = jnp.broadcast_to(variances, mean.shape[:1])
  return State(mean, jnp.diag(variances))


def address(address_matrix: jax.Array, b: jax.Array) -> jax.Array:
  """Computes the address of an item: w = A b, without a softmax.

  Args:
    address_matrix: A, [K, S], learned.
    b: network output computed from the item's latent address, [S].

  Returns:
    w, [K], of either sign and not normalised.

  Reference:
    Wu et al. (2018), arXiv:1804.01756.

  >>> address(jnp.array([[1.0, 2.0], [0.0, -1.0]]), jnp.ones(2)).tolist()
  [3.0, -1.0]
  """
  sizes = {}
  address_matrix = checks.real("address_matrix", address_matrix, "K S", sizes)
  b = checks.real("b", b, "S", sizes)
  return _product(address_matrix, b)


def read(state: State, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Reads at an address: the code is N(Rᵀ w, (wᵀ U w) I), before noise.

  Args:
    state: the memory.
    weights: w, [K].

  Returns:
    The mean Rᵀ w, [C], and the variance wᵀ U w of each entry, [].

  Reference:
    Wu et al. (2018), arXiv:1804.01756.

  >>> mean, variance = read(prior(jnp.ones((2, 1)), 0.0), jnp.ones(2))
  >>> mean.tolist(), float(variance)
  ([2.0], 2.0)
  """
  sizes = {}
  state = _checked_state("state", state, sizes)
  weights = checks.real("weights", weights, "K", sizes)
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
  U <- U - (U w)(U w)ᵀ / s, or (I - g wᵀ) U (I - g wᵀ)ᵀ + σ² g gᵀ (Joseph form).

  Both give the same U. In the first the subtracted term is exactly symmetric in
  floating point; that makes it as accurate as the Joseph form, unlike g (U w)ᵀ.

  Args:
    state: the memory.
    weights: w, [K].
    value: z, [C].
    noise_variance: σ², observation noise of the code; positive.
    joseph: whether to use the Joseph form.

  Returns:
    The memory; U is symmetric. Time is O(K² + K C).

  Raises:
    ValueError: if noise_variance is known not to be positive and finite.

  Reference:
    Wu et al. (2018), arXiv:1804.01756. Joseph's form: Bucy and Joseph (1968).

  >>> state = prior(jnp.zeros((2, 1)), 0.0)
  >>> w, z = jnp.array([1.0, 0.0]), jnp.array([2.0])
  >>> rank_one_write(state, w, z, noise_variance=1.0).mean.tolist()
  [[1.0], [0.0]]
  """
  state, weights, value, noise = _checked_item(
    state, weights, value, noise_variance
  )
  return _write_item(state, weights, value, noise, joseph)


def _write_item(state, w, z, noise, joseph=False):
  """Writes one item; negative noise erases it."""
  mean, cov = state
  c = _product(cov, w)
  total = _product(w, c) + noise
  gain = c / total
  mean = mean + gain[:, None] * (z - _product(w, mean))[None]
  if not joseph:
    # Floating-point products commute, so U stays symmetric.
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
  """Writes an episode: p(M | Z, W), independent of the order of its items.

  R + Sᵀ Q⁻¹ Δ,  U - Sᵀ Q⁻¹ S,  Δ = Z - W R,  S = W U,  Q = W U Wᵀ + σ² I.

  Args:
    state: the memory.
    weights: W, [T, K].
    values: Z, [T, C].
    noise_variance: σ², observation noise of the codes; positive.
    method: all give the same result up to rounding. "sequential": item by item
      without matrix inverses, O(T (K² + K C)); "joseph": the same in Joseph
      form; "batch": the equation above, O(T³ + T² (K + C) + T K (K + C));
      "information": by inverse covariances, O(K³ + (T + K) K (K + C)); NaN if
      rows of U depend on each other.

  Returns:
    The memory.

  Raises:
    ValueError: if T is 0, the method is unknown, or noise_variance is known not
      to be positive and finite.

  Reference:
    Wu et al. (2018), arXiv:1804.01756.

  >>> state = prior(jnp.zeros((2, 1)), 0.0)
  >>> W, Z = jnp.array([[1.0, 0.0], [1.0, 1.0]]), jnp.array([[2.0], [3.0]])
  >>> mean = write(state, W, Z, noise_variance=1.0).mean
  >>> [round(float(x), 3) for x in mean[:, 0]]
  [1.4, 0.8]
  """
  state, weights, values, noise = _checked_items(
    state, weights, values, noise_variance
  )
  if method in ("sequential", "joseph"):
    return _write_items(state, weights, values, noise, method == "joseph")
  if method == "batch":
    return _write_batch(state, weights, values, noise)
  if method == "information":
    return _write_information(state, weights, values, noise)
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
  # One solve for both right-hand sides.
  right = jnp.concatenate([delta, s], axis=1)
  moved = _product(s.T, small_matrices.solve_by_inverse(q, right))
  code_size = delta.shape[1]
  cov = state.cov - moved[:, code_size:]
  return State(state.mean + moved[:, :code_size], 0.5 * (cov + cov.T))


def _write_information(state, weights, values, noise):
  is_known = _known_rows(state)
  precision, _ = small_matrices.invert(_filled(state.cov, is_known, 1))
  precision += _product(weights.T, weights) / noise
  delta = values - _product(weights, state.mean)
  information = _product(weights.T, delta) / noise
  return _from_information(state.mean, precision, information, is_known)


def _from_information(mean, precision, information, is_known):
  """Computes U from its inverse, and R = mean + U information."""
  cov, _ = small_matrices.invert(_filled(precision, is_known, 1))
  cov = _filled(cov, is_known, 0)
  return State(mean + _product(cov, information), cov)


def _known_rows(state):
  """Finds the rows that are known exactly: they have no information."""
  return jnp.diagonal(state.cov) == 0


def _filled(matrix, is_known, variance):
  """Sets known rows' variances, and their covariances to 0."""
  is_kept = ~(is_known[:, None] | is_known[None])
  others = variance * jnp.eye(len(matrix), dtype=matrix.dtype)
  return jnp.where(is_kept, matrix, others)


def write_all(
  state: State,
  weights: jax.Array,
  values: jax.Array,
  *,
  noise_variance: float | jax.Array,
) -> State:
  """Writes an episode and keeps the memory after each item.

  R_t = R_{t-1} + g_t Δ_tᵀ,  U_t = U_{t-1} - (U_{t-1} w_t)(U_{t-1} w_t)ᵀ / s_t,
  see `rank_one_write`. U is not inverted, so it may be singular.

  Args:
    state: the memory.
    weights: W, [T, K].
    values: Z, [T, C].
    noise_variance: σ², observation noise of the codes; positive.

  Returns:
    Memories with a leading axis T; the last one equals that of `write`. Time is
    O(T (K² + K C)), space O(T K (K + C)).

  Raises:
    ValueError: as `write`.

  Reference:
    Wu et al. (2018), arXiv:1804.01756.

  >>> state, ones = prior(jnp.zeros((1, 1)), 0.0), jnp.ones((3, 1))
  >>> states = write_all(state, ones, ones, noise_variance=1.0)
  >>> [round(float(x), 2) for x in states.cov[:, 0, 0]]
  [0.5, 0.33, 0.25]
  """
  state, weights, values, noise = _checked_items(
    state, weights, values, noise_variance
  )

  def step(state, item):
    w, z = item
    state = _write_item(state, w, z, noise)
    return state, state

  return jax.lax.scan(step, state, (weights, values))[1]


def erase(
  state: State,
  weights: jax.Array,
  values: jax.Array,
  *,
  noise_variance: float | jax.Array,
) -> State:
  """Erases items: the memory is as if they had never been written.

  It is `write` with -σ² for σ².

  Args:
    state: a memory to which these items were written, at any time.
    weights: W, [T, K].
    values: Z, [T, C].
    noise_variance: σ² with which they were written.

  Returns:
    The memory. Rounding errors grow by about wᵀ U w / σ², with U from before
    the write.

  Raises:
    ValueError: as `write`.

  Reference:
    Wu et al. (2018), arXiv:1804.01756, its update inverted.

  >>> W, Z = jnp.ones((1, 1)), jnp.ones((1, 1))
  >>> state = write(prior(0 * Z, 0.0), W, Z, noise_variance=1.0)
  >>> erase(state, W, Z, noise_variance=1.0).mean.tolist()
  [[0.0]]
  """
  state, weights, values, noise = _checked_items(
    state, weights, values, noise_variance
  )
  return _write_items(state, weights, values, -noise)


def merge(a: State, b: State, prior: State) -> State:
  """Merges memories that were written separately, from the same prior.

  Λ = Λ_a + Λ_b - Λ_0,  Λ R = Λ_a R_a + Λ_b R_b - Λ_0 R_0,  Λ = U⁻¹: adds the
  information of both and counts the prior once.

  Args:
    a: the first memory.
    b: the second memory.
    prior: the common prior.

  Returns:
    The memory with the items of both. Rows that the prior knows exactly stay as
    they are; if its other rows depend on each other, or a or b is singular
    where it is not, the result is NaN. Time is O(K³ + K² C).

  Reference:
    Wu et al. (2018), arXiv:1804.01756, by inverse covariances.

  >>> empty = prior(jnp.zeros((1, 1)), 0.0)
  >>> a = rank_one_write(empty, jnp.ones(1), jnp.ones(1), noise_variance=1.0)
  >>> round(float(merge(a, a, empty).mean[0, 0]), 4)
  0.6667
  """
  sizes = {}
  a = _checked_state("a", a, sizes)
  b = _checked_state("b", b, sizes)
  prior = _checked_state("prior", prior, sizes)
  is_known = _known_rows(prior)
  covs = jnp.stack([_filled(x.cov, is_known, 1) for x in (a, b, prior)])
  (of_a, of_b, of_prior), _ = jax.vmap(small_matrices.invert)(covs)
  moved = _product(of_a, a.mean - prior.mean)
  moved += _product(of_b, b.mean - prior.mean)
  precision = of_a + of_b - of_prior
  return _from_information(prior.mean, precision, moved, is_known)


def kl(
  posterior: State,
  prior: State,
  *,
  diagonal: bool = False,
  scale: float = 1.0,
) -> jax.Array:
  """Computes KL(N(R, U) || N(R₀, U₀)) of the whole memory.

  ½ [C tr(U₀⁻¹ U) + tr((R - R₀)ᵀ U₀⁻¹ (R - R₀)) - C K + C (ln|U₀| - ln|U|)].

  Args:
    posterior: R, U.
    prior: R₀, U₀.
    diagonal: approximate the determinant of U by the product of its diagonal,
      as the authors' released module does; the result is larger. scale=2
      reproduces that module, which omits the ½.
    scale: factor of the result.

  Returns:
    The divergence, in nats, []; NaN if U or U₀ is not positive definite. Rows
    that both know exactly contribute nothing: leave them out of both. If U
    alone is singular, the divergence is infinite.

  Reference:
    Wu et al. (2018), arXiv:1811.09556. Exact by default, unlike the authors'
    module at github.com/google-deepmind/dynamic-kanerva-machines.

  >>> ones = prior(jnp.ones((2, 1)), 0.0)
  >>> float(kl(ones, ones._replace(mean=0 * ones.mean)))
  1.0
  """
  sizes = {}
  posterior = _checked_state("posterior", posterior, sizes)
  prior = _checked_state("prior", prior, sizes)
  scale = checks.number("scale", scale)
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
  """Computes the KL by which writing one item would change the memory.

  ½ [-C β + β |Δ|² / (v + σ²) - C ln(1 - β)],  β = v / (v + σ²),  v = wᵀ U w:
  the KL of the memory after the write from that before. Summed over an episode
  it does not equal the KL of the final from the initial memory.

  Args:
    state: the memory before the write.
    weights: w, [K].
    value: z, [C].
    noise_variance: σ², observation noise of the code; positive.

  Returns:
    The divergence, in nats, [].

  Raises:
    ValueError: if noise_variance is known not to be positive and finite.

  Reference:
    Wu et al. (2018), arXiv:1811.09556.

  >>> state = prior(jnp.zeros((1, 1)), 0.0)
  >>> step_kl(state, jnp.ones(1), jnp.zeros(1), noise_variance=1.0).round(4)
  Array(0.0966, dtype=float32)
  """
  state, weights, value, noise = _checked_item(
    state, weights, value, noise_variance
  )
  code, variance = read(state, weights)
  beta = variance / (variance + noise)
  squares = jnp.sum(jnp.square(value - code)) / (variance + noise)
  grown = jnp.log1p(variance / noise)  # -ln(1 - β)
  return 0.5 * (beta * squares + value.size * (grown - beta))


def _checked_state(name, state, sizes):
  mean = checks.real(f"{name}.mean", state.mean, "K C", sizes)
  cov = checks.real(f"{name}.cov", state.cov, "K K", sizes)
  _refuse_empty(f"{name}.mean", mean)
  dtype = jnp.result_type(mean, cov)
  return State(mean.astype(dtype), cov.astype(dtype))


def _refuse_empty(name, mean):
  for axis, size in zip(("rows", "columns"), mean.shape, strict=True):
    if not size:
      raise ValueError(f"{name} has 0 {axis}; give 1 or more.")


def _checked_item(state, weights, value, noise_variance):
  """Checks the arguments; the noise variance gets the memory's dtype."""
  sizes = {}
  state = _checked_state("state", state, sizes)
  weights = checks.real("weights", weights, "K", sizes)
  value = checks.real("value", value, "C", sizes)
  return state, weights, value, _checked_noise(noise_variance, state)


def _checked_items(state, weights, values, noise_variance):
  sizes = {}
  state = _checked_state("state", state, sizes)
  weights = checks.real("weights", weights, "T K", sizes)
  values = checks.real("values", values, "T C", sizes)
  if not len(weights):
    raise ValueError("weights has 0 items; give 1 or more.")
  return state, weights, values, _checked_noise(noise_variance, state)


def _checked_noise(noise_variance, state):
  noise = checks.number("noise_variance", noise_variance, above=0)
  return jnp.asarray(noise, state.mean.dtype)
