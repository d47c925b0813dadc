"""Agents of continuous control under one interface: NAF and DDPG."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import optax

from lilly.learners import ddpg as ddpg_learner
from lilly.learners import naf as naf_learner
from lilly.nets.actor_critic import Networks
from lilly.nets.network import Network
from lilly.nets.normalized_advantage import Outputs

__all__ = ["Agent", "ddpg", "naf"]

Hyper = Mapping[str, Any]
# optimiser(learning rate) -> optax optimiser
Optimiser = Callable[[Any], optax.GradientTransformation]


class Agent(NamedTuple):
  """A learner as functions of its state."""

  # init(key, observations [B, ...], hyper) -> state
  init: Callable[[jax.Array, jax.Array, Hyper], Any]
  # outputs(state, observation) -> V, greedy action, L or None
  outputs: Callable[[Any, jax.Array], Outputs]
  # update(state, batch, hyper) -> state, metrics
  update: Callable[[Any, Any, Hyper], tuple[Any, dict[str, jax.Array]]]
  # export(state) -> variables of the policy and its critic
  export: Callable[[Any], dict[str, Any]]


def naf(net: Network, optimiser: Optimiser) -> Agent:
  """Makes an agent from `learners.naf`.

  Args:
    net: network, such as from `nets.normalized_advantage.network`.
    optimiser: maps a learning rate to a gradient transformation.

  Returns:
    The agent; hyper has learning_rate, discount and tau.
  """

  def init(key, observations, hyper):
    rate = hyper["learning_rate"]
    return naf_learner.init(key, net, observations, optimiser(rate))

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
    init,
    lambda state, observation: naf_learner.outputs(net, state, observation),
    update,
    export=lambda state: {"online": state.online},
  )


def ddpg(nets: Networks, optimiser: Optimiser) -> Agent:
  """Makes an agent from `learners.ddpg`; V is Q of the greedy action.

  Args:
    nets: policy and critic, such as from `nets.actor_critic.networks`.
    optimiser: maps a learning rate to a gradient transformation.

  Returns:
    The agent; hyper has policy_rate, critic_rate, discount and tau.
  """

  def init(key, observations, hyper):
    return ddpg_learner.init(
      key,
      nets,
      observations,
      optimiser(hyper["policy_rate"]),
      optimiser(hyper["critic_rate"]),
    )

  def outputs(state, observation):
    action = ddpg_learner.act(nets, state.policy, observation)
    value = ddpg_learner.value(nets, state.critic, observation, action)
    return Outputs(value, action, None)

  def update(state, batch, hyper):
    return ddpg_learner.update(
      nets,
      state,
      batch,
      optimiser(hyper["policy_rate"]),
      optimiser(hyper["critic_rate"]),
      discount=hyper["discount"],
      tau=hyper["tau"],
    )

  return Agent(init, outputs, update, export=ddpg_learner.export)
