"""Tests of lilly.envs.cartpole: MuJoCo's motion, the DM suite's reward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.envs import cartpole
from tests.envs import simulators

_MODEL = """
<mujoco>
  <option timestep="0.01" integrator="RK4"><flag contact="disable"/></option>
  <worldbody>
    <body>
      <joint name="slider" type="slide" axis="1 0 0" limited="true"
             range="-1.8 1.8" solreflimit=".08 1" damping="5e-4"/>
      <geom type="box" size=".2 .15 .1" mass="1"/>
      <body>
        <joint type="hinge" axis="0 1 0" damping="2e-6"/>
        <geom type="capsule" fromto="0 0 0 0 0 1" size=".045" mass=".1"/>
      </body>
    </body>
  </worldbody>
  <actuator><motor joint="slider" gear="10"/></actuator>
</mujoco>
"""
_STARTS = np.array([[0.2, 3.0, 0.1, -0.2], [-0.3, 0.5, -1.0, 6.0]])


def _controls():
  """At random, then against either end of the rail."""
  controls = np.random.default_rng(0).uniform(-1, 1, (2, 300))
  controls[:, 150:] = [[0.5], [-0.5]]
  return controls


@pytest.fixture(scope="module")
def trajectories():
  """Numbers of the states after each step, [2, T, 4]."""

  @jax.jit
  @jax.vmap
  def simulate(start, controls):
    def move(state, control):
      state = cartpole.dynamics(state, 10 * control)
      return state, jnp.stack(state)

    return jax.lax.scan(move, cartpole.State(*start), controls)[1]

  arrays = _STARTS.astype(np.float32), _controls().astype(np.float32)
  return np.asarray(simulate(*arrays))


@pytest.mark.parametrize("run", [0, 1])
def test_moves_as_in_mujoco(trajectories, run):
  position, velocity = np.split(_STARTS[run], 2)
  controls = _controls()[run][:, None]
  found = simulators.mujoco_trajectory(_MODEL, position, velocity, controls)
  expected, actual = np.concatenate(found, axis=1), trajectories[run]
  is_hit = np.abs(expected[:, 0]) > 1.8
  first = is_hit.argmax()
  assert 150 < first < 220 and is_hit.sum() > 20
  np.testing.assert_allclose(actual[:first], expected[:first], atol=1e-4)
  # The impedance of the rail's end is an approximation.
  np.testing.assert_allclose(actual, expected, atol=0.02)


def _inertia(m=0.1, r=0.045):
  """Of the pole about the joint: a cylinder and two halves of a ball."""
  volumes = np.array([np.pi * r**2, 2 / 3 * np.pi * r**3, 2 / 3 * np.pi * r**3])
  own = np.array([1 / 12 + r**2 / 4, *2 * [83 / 320 * r**2]])
  middles = np.array([0.5, -3 / 8 * r, 1 + 3 / 8 * r])
  return np.sum(m * volumes / volumes.sum() * (own + middles**2))


def test_accelerations_solve_the_equations_of_motion():
  x, angle, v, w, force = 0.3, 0.7, -1.1, 2.3, 4.0
  state = cartpole.State(*map(jnp.float32, (x, angle, v, w)))
  a, alpha = jax.jit(cartpole.acceleration)(state, jnp.float32(force))
  M, m, h, g, J = 1.0, 0.1, 0.5, 9.81, _inertia()
  sin, cos = np.sin(angle), np.cos(angle)
  force -= 5e-4 * v
  np.testing.assert_allclose(
    (M + m) * a + m * h * cos * alpha, force + m * h * w**2 * sin, rtol=1e-5
  )
  np.testing.assert_allclose(
    m * h * cos * a + J * alpha, m * g * h * sin - 2e-6 * w, rtol=1e-4
  )


def test_energy_is_kept_without_friction():
  constants = {"cart_damping": 0.0, "pole_damping": 0.0, "rail": np.inf}

  @jax.jit
  def swing(state):
    def move(state, _):
      state = cartpole.dynamics(state, jnp.float32(0), **constants)
      return state, state

    return jax.lax.scan(move, state, length=500)[1]

  start = cartpole.State(*map(jnp.float32, (0.0, 1.0, 0.0, 0.0)))
  _, angle, v, w = map(np.asarray, swing(start))
  kinetic = 1.1 * v**2 + 2 * 0.05 * np.cos(angle) * v * w + _inertia() * w**2
  energy = kinetic / 2 + 0.05 * 9.81 * np.cos(angle)
  assert np.ptp(angle) > 4 and np.ptp(kinetic) > 1
  assert np.ptp(energy) < 1e-4
  momentum = 1.1 * v + 0.05 * np.cos(angle) * w
  np.testing.assert_allclose(momentum, 0, atol=1e-4)


def _tolerance(x, margin):
  """Of the DM suite, with bounds (0, 0) and its Gaussian."""
  scale = np.sqrt(-2 * np.log(0.1))
  return np.exp(-0.5 * (np.abs(x) / margin * scale) ** 2)


@pytest.mark.parametrize("x", [0.0, -1.5])
@pytest.mark.parametrize("angle", [0.0, 2.0])
@pytest.mark.parametrize("w", [0.0, -7.0])
@pytest.mark.parametrize("u", [0.0, -1.0, 0.5])
def test_reward_is_the_suites(x, angle, w, u):
  upright = (np.cos(angle) + 1) / 2
  centred = (1 + _tolerance(x, 2)) / 2
  small_control = (4 + (1 - u**2)) / 5
  small_velocity = (1 + _tolerance(w, 5)) / 2
  expected = upright * small_control * small_velocity * centred
  state = cartpole.State(*map(jnp.float32, (x, angle, 3.0, w)))
  actual = cartpole.reward(state, jnp.array([u]))
  np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_starts_hang_or_stand():
  for swing_up, angle in ((True, np.pi), (False, 0)):
    reset = cartpole.make(swing_up=swing_up, num_steps=None).reset
    keys = jax.random.split(jax.random.key(0), 200)
    state, _ = jax.jit(jax.vmap(reset))(keys)
    away = np.abs(state.angle - angle)
    assert 0.02 < away.max() < 0.05
    assert 0 < np.abs(state.velocity).max() < 0.05
    assert np.abs(state.position).max() < 0.11
    # Uniform numbers have a bound, where a normal one would pass it.
    assert swing_up or (away.max() <= 0.034 and away.mean() > 0.012)
