"""The Dynamic Kanerva Machine: a memory that finds its addresses by looking.

The memory and its write are those of `kanerva`. An item's address is that of
the best reconstruction of its code by what is in the memory: a small ridge
regression, at every write and at every read. Reads can be iterated, which
completes and cleans what they are given: by what they decode, for codes alone
decay to 0; and rounded, where it is probabilities, for these drift.

Two ways to store nothing. Where K >= C the rows of the memory span all codes:
any memory reproduces any code, so choose K < C. And where R is 0 every address
is 0, nothing is ever written, and no gradient leaves that point: the prior's
mean must not be 0; draw it.
"""

import functools
import math
import numbers
from collections.abc import Callable
from typing import Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp

from lilly.control import small_matrices
from lilly.memory import kanerva

__all__ = [
  "LossTerms",
  "Reading",
  "Trajectory",
  "WriteInfo",
  "address",
  "loss",
  "lyapunov",
  "optimal_weight_stddev",
  "read",
  "retrieve",
  "sample_read",
  "weight_kl",
  "write",
]

_product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)

Method = Literal["ridge", "squared", "mean_field"]


class WriteInfo(NamedTuple):
  """What was found while an episode was written."""

  weights: jax.Array  # μ_t, the addresses, [T, K]
  kl_weights: jax.Array  # KL(q(w_t) || p(w)), [T]
  kl_memory: jax.Array  # of the memory after item t to that before, [T]


class Reading(NamedTuple):
  """What was read, and where."""

  code: jax.Array  # [C]
  weights: jax.Array  # μ, [K]: the mean address, also where one was drawn


class Trajectory(NamedTuple):
  """What an item becomes over reads that follow one another."""

  items: jax.Array  # x_0 .. x_n, [n + 1, ...]
  lyapunov: jax.Array  # V at x_t and its address, t < n, [n]


class LossTerms(NamedTuple):
  """What a loss is made of: means over items, in nats."""

  bound: jax.Array  # log_likelihood - kl_weights - kl_memory, []
  log_likelihood: jax.Array  # ln p(x | w, M), []
  kl_weights: jax.Array  # []
  kl_memory: jax.Array  # the episode's, over T, []
  autoencoder: jax.Array  # ln p(x | d(e(x))), []


def address(
  state: kanerva.State,
  z: jax.Array,
  *,
  noise_variance: float | jax.Array = 1.0,
  weight_variance: float | jax.Array = 1.0,
  method: Method = "ridge",
) -> jax.Array:
  """Finds where a code is: the mean of q(w).

  μ = (G + λ I)⁻¹ R z,  G = R Rᵀ,  λ = σ² / s_w².

  Args:
    state: the memory; where R is 0, so is μ.
    z: a code, [C].
    noise_variance: σ², of the code; positive.
    weight_variance: s_w², of p(w); positive.
    method: "ridge", as above, the paper's: the mean of p(w | z, M) at M = R;
      "squared", the authors' released module's: (G² + λ I)⁻¹ G R z, for it
      gives the normal equations to a solver that squares them; "mean_field",
      (G + C U + λ I)⁻¹ R z, which counts that M is uncertain: with it alone
      address and write are both steps up one bound.

  Returns:
    μ, [K]. Under `vmap` over codes alone one matrix is inverted, O(K³). Not a
    number where rows depend on each other and λ is lost to rounding beside G.

  Raises:
    ValueError: if the method is unknown, or a variance is a number that is not
      positive.

  Reference:
    Wu et al. (2018), arXiv:1811.09556; "mean_field" is ours.

  >>> state = kanerva.prior(jnp.array([[1.0, 0.0]]), 0.0)
  >>> address(state, jnp.array([3.0, 1.0])).tolist()
  [1.5]
  """
  chex.assert_shape(z, state.mean.shape[1:])
  matrix, right = _system(state, noise_variance, weight_variance, method)
  return small_matrices.solve_by_inverse(matrix, _product(right, z))


def _system(state, noise_variance, weight_variance, method):
  """The matrix A and the right side B of μ = A⁻¹ B z."""
  _check(noise_variance=noise_variance, weight_variance=weight_variance)
  mean, cov = state
  chex.assert_rank(mean, 2)
  chex.assert_type(mean, float)
  chex.assert_shape(cov, (len(mean), len(mean)))
  gram = matrix = _product(mean, mean.T)
  right = mean
  if method == "squared":
    matrix, right = _product(gram, gram), _product(gram, mean)
  elif method == "mean_field":
    matrix = gram + mean.shape[1] * cov
  elif method != "ridge":
    allowed = "ridge, squared or mean_field"
    raise ValueError(f"method is {method!r}; it must be {allowed}.")
  strength = jnp.asarray(noise_variance / weight_variance, mean.dtype)
  return matrix + strength * jnp.eye(len(mean), dtype=mean.dtype), right


def write(
  state: kanerva.State,
  values: jax.Array,
  *,
  noise_variance: float | jax.Array = 1.0,
  weight_variance: float | jax.Array = 1.0,
  weight_stddev: float | jax.Array = 0.3,
  num_iterations: int = 1,
  method: Method = "ridge",
) -> tuple[kanerva.State, WriteInfo]:
  """Writes an episode, each item at the address that the memory so far gives.

  Of each item, `num_iterations` times: its address is found in the memory with
  the item, at first without it, and the item is written there, to the memory
  without it. So it is written once. The order of items matters.

  Args:
    state: the memory; R must not be 0.
    values: codes z_t, [T, C].
    noise_variance: σ², of the codes; positive.
    weight_variance: s_w², of p(w); positive.
    weight_stddev: σ_q, of q(w), for its divergence; items are written at μ.
    num_iterations: how often an address is found, at least 1.
    method: as of `address`.

  Returns:
    The memory, and what was found. Time is O(T (K³ + K² C)) an iteration.

  Raises:
    ValueError: if T is 0, num_iterations is not positive, the method is
      unknown, or a variance is a number that is not positive.

  Reference:
    Wu et al. (2018), arXiv:1811.09556.

  >>> state = kanerva.prior(jnp.ones((1, 2)), 0.0)
  >>> state, info = write(state, jnp.array([[2.0, 1.0]]))
  >>> info.weights.tolist(), state.mean.tolist()
  ([[1.0]], [[1.5, 1.0]])
  """
  chex.assert_rank(values, 2)
  _check(num_iterations=num_iterations)
  if not len(values):
    raise ValueError("values has 0 items; give 1 or more.")
  find = functools.partial(
    address,
    noise_variance=noise_variance,
    weight_variance=weight_variance,
    method=method,
  )

  def step(state, z):
    new, w = _write_item(state, z, find, noise_variance, num_iterations)
    spread = weight_kl(
      w, weight_stddev=weight_stddev, weight_variance=weight_variance
    )
    moved = kanerva.step_kl(state, w, z, noise_variance=noise_variance)
    return new, WriteInfo(w, spread, moved)

  return jax.lax.scan(step, state, values)


def _write_item(state, z, find, noise_variance, num_iterations):
  """Writes one item; each iteration starts from the memory without it."""

  def improve(carry, _):
    w = find(carry[0], z)
    new = kanerva.rank_one_write(state, w, z, noise_variance=noise_variance)
    return (new, w), None

  start = state, jnp.zeros_like(state.mean[:, 0])
  return jax.lax.scan(improve, start, length=num_iterations)[0]


def read(
  state: kanerva.State,
  z: jax.Array,
  *,
  noise_variance: float | jax.Array = 1.0,
  weight_variance: float | jax.Array = 1.0,
  method: Method = "ridge",
) -> Reading:
  """Reads what the memory makes of a code: Rᵀ μ.

  Args:
    state: the memory.
    z: a code, [C].
    noise_variance: σ², as of `address`.
    weight_variance: s_w², as of `address`.
    method: as of `address`.

  Returns:
    The code, and μ.

  Raises:
    ValueError: as `address`.

  Reference:
    Wu et al. (2018), arXiv:1811.09556.

  >>> state = kanerva.prior(jnp.array([[1.0, 0.0]]), 0.0)
  >>> read(state, jnp.array([3.0, 1.0])).code.tolist()
  [1.5, 0.0]
  """
  weights = address(
    state,
    z,
    noise_variance=noise_variance,
    weight_variance=weight_variance,
    method=method,
  )
  return Reading(_product(weights, state.mean), weights)


def sample_read(
  key: jax.Array,
  state: kanerva.State,
  z: jax.Array,
  *,
  weight_stddev: float | jax.Array = 0.3,
  noise_variance: float | jax.Array = 1.0,
  weight_variance: float | jax.Array = 1.0,
  method: Method = "ridge",
) -> Reading:
  """Reads at an address that is drawn: Rᵀ w,  w ~ N(μ, σ_q² I).

  Args:
    key: typed key.
    state: the memory.
    z: a code, [C].
    weight_stddev: σ_q, a standard deviation.
    noise_variance: σ², as of `address`.
    weight_variance: s_w², as of `address`.
    method: as of `address`.

  Returns:
    The code, and μ: what `weight_kl` takes, not w.

  Raises:
    ValueError: as `address`, or if weight_stddev is a number that is not
      positive.

  Reference:
    Wu et al. (2018), arXiv:1811.09556.

  >>> state = kanerva.prior(jnp.array([[1.0, 0.0]]), 0.0)
  >>> sample_read(jax.random.key(0), state, jnp.ones(2)).weights.tolist()
  [0.5]
  """
  _check(weight_stddev=weight_stddev)
  weights = address(
    state,
    z,
    noise_variance=noise_variance,
    weight_variance=weight_variance,
    method=method,
  )
  normal = jax.random.normal(key, weights.shape, weights.dtype)
  drawn = weights + jnp.asarray(weight_stddev, weights.dtype) * normal
  return Reading(_product(drawn, state.mean), weights)


def retrieve(
  state: kanerva.State,
  x: jax.Array,
  encode: Callable[[jax.Array], jax.Array],
  decode: Callable[[jax.Array], jax.Array],
  log_likelihood: Callable[[jax.Array, jax.Array], jax.Array],
  *,
  num_steps: int,
  project: Callable[[jax.Array], jax.Array] = lambda x: x,
  noise_variance: float | jax.Array = 1.0,
  weight_variance: float | jax.Array = 1.0,
  weight_stddev: float | jax.Array = 0.3,
  method: Method = "ridge",
) -> Trajectory:
  """Reads again and again: x <- d(Rᵀ μ(e(x))), towards what was stored.

  V never rises where e and d are the identity and p(x | z) is N(z, σ² I).

  Args:
    state: the memory, which stays as it is.
    x: what to begin with, floats, [...].
    encode: e: x -> a code, [C].
    decode: d: a code -> the mode or the mean of p(x | z), as x.
    log_likelihood: of x and a code: ln p(x | z), [].
    num_steps: n, at least 1.
    project: of what is decoded, such as rounding to 0 and 1.
    noise_variance: σ², as of `address`.
    weight_variance: s_w², as of `address`.
    weight_stddev: σ_q, for V.
    method: as of `address`.

  Returns:
    The trajectory. One matrix is inverted for all of it.

  Raises:
    ValueError: as `address`, or if num_steps is not positive.

  Reference:
    Wu et al. (2018), arXiv:1811.09556.

  >>> state, same = kanerva.prior(jnp.eye(1, 2), 0.0), lambda x: x
  >>> x, of_code = jnp.array([2.0, 1.0]), lambda x, z: -jnp.sum((x - z) ** 2)
  >>> retrieve(state, x, same, same, of_code, num_steps=2).items.tolist()
  [[2.0, 1.0], [1.0, 0.0], [0.5, 0.0]]
  """
  _check(num_steps=num_steps)
  chex.assert_type(x, float)  # what is decoded is cast to its type
  system = _system(state, noise_variance, weight_variance, method)
  addresses = small_matrices.solve_by_inverse(*system)
  kl = functools.partial(weight_kl, weight_variance=weight_variance)

  def step(x, _):
    w = _product(addresses, encode(x))
    z = _product(w, state.mean)
    spread = kl(w, weight_stddev=weight_stddev)
    new = jnp.asarray(project(decode(z)), x.dtype)
    return new, (new, lyapunov(log_likelihood(x, z), spread))

  _, (items, values) = jax.lax.scan(step, x, length=num_steps)
  return Trajectory(jnp.concatenate([x[None], items]), values)


def lyapunov(log_px: jax.Array, kl_weights: jax.Array) -> jax.Array:
  """Values an item and its address: V = -(ln p(x | w, M) - KL(q(w) || p(w))).

  For a frozen memory both halves of a read lower it: the best address of x, and
  the best x at the address.

  Args:
    log_px: ln p(x | w, M), [].
    kl_weights: as from `weight_kl`, [].

  Returns:
    V, [].

  Reference:
    Wu et al. (2018), arXiv:1811.09556.

  >>> float(lyapunov(jnp.array(-3.0), jnp.array(1.0)))
  4.0
  """
  chex.assert_rank([log_px, kl_weights], 0)
  return kl_weights - log_px


def weight_kl(
  weights: jax.Array,
  *,
  weight_stddev: float | jax.Array = 0.3,
  weight_variance: float | jax.Array = 1.0,
) -> jax.Array:
  """Measures KL(N(μ, σ_q² I) || N(0, s_w² I)) of an address.

  ½ [K σ_q² / s_w² + |μ|² / s_w² - K - K ln(σ_q² / s_w²)].

  Args:
    weights: μ, [K].
    weight_stddev: σ_q, a standard deviation; positive.
    weight_variance: s_w², a variance; positive.

  Returns:
    The divergence, in nats, [].

  Raises:
    ValueError: if either is a number that is not positive.

  Reference:
    Wu et al. (2018), arXiv:1811.09556.

  >>> float(weight_kl(jnp.ones(4), weight_stddev=1.0))
  2.0
  """
  _check(weight_stddev=weight_stddev, weight_variance=weight_variance)
  chex.assert_rank(weights, 1)
  chex.assert_type(weights, float)
  variance = jnp.asarray(weight_variance, weights.dtype)
  ratio = jnp.square(jnp.asarray(weight_stddev, weights.dtype)) / variance
  squares = jnp.sum(jnp.square(weights)) / variance
  return 0.5 * (squares + weights.size * (ratio - 1 - jnp.log(ratio)))


def optimal_weight_stddev(
  state: kanerva.State,
  *,
  noise_variance: float | jax.Array = 1.0,
  weight_variance: float | jax.Array = 1.0,
) -> jax.Array:
  """Finds the σ_q with the best bound for codes that are N(Rᵀ w, σ² I).

  σ_q² = K / tr(I / s_w² + R Rᵀ / σ²): the paper learns it instead.

  Args:
    state: the memory.
    noise_variance: σ², of the code; positive.
    weight_variance: s_w², of p(w); positive.

  Returns:
    σ_q, [], the same for all codes.

  Raises:
    ValueError: if a variance is a number that is not positive.

  Reference:
    The bound is of Wu et al. (2018), arXiv:1811.09556; its maximum is ours.

  >>> state = kanerva.prior(jnp.array([[1.0, 1.0], [1.0, 3.0]]), 0.0)
  >>> float(optimal_weight_stddev(state, noise_variance=2.0))
  0.5
  """
  _check(noise_variance=noise_variance, weight_variance=weight_variance)
  chex.assert_rank(state.mean, 2)
  noise = jnp.asarray(noise_variance, state.mean.dtype)
  variance = jnp.asarray(weight_variance, state.mean.dtype)
  squares = jnp.sum(jnp.square(state.mean)) / len(state.mean)
  return 1 / jnp.sqrt(1 / variance + squares / noise)


def loss(
  log_px: jax.Array,
  kl_weights: jax.Array,
  kl_memory: jax.Array,
  autoencoder_log_px: jax.Array,
) -> tuple[jax.Array, LossTerms]:
  """Sums what is made small in training, in nats for an item.

  -1/T [Σ_t (ln p(x_t | w_t, M) - KL(q(w_t) || p(w))) - KL(q(M) || p(M))]
  - 1/T Σ_t ln p(x_t | d(e(x_t))). The last term, outside the bound, makes e and
  d inverses of each other.

  Args:
    log_px: ln p(x_t | w_t, M) of what was read, summed over an item's
      dimensions, [T].
    kl_weights: of the addresses that were read at, [T].
    kl_memory: of the whole episode, `kanerva.kl` of the memory after it
      to the prior, []; not a sum over `WriteInfo.kl_memory`.
    autoencoder_log_px: ln p(x_t | d(e(x_t))), [T].

  Returns:
    The loss, []; and its terms.

  Raises:
    ValueError: if T is 0.

  Reference:
    Wu et al. (2018), arXiv:1811.09556.

  >>> total, terms = loss(-jnp.ones(2), jnp.ones(2), jnp.ones(()), -jnp.ones(2))
  >>> float(total), float(terms.bound)
  (3.5, -2.5)
  """
  chex.assert_rank([log_px, kl_memory], [1, 0])
  chex.assert_equal_shape([log_px, kl_weights, autoencoder_log_px])
  if not len(log_px):
    raise ValueError("log_px has 0 items; give 1 or more.")
  of_memory = kl_memory / len(log_px)
  bound = log_px.mean() - kl_weights.mean() - of_memory
  autoencoder = autoencoder_log_px.mean()
  means = log_px.mean(), kl_weights.mean(), of_memory, autoencoder
  return -(bound + autoencoder), LossTerms(bound, *means)


def _check(**positive):
  for name, value in positive.items():
    if isinstance(value, numbers.Real) and not 0 < float(value) < math.inf:
      raise ValueError(f"{name} is {value}; it must be positive and finite.")
    chex.assert_rank(value, 0)
