"""Tests of lilly.envs.partial_observation: what is hidden stays hidden."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.envs import (
  environment,
  partial_observation,
  pendulum,
  rendering,
  wrappers,
)


def _ramp(dtype=jnp.float32, **bounds):
  """Observes 10, 20, 30, 40 and its age; notes the keys it is given."""
  keys = []

  def observe(state):
    return (jnp.array([10, 20, 30, 40]) + state).astype(dtype)

  def reset(key):
    keys.append(key)
    state = jnp.zeros((), jnp.int32)
    return state, observe(state)

  def step(key, state, action):
    keys.append(key)
    state = state + 1
    return state, environment.make_step(observe(state), action[0])

  low = np.array([5, 6, 7, -8], np.float32)
  spec = environment.box(low, np.array([90, 91, 92, 93], np.float32))
  env = environment.Environment(
    reset,
    step,
    observation_spec=spec._replace(dtype=dtype, **bounds),
    action_spec=environment.box([-1.0], [1.0]),
    render=lambda state, size: jnp.full((size, size, 3), state, jnp.uint8),
    observe=observe,
    reward=lambda state, action, following: action[0] + following,
  )
  return env, keys


def _steps(env, num_steps, seed=0):
  """Observations, the first one included, [T + 1, ...], of one episode."""

  @jax.jit
  def run(key):
    key, start_key = jax.random.split(key)
    state, first = env.reset(start_key)

    def step(carry, _):
      key, step_key = jax.random.split(carry[0])
      state, step = env.step(step_key, carry[1], jnp.ones(1))
      return (key, state), step

    steps = jax.lax.scan(step, (key, state), length=num_steps)[1]
    return first, steps

  first, steps = jax.tree.map(np.asarray, run(jax.random.key(seed)))
  return np.concatenate([first[None], steps.observation]), steps


def test_selected_numbers_are_seen_in_their_order():
  env = partial_observation.select(_ramp()[0], [3, 0])
  seen, _ = _steps(env, 2)
  assert seen.tolist() == [[40, 10], [41, 11], [42, 12]]
  spec = env.observation_spec
  assert spec.shape == (2,) and spec.dtype == jnp.float32
  assert spec.minimum.tolist() == [-8, 5] and spec.maximum.tolist() == [93, 90]
  state, first = env.reset(jax.random.key(0))
  assert env.observe(state).tolist() == first.tolist()


def test_what_is_said_of_a_state_is_of_the_whole_one():
  inner = pendulum.make(num_steps=3)
  env = partial_observation.select(inner, [0, 1])
  state, seen = env.reset(jax.random.key(0))
  own_state, own = inner.reset(jax.random.key(0))
  assert jax.tree.leaves(state) == jax.tree.leaves(own_state)
  assert seen.tolist() == own[:2].tolist()
  action = jnp.ones(1)
  following, step = env.step(jax.random.key(1), state, action)
  np.testing.assert_array_equal(
    env.render(following, 8), inner.render(following, 8)
  )
  np.testing.assert_allclose(env.reward(state, action, following), step.reward)


def test_bounds_of_one_number_are_those_of_all():
  one = {"minimum": np.float32(-1), "maximum": np.float32(99)}
  env = partial_observation.select(_ramp(**one)[0], [1, 2])
  assert env.observation_spec.minimum.tolist() == [-1, -1]
  assert env.observation_spec.maximum.tolist() == [99, 99]


def test_without_an_observed_state_there_is_none_after():
  env = _ramp()[0]._replace(observe=None, render=None, reward=None)
  assert partial_observation.select(env, [0]).observe is None
  env = partial_observation.cue_only(env, [0])
  assert (env.observe, env.render, env.reward) == (None, None, None)


@pytest.mark.parametrize("indices", [[], [4], [-1], [0, 0], [1, 2, 9]])
@pytest.mark.parametrize("wrapper", ["select", "cue_only"])
def test_bad_indices_are_refused(wrapper, indices):
  with pytest.raises(
    ValueError, match=r"indices is .* distinct .* from 0 to 3"
  ):
    getattr(partial_observation, wrapper)(_ramp()[0], indices)


@pytest.mark.parametrize("wrapper", ["select", "cue_only"])
def test_pictures_have_no_indices(wrapper):
  env = rendering.pixels(pendulum.make(), size=8)
  with pytest.raises(ValueError, match=r"shape \(8, 8, 9\); they must be vec"):
    getattr(partial_observation, wrapper)(env, [0])


def test_noise_is_gaussian_and_new_at_each_step():
  env = partial_observation.add_noise(_ramp()[0], 0.5)
  seen, _ = _steps(env, 2000)
  truth = np.array([10, 20, 30, 40]) + np.arange(2001)[:, None]
  noise = (seen - truth) / 0.5
  assert len(np.unique(noise.round(3), axis=0)) == 2001
  np.testing.assert_allclose(noise.mean(axis=0), 0, atol=0.1)
  np.testing.assert_allclose(noise.std(axis=0), 1, atol=0.07)
  # No number tells of another, nor a step of the next.
  np.testing.assert_allclose(np.corrcoef(noise.T), np.eye(4), atol=0.1)
  late = np.corrcoef(noise[1:].T, noise[:-1].T)[:4, 4:]
  np.testing.assert_allclose(late, 0, atol=0.1)
  assert np.abs(noise[0]).max() > 0


def test_noise_has_no_bounds_and_no_function_of_the_state():
  env = partial_observation.add_noise(_ramp()[0], 0.5)
  spec = env.observation_spec
  assert spec.shape == spec.minimum.shape == spec.maximum.shape == (4,)
  assert (spec.minimum == -np.inf).all() and (spec.maximum == np.inf).all()
  assert env.observe is None and env.reward is not None
  assert env.render is not None


def test_no_noise_leaves_all_as_it_is():
  seen, _ = _steps(partial_observation.add_noise(_ramp()[0], 0.0), 3)
  np.testing.assert_array_equal(seen, _steps(_ramp()[0], 3)[0])


@pytest.mark.parametrize("scale", [-0.1, np.inf, np.nan])
def test_a_bad_scale_is_refused(scale):
  with pytest.raises(ValueError, match=f"scale is {scale}; it must be finite"):
    partial_observation.add_noise(_ramp()[0], scale)


def test_noise_on_integers_is_refused():
  with pytest.raises(ValueError, match="observations of type uint8; noise"):
    partial_observation.add_noise(_ramp(jnp.uint8)[0], 1.0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.uint8])
def test_observations_are_lost_whole_and_now_and_then(dtype):
  env = partial_observation.drop_observations(_ramp(dtype)[0], 0.3)
  assert env.observation_spec.dtype == dtype and env.observe is None
  # Bytes would begin again at zero.
  env = wrappers.auto_reset(wrappers.time_limit(env, 100))
  seen, _ = _steps(env, 800)
  assert seen.dtype == dtype
  ages = np.append(0, np.arange(800) % 100 + 1)
  is_lost = (seen == 0).all(axis=1)
  truth = np.array([10, 20, 30, 40]) + ages[:, None]
  np.testing.assert_array_equal(seen, np.where(is_lost[:, None], 0, truth))
  assert 0.25 < np.mean(is_lost) < 0.35
  # Neither in runs nor in turns: P(lost, lost) = 0.09.
  assert 0.06 < np.mean(is_lost[1:] & is_lost[:-1]) < 0.12


def test_the_first_observation_is_lost_as_often_as_others():
  env = partial_observation.drop_observations(_ramp()[0], 0.3)
  keys = jax.random.split(jax.random.key(0), 500)
  _, first = jax.jit(jax.vmap(env.reset))(keys)
  assert 0.24 < np.mean(np.asarray(first)[:, 0] == 0) < 0.36


@pytest.mark.parametrize(("probability", "expected"), [(0.0, 13), (1.0, 0)])
def test_nothing_or_everything_may_be_lost(probability, expected):
  env = partial_observation.drop_observations(_ramp()[0], probability)
  assert _steps(env, 3)[0][-1, 0] == expected


def test_zero_is_within_the_bounds_of_what_may_be_lost():
  spec = partial_observation.drop_observations(_ramp()[0], 0.5).observation_spec
  assert spec.minimum.tolist() == [0, 0, 0, -8]
  assert spec.maximum.tolist() == [90, 91, 92, 93]
  spec = partial_observation.cue_only(_ramp()[0], [1]).observation_spec
  assert spec.minimum.tolist() == [5, 0, 7, -8]
  assert spec.minimum.dtype == spec.maximum.dtype == np.float32


@pytest.mark.parametrize("probability", [-0.1, 1.1, np.nan])
def test_a_bad_probability_is_refused(probability):
  with pytest.raises(ValueError, match=f"probability is {probability}; it"):
    partial_observation.drop_observations(_ramp()[0], probability)


def test_pictures_flicker():
  env = rendering.pixels(pendulum.make(), size=8, num_frames=2)
  env = partial_observation.drop_observations(env, 0.5)
  spec = env.observation_spec
  assert (spec.shape, spec.dtype) == ((8, 8, 6), jnp.uint8)
  assert spec.minimum.dtype == spec.maximum.dtype == np.uint8
  seen, _ = _steps(env, 30)
  is_lost = (seen == 0).all(axis=(1, 2, 3))
  assert seen.dtype == np.uint8 and 5 < is_lost.sum() < 25
  assert (seen[~is_lost].max(axis=(1, 2, 3)) == 255).all()


@pytest.mark.parametrize("wrap", ["add_noise", "drop_observations"])
def test_a_sensor_uses_another_key_than_the_world(wrap):
  inner, given = _ramp()
  env = getattr(partial_observation, wrap)(inner, 0.5)
  key, step_key = jax.random.split(jax.random.key(0))
  used = [jax.random.key_data(x) for x in (key, step_key)]
  state, _ = env.reset(key)
  env.step(step_key, state, jnp.zeros(1))
  keys = [*used, *map(jax.random.key_data, given)]
  assert len(given) == 2
  assert len({tuple(np.asarray(x).tolist()) for x in keys}) == 4


def test_noise_is_not_that_of_the_world():
  inner, given = _ramp()
  env = partial_observation.add_noise(inner, 1.0)
  reset_key, step_key = jax.random.split(jax.random.key(0))
  state, first = env.reset(reset_key)
  _, step = env.step(step_key, state, jnp.zeros(1))
  truth = jnp.array([10, 20, 30, 40])
  for key, seen in zip(
    given, (first - truth, step[0] - truth - 1), strict=True
  ):
    assert np.abs(seen - jax.random.normal(key, (4,))).max() > 0.01


def test_the_world_goes_on_as_without_sensors():
  inner, _ = _ramp()
  for env in (
    partial_observation.add_noise(inner, 3.0),
    partial_observation.drop_observations(inner, 0.9),
  ):
    _, steps = _steps(env, 4)
    for field in ("reward", "discount", "truncated"):
      expected = getattr(_steps(inner, 4)[1], field)
      np.testing.assert_array_equal(getattr(steps, field), expected)


def test_sensors_compose_with_each_other_and_with_resets():
  env = wrappers.time_limit(_ramp()[0], 3)
  env = partial_observation.add_noise(env, 0.1)
  env = wrappers.auto_reset(partial_observation.drop_observations(env, 0.5))
  seen, steps = _steps(env, 60)
  assert steps.truncated.tolist() == [False, False, True] * 20
  is_lost = seen[:, 0] == 0
  assert 15 < is_lost.sum() < 45
  off = seen[~is_lost, 0] - seen[~is_lost, 0].round()
  assert (off != 0).all() and 0.03 < off.std() < 0.2


@pytest.mark.parametrize("num_cue_steps", [1, 3])
def test_a_cue_is_shown_at_first_only(num_cue_steps):
  env = partial_observation.cue_only(_ramp()[0], [3, 1], num_cue_steps)
  seen, steps = _steps(env, 5)
  expected = np.array([10, 20, 30, 40]) + np.arange(6)[:, None]
  expected[num_cue_steps:, [1, 3]] = 0
  assert seen.tolist() == expected.tolist()
  assert steps.reward.tolist() == [1] * 5


def test_a_cue_is_shown_again_in_each_episode():
  env = wrappers.time_limit(_ramp()[0], 2)
  env = wrappers.auto_reset(partial_observation.cue_only(env, [0]))
  state, first = env.reset(jax.random.key(0))
  shown = [float(first[0])]
  for t in range(5):
    state, step = env.step(jax.random.key(t), state, jnp.ones(1))
    assert step.observation[0] == 0
    shown.append(float(state.observation[0]))
  assert shown == [10, 0, 10, 0, 10, 0]


def test_what_is_said_of_a_state_knows_the_age_of_the_cue():
  inner, _ = _ramp()
  env = partial_observation.cue_only(inner, [2], 2)
  state, seen = env.reset(jax.random.key(0))
  for t in range(3):
    assert env.observe(state).tolist() == seen.tolist()
    following, step = env.step(jax.random.key(t), state, jnp.ones(1))
    assert env.reward(state, jnp.ones(1), following) == 1 + t + 1
    assert env.render(following, 2).max() == t + 1
    state, seen = following, step.observation
  assert state.age == 3 and state.age.dtype == jnp.int32


def test_no_cue_at_all_is_refused():
  with pytest.raises(ValueError, match="num_cue_steps is 0; it must be at l"):
    partial_observation.cue_only(_ramp()[0], [0], 0)
