"""Hopfield networks: associative memories that descend a quadratic energy.

Patterns and states have entries -1 and 1; three learning rules compute weights
from a set of patterns, and states are retrieved by asynchronous or synchronous
updates. The modern network has real-valued states and stores the patterns.

Units known to be uncorrupted can be clamped. Compare results only at equal
clamping: the errors published by Bartunov et al. (2020), who do not mention it
(unconfirmed), are reproduced only with clamping.

Concrete inputs, as opposed to those traced by `jit` or `vmap`, are checked to
be -1 and 1; for other traced values the formulas are applied as they are. Whole
numbers count as float32. All functions raise ValueError for arguments of
another shape than stated.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lilly import checks
from lilly.control import small_matrices
from lilly.memory import addressing

__all__ = [
  "Retrieval",
  "energy",
  "hebb",
  "modern_energy",
  "modern_retrieve",
  "pseudo_inverse",
  "retrieve_asynchronously",
  "retrieve_synchronously",
  "storkey",
]

_product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Retrieval(NamedTuple):
  """Result of a retrieval."""

  state: jax.Array  # s, [D], of -1 and 1
  num_sweeps: jax.Array  # updates of all units, including the final unchanged
  is_stable: jax.Array  # whether the last sweep changed nothing; NaN W: False


def hebb(patterns: jax.Array, *, zero_diagonal: bool = True) -> jax.Array:
  """Computes weights by Hebb's rule: W = 1/D Σ_i x_i x_iᵀ.

  Args:
    patterns: x_i, [N, D], of -1 and 1. A repeated pattern counts twice. Above
      N of about 0.14 D most are not retrieved, though W is still defined.
    zero_diagonal: whether to set W_jj to 0, as is needed for good retrieval.

  Returns:
    W, [D, D], symmetric.

  Raises:
    ValueError: if N or D is 0, or a concrete value is not -1 or 1.

  Reference:
    Hopfield (1982), PNAS 79:2554; scaled as in Bartunov et al. (2020),
    arXiv:1910.02720.

  >>> hebb(jnp.array([[1.0, -1.0]])).tolist()
  [[0.0, -0.5], [-0.5, 0.0]]
  """
  x, dtype = _checked_patterns(patterns)
  weights = _product(x.T, x) / x.shape[1]
  return _finished(weights, zero_diagonal, dtype)


def storkey(patterns: jax.Array) -> jax.Array:
  """Computes weights by Storkey's rule, one pattern at a time.

  W_ij <- W_ij + 1/D (x_i x_j - x_i h_ji - h_ij x_j),
  h_ij = Σ_{k≠i,j} W_ik x_k.

  Args:
    patterns: x, [N, D], of -1 and 1, in learning order, which matters. A
      repeated pattern changes W less.

  Returns:
    W, [D, D], symmetric with zero diagonal, which the other entries do not
    depend on.

  Raises:
    ValueError: as `hebb`.

  Reference:
    Storkey (1997), ICANN, as in Bartunov et al. (2020), arXiv:1910.02720, whose
    errors it does not reproduce exactly; the paper may use another variant
    (unconfirmed).

  >>> storkey(jnp.array([[1.0, -1.0]])).tolist()
  [[0.0, -0.5], [-0.5, 0.0]]
  """
  patterns, dtype = _checked_patterns(patterns)
  size = patterns.shape[1]

  def learn(weights, x):
    # W always has zero diagonal, so h only has to leave out W_ij x_j.
    field = _product(weights, x)[:, None] - weights * x[None]
    cross = field * x[None]
    change = x[:, None] * x[None] - (cross + cross.T)
    return _without_diagonal(weights + change / size), None

  start = jnp.zeros((size, size), patterns.dtype)
  return jax.lax.scan(learn, start, patterns)[0].astype(dtype)


def pseudo_inverse(
  patterns: jax.Array, *, zero_diagonal: bool = True, ridge: float = 1e-4
) -> jax.Array:
  """Computes the projection onto the span of patterns: W = Xᵀ (X Xᵀ)⁻¹ X.

  Up to D linearly independent patterns are stable; as N approaches D, W
  approaches a diagonal matrix.

  Args:
    patterns: X, [N, D], of -1 and 1. Repeated patterns count once; with more
      than D, W is close to the identity.
    zero_diagonal: whether to set W_jj to 0. At N = D patterns are stable only
      with the diagonal.
    ridge: multiplied by D and added to the diagonal of X Xᵀ. At 0 patterns must
      be linearly independent, otherwise W is NaN.

  Returns:
    W, [D, D], symmetric. Time is O(min(N, D)³ + N D²).

  Raises:
    ValueError: as `hebb`, or if the ridge is known to be negative or infinite.

  Reference:
    Personnaz, Guyon and Dreyfus (1985), Journal de Physique Lettres 46:L359;
    the ridge is ours.

  >>> X = jnp.array([[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, -1.0, -1.0]])
  >>> pseudo_inverse(X, zero_diagonal=False, ridge=0.0)[0].tolist()
  [0.5, 0.5, 0.0, 0.0]
  """
  share = checks.number("ridge", ridge, least=0)
  x, dtype = _checked_patterns(patterns)
  count, size = x.shape
  is_wide = count <= size
  # The smaller of X Xᵀ and Xᵀ X: the other one is singular.
  gram = _product(x, x.T) if is_wide else _product(x.T, x)
  share = jnp.asarray(share, x.dtype)
  matrix = gram / size + share * jnp.eye(len(gram), dtype=x.dtype)
  right = x if is_wide else gram
  solved = small_matrices.solve_by_inverse(matrix, right) / size
  weights = _product(x.T, solved) if is_wide else solved
  return _finished(0.5 * (weights + weights.T), zero_diagonal, dtype)


def _finished(weights, zero_diagonal, dtype):
  weights = _without_diagonal(weights) if zero_diagonal else weights
  return weights.astype(dtype)


def _without_diagonal(weights):
  return weights * (1 - jnp.eye(len(weights), dtype=weights.dtype))


def energy(weights: jax.Array, state: jax.Array) -> jax.Array:
  """Computes the energy of a state: E = -½ sᵀ W s.

  If W is symmetric with a non-negative diagonal, no single-unit update raises
  it.

  Args:
    weights: W, [D, D].
    state: s, [D].

  Returns:
    E, [].

  Reference:
    Hopfield (1982), PNAS 79:2554.

  >>> W = hebb(jnp.array([[1.0, -1.0]]))
  >>> float(energy(W, jnp.array([1.0, -1.0]))), float(energy(W, jnp.ones(2)))
  (-0.5, 0.5)
  """
  sizes = {}
  weights = checks.real("weights", weights, "D D", sizes)
  state = checks.real("state", state, "D", sizes)
  dtype = jnp.result_type(weights, state)
  wide = jnp.promote_types(dtype, jnp.float32)  # partial sums exceed the energy
  weights, state = weights.astype(wide), state.astype(wide)
  value = -0.5 * _product(state, _product(weights, state))
  return value.astype(dtype)


def retrieve_asynchronously(
  key: jax.Array,
  weights: jax.Array,
  query: jax.Array,
  *,
  clamped: jax.Array | None = None,
  max_sweeps: int = 100,
) -> Retrieval:
  """Updates units one at a time in random order until none changes.

  s_i <- sign(Σ_j W_ij s_j); s_i is kept if the sum is 0. Each sweep draws a new
  order. It converges if W is symmetric with a non-negative diagonal. It has no
  gradient.

  Args:
    key: typed PRNG key.
    weights: W, [D, D].
    query: initial state s, [D], of -1 and 1.
    clamped: mask of the units to keep fixed, bool [D]; None means none.
    max_sweeps: maximum number of sweeps over all units.

  Returns:
    The state, with the dtype of `query`; the number of sweeps; and whether the
    state is stable.

  Raises:
    ValueError: if max_sweeps is not a positive whole number, or a concrete
      value of the query is not -1 or 1.

  Reference:
    Hopfield (1982), PNAS 79:2554. Clamping is inferred from the results of
    Bartunov et al. (2020), arXiv:1910.02720 (unconfirmed).

  >>> W, key = hebb(jnp.array([[1, -1, 1, 1]])), jax.random.key(0)
  >>> retrieve_asynchronously(key, W, jnp.array([1, 1, 1, 1])).state.tolist()
  [1, -1, 1, 1]
  """
  key = checks.key("key", key)
  weights, query, is_free = _checked_query(weights, query, clamped)

  def update(state, i):
    new = _sign(_product(weights[i], state), state[i])
    return state.at[i].set(jnp.where(is_free[i], new, state[i])), None

  def sweep(key, state):
    key, key_order = jax.random.split(key)
    order = jax.random.permutation(key_order, len(state))
    return key, jax.lax.scan(update, state, order)[0]

  return _settle(sweep, key, weights, query, max_sweeps)


def retrieve_synchronously(
  weights: jax.Array,
  query: jax.Array,
  *,
  clamped: jax.Array | None = None,
  max_sweeps: int = 100,
) -> Retrieval:
  """Updates all units at once until none changes.

  s <- sign(W s). It may reach a cycle of two states, which is never stable. It
  has no gradient.

  Args:
    weights: W, [D, D].
    query: initial state s, [D], of -1 and 1.
    clamped: mask of the units to keep fixed, bool [D]; None means none.
    max_sweeps: maximum number of updates.

  Returns:
    The state, with the dtype of `query`; the number of updates; and whether the
    state is stable.

  Raises:
    ValueError: as `retrieve_asynchronously`.

  Reference:
    Little (1974), Mathematical Biosciences 19:101, without noise.

  >>> W = hebb(jnp.array([[1.0, -1.0, 1.0, 1.0]]))
  >>> retrieve_synchronously(W, jnp.array([1.0, 1.0, 1.0, 1.0])).state.tolist()
  [1.0, -1.0, 1.0, 1.0]
  """
  weights, query, is_free = _checked_query(weights, query, clamped)

  def sweep(_, state):
    new = _sign(_product(weights, state), state)
    return None, jnp.where(is_free, new, state)

  return _settle(sweep, None, weights, query, max_sweeps)


def _sign(field, state):
  """The sign of the field; the old state if the field is 0 or NaN."""
  return jnp.where(field > 0, 1, jnp.where(field < 0, -1, state))


def _settle(sweep, key, weights, query, max_sweeps):
  """Sweeps until nothing changes or max_sweeps is reached."""
  max_sweeps = checks.whole_number("max_sweeps", max_sweeps, least=1)
  is_known = ~jnp.isnan(weights).any()

  def step(carry):
    key, found = carry
    key, state = sweep(key, found.state)
    is_stable = is_known & jnp.all(state == found.state)
    return key, Retrieval(state, found.num_sweeps + 1, is_stable)

  def goes_on(carry):
    _, found = carry
    return ~found.is_stable & (found.num_sweeps < max_sweeps)

  state = query.astype(jnp.promote_types(weights.dtype, jnp.float32))
  start = Retrieval(state, jnp.zeros((), jnp.int32), jnp.zeros((), bool))
  _, found = jax.lax.while_loop(goes_on, step, (key, start))
  return found._replace(state=found.state.astype(query.dtype))


def modern_energy(
  patterns: jax.Array,
  state: jax.Array,
  *,
  inverse_temperature: float | jax.Array = 1.0,
) -> jax.Array:
  """Computes the energy of a state of the modern network.

  E = -1/β ln Σ_i exp(β x_i·ξ) + ½ |ξ|² + 1/β ln N + ½ max_i |x_i|².

  Args:
    patterns: x_i, [N, D], real-valued.
    state: ξ, [D].
    inverse_temperature: β, positive and finite.

  Returns:
    E, [], non-negative. Longest patterns of equal length share the gradient of
    the last term.

  Raises:
    ValueError: if N or D is 0, or β is known not to be positive and finite.

  Reference:
    Ramsauer et al. (2021), arXiv:2008.02217, equation 2.

  >>> float(modern_energy(jnp.array([[2.0, 0.0]]), jnp.array([1.0, 0.0])))
  0.5
  """
  sizes = {}
  patterns = checks.real("patterns", patterns, "N D", sizes)
  state = checks.real("state", state, "D", sizes)
  _check_sizes(patterns)
  beta = _checked_beta(inverse_temperature, state.dtype)
  scores = jax.nn.logsumexp(beta * _product(patterns, state)) / beta
  longest = jnp.max(jnp.sum(jnp.square(patterns), axis=1))
  squares = 0.5 * (jnp.sum(jnp.square(state)) + longest)
  return (
    squares + jnp.log(jnp.asarray(len(patterns), state.dtype)) / beta - scores
  )


def modern_retrieve(
  patterns: jax.Array,
  query: jax.Array,
  *,
  inverse_temperature: float | jax.Array = 1.0,
  num_steps: int = 1,
  clamped: jax.Array | None = None,
) -> jax.Array:
  """Retrieves by attention to the patterns: ξ <- Xᵀ softmax(β X ξ).

  No step increases `modern_energy`, with or without clamping.

  Args:
    patterns: stored patterns X, [N, D], real-valued. A repeated pattern counts
      twice; N is not limited.
    query: initial state ξ, [D].
    inverse_temperature: β, positive and finite. A large β retrieves the most
      similar pattern, a small one an average.
    num_steps: number of updates, non-negative.
    clamped: mask of the entries to keep fixed, bool [D]; None means none.

  Returns:
    ξ, [D].

  Raises:
    ValueError: as `modern_energy`, or if num_steps is negative or no whole
      number.

  Reference:
    Ramsauer et al. (2021), arXiv:2008.02217, equation 3; clamping is ours.

  >>> X = jnp.array([[1.0, 0.0], [0.0, 1.0]])
  >>> modern_retrieve(X, jnp.array([0.5, 0.5])).tolist()
  [0.5, 0.5]
  """
  sizes = {}
  patterns = checks.real("patterns", patterns, "N D", sizes)
  query = checks.real("query", query, "D", sizes)
  query = query.astype(query.dtype)  # no longer weakly typed
  _check_sizes(patterns)
  num_steps = checks.whole_number("num_steps", num_steps)
  is_free = _free(clamped, sizes)
  beta = _checked_beta(inverse_temperature, query.dtype)

  def step(state, _):
    similarity = lambda query, words: _product(words, query)
    weights = addressing.content_weights(
      state, patterns, beta, similarity=similarity
    )
    new = addressing.weighted_sum(weights, patterns)
    return jnp.where(is_free, new.astype(query.dtype), query), None

  return jax.lax.scan(step, query, length=num_steps)[0]


def _checked_beta(inverse_temperature, dtype):
  beta = checks.number("inverse_temperature", inverse_temperature, above=0)
  return jnp.asarray(beta, dtype)


def _check_sizes(patterns):
  for name, size in zip(("items", "units"), patterns.shape, strict=True):
    if not size:
      raise ValueError(f"patterns has 0 {name}; give 1 or more.")


def _checked_patterns(patterns):
  """Patterns in a dtype wide enough for sums, and the dtype of the weights."""
  patterns = checks.real("patterns", patterns, "N D")
  _check_sizes(patterns)
  _check_signs("patterns", patterns)
  dtype = patterns.dtype
  return patterns.astype(jnp.promote_types(dtype, jnp.float32)), dtype


def _checked_query(weights, query, clamped):
  """Weights, a query, and a mask of the units that are not clamped."""
  sizes = {}
  weights = checks.real("weights", weights, "D D", sizes)
  query = checks.array("query", query, "D", sizes)
  _check_signs("query", query)
  return weights, query, _free(clamped, sizes)


def _free(clamped, sizes):
  if clamped is None:
    size, _ = sizes["D"]
    return jnp.ones(size, bool)
  return ~checks.mask("clamped", clamped, "D", sizes)


def _check_signs(name, x):
  """Checks concrete values; traced ones cannot be checked."""
  try:
    values = np.asarray(x, np.float64)
  except jax.errors.TracerArrayConversionError:
    return
  other = values[np.abs(values) != 1]
  if other.size:
    raise ValueError(f"{name} holds {other[0]}; it must hold only -1 and 1.")
