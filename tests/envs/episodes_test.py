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
