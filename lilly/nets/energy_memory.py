"""Memories of sets of patterns: energies that are written, Hopfield networks.

Patterns and queries are from 0 to 1 and of any shape; what is read is, too.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lilly.memory import energy, hopfield
from lilly.nets import energy_networks

__all__ = ["RULES", "Params", "Recall", "energies", "init", "measures"]
__all__ += ["recall", "retrieve"]

RULES = {
  "hebb": hopfield.hebb,
  "storkey": hopfield.storkey,
  "pseudo_inverse": hopfield.pseudo_inverse,
}


class Params(NamedTuple):
  """All that is learnt."""

  written: Any  # θ̄, where writing begins
  static: Any
  write: energy.WriteRates  # a rate for each layer and each term
  read: energy.ReadRates


class Recall(NamedTuple):
  """What was read of a set of queries."""

  written: Any  # θ
  # of θ and x: E, []; None: what is written is no energy's
  energy: Callable[[Any, jax.Array], jax.Array] | None
  iterates: jax.Array  # x¹ .. x^K of each query, [N, K, ...]


def init(
  key: jax.Array,
  network: energy_networks.EnergyNetwork,
  pattern: jax.Array,
  *,
  read_steps: int,
  write_rate: float = 0.3,
  step_size: float = 0.5,
  momentum: float = 0.5,
  gradient_norm: bool = True,
) -> Params:
  """Draws weights, and makes rates.

  Args:
    key: typed key.
    network: an energy.
    pattern: one.
    read_steps: K.
    write_rate: of each layer and each term at first; 1e-4 is the paper's.
    step_size: of the first step of reading.
    momentum: of the first step of reading.
    gradient_norm: whether writing has that term.

  Returns:
    The parameters.

  Raises:
    ValueError: a rate is out of its range; see `memory.energy`.
  """
  written, static = energy_networks.split(network.init(key, pattern))
  rates = energy.write_rates(dict.fromkeys(written, 0), initial=write_rate)
  if not gradient_norm:
    rates = rates._replace(gradient_norm=None)
  schedule = energy.read_rates(
    read_steps, step_size=step_size, momentum=momentum
  )
  return Params(written, static, rates, schedule)


def recall(
  network: energy_networks.EnergyNetwork,
  params: Params,
  patterns: jax.Array,
  queries: jax.Array,
  *,
  write_steps: int,
  first_order: bool = False,
  remat: bool = False,
) -> Recall:
  """Writes a set of patterns, and reads each query.

  Args:
    network: an energy.
    params: as from `init`.
    patterns: [N, ...].
    queries: [M, ...].
    write_steps: T; 0: nothing is written.
    first_order: as of `memory.energy.write`.
    remat: as of `memory.energy.write`.

  Returns:
    What was written and read.

  Reference:
    Bartunov et al. (2020), arXiv:1910.02720.
  """
  of_x = functools.partial(network.energy, params.static)
  written = params.written
  if write_steps:  # a loop of none takes as long to compile
    written = energy.write(
      *(written, patterns, of_x, params.write),
      num_steps=write_steps,
      first_order=first_order,
      remat=remat,
    )
  read = lambda x: energy.read(written, x, of_x, params.read, remat=remat)
  return Recall(written, of_x, jax.vmap(read)(queries))


def energies(found: Recall, queries: jax.Array) -> jax.Array:
  """Measures how the energy changes as queries are read.

  Args:
    found: as from `recall`.
    queries: [N, ...].

  Returns:
    E of each query and of what was read of it, [N, K + 1]; 0 if there is none.
  """
  path = jnp.concatenate([queries[:, None], found.iterates], axis=1)
  if found.energy is None:
    return jnp.zeros(path.shape[:2], path.dtype)
  of_x = functools.partial(found.energy, found.written)
  return jax.vmap(jax.vmap(of_x))(path)


def measures(
  found: Recall, start: Any, patterns: jax.Array, queries: jax.Array
) -> dict[str, jax.Array]:
  """Measures reads, and energies where there are any.

  Args:
    found: as from `recall`.
    start: θ̄, where writing began.
    patterns: what was stored, [N, ...].
    queries: of each pattern one, [N, ...].

  Returns:
    Of each pattern: loss, of all steps, [N]; energy_before and energy_after
    writing, [N]; falling, whether a step did not raise the energy, 0 or 1,
    [N, K].
  """
  loss = jax.vmap(energy.reconstruction_loss)(found.iterates, patterns)
  if found.energy is None:
    return {"loss": loss}
  at = jax.vmap(found.energy, (None, 0))
  rises = jnp.diff(energies(found, queries))
  return {
    "loss": loss,
    "energy_before": at(start, patterns),
    "energy_after": at(found.written, patterns),
    "falling": jnp.asarray(rises <= 1e-5, jnp.float32),
  }


def retrieve(
  key: jax.Array,
  rule: str,
  patterns: jax.Array,
  queries: jax.Array,
  is_known: jax.Array,
) -> jax.Array:
  """Retrieves by a Hopfield network, or by the modern one.

  Args:
    key: typed key.
    rule: a name in `RULES`, for patterns of 0 and 1, or "modern".
    patterns: [N, ...].
    queries: [M, ...].
    is_known: what of them stays as it is, bool [M, ...].

  Returns:
    What is retrieved, [M, ...].

  Raises:
    ValueError: there is no such rule, N is 0, or a pattern that is known is not
      of 0 and 1 where the rule is of those.

  Reference:
    See `memory.hopfield`.
  """
  if rule not in (names := (*RULES, "modern")):
    raise ValueError(f"rule is {rule!r}; it must be one of {names}.")
  if not len(patterns):
    raise ValueError("patterns has 0 items; give 1 or more.")
  if rule in RULES:
    _check_bits(patterns)

  def flat(x):  # bytes would go round at 0
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
  """Checks values, where there are any yet."""
  try:
    is_bits = bool(jnp.all((patterns == 0) | (patterns == 1)))
  except jax.errors.TracerBoolConversionError:
    return
  if not is_bits:
    raise ValueError(
      "patterns are not of 0 and 1 only, and Hopfield's rules store nothing "
      'else; round them, or give "modern".'
    )
