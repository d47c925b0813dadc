"""Tests of lilly.envs.wrappers, by a scripted environment."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.envs import environment, wrappers
from tests.envs import scripted


def _roll(env, length, seed=0):
  """Observations acted on [T, ...], the steps that followed, the last state."""
  reset, act = jax.jit(env.reset), jax.jit(env.step)
  start_key, key = jax.random.split(jax.random.key(seed))
  state, observation = reset(start_key)
  before, steps = [], []
  for _ in range(length):
    key, step_key = jax.random.split(key)
    before.append(observation)
    state, step = act(step_key, state, jnp.zeros(1))
    steps.append(step)
    observation = getattr(state, "observation", step.observation)
  return np.stack(before), jax.tree.map(lambda *x: np.stack(x), *steps), state


@pytest.mark.parametrize(
  ("length", "limit", "discounts", "truncated"),
  [
    (None, 3, [1, 1, 1], [False, False, True]),
    (3, 9, [1, 1, 0], [False, False, False]),
    # An end of the world is one, also when the time is up.
    (3, 3, [1, 1, 0], [False, False, False]),
    (None, None, [1, 1, 1], [False, False, False]),
  ],
)
def test_a_time_limit_truncates(length, limit, discounts, truncated):
  env = wrappers.time_limit(scripted.counter(length), limit)
  _, steps, _ = _roll(env, 3)
  assert steps.discount.tolist() == discounts
  assert steps.truncated.tolist() == truncated
  ends = (np.array(discounts) == 0) | truncated
  assert np.asarray(environment.is_last(steps)).tolist() == ends.tolist()


def test_a_truncation_within_is_kept():
  env = wrappers.time_limit(wrappers.time_limit(scripted.counter(), 2), 5)
  assert _roll(env, 2)[1].truncated.tolist() == [False, True]


@pytest.mark.parametrize(
  ("length", "limit", "num_starts"),
  [(None, 3, None), (3, None, None), (2, 3, 4), (None, 1, 4)],
)
def test_auto_reset_keeps_the_true_observation(length, limit, num_starts):
  env = wrappers.time_limit(scripted.counter(length), limit)
  env = wrappers.auto_reset(env, num_starts)
  before, steps, state = _roll(env, 12)
  # The trap: an observation of the next episode stored as this one's last.
  np.testing.assert_array_equal(steps.observation - before, 1)
  period = min(n for n in (length, limit) if n is not None)
  np.testing.assert_array_equal(
    environment.is_last(steps), np.arange(1, 13) % period == 0
  )
  np.testing.assert_array_equal(before[::period] % 100, 0)
  np.testing.assert_array_equal(steps.reward, np.arange(12) % period + 1)
  assert len(np.unique(before[::period])) > 1
  # The twelfth step ended one: the state is at a start.
  assert state.observation % 100 == 0
  inner = state.state if limit is None else state.state.state
  assert inner == state.observation[0]
  assert limit is None or state.state.age == 0


def test_starts_come_from_the_pool_and_all_do():
  env = wrappers.auto_reset(scripted.counter(1), 3)
  before, _, state = _roll(env, 25)
  pool = np.asarray(state.starts[1])
  assert pool.shape == (3, 1) and len(np.unique(pool)) == 3
  assert before[0] == pool[0]
  assert set(before.ravel()) == set(pool.ravel())


def test_without_a_pool_starts_are_new():
  before, _, _ = _roll(wrappers.auto_reset(scripted.counter(1)), 25)
  assert len(np.unique(before)) == 25


@pytest.mark.parametrize(("num_starts", "resets"), [(None, 1), (3, 0)])
def test_a_step_resets_only_without_a_pool(num_starts, resets):
  counted = []
  env = scripted.counter(1, on_reset=lambda: counted.append(1))
  env = wrappers.auto_reset(env, num_starts)
  state, _ = jax.eval_shape(env.reset, jax.random.key(0))
  counted.clear()
  jax.eval_shape(env.step, jax.random.key(1), state, jnp.zeros(1))
  assert len(counted) == resets


def test_a_step_uses_one_half_of_its_key_for_the_next_start():
  """The step's own randomness is not that of the start."""
  used = []

  def note(key):
    used.append(jax.random.key_data(key))
    return jnp.zeros((), jnp.int32), jnp.zeros(1)

  def step(key, state, action):
    used.append(jax.random.key_data(key))
    return state, environment.make_step(jnp.zeros(1), 0.0)

  env = scripted.counter()._replace(reset=note, step=step)
  env = wrappers.auto_reset(env)
  state, _ = env.reset(jax.random.key(0))
  env.step(jax.random.key(1), state, jnp.zeros(1))
  assert len({tuple(np.asarray(key).tolist()) for key in used}) == 3


@pytest.mark.parametrize("stack", [False, True])
def test_repeats_sum_rewards_and_stop_at_an_end(stack):
  limited = wrappers.time_limit(scripted.counter(), 5)
  for inner, ends in ((limited, "truncated"), (scripted.counter(5), "over")):
    env = wrappers.action_repeat(inner, 3, stack=stack)
    before, steps, state = _roll(env, 2)
    start = before[0, 0]
    # 1 + 2 + 3, then 4 + 5 and no more.
    assert steps.reward.tolist() == [6, 9]
    assert steps.discount.tolist() == [1, 0 if ends == "over" else 1]
    assert steps.truncated.tolist() == [False, ends == "truncated"]
    counts = np.array([[1, 2, 3], [4, 5, 5]] if stack else [[3], [5]])
    np.testing.assert_array_equal(steps.observation - start, counts)
    assert getattr(state, "state", state) == start + 5
    assert env.observation_spec.shape == steps.observation.shape[1:]
    assert before[0].tolist() == [start] * env.observation_spec.shape[0]


def test_repeats_weigh_rewards_by_the_discounts_within():
  inner = scripted.counter()

  def step(key, state, action):
    state, step = inner.step(key, state, action)
    return state, step._replace(discount=jnp.float32(0.5))

  env = wrappers.action_repeat(inner._replace(step=step), 3)
  _, steps, _ = _roll(env, 1)
  assert steps.reward.tolist() == [1 + 0.5 * 2 + 0.25 * 3]
  assert steps.discount.tolist() == [0.125]


def test_repeats_draw_different_randomness():
  def step(key, state, action):
    noise = jax.random.normal(key, (1,))
    return state, environment.make_step(noise, noise[0])

  env = scripted.counter()._replace(step=step)
  env = wrappers.action_repeat(env, 3, stack=True)
  keys = jax.random.split(jax.random.key(0))
  _, steps = jax.jit(jax.vmap(env.step))(
    keys, jnp.zeros(2, jnp.int32), jnp.zeros((2, 1))
  )
  assert len(np.unique(steps.observation)) == 6


def test_normalised_actions_span_the_range():
  inner = scripted.counter()

  def step(key, state, action):
    return state, environment.make_step(action, 0.0)

  env = wrappers.normalize_actions(inner._replace(step=step))
  assert env.action_spec.minimum.tolist() == [-1]
  assert env.action_spec.maximum.tolist() == [1]
  for action, expected in ((-1, -3), (0, 1), (1, 5), (0.5, 3), (2, 9)):
    key, action = jax.random.key(0), jnp.full(1, action, jnp.float32)
    assert env.step(key, 0, action)[1].observation.tolist() == [expected]


def test_bad_arguments_are_refused():
  env = scripted.counter()
  for call, name in (
    (lambda: wrappers.time_limit(env, 0), "num_steps is 0"),
    (lambda: wrappers.auto_reset(env, 0), "num_starts is 0"),
    (lambda: wrappers.action_repeat(env, -1), "num_repeats is -1"),
  ):
    with pytest.raises(ValueError, match=f"{name}; it must be at least 1"):
      call()
  for wrapper in (
    wrappers.time_limit,
    wrappers.auto_reset,
    wrappers.action_repeat,
  ):
    for value in (np.nan, 1.5, np.float32(2), np.inf):
      with pytest.raises(ValueError, match=r"^num_.* must be a whole number"):
        wrapper(env, value)
    wrapper(env, np.int64(2))
  choice = env.action_spec._replace(num_values=3)
  wide = environment.box([-3e38], [3e38])
  for spec in (choice, environment.box([-np.inf], [1.0]), wide):
    with pytest.raises(ValueError, match="they must be bounded numbers"):
      wrappers.normalize_actions(env._replace(action_spec=spec))


def test_no_pictures_stay_none():
  env = scripted.counter()._replace(render=None)
  assert wrappers.auto_reset(wrappers.time_limit(env, 2)).render is None
