"""What ddpg.py learns where the answer is known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from experiments import ddpg
from lilly.envs import environment, wrappers
from lilly.learners import ddpg as learner
from lilly.replay import ring
from tests.running import parse

pytestmark = pytest.mark.slow

A = np.array([[1.0, 0.1], [0.0, 0.8]], np.float32)
B = np.array([[0.0], [0.1]], np.float32)
COST, EFFORT = np.diag([1.0, 0.1]).astype(np.float32), np.float32([[1.0]])


def trained(env, num_updates, *flags):
  """Trains one run; returns its networks, state and last metrics."""
  settings, _ = parse(
    ddpg,
    "--hidden_sizes=64,64",
    "--capacity=20000",
    *flags,
  )
  experiment = ddpg.make_experiment(env, settings)

  @jax.jit
  def train():
    hyper = jax.tree.map(jnp.float32, dict(experiment.hyper))
    state = experiment.init(jax.random.key(0), hyper, ())

    def step(state, _):
      return experiment.update(state, ())

    state, metrics = jax.lax.scan(step, state, None, length=num_updates)
    return state, jax.tree.map(lambda x: jnp.mean(x[-200:]), metrics)

  return ddpg.make_networks(settings, env), *train()


def box(size, bound):
  return environment.box([-bound] * size, [bound] * size)


def test_a_constant_reward_is_worth_what_its_discounts_sum_to():
  # An episode has 20 steps by the clock alone: a sum that stopped there would
  # be 1 + 0.99 + ... + 0.99^19 = 18.2 at most. The targets are fast, for values
  # close in on 100 by a hundredth at a time.
  def reset(key):
    del key
    return jnp.zeros(()), jnp.zeros(1)

  def step(key, state, action):
    del key, action
    return state + 1, environment.make_step((state + 1)[None] / 20, 1.0)

  env = environment.Environment(reset, step, box(1, 1.0), box(1, 1.0))
  env = wrappers.time_limit(env, 20)
  _, _, metrics = trained(env, 20_000, "--tau=0.1", "--reward_scale=1")
  np.testing.assert_allclose(metrics["q"], 100.0, rtol=0.03)


def test_values_of_a_linear_system_are_riccatis():
  def reset(key):
    state = jax.random.uniform(key, (2,), minval=-1.0)
    return state, state

  def step(key, state, action):
    del key
    cost = state @ COST @ state + action @ EFFORT @ action
    state = A @ state + B @ action
    return state, environment.make_step(state, -cost)

  env = environment.Environment(reset, step, box(2, 10.0), box(1, 1.0))
  env = wrappers.time_limit(env, 50)
  discount = 0.95
  flags = ["--discount=0.95", "--policy_rate=1e-3", "--tau=0.005"]
  flags.append("--reward_scale=0.3")
  nets, state, _ = trained(env, 20_000, *flags)

  # Discounting is a system whose state shrinks by its square root.
  root = np.sqrt(discount)
  value = scipy.linalg.solve_discrete_are(root * A, root * B, COST, EFFORT)
  inner = EFFORT + discount * B.T @ value @ B
  gain = np.linalg.solve(inner, discount * B.T @ value @ A)
  assert np.abs(gain).sum() < 1  # no action is cut where episodes start

  seen = ring.contents(state.replay)
  s, a = np.asarray(seen.observation), np.asarray(seen.action)
  following = s @ A.T + a @ B.T
  exact = -(
    np.sum((s @ COST) * s, 1)
    + np.sum((a @ EFFORT) * a, 1)
    + discount * np.sum((following @ value) * following, 1)
  )
  q = jax.vmap(lambda s, a: learner.value(nets, state.agent.critic, s, a))
  found = np.asarray(q(s, a))
  assert np.corrcoef(found, exact)[0, 1] > 0.98
  np.testing.assert_allclose(np.polyfit(exact, found, 1)[0], 0.3, rtol=0.05)
  actions = jax.vmap(lambda s: learner.act(nets, state.agent.policy, s))(s)
  wanted = np.clip(-s @ gain.T, -1, 1)
  assert np.corrcoef(actions[:, 0], wanted[:, 0])[0, 1] > 0.95
