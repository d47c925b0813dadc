"""Tests of lilly.envs.reacher: MuJoCo's motion, conservation, geometry."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.envs import reacher
from tests.envs import simulators

_LENGTHS = (0.12, 0.1, 0.2)
_LINK = """
<body pos="{start} 0 0">
  <joint name="{name}"/><geom fromto="0 0 0 {length} 0 0"/>{rest}
</body>"""
_MODEL = """
<mujoco>
  <option timestep="0.02"><flag contact="disable"/></option>
  <default>
    <joint type="hinge" axis="0 0 1" damping="0.01"/>
    <geom type="capsule" size=".01"/><motor gear=".05"/>
  </default>
  <worldbody>{arm}</worldbody>
  <actuator>
    <motor joint="a"/><motor joint="b"/><motor joint="c"/>
  </actuator>
</mujoco>"""


def _model():
  arm, starts = "", (0, *_LENGTHS[:-1])
  for name, start, length in reversed(
    list(zip("abc", starts, _LENGTHS, strict=True))
  ):
    arm = _LINK.format(name=name, start=start, length=length, rest=arm)
  return _MODEL.format(arm=arm)


def _simulate(state, torques, **constants):
  def move(state, torque):
    state = reacher.dynamics(state, torque, lengths=_LENGTHS, **constants)
    return state, state

  run = jax.jit(lambda *inputs: jax.lax.scan(move, *inputs)[1])
  return jax.tree.map(np.asarray, run(state, torques))


def _start():
  angles, velocities = [1.0, 2.0, -1.0], [1.0, -3.0, 5.0]
  return reacher.State(jnp.array(angles), jnp.array(velocities), jnp.zeros(2))


def test_moves_as_in_mujoco():
  controls = np.random.default_rng(0).uniform(-1, 1, (150, 3))
  start = _start()
  expected = simulators.mujoco_trajectory(_model(), *start[:2], controls)
  actual = _simulate(start, jnp.asarray(0.05 * controls, jnp.float32))
  assert np.ptp(expected[0], axis=0).min() > 0.5
  np.testing.assert_allclose(actual.angles, expected[0], atol=1e-4)
  np.testing.assert_allclose(actual.velocities, expected[1], atol=1e-4)


def _slices(length, radius=0.01, number=2000):
  """A capsule cut across: places along it, masses and radii of the slices."""
  places = (np.arange(number) + 0.5) / number * (length + 2 * radius) - radius
  beyond = np.maximum(np.maximum(-places, places - length), 0)
  radii = np.sqrt(radius**2 - beyond**2)
  masses = 1000 * np.pi * radii**2 * (length + 2 * radius) / number
  return places, masses, radii


def _kinetics(angles, velocities):
  """Energy and angular momentum of the arm, slice by slice."""
  energy = momentum = 0.0
  start, start_speed = np.zeros(2), np.zeros(2)
  for length, q, w in zip(
    _LENGTHS, np.cumsum(angles), np.cumsum(velocities), strict=True
  ):
    along = np.array([np.cos(q), np.sin(q)])
    across = np.array([-np.sin(q), np.cos(q)])
    for place, mass, radius in zip(*_slices(length), strict=True):
      x, y = start + place * along
      v_x, v_y = start_speed + place * w * across
      turn = mass * radius**2 / 4 * w
      energy += (mass * (v_x**2 + v_y**2) + turn * w) / 2
      momentum += mass * (x * v_y - y * v_x) + turn
    start = start + length * along
    start_speed = start_speed + length * w * across
  return energy, momentum


def test_energy_and_momentum_are_kept_without_friction():
  torques = jnp.zeros((4000, 3))
  found = _simulate(_start(), torques, dt=2.5e-4, damping=0.0)
  rows = [
    _kinetics(found.angles[t], found.velocities[t]) for t in (0, 1500, 3999)
  ]
  energies, momenta = np.transpose(rows)
  assert np.ptp(found.angles[:, 1]) > 1
  np.testing.assert_allclose(energies, energies[0], rtol=2e-3)
  np.testing.assert_allclose(momenta, momenta[0], rtol=2e-3)


def test_mass_matrix_gives_the_energy():
  angles, velocities, _ = _start()
  mass = jax.jit(functools.partial(reacher.mass_matrix, lengths=_LENGTHS))
  mass = np.asarray(mass(angles), float)
  w = np.asarray(velocities, float)
  np.testing.assert_allclose(
    w @ mass @ w / 2, _kinetics(angles, w)[0], rtol=1e-4
  )


def test_joints_are_where_the_links_end():
  angles = [0.3, -1.2, 2.0]
  place, direction, expected = np.zeros(2), 0.0, []
  for angle, length in zip(angles, _LENGTHS, strict=True):
    direction += angle
    place = place + length * np.array([np.cos(direction), np.sin(direction)])
    expected.append(place)
  actual = reacher.joints(jnp.array(angles), lengths=_LENGTHS)
  np.testing.assert_allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize("away", [0.0, 0.05, 0.061, 0.3])
def test_reward_falls_off_from_the_target(away):
  tip = reacher.joints(jnp.array([0.4, 0.5]))[-1]
  state = reacher.State(
    jnp.array([0.4, 0.5]), jnp.zeros(2), tip + jnp.array([away, 0.0])
  )
  action = jnp.array([1.0, 0.0])
  beyond = max(away - 0.06, 0) / 0.24
  expected = 0.1 ** (beyond**2) * (4 + 0.5) / 5
  np.testing.assert_allclose(reacher.reward(state, action), expected, rtol=1e-4)


def test_reward_has_a_gradient_at_and_away_from_the_target():
  def reward(away):
    tip = reacher.joints(jnp.zeros(2))[-1]
    state = reacher.State(jnp.zeros(2), jnp.zeros(2), tip + away)
    return reacher.reward(state, jnp.zeros(2))

  slope = jax.jit(jax.grad(reward))
  assert slope(jnp.zeros(2)).tolist() == [0, 0]
  gradient = slope(jnp.array([0.3, 0.0]))
  assert gradient[0] < -0.1 and gradient[1] == 0


def test_targets_are_within_reach_or_where_they_are_put():
  keys = jax.random.split(jax.random.key(0), 300)
  reset = jax.jit(jax.vmap(reacher.make(num_steps=None).reset))
  state, _ = reset(keys)
  radius = np.hypot(*state.target.T)
  assert 0.05 <= radius.min() < 0.06 and 0.19 < radius.max() <= 0.2
  assert np.abs(state.target.mean(axis=0)).max() < 0.03
  fixed = reacher.make(target=(0.1, 0.05), num_steps=None)
  state, _ = jax.jit(fixed.reset)(jax.random.key(1))
  np.testing.assert_allclose(state.target, [0.1, 0.05])


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"lengths": ()}, r"lengths is \[\]; it must be one or more positive"),
    ({"lengths": (0.1, 0.0)}, r"lengths is \[0.1, 0.0\]"),
    ({"start": (0.1,)}, r"start is \[0.1\]; it must be 2 angles, one for each"),
    ({"target": (0.1,)}, r"target is \[0.1\]; it must be two"),
    ({"num_steps": 0}, "num_steps is 0; it must be at least 1"),
  ],
)
def test_bad_options_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    reacher.make(**options)


def test_a_start_may_be_given():
  state, _ = reacher.make(start=(1.0, -2.0)).reset(jax.random.key(3))
  np.testing.assert_allclose(state.state.angles, [1.0, -2.0])


def test_precision_is_of_the_distance_in_the_last_steps():
  env = reacher.make(num_steps=60)

  @jax.jit
  def measure(key, push):
    def act(key, observation):
      return jnp.full(2, push)

    again = jax.random.clone(key)
    return (
      reacher.play_distances(key, env, act, 60, 3),
      reacher.measure_precision(again, env, act, 60, 3),
    )

  distances, found = measure(jax.random.key(0), 0.4)
  assert distances.shape == (3, 60)

  # The same episodes, measured from angles and target.
  def play(key):
    key_reset, key = jax.random.split(key)
    state, _ = env.reset(key_reset)

    def step(state, _):
      state, _ = env.step(jax.random.key(9), state, jnp.full(2, 0.4))
      tip = reacher.joints(state.state.angles)[-1]
      return state, jnp.sqrt(jnp.sum((tip - state.state.target) ** 2))

    return jax.lax.scan(step, state, length=60)[1]

  wanted = jax.jit(jax.vmap(play))(jax.random.split(jax.random.key(0), 3))
  np.testing.assert_allclose(distances, wanted, rtol=1e-4, atol=1e-6)
  last = np.asarray(wanted)[:, -20:]
  np.testing.assert_allclose(found["distance"], last.mean(), rtol=1e-4)
  wanted = last.std(axis=1).mean()
  np.testing.assert_allclose(found["jitter"], wanted, rtol=1e-3)
  assert wanted > 0.001  # the arm turns
