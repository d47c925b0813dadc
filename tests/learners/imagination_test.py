"""Tests of lilly.learners.imagination with an agent that only counts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.envs import environment, episodes
from lilly.learners import agents
from lilly.learners import imagination as learner
from lilly.nets import normalized_advantage, world_models
from lilly.replay import ring
from tests.nets import world_models_test

T, N = 6, 2
HYPER = {"theta": 0.15, "sigma": 0.2, "discount": 0.9, "tau": 0.1}


def plain_world(highest_mark=1.0):
  """Sees the linear world's state, and a 0: the mark of what is real."""
  env = world_models_test.linear_world()

  def see(x):
    return jnp.concatenate([x, jnp.zeros(1)])

  def reset(key):
    x, _ = env.reset(key)
    return x, see(x)

  def step(key, x, u):
    x, step = env.step(key, x, u)
    return x, step._replace(observation=see(x))

  box = environment.box([-np.inf] * 3, [np.inf, np.inf, highest_mark])
  return env._replace(reset=reset, step=step, observe=see, observation_spec=box)


def counting_agent():
  """Acts on what it sees; counts batches of real and of imagined steps."""

  def update(state, batch, hyper):
    marks = batch.next_observation[:, 2]
    is_imagined = jnp.all(marks == 1).astype(jnp.float32)
    is_real = jnp.all(marks == 0).astype(jnp.float32)
    counts = state + jnp.stack([is_real, is_imagined])
    return counts, {"last_is_real": is_real}

  def outputs(state, seen):
    mean = jnp.clip(-0.5 * seen[:1], -1, 1)
    return normalized_advantage.Outputs(seen[0], mean, jnp.eye(1))

  return agents.Agent(
    lambda key, seen, hyper: jnp.zeros(2), outputs, update, export=lambda x: {}
  )


def marking(world, needs_fit):
  """The simulator, but that what it shows bears a mark."""
  model = world_models.simulator(world.limited)

  def step(fit, key, state, action):
    state, found = model.step(fit, key, state, action)
    return state, found._replace(observation=found.observation.at[2].set(1.0))

  return model._replace(step=step, needs_fit=needs_fit)


def rounds(count, *, sigma=0.2, goal_return=None, **options):
  """States after each round, and what was measured in each, by NumPy."""
  run = compiled_rounds(count, **options)
  found = run(jax.random.key(0), sigma, goal_return)
  is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
  return jax.tree.map(lambda x: x if is_key(x) else np.asarray(x), found)


@functools.cache
def compiled_rounds(count, *, mark=1.0, needs_fit=False, model=None, **options):
  """Maps a key, sigma and a goal to the states and what was measured."""
  made = learner.make_world(plain_world(mark), T)
  constants = learner.Constants(
    refit_every=N,
    updates_per_step=2,
    imagined_steps=3,
    batch_size=4,
    capacity=300,
    start_steps=5,
    **options,
  )
  has_model = constants.imagines or constants.plans
  chosen = model(made) if model else marking(made, needs_fit)
  parts = (made, counting_agent(), chosen if has_model else None)

  @jax.jit
  def run(key, sigma, goal_return):
    given = *parts, constants._replace(goal_return=goal_return)
    state = learner.init(key, HYPER | {"sigma": sigma}, *given)

    def step(state, _):
      state, metrics = learner.update(state, *given)
      return state, (state, metrics)

    return jax.lax.scan(step, state, None, length=count)[1]

  return run


def test_updates_are_of_real_and_imagined_steps_as_one_to_l():
  states, metrics = rounds(2, imagines=True)
  # The first block of T steps has nothing imagined: all its updates are real.
  total, first = N * T * 2 * (1 + 3), T * 2 * 3
  real = N * T * 2
  np.testing.assert_array_equal(
    states.agent,
    [
      [real + first, total - real - first],
      [2 * real + first, 2 * (total - real) - first],
    ],
  )
  np.testing.assert_array_equal(metrics["last_is_real"], 1.0)
  # Of starts at every age only those steps count that a real episode has.
  assert 0 < states.imagined.size[0] < (N - 1) * T * 3
  marks = ring.contents(jax.tree.map(lambda x: x[-1], states.imagined))
  size = int(states.imagined.size[-1])
  seen = np.asarray(marks.next_observation)[:size]
  np.testing.assert_array_equal(seen[:, 2], 1.0)
  # They are steps of the world.
  wanted = marks.observation[:size, :2] @ world_models_test.A.T
  wanted += marks.action[:size] @ world_models_test.B.T
  np.testing.assert_allclose(seen[:, :2], wanted, rtol=1e-4, atol=1e-5)


def test_a_model_that_needs_a_fit_is_of_use_after_the_first_round():
  states, _ = rounds(3, imagines=True, needs_fit=True)
  real = N * T * 2
  np.testing.assert_array_equal(states.agent[0], [real, 0])
  assert int(states.imagined.size[0]) == 0
  np.testing.assert_array_equal(states.agent[2], [3 * real, 2 * 3 * real])


def test_what_no_world_could_show_is_not_learnt_from():
  def broken(world):
    model = marking(world, needs_fit=False)

    def step(*given):
      state, found = model.step(*given)
      # What follows looks well again, but it comes from nowhere.
      lost = found._replace(reward=jnp.where(state.age % 2 == 1, jnp.nan, 0.0))
      return state, lost

    return model._replace(step=step)

  outside = rounds(1, imagines=True, mark=0.5)[0]
  assert int(outside.imagined.size[0]) == 0
  np.testing.assert_array_equal(outside.agent[0], [N * T * 2 * (1 + 3), 0])
  # Of a rollout that loses its reward in every second step one is left, if any.
  lost = rounds(1, imagines=True, model=broken)[0]
  assert 0 < int(lost.imagined.size[0]) <= (N - 1) * T


def test_imagination_is_switched_off():
  states, _ = rounds(3, imagines=True, imagine_until=N)
  real = N * T * 2
  later = states.agent[1:] - states.agent[:1]
  np.testing.assert_array_equal(later, [[real, 0], [2 * real, 0]])
  np.testing.assert_array_equal(
    states.imagined.size[0], states.imagined.size[2]
  )


def test_the_control_makes_as_many_updates_on_real_steps():
  states, _ = rounds(1, more_updates=True)
  np.testing.assert_array_equal(states.agent[0], [N * T * 2 * (1 + 3), 0])
  assert states.imagined == () and states.visited == ()


def test_episodes_are_of_one_length_and_counted():
  states, metrics = rounds(2, goal_return=-1e9, num_starts=2)
  np.testing.assert_array_equal(states.num_episodes, [N, 2 * N])
  np.testing.assert_array_equal(metrics["episodes_to_goal"], 1.0)
  assert int(states.replay.size[-1]) == 5 + 2 * N * T


def test_what_was_visited_is_what_the_world_did():
  states, _ = rounds(2, imagines=True)
  seen = ring.contents(jax.tree.map(lambda x: x[0], states.visited))
  seen = jax.tree.map(lambda x: np.asarray(x)[: N * T], seen)
  np.testing.assert_array_equal(seen.state.age, np.tile(np.arange(T), N))
  wanted = seen.state.state @ world_models_test.A.T
  wanted += seen.action @ world_models_test.B.T
  # Also at the end of an episode, where the stream begins anew.
  np.testing.assert_allclose(seen.following, wanted, rtol=1e-4, atol=1e-5)


def test_without_noise_actions_are_the_agents_and_no_goal_is_reached():
  states, metrics = rounds(2, sigma=0.0, goal_return=1e9, num_starts=2)
  np.testing.assert_array_equal(metrics["episodes_to_goal"], [N + 1, 2 * N + 1])
  kept = ring.contents(jax.tree.map(lambda x: x[-1], states.replay))
  kept = jax.tree.map(lambda x: np.asarray(x)[5 : 5 + 2 * N * T], kept)
  wanted = np.clip(-0.5 * kept.observation[:, :1], -1, 1)
  np.testing.assert_allclose(kept.action, wanted, rtol=1e-5, atol=1e-6)


def test_an_evaluation_is_of_greedy_episodes_and_of_visited_states():
  states, _ = rounds(2, goal_return=1e9, num_starts=2)
  state = jax.tree.map(lambda x: x[0], states)
  world = learner.make_world(plain_world(), T)

  @jax.jit
  def evaluate(key, state):
    again = jax.random.clone(key)
    found = learner.evaluate(key, state, world, counting_agent(), 4)
    act = lambda key, seen: jnp.clip(-0.5 * seen[:1], -1, 1)
    return found, episodes.mean_return(again, world.limited, act, 4)

  found, total = evaluate(jax.random.key(1), state)
  np.testing.assert_allclose(found["return"], total, rtol=1e-6)
  # Of 17 states 1,000 draws find all, some a little more often.
  count = int(state.replay.size)
  visited = np.asarray(ring.contents(state.replay).observation)[:count, 0]
  assert count == 5 + N * T
  np.testing.assert_allclose(found["value_max"], visited.max(), rtol=1e-6)
  near = np.sort(visited)[count // 2 - 2 : count // 2 + 3]
  assert near[0] <= found["value_median"] <= near[-1]


def test_the_planner_acts_after_the_first_round():
  def model(world):
    return world_models.linear(world.plain, T)

  states, _ = rounds(2, sigma=1e-3, plans=True, planner_share=1.0, model=model)
  kept = ring.contents(jax.tree.map(lambda x: x[-1], states.replay))
  kept = jax.tree.map(lambda x: np.asarray(x)[5 : 5 + 2 * N * T], kept)
  agents_own = np.clip(-0.5 * kept.observation[:, :1], -1, 1)
  away = np.abs(kept.action - agents_own).reshape(2, -1).max(axis=1)
  assert away[0] < 0.02 and away[1] > 0.05


@pytest.mark.slow
def test_runs_together_equal_runs_alone():
  made = learner.make_world(plain_world(), T)
  constants = learner.Constants(
    imagines=True,
    refit_every=1,
    updates_per_step=1,
    imagined_steps=2,
    batch_size=4,
    capacity=50,
    start_steps=5,
  )
  parts = (made, counting_agent(), marking(made, True), constants)

  def run(key):
    state = learner.init(key, HYPER, *parts)
    for _ in range(2):
      state, _ = learner.update(state, *parts)
    return state.agent, state.replay.rows, state.imagined.rows

  keys = jax.random.split(jax.random.key(0), 2)
  together = jax.jit(jax.vmap(run))(jax.random.clone(keys))
  alone = jax.jit(run)(keys[1])
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x[1], y, rtol=1e-4, atol=1e-5),
    together,
    alone,
  )
