"""Memories of sets of patterns: energy-based and Hopfield networks.

Patterns, queries and outputs have values in [0, 1] and any shape.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lilly.memory import energy, hopfield
from lilly.nets import energy_networks
from lilly.nets.set_memories import SetMemory

__all__ = [
  "RULES",
  "Params",
  "make",
  "measure_energies",
  "measure_reads",
  "retrieve",
]

RULES = {
  "hebb": hopfield.hebb,
  "storkey": hopfield.storkey,
  "pseudo_inverse": hopfield.pseudo_inverse,
}


class Params(NamedTuple):
  """All learnt parameters."""

  written: Any  # θ̄, the initial weights of a write
  static: Any  # parameters of the layers that are not written
  write: energy.WriteRates  # a rate for each layer and each term
  read: energy.ReadRates


def make(
  network: energy_networks.EnergyNetwork,
  *,
  write_steps: int,
  read_steps: int,
  write_rate: float = 0.3,
  step_size: float = 0.5,
  momentum: float = 0.5,
  gradient_norm: bool = True,
  first_order: bool = False,
  remat: bool = False,
) -> SetMemory:
  """Makes an energy-based memory, written and read by gradient steps.

  Args:
    network: the energy network.
    write_steps: gradient steps of a write, T; 0: nothing is written.
    read_steps: gradient steps of a read, K.
    write_rate: initial learning rate of writing, of each layer and each term;
      the paper's is 1e-4.
    step_size: step size of the first step of reading.
    momentum: momentum of the first step of reading.
    gradient_norm: whether the writing loss has the gradient-norm term.
    first_order: see `memory.energy.write`.
    remat: see `memory.energy.write`.

  Returns:
    The memory. Items and queries are patterns; its parameters are `Params`, its
    content θ, and its output x¹ .. x^K, [K, ...].

  Raises:
    ValueError: a rate is out of its range, when called; see `memory.energy`.

  Reference:
    Bartunov et al. (2020), arXiv:1910.02720.
  """

  def init(key, pattern):
    written, static = energy_networks.split(network.init(key, pattern))
    rates = energy.write_rates(dict.fromkeys(written, 0), initial=write_rate)
    if not gradient_norm:
      rates = rates._replace(gradient_norm=None)
    schedule = energy.read_rates(
      read_steps, step_size=step_size, momentum=momentum
    )
    return Params(written, static, rates, schedule), {}

  def write(params, state, patterns):
    if not write_steps:  # an empty loop takes as long to compile
      return params.written
    return energy.write(
      params.written,
      patterns,
      functools.partial(network.energy, params.static),
      params.write,
      num_steps=write_steps,
      first_order=first_order,
      remat=remat,
    )

  def read(params, state, written, query):
    energy_of = functools.partial(network.energy, params.static)
    return energy.read(written, query, energy_of, params.read, remat=remat)

  def energy_of_pattern(params, state, written, x):
    return network.energy(params.static, written, x)

  return SetMemory(init, write, read, energy=energy_of_pattern)


def measure_energies(
  energy_of: Callable[[jax.Array], jax.Array],
  queries: jax.Array,
  reads: jax.Array,
) -> jax.Array:
  """Measures how the energy changes as queries are read.

  Args:
    energy_of: energy of a pattern under the written memory.
    queries: [N, ...].
    reads: x¹ .. x^K of each query, [N, K, ...].

  Returns:
    E of each query and of each of its reads, [N, K + 1].
  """
  path = jnp.concatenate([queries[:, None], reads], axis=1)
  return jax.vmap(jax.vmap(energy_of))(path)


def measure_reads(
  memory: SetMemory,
  params: Any,
  written: Any,
  patterns: jax.Array,
  queries: jax.Array,
  reads: jax.Array,
) -> dict[str, jax.Array]:
  """Measures reads, and energies if the memory has an energy.

  Args:
    memory: memory from `make`, or one whose reads have the same form.
    params: parameters of the memory; `Params` if it has an energy.
    written: content of the memory, θ.
    patterns: the stored patterns, [N, ...].
    queries: one query per pattern, [N, ...].
    reads: x¹ .. x^K of each query, [N, K, ...].

  Returns:
    For each pattern: loss, summed over steps, [N]; energy_before and
    energy_after writing, [N]; falling, whether a step did not increase the
    energy, 0 or 1, [N, K].
  """
  loss = jax.vmap(energy.reconstruction_loss)(reads, patterns)
  if memory.energy is None:
    return {"loss": loss}
  before = functools.partial(memory.energy, params, {}, params.written)
  after = functools.partial(memory.energy, params, {}, written)
  rises = jnp.diff(measure_energies(after, queries, reads))
  return {
    "loss": loss,
    "energy_before": jax.vmap(before)(patterns),
    "energy_after": jax.vmap(after)(patterns),
    "falling": jnp.asarray(rises <= 1e-5, jnp.float32),
  }


def retrieve(
  key: jax.Array,
  rule: str,
  patterns: jax.Array,
  queries: jax.Array,
  is_known: jax.Array,
) -> jax.Array:
  """Retrieves patterns by a classical or modern Hopfield network.

  Args:
    key: typed key.
    rule: a name in `RULES`, for patterns of 0 and 1, or "modern".
    patterns: [N, ...].
    queries: [M, ...].
    is_known: values of the queries to keep fixed, bool [M, ...].

  Returns:
    The retrieved patterns, [M, ...].

  Raises:
    ValueError: there is no such rule, N is 0, or a concrete (untraced) pattern
      is not binary although the rule requires it.

  Reference:
    See `memory.hopfield`.
  """
  if rule not in (names := (*RULES, "modern")):
    raise ValueError(f"rule is {rule!r}; it must be one of {names}.")
  if not len(patterns):
    raise ValueError("patterns has 0 items; give 1 or more.")
  if rule in RULES:
    _check_bits(patterns)

  def flat(x):  # unsigned integers would wrap around at 0
    x = jnp.asarray(x, jnp.result_type(x, 0.5))
    return x.reshape(len(x), math.prod(x.shape[1:]))

  signs = 2 * flat(patterns) - 1
  is_clamped = is_known.reshape(len(queries), math.prod(queries.shape[1:]))
  keys = jax.random.split(key, len(queries))
  weights = RULES[rule](signs) if rule in RULES else None

  def one(key, query, clamped):
    if weights is None:
      return hopfield.modern_retrieve(signs, query, clamped=clamped)
    found = hopfield.retrieve_asynchronously(
      key, weights, query, clamped=clamped
    )
    return found.state

  found = jax.vmap(one)(keys, 2 * flat(queries) - 1, is_clamped)
  return (1 + found.reshape(queries.shape)) / 2


def _check_bits(patterns):
  """Checks that patterns are binary, unless they are traced."""
  try:
    is_bits = bool(jnp.all((patterns == 0) | (patterns == 1)))
  except jax.errors.TracerBoolConversionError:
    return
  if not is_bits:
    raise ValueError(
      "patterns are not of 0 and 1 only, which Hopfield's rules require; round "
      'them, or give "modern".'
    )
