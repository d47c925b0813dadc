"""Tests of lilly.learners.agents: what each learner makes of one interface."""

import jax
import jax.numpy as jnp
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


def start(agent, observation, seed=0):
  init = jax.jit(lambda key: agent.init(key, observation[None], HYPER))
  return init(jax.random.key(seed))


@pytest.mark.parametrize("kind", ["naf", "ddpg"])
def test_an_agent_is_its_learner_with_the_hyper_parameters_of_its_run(kind):
  agent, learner, nets, optimisers = make(kind)
  batch = ddpg_test.batch_of()

  @jax.jit
  def by_agent(key):
    state = agent.init(key, batch.observation, HYPER)
    # Steps of Adam's kind would not tell learning rates from each other.
    return agent.update(state, batch, HYPER)

  @jax.jit
  def by_learner(key):
    state = learner.init(key, nets, batch.observation, *optimisers)
    return learner.update(
      nets, state, batch, *optimisers, discount=0.9, tau=0.25
    )

  found, wanted = by_agent(jax.random.key(0)), by_learner(jax.random.key(0))
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6),
    found,
    wanted,
  )


def test_ddpgs_value_is_that_of_its_action():
  agent, _, nets, _ = make("ddpg")
  seen = jnp.ones(ddpg_test.O)
  state = start(agent, seen)

  @jax.jit
  def use(state):
    action = ddpg.act(nets, state.policy, seen)
    value = ddpg.value(nets, state.critic, seen, action)
    return agent.outputs(state, seen), action, value

  found, action, value = use(state)
  np.testing.assert_allclose(found.mean, action, rtol=1e-6)
  np.testing.assert_allclose(found.value, value, rtol=1e-6)


@pytest.mark.parametrize(
  ("kind", "names"), [("naf", {"online"}), ("ddpg", {"policy", "critic"})]
)
def test_what_is_exported_acts(kind, names):
  agent, _, _, _ = make(kind)
  batch = ddpg_test.batch_of()
  seen = batch.observation[0]

  @jax.jit
  def train(key):
    # Targets are elsewhere after an update.
    state, _ = agent.update(agent.init(key, seen[None], HYPER), batch, HYPER)
    return state, agent.outputs(state, seen)

  state, wanted = train(jax.random.key(0))
  other, _ = train(jax.random.key(1))
  exported = agent.export(state)
  assert set(exported) == names
  found = jax.jit(agent.outputs)(other._replace(**exported), seen)
  np.testing.assert_allclose(found.mean, wanted.mean, rtol=1e-6)
  np.testing.assert_allclose(found.value, wanted.value, rtol=1e-6)
