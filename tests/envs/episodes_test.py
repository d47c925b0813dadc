"""Tests of lilly.envs.episodes, by a scripted environment."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.envs import episodes, wrappers
from tests.envs import scripted


def act(key, observation):
  del observation
  return jax.random.uniform(key, (1,))


@pytest.mark.parametrize(("length", "limit"), [(None, 4), (4, None), (4, 9)])
def test_an_episode_is_played_to_its_end(length, limit):
  env = wrappers.time_limit(scripted.counter(length), limit)
  _, _, _, steps = episodes.rollout(jax.random.key(0), env, act, 4)
  total = jax.jit(lambda key: episodes.play(key, env, act))(jax.random.key(0))
  np.testing.assert_allclose(total, jnp.sum(steps.reward))


def test_a_rollout_says_what_was_acted_on():
  env = wrappers.auto_reset(wrappers.time_limit(scripted.counter(), 3))
  _, seen, actions, steps = episodes.rollout(jax.random.key(0), env, act, 7)
  np.testing.assert_array_equal(steps.observation - seen, 1)
  np.testing.assert_array_equal(seen[3] - seen[0], seen[4] - seen[1])
  assert steps.truncated.tolist() == [i % 3 == 2 for i in range(7)]
  assert len(set(actions.ravel().tolist())) == 7  # keys are used once


def test_nothing_is_remembered_of_the_episode_before():
  env = wrappers.auto_reset(wrappers.time_limit(scripted.counter(), 3))

  def counting(key, count, observation, before):
    del key, observation
    return count + 1, before + count

  played = episodes.rollout_with_memory(
    jax.random.key(0), env, counting, jnp.ones(()), 7
  )
  # 1, 2 and 3 are added up, in every episode from 0.
  assert played[2].ravel().tolist() == [1, 3, 6, 1, 3, 6, 1]


def test_rewards_are_discounted_up_to_an_end():
  def steps_of(env):
    return episodes.rollout(jax.random.key(0), env, act, 5)[3]

  alive = episodes.discounted(steps_of(scripted.counter()), 0.5)
  # Rewards count: 1, 2, 3, 4, 5.
  np.testing.assert_allclose(alive, [3.5625, 5.125, 6.25, 6.5, 5.0])
  ended = episodes.discounted(steps_of(scripted.counter(3)), 0.5)
  np.testing.assert_allclose(ended, [2.75, 3.5, 3.0, np.nan, np.nan])


def test_counts_and_discounts_out_of_range_are_refused():
  env = wrappers.time_limit(scripted.counter(), 3)
  steps = episodes.rollout(jax.random.key(0), env, act, np.int64(3))[3]
  for discount in (-0.1, 1.1, np.float32(np.nan)):
    with pytest.raises(ValueError, match="discount is"):
      episodes.discounted(steps, discount)
  with pytest.raises(ValueError, match=r"steps\.discount has shape"):
    episodes.discounted(steps._replace(discount=jnp.ones(2)), 0.5)
  for count in (-1, 2.5, np.nan):
    with pytest.raises(ValueError, match="num_steps is"):
      episodes.rollout(jax.random.key(0), env, act, count)
    with pytest.raises(ValueError, match="num_starts is"):
      episodes.mean_return(jax.random.key(0), env, act, count)
