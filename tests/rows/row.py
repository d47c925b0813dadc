"""What a row of the conformance suite holds, and makers of its inputs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Row", "arrays", "keyed", "together"]


class Row(NamedTuple):
  """A public function and how to call it."""

  function: Callable  # as its module exports it
  form: str  # the first row of each form is also run on two devices
  make_inputs: Callable  # (seed, dtype) -> tuple of trees, made for one call
  call: Callable | None = None  # of the inputs, where `function` is not
  state: int | None = None  # which input is the state that is returned
  dtypes: tuple[Any, ...] = (jnp.float32, jnp.bfloat16)  # those it keeps

  @property
  def name(self) -> str:
    module = self.function.__module__.removeprefix("lilly.")
    return f"{module}.{self.function.__name__}"


def arrays(*shapes):
  """Makes inputs of these shapes."""

  def make_inputs(seed, dtype):
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.normal(size=s), dtype) for s in shapes)

  return make_inputs


def keyed(*shapes):
  """Makes a fresh key, and inputs of these shapes."""
  make_arrays = arrays(*shapes)

  def make_inputs(seed, dtype):
    return jax.random.key(seed), *make_arrays(seed, dtype)

  return make_inputs


def together(make_inputs):
  """Compiles a maker that calls functions of the library as one program."""
  return jax.jit(make_inputs, static_argnums=(0, 1))
