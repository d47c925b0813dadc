"""Tests of lilly.envs.pendulum: Gym's equations, and Gym itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.envs import pendulum

_RNG = np.random.default_rng(0)
# More than once around, at the bounds of speed and torque, and between.
_STATES = np.stack([9 * _RNG.normal(size=60), _RNG.uniform(-8, 8, 60)], axis=1)
_STATES[:3] = [[0.0, 0.0], [np.pi / 2, 8.0], [-np.pi / 2, -8.0]]
_TORQUES = np.clip(3 * _RNG.normal(size=60), -2, 2)


def _gym(angle, speed, torque):
  """Angle, speed and reward after a step, by the page of Gym's task."""
  wrapped = np.arctan2(np.sin(angle), np.cos(angle))
  reward = -(wrapped**2 + 0.1 * speed**2 + 0.001 * torque**2)
  g, m, l, dt = 10.0, 1.0, 1.0, 0.05
  push = 3 * g / (2 * l) * np.sin(angle) + 3 / (m * l**2) * torque
  speed = min(max(speed + push * dt, -8), 8)
  return angle + speed * dt, speed, reward


@pytest.fixture(scope="module")
def steps():
  """States and steps that follow _STATES."""
  env = pendulum.make(num_steps=None)
  key = jax.random.key(0)

  @jax.jit
  @jax.vmap
  def step(state, torque):
    return env.step(key, pendulum.State(*state), torque[None])

  arrays = jnp.asarray(_STATES, jnp.float32), jnp.asarray(_TORQUES, jnp.float32)
  return jax.tree.map(np.asarray, step(*arrays))


def test_steps_are_gyms_by_its_equations(steps):
  (angles, speeds), step = steps
  expected = [_gym(*s, u) for s, u in zip(_STATES, _TORQUES, strict=True)]
  angle, speed, reward = np.transpose(expected)
  assert (np.abs(speed) == 8).sum() > 3
  np.testing.assert_allclose(angles, angle, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(speeds, speed, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(step.reward, reward, rtol=1e-4, atol=1e-4)
  observation = np.stack([np.cos(angle), np.sin(angle), speed], axis=1)
  np.testing.assert_allclose(step.observation, observation, atol=1e-4)


def test_steps_are_gyms(steps):
  pytest.importorskip("gymnasium", reason="the test extra does not bring it.")
  from gymnasium.envs import classic_control

  (angles, speeds), step = steps
  env = classic_control.PendulumEnv()
  for i, (state, torque) in enumerate(zip(_STATES, _TORQUES, strict=True)):
    env.state = state
    observation, reward, terminated, _, _ = env.step(np.array([torque]))
    assert not terminated and step.discount[i] == 1
    np.testing.assert_allclose(step.observation[i], observation, atol=1e-4)
    np.testing.assert_allclose(step.reward[i], reward, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose((angles[i], speeds[i]), env.state, atol=1e-4)


def test_energy_is_kept_by_small_steps():
  @jax.jit
  def swing(state):
    def move(state, _):
      state = pendulum.dynamics(state, 0.0, dt=1e-4, max_speed=np.inf)
      return state, state

    return jax.lax.scan(move, state, length=20000)[1]

  angle, speed = swing(pendulum.State(jnp.float32(2.0), jnp.float32(0.0)))
  # A rod of length 1 and mass 1: I = 1/3, its middle at 1/2.
  energy = speed**2 / 6 + 10 * 0.5 * jnp.cos(angle)
  assert np.ptp(energy) < 0.01 and np.ptp(angle) > 2


def test_constants_reach_the_dynamics():
  env = pendulum.make(gravity=0.0, mass=2.0, length=0.5, max_speed=50.0)
  assert env.observation_spec.maximum.tolist() == [1, 1, 50]
  state, _ = jax.jit(env.reset)(jax.random.key(0))
  moved, _ = jax.jit(env.step)(jax.random.key(1), state, jnp.ones(1))
  gained = moved.state.velocity - state.state.velocity
  np.testing.assert_allclose(gained, 3 / (2 * 0.5**2) * 0.05, rtol=1e-4)


def test_starts_fill_their_range():
  env = pendulum.make()
  keys = jax.random.split(jax.random.key(0), 400)
  (state, _), _ = jax.jit(jax.vmap(env.reset))(keys)
  for values, high in ((state.angle, np.pi), (state.velocity, 1)):
    assert -high <= values.min() < -0.9 * high
    assert 0.9 * high < values.max() <= high


def test_a_start_may_be_given():
  env = pendulum.make(start=(3.0, -0.5), num_steps=None)
  for seed in range(2):
    state, _ = env.reset(jax.random.key(seed))
    np.testing.assert_allclose(state, [3.0, -0.5], rtol=1e-6)
