"""What every environment keeps: one program each, and many promises."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.envs import catalog, environment, wrappers
from tests import haste

_SIZE, _LIMIT, _STEPS = 16, 3, 7
_SEEDS = (0, 0, 1)

_environments = pytest.mark.parametrize("name", catalog.names())


def _episode(env, key, actions):
  """The first observation and what follows: steps, next observations."""
  start_key, key = jax.random.split(key)
  state, first = env.reset(start_key)

  def step(state, inputs):
    state, step = env.step(inputs[0], state, inputs[1])
    return state, (step, getattr(state, "observation", step.observation))

  keys = jax.random.split(key, _STEPS)
  return first, *jax.lax.scan(step, state, (keys, actions))[1]


def _measure(env, key, actions):
  run_key, start_key, key = jax.random.split(key, 3)
  starts, _ = jax.vmap(env.reset)(jax.random.split(start_key, 8))
  low, high = env.action_spec.minimum, env.action_spec.maximum

  def plain(actions):
    return _episode(env, jax.random.clone(key), actions)[1]

  def value(actions):
    steps = plain(actions)
    return jnp.sum(steps.observation) + jnp.sum(steps.reward)

  return {
    "resetting": _episode(wrappers.auto_reset(env), run_key, actions),
    "starts": starts,
    "pictures": jax.vmap(lambda state: env.render(state, _SIZE))(starts),
    "steps": jax.vmap(plain)(
      jnp.stack([5 * actions, jnp.clip(5 * actions, low, high)])
    ),
    "gradient": jax.grad(value)(0.1 * actions),
  }


@functools.cache
def _found(name):
  """What is measured of an environment, for each of the seeds."""
  env = catalog.make(name, num_steps=_LIMIT)
  actions = np.random.default_rng(0).normal(
    size=(_STEPS, *env.action_spec.shape)
  )
  keys = jnp.stack([jax.random.key(seed) for seed in _SEEDS])
  measure = jax.vmap(functools.partial(_measure, env), (0, None))
  found = haste.compiled(measure)(
    jax.random.clone(keys), jnp.asarray(actions, jnp.float32)
  )
  return env, actions, jax.tree.map(np.asarray, found)


def _assert_fits(x, spec):
  assert spec.shape == x.shape[-len(spec.shape) :]
  assert x.dtype == spec.dtype
  assert (x >= spec.minimum).all() and (x <= spec.maximum).all()


@_environments
def test_observations_and_steps_have_their_form(name):
  env, _, found = _found(name)
  first, steps, _ = found["resetting"]
  _assert_fits(first, env.observation_spec)
  _assert_fits(steps.observation, env.observation_spec)
  assert steps.reward.dtype == steps.discount.dtype == np.float32
  assert steps.truncated.dtype == bool
  for field in (steps.reward, steps.discount, steps.truncated):
    assert field.shape == (len(_SEEDS), _STEPS)
  assert env.action_spec.dtype == jnp.float32
  for bound in (env.action_spec.minimum, env.action_spec.maximum):
    assert bound.shape == env.action_spec.shape and np.isfinite(bound).all()


@_environments
def test_a_state_keeps_its_form(name):
  env = catalog.make(name)
  for env in (env, wrappers.auto_reset(env), wrappers.auto_reset(env, 2)):
    state, _ = jax.eval_shape(env.reset, jax.random.key(0))
    action = jnp.zeros(env.action_spec.shape)
    new, _ = jax.eval_shape(env.step, jax.random.key(1), state, action)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, new)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves((state, new)))


@_environments
def test_equal_keys_give_equal_episodes_and_others_do_not(name):
  _, _, found = _found(name)
  for leaf in jax.tree.leaves(found):
    np.testing.assert_array_equal(leaf[0], leaf[1])
  observations = found["resetting"][1].observation
  assert (observations[0] != observations[2]).any()


@_environments
def test_scan_and_vmap_equal_a_loop(name):
  env, actions, found = _found(name)
  env = wrappers.auto_reset(env)
  step = haste.compiled(env.step)
  start_key, key = jax.random.split(
    jax.random.split(jax.random.key(_SEEDS[0]), 3)[0]
  )
  state, observation = haste.compiled(env.reset)(start_key)
  first, steps, following = found["resetting"]
  np.testing.assert_allclose(observation, first[0], rtol=1e-5, atol=1e-5)
  for t, key_t in enumerate(jax.random.split(key, _STEPS)):
    state, done = step(key_t, state, jnp.asarray(actions[t], jnp.float32))
    expected = jax.tree.map(lambda x: x[0, t], (steps, following))  # noqa: B023
    actual = (done, state.observation)
    chex.assert_trees_all_close(actual, expected, rtol=1e-4, atol=1e-5)


@_environments
def test_time_truncates_and_a_new_episode_begins(name):
  _, _, found = _found(name)
  first, steps, following = found["resetting"]
  expected = np.arange(1, _STEPS + 1) % _LIMIT == 0
  np.testing.assert_array_equal(steps.truncated, [expected] * len(_SEEDS))
  np.testing.assert_array_equal(steps.discount, 1)
  is_new = (steps.observation != following).any(axis=-1)
  np.testing.assert_array_equal(is_new, steps.truncated)
  # The last observation of an episode is close to the one before it, as those
  # within an episode are; the first of the next one need not be.
  before = np.concatenate([first[:, None], following[:, :-1]], axis=1)
  moved = np.abs(steps.observation - before).max(axis=-1)
  assert moved.max() < 1.5
  assert (moved > 0).all()


@_environments
def test_starts_differ(name):
  _, _, found = _found(name)
  leaves = [
    np.reshape(leaf[0], (8, -1)) for leaf in jax.tree.leaves(found["starts"])
  ]
  starts = np.concatenate(leaves, axis=1)
  assert len(np.unique(starts, axis=0)) == 8
  assert (found["starts"].num_steps == 0).all()


@_environments
def test_actions_beyond_the_bounds_are_cut(name):
  env, actions, found = _found(name)
  assert (np.abs(5 * actions) > env.action_spec.maximum).any()
  wild, cut = found["steps"].observation[0]
  np.testing.assert_array_equal(wild, cut)
  np.testing.assert_array_equal(*found["steps"].reward[0])


@_environments
def test_a_step_is_differentiable(name):
  env, actions, found = _found(name)
  gradient = found["gradient"][2].astype(float)
  assert np.isfinite(gradient).all()
  assert (np.abs(gradient[:-1]).max(axis=0) > 1e-6).all()


@_environments
def test_pictures_show_the_state(name):
  _, _, found = _found(name)
  pictures = found["pictures"]
  assert pictures.dtype == np.uint8
  assert pictures.shape == (len(_SEEDS), 8, _SIZE, _SIZE, 3)
  assert (np.ptp(pictures, axis=(2, 3)) > 50).any(axis=-1).all()
  assert len(np.unique(pictures[0].reshape(8, -1), axis=0)) > 1


@_environments
def test_actions_of_another_shape_are_refused(name):
  env = catalog.make(name)
  state, _ = jax.eval_shape(env.reset, jax.random.key(0))
  (size,) = env.action_spec.shape
  for shape in ((), (size + 1,), (1, size)):
    with pytest.raises(AssertionError):
      jax.eval_shape(env.step, jax.random.key(1), state, jnp.zeros(shape))


@_environments
def test_without_a_limit_nothing_is_truncated(name):
  env = catalog.make(name, num_steps=None)
  state, _ = jax.eval_shape(env.reset, jax.random.key(0))
  assert not hasattr(state, "num_steps")
  limited = catalog.make(name)
  state, _ = jax.eval_shape(limited.reset, jax.random.key(0))
  assert isinstance(state, wrappers.TimeLimitState)


def test_the_random_policy_stays_within_the_bounds():
  for name in catalog.names():
    spec = catalog.make(name).action_spec
    _assert_fits(environment.sample(jax.random.key(0), spec), spec)
