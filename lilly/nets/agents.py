"""Agents of continuous control under one interface: NAF and DDPG."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import haiku as hk
import jax
import optax

from lilly.nets import naf_learner, policy_gradient_learner
from lilly.nets.naf_learner import Outputs
from lilly.nets.policy_gradient_learner import Networks

__all__ = ["Agent", "ddpg", "naf"]

Hyper = Mapping[str, Any]
# optimiser(learning rate) -> optax's
Optimiser = Callable[[Any], optax.GradientTransformation]


class Agent(NamedTuple):
  """A learner as functions of its state."""

  # init(key, observations [B, ...], hyper) -> state
  init: Callable[[jax.Array, jax.Array, Hyper], Any]
  # outputs(state, observation) -> V, best action, L or None
  outputs: Callable[[Any, jax.Array], Outputs]
  # update(state, batch, hyper) -> state, metrics
  update: Callable[[Any, Any, Hyper], tuple[Any, dict[str, jax.Array]]]


def naf(net: hk.TransformedWithState, optimiser: Optimiser) -> Agent:
  """Makes an agent of `naf_learner`.

  Args:
    net: as from `naf_learner.network`.
    optimiser: of a learning rate.

  Returns:
    The agent; hyper has learning_rate, discount and tau.
  """

  def init(key, seen, hyper):
    return naf_learner.init(key, net, seen, optimiser(hyper["learning_rate"]))

  def update(state, batch, hyper):
    return naf_learner.update(
      net,
      state,
      batch,
      optimiser(hyper["learning_rate"]),
      discount=hyper["discount"],
      tau=hyper["tau"],
    )

  return Agent(
    init, lambda state, seen: naf_learner.outputs(net, state, seen), update
  )


def ddpg(nets: Networks, optimiser: Optimiser) -> Agent:
  """Makes an agent of `policy_gradient_learner`; V is the Q of its action.

  Args:
    nets: as from `policy_gradient_learner.networks`.
    optimiser: of a learning rate.

  Returns:
    The agent; hyper has policy_rate, critic_rate, discount and tau.
  """

  def both(hyper):
    return [optimiser(hyper[name]) for name in ("policy_rate", "critic_rate")]

  def init(key, seen, hyper):
    return policy_gradient_learner.init(key, nets, seen, *both(hyper))

  def outputs(state, seen):
    action = policy_gradient_learner.act(nets, state.policy, seen)
    value = policy_gradient_learner.value(nets, state.critic, seen, action)
    return Outputs(value, action, None)

  def update(state, batch, hyper):
    return policy_gradient_learner.update(
      nets,
      state,
      batch,
      *both(hyper),
      discount=hyper["discount"],
      tau=hyper["tau"],
    )

  return Agent(init, outputs, update)
