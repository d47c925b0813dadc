"""Tests of lilly.envs.point_mass: MuJoCo's trajectory, walls, reward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.envs import point_mass
from tests.envs import simulators

_MODEL = """
<mujoco>
  <option timestep="0.02"><flag contact="disable"/></option>
  <default>
    <joint type="slide" damping="1"/><motor gear=".1"/>
  </default>
  <worldbody>
    <body>
      <joint name="x" axis="1 0 0"/><joint name="y" axis="0 1 0"/>
      <geom type="sphere" size=".01" mass=".3"/>
    </body>
  </worldbody>
  <actuator><motor joint="x"/><motor joint="y"/></actuator>
</mujoco>"""


def test_moves_as_in_mujoco():
  low, high = [-0.7, -1.2], [1.3, 0.8]
  controls = np.random.default_rng(0).uniform(low, high, (200, 2))
  expected = simulators.mujoco_trajectory(_MODEL, [0.1, 0], [0, 0.2], controls)
  start = point_mass.State(jnp.array([0.1, 0.0]), jnp.array([0.0, 0.2]))

  def move(state, force):
    state = point_mass.dynamics(state, force)
    return state, state

  run = jax.jit(lambda *inputs: jax.lax.scan(move, *inputs)[1])
  actual = run(start, jnp.asarray(0.1 * controls, jnp.float32))
  assert np.ptp(expected[0]) > 0.05 and np.abs(expected[0]).max() < 0.29
  np.testing.assert_allclose(actual.position, expected[0], atol=1e-5)
  np.testing.assert_allclose(actual.velocity, expected[1], atol=1e-5)


def test_walls_stop_the_ball_across_and_not_along():
  move = jax.jit(point_mass.dynamics)
  state = point_mass.State(jnp.array([0.285, -0.1]), jnp.array([1.0, 0.05]))
  state = move(state, jnp.zeros(2))
  np.testing.assert_allclose(state.position[0], 0.29)
  assert state.velocity[0] == 0 and state.velocity[1] > 0.04
  # It is free to leave.
  state = move(state, jnp.array([-0.1, 0.0]))
  assert state.velocity[0] < 0 and state.position[0] < 0.29


@pytest.mark.parametrize("away", [0.0, 0.014, 0.02, 0.03])
@pytest.mark.parametrize("margin", [0.015, 0.1])
def test_reward_is_the_suites(away, margin):
  position = jnp.array([0.6, -0.8]) * away
  state = point_mass.State(position, jnp.zeros(2))
  actual = point_mass.reward(state, jnp.array([0.5, 0.0]), margin=margin)
  beyond = max(away - 0.015, 0) / margin
  expected = 0.1 ** (beyond**2) * (4 + (0.75 + 1) / 2) / 5
  np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_options_reach_the_task():
  env = point_mass.make(wall=np.inf, mass=1e9, margin=0.3)
  assert np.isinf(env.observation_spec.maximum).all()
  state, _ = jax.jit(env.reset)(jax.random.key(0))
  assert np.abs(state.state.position).max() <= 0.29
  new, step = jax.jit(env.step)(jax.random.key(1), state, jnp.ones(2))
  np.testing.assert_allclose(new.state.position, state.state.position)
  assert step.reward > 0.01
