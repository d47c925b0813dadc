"""Tests of lilly.envs.catalog and of the adapters, by simulators made up."""

import sys
import types
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.envs import brax_environments, cartpole, catalog, reacher, wrappers


class _State(NamedTuple):
  """As brax's, with what its wrappers and tasks keep beside."""

  pipeline_state: jax.Array
  obs: jax.Array
  reward: jax.Array
  done: jax.Array
  info: dict


class _Engine:
  """Moves by its action, ends beyond 2, and rewards by a Python number."""

  def __init__(self, action_size=2, width=()):
    self.action_size = action_size
    self._width = width

  def reset(self, rng):
    # Uses its key twice, as some of the real ones do.
    place = jax.random.uniform(rng, (3, *self._width))
    noise = jax.random.uniform(rng, (3, *self._width))
    zero = jnp.zeros(())
    return _State(place * noise, place * noise, zero, zero, {"time_out": zero})

  def step(self, state, action):
    place = state.pipeline_state + action[0]
    done = jnp.where(place[0] > 2, 1.0, 0.0)
    return _State(place, place, 1.5, done, {"time_out": done})


def test_an_engine_becomes_an_environment():
  env = brax_environments.adapt(_Engine())
  assert env.action_spec.minimum.tolist() == [-1, -1]
  assert env.action_spec.maximum.tolist() == [1, 1]
  assert env.observation_spec.shape == (3,)
  assert np.isinf(env.observation_spec.maximum).all() and env.render is None
  env = wrappers.auto_reset(wrappers.time_limit(env, 3), 2)

  @jax.jit
  def run(key, push):
    key, start_key = jax.random.split(key)

    def step(carry, _):
      key, step_key = jax.random.split(carry[0])
      state, step = env.step(step_key, carry[1], push)
      return (key, state), (step, state.observation)

    state, first = env.reset(start_key)
    return first, jax.lax.scan(step, (key, state), length=6)[1]

  first, (steps, following) = run(jax.random.key(0), jnp.full(2, 0.8))
  np.testing.assert_allclose(steps.observation[0], first + 0.8, rtol=1e-5)
  is_over = np.asarray(steps.observation[:, 0] > 2)
  assert is_over.any() and (steps.reward == 1.5).all()
  np.testing.assert_array_equal(steps.discount, 1 - is_over)
  is_last = is_over | steps.truncated
  moved = (steps.observation != following).any(axis=1)
  np.testing.assert_array_equal(moved, is_last)
  _, (steps, _) = run(jax.random.key(0), jnp.zeros(2))
  assert steps.truncated.tolist() == [False, False, True] * 2
  assert (steps.discount == 1).all()


def test_the_state_of_an_engine_keeps_its_form():
  env = brax_environments.adapt(_Engine())
  state, _ = jax.eval_shape(env.reset, jax.random.key(0))
  new, _ = jax.eval_shape(env.step, jax.random.key(1), state, jnp.zeros(2))
  for old, leaf in zip(*map(jax.tree.leaves, (state, new)), strict=True):
    # A weak type, of Python's numbers, would compile a loop's body twice.
    assert (leaf.dtype, leaf.weak_type) == (old.dtype, old.weak_type)


def test_actions_of_an_engine_are_checked():
  env = brax_environments.adapt(_Engine())
  state, _ = env.reset(jax.random.key(0))
  wanted = env.step(jax.random.key(1), state, jnp.ones(2))
  for action in (np.ones(2), np.ones(2, np.int32), [1, 1]):
    actual = env.step(jax.random.key(1), state, action)
    jax.tree.map(np.testing.assert_array_equal, actual, wanted)
  for shape in ((), (1,), (3,), (1, 2)):
    with pytest.raises(ValueError, match="action has shape"):
      env.step(jax.random.key(1), state, np.ones(shape))


def test_an_engine_without_actions_or_with_other_observations_is_refused():
  with pytest.raises(ValueError, match="action of size 0 cannot be used"):
    brax_environments.adapt(_Engine(action_size=0))
  with pytest.raises(ValueError, match="it must be one vector"):
    brax_environments.adapt(_Engine(width=(2,)))

  class Dictionary(_Engine):
    def reset(self, rng):
      state = super().reset(rng)
      return state._replace(obs={"state": state.obs})

  with pytest.raises(ValueError, match="it must be one vector"):
    brax_environments.adapt(Dictionary())


@pytest.fixture
def simulators(monkeypatch):
  """Stands in for brax and for Playground; holds what they are asked for."""
  asked = []

  def brax(name, **options):
    asked.append((name, options))
    return {"engine": _Engine}[name]()

  def playground(name, config_overrides):
    asked.append((name, config_overrides))
    return _Engine()

  for package, module, function in (
    ("brax", "envs", {"get_environment": brax}),
    ("mujoco_playground", "dm_control_suite", {"load": playground}),
  ):
    inner = types.SimpleNamespace(**function)
    outer = types.SimpleNamespace(**{module: inner})
    monkeypatch.setitem(sys.modules, package, outer)
  return asked


def test_simulators_are_asked_for_what_runs_anywhere(simulators):
  env = catalog.make("brax/engine", num_steps=7, option=1)
  assert simulators.pop() == ("engine", {"backend": "spring", "option": 1})
  state, _ = jax.eval_shape(env.reset, jax.random.key(0))
  assert isinstance(state, wrappers.TimeLimitState)
  catalog.make("playground/Engine", sim_dt=0.1)
  assert simulators.pop() == ("Engine", {"impl": "jax", "sim_dt": 0.1})


def test_what_brax_does_not_have_is_refused(simulators):
  with pytest.raises(ValueError, match="name is 'motor'; brax has no such"):
    catalog.make("brax/motor")


@pytest.mark.parametrize(
  ("name", "module", "package"),
  [
    ("brax/ant", "brax", "brax"),
    ("playground/CheetahRun", "mujoco_playground", "playground"),
  ],
)
def test_a_missing_simulator_is_named_with_its_package(
  monkeypatch, name, module, package
):
  monkeypatch.setitem(sys.modules, module, None)
  with pytest.raises(ImportError, match=rf"\(pip install {package}\)"):
    catalog.make(name)


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("pendulums", "name is 'pendulums'; did you mean 'pendulum'"),
    ("zzz", "name is 'zzz'; Known: pendulum, "),
    ("other/pendulum", "name is 'other/pendulum'"),
    ("", "name is ''; Known"),
  ],
)
def test_an_unknown_name_is_refused(name, message):
  with pytest.raises(ValueError, match=message):
    catalog.make(name)


def test_options_reach_the_task():
  env = catalog.make("reacher_fixed", lengths=(0.1, 0.1, 0.1), num_steps=None)
  assert env.action_spec.shape == (3,)
  with pytest.raises(ValueError, match="num_steps is 0"):
    catalog.make("pendulum", num_steps=0)


def test_tasks_with_published_scores_are_those_that_are_seen():
  names = catalog.names()
  assert len(names) == 7
  assert {*names, *catalog.discrete()} == set(catalog.SCORES)
  hidden = catalog.partially_observed()
  assert not set(hidden) & set(names)
  assert set(catalog.REPEATS) <= {*names, *hidden}
  with pytest.raises(ValueError, match="did you mean 'water_maze'"):
    catalog.make("watermaze")


def test_the_pendulums_angle_is_all_that_is_seen():
  env = catalog.make("pendulum_angle", num_steps=1, start=(0.5, 0.9))
  assert env.observation_spec.maximum.tolist() == [1, 1]
  state, first = env.reset(jax.random.key(0))
  np.testing.assert_allclose(first, [np.cos(0.5), np.sin(0.5)], rtol=1e-6)
  _, step = env.step(jax.random.key(1), state, jnp.zeros(1))
  assert step.truncated and step.observation.shape == (2,)


def test_poles_of_all_lengths_look_the_same():
  env = catalog.make("cartpole_hidden", num_steps=None)
  assert env.observation_spec.shape == (3,)
  assert env.observation_spec.maximum.tolist() == [np.inf, 1, 1]
  keys = jax.random.split(jax.random.key(0), 500)
  states, first = jax.jit(jax.vmap(env.reset))(keys)
  drawn = states.constants["length"]
  assert set(states.constants) == {"length"}
  assert 0.3 <= drawn.min() < 0.32 and 0.88 < drawn.max() <= 0.9
  inner = states.state
  seen = [inner.position, jnp.cos(inner.angle), jnp.sin(inner.angle)]
  np.testing.assert_allclose(first, jnp.stack(seen, axis=1), atol=1e-6)
  # Each hangs at first, and moves as long as it is.
  np.testing.assert_allclose(inner.angle, np.pi, atol=0.06)
  state = jax.tree.map(lambda x: x[0], states)
  following, _ = jax.jit(env.step)(jax.random.key(1), state, jnp.ones(1))
  expected = cartpole.dynamics(state.state, 10.0, length=drawn[0])
  for actual, x in zip(following.state, expected, strict=True):
    np.testing.assert_allclose(actual, x, rtol=1e-5, atol=1e-6)


def test_options_of_the_hidden_cartpole_reach_it():
  env = catalog.make(
    "cartpole_hidden", length=(2.0, 2.0), swing_up=False, num_steps=3
  )
  state, first = env.reset(jax.random.key(0))
  assert state.age == 0 and state.state.constants["length"] == 2
  assert first[1] > 0.99
  with pytest.raises(ValueError, match=r"ranges\['length'\] is \(0.9, 0.3\)"):
    catalog.make("cartpole_hidden", length=(0.9, 0.3))


@pytest.mark.parametrize("lengths", [(0.12, 0.12), (0.1, 0.1, 0.1)])
@pytest.mark.parametrize("num_cue_steps", [1, 2])
def test_the_target_is_seen_as_a_cue_and_never_again(lengths, num_cue_steps):
  """Of two targets, all that is seen later is the same."""
  n, options = len(lengths), {"num_cue_steps": num_cue_steps, "num_steps": 4}
  seen = []
  for target in ((0.1, 0.05), (-0.07, 0.12)):
    env = catalog.make(
      "reacher_cue", lengths=lengths, target=target, start=[0.3] * n, **options
    )
    state, observation = env.reset(jax.random.key(0))
    step, episode = jax.jit(env.step), [observation]
    for t in range(4):
      state, made = step(jax.random.key(t), state, jnp.full(n, 0.5))
      episode.append(made.observation)
    assert made.truncated and made.discount == 1
    seen.append(np.stack(episode))
  way = np.subtract(
    (0.1, 0.05), reacher.joints(jnp.full(n, 0.3), lengths=lengths)[-1]
  )
  np.testing.assert_allclose(seen[0][0, 2 * n : 2 * n + 2], way, atol=1e-6)
  is_told = (seen[0] != seen[1]).any(axis=1)
  assert is_told.tolist() == [t < num_cue_steps for t in range(5)]
  whole = catalog.make("reacher", lengths=lengths, start=[0.3] * n)
  assert seen[0].shape[1:] == whole.observation_spec.shape
  # The arm itself is seen.
  assert (np.diff(seen[0][:, : 2 * n], axis=0) != 0).any(axis=1).all()
  assert (seen[0][1:, 2 * n + 2 :] != 0).any(axis=1).all()


def test_cue_recall_has_a_time_and_no_limit():
  env = catalog.make("cue_recall", num_steps=2)
  state, _ = env.reset(jax.random.key(0))
  for t, discount in enumerate((1, 0)):
    state, step = env.step(jax.random.key(t), state, jnp.zeros(1))
    assert step.discount == discount and not step.truncated
  with pytest.raises(ValueError, match="num_steps is None"):
    catalog.make("cue_recall", num_steps=None)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Brax System, piplines:UserWarning")
@pytest.mark.filterwarnings("ignore:Accessing `:DeprecationWarning")
def test_brax_moves_as_by_itself():
  envs = pytest.importorskip("brax.envs")
  # Brax promotes ranks.
  with jax.numpy_rank_promotion("allow"):
    env = wrappers.auto_reset(
      catalog.make("brax/inverted_pendulum", num_steps=100), 2
    )
    engine = envs.get_environment("inverted_pendulum", backend="spring")

    @jax.jit
    def run(key, actions):
      state, first = env.reset(key)

      def step(carry, action):
        state, own = carry
        state, step = env.step(jax.random.key(1), state, action)
        own = engine.step(own, action).replace(reward=jnp.zeros(()))
        return (state, own), (step, state.observation, own.obs)

      return first, jax.lax.scan(step, (state, state.state.state), actions)[1]

    actions = jnp.full((40, 1), 0.7)
    first, (steps, following, own) = run(jax.random.key(0), actions)
  end = int(np.argmin(steps.discount))
  assert 1 < end < 39 and steps.discount[end] == 0
  assert not steps.truncated.any()
  np.testing.assert_allclose(steps.observation[: end + 1], own[: end + 1])
  assert abs(steps.observation[end, 1]) > 0.2
  assert np.abs(following[end]).max() < 0.02 and np.abs(first).max() < 0.02


@pytest.mark.slow
def test_playground_runs():
  pytest.importorskip("mujoco_playground")
  with jax.numpy_rank_promotion("allow"):
    env = catalog.make("playground/CartpoleBalance", num_steps=2)
    env = wrappers.auto_reset(env, 2)

    @jax.jit
    def run(key):
      def step(state, _):
        return env.step(jax.random.key(1), state, jnp.zeros(1))

      return jax.lax.scan(step, env.reset(key)[0], length=4)[1]

    steps = run(jax.random.key(0))
  assert steps.observation.shape == (4, 5)
  assert steps.truncated.tolist() == [False, True] * 2
  assert (steps.reward > 0.9).all()


@pytest.mark.parametrize(
  ("task", "repeats", "wanted"),
  [
    ("pendulum", 0, 1),
    ("pendulum", 2, 2),
    ("cartpole_swingup", 0, 4),
    ("cartpole_swingup", 1, 1),
  ],
)
def test_actions_are_normalized_and_repeated(task, repeats, wanted):
  env, plain = catalog.make_normalized(task, repeats), catalog.make(task)

  @jax.jit
  def step(action, plain_action):
    state, _ = env.reset(jax.random.key(0))
    _, found = env.step(jax.random.key(1), state, action)
    state, _ = plain.reset(jax.random.key(0))
    reward = 0.0
    for _ in range(wanted):
      state, one = plain.step(jax.random.key(1), state, plain_action)
      reward += one.reward
    return found.observation, found.reward, one.observation, reward

  force = plain.action_spec.maximum * 0.5
  seen, reward, own_seen, own_reward = step(jnp.full(1, 0.5), force)
  np.testing.assert_allclose(seen, own_seen, rtol=1e-5)
  np.testing.assert_allclose(reward, own_reward, rtol=1e-5)


def test_scores_are_0_for_random_and_1_for_the_best():
  for task, (worst, best) in catalog.SCORES.items():
    assert catalog.score(task, worst)["score"] == 0.0
    assert catalog.score(task, best) == {"return": best, "score": 1.0}
  assert catalog.score("water_maze", 3.0) == {"return": 3.0}


def test_all_is_every_task_that_needs_no_engine():
  pairs = catalog.name_pairs(["all"], ["naf"])
  assert list(pairs) == catalog.names()
  assert set(catalog.SCORES) == {*pairs, *catalog.discrete()}
  # Beside another name it is a task's, and there is none.
  assert catalog.list_tasks(["all", "pendulum"]) == ["all", "pendulum"]
