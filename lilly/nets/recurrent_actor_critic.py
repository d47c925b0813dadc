"""Recurrent actors and critics, for partially observed tasks.

A network encodes an observation and the previous action, passes the code
through any `Core`, and its head reads both code and core output. The critic's
action enters at its head, so one unroll over the stored history serves the
stored actions and those of the policy.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from lilly.losses import svg
from lilly.nets import actor_critic, recurrent
from lilly.nets.recurrent import Core

__all__ = [
  "Network",
  "Networks",
  "evaluate",
  "init",
  "make_inputs",
  "mean_and_scale",
  "networks",
  "policy",
  "unroll",
  "unroll_episodes",
]


class Network(NamedTuple):
  """Encoder, recurrent core and head, functions of one example.

  Encoder and head need init(key, *inputs) -> params and apply(params, *inputs)
  -> outputs, from any library; they have no state.
  """

  encoder: hk.Transformed  # (observation, previous action [m]) -> [E]
  core: Core  # [E] and state -> state and [O]
  head: hk.Transformed  # features [E + O], and a critic's action -> outputs


class Networks(NamedTuple):
  """An actor and its critic."""

  actor: Network  # its head outputs m and s, [m] each: see `networks`
  critic: Network  # its head outputs Q, []
  is_stochastic: bool  # RSVG(0), else RDPG
  num_actions: int
  # Whether the previous action is an input. Without it, and with a core that
  # has no memory, these are DDPG and SVG(0).
  uses_previous_action: bool = True


def networks(
  observation_shape: tuple[int, ...],
  num_actions: int,
  make_core: Callable[[int, int], Core],
  *,
  encoder_size: int = 32,
  core_size: int = 32,
  hidden_size: int = 32,
  is_stochastic: bool = False,
  uses_previous_action: bool = True,
  least_scale: float = 0.1,
) -> Networks:
  """Makes networks whose heads read the core's output and input.

  Actions are tanh(m), or tanh(m + s ν) for a stochastic policy.

  Args:
    observation_shape: shape of an observation; three axes are an image.
    num_actions: action dimension, m; actions are in (-1, 1).
    make_core: maps input and output size to a core: one of `cores.CORES`, or a
      custom one.
    encoder_size: units of the encoder, E.
    core_size: size of the core's output, O.
    hidden_size: units of each head's hidden layer.
    is_stochastic: whether the policy is stochastic.
    uses_previous_action: whether the previous action is an input.
    least_scale: lower bound of s, without which the policy's noise may vanish.

  Returns:
    The networks.

  Raises:
    ValueError: a size is not positive, when called.

  Reference:
    Heess et al., 2015 (arXiv 1512.04455), section 4: separate recurrent actor
    and critic. Sizes, and that heads read the core's input too, are ours
    (unconfirmed).
  """
  num_outputs = num_actions * (2 if is_stochastic else 1)

  def encoder(inputs):
    return _encode(inputs, encoder_size, is_image=len(observation_shape) == 3)

  def actor_head(features):
    x = jax.nn.relu(hk.Linear(hidden_size, name="hidden")(features))
    return _split(_output(num_outputs)(x), is_stochastic, least_scale)

  def critic_head(features, action):
    x = jnp.concatenate([features, action])
    x = jax.nn.relu(hk.Linear(hidden_size, name="hidden")(x))
    return _output(1)(x)[0]

  def network(head):
    return Network(
      encoder=hk.without_apply_rng(hk.transform(encoder)),
      core=make_core(encoder_size, core_size),
      head=hk.without_apply_rng(hk.transform(head)),
    )

  return Networks(
    actor=network(actor_head),
    critic=network(critic_head),
    is_stochastic=is_stochastic,
    num_actions=num_actions,
    uses_previous_action=uses_previous_action,
  )


def _encode(inputs, size, is_image):
  observation, previous_action = inputs
  if is_image:
    observation = actor_critic.PixelEncoder()(observation)
  x = jnp.concatenate([observation.astype(jnp.float32), previous_action])
  return jax.nn.relu(hk.Linear(size, name="encoder")(x))


def _output(size):
  small = hk.initializers.RandomUniform(-3e-3, 3e-3)
  return hk.Linear(size, w_init=small, b_init=small, name="output")


def _split(outputs, is_stochastic, least_scale):
  """Returns m and s; s is 0 for a deterministic policy."""
  if not is_stochastic:
    return outputs, jnp.zeros_like(outputs)
  mean, scale = jnp.split(outputs, 2)
  # Initially 0.4: a policy with small actions must still explore larger ones.
  return mean, least_scale + jax.nn.softplus(scale - 1)


def init(key: jax.Array, network: Network, inputs: Any, *actions: Any) -> Any:
  """Initialises the parameters of a network.

  Args:
    key: typed key.
    network: an actor or a critic.
    inputs: an observation and a previous action, [m].
    *actions: for a critic, an action, [m].

  Returns:
    Parameters of encoder, core and head, by these names.
  """
  keys = jax.random.split(key, 3)
  encoder = network.encoder.init(keys[0], inputs)
  code = network.encoder.apply(encoder, inputs)
  core = network.core.init(keys[1])
  _, output = network.core.apply(core, code, network.core.initial_state())
  features = jnp.concatenate([code, output])
  head = network.head.init(keys[2], features, *actions)
  return {"encoder": encoder, "core": core, "head": head}


def make_inputs(
  nets: Networks, observation: jax.Array, previous_action: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Makes the networks' inputs; unused previous actions are set to zero.

  Args:
    nets: actor and critic.
    observation: observations, [..., *observation_shape].
    previous_action: previous actions, [..., m].

  Returns:
    Observations and previous actions.
  """
  if nets.uses_previous_action:
    return observation, previous_action
  return observation, jnp.zeros_like(previous_action)


def unroll(
  network: Network, params: Any, inputs: Any, state: Any
) -> tuple[Any, jax.Array]:
  """Applies encoder and core to a history, step by step.

  Args:
    network: an actor or a critic.
    params: its parameters.
    inputs: inputs from `losses.recurrent_dpg.history`, [T, ...] each.
    state: state of the core before the first step.

  Returns:
    The core's state after the last step, and the features that the head reads
    at each step, [T, E + O].
  """

  def encode(inputs):
    return network.encoder.apply(params["encoder"], inputs)

  codes = jax.vmap(encode)(inputs)
  state, outputs = recurrent.unroll(network.core, params["core"], codes, state)
  return state, jnp.concatenate([codes, outputs], axis=-1)


def unroll_episodes(network: Network, params: Any, inputs: Any) -> jax.Array:
  """Unrolls a network over episodes, each from the core's initial state.

  Args:
    network: an actor or a critic.
    params: its parameters.
    inputs: inputs from `make_inputs`, [B, T, ...] each.

  Returns:
    Features, [B, T, E + O].
  """

  def unroll_one(inputs):
    return unroll(network, params, inputs, network.core.initial_state())[1]

  return jax.vmap(unroll_one)(inputs)


def mean_and_scale(
  nets: Networks, actor: Any, features: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Applies the actor's head.

  Args:
    nets: actor and critic.
    actor: parameters of the actor.
    features: features from `unroll`, [..., E + O].

  Returns:
    m and s, before tanh, [..., m] each; s is 0 for a deterministic policy.
  """
  head = lambda x: nets.actor.head.apply(actor["head"], x)
  for _ in range(features.ndim - 1):
    head = jax.vmap(head)
  return head(features)


def policy(
  nets: Networks, mean: jax.Array, scale: jax.Array
) -> Callable[[jax.Array | float], jax.Array]:
  """Makes the map from noise to actions, tanh(m + s ν).

  Args:
    nets: actor and critic.
    mean: m, [..., m].
    scale: s, [..., m].

  Returns:
    Maps ν, [..., m] or a scalar, to actions, [..., m]; a deterministic policy
    ignores it.
  """
  if not nets.is_stochastic:
    return lambda noise: jnp.tanh(mean)

  def sample(noise):
    noise = jnp.broadcast_to(noise, mean.shape)
    return jnp.tanh(svg.action(mean, scale, noise))

  return sample


def evaluate(
  nets: Networks, critic: Any, features: jax.Array, action: jax.Array
) -> jax.Array:
  """Applies the critic's head: Q(h, a).

  Args:
    nets: actor and critic.
    critic: parameters of the critic.
    features: features from `unroll`, [..., E + O].
    action: actions, [..., m].

  Returns:
    Q, [...].
  """
  head = lambda x, a: nets.critic.head.apply(critic["head"], x, a)
  for _ in range(features.ndim - 1):
    head = jax.vmap(head)
  return head(features, action)
