"""Networks of a policy and of values, with any recurrent core.

Each is a `recurrent.Core` whose output is a record: logits and a value, action
values, or a Gaussian and a value. The core's linear output layer makes these
numbers, so that `recurrent.feedforward` is a network of one hidden layer
without memory, and any core of `cores` one with memory.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from lilly import checks
from lilly.nets import recurrent
from lilly.nets.recurrent import Core

__all__ = [
  "Choice",
  "Gaussian",
  "MakeCore",
  "action_values",
  "categorical",
  "gaussian",
  "with_encoder",
]

# make_core(input_size, output_size) -> core
MakeCore = Callable[[int, int], Core]


class Choice(NamedTuple):
  """A distribution over discrete actions, and a value."""

  logits: jax.Array  # [A]
  value: jax.Array  # []


class Gaussian(NamedTuple):
  """A spherical Gaussian over continuous actions, and a value."""

  mean: jax.Array  # [m]
  variance: jax.Array  # [], positive
  value: jax.Array  # []


def categorical(
  input_size: int,
  num_actions: int,
  *,
  make_core: MakeCore = recurrent.feedforward,
) -> Core:
  """Makes a network of a policy of discrete actions, and of values.

  Args:
    input_size: size of an observation, D.
    num_actions: number of actions, A.
    make_core: maps the sizes of input and output to a core.

  Returns:
    A core whose outputs are `Choice`s; policy and value share all layers but
    the last.

  Raises:
    ValueError: a size is not positive.

  Reference:
    Mnih et al., 2016 (arXiv 1602.01783), section 5.1.

  >>> net = categorical(4, 2)
  >>> params = net.init(jax.random.key(0))
  >>> _, choice = net.apply(params, jnp.zeros(4), net.initial_state())
  >>> choice.logits.shape, choice.value.shape
  ((2,), ())
  """
  num_actions = checks.whole_number("num_actions", num_actions, least=1)
  core = make_core(input_size, num_actions + 1)

  def split(output):
    return Choice(output[:num_actions], output[num_actions])

  return _with_head(core, split)


def action_values(
  input_size: int,
  num_actions: int,
  *,
  make_core: MakeCore = recurrent.feedforward,
) -> Core:
  """Makes a network of action values.

  Args:
    input_size: size of an observation, D.
    num_actions: number of actions, A.
    make_core: maps the sizes of input and output to a core.

  Returns:
    A core whose outputs are Q, [A].

  Raises:
    ValueError: a size is not positive.

  Reference:
    Mnih et al., 2016 (arXiv 1602.01783), section 4.

  >>> net = action_values(4, 2)
  >>> params = net.init(jax.random.key(0))
  >>> net.apply(params, jnp.zeros(4), net.initial_state())[1].shape
  (2,)
  """
  num_actions = checks.whole_number("num_actions", num_actions, least=1)
  return make_core(input_size, num_actions)


class _Pair(NamedTuple):
  """Parameters or memories of two networks that share nothing."""

  policy: object
  value: object


def gaussian(
  input_size: int,
  action_size: int,
  *,
  make_core: MakeCore = recurrent.feedforward,
  min_variance: float = 1e-6,
) -> Core:
  """Makes a network of a Gaussian policy, and a separate one of values.

  μ = A h + b,  σ² = softplus(c · h + d) + min_variance.

  Args:
    input_size: size of an observation, D.
    action_size: action dimension, m.
    make_core: maps the sizes of input and output to a core; called twice, as
      policy and value share no layer.
    min_variance: least variance, for float32.

  Returns:
    A core whose outputs are `Gaussian`s.

  Raises:
    ValueError: a size is not positive, or min_variance is negative.

  Reference:
    Mnih et al., 2016 (arXiv 1602.01783), supplement 9; the least variance is
    not in the paper.

  >>> net = gaussian(4, 2)
  >>> params = net.init(jax.random.key(0))
  >>> _, normal = net.apply(params, jnp.zeros(4), net.initial_state())
  >>> normal.mean.shape, float(normal.variance) > 0
  ((2,), True)
  """
  action_size = checks.whole_number("action_size", action_size, least=1)
  min_variance = checks.number("min_variance", min_variance, least=0)
  of_policy = make_core(input_size, action_size + 1)
  of_value = make_core(input_size, 1)

  def init(key) -> Any:
    key_policy, key_value = jax.random.split(key)
    return _Pair(of_policy.init(key_policy), of_value.init(key_value))

  def initial_state():
    return _Pair(of_policy.initial_state(), of_value.initial_state())

  def apply(params: Any, observation, state) -> Any:
    policy, numbers = of_policy.apply(params.policy, observation, state.policy)
    memory, value = of_value.apply(params.value, observation, state.value)
    variance = jax.nn.softplus(numbers[action_size]) + min_variance
    output = Gaussian(numbers[:action_size], variance, value[0])
    return _Pair(policy, memory), output

  def detach(state):
    return _Pair(of_policy.detach(state.policy), of_value.detach(state.value))

  return Core(init, initial_state, apply, detach)


def _with_head(core, head):
  """The core with another form of its output."""

  def apply(params, observation, state):
    state, output = core.apply(params, observation, state)
    return state, head(output)

  return core._replace(apply=apply)


def with_encoder(make_core: MakeCore, hidden_sizes: Sequence[int]) -> MakeCore:
  """Puts ReLU layers before a core.

  Args:
    make_core: maps the sizes of input and output to a core.
    hidden_sizes: units of each layer.

  Returns:
    A function like make_core, of cores whose parameters are a dict of those of
    the encoder and of the core.

  Raises:
    ValueError: a size is not positive.

  >>> make = with_encoder(recurrent.feedforward, [8, 8])
  >>> sorted(make(4, 2).init(jax.random.key(0)))
  ['core', 'encoder']
  """
  sizes = [
    checks.whole_number("hidden_sizes", size, least=1) for size in hidden_sizes
  ]
  if not sizes:
    return make_core
  encoder = hk.without_apply_rng(
    hk.transform(lambda x: hk.nets.MLP(sizes, activate_final=True)(x))
  )

  def make(input_size, output_size):
    core = make_core(sizes[-1], output_size)

    def init(key):
      key_encoder, key_core = jax.random.split(key)
      return {
        "encoder": encoder.init(key_encoder, jnp.zeros(input_size)),
        "core": core.init(key_core),
      }

    def apply(params, observation, state):
      observation = checks.real("observation", observation, f"{input_size}")
      code = encoder.apply(params["encoder"], observation)
      return core.apply(params["core"], code, state)

    return core._replace(init=init, apply=apply)

  return make
