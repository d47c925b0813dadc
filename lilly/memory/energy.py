"""Energy-based memory: patterns are stored in the weights of a network.

E(x; θ) is low at stored patterns. Writing is gradient descent in θ on a loss of
a set of patterns, starting from meta-learned weights θ̄; reading is gradient
descent in x on the energy, starting from a query. Both loops are
differentiable: θ̄, all rates and any other parameters of the energy are trained
end to end on the reconstruction error.

θ contains only the weights that are written; bind all others to the energy,
e.g. with `functools.partial`, and gradients reach them. Activations must be
smooth, since second derivatives are taken and those of a ReLU vanish. `write`
and `read` use `lax.scan`: compile time is independent of the number of steps.

Patterns may have any number of axes. Whole numbers count as float32. All
functions raise ValueError for arguments of another shape than stated.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lilly import checks

__all__ = [
  "Energy",
  "ReadRates",
  "WriteRates",
  "WritingTerms",
  "decay_rates",
  "error_bits",
  "loss",
  "read",
  "read_rates",
  "reconstruction_loss",
  "write",
  "write_rates",
  "writing_terms",
]

Energy = Callable[[Any, jax.Array], jax.Array]  # (θ, x) -> E, []


class WriteRates(NamedTuple):
  """Logits ρ of learning rates, softplus(ρ), per loss term and part of θ.

  Trees shaped as θ or, for one rate per layer, a prefix of it. Leaves are [],
  or [num_steps] for one rate per step. A term that is None is left out.
  """

  energy: Any
  gradient_norm: Any  # second-order, the expensive one
  prior: Any


class ReadRates(NamedTuple):
  """Parameters of γ_1 .. γ_K and ψ_1 .. ψ_K, see `decay_rates`."""

  step_size: jax.Array  # γ_1, []
  step_size_logits: jax.Array  # [K - 1]
  momentum: jax.Array  # ψ_1, []
  momentum_logits: jax.Array  # [K - 1]


class WritingTerms(NamedTuple):
  """Terms of the writing loss: means over patterns."""

  energy: jax.Array  # E(x; θ), []
  gradient_norm: jax.Array  # |∇_x E(x; θ)|², []
  prior: jax.Array  # |θ - θ̄|², []


def write_rates(
  layers: Any,
  *,
  initial: float = 1e-4,
  dtype: jax.typing.DTypeLike = jnp.float32,
) -> WriteRates:
  """Creates learning rates for the three terms, all with the same value.

  Args:
    layers: a tree that sets the structure of ρ, one rate per leaf: θ for one
      rate per array, or a tree whose leaves are θ's layers for one per layer.
    initial: the rate, softplus(ρ); positive, and a normal number of `dtype`.
      With few updates the paper's 1e-4 learns little; 0.1 to 0.3 learns faster.
    dtype: data type of ρ.

  Returns:
    ρ.

  Raises:
    ValueError: if `initial` is out of range.

  Reference:
    Bartunov et al. (2020), arXiv:1910.02720, appendix C.

  >>> rates = write_rates({"w": jnp.ones(3)}, initial=0.5)
  >>> f"{jax.nn.softplus(rates.prior['w']):.2f}"
  '0.50'
  """
  initial = float(checks.number("initial", initial, above=0))
  limits = jnp.finfo(dtype)
  if not float(limits.tiny) <= initial <= float(limits.max):
    raise ValueError(
      f"initial is {initial}; it must be positive and finite, from "
      f"{float(limits.tiny):.2g} to {float(limits.max):.2g}."
    )
  logit = initial + math.log(-math.expm1(-initial))  # inverse softplus
  term = lambda: jax.tree.map(lambda _: jnp.asarray(logit, dtype), layers)
  return WriteRates(term(), term(), term())


def read_rates(
  num_steps: int,
  *,
  step_size: float = 0.5,
  momentum: float = 0.5,
  decay: float = 0.9,
  dtype: jax.typing.DTypeLike = jnp.float32,
) -> ReadRates:
  """Creates the rates of K reading steps.

  Args:
    num_steps: number of reading steps K, at least 1.
    step_size: γ_1, non-negative and finite.
    momentum: ψ_1, in [0, 1].
    decay: initial ratio γ_k / γ_{k-1} and ψ_k / ψ_{k-1}, in (0, 1).
    dtype: data type of the rates.

  Returns:
    The rates.

  Raises:
    ValueError: if an argument is out of range.

  Reference:
    Bartunov et al. (2020), arXiv:1910.02720, appendix; initial values are ours.

  >>> read_rates(3, decay=0.5).step_size_logits.tolist()
  [0.0, 0.0]
  """
  num_steps = checks.whole_number("num_steps", num_steps, least=1)
  most = float(jnp.finfo(dtype).max)
  step_size = checks.number("step_size", step_size, least=0, most=most)
  momentum = checks.number("momentum", momentum, least=0, most=1)
  decay = checks.number("decay", decay, above=0, below=1)
  logit = math.log(decay) - math.log1p(-decay)
  logits = lambda: jnp.full(num_steps - 1, logit, dtype)
  first = lambda rate: jnp.asarray(rate, dtype)
  return ReadRates(first(step_size), logits(), first(momentum), logits())


def decay_rates(first: jax.Array, logits: jax.Array) -> jax.Array:
  """Computes a non-increasing schedule: γ_k = γ_{k-1} σ(η_k).

  Args:
    first: γ_1, [].
    logits: η_2 .. η_K, [K - 1].

  Returns:
    γ_1 .. γ_K, [K].

  Reference:
    Bartunov et al. (2020), arXiv:1910.02720, appendix.

  >>> decay_rates(jnp.array(0.5), jnp.zeros(2)).tolist()
  [0.5, 0.25, 0.125]
  """
  first = checks.real("first", first, "")
  logits = checks.real("logits", logits, "L")
  first = jnp.asarray(first, logits.dtype)

  def step(rate, factor):  # the derivative of cumprod would be unrolled
    rate = rate * factor
    return rate, rate

  _, later = jax.lax.scan(step, first, jax.nn.sigmoid(logits))
  return jnp.append(first, later)


def writing_terms(
  params: Any,
  prior_params: Any,
  patterns: jax.Array,
  energy: Energy,
) -> WritingTerms:
  """Computes the terms of the writing loss.

  W = E(x; θ) + α |∇_x E(x; θ)|² + β |θ - θ̄|². Writing uses one learning rate
  per term in place of α and β.

  Args:
    params: θ, a tree of arrays.
    prior_params: θ̄, the initial weights, shaped as θ.
    patterns: x_i, [N, ...].
    energy: E(θ, x).

  Returns:
    The terms.

  Raises:
    ValueError: if N is 0.

  Reference:
    Bartunov et al. (2020), arXiv:1910.02720.

  >>> energy, x = lambda theta, x: theta * jnp.sum(x**2), jnp.ones((1, 2))
  >>> [float(y) for y in writing_terms(jnp.array(2.0), jnp.ones(()), x, energy)]
  [4.0, 32.0, 1.0]
  """
  params = _checked_params("params", params)
  prior_params = _checked_params("prior_params", prior_params)
  if jax.tree.map(jnp.shape, prior_params) != jax.tree.map(jnp.shape, params):
    raise ValueError(
      "prior_params differs from params in its shapes (unbatched: vmap over "
      "further axes)."
    )
  patterns = _checked_patterns("patterns", patterns, {})
  energy = _checked_energy(energy)
  slopes = _slopes(params, patterns, energy)
  squares = jnp.sum(jnp.square(slopes)) / len(patterns)
  moved = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), params, prior_params)
  mean_energy = _mean_energy(params, patterns, energy)
  prior = jax.tree.reduce(jnp.add, moved)
  return WritingTerms(mean_energy, squares, prior)


def _mean_energy(params, patterns, energy):
  return jnp.mean(jax.vmap(energy, in_axes=(None, 0))(params, patterns))


def _slopes(params, patterns, energy):
  """Computes ∇_x E at each pattern."""
  return jax.vmap(jax.grad(energy, argnums=1), (None, 0))(params, patterns)


def write(
  params: Any,
  patterns: jax.Array,
  energy: Energy,
  rates: WriteRates,
  *,
  num_steps: int,
  first_order: bool = False,
  remat: bool = False,
) -> Any:
  """Writes a set of patterns by gradient descent on the writing loss.

  θ⁰ = θ̄;  θ <- θ - Σ_j softplus(ρ_j) ∇_θ (term j, averaged over patterns), T
  times. Neither the order of the patterns nor repeating all of them matters.

  Args:
    params: initial weights θ̄, a tree of arrays, all of which are written.
    patterns: x_i, [N, ...]; any N is allowed, but errors grow with N.
    energy: E(θ, x).
    rates: ρ.
    num_steps: number of write steps T; 0 writes nothing. The paper's value is 5
      (unconfirmed).
    first_order: treat the weight updates as constants: cheaper, but then only
      ρ, and θ̄ as the starting point, receive gradients through writing.
    remat: rematerialise each step in the backward pass (`jax.checkpoint`).

  Returns:
    Written weights θ, shaped as θ̄.

  Raises:
    ValueError: if N is 0, or num_steps is negative or no whole number.

  Reference:
    Bartunov et al. (2020), arXiv:1910.02720, and its appendix C. ∇_θ |∇_x E|²
    is computed as the derivative of ∇_θ E along 2 ∇_x E, which is ours.

  >>> energy, x = lambda theta, x: theta * jnp.sum(x), jnp.ones((1, 2))
  >>> rates = write_rates(0, initial=0.5)._replace(gradient_norm=None)
  >>> f"{write(jnp.array(3.0), x, energy, rates, num_steps=1):.2f}"
  '2.00'
  """
  params = _checked_params("params", params)
  patterns = _checked_patterns("patterns", patterns, {})
  num_steps = checks.whole_number("num_steps", num_steps)
  energy = _checked_energy(energy)
  rates = WriteRates(
    energy=_resolved("rates.energy", rates.energy, params, num_steps),
    gradient_norm=_resolved(
      "rates.gradient_norm", rates.gradient_norm, params, num_steps
    ),
    prior=_resolved("rates.prior", rates.prior, params, num_steps),
  )

  def step(current, rates):
    changes = _gradients(current, params, patterns, energy, rates)
    if first_order:
      changes = jax.lax.stop_gradient(changes)
    for rate, change in zip(rates, changes, strict=True):
      if rate is not None:
        current = jax.tree.map(_descend, current, rate, change)
    return current, None

  step = jax.checkpoint(step) if remat else step
  params_t, _ = jax.lax.scan(step, params, rates, length=num_steps)
  return params_t


def _resolved(name, logits, params, num_steps):
  """Broadcasts rates to the structure of θ, each [T]."""
  if logits is None:
    return None

  def rate(rho):
    shape = "num_steps" if jnp.ndim(rho) else ""
    sizes = {"num_steps": (num_steps, "num_steps")}
    return jax.nn.softplus(checks.real(name, rho, shape, sizes))

  rates = jax.tree.map(rate, logits)
  rates = jax.tree.broadcast(rates, params)
  return jax.tree.map(lambda x: jnp.broadcast_to(x, (num_steps,)), rates)


def _descend(x, rate, slope):
  return (x - rate * slope).astype(x.dtype)


def _gradients(params, prior_params, patterns, energy, rates):
  """Gradients of the three terms, the first two means over patterns."""

  def of_energy(patterns):
    return jax.grad(_mean_energy)(params, patterns, energy)

  if rates.gradient_norm is None:
    down, norm = of_energy(patterns), None
  else:
    # ∇_θ |g|² = 2 gᵀ ∂g/∂θ, with g = ∇_x E: the derivative of ∇_θ E along 2 g.
    along = 2 * _slopes(params, patterns, energy)
    down, norm = jax.jvp(of_energy, (patterns,), (along,))
  drift = jax.tree.map(lambda a, b: 2 * (a - b), params, prior_params)
  return down, norm, drift


def read(
  params: Any,
  query: jax.Array,
  energy: Energy,
  rates: ReadRates,
  *,
  lower: float = 0.0,
  upper: float = 1.0,
  remat: bool = False,
) -> jax.Array:
  """Reads by projected descent on the energy with Nesterov momentum.

  x⁰ = query, v⁰ = 0;  x̂ = clip(x^{k-1} + ψ_k v^{k-1}),
  v^k = ψ_k v^{k-1} - γ_k ∇_x E(x̂; θ),  x^k = clip(x^{k-1} + v^k).

  The paper prints these equations with index slips; this form is projected
  gradient descent at ψ = 0. It oscillates if γ_k exceeds 2 / curvature of E.

  Args:
    params: written weights θ, see `write`.
    query: x̃, [...]; clipped to the box first.
    energy: E(θ, x).
    rates: rates of the K steps.
    lower: lower bound of the box; -inf for none.
    upper: upper bound of the box; inf for none.
    remat: see `write`.

  Returns:
    Iterates x¹ .. x^K, [K, ...]. The last is the result; all enter the loss.

  Raises:
    ValueError: if `lower` is not below `upper`.

  Reference:
    Bartunov et al. (2020), arXiv:1910.02720, appendix.

  >>> energy = lambda mean, x: 0.5 * jnp.sum((x - mean) ** 2)
  >>> rates = read_rates(2, step_size=0.5, momentum=0.0, decay=0.5)
  >>> read(jnp.array(1.0), jnp.zeros(2), energy, rates).tolist()
  [[0.5, 0.5], [0.625, 0.625]]
  """
  lower, upper = _checked_box(lower, upper)
  query = checks.real("query", query, "...")
  query = query.astype(query.dtype)  # no longer weakly typed
  rates = _checked_schedule("rates", rates)
  params = jax.tree.map(jnp.asarray, params)
  clip = functools.partial(jnp.clip, min=lower, max=upper)
  query = clip(query)
  slope = jax.grad(_checked_energy(energy), argnums=1)

  def step(carry, rates):
    (x, v), (step_size, momentum) = carry, rates
    ahead = clip(x + momentum * v)
    v = momentum * v - step_size * slope(params, ahead)
    x = clip(x + v)
    return (x, v), x

  step = jax.checkpoint(step) if remat else step
  step_sizes = decay_rates(rates.step_size, rates.step_size_logits)
  momenta = decay_rates(rates.momentum, rates.momentum_logits)
  schedule = tuple(x.astype(query.dtype) for x in (step_sizes, momenta))
  return jax.lax.scan(step, (query, jnp.zeros_like(query)), schedule)[1]


def reconstruction_loss(iterates: jax.Array, pattern: jax.Array) -> jax.Array:
  """Computes the squared error summed over all read steps: Σ_k |x - x^k|².

  Args:
    iterates: x¹ .. x^K, [K, ...], without the query.
    pattern: stored pattern x, [...].

  Returns:
    The loss, [].

  Reference:
    Bartunov et al. (2020), arXiv:1910.02720.

  >>> float(reconstruction_loss(jnp.array([[1.0], [3.0]]), jnp.zeros(1)))
  10.0
  """
  sizes, axes = {}, _axes(jnp.ndim(iterates) - 1)
  iterates = checks.real("iterates", iterates, f"K {axes}", sizes)
  pattern = checks.real("pattern", pattern, axes, sizes)
  return jnp.sum(jnp.square(iterates - pattern[None]))


def loss(
  params: Any,
  patterns: jax.Array,
  queries: jax.Array,
  energy: Energy,
  rates: WriteRates,
  schedule: ReadRates,
  *,
  num_steps: int,
  lower: float = 0.0,
  upper: float = 1.0,
  first_order: bool = False,
  remat: bool = False,
) -> tuple[jax.Array, jax.Array]:
  """Writes a set, reads all of it, and computes the meta-training loss.

  1/N Σ_i Σ_k |x_i - x_i^k|² of one set: a one-sample estimate.

  Args:
    params: initial weights θ̄.
    patterns: x_i, [N, ...].
    queries: corrupted patterns x̃_i, [N, ...].
    energy: E(θ, x).
    rates: ρ, of the write steps.
    schedule: rates of the K read steps.
    num_steps: number of write steps T.
    lower: see `read`.
    upper: see `read`.
    first_order: see `write`.
    remat: see `write` and `read`.

  Returns:
    The loss, [], and the read iterates, [N, K, ...].

  Raises:
    ValueError: as `write` and `read`.

  Reference:
    Bartunov et al. (2020), arXiv:1910.02720.

  >>> energy = lambda mean, x: 0.5 * jnp.sum((x - mean) ** 2)
  >>> rates, schedule = write_rates(0, initial=1.0), read_rates(1, step_size=1)
  >>> given = jnp.zeros(2), jnp.ones((1, 2)), jnp.zeros((1, 2)), energy
  >>> float(loss(*given, rates, schedule, num_steps=0)[0])
  2.0
  """
  sizes = {}
  patterns = _checked_patterns("patterns", patterns, sizes)
  axes = _axes(patterns.ndim - 1)
  queries = checks.real("queries", queries, f"N {axes}", sizes)
  schedule = _checked_schedule("schedule", schedule)
  written = write(
    params,
    patterns,
    energy,
    rates,
    num_steps=num_steps,
    first_order=first_order,
    remat=remat,
  )
  reading = lambda query: read(
    written,
    query,
    energy,
    schedule,
    lower=lower,
    upper=upper,
    remat=remat,
  )
  iterates = jax.vmap(reading)(queries)
  return jnp.mean(jax.vmap(reconstruction_loss)(iterates, patterns)), iterates


def error_bits(x: jax.Array, pattern: jax.Array) -> jax.Array:
  """Counts the wrong bits of a read after rounding.

  Args:
    x: read pattern, in [0, 1], [...].
    pattern: stored pattern of 0 and 1, [...].

  Returns:
    Number of entries that differ after rounding (1/2 rounds to 1) or are NaN,
    [] int32.

  Reference:
    Bartunov et al. (2020), arXiv:1910.02720, section 4.

  >>> int(error_bits(jnp.array([0.4, 0.6, 0.5]), jnp.array([1.0, 1.0, 1.0])))
  1
  """
  sizes, axes = {}, _axes(jnp.ndim(x))
  x = checks.real("x", x, axes, sizes)
  pattern = checks.real("pattern", pattern, axes, sizes)
  wrong = jnp.isnan(x) | ((x >= 0.5) != (pattern >= 0.5))
  return jnp.sum(wrong, dtype=jnp.int32)


def _axes(count):
  """Names the axes of a pattern, of which there may be any number."""
  return " ".join(f"D{i}" for i in range(1, count + 1))


def _checked_patterns(name, patterns, sizes):
  axes = _axes(jnp.ndim(patterns) - 1)
  patterns = checks.real(name, patterns, f"N {axes}", sizes)
  if not len(patterns):
    raise ValueError(f"{name} has 0 items; give 1 or more.")
  return patterns.astype(patterns.dtype)  # no longer weakly typed


def _checked_params(name, params):
  def checked(leaf):
    leaf = checks.real(name, leaf, "...")
    return leaf.astype(leaf.dtype)

  return jax.tree.map(checked, params)


def _checked_energy(energy):
  return lambda params, x: checks.real("energy", energy(params, x), "")


def _checked_schedule(name, rates):
  sizes = {}
  logits = rates.step_size_logits, rates.momentum_logits
  return ReadRates(
    checks.real(f"{name}.step_size", rates.step_size, ""),
    checks.real(f"{name}.step_size_logits", logits[0], "L", sizes),
    checks.real(f"{name}.momentum", rates.momentum, ""),
    checks.real(f"{name}.momentum_logits", logits[1], "L", sizes),
  )


def _checked_box(lower, upper):
  lower = checks.number("lower", lower, may_be_infinite=True)
  upper = checks.number("upper", upper, may_be_infinite=True)
  try:
    is_empty = not lower < upper
  except jax.errors.ConcretizationTypeError:  # while tracing
    is_empty = False
  if is_empty:
    raise ValueError(f"lower is {lower}; it must be below upper, {upper}.")
  return lower, upper
