"""What a Kanerva Machine remembers with, or what stands in its place.

A `Memory` lies between the codes of an episode and what is said of them: the
Kanerva Machine's, one that is never written, any recurrent core with a memory,
or nothing, which leaves a VAE.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lilly.memory import kanerva
from lilly.nets.recurrent import Core

__all__ = ["Memory", "matrix", "none", "of_core"]


class Memory(NamedTuple):
  """What lies between the codes of an episode; functions of one episode."""

  # init(key) -> parameters
  init: Callable[[jax.Array], Any]
  # write(parameters, b [T, S], z [T, C]) -> state
  write: Callable[[Any, jax.Array, jax.Array], Any]
  # read(parameters, state, b [S]) -> mean [C] and variance [] of what M says
  read: Callable[[Any, Any, jax.Array], tuple[jax.Array, jax.Array]]
  is_addressed: bool = True  # whether there is a latent address at all


def none(code_size: int) -> Memory:
  """Remembers nothing: p(z) = N(0, σ² I), no address; the model is a VAE.

  Args:
    code_size: numbers in a code, C.

  Returns:
    The memory that is none.

  Reference:
    Kingma and Welling (2014), arXiv:1312.6114.
  """
  return Memory(
    init=lambda key: (),
    write=lambda params, b, z: (),
    read=lambda params, state, b: (jnp.zeros(code_size), jnp.zeros(())),
    is_addressed=False,
  )


def matrix(
  num_rows: int,
  code_size: int,
  address_size: int,
  *,
  noise_variance: float = 1.0,
  is_written: bool = True,
) -> Memory:
  """Makes the Kanerva Machine's memory, with learned addresses and prior.

  Args:
    num_rows: K.
    code_size: C.
    address_size: S.
    noise_variance: σ² of codes.
    is_written: False: reads are from the prior, the ablation.

  Returns:
    The memory.

  Raises:
    ValueError: a size is not positive.

  Reference:
    Wu et al. (2018), arXiv:1804.01756. How it begins is not confirmed:
    R ~ N(0, 1), U = I, A ~ N(0, 1 / S).
  """
  sizes = {"num_rows": num_rows, "code_size": code_size}
  for name, size in (sizes | {"address_size": address_size}).items():
    if size < 1:
      raise ValueError(f"{name} is {size}; it must be at least 1.")

  def init(key):
    keys = jax.random.split(key)
    matrix = jax.random.normal(keys[0], (num_rows, address_size))
    return {
      "addresses": matrix / jnp.sqrt(address_size),
      "mean": jax.random.normal(keys[1], (num_rows, code_size)),
      "log_variance": jnp.zeros(num_rows),
    }

  def prior(params):
    return kanerva.prior(params["mean"], params["log_variance"])

  def write(params, b, z):
    if not is_written:
      return prior(params)
    weights = jax.vmap(lambda b: kanerva.address(params["addresses"], b))(b)
    return kanerva.write(
      prior(params), weights, z, noise_variance=noise_variance
    )

  def read(params, state, b):
    return kanerva.read(state, kanerva.address(params["addresses"], b))

  return Memory(init, write, read)


def of_core(core: Core) -> Memory:
  """Makes a memory of a recurrent core: it is shown an episode, then asked.

  Inputs are [b, z, 1] where it is written and [b, 0, 0] where it is read. A
  read does not change what the next one sees.

  Args:
    core: from S + C + 1 numbers to C.

  Returns:
    The memory. What it reads has no variance.

  Reference:
    Wu et al. (2018), arXiv:1804.01756, section 4, has a DNC in the Kanerva
    Machine's place; how it was wired is not confirmed.
  """

  def write(params, b, z):
    seen = jnp.concatenate([b, z, jnp.ones((len(z), 1))], axis=1)
    step = lambda state, x: core.apply(params, x, state)
    state, _ = jax.lax.scan(step, core.initial_state(), seen)
    return state, jnp.zeros(z.shape[1:])

  def read(params, state, b):
    state, zeros = state
    question = jnp.concatenate([b, zeros, jnp.zeros(1)])
    return core.apply(params, question, state)[1], jnp.zeros(())

  return Memory(core.init, write, read)
