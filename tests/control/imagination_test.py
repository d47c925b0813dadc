"""Tests of lilly.control.imagination against what a simulator really does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.control import imagination
from lilly.envs import environment, episodes, pendulum, wrappers


def act(key, observation):
  del key
  return jnp.tanh(observation[:1] - 0.5 * observation[2:])


def test_with_the_true_model_it_is_what_happened():
  env = wrappers.normalize_actions(pendulum.make(num_steps=12))
  states, seen, actions, steps = episodes.rollout(
    jax.random.key(0), env, act, 12
  )
  roll = jax.jit(
    lambda state, observation: imagination.rollout(
      jax.random.key(1), state, observation, step=env.step, act=act, length=5
    )
  )
  for start in (0, 4, 7, 9, 11):
    at = jax.tree.map(lambda x, i=start: x[i], states)
    found = roll(at, seen[start])
    # Past the last step nothing is valid.
    count = min(5, 12 - start)
    np.testing.assert_array_equal(found.is_valid, np.arange(5) < count)
    wanted = {
      "observation": seen,
      "action": actions,
      "reward": steps.reward,
      "discount": steps.discount,
      "next_observation": steps.observation,
    }
    for name, values in wanted.items():
      np.testing.assert_allclose(
        getattr(found, name)[:count],
        values[start : start + count],
        rtol=1e-5,
        atol=1e-5,
        err_msg=name,
      )


def step(key, state, action):
  """Counts; ends at 3; says which action it got."""
  del key
  state = state + 1
  made = environment.make_step(state[None], action[0], state >= 3)
  return state, made


def test_nothing_is_valid_after_the_end_of_the_world():
  found = imagination.rollout(
    jax.random.key(0),
    jnp.zeros(()),
    jnp.zeros(1),
    step=step,
    act=lambda key, seen: seen,
    length=5,
  )
  np.testing.assert_array_equal(found.is_valid, [1, 1, 1, 0, 0])
  np.testing.assert_array_equal(found.discount[:3], [1, 1, 0])
  # The policy acted on what the model showed it.
  np.testing.assert_array_equal(found.action[:3, 0], [0, 1, 2])


def test_noise_is_part_of_the_action_and_cut_with_it():
  noise = jnp.array([[0.25], [3.0], [-0.5]])
  found = imagination.rollout(
    jax.random.key(0),
    jnp.zeros(()),
    jnp.zeros(1),
    step=step,
    act=lambda key, seen: jnp.full(1, 0.5),
    length=3,
    noise=noise,
  )
  np.testing.assert_allclose(found.action[:, 0], [0.75, 1.0, 0.0])
  np.testing.assert_allclose(found.reward, [0.75, 1.0, 0.0])


def test_no_length_is_refused():
  with pytest.raises(ValueError, match="length is 0; it must be at least 1"):
    imagination.rollout(
      *(jax.random.key(0), jnp.zeros(()), jnp.zeros(1)),
      step=step,
      act=act,
      length=0,
    )


@pytest.mark.parametrize("shape", [(5,), (4, 1), (1, 1), (5, 2), (1, 5, 1)])
def test_noise_is_of_each_step_and_action(shape):
  env = wrappers.normalize_actions(pendulum.make(num_steps=12))
  start = env.reset(jax.random.key(0))
  with pytest.raises(ValueError, match="noise has shape"):
    imagination.rollout(
      jax.random.key(1),
      *start,
      step=env.step,
      act=act,
      length=5,
      noise=jnp.ones(shape),
    )
