"""Tests of lilly.envs.mountain_car: Gym's equations, and Gym itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.envs import environment, mountain_car

_RNG = np.random.default_rng(0)
_STATES = _RNG.uniform([-1.2, -0.07], [0.6, 0.07], (60, 2))
# At the left end, at both bounds of speed, before, at and beyond the flag.
_STATES[:7] = [
  [-1.2, -0.01],
  [-1.19, -0.07],
  [-0.5, 0.0699],
  [0.44, 0.02],
  [0.5, 0.001],
  [0.5, -0.03],
  [0.59, 0.07],
]
_FORCES = np.clip(2 * _RNG.normal(size=60), -1, 1)
_FORCES[:7] = [-1, 1, 1, 1, 1, 0, 0.5]


def _gym(x, v, force):
  """Position, speed, reward and end, by the page of Gym's task."""
  v = np.clip(v + 0.0015 * force - 0.0025 * np.cos(3 * x), -0.07, 0.07)
  x = np.clip(x + v, -1.2, 0.6)
  if x == -1.2 and v < 0:
    v = 0.0
  is_over = x >= 0.45 and v >= 0
  return x, v, 100 * is_over - 0.1 * force**2, is_over


@pytest.fixture(scope="module")
def steps():
  """Steps that follow _STATES."""
  env = mountain_car.make(num_steps=None)
  key = jax.random.key(0)

  @jax.jit
  @jax.vmap
  def step(state, force):
    return env.step(key, mountain_car.State(*state), force[None])[1]

  arrays = jnp.asarray(_STATES, jnp.float32), jnp.asarray(_FORCES, jnp.float32)
  return jax.tree.map(np.asarray, step(*arrays))


def test_steps_are_gyms_by_its_equations(steps):
  expected = [_gym(*s, f) for s, f in zip(_STATES, _FORCES, strict=True)]
  x, v, reward, is_over = np.transpose(expected)
  assert 2 < is_over.sum() < 30 and (x == -1.2).any() and (v == 0.07).any()
  np.testing.assert_allclose(steps.observation, np.stack([x, v], 1), atol=1e-6)
  np.testing.assert_allclose(steps.reward, reward, atol=1e-5)
  np.testing.assert_array_equal(steps.discount, 1 - is_over)
  assert not steps.truncated.any()


def test_steps_are_gyms(steps):
  pytest.importorskip("gymnasium", reason="the test extra does not bring it.")
  from gymnasium.envs import classic_control

  env = classic_control.Continuous_MountainCarEnv()
  for i, (state, force) in enumerate(zip(_STATES, _FORCES, strict=True)):
    env.state = state
    observation, reward, terminated, _, _ = env.step(np.array([force]))
    np.testing.assert_allclose(steps.observation[i], observation, atol=1e-6)
    np.testing.assert_allclose(steps.reward[i], reward, atol=1e-5)
    assert terminated == (steps.discount[i] == 0)


def _drive(env, policy, length):
  """Steps of one episode and of what follows it."""

  def step(carry, key):
    state, observation = carry
    state, step = env.step(key, state, policy(observation))
    return (state, step.observation), step

  @jax.jit
  def run(start_key, key):
    keys = jax.random.split(key, length)
    return jax.lax.scan(step, env.reset(start_key), keys)[1]

  return run(*jax.random.split(jax.random.key(0)))


def test_the_flag_terminates_and_the_clock_truncates():
  env = mountain_car.make(num_steps=120)

  def with_the_motion(observation):
    return jnp.sign(observation[1:] + 1e-9)

  won = _drive(env, with_the_motion, 120)
  end = int(environment.is_last(won).argmax())
  assert 60 < end < 119
  assert won.discount[end] == 0 and not won.truncated[: end + 1].any()
  assert won.reward[end] > 99 and won.observation[end, 0] >= 0.45
  lost = _drive(env, lambda observation: jnp.zeros(1), 120)
  assert (lost.discount == 1).all()
  assert lost.truncated.tolist() == [False] * 119 + [True]
