"""Tests of catch, against a loop in plain Python."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.envs import catch, environment, wrappers

_ROWS, _COLUMNS = 10, 5


def _play(env, column, actions):
  """The steps of an episode from a column."""
  state = catch.State(jnp.int32(0), jnp.int32(column), jnp.int32(2))
  step, steps = jax.jit(env.step), []
  for action in actions:
    state, made = step(jax.random.key(0), state, jnp.int32(action))
    steps.append(made)
  return state, steps


def test_an_episode_equals_a_loop():
  env = catch.make()
  rng = np.random.default_rng(0)
  for column in range(_COLUMNS):
    actions = rng.integers(3, size=_ROWS - 1)
    paddle = 2
    _, steps = _play(env, column, actions)
    for t, (action, step) in enumerate(zip(actions, steps, strict=True)):
      paddle = min(max(paddle + int(action) - 1, 0), _COLUMNS - 1)
      board = np.zeros((_ROWS, _COLUMNS))
      board[t + 1, column] = 1
      board[-1, paddle] = 1
      np.testing.assert_array_equal(step.observation, board.ravel())
      is_over = t == _ROWS - 2
      reward = (1 if paddle == column else -1) if is_over else 0
      assert (step.reward, step.discount) == (reward, 1 - is_over)
      assert not step.truncated


def test_every_ball_can_be_caught_and_missed():
  env = catch.make()
  returns = {
    (column, move): float(_play(env, column, [move] * 9)[1][-1].reward)
    for column, move in itertools.product(range(_COLUMNS), range(3))
  }
  ends = {0: 0, 1: 2, 2: 4}  # where the paddle stops, by what is held
  for (column, move), final in returns.items():
    assert final == (1 if ends[move] == column else -1)


def _columns(persistence, num_episodes, seed=0):
  """The columns of consecutive episodes of one stream."""
  env = wrappers.auto_reset(catch.make(3, 8, persistence=persistence))

  def step(state, key):
    state, _ = env.step(key, state, jnp.int32(1))
    return state, (state.state.column, state.state.row)

  state, _ = env.reset(jax.random.key(seed))
  keys = jax.random.split(jax.random.key(seed + 1), 2 * num_episodes)
  _, (columns, rows) = jax.jit(lambda s, k: jax.lax.scan(step, s, k))(
    state, keys
  )
  return np.asarray(columns)[np.asarray(rows) == 0]


def test_columns_are_drawn_uniformly():
  counts = np.bincount(_columns(1.0, 4000), minlength=8)
  # 500 are expected of each, with a standard deviation of 21.
  assert (np.abs(counts - 500) < 100).all()


def test_persistence_is_the_number_of_episodes_of_a_column():
  columns = _columns(20.0, 20_000)
  changes = np.mean(columns[1:] != columns[:-1])
  # Of the columns that are drawn anew one in eight is the same.
  np.testing.assert_allclose(changes, 7 / 8 / 20, rtol=0.15)
  assert len(np.unique(columns)) == 8


def test_infinite_persistence_keeps_the_first_column():
  assert len(np.unique(_columns(np.inf, 200))) == 1
  assert len({_columns(np.inf, 2, seed)[0] for seed in range(10)}) > 2


def test_a_reset_draws_a_column_whatever_the_persistence():
  env = catch.make(persistence=np.inf)
  states, _ = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 50))
  assert len(np.unique(states.column)) == _COLUMNS


def test_a_time_limit_keeps_the_persistence():
  env = catch.make(persistence=np.inf, num_steps=2)
  env = wrappers.auto_reset(env)
  state, _ = env.reset(jax.random.key(0))
  first = state.state.state.column
  for i in range(6):
    state, step = env.step(jax.random.key(i), state, jnp.int32(1))
    assert bool(step.truncated) == (i % 2 == 1)
    assert state.state.state.column == first
    assert state.state.age == (i + 1) % 2


def test_permutations_make_the_same_game():
  rng = np.random.default_rng(0)
  pixels, meanings = rng.permutation(_ROWS * _COLUMNS), np.array([2, 0, 1])
  env = catch.make()
  other = catch.make(pixel_permutation=pixels, action_permutation=meanings)
  actions = rng.integers(3, size=9)
  _, steps = _play(other, 4, actions)
  _, expected = _play(env, 4, meanings[actions])
  for step, plain in zip(steps, expected, strict=True):
    assert step.reward == plain.reward
    np.testing.assert_array_equal(step.observation, plain.observation[pixels])
  _, first = other.reset(jax.random.key(0))
  _, plain = env.reset(jax.random.key(0))
  np.testing.assert_array_equal(first, plain[pixels])


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"num_rows": 1}, "num_rows is 1"),
    ({"num_columns": 1.5}, "num_columns is 1.5"),
    ({"persistence": 0.5}, "persistence is 0.5"),
    ({"persistence": float("nan")}, "persistence is nan"),
    ({"pixel_permutation": np.zeros(50, int)}, "pixel_permutation must be"),
    ({"action_permutation": [0, 1]}, "action_permutation must be"),
    ({"num_steps": 0}, "num_steps is 0"),
  ],
)
def test_bad_options_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    catch.make(**options)


@pytest.mark.parametrize("action", [0.0, np.ones(3, np.int32), None])
def test_an_action_is_one_integer(action):
  env = catch.make()
  state, _ = env.reset(jax.random.key(0))
  with pytest.raises(ValueError, match="action"):
    env.step(jax.random.key(1), state, action)


def test_actions_beyond_the_last_are_the_last():
  env = catch.make()
  state, _ = env.reset(jax.random.key(0))
  for wild, action in ((7, 2), (-3, 0)):
    found, _ = env.step(jax.random.key(1), state, wild)
    expected, _ = env.step(jax.random.key(1), state, action)
    assert found == expected


def test_a_random_policy_has_the_probability_of_its_walk():
  """The mean return of the random policy is known exactly."""
  env = wrappers.auto_reset(catch.make())
  distribution = np.eye(_COLUMNS)[2]
  move = np.zeros((_COLUMNS, _COLUMNS))
  for place, step in itertools.product(range(_COLUMNS), (-1, 0, 1)):
    move[place, np.clip(place + step, 0, _COLUMNS - 1)] += 1 / 3
  caught = (distribution @ np.linalg.matrix_power(move, 9)).mean()

  def step(state, key):
    key_action, key_step = jax.random.split(key)
    action = environment.sample(key_action, env.action_spec)
    state, made = env.step(key_step, state, action)
    return state, made.reward

  state, _ = env.reset(jax.random.key(0))
  keys = jax.random.split(jax.random.key(1), 9 * 4000)
  _, rewards = jax.lax.scan(step, state, keys)
  mean = np.sum(rewards) / 4000
  # The standard error is 0.013.
  np.testing.assert_allclose(mean, 2 * caught - 1, atol=0.05)


def test_images_show_ball_and_paddle():
  env = catch.make()
  first = catch.State(jnp.int32(0), jnp.int32(0), jnp.int32(2))
  image = np.asarray(env.render(first, 64))
  assert image.shape == (64, 64, 3)
  moved = env.render(first._replace(paddle=jnp.int32(0)), 64)
  fallen = env.render(first._replace(row=jnp.int32(5)), 64)
  assert (image != moved).any() and (image != fallen).any()
