"""Tests of lilly.envs.water_maze: geometry by hand, visits by a loop."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.envs import environment, episodes, water_maze
from tests.whole import whole

searches, latencies = whole(water_maze.searches), whole(water_maze.latencies)

_AWAY = [5.0, 5.0]  # a platform out of reach


def _state(position, platform=_AWAY, stay=0):
  vectors = (jnp.asarray(x, jnp.float32) for x in (position, platform))
  return water_maze.State(*vectors, jnp.int32(stay))


@functools.cache
def _step():
  return jax.jit(water_maze.make(num_steps=None).step)


def _moved(state, action, seed=0):
  action = jnp.asarray(action, jnp.float32)
  return _step()(jax.random.key(seed), state, action)


@pytest.mark.parametrize(
  ("position", "action", "expected"),
  [
    ([0.0, 0.0], [1.0, 0.0], [0.1, 0.0]),
    ([0.2, -0.3], [0.0, -0.5], [0.2, -0.35]),
    # Cut to the square first, and then to the circle.
    ([0.0, 0.0], [1.0, 1.0], [0.1 / math.sqrt(2), 0.1 / math.sqrt(2)]),
    ([0.0, 0.0], [9.0, 1.0], [0.1 / math.sqrt(2), 0.1 / math.sqrt(2)]),
    ([0.0, 0.0], [0.6, -0.8], [0.06, -0.08]),
    ([0.0, 0.0], [0.0, 0.0], [0.0, 0.0]),
    # Onto the rim, and along it.
    ([0.95, 0.0], [1.0, 0.0], [1.0, 0.0]),
    ([0.0, -1.0], [0.0, -1.0], [0.0, -1.0]),
    ([1.0, 0.0], [0.0, 1.0], [1 / math.sqrt(1.01), 0.1 / math.sqrt(1.01)]),
    # It is free to leave.
    ([1.0, 0.0], [-1.0, 0.0], [0.9, 0.0]),
  ],
)
def test_moves_by_hand(position, action, expected):
  state, step = _moved(_state(position), action)
  np.testing.assert_allclose(state.position, expected, atol=1e-6)
  np.testing.assert_allclose(step.observation, [*expected, 0.0], atol=1e-6)
  np.testing.assert_array_equal(state.platform, _AWAY)
  assert step.reward == 0 and step.discount == 1 and not step.truncated


def test_options_reach_the_task():
  env = water_maze.make(
    speed=0.5, platform_radius=0.05, num_stay=2, num_steps=9
  )
  state, _ = env.reset(jax.random.key(0))
  inner = _state([0.0, 0.0], [0.5, 0.04])
  state = state._replace(state=inner)
  new, step = env.step(jax.random.key(1), state, jnp.array([1.0, 0.0]))
  assert step.reward == 1 and step.observation.tolist() == [0.5, 0.0, 1.0]
  assert new.state.stay == 1 and new.age == 1
  assert env.observe(state).tolist() == [0, 0, 0]
  new, step = env.step(jax.random.key(2), new, jnp.zeros(2))
  assert step.reward == 1 and new.state.stay == 0
  assert (new.state.position != jnp.array([0.5, 0.0])).all()


@pytest.mark.parametrize(("distance", "is_on"), [(0.29, True), (0.31, False)])
def test_the_platform_has_its_size(distance, is_on):
  platform = [0.6 * distance, -0.8 * distance]
  state, step = _moved(_state([0.0, 0.0], platform), [0.0, 0.0])
  assert step.reward == step.observation[2] == is_on
  assert state.stay == is_on


def test_the_agent_is_taken_away_after_steps_that_need_not_be_in_a_row():
  state = _state([0.0, 0.0], [0.0, 0.25])
  stays, rewards = [], []
  actions = [0, 0, 0, -1, -1, 1, 1, 0]
  for t, up in enumerate(actions):
    before = state
    state, step = _moved(state, [0.0, up], seed=t)
    stays.append(int(state.stay))
    rewards.append(int(step.reward))
  # Three on it, three off it, and two on it again.
  assert rewards == [1, 1, 1, 0, 0, 0, 1, 1]
  assert stays == [1, 2, 3, 3, 3, 3, 4, 0]
  assert np.abs(state.position - before.position).max() > 0.1
  np.testing.assert_array_equal(state.platform, before.platform)


def _uniform_over_a_disc(places, radius):
  """Whether equal areas hold about as many."""
  places = np.asarray(places)
  area = (places**2).sum(axis=1) / radius**2
  angle = np.arctan2(places[:, 1], places[:, 0])
  assert area.max() <= 1 + 1e-6
  counts = np.histogram2d(
    area, angle, [4, 4], [[0, 1 + 1e-6], [-np.pi, np.pi]]
  )[0]
  expected = len(places) / 16
  assert counts.sum() == len(places)
  return (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()


def test_starts_and_platforms_are_uniform_and_unrelated():
  env = water_maze.make(num_steps=None)
  keys = jax.random.split(jax.random.key(0), 4000)
  state, _ = jax.jit(jax.vmap(env.reset))(keys)
  assert _uniform_over_a_disc(state.position, 1.0)
  assert _uniform_over_a_disc(state.platform, 0.7)
  both = np.concatenate([state.position, state.platform], axis=1)
  np.testing.assert_allclose(np.corrcoef(both.T), np.eye(4), atol=0.08)
  assert (state.stay == 0).all() and state.stay.dtype == jnp.int32


def test_the_agent_is_put_anywhere_in_the_pool():
  env = water_maze.make(num_steps=None)
  keys = jax.random.split(jax.random.key(0), 4000)
  state = _state([0.1, 0.1], [0.0, 0.0], stay=4)
  step = jax.jit(jax.vmap(env.step, (0, None, None)))
  following, steps = step(keys, state, jnp.zeros(2))
  assert _uniform_over_a_disc(following.position, 1.0)
  assert (steps.reward == 1).all() and (following.stay == 0).all()
  # What is seen is of the new place: on the platform in 9 of 100.
  is_on = (np.asarray(following.position) ** 2).sum(axis=1) <= 0.09
  np.testing.assert_array_equal(steps.observation[:, 2], is_on)
  assert 0.07 < is_on.mean() < 0.11


def test_the_platform_is_not_seen_until_it_is_stepped_on():
  env = water_maze.make(num_steps=None)
  actions = np.random.default_rng(0).uniform(-1, 1, (60, 2))
  # Westwards after a while.
  actions = jnp.asarray(actions - [[0.2, 0]], jnp.float32)

  @jax.jit
  def run(platform):
    def step(carry, action):
      key, step_key = jax.random.split(carry[0])
      state, step = env.step(step_key, carry[1], action)
      return (key, state), step

    state = water_maze.State(jnp.zeros(2), platform, jnp.int32(0))
    first = env.observe(state)
    return first, jax.lax.scan(step, (jax.random.key(0), state), actions)[1]

  seen = []
  for platform in ([-0.5, 0.0], [0.6, 0.2], [0.1, -0.65]):
    first, steps = run(jnp.array(platform))
    seen.append((first, steps))
  first, steps = (np.asarray(x) for x in (seen[0][0], seen[0][1].observation))
  arrival = int(np.argmax(steps[:, 2]))
  assert 5 < arrival < 60 and steps[arrival, 2] == 1
  for other_first, other in seen[1:]:
    np.testing.assert_array_equal(first, other_first)
    np.testing.assert_array_equal(steps[:arrival], other.observation[:arrival])
    assert (steps[arrival] != other.observation[arrival]).any()
    # Until the agent is taken away, all that differs is the last number.
    np.testing.assert_array_equal(
      steps[: arrival + 2, :2], other.observation[: arrival + 2, :2]
    )


def test_rewards_of_states_are_of_where_a_step_led():
  env = water_maze.make(num_steps=None)
  state = _state([0.35, 0.0], [0.0, 0.0], stay=4)
  for action, expected in (([-1.0, 0.0], 1), ([1.0, 0.0], 0)):
    following, step = _moved(state, action)
    action = jnp.array(action)
    assert step.reward == env.reward(state, action, following) == expected


def test_gradients_are_finite_where_lengths_are_zero():
  env = water_maze.make(num_steps=None)

  def value(action, position):
    state = water_maze.State(position, jnp.zeros(2), jnp.int32(0))
    return env.step(jax.random.key(0), state, action)[1].observation.sum()

  gradients = jax.jit(jax.grad(value, (0, 1)))(np.zeros(2), np.zeros(2))
  np.testing.assert_allclose(gradients[0], [0.1, 0.1], rtol=1e-6)
  np.testing.assert_allclose(gradients[1], [1, 1], rtol=1e-6)


@pytest.mark.parametrize(
  ("position", "expected"),
  [
    ([0.0, 0.0], [0.6, 0.8]),  # from afar
    ([0.27, 0.36], [0.3, 0.4]),  # not beyond
    ([0.3, 0.4], [0.0, 0.0]),
  ],
)
def test_seeking_goes_straight_and_stops(position, expected):
  state = _state(position, [0.3, 0.4])
  np.testing.assert_allclose(water_maze.seek(state), expected, atol=1e-5)
  slow = water_maze.seek(_state([0.0, 0.0], [0.03, 0.0]), speed=0.05)
  np.testing.assert_allclose(slow, [0.6, 0.0], rtol=1e-5)


_NUM_EPISODES = 1000


@functools.cache
def _episodes(is_seeking=False, num_stay=5):
  """Steps of episodes, [N, T], of random actions or of seeking."""
  env = water_maze.make(num_stay=num_stay)

  @jax.jit
  @jax.vmap
  def run(key):
    key, start_key = jax.random.split(key)

    def step(carry, _):
      key, act_key, step_key = jax.random.split(carry[0], 3)
      action = environment.sample(act_key, env.action_spec)
      if is_seeking:
        action = water_maze.seek(carry[1].state)
      state, step = env.step(step_key, carry[1], action)
      return (key, state), step

    start = key, env.reset(start_key)[0]
    return jax.lax.scan(step, start, length=200)[1]

  keys = jax.random.split(jax.random.key(0), _NUM_EPISODES)
  return jax.tree.map(np.asarray, run(keys))


def _random_returns(num_stay):
  """The task once more, in numpy: returns of random actions."""
  rng, n = np.random.default_rng(0), _NUM_EPISODES

  def place(radius):
    # Of a square, what is in the disc is uniform in it.
    places = rng.uniform(-1, 1, (20 * n, 2))
    return radius * places[np.hypot(*places.T) < 1][:n]

  where, platform = place(1.0), place(0.7)
  stay, total = np.zeros(n), np.zeros(n)
  for _ in range(200):
    action = rng.uniform(-1, 1, (n, 2))
    action /= np.maximum(1, np.hypot(*action.T))[:, None]
    where = where + 0.1 * action
    where /= np.maximum(1, np.hypot(*where.T))[:, None]
    is_on = np.hypot(*(where - platform).T) <= 0.3
    total += is_on
    stay += is_on
    is_moved = stay == num_stay
    where[is_moved], stay[is_moved] = place(1.0)[is_moved], 0
  return total


def test_seeking_earns_much_more_than_acting_at_random():
  random, seeking = _episodes(), _episodes(is_seeking=True)
  for steps in (random, seeking):
    assert steps.truncated[:, -1].all() and not steps.truncated[:, :-1].any()
    assert set(np.unique(steps.reward)) == {0.0, 1.0}
  # From anywhere it takes 6 steps or so, and 5 are earned: about 90.
  assert 75 < seeking.reward.sum(axis=1).mean() < 130
  assert random.reward.sum(axis=1).mean() < 10


def test_acting_at_random_earns_the_platforms_share_of_the_pool():
  # 0.09 of 200 steps, if the agent is never taken away.
  total = _episodes(num_stay=1000).reward.sum(axis=1).mean()
  assert 0.6 * 18 < total < 1.5 * 18


@pytest.mark.parametrize("num_stay", [5, 1000])
def test_acting_at_random_earns_what_it_does_in_numpy(num_stay):
  actual = _episodes(num_stay=num_stay).reward.sum(axis=1)
  expected = _random_returns(num_stay)
  error = math.hypot(actual.std(), expected.std()) / math.sqrt(_NUM_EPISODES)
  assert abs(actual.mean() - expected.mean()) < 4 * error


def test_seeking_finds_the_platform_soon_each_time():
  rewards = jnp.asarray(_episodes(is_seeking=True).reward)
  find = jax.jit(jax.vmap(lambda x: latencies(x > 0)))
  found = np.asarray(find(rewards))
  assert found.shape == (_NUM_EPISODES, 8) and np.isfinite(found).all()
  assert found.min() == 1 and found.max() <= 1 + 1.7 / 0.1
  assert 3 < found.mean() < 8
  # The searches of an episode are alike: one is as blind as another.
  assert np.ptp(found.mean(axis=0)) < 1.5


def _latencies(on_platform, num_stay, max_visits):
  """By a plain loop."""
  found, began, stay, is_found = [], 0, 0, False
  for t, is_on in enumerate(on_platform):
    stay += is_on
    if is_on and not is_found:
      found.append(t + 1 - began)
      is_found = True
    if stay == num_stay:
      began, stay, is_found = t + 1, 0, False
  found = found[:max_visits]
  return found + [math.nan] * (max_visits - len(found))


@pytest.mark.parametrize("num_stay", [1, 2, 5])
@pytest.mark.parametrize("max_visits", [1, 4, 40])
def test_latencies_equal_a_loop(num_stay, max_visits):
  rng = np.random.default_rng(0)
  # From almost never on the platform to almost always.
  chances = np.linspace(0, 1, 30)[:, None]
  on_platform = rng.uniform(size=(30, 70)) < chances
  measure = functools.partial(
    water_maze.latencies, num_stay=num_stay, max_visits=max_visits
  )
  actual = np.asarray(jax.jit(jax.vmap(measure))(jnp.asarray(on_platform)))
  expected = [_latencies(x, num_stay, max_visits) for x in on_platform]
  np.testing.assert_array_equal(actual, expected)
  assert actual.dtype == np.float32
  assert np.isnan(actual[0]).all() and np.isfinite(actual[:, 0]).sum() > 25


def test_latencies_by_hand():
  # Found at 2 and left, no new search; found at 6 after moving; not found.
  on_platform = np.array([0, 1, 0, 0, 1, 1, 1, 1, 0, 0, 0], bool)
  actual = latencies(jnp.asarray(on_platform), num_stay=3, max_visits=3)
  np.testing.assert_array_equal(actual, [2, 1, math.nan])


def test_searches_are_compared_within_episodes():
  on_platform = np.zeros((4, 8), bool)
  on_platform[0, [2, 3, 6]] = True  # found at 3 and, taken away, 3 later
  on_platform[1, [0, 1, 2, 3, 6, 7]] = True  # at once, and after 1 and 3
  on_platform[2, 7] = True  # found at the end alone
  found = searches(jnp.asarray(on_platform), num_stay=2)
  wanted = {"missed": 0.25, "once": 0.25, "first": 2.0, "later": 2.5}
  for name, value in wanted.items():
    np.testing.assert_allclose(found[name], value, err_msg=name)
  never = searches(jnp.asarray(on_platform[2:]))
  assert np.isnan(never["first"]) and np.isnan(never["later"])


def test_who_remembers_nothing_is_as_slow_again():
  rewards = jnp.asarray(_episodes().reward)
  found = searches(rewards > 0)
  assert 0.3 < found["missed"] < 0.7  # searches that are cut off
  np.testing.assert_allclose(found["first"] / found["later"], 1.0, atol=0.25)


def test_latencies_of_an_episode_begin_where_the_agent_was_taken_away():
  steps = jax.tree.map(lambda x: x[0], _episodes(is_seeking=True))
  found = np.asarray(latencies(jnp.asarray(steps.reward > 0)))
  # Where the agent jumps, a search begins.
  way = np.diff(steps.observation[:, :2], axis=0)
  jumps = np.flatnonzero(np.hypot(*way.T) > 0.11) + 2
  begins = [0]
  for latency in found[:-1]:
    begins.append(begins[-1] + int(latency) + 4)
  assert set(jumps) <= {*begins, *range(begins[-1] + 1, 201)}
  assert len(set(jumps) & set(begins)) >= 5


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"platform_radius": 0.0}, "platform_radius is 0.0; it must be above 0"),
    ({"platform_radius": 1.5}, "platform_radius is 1.5; it must be above 0"),
    ({"speed": 0.0}, "speed is 0.0; it must be finite and above 0"),
    ({"num_stay": 1}, "num_stay is 1; it must be at least 2"),
    ({"num_steps": 0}, "num_steps is 0; it must be at least 1"),
  ],
)
def test_bad_options_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    water_maze.make(**options)


def test_pictures_show_pool_platform_and_agent():
  state = _state([0.5, 0.5], [-0.5, -0.5])
  # 24 pixels of 0.1: the middle of the world is between two.
  render = whole(water_maze.render)
  picture = np.asarray(render(state, 24))
  colours = {
    "white": picture[0, 0],
    "grey": picture[12, 12],
    "green": picture[17, 6],
  }
  assert colours["white"].tolist() == [255] * 3
  assert colours["grey"].tolist() == [191] * 3
  assert colours["green"].tolist() == [0, 158, 115]
  fine = np.asarray(render(state, 240))
  assert fine[70, 170].tolist() == [213, 94, 0]
  small = np.asarray(render(state, 24, platform_radius=0.05))
  assert small[15, 6].tolist() == [191] * 3
  assert picture[15, 6].tolist() == [0, 158, 115]


def test_episodes_play_in_the_usual_ways():
  env = water_maze.make(num_steps=7)
  act = lambda key, observation: environment.sample(key, env.action_spec)
  total = episodes.play(jax.random.key(0), env, act)
  assert 0 <= total <= 7
