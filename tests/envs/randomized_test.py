"""Tests of lilly.envs.randomized: constants that hold for an episode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.envs import (
  cartpole,
  pendulum,
  point_mass,
  randomized,
  reacher,
  wrappers,
)

_RANGES = {"length": (0.5, 1.5), "mass": (2.0, 3.0)}


def _resets(env, num):
  keys = jax.random.split(jax.random.key(0), num)
  return jax.jit(jax.vmap(env.reset))(keys)


def test_constants_fill_their_ranges_and_are_not_seen():
  env = randomized.make(pendulum.make, _RANGES, num_steps=None)
  state, observation = _resets(env, 1000)
  assert set(state.constants) == set(_RANGES) and observation.shape == (1000, 3)
  for name, (low, high) in _RANGES.items():
    drawn = np.asarray(state.constants[name])
    assert drawn.dtype == np.float32 and low <= drawn.min()
    assert drawn.max() <= high
    # Uniformly: all tenths of the range are as full.
    counts = np.histogram(drawn, 10, (low, high))[0]
    assert counts.min() > 60 and counts.max() < 140
  drawn = np.stack([state.constants[name] for name in _RANGES])
  assert abs(np.corrcoef(drawn)[0, 1]) < 0.1
  # Nor do they tell of where an episode starts.
  starts = np.concatenate([drawn, np.stack(state.state)])
  np.testing.assert_allclose(np.corrcoef(starts), np.eye(4), atol=0.12)


def test_what_is_seen_does_not_tell_of_constants():
  env = randomized.make(pendulum.make, _RANGES, num_steps=None)
  inner = pendulum.State(jnp.float32(0.3), jnp.float32(-0.5))
  seen = [
    env.observe(randomized.State({"length": l, "mass": l}, inner)).tolist()
    for l in (jnp.float32(0.5), jnp.float32(1.5))
  ]
  assert seen[0] == seen[1] == pendulum.observe(inner).tolist()


def test_steps_are_those_of_the_tasks_dynamics_with_the_constants():
  env = randomized.make(pendulum.make, _RANGES, num_steps=None)
  states, _ = _resets(env, 20)
  torques = jnp.linspace(-2, 2, 20)[:, None]
  step = jax.jit(jax.vmap(env.step))
  following, steps = step(
    jax.random.split(jax.random.key(1), 20), states, torques
  )
  for i in range(20):
    (angle, speed), constants = (
      tuple(float(x[i]) for x in states.state),
      {name: float(x[i]) for name, x in states.constants.items()},
    )
    m, l, u = constants["mass"], constants["length"], float(torques[i, 0])
    speed += (15 / l * np.sin(angle) + 3 / (m * l**2) * u) * 0.05
    angle += speed * 0.05
    actual = [float(x[i]) for x in following.state]
    np.testing.assert_allclose(actual, [angle, speed], rtol=1e-4, atol=1e-5)
    seen = [np.cos(angle), np.sin(angle), speed]
    np.testing.assert_allclose(steps.observation[i], seen, atol=1e-5)


@pytest.mark.parametrize(
  ("module", "ranges"),
  [
    (cartpole, {"length": (0.3, 0.9), "pole_mass": (0.05, 0.5)}),
    (point_mass, {"mass": (0.1, 1.0), "damping": (0.5, 2.0)}),
  ],
)
def test_other_tasks_move_by_their_own_dynamics(module, ranges):
  env = randomized.make(module.make, ranges, num_steps=None)
  state, _ = jax.jit(env.reset)(jax.random.key(0))
  size, state = env.action_spec.shape[0], jax.tree.map(jnp.asarray, state)
  action = jnp.full(size, 0.5)
  following, step = jax.jit(env.step)(jax.random.key(1), state, action)
  force = {cartpole: 5.0, point_mass: jnp.full(2, 0.05)}[module]
  expected = module.dynamics(state.state, force, **state.constants)
  other = module.dynamics(state.state, force)
  for actual, x in zip(following.state, expected, strict=True):
    np.testing.assert_allclose(actual, x, rtol=1e-5, atol=1e-6)
  usual = np.concatenate([np.ravel(x) for x in other])
  moved = np.concatenate([np.ravel(x) for x in following.state])
  assert np.abs(usual - moved).max() > 1e-5
  np.testing.assert_allclose(step.observation, module.observe(following.state))


def test_constants_stay_for_an_episode_and_change_with_the_next():
  env = randomized.make(pendulum.make, _RANGES, num_steps=3)
  env = wrappers.auto_reset(env)

  @jax.jit
  def run(key):
    key, start_key = jax.random.split(key)

    def step(carry, _):
      key, step_key = jax.random.split(carry[0])
      state, step = env.step(step_key, carry[1], jnp.ones(1))
      return (key, state), (carry[1].state.state.constants, step.truncated)

    start = key, env.reset(start_key)[0]
    return jax.lax.scan(step, start, length=12)[1]

  constants, truncated = run(jax.random.key(0))
  assert truncated.tolist() == [False, False, True] * 4
  for drawn in constants.values():
    episodes = np.asarray(drawn).reshape(4, 3)
    assert (np.ptp(episodes, axis=1) == 0).all()
    assert len(np.unique(episodes)) == 4


def test_rewards_and_observations_of_states_use_their_constants():
  ranges = {"damping": (0.001, 0.1)}
  env = randomized.make(reacher.make, ranges, num_steps=5)
  state, first = env.reset(jax.random.key(0))
  np.testing.assert_allclose(env.observe(state), first)
  action = jnp.array([0.3, -2.0])
  following, step = env.step(jax.random.key(1), state, action)
  np.testing.assert_allclose(env.observe(following), step.observation)
  reward = env.reward(state, action, following)
  np.testing.assert_allclose(reward, step.reward, rtol=1e-6)
  picture = reacher.render(following.state.state, 16)
  np.testing.assert_array_equal(env.render(following, 16), picture)


def test_the_reward_is_given_the_constants():
  """Of a task whose reward is its constant."""

  def make_env(num_steps, gain):
    env = pendulum.make(num_steps)
    step = lambda key, state, action: (
      state,
      env.step(key, state, action)[1]._replace(reward=jnp.float32(gain)),
    )
    observe = lambda state: gain * jnp.ones(3)
    return env._replace(
      step=step, reward=lambda s, a, new: gain * a[0], observe=observe
    )

  env = randomized.make(make_env, {"gain": (4.0, 5.0)}, num_steps=None)
  state, _ = env.reset(jax.random.key(0))
  gain = float(state.constants["gain"])
  assert 4 < gain < 5
  _, step = env.step(jax.random.key(1), state, jnp.ones(1))
  assert step.reward == gain == env.reward(state, jnp.ones(1), state)
  assert env.observe(state).tolist() == [gain] * 3


def test_specs_are_those_in_the_middle_of_the_ranges():
  asked = []

  def make_env(num_steps, mass):
    asked.append(mass)
    return pendulum.make(num_steps, mass=mass)

  env = randomized.make(make_env, {"mass": (1.0, 4.0)}, num_steps=None)
  assert 2.5 in [x for x in asked if isinstance(x, float)]
  plain = pendulum.make()
  for actual, expected in (
    (env.observation_spec, plain.observation_spec),
    (env.action_spec, plain.action_spec),
  ):
    assert actual.shape == expected.shape
    assert actual.maximum.tolist() == expected.maximum.tolist()


def test_the_order_of_names_makes_no_difference():
  turned = dict(reversed(_RANGES.items()))
  drawn = [
    randomized.make(pendulum.make, x, num_steps=None).reset(jax.random.key(0))
    for x in (_RANGES, turned)
  ]
  assert list(turned) != list(_RANGES)
  a, b = (state.constants for state, _ in drawn)
  assert all(a[name] == b[name] for name in _RANGES)


def test_a_range_may_be_a_point():
  env = randomized.make(pendulum.make, {"mass": (2.0, 2.0)}, num_steps=None)
  assert env.reset(jax.random.key(0))[0].constants["mass"] == 2


def test_no_functions_of_states_stay_none():
  def make_env(num_steps, mass):
    env = pendulum.make(num_steps, mass=mass)
    return env._replace(observe=None, reward=None, render=None)

  env = randomized.make(make_env, {"mass": (1.0, 2.0)}, num_steps=3)
  assert (env.observe, env.reward, env.render) == (None, None, None)


@pytest.mark.parametrize(
  ("ranges", "message"),
  [
    ({}, "ranges is empty; it must name at least one"),
    ({"mass": (2.0, 1.0)}, r"ranges\['mass'\] is \(2.0, 1.0\); it must be"),
    ({"mass": (1.0, np.inf)}, r"ranges\['mass'\] is .*two finite numbers"),
    ({"mass": (-1.0, 1.0)}, r"mass is -1.0; it must be finite and above 0"),
    ({"mass": (np.nan, 1.0)}, r"ranges\['mass'\] is .*two finite numbers"),
    ({"mass": (1.0, 2.0), "colour": (0.0, 1.0)}, "ranges names 'colour'; make"),
    ({"num_steps": (1, 2)}, "ranges names 'num_steps'; make_env must accept"),
    # The bound of a spec cannot differ between episodes.
    ({"max_speed": (1.0, 2.0)}, "ranges names 'max_speed'; make_env must"),
  ],
)
def test_bad_ranges_are_refused(ranges, message):
  with pytest.raises(ValueError, match=message):
    randomized.make(pendulum.make, ranges, num_steps=None)


def test_a_bad_limit_is_refused():
  with pytest.raises(ValueError, match="num_steps is 0"):
    randomized.make(pendulum.make, {"mass": (1.0, 2.0)}, num_steps=0)
