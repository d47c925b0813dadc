"""Tests of lilly.learners.agents: what each learner makes of one interface."""

import functools

import jax
import numpy as np
import optax
import pytest

from lilly.learners import agents, ddpg, naf
from lilly.nets import actor_critic, normalized_advantage
from tests.learners import ddpg_test

HYPER = {
  "learning_rate": 0.01,
  "policy_rate": 0.02,
  "critic_rate": 0.03,
  "discount": 0.9,
  "tau": 0.25,
}


def make(kind):
  """An agent, and its learner's init and update with the same numbers."""
  if kind == "naf":
    net = normalized_advantage.network(ddpg_test.M, (5, 4))
    rates = [optax.sgd(0.01)]
    return agents.naf(net, optax.sgd), naf, net, rates
  nets = actor_critic.networks(ddpg_test.M, (5, 4))
  rates = [optax.sgd(0.02), optax.sgd(0.03)]
  return agents.ddpg(nets, optax.sgd), ddpg, nets, rates


@functools.cache
def trained(kind):
  """Maps a key to an agent after one update, and to what it says of a state."""
  agent, _, _, _ = make(kind)
  batch = ddpg_test.batch_of()

  def train(key):
    state = agent.init(key, batch.observation, HYPER)
    # Steps of Adam's kind would not tell learning rates from each other.
    state, metrics = agent.update(state, batch, HYPER)
    return state, metrics, agent.outputs(state, batch.observation[0])

  return jax.jit(train)


@pytest.mark.parametrize("kind", ["naf", "ddpg"])
def test_an_agent_is_its_learner_with_the_hyper_parameters_of_its_run(kind):
  _, learner, nets, optimisers = make(kind)
  batch = ddpg_test.batch_of()

  @jax.jit
  def by_learner(key):
    state = learner.init(key, nets, batch.observation, *optimisers)
    return learner.update(
      nets, state, batch, *optimisers, discount=0.9, tau=0.25
    )

  *found, _ = trained(kind)(jax.random.key(0))
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6),
    tuple(found),
    by_learner(jax.random.key(0)),
  )


def test_ddpgs_value_is_that_of_its_action():
  _, _, nets, _ = make("ddpg")
  state, _, found = trained("ddpg")(jax.random.key(0))
  seen = ddpg_test.batch_of().observation[0]

  @jax.jit
  def use(state):
    action = ddpg.act(nets, state.policy, seen)
    return action, ddpg.value(nets, state.critic, seen, action)

  action, value = use(state)
  np.testing.assert_allclose(found.mean, action, rtol=1e-6)
  np.testing.assert_allclose(found.value, value, rtol=1e-6)


@pytest.mark.parametrize(
  ("kind", "names"), [("naf", {"online"}), ("ddpg", {"policy", "critic"})]
)
def test_what_is_exported_acts(kind, names):
  agent, _, _, _ = make(kind)
  # Targets are elsewhere after an update.
  state, _, wanted = trained(kind)(jax.random.key(0))
  other, _, _ = trained(kind)(jax.random.key(1))
  exported = agent.export(state)
  assert set(exported) == names
  seen = ddpg_test.batch_of().observation[0]
  found = jax.jit(agent.outputs)(other._replace(**exported), seen)
  np.testing.assert_allclose(found.mean, wanted.mean, rtol=1e-6)
  np.testing.assert_allclose(found.value, wanted.value, rtol=1e-6)
