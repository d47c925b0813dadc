"""Tests of lilly.envs.cue_recall: shown once, asked for once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.envs import cue_recall, environment, episodes, wrappers


@pytest.mark.parametrize("num_steps", [2, 5])
def test_an_episode_by_hand(num_steps):
  env = cue_recall.make(num_steps=num_steps)
  state, observation = env.reset(jax.random.key(0))
  cue = float(state.cue)
  assert -1 < cue < 1 and observation.tolist() == [cue]
  step = jax.jit(env.step)
  for t in range(1, num_steps + 1):
    action = np.float32(0.1 * t)
    state, made = step(jax.random.key(t), state, action[None])
    is_over = t == num_steps
    expected = -((action - cue) ** 2) if is_over else 0
    np.testing.assert_allclose(made.reward, expected, rtol=1e-5)
    assert made.discount == (0 if is_over else 1) and not made.truncated
    assert bool(environment.is_last(made)) == is_over
    assert made.observation.tolist() == [0]
    assert state.cue == cue and state.age == t


def test_past_the_end_nothing_is_earned():
  env = cue_recall.make(num_steps=2)
  state = cue_recall.State(jnp.float32(0.5), jnp.int32(2))
  _, step = env.step(jax.random.key(0), state, jnp.ones(1))
  assert step.reward == 0 and step.discount == 0


def test_cues_fill_their_range():
  keys = jax.random.split(jax.random.key(0), 1000)
  state, observation = jax.jit(jax.vmap(cue_recall.make().reset))(keys)
  counts = np.histogram(state.cue, 10, (-1, 1))[0]
  assert counts.sum() == 1000 and counts.min() > 60 and counts.max() < 140
  np.testing.assert_array_equal(observation[:, 0], state.cue)


@pytest.mark.parametrize(
  ("action", "expected"), [(3.0, -0.25), (-3.0, -2.25), (0.5, 0.0)]
)
def test_the_last_action_is_cut(action, expected):
  env = cue_recall.make(num_steps=2)
  state = cue_recall.State(jnp.float32(0.5), jnp.int32(1))
  following, step = env.step(jax.random.key(0), state, jnp.full(1, action))
  np.testing.assert_allclose(step.reward, expected)
  reward = env.reward(state, jnp.full(1, action), following)
  np.testing.assert_allclose(reward, expected)


def test_what_is_worth_how_much():
  """Without memory 0 is best, and worth minus the variance of the cue."""
  env = cue_recall.make(num_steps=3)
  nothing = lambda key, observation: jnp.zeros(1)
  mean = jax.jit(
    lambda: episodes.mean_return(jax.random.key(1), env, nothing, 2000)
  )()
  np.testing.assert_allclose(mean, -1 / 3, atol=0.02)


def test_each_episode_has_a_cue_of_its_own():
  env = wrappers.auto_reset(cue_recall.make(num_steps=2))
  state, _ = env.reset(jax.random.key(0))
  step, shown = jax.jit(env.step), []
  for t in range(6):
    shown.append(float(state.observation[0]))
    state, _ = step(jax.random.key(t), state, jnp.zeros(1))
  assert shown[1::2] == [0] * 3
  assert len(set(shown[::2])) == 3 and 0 not in shown[::2]


@pytest.mark.parametrize("num_steps", [None, 1, 0, -3])
def test_without_a_time_to_remember_there_is_no_task(num_steps):
  with pytest.raises(ValueError, match=f"num_steps is {num_steps}; it must be"):
    cue_recall.make(num_steps=num_steps)


def test_pictures_show_where_the_cue_is_and_whether_it_is_seen():
  left, right, old = (
    np.asarray(cue_recall.render(cue_recall.State(jnp.float32(cue), age), 26))
    for cue, age in ((-1.0, 0), (1.0, 0), (1.0, 4))
  )
  blue = [0, round(255 * 0.447), round(255 * 0.698)]
  # The world is 2.6 wide: the cue at -1 is in the fourth of 26 columns.
  assert left[13, 3].tolist() == right[13, 22].tolist() == blue
  assert old[13, 22].tolist() == [38, 38, 38]
  np.testing.assert_array_equal(left[:, ::-1], right)
