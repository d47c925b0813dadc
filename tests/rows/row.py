"""What a row of the conformance suite holds, and makers of its inputs."""

import inspect
from collections.abc import Callable, Mapping
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
  # What the tests of kinds (kinds_test.py) need to know:
  # parameters that the inputs stand for, where the call's names are others
  names: tuple[str, ...] | None = None
  # axes that may change their size alone: "words.0", "state.memory.1"
  free: frozenset[str] = frozenset()
  # arguments and fields that may have any rank
  any_rank: frozenset[str] = frozenset()
  # numerical keyword -> values that are refused; those of a `call` are passed
  # on by its **hyper
  constants: Mapping[str, tuple[float, ...]] = {}
  # edges of what the docstring allows: name -> maker of inputs
  edges: Mapping[str, Callable] = {}
  # kind ("gradient", "zeros", "equal", "integers", ...) -> why it is left out
  without: Mapping[str, str] = {}

  @property
  def name(self) -> str:
    module = self.function.__module__.removeprefix("lilly.")
    return f"{module}.{self.function.__name__}"

  @property
  def run(self) -> Callable:
    """What is called with the inputs."""
    return self.call or self.function

  @property
  def input_names(self) -> tuple[str, ...]:
    """The parameter that each input stands for."""
    if self.names is not None:
      return self.names
    parameters = inspect.signature(self.run).parameters.values()
    if any(p.kind == p.VAR_POSITIONAL for p in parameters):
      parameters = inspect.signature(self.function).parameters.values()
    return tuple(p.name for p in parameters if p.kind < p.VAR_POSITIONAL)


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
