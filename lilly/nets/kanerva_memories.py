"""The memories of Kanerva Machines, and their baselines.

Items are codes, or an address and a code; reads return a `Reading`. They are
`set_memories.SetMemory`s: matrices of normal variables, recurrent cores, a list
of the codes, or no memory, which gives a VAE.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lilly.memory import addressing, dynamic_kanerva, kanerva
from lilly.nets import set_memories
from lilly.nets.recurrent import Core
from lilly.nets.set_memories import SetMemory

__all__ = [
  "Reading",
  "code_list",
  "dynamic",
  "matrix",
  "none",
  "recurrent",
]


class Reading(NamedTuple):
  """Output of a memory for a query."""

  code: jax.Array  # mean of the code, [C]
  variance: jax.Array  # of each component; 0 if only a mean is given, []
  kl: jax.Array  # KL of the inferred address, in nats; 0 if there is none, []


def _certain(code):
  return Reading(code, jnp.zeros(()), jnp.zeros(()))


def _check(**sizes):
  for name, size in sizes.items():
    if size < 1:
      raise ValueError(f"{name} is {size}; it must be at least 1.")


def none(code_size: int) -> SetMemory:
  """Makes an empty memory: p(z) = N(0, σ² I); the model is a VAE.

  Args:
    code_size: size of a code, C.

  Returns:
    The memory; items and queries are ignored.

  Reference:
    Kingma and Welling (2014), arXiv:1312.6114.
  """
  return SetMemory(
    init=lambda key, *item: ((), {}),
    write=lambda params, state, *items: (),
    read=lambda params, state, content, *query: _certain(jnp.zeros(code_size)),
    is_addressed=False,
  )


def matrix(
  num_rows: int,
  code_size: int,
  address_size: int,
  *,
  noise_variance: float = 1.0,
  is_written: bool = True,
) -> SetMemory:
  """Makes the Kanerva Machine's memory, with learned addresses and prior.

  Args:
    num_rows: rows of the memory, K.
    code_size: size of a code, C.
    address_size: size of an address before multiplication by A, S.
    noise_variance: variance of a code, σ².
    is_written: False: reads use the prior, an ablation.

  Returns:
    The memory. Items are b, [S], and z, [C]; queries are b.

  Raises:
    ValueError: a size is not positive.

  Reference:
    Wu et al. (2018), arXiv:1804.01756. The initialisation is not confirmed:
    R ~ N(0, 1), U = I, A ~ N(0, 1 / S).
  """
  _check(num_rows=num_rows, code_size=code_size, address_size=address_size)

  def init(key, *item):
    keys = jax.random.split(key)
    addresses = jax.random.normal(keys[0], (num_rows, address_size))
    params = {
      "addresses": addresses / jnp.sqrt(address_size),
      "mean": jax.random.normal(keys[1], (num_rows, code_size)),
      "log_variance": jnp.zeros(num_rows),
    }
    return params, {}

  def address(params, state, b):
    return kanerva.address(params["addresses"], b)

  def write(params, state, b, z):
    prior = kanerva.prior(params["mean"], params["log_variance"])
    if not is_written:
      return prior
    weights = jax.vmap(lambda b: address(params, state, b))(b)
    return kanerva.write(prior, weights, z, noise_variance=noise_variance)

  def read(params, state, content, b):
    mean, variance = kanerva.read(content, address(params, state, b))
    return Reading(mean, variance, jnp.zeros(()))

  return SetMemory(init, write, read, address=address)


def dynamic(
  num_rows: int,
  code_size: int,
  *,
  noise_variance: float = 1.0,
  num_iterations: int = 1,
  method: dynamic_kanerva.Method = "ridge",
) -> SetMemory:
  """Makes the Dynamic Kanerva Machine's memory, with a learned prior.

  Args:
    num_rows: rows of the memory, K, less than C: with C rows any query is
      returned unchanged, whatever was written.
    code_size: size of a code, C.
    noise_variance: variance of a code, σ².
    num_iterations: iterations of solving for an item's address.
    method: see `dynamic_kanerva.address`.

  Returns:
    The memory. Items and queries are codes, [C]; their order matters.

  Raises:
    ValueError: a size is not positive; a method is unknown, when called.

  Reference:
    Wu et al. (2018), arXiv:1811.09556, initialised as in the authors' module.
  """
  _check(num_rows=num_rows, code_size=code_size)

  def init(key, *item):
    shape = num_rows, code_size
    params = {
      "mean": jax.random.truncated_normal(key, -2.0, 2.0, shape),
      "log_variance": jnp.zeros(()),
      # Strongly typed: a weak type would compile every program twice.
      "log_weight_stddev": jnp.full((), math.log(0.3), float),
    }
    return params, {}

  def write_with_kl(params, state, codes):
    prior = kanerva.prior(params["mean"], params["log_variance"])
    content, _ = dynamic_kanerva.write(
      prior,
      codes,
      noise_variance=noise_variance,
      num_iterations=num_iterations,
      method=method,
    )
    return content, kanerva.kl(content, prior)

  def write(params, state, codes):
    return write_with_kl(params, state, codes)[0]

  def reading(params, found):
    stddev = jnp.exp(params["log_weight_stddev"])
    kl = dynamic_kanerva.weight_kl(found.weights, weight_stddev=stddev)
    return Reading(found.code, jnp.zeros(()), kl)

  def read(params, state, content, code):
    found = dynamic_kanerva.read(
      content, code, noise_variance=noise_variance, method=method
    )
    return reading(params, found)

  def sample(key, params, state, content, code):
    found = dynamic_kanerva.sample_read(
      key,
      content,
      code,
      weight_stddev=jnp.exp(params["log_weight_stddev"]),
      noise_variance=noise_variance,
      method=method,
    )
    return reading(params, found)

  return SetMemory(
    init, write, read, sample=sample, write_with_kl=write_with_kl
  )


def recurrent(
  make_core: Callable[[int, int], Core], code_size: int, address_size: int = 0
) -> SetMemory:
  """Makes a memory from a recurrent core; see `set_memories.from_core`.

  Args:
    make_core: maps input and output size to a core.
    code_size: size of a code, C.
    address_size: size of an address, S, if items are addresses and codes; 0:
      items are codes.

  Returns:
    The memory, to replace `matrix` or `dynamic`. Its readings have variance 0.

  Raises:
    ValueError: the core has no state.

  Reference:
    Wu et al. (2018), arXiv:1804.01756, section 4, and arXiv:1811.09556 compare
    with a DNC; how it was wired is not confirmed.
  """
  return set_memories.from_core(
    make_core, address_size + code_size, code_size, to_answer=_certain
  )


def code_list(num_codes: int) -> SetMemory:
  """Makes a memory that stores codes, and returns the nearest one.

  Args:
    num_codes: number of most recent codes that are kept.

  Returns:
    The memory, without parameters; training with it trains an autoencoder.
    Items and queries are codes, [C].

  Raises:
    ValueError: num_codes is not positive.
  """
  _check(num_codes=num_codes)

  def write(params, state, codes):
    return codes[-num_codes:]

  def read(params, state, content, code):
    nearest = jnp.argmax(addressing.cosine_similarity(code, content))
    return _certain(content[nearest])

  return SetMemory(lambda key, *item: ((), {}), write, read)
