"""The Dynamic Kanerva Machine: a memory that infers its addresses.

The memory and its write are those of `kanerva`. The address of an item is the
one whose read best reconstructs the item's code: a small ridge regression, at
every write and every read. Reads can be iterated, which completes and denoises
the query: iterate on decoded items, since codes alone decay to 0, and round
them if they are probabilities, which otherwise drift.

The memory can degenerate in two ways. If K >= C its rows span all codes and any
memory reproduces any code: choose K < C. If R is 0 every address is 0, nothing
is ever written and gradients are 0: initialise the prior's mean randomly. Where
R is known, as outside `jit`, one of zeros is an error; `WriteInfo.is_written`
says whether items were written in any case.

Whole numbers count as float32. All functions raise ValueError for arguments of
another shape than stated.
"""

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from lilly import checks
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
  """Per-item statistics of writing an episode."""

  weights: jax.Array  # addresses μ_t, [T, K]
  kl_weights: jax.Array  # KL(q(w_t) || p(w)), [T]
  kl_memory: jax.Array  # KL of the memory after item t from that before, [T]
  is_written: jax.Array  # False where μ_t is 0, as of a memory of zeros, [T]


class Reading(NamedTuple):
  """A code read from memory, and the address it was read at."""

  code: jax.Array  # [C]
  weights: jax.Array  # μ, [K]: the mean address, also if w was sampled


class Trajectory(NamedTuple):
  """An item over iterated reads."""

  items: jax.Array  # x_0 .. x_n, [n + 1, ...]
  lyapunov: jax.Array  # V at x_t and its address, t < n, [n]


class LossTerms(NamedTuple):
  """Terms of the loss: means over items, in nats."""

  bound: jax.Array  # log_likelihood - kl_weights - kl_memory, []
  log_likelihood: jax.Array  # ln p(x | w, M), []
  kl_weights: jax.Array  # []
  kl_memory: jax.Array  # the episode's, divided by T, []
  autoencoder: jax.Array  # ln p(x | d(e(x))), []


def address(
  state: kanerva.State,
  z: jax.Array,
  *,
  noise_variance: float | jax.Array = 1.0,
  weight_variance: float | jax.Array = 1.0,
  method: Method = "ridge",
) -> jax.Array:
  """Infers the address of a code: the mean of q(w).

  μ = (G + λ I)⁻¹ R z,  G = R Rᵀ,  λ = σ² / s_w².

  Args:
    state: the memory; R must not be 0, since then μ is 0.
    z: code, [C].
    noise_variance: σ², observation noise of the code; positive.
    weight_variance: s_w², variance of the prior p(w); positive.
    method: "ridge": the paper's, as above, the mean of p(w | z, M) at M = R;
      "squared": (G² + λ I)⁻¹ G R z, as the authors' released module, which
      passes the normal equations to a solver that squares them; "mean_field":
      (G + C U + λ I)⁻¹ R z, which accounts for the uncertainty of M: only with
      it do address and write both ascend a common bound.

  Returns:
    μ, [K]. Under `vmap` over codes alone one matrix is inverted, O(K³). NaN if
    rows are linearly dependent and λ is lost to rounding next to G.

  Raises:
    ValueError: if the method is unknown, a variance is known not to be positive
      and finite, or R is known to be 0.

  Reference:
    Wu et al. (2018), arXiv:1811.09556; "mean_field" is ours.

  >>> state = kanerva.prior(jnp.array([[1.0, 0.0]]), 0.0)
  >>> address(state, jnp.array([3.0, 1.0])).tolist()
  [1.5]
  """
  sizes = {}
  state = _checked_state(state, sizes)
  z = checks.real("z", z, "C", sizes)
  matrix, right = _system(state, noise_variance, weight_variance, method)
  return small_matrices.solve_by_inverse(matrix, _product(right, z))


def _system(state, noise_variance, weight_variance, method):
  """The matrix A and the right side B of μ = A⁻¹ B z."""
  noise = checks.number("noise_variance", noise_variance, above=0)
  variance = checks.number("weight_variance", weight_variance, above=0)
  mean, cov = state
  gram = matrix = _product(mean, mean.T)
  right = mean
  if method == "squared":
    matrix, right = _product(gram, gram), _product(gram, mean)
  elif method == "mean_field":
    matrix = gram + mean.shape[1] * cov
  elif method != "ridge":
    allowed = "ridge, squared or mean_field"
    raise ValueError(f"method is {method!r}; it must be {allowed}.")
  strength = jnp.asarray(noise / variance, mean.dtype)
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
  """Writes an episode, inferring each item's address from the memory so far.

  For each item, `num_iterations` times: infer its address, from the memory with
  the item (at first without it), and write it there, to the memory without it.
  So each item is written once. The order of items matters.

  Args:
    state: the memory; R must not be 0.
    values: codes z_t, [T, C].
    noise_variance: σ², of the codes; positive.
    weight_variance: s_w², of p(w); positive.
    weight_stddev: σ_q, standard deviation of q(w), used only in its KL; items
      are written at μ.
    num_iterations: address updates per item, at least 1.
    method: see `address`.

  Returns:
    The memory, and statistics. Time is O(T (K³ + K² C)) per iteration.

  Raises:
    ValueError: as `address`, if T is 0, num_iterations is not a positive whole
      number, or weight_stddev is known not to be positive and finite.

  Reference:
    Wu et al. (2018), arXiv:1811.09556.

  >>> state = kanerva.prior(jnp.ones((1, 2)), 0.0)
  >>> state, info = write(state, jnp.array([[2.0, 1.0]]))
  >>> info.weights.tolist(), state.mean.tolist()
  ([[1.0]], [[1.5, 1.0]])
  """
  sizes = {}
  state = _checked_state(state, sizes)
  values = checks.real("values", values, "T C", sizes)
  if not len(values):
    raise ValueError("values has 0 items; give 1 or more.")
  count = checks.whole_number("num_iterations", num_iterations, least=1)
  find = functools.partial(
    address,
    noise_variance=noise_variance,
    weight_variance=weight_variance,
    method=method,
  )

  def step(state, z):
    new, w = _write_item(state, z, find, noise_variance, count)
    spread = weight_kl(
      w, weight_stddev=weight_stddev, weight_variance=weight_variance
    )
    moved = kanerva.step_kl(state, w, z, noise_variance=noise_variance)
    return new, WriteInfo(w, spread, moved, jnp.any(w != 0))

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
  """Reads the memory's reconstruction of a code: Rᵀ μ.

  Args:
    state: the memory.
    z: code, [C].
    noise_variance: σ², see `address`.
    weight_variance: s_w², see `address`.
    method: see `address`.

  Returns:
    The code read, and μ.

  Raises:
    ValueError: as `address`.

  Reference:
    Wu et al. (2018), arXiv:1811.09556.

  >>> state = kanerva.prior(jnp.array([[1.0, 0.0]]), 0.0)
  >>> read(state, jnp.array([3.0, 1.0])).code.tolist()
  [1.5, 0.0]
  """
  state = _checked_state(state, {})
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
  """Reads at a sampled address: Rᵀ w,  w ~ N(μ, σ_q² I).

  Args:
    key: typed PRNG key.
    state: the memory.
    z: code, [C].
    weight_stddev: σ_q, standard deviation of q(w).
    noise_variance: σ², see `address`.
    weight_variance: s_w², see `address`.
    method: see `address`.

  Returns:
    The code read, and μ (not w), the input of `weight_kl`.

  Raises:
    ValueError: as `address`, or if weight_stddev is known not to be positive
      and finite.

  Reference:
    Wu et al. (2018), arXiv:1811.09556.

  >>> state = kanerva.prior(jnp.array([[1.0, 0.0]]), 0.0)
  >>> sample_read(jax.random.key(0), state, jnp.ones(2)).weights.tolist()
  [0.5]
  """
  key = checks.key("key", key)
  state = _checked_state(state, {})
  stddev = checks.number("weight_stddev", weight_stddev, above=0)
  weights = address(
    state,
    z,
    noise_variance=noise_variance,
    weight_variance=weight_variance,
    method=method,
  )
  normal = jax.random.normal(key, weights.shape, weights.dtype)
  drawn = weights + jnp.asarray(stddev, weights.dtype) * normal
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
  """Iterates reads: x <- d(Rᵀ μ(e(x))), to converge to a stored item.

  V never rises where e and d are the identity and p(x | z) is N(z, σ² I).

  Args:
    state: the memory; not modified.
    x: initial query, [...].
    encode: encoder e: x -> code, [C].
    decode: decoder d: code -> mode or mean of p(x | z), shaped as x.
    log_likelihood: ln p(x | z) of an item x and a code z, [].
    num_steps: number of reads n, at least 1.
    project: applied to each decoded item, e.g. rounding to 0 and 1.
    noise_variance: σ², see `address`.
    weight_variance: s_w², see `address`.
    weight_stddev: σ_q, for V.
    method: see `address`.

  Returns:
    The trajectory. Only one matrix is inverted in total.

  Raises:
    ValueError: as `address`, if num_steps is not a positive whole number, or
      weight_stddev is known not to be positive and finite.

  Reference:
    Wu et al. (2018), arXiv:1811.09556.

  >>> state, same = kanerva.prior(jnp.eye(1, 2), 0.0), lambda x: x
  >>> x, of_code = jnp.array([2.0, 1.0]), lambda x, z: -jnp.sum((x - z) ** 2)
  >>> retrieve(state, x, same, same, of_code, num_steps=2).items.tolist()
  [[2.0, 1.0], [1.0, 0.0], [0.5, 0.0]]
  """
  sizes = {}
  state = _checked_state(state, sizes)
  x = checks.real("x", x, "...")
  x = x.astype(x.dtype)  # decoded items are cast to its dtype
  num_steps = checks.whole_number("num_steps", num_steps, least=1)
  system = _system(state, noise_variance, weight_variance, method)
  addresses = small_matrices.solve_by_inverse(*system)
  kl = functools.partial(weight_kl, weight_variance=weight_variance)

  def step(x, _):
    code = checks.real("encode(x)", encode(x), "C", sizes)
    w = _product(addresses, code)
    z = _product(w, state.mean)
    spread = kl(w, weight_stddev=weight_stddev)
    new = jnp.asarray(project(decode(z)), x.dtype)
    return new, (new, lyapunov(log_likelihood(x, z), spread))

  _, (items, values) = jax.lax.scan(step, x, length=num_steps)
  return Trajectory(jnp.concatenate([x[None], items]), values)


def lyapunov(log_px: jax.Array, kl_weights: jax.Array) -> jax.Array:
  """Computes the energy V = -(ln p(x | w, M) - KL(q(w) || p(w))).

  For a fixed memory both halves of a read lower it: inferring the address of x,
  and decoding x at the address.

  Args:
    log_px: ln p(x | w, M), [].
    kl_weights: KL(q(w) || p(w)), see `weight_kl`, [].

  Returns:
    V, [].

  Reference:
    Wu et al. (2018), arXiv:1811.09556.

  >>> float(lyapunov(jnp.array(-3.0), jnp.array(1.0)))
  4.0
  """
  log_px = checks.real("log_px", log_px, "")
  kl_weights = checks.real("kl_weights", kl_weights, "")
  return kl_weights - log_px


def weight_kl(
  weights: jax.Array,
  *,
  weight_stddev: float | jax.Array = 0.3,
  weight_variance: float | jax.Array = 1.0,
) -> jax.Array:
  """Computes KL(N(μ, σ_q² I) || N(0, s_w² I)) of an address.

  ½ [K σ_q² / s_w² + |μ|² / s_w² - K - K ln(σ_q² / s_w²)].

  Args:
    weights: μ, [K].
    weight_stddev: σ_q, standard deviation of q(w); positive.
    weight_variance: s_w², variance of p(w); positive.

  Returns:
    The divergence, in nats, [].

  Raises:
    ValueError: if either is known not to be positive and finite.

  Reference:
    Wu et al. (2018), arXiv:1811.09556.

  >>> float(weight_kl(jnp.ones(4), weight_stddev=1.0))
  2.0
  """
  weights = checks.real("weights", weights, "K")
  stddev = checks.number("weight_stddev", weight_stddev, above=0)
  variance = checks.number("weight_variance", weight_variance, above=0)
  variance = jnp.asarray(variance, weights.dtype)
  ratio = jnp.square(jnp.asarray(stddev, weights.dtype)) / variance
  squares = jnp.sum(jnp.square(weights)) / variance
  return 0.5 * (squares + weights.size * (ratio - 1 - jnp.log(ratio)))


def optimal_weight_stddev(
  state: kanerva.State,
  *,
  noise_variance: float | jax.Array = 1.0,
  weight_variance: float | jax.Array = 1.0,
) -> jax.Array:
  """Computes the σ_q that maximises the bound for codes from N(Rᵀ w, σ² I).

  σ_q² = K / tr(I / s_w² + R Rᵀ / σ²); the paper learns it instead.

  Args:
    state: the memory.
    noise_variance: σ², observation noise of the code; positive.
    weight_variance: s_w², variance of p(w); positive.

  Returns:
    σ_q, [], the same for all codes.

  Raises:
    ValueError: if a variance is known not to be positive and finite.

  Reference:
    The bound is from Wu et al. (2018), arXiv:1811.09556; its maximum is ours.

  >>> state = kanerva.prior(jnp.array([[1.0, 1.0], [1.0, 3.0]]), 0.0)
  >>> float(optimal_weight_stddev(state, noise_variance=2.0))
  0.5
  """
  sizes = {}
  mean = checks.real("state.mean", state.mean, "K C", sizes)
  checks.real("state.cov", state.cov, "K K", sizes)
  noise = checks.number("noise_variance", noise_variance, above=0)
  variance = checks.number("weight_variance", weight_variance, above=0)
  noise = jnp.asarray(noise, mean.dtype)
  variance = jnp.asarray(variance, mean.dtype)
  squares = jnp.sum(jnp.square(mean)) / len(mean)
  return 1 / jnp.sqrt(1 / variance + squares / noise)


def loss(
  log_px: jax.Array,
  kl_weights: jax.Array,
  kl_memory: jax.Array,
  autoencoder_log_px: jax.Array,
) -> tuple[jax.Array, LossTerms]:
  """Computes the training loss, in nats per item.

  -1/T [Σ_t (ln p(x_t | w_t, M) - KL(q(w_t) || p(w))) - KL(q(M) || p(M))]
  - 1/T Σ_t ln p(x_t | d(e(x_t))). The last term, which is not part of the
  bound, trains e and d to be inverses of each other.

  Args:
    log_px: ln p(x_t | w_t, M) of the reads, summed over an item's dimensions,
      [T].
    kl_weights: KL(q(w_t) || p(w)) of the addresses that were read, [T].
    kl_memory: `kanerva.kl` of the memory after the whole episode from the
      prior, []; not the sum of `WriteInfo.kl_memory`.
    autoencoder_log_px: ln p(x_t | d(e(x_t))), [T].

  Returns:
    The loss, [], and its terms.

  Raises:
    ValueError: if T is 0.

  Reference:
    Wu et al. (2018), arXiv:1811.09556.

  >>> total, terms = loss(-jnp.ones(2), jnp.ones(2), jnp.ones(()), -jnp.ones(2))
  >>> float(total), float(terms.bound)
  (3.5, -2.5)
  """
  sizes = {}
  log_px = checks.real("log_px", log_px, "T", sizes)
  kl_weights = checks.real("kl_weights", kl_weights, "T", sizes)
  kl_memory = checks.real("kl_memory", kl_memory, "")
  autoencoder = checks.real(
    "autoencoder_log_px", autoencoder_log_px, "T", sizes
  ).mean()
  if not len(log_px):
    raise ValueError("log_px has 0 items; give 1 or more.")
  of_memory = kl_memory / len(log_px)
  bound = log_px.mean() - kl_weights.mean() - of_memory
  means = log_px.mean(), kl_weights.mean(), of_memory, autoencoder
  return -(bound + autoencoder), LossTerms(bound, *means)


def _checked_state(state, sizes):
  """Checks a memory from which addresses are inferred."""
  mean = checks.real("state.mean", state.mean, "K C", sizes)
  cov = checks.real("state.cov", state.cov, "K K", sizes)
  dtype = jnp.result_type(mean, cov)
  try:
    is_zero = mean.is_fully_addressable and not jnp.any(mean)
  except jax.errors.ConcretizationTypeError:  # while tracing
    is_zero = False
  if is_zero:
    raise ValueError("state.mean is 0; addresses are found only if it is not.")
  return kanerva.State(mean.astype(dtype), cov.astype(dtype))
