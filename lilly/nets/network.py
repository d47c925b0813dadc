"""Networks as plain functions of one example, applied to batches.

A `Network` is unbatched; `init` and `apply` map it over a batch with the axis
name 'batch', so that batch normalisation uses the statistics of the whole
batch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import optax

__all__ = [
  "Network",
  "Variables",
  "apply",
  "apply_one",
  "from_haiku",
  "init",
  "step",
  "update_targets",
]


class Network(NamedTuple):
  """A network for one example, from any library."""

  # init(key, *inputs) -> (params, state)
  init: Callable[..., tuple[Any, Any]]
  # apply(params, state, key, *inputs, is_training) -> (outputs, state)
  apply: Callable[..., tuple[Any, Any]]


class Variables(NamedTuple):
  """Parameters and state of one network."""

  params: Any
  state: Any  # such as the running averages of batch normalisation


def from_haiku(transformed: hk.TransformedWithState) -> Network:
  """Converts a haiku network.

  Args:
    transformed: result of `hk.transform_with_state` for a function of one
      example and the keyword `is_training`.

  Returns:
    The network.

  >>> net = from_haiku(
  ...   hk.transform_with_state(lambda x, is_training: hk.Linear(3)(x))
  ... )
  >>> variables, _ = init(jax.random.key(0), net, jnp.zeros((5, 2)))
  >>> apply_one(net, variables, jnp.zeros(2)).shape
  (3,)
  """

  def init(key, *inputs):
    # With is_training batch normalisation initialises its averages; haiku
    # returns the state from before that.
    return transformed.init(key, *inputs, is_training=True)

  def apply(params, state, key, *inputs, is_training=False):
    return transformed.apply(
      params, state, key, *inputs, is_training=is_training
    )

  return Network(init, apply)


def init(
  key: jax.Array, network: Network, *inputs: Any
) -> tuple[Variables, Any]:
  """Initialises parameters, and running averages from a batch.

  Args:
    key: typed key.
    network: network for one example.
    *inputs: batch of inputs, [B, ...] each.

  Returns:
    The variables, and the outputs for that batch.
  """

  def init_one(*inputs):
    return network.init(key, *inputs)

  init_batch = jax.vmap(init_one, out_axes=None, axis_name="batch")
  variables = Variables(*init_batch(*inputs))
  outputs, state = apply(network, variables, *inputs, is_training=True)
  return variables._replace(state=state), outputs


def apply(
  network: Network,
  variables: Variables,
  *inputs: Any,
  is_training: bool = False,
) -> tuple[Any, Any]:
  """Applies a network to a batch.

  Args:
    network: network for one example.
    variables: variables of the network.
    *inputs: batch of inputs, [B, ...] each.
    is_training: whether to normalise by this batch instead of the running
      averages.

  Returns:
    Outputs, [B, ...] each, and the network's next state.
  """

  def apply_one(*inputs):
    params, state = variables
    return network.apply(params, state, None, *inputs, is_training=is_training)

  return jax.vmap(apply_one, out_axes=(0, None), axis_name="batch")(*inputs)


def apply_one(network: Network, variables: Variables, *inputs: Any) -> Any:
  """Applies a network to one example, using its running averages.

  Args:
    network: network for one example.
    variables: variables of the network.
    *inputs: the example.

  Returns:
    The outputs.
  """
  batch = jax.tree.map(lambda x: x[None], inputs)
  return jax.tree.map(lambda x: x[0], apply(network, variables, *batch)[0])


def step(
  optimiser: optax.GradientTransformation,
  grads: Any,
  opt_state: optax.OptState,
  variables: Variables,
  state: Any,
) -> tuple[Variables, optax.OptState]:
  """Takes one optimiser step.

  Args:
    optimiser: optimiser of the parameters.
    grads: gradient, in the structure of the parameters.
    opt_state: state of the optimiser.
    variables: variables before the step.
    state: the network's next state; non-finite entries keep their old values,
      as the optimiser's guard protects only the parameters.

  Returns:
    The variables and the optimiser state after the step.
  """
  updates, opt_state = optimiser.update(grads, opt_state, variables.params)
  state = jax.tree.map(
    lambda new, old: jnp.where(jnp.isfinite(new), new, old),
    state,
    variables.state,
  )
  params = optax.apply_updates(variables.params, updates)
  return Variables(params, state), opt_state


def update_targets(new: Any, targets: Any, tau: float | jax.Array) -> Any:
  """Updates target networks by Polyak averaging: θ' <- τ θ + (1 - τ) θ'.

  Args:
    new: variables θ, or a tree of them.
    targets: variables of the target networks, θ'.
    tau: update rate τ.

  Returns:
    The targets. Running averages are averaged like parameters; integers, such
    as counters, are copied.

  Reference:
    Lillicrap et al., 2016 (arXiv 1509.02971), algorithm 1.
  """

  def update_leaf(x, y):
    is_number = jnp.issubdtype(x.dtype, jnp.floating)
    return optax.incremental_update(x, y, tau) if is_number else x

  return jax.tree.map(update_leaf, new, targets)
