"""Energy-based memory: patterns are stored in the weights of a network.

E(x; θ) is low at what is stored. To write is to descend, in θ, a loss of a set
of patterns, from learned weights θ̄; to read is to descend the energy, in x,
from a query. Both loops are differentiated: θ̄, all rates, and whatever else
the energy depends on are learned by the error of what is read.

θ are the weights that are written; bind those that are not to the energy, as by
`functools.partial`: gradients reach them. Activations must be smooth: gradients
of gradients are taken, and a ReLU has none. `write` and `read` are loops of
`lax.scan`: how long they take to compile does not depend on their steps.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

__all__ = [
  "Energy",
  "ReadRates",
  "WriteRates",
  "WritingTerms",
  "decayed",
  "error_bits",
  "loss",
  "read",
  "read_rates",
  "reconstruction_loss",
  "write",
  "write_rates",
  "writing_terms",
]

Energy = Callable[[Any, jax.Array], jax.Array]  # of θ and x: E, []


class WriteRates(NamedTuple):
  """Logits of learning rates, softplus(ρ), of each term and part of θ.

  Trees as θ or, for one rate a layer, a prefix of it. Leaves are [], or
  [num_steps] for rates that change. A term that is None is left out.
  """

  energy: Any
  gradient_norm: Any  # 2nd-order, the costly one
  prior: Any


class ReadRates(NamedTuple):
  """What γ_1 .. γ_K and ψ_1 .. ψ_K are made of, by `decayed`."""

  step_size: jax.Array  # γ_1, []
  step_size_logits: jax.Array  # [K - 1]
  momentum: jax.Array  # ψ_1, []
  momentum_logits: jax.Array  # [K - 1]


class WritingTerms(NamedTuple):
  """What the writing loss is made of: means over patterns."""

  energy: jax.Array  # E(x; θ), []
  gradient_norm: jax.Array  # |∇_x E(x; θ)|², []
  prior: jax.Array  # |θ - θ̄|², []


def write_rates(
  layers: Any,
  *,
  initial: float = 1e-4,
  dtype: jax.typing.DTypeLike = jnp.float32,
) -> WriteRates:
  """Makes rates of the three terms, all equal at first.

  Args:
    layers: a tree, for its form: of each leaf there is a rate. Give θ for one
      rate an array, or a tree that ends at θ's layers for one a layer.
    initial: the rate, softplus(ρ); positive, and a normal number of `dtype`.
      Of few updates little comes of the paper's 1e-4: 0.1 to 0.3 learns sooner.
    dtype: of ρ.

  Returns:
    ρ.

  Raises:
    ValueError: if `initial` is not as said.

  Reference:
    Bartunov et al. (2020), arXiv:1910.02720, appendix C.

  >>> rates = write_rates({"w": jnp.ones(3)}, initial=0.5)
  >>> f"{jax.nn.softplus(rates.prior['w']):.2f}"
  '0.50'
  """
  least, most = (float(getattr(jnp.finfo(dtype), x)) for x in ("tiny", "max"))
  if not least <= initial <= most:
    raise ValueError(
      f"initial is {initial}; it must be positive and finite, from {least:.2g} "
      f"to {most:.2g}."
    )
  logit = initial + math.log(-math.expm1(-initial))  # where softplus is it
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
  """Makes the rates of K steps of reading.

  Args:
    num_steps: K, at least 1.
    step_size: γ_1, not negative, and finite.
    momentum: ψ_1, in [0, 1].
    decay: γ_k / γ_{k-1} and ψ_k / ψ_{k-1} at first, in (0, 1).
    dtype: of the rates.

  Returns:
    The rates.

  Raises:
    ValueError: if one of them is not as said.

  Reference:
    Bartunov et al. (2020), arXiv:1910.02720, appendix; initial values are ours.

  >>> read_rates(3, decay=0.5).step_size_logits.tolist()
  [0.0, 0.0]
  """
  if num_steps < 1:
    raise ValueError(f"num_steps is {num_steps}; it must be 1 or more.")
  most = float(jnp.finfo(dtype).max)
  if not 0 <= step_size <= most:
    raise ValueError(
      f"step_size is {step_size}; it must be from 0 to {most:.2g}."
    )
  if not 0 <= momentum <= 1:
    raise ValueError(f"momentum is {momentum}; it must be from 0 to 1.")
  if not 0 < decay < 1:
    raise ValueError(f"decay is {decay}; it must be between 0 and 1.")
  logit = math.log(decay) - math.log1p(-decay)
  logits = lambda: jnp.full(num_steps - 1, logit, dtype)
  first = lambda rate: jnp.asarray(rate, dtype)
  return ReadRates(first(step_size), logits(), first(momentum), logits())


def decayed(first: jax.Array, logits: jax.Array) -> jax.Array:
  """Makes a schedule that does not rise: γ_k = γ_{k-1} σ(η_k).

  Args:
    first: γ_1, [].
    logits: η_2 .. η_K, [K - 1].

  Returns:
    γ_1 .. γ_K, [K].

  Reference:
    Bartunov et al. (2020), arXiv:1910.02720, appendix.

  >>> decayed(jnp.array(0.5), jnp.zeros(2)).tolist()
  [0.5, 0.25, 0.125]
  """
  chex.assert_rank([first, logits], [0, 1])
  first = jnp.asarray(first, logits.dtype)

  def step(rate, factor):  # the derivative of a cumprod unrolls
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
  """Measures what writing makes small, each term by itself.

  W = E(x; θ) + α |∇_x E(x; θ)|² + β |θ - θ̄|². Writing has a rate for each term
  in the place of α and β.

  Args:
    params: θ.
    prior_params: θ̄, from which writing began.
    patterns: x_i, [N, ...].
    energy: E.

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
  _check_patterns(patterns)
  slopes = _slopes(params, patterns, energy)
  squares = jnp.sum(jnp.square(slopes)) / len(patterns)
  moved = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), params, prior_params)
  mean_energy = _mean_energy(params, patterns, energy)
  prior = jax.tree.reduce(jnp.add, moved)
  return WritingTerms(mean_energy, squares, prior)


def _mean_energy(params, patterns, energy):
  energies = jax.vmap(energy, in_axes=(None, 0))(params, patterns)
  chex.assert_shape(energies, (len(patterns),))
  return jnp.mean(energies)


def _slopes(params, patterns, energy):
  """∇_x E at each pattern."""
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
  """Writes a set of patterns: steps down the writing loss.

  θ⁰ = θ̄;  θ <- θ - Σ_j softplus(ρ_j) ∇_θ (term j, the mean over patterns), T
  times. The order of patterns does not matter, nor how often all are repeated.

  Args:
    params: θ̄, learned, a tree of arrays: all that is written.
    patterns: x_i, [N, ...]; no N is too many, but errors grow.
    energy: E.
    rates: ρ.
    num_steps: T; 0 writes nothing. Not in the text that we had; 5 is
      (unconfirmed) the paper's.
    first_order: takes what is subtracted for a constant: cheaper, but then
      nothing that is learned knows what writing does, except ρ, and θ̄ as the
      place to begin at.
    remat: keep no intermediate values of a step, but compute them again where
      derivatives need them: less space, more time.

  Returns:
    θ, as θ̄.

  Raises:
    ValueError: if N is 0, or num_steps is negative.

  Reference:
    Bartunov et al. (2020), arXiv:1910.02720, and its appendix C. ∇_θ |∇_x E|²
    is found as a derivative of ∇_θ E along 2 ∇_x E, which is ours.

  >>> energy, x = lambda theta, x: theta * jnp.sum(x), jnp.ones((1, 2))
  >>> rates = write_rates(0, initial=0.5)._replace(gradient_norm=None)
  >>> f"{write(jnp.array(3.0), x, energy, rates, num_steps=1):.2f}"
  '2.00'
  """
  _check_patterns(patterns)
  if num_steps < 0:
    raise ValueError(f"num_steps is {num_steps}; it must not be negative.")
  rates = WriteRates(*[_resolved(rho, params, num_steps) for rho in rates])

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


def _resolved(logits, params, num_steps):
  """Rates as a tree like θ, each [T]."""
  if logits is None:
    return None
  rates = jax.tree.map(jax.nn.softplus, logits)
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
    # ∇_θ |g|² = 2 gᵀ ∂g/∂θ, for g = ∇_x E: what ∇_θ E changes by along 2 g.
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
  """Reads: steps down the energy, with Nesterov's momentum, inside a box.

  x⁰ = query, v⁰ = 0;  x̂ = clip(x^{k-1} + ψ_k v^{k-1}),
  v^k = ψ_k v^{k-1} - γ_k ∇_x E(x̂; θ),  x^k = clip(x^{k-1} + v^k).

  The paper prints these with slips of the indices; so they are projected
  descent at ψ = 0. They oscillate where γ_k is above 2 / E's curvature.

  Args:
    params: θ, as from `write`.
    query: x̃, [...]; where it is outside of the box it is clipped first.
    energy: E.
    rates: of K steps.
    lower: least value of what is read; -inf for none.
    upper: greatest value; inf for none.
    remat: as of `write`.

  Returns:
    x¹ .. x^K, [K, ...]. The last is what is read, the others are for the loss.

  Raises:
    ValueError: if `lower` is not below `upper`.

  Reference:
    Bartunov et al. (2020), arXiv:1910.02720, appendix.

  >>> energy = lambda mean, x: 0.5 * jnp.sum((x - mean) ** 2)
  >>> rates = read_rates(2, step_size=0.5, momentum=0.0, decay=0.5)
  >>> read(jnp.array(1.0), jnp.zeros(2), energy, rates).tolist()
  [[0.5, 0.5], [0.625, 0.625]]
  """
  if not lower < upper:
    raise ValueError(f"lower is {lower}; it must be below upper, {upper}.")
  chex.assert_type(query, float)
  clip = functools.partial(jnp.clip, min=lower, max=upper)
  query = clip(jnp.asarray(query))  # of the type that there is
  slope = jax.grad(energy, argnums=1)

  def step(carry, rates):
    (x, v), (step_size, momentum) = carry, rates
    ahead = clip(x + momentum * v)
    v = momentum * v - step_size * slope(params, ahead)
    x = clip(x + v)
    return (x, v), x

  step = jax.checkpoint(step) if remat else step
  step_sizes = decayed(rates.step_size, rates.step_size_logits)
  momenta = decayed(rates.momentum, rates.momentum_logits)
  schedule = tuple(x.astype(query.dtype) for x in (step_sizes, momenta))
  return jax.lax.scan(step, (query, jnp.zeros_like(query)), schedule)[1]


def reconstruction_loss(iterates: jax.Array, pattern: jax.Array) -> jax.Array:
  """Measures a read at each of its steps: Σ_k |x - x^k|².

  Args:
    iterates: x¹ .. x^K, [K, ...], without the query.
    pattern: x, what was stored, [...].

  Returns:
    The loss, [].

  Reference:
    Bartunov et al. (2020), arXiv:1910.02720.

  >>> float(reconstruction_loss(jnp.array([[1.0], [3.0]]), jnp.zeros(1)))
  10.0
  """
  chex.assert_equal_shape_suffix([iterates, pattern], pattern.ndim)
  chex.assert_rank(iterates, pattern.ndim + 1)
  chex.assert_type(iterates, float)
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
  """Writes a set, reads all of it, and measures what training makes small.

  1/N Σ_i Σ_k |x_i - x_i^k|²: one set, one sample of the expectation.

  Args:
    params: θ̄.
    patterns: x_i, [N, ...].
    queries: x̃_i, damaged patterns, [N, ...].
    energy: E.
    rates: ρ, of writing.
    schedule: of reading, K steps.
    num_steps: T, of writing.
    lower: as of `read`.
    upper: as of `read`.
    first_order: as of `write`.
    remat: as of `write` and `read`.

  Returns:
    The loss, [], and what was read, [N, K, ...].

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
  chex.assert_equal_shape([patterns, queries])
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
  """Counts the bits of a read that are wrong, once it is rounded.

  Args:
    x: what was read, in [0, 1], [...].
    pattern: what was stored, 0 and 1, [...].

  Returns:
    How many lie on the other side of 1/2, which itself counts as 1, or are not
    numbers, [] int32.

  Reference:
    Bartunov et al. (2020), arXiv:1910.02720, section 4.

  >>> int(error_bits(jnp.array([0.4, 0.6, 0.5]), jnp.array([1.0, 1.0, 1.0])))
  1
  """
  chex.assert_equal_shape([x, pattern])
  wrong = jnp.isnan(x) | ((x >= 0.5) != (pattern >= 0.5))
  return jnp.sum(wrong, dtype=jnp.int32)


def _check_patterns(patterns):
  chex.assert_type(patterns, float)
  if not len(patterns):
    raise ValueError("patterns has 0 items; give 1 or more.")
