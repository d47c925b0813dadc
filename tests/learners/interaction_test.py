"""Tests of lilly.learners.interaction, in an environment that counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.envs import environment, streams, wrappers
from lilly.learners import interaction
from lilly.replay import ring


def counting_environment(num_steps=5):
  """Observes its age, rewards with it; ends by its time limit alone."""

  def reset(key):
    return jnp.zeros(()), jnp.zeros(1)

  def step(key, state, action):
    state = state + 1
    return state, environment.make_step(state[None], state)

  box = environment.box([0.0], [10.0])
  action = environment.box([-1.0], [1.0])
  env = environment.Environment(reset, step, box, action)
  return wrappers.auto_reset(wrappers.time_limit(env, num_steps))


def test_noise_is_its_own_state_whatever_is_clipped():
  noise, action = interaction.explore(
    jax.random.key(0),
    jnp.array([3.0, -3.0]),
    jnp.array([0.5, 0.25]),
    theta=0.1,
    sigma=2.0,
    dt=0.25,
    innovation=jnp.array([0.0, 1.5]),
  )
  # x - θ x dt + σ √dt ε
  np.testing.assert_allclose(noise, [2.925, -2.925 + 1.5], rtol=1e-6)
  np.testing.assert_allclose(action, [1.0, -1.0])


def test_noise_is_drawn_where_no_innovation_is_given():
  keys = jax.random.split(jax.random.key(0), 2000)
  explore = jax.jit(
    jax.vmap(
      lambda key: interaction.explore(
        key, jnp.zeros(1), jnp.full(1, 0.1), sigma=0.2, dt=0.25
      )
    )
  )
  noise, action = explore(keys)
  np.testing.assert_allclose(np.std(noise), 0.1, rtol=0.1)
  np.testing.assert_allclose(action, 0.1 + noise, rtol=1e-6)


@pytest.mark.parametrize("keep_truncated", [True, False])
def test_transitions_are_stored_with_their_scaled_rewards(keep_truncated):
  env = counting_environment(3)

  @jax.jit
  def live(key):
    key, key_start = jax.random.split(key)
    stream = streams.start(key_start, env)
    zero = jnp.zeros(())
    observation = stream.env.observation
    example = streams.Transition(
      observation, stream.noise, zero, zero, observation
    )

    def step(carry, action):
      key, stream, replay = carry
      key, key_step = jax.random.split(key)
      stream, replay = interaction.step(
        key_step,
        stream,
        replay,
        env,
        action[None],
        noise=2 * action[None],
        reward_scale=0.5,
        keep_truncated=keep_truncated,
      )
      return (key, stream, replay), (stream.noise, stream.last_total)

    carry = key, stream, ring.init(example, 9)
    actions = jnp.arange(1.0, 8.0) / 10
    (_, _, replay), found = jax.lax.scan(step, carry, actions)
    return replay, found

  replay, (noise, totals) = live(jax.random.key(0))
  ages = np.array([0, 1, 2, 0, 1, 2, 0])
  kept = np.flatnonzero((ages < 2) | keep_truncated)
  assert int(replay.size) == len(kept)
  seen = jax.tree.map(lambda x: x[: len(kept)], ring.contents(replay))
  np.testing.assert_array_equal(seen.observation[:, 0], ages[kept])
  # The true next observation, also where the episode ended.
  np.testing.assert_array_equal(seen.next_observation[:, 0], ages[kept] + 1)
  np.testing.assert_allclose(seen.action[:, 0], (kept + 1) / 10, rtol=1e-6)
  np.testing.assert_allclose(seen.reward, 0.5 * (ages[kept] + 1))
  np.testing.assert_array_equal(seen.discount, 1.0)
  # Noise begins anew with an episode; returns are not scaled.
  wanted = np.where(ages == 2, 0, 2 * np.arange(1, 8) / 10)
  np.testing.assert_allclose(noise[:, 0], wanted, rtol=1e-6)
  np.testing.assert_allclose(totals, [0, 0, 6, 6, 6, 6, 6])


def test_replay_is_filled_by_random_actions_and_returns_count_from_then_on():
  stream, replay = jax.jit(
    lambda key: interaction.fill(
      key, counting_environment(), capacity=300, num_steps=202, reward_scale=2.0
    )
  )(jax.random.key(0))
  assert int(replay.size) == 202
  seen = jax.tree.map(lambda x: np.asarray(x)[:202], ring.contents(replay))
  actions = seen.action[:, 0]
  # Uniform in [-1, 1]: a standard deviation of 0.58, of which no two are equal.
  assert len(np.unique(actions)) == 202 and np.abs(actions).max() <= 1
  np.testing.assert_allclose(np.std(actions), 3**-0.5, rtol=0.15)
  np.testing.assert_array_equal(seen.reward, 2 * seen.next_observation[:, 0])
  # Two steps into an episode, none of whose rewards count.
  assert float(stream.env.observation[0]) == 2.0
  assert float(stream.total) == float(stream.last_total) == 0.0


def choosing_environment():
  """Rewards action 2 of 3, which are whole numbers."""

  def reset(key):
    return jnp.zeros(()), jnp.zeros(1)

  def step(key, state, action):
    return state, environment.make_step(jnp.zeros(1), action == 2)

  box = environment.box([0.0], [1.0])
  ends = np.zeros((), np.int32), np.full((), 2, np.int32)
  action = environment.Spec((), jnp.int32, *ends, num_values=3)
  env = environment.Environment(reset, step, box, action)
  return wrappers.auto_reset(wrappers.time_limit(env, 10))


def test_discrete_actions_are_stored_as_such():
  env = choosing_environment()
  stream, replay = jax.jit(
    lambda key: interaction.fill(key, env, capacity=50, num_steps=40)
  )(jax.random.key(0))
  seen = jax.tree.map(lambda x: np.asarray(x)[:40], ring.contents(replay))
  assert seen.action.dtype == np.int32 and seen.action.shape == (40,)
  assert set(seen.action.tolist()) == {0, 1, 2}
  np.testing.assert_array_equal(seen.reward, seen.action == 2)
  # An action that is no whole number is none of these.
  with pytest.raises(
    ValueError, match=r"item\.action is of type float32; it is"
  ):
    interaction.step(jax.random.key(1), stream, replay, env, jnp.float32(1.5))
