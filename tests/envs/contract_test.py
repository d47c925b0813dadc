"""What every environment keeps: one program each, and many promises."""

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.envs import (
  cartpole,
  catalog,
  cue_recall,
  mountain_car,
  pendulum,
  point_mass,
  reacher,
  water_maze,
  wrappers,
)

_SIZE, _LIMIT, _STEPS = 16, 3, 7
_SEEDS = (0, 0, 1, 2, 3, 4)

# These differ from their siblings in where they start or in what is seen, and
# are dear to compile.
_SLOW = ("cartpole_balance", "reacher_fixed", "cartpole_hidden")
_SLOW += ("reacher_cue", "pendulum_angle")

# The world of these ends, where that of the others goes on for ever.
_ENDING = ("cue_recall",)

_NAMES = [*catalog.names(), *catalog.partially_observed()]


def _parametrize(names):
  return pytest.mark.parametrize(
    "name",
    [
      pytest.param(name, marks=[pytest.mark.slow] if name in _SLOW else [])
      for name in names
    ],
  )


_every = pytest.mark.parametrize("name", _NAMES)
_every_endless = pytest.mark.parametrize(
  "name", [name for name in _NAMES if name not in _ENDING]
)
_environments = _parametrize(_NAMES)
_endless = _parametrize([name for name in _NAMES if name not in _ENDING])


def _measure(env, key, actions):
  """Steps with resets; and steps without, and a gradient."""
  resetting = wrappers.auto_reset(env)
  start_key, key = jax.random.split(key)
  start, first = resetting.reset(start_key)

  def step(carry, action):
    # Keys among what is scanned look used twice to the check, under `vmap`.
    key, step_key = jax.random.split(carry[0])
    state, step = resetting.step(step_key, carry[1], action)
    return (key, state), (step, state.observation)

  def plain_step(state, action):
    return env.step(jax.random.key(0), state, action)

  def value(action):
    _, step = plain_step(start.state, action)
    return jnp.sum(step.observation) + step.reward

  _, (steps, following) = jax.lax.scan(step, (key, start), actions)
  low, high = env.action_spec.minimum, env.action_spec.maximum
  cut = jnp.clip(5 * actions, low[None], high[None])
  plain = jax.vmap(lambda x: jax.lax.scan(plain_step, start.state, x)[1])(
    jnp.stack([actions, 5 * actions, cut])
  )
  return {
    "start": start.state,
    "first": first,
    "picture": env.render(start.state, _SIZE),
    "steps": steps,
    "following": following,
    "gradient": jax.grad(value)(0.1 * actions[0]),
    "plain": jax.tree.map(lambda x: x[0], plain),
    "wild": jax.tree.map(lambda x: x[1], plain),
    "cut": jax.tree.map(lambda x: x[2], plain),
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
  found = jax.jit(measure)(
    jax.random.clone(keys), jnp.asarray(actions, jnp.float32)
  )
  return env, actions, jax.tree.map(np.asarray, found)


def _telling(name, steps):
  """What differs between episodes: of some, the reward alone."""
  return steps.reward if name in _ENDING else steps.observation


def _assert_fits(x, spec):
  assert spec.shape == x.shape[-len(spec.shape) :]
  assert x.dtype == spec.dtype
  assert (x >= spec.minimum).all() and (x <= spec.maximum).all()


@_environments
def test_observations_and_steps_have_their_form(name):
  env, _, found = _found(name)
  first, steps = found["first"], found["steps"]
  _assert_fits(first, env.observation_spec)
  _assert_fits(steps.observation, env.observation_spec)
  assert steps.reward.dtype == steps.discount.dtype == np.float32
  assert steps.truncated.dtype == bool
  for field in (steps.reward, steps.discount, steps.truncated):
    assert field.shape == (len(_SEEDS), _STEPS)
  assert env.action_spec.dtype == jnp.float32
  for bound in (env.action_spec.minimum, env.action_spec.maximum):
    assert bound.shape == env.action_spec.shape and np.isfinite(bound).all()


@_every
def test_a_state_keeps_its_form(name):
  task = catalog.make(name)
  for env in (task, wrappers.auto_reset(task), wrappers.auto_reset(task, 2)):
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
  told = _telling(name, found["steps"])
  assert (told[0] != told[2]).any()


@_environments
def test_scan_and_vmap_equal_a_loop(name):
  env, actions, found = _found(name)
  step = jax.jit(env.step)
  state = jax.tree.map(lambda x: jnp.asarray(x[0]), found["start"])
  for t in range(_LIMIT):
    action = jnp.asarray(actions[t], jnp.float32)
    state, actual = step(jax.random.key(t), state, action)
    for x, expected in zip(actual, found["plain"], strict=True):
      np.testing.assert_allclose(x, expected[0, t], rtol=1e-4, atol=1e-5)


@_environments
def test_time_is_up_and_a_new_episode_begins(name):
  _, _, found = _found(name)
  steps = found["steps"]
  expected = np.arange(1, _STEPS + 1) % _LIMIT == 0
  expected = np.tile(expected, (len(_SEEDS), 1))
  is_ending = name in _ENDING
  np.testing.assert_array_equal(steps.truncated, expected & (not is_ending))
  np.testing.assert_array_equal(steps.discount, ~(expected & is_ending))
  is_new = (steps.observation != found["following"]).any(axis=-1)
  np.testing.assert_array_equal(is_new, expected)
  # Up to the end, and with the end, it is the episode without resets.
  for with_resets, without in zip(steps, found["plain"], strict=True):
    np.testing.assert_allclose(
      with_resets[:, :_LIMIT], without[:, :_LIMIT], rtol=1e-5, atol=1e-5
    )
  told, without = (_telling(name, x) for x in (steps, found["plain"]))
  assert (told[:, _LIMIT:] != without[:, _LIMIT:]).any()


@_environments
def test_starts_differ(name):
  _, _, found = _found(name)
  assert (found["start"].age == 0).all()
  leaves = jax.tree.leaves(found["start"])
  starts = np.concatenate([x.reshape(len(_SEEDS), -1) for x in leaves], axis=1)
  assert len(np.unique(starts, axis=0)) == len(set(_SEEDS))
  assert len(np.unique(found["first"], axis=0)) == len(set(_SEEDS))


@_environments
def test_actions_beyond_the_bounds_are_cut(name):
  env, actions, found = _found(name)
  assert (np.abs(5 * actions) > env.action_spec.maximum).any()
  for wild, cut in zip(found["wild"], found["cut"], strict=True):
    np.testing.assert_array_equal(wild, cut)


@_endless
def test_a_step_is_differentiable(name):
  _, _, found = _found(name)
  gradient = found["gradient"]
  assert np.isfinite(gradient).all()
  assert (np.abs(gradient) > 1e-6).all()


@_environments
def test_pictures_show_the_state(name):
  _, _, found = _found(name)
  pictures = found["picture"]
  assert pictures.dtype == np.uint8
  assert pictures.shape == (len(_SEEDS), _SIZE, _SIZE, 3)
  assert (np.ptp(pictures, axis=(1, 2)) > 50).any(axis=-1).all()
  assert (pictures[0] != pictures[2]).any()


@_every
def test_actions_of_another_shape_are_refused(name):
  env = catalog.make(name)
  state, _ = jax.eval_shape(env.reset, jax.random.key(0))
  (size,) = env.action_spec.shape
  for shape in ((), (size + 1,), (1, size)):
    with pytest.raises(ValueError, match=r"^action has shape") as caught:
      jax.eval_shape(env.step, jax.random.key(1), state, jnp.zeros(shape))
    rank_differs = len(shape) != 1
    assert ("unbatched: vmap over" in str(caught.value)) == rank_differs
    with pytest.raises(ValueError, match=r"^action has shape"):
      jax.eval_shape(env.reward, state, jnp.zeros(shape), state)


@_environments
def test_actions_of_numpy_and_of_whole_numbers_are_those_of_floats(name):
  env, _, found = _found(name)
  state = jax.tree.map(lambda x: jnp.asarray(x[0]), found["start"])
  ones = np.ones(env.action_spec.shape)
  key = jax.random.key(0)
  wanted = env.step(key, state, jnp.asarray(ones, jnp.float32))
  for action in (ones, ones.astype(np.int32), ones.astype(int).tolist()):
    actual = env.step(jax.random.clone(key), state, action)
    chex.assert_trees_all_equal(actual, wanted)
    leaves = jax.tree.leaves(actual)
    assert not any(leaf.weak_type for leaf in leaves)
  arrays = jax.tree.map(np.asarray, state)
  actual = env.step(jax.random.clone(key), arrays, ones)
  chex.assert_trees_all_close(actual, wanted, rtol=1e-5, atol=1e-6)


_POSITIVE, _NOT_NEGATIVE, _FINITE = (
  (0.0, -1.0, np.inf),
  (-1.0, np.inf),
  (np.inf,),
)
_COUNT = (0, -1, 2.5, np.inf)
# Constant of a task -> values that are refused; NaN always is.
_CONSTANTS = {
  pendulum: {
    "num_steps": _COUNT,
    "dt": _POSITIVE,
    "gravity": _FINITE,
    "mass": _POSITIVE,
    "length": _POSITIVE,
    "max_speed": (0.0, -1.0),
  },
  cartpole: {
    "num_steps": _COUNT,
    "dt": _POSITIVE,
    "cart_mass": _POSITIVE,
    "pole_mass": _POSITIVE,
    "length": _POSITIVE,
    "gravity": _FINITE,
    "cart_damping": _NOT_NEGATIVE,
    "pole_damping": _NOT_NEGATIVE,
    "rail": (-1.0,),
  },
  reacher: {
    "num_steps": _COUNT,
    "dt": _POSITIVE,
    "damping": _NOT_NEGATIVE,
  },
  point_mass: {
    "num_steps": _COUNT,
    "dt": _POSITIVE,
    "mass": _POSITIVE,
    "damping": _NOT_NEGATIVE,
    "wall": (0.0, -1.0),
    "margin": _NOT_NEGATIVE,
  },
  mountain_car: {
    "num_steps": _COUNT,
    "power": _NOT_NEGATIVE,
    "gravity": _FINITE,
  },
  cue_recall: {"num_steps": (*_COUNT, 1)},
  water_maze: {
    "num_steps": _COUNT,
    "platform_radius": (0.0, -1.0, 1.5, np.inf),
    "speed": _POSITIVE,
    "num_stay": (*_COUNT, 1),
  },
}
_tasks = pytest.mark.parametrize(
  "task", _CONSTANTS, ids=lambda task: task.__name__.rpartition(".")[2]
)


def _is_number(x):
  return isinstance(x, int | float) and not isinstance(x, bool)


def _defaults(task):
  """The constants of a task, with their defaults."""
  found = {}
  for function in ("make", "dynamics", "acceleration"):
    made = getattr(task, function, None)
    parameters = inspect.signature(made).parameters if made else {}
    for name, parameter in parameters.items():
      if _is_number(parameter.default):
        found[name] = parameter.default
  return found


@_tasks
def test_every_constant_of_a_task_is_checked(task):
  assert _CONSTANTS[task].keys() >= _defaults(task).keys()


@_tasks
def test_constants_out_of_range_are_refused_whatever_their_type(task):
  for name, refused in _CONSTANTS[task].items():
    for value in (*refused, np.nan):
      for kind in (type(value), np.float32, np.float64, np.asarray):
        with pytest.raises(ValueError, match=f"^{name} is") as caught:
          task.make(**{name: kind(value)})
        text = str(caught.value)
        assert "\n" not in text and text.endswith(".")


@_tasks
def test_constants_of_numpy_are_those_of_python(task):
  constants = _defaults(task) | {"num_steps": 5}
  numpys = {
    name: np.int64(value) if isinstance(value, int) else np.float32(value)
    for name, value in constants.items()
  }

  def play(constants):
    env = task.make(**constants)
    state, _ = env.reset(jax.random.key(0))
    action = jnp.full(env.action_spec.shape, 0.5)
    return env.step(jax.random.key(1), state, action)

  chex.assert_trees_all_close(play(numpys), play(constants), rtol=1e-5)


@pytest.mark.parametrize(
  ("task", "options"),
  [
    (pendulum, {"start": (0.0, np.nan)}),
    (pendulum, {"start": (0.0, 1.0, 2.0)}),
    (reacher, {"start": (np.float32(np.inf), 0.0)}),
    (reacher, {"target": (0.1, np.nan)}),
    (reacher, {"lengths": (0.1, np.float32(np.nan))}),
    (reacher, {"lengths": (0.1, np.inf)}),
    (reacher, {"lengths": np.array([0.1, -0.1])}),
  ],
)
def test_places_that_are_no_numbers_are_refused(task, options):
  with pytest.raises(ValueError, match=f"^{next(iter(options))} is"):
    task.make(**options)


@_every_endless
def test_without_a_limit_nothing_is_truncated(name):
  env = catalog.make(name, num_steps=None)
  state, _ = jax.eval_shape(env.reset, jax.random.key(0))
  assert not isinstance(state, wrappers.TimeLimitState)
  limited = catalog.make(name)
  state, _ = jax.eval_shape(limited.reset, jax.random.key(0))
  assert isinstance(state, wrappers.TimeLimitState)


@_every
def test_observations_and_rewards_of_states_are_those_of_steps(name):
  env = wrappers.auto_reset(wrappers.normalize_actions(catalog.make(name)))
  key, key_reset, key_step = jax.random.split(jax.random.key(0), 3)
  state, first = env.reset(key_reset)
  np.testing.assert_array_equal(env.observe(state), first)
  action = jax.random.uniform(key, env.action_spec.shape, minval=-2, maxval=2)
  following, step = env.step(key_step, state, action)
  np.testing.assert_array_equal(env.observe(following), step.observation)
  reward = env.reward(state, action, following)
  np.testing.assert_allclose(reward, step.reward, rtol=1e-6)
