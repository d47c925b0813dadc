"""Recurrent networks with one interface, and a controller for any memory.

A `Core` is a set of functions of one example; `lilly.nets.cores` lists all
cores. They raise ValueError for an input or a state of another shape.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from lilly import checks
from lilly.nets import memories

__all__ = [
  "Core",
  "State",
  "feedforward",
  "gru",
  "lstm",
  "unroll",
  "with_memory",
]


class Core(NamedTuple):
  """A recurrent network for one example; `vmap` over examples."""

  # init(key) -> parameters
  init: Callable[[jax.Array], hk.Params]
  # initial_state() -> state, newly allocated at every call
  initial_state: Callable[[], Any]
  # apply(parameters, input [D], state) -> (state, output [O])
  apply: Callable[[hk.Params, jax.Array, Any], tuple[Any, jax.Array]]
  # detach(state) -> state: ends a segment of truncated backpropagation
  detach: Callable[[Any], Any] = jax.lax.stop_gradient
  # accesses(state) -> as `memories.Memory`; None: no accesses to show
  accesses: Callable[[Any], tuple[jax.Array, jax.Array]] | None = None


def unroll(
  core: Core, params: hk.Params, inputs: jax.Array, state: Any
) -> tuple[Any, jax.Array]:
  """Applies a core to a sequence of inputs.

  Args:
    core: the recurrent network.
    params: its parameters.
    inputs: [T, D].
    state: state before the first input.

  Returns:
    The state after the last input, and the outputs, [T, O].
  """
  inputs = checks.real("inputs", inputs, "T D")

  def step(state, x):
    return core.apply(params, x, state)

  return jax.lax.scan(step, state, inputs)


def lstm(input_size: int, output_size: int, *, hidden_size: int = 100) -> Core:
  """Makes a long short-term memory with a linear output, y = A h + b.

  Args:
    input_size: size of an input, D.
    output_size: size of an output, O.
    hidden_size: number of units.

  Returns:
    The core; its state is a `hk.LSTMState`, initially zeros.

  Raises:
    ValueError: if a size is not positive.

  Reference:
    Hochreiter and Schmidhuber (1997), with haiku's addition of 1 to the forget
    gate's logit; 100 units as in the controllers of Rae et al. (2016),
    arXiv:1610.09027.
  """
  _check_sizes(
    input_size=input_size, output_size=output_size, hidden_size=hidden_size
  )
  return _linear_of(
    lambda: hk.LSTM(hidden_size),
    lambda: _lstm_state(hidden_size),
    input_size,
    output_size,
  )


def gru(input_size: int, output_size: int, *, hidden_size: int = 100) -> Core:
  """Makes a gated recurrent unit with a linear output, y = A h + b.

  Args:
    input_size: size of an input, D.
    output_size: size of an output, O.
    hidden_size: number of units.

  Returns:
    The core; its state is h, [hidden_size], initially zeros.

  Raises:
    ValueError: if a size is not positive.

  Reference:
    Cho et al. (2014), arXiv:1406.1078, in the form of `hk.GRU`.
  """
  _check_sizes(
    input_size=input_size, output_size=output_size, hidden_size=hidden_size
  )
  return _linear_of(
    lambda: hk.GRU(hidden_size),
    lambda: jnp.zeros(hidden_size),
    input_size,
    output_size,
  )


def feedforward(
  input_size: int, output_size: int, *, hidden_size: int = 100
) -> Core:
  """Makes a feedforward network, y = C relu(A x + b) + d.

  Has the interface of a core, as a baseline without memory.

  Args:
    input_size: size of an input, D.
    output_size: size of an output, O.
    hidden_size: number of units.

  Returns:
    The core; its state is empty.

  Raises:
    ValueError: if a size is not positive.

  >>> feedforward(3, 2, hidden_size=8).initial_state()
  ()
  """
  _check_sizes(
    input_size=input_size, output_size=output_size, hidden_size=hidden_size
  )

  def forward(x, state):
    x = jax.nn.relu(hk.Linear(hidden_size, name="hidden")(x))
    return state, hk.Linear(output_size, name="output")(x)

  return _core(forward, lambda: (), input_size)


def _linear_of(make_cell, initial_state, input_size, output_size) -> Core:
  def forward(x, state):
    h, state = make_cell()(x, state)
    return state, hk.Linear(output_size, name="output")(h)

  return _core(forward, initial_state, input_size)


def _core(forward, initial_state, input_size, **functions) -> Core:
  network = hk.without_apply_rng(hk.transform(forward))

  @functools.cache
  def shapes():
    return jax.tree_util.tree_leaves_with_path(jax.eval_shape(initial_state))

  def check_state(state):
    leaves, structure = jax.tree.flatten(state)
    if len(leaves) != len(shapes()):
      raise ValueError(
        f"state has {len(leaves)} arrays; it must have {len(shapes())}."
      )
    return structure.unflatten(
      checks.array("state" + _written(path), leaf, _sizes(like.shape))
      for leaf, (path, like) in zip(leaves, shapes(), strict=True)
    )

  def init(key):
    key = checks.key("key", key)
    return network.init(key, jnp.zeros(input_size), initial_state())

  def apply(params, x, state):
    x = checks.real("input", x, f"{input_size}")
    return network.apply(params, x, check_state(state))

  return Core(init, initial_state, apply, **functions)


def _written(path):
  """The place of a leaf in a state of records, such as ".memory.usage"."""
  names = [getattr(part, "name", getattr(part, "idx", "")) for part in path]
  return "".join(f".{name}" for name in names)


def _sizes(shape):
  return " ".join(map(str, shape))


def _lstm_state(size):
  return hk.LSTMState(hidden=jnp.zeros(size), cell=jnp.zeros(size))


def _check_sizes(**sizes):
  for name, size in sizes.items():
    checks.whole_number(name, size, least=1)


class State(NamedTuple):
  """State of a core with a memory."""

  controller: hk.LSTMState  # h and c, [hidden_size] each
  reads: jax.Array  # reads of the last step, [H, W]
  memory: Any  # state of the memory


def with_memory(
  memory: memories.Memory,
  input_size: int,
  output_size: int,
  *,
  hidden_size: int = 100,
  clip: float | None = 20.0,
  use_reads: bool = True,
) -> Core:
  """Makes an LSTM controller with a memory.

  h = LSTM([x, r_tm1]),  p = clip(A h + b),  r = step(p),  y = C [h, r] + d.

  Args:
    memory: the memory.
    input_size: size of an input, D.
    output_size: size of an output, O.
    hidden_size: units of the LSTM.
    clip: bound on the absolute values of p, the controller's outputs to the
      memory; None: no clipping.
    use_reads: False: r is replaced by zeros, an ablation equivalent to an LSTM;
      the memory is still written.

  Returns:
    The core; its state is a `State`.

  Raises:
    ValueError: if a size is not positive or `clip` is not.

  Reference:
    Rae et al. (2016), arXiv:1610.09027, section 3.3; `clip` as in Collier and
    Beel (2018), arXiv:1807.08518.
  """
  _check_sizes(
    input_size=input_size, output_size=output_size, hidden_size=hidden_size
  )
  if clip is not None:
    clip = checks.number("clip", clip, above=0, may_be_infinite=True)

  def initial_state():
    return State(
      _lstm_state(hidden_size), jnp.zeros(memory.reads), memory.init()
    )

  def forward(x, state):
    h, controller = hk.LSTM(hidden_size, name="controller")(
      jnp.concatenate([x, state.reads.reshape(-1)]), state.controller
    )
    content, reads = _access(memory, h, state, clip)
    reads = reads if use_reads else jnp.zeros_like(reads)
    y = hk.Linear(output_size, name="output")(
      jnp.concatenate([h, reads.reshape(-1)])
    )
    return State(controller, reads, content), y

  def detach(state):
    rest = jax.lax.stop_gradient(state._replace(memory=()))
    return rest._replace(memory=memory.detach(state.memory))

  accesses = None
  if memory.accesses is not None:
    accesses_of_memory = memory.accesses
    accesses = lambda state: accesses_of_memory(state.memory)
  return _core(
    forward, initial_state, input_size, detach=detach, accesses=accesses
  )


def _access(memory, h, state, clip):
  """Takes one step of the memory."""
  size = sum(map(math.prod, memory.interface.values()))
  numbers = hk.Linear(size, name="interface")(h)
  if clip is not None:
    numbers = jnp.clip(numbers, -clip, clip)
  if hk.running_init():  # the memory has no parameters
    return state.memory, state.reads
  return memory.step(state.memory, **_split(numbers, memory.interface))


def _split(numbers, shapes):
  """Splits a vector into named arrays of the given shapes."""
  parts, start = {}, 0
  for name, shape in shapes.items():
    end = start + math.prod(shape)
    parts[name] = numbers[start:end].reshape(shape)
    start = end
  return parts
