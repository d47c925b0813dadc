"""Tests of lilly.learners.recurrent_dpg against loops over histories."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lilly.envs import environment as environments
from lilly.learners import recurrent_dpg as learner
from lilly.losses import recurrent_dpg
from lilly.nets import cores, recurrent, recurrent_actor_critic
from lilly.replay import ring
from lilly.replay.episodes import Episode

B, T, O, M = 2, 3, 2, 2
GAMMA = 0.9
# Steps of these are the gradients themselves.
PLAIN = optax.sgd(1.0)


@functools.cache
def networks(core, **options):
  make = functools.partial(cores.make, core)
  if core == "feedforward":
    make = recurrent.feedforward
  sizes = {"encoder_size": 4, "core_size": 3, "hidden_size": 5}
  return recurrent_actor_critic.networks(
    (O,), M, lambda i, o: make(i, o, hidden_size=4), **sizes, **options
  )


def start(nets, seed=0):
  """Weights large enough that every part matters."""
  init = lambda key: learner.init(key, nets, jnp.zeros(O), PLAIN, PLAIN)
  state = jax.eval_shape(init, jax.random.key(seed))
  rng = np.random.default_rng(seed)
  drawn = jax.tree.map(
    lambda x: np.float32(0.6 * rng.normal(size=x.shape)), state[:4]
  )
  return learner.State(*drawn, *state[4:])


def episodes(seed=1):
  rng = np.random.default_rng(seed)
  shapes = (B, T + 1, O), (B, T, M), (B, T)
  seen, done, reward = (rng.normal(size=shape) for shape in shapes)
  discount = np.ones((B, T))
  discount[1, 1] = 0.0
  mask = np.array([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
  found = Episode(seen, np.tanh(done), reward, discount, mask)
  return jax.tree.map(np.float32, found)


@functools.cache
def updated(nets):
  return jax.jit(
    lambda state, batch, key: learner.update(
      key, nets, state, batch, PLAIN, PLAIN, discount=GAMMA, tau=0.25
    )
  )


# The oracles go step by step through these, each of which is compiled once.
@functools.partial(jax.jit, static_argnums=0)
def advance(network, params, inputs, state):
  """One step of encoder and core: the next state, and features."""
  code = network.encoder.apply(params["encoder"], inputs)
  state, output = network.core.apply(params["core"], code, state)
  return state, jnp.concatenate([code, output])


@functools.partial(jax.jit, static_argnums=0)
def conclude(network, params, *inputs):
  return network.head.apply(params["head"], *inputs)


def features(network, params, batch, i, t, actions):
  """Goes through h_t anew, step by step: o_1, a_1, ..., a_{t-1}, o_t."""
  state, before = network.core.initial_state(), np.zeros(M, np.float32)
  for s in range(t + 1):
    inputs = batch.observation[i, s], before
    state, found = advance(network, params, inputs, state)
    before = actions[i][s] if s < t else before
  return found


def action(nets, actor, batch, i, t):
  x = features(nets.actor, actor, batch, i, t, batch.action)
  return jnp.tanh(conclude(nets.actor, actor, x)[0])


def value(nets, critic, batch, i, t, action, actions=None):
  actions = batch.action if actions is None else actions
  x = features(nets.critic, critic, batch, i, t, actions)
  return conclude(nets.critic, critic, x, action)


RUNNING = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]


@pytest.mark.parametrize(
  "core", ["lstm", pytest.param("sam", marks=pytest.mark.slow)]
)
def test_an_update_is_that_of_histories_gone_through_one_by_one(core):
  nets = networks(core)
  state, batch = start(nets), episodes()
  # Target networks that differ from what they are copies of.
  other = start(nets, seed=5)
  state = state._replace(target_actor=other.actor, target_critic=other.critic)
  new, metrics = updated(nets)(state, batch, jax.random.key(0))
  state, new, batch = jax.device_get((state, new, batch))

  def critic_loss(critic):
    targets = {}
    for i, t in RUNNING:
      a = action(nets, state.target_actor, batch, i, t + 1)
      following = value(nets, state.target_critic, batch, i, t + 1, a)
      discount = GAMMA * batch.discount[i, t]
      targets[i, t] = batch.reward[i, t] + discount * following
    errors = [
      targets[i, t] - value(nets, critic, batch, i, t, batch.action[i, t])
      for i, t in RUNNING
    ]
    return sum(error**2 for error in errors) / len(RUNNING)

  def actor_loss(actor, wrong=False):
    actions = [
      [action(nets, actor, batch, i, t) for t in range(T)] for i in range(B)
    ]
    values = [
      value(
        nets,
        state.critic,
        batch,
        i,
        t,
        actions[i][t],
        actions if wrong else None,
      )
      for i, t in RUNNING
    ]
    return -sum(values) / len(RUNNING)

  loss, descent = jax.device_get(jax.value_and_grad(critic_loss)(state.critic))
  minus_value, ascent = jax.device_get(
    jax.value_and_grad(actor_loss)(state.actor)
  )
  np.testing.assert_allclose(metrics["critic_loss"], loss, rtol=1e-5)
  np.testing.assert_allclose(metrics["policy_value"], -minus_value, rtol=1e-5)
  for old, step, found in (
    (state.critic, descent, new.critic),
    (state.actor, ascent, new.actor),
  ):
    assert max(np.abs(x).max() for x in jax.tree.leaves(step)) > 0.01
    wanted = jax.tree.map(lambda x, g: x - g, old, step)
    jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, atol=2e-5), found, wanted
    )
  targets = jax.tree.map(
    lambda x, y: 0.25 * x + 0.75 * y,
    (new.critic, new.actor),
    jax.device_get((other.critic, other.actor)),
  )
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6),
    (new.target_critic, new.target_actor),
    targets,
  )
  # The common bug, a critic that remembers the policy's own actions.
  bug = jax.grad(actor_loss)(state.actor, wrong=True)
  apart = jax.tree.map(lambda x, y: np.abs(x - y).max(), bug, ascent)
  assert max(jax.tree.leaves(apart)) > 1e-3


def test_a_stochastic_update_averages_over_its_noise():
  nets = networks("feedforward", is_stochastic=True, least_scale=0.3)
  state, batch, key = start(nets), episodes(), jax.random.key(3)
  other = start(nets, seed=5)
  state = state._replace(target_actor=other.actor, target_critic=other.critic)

  @jax.jit
  def update(key, penalty):
    return learner.update(
      key,
      nets,
      state,
      batch,
      PLAIN,
      PLAIN,
      discount=GAMMA,
      num_samples=2,
      squash_penalty=penalty,
    )

  found = [update(jax.random.clone(key), penalty) for penalty in (0.0, 0.5)]
  state, batch = jax.device_get((state, batch))
  shape = 2, B, T + 1, M
  noise = [np.asarray(x) for x in learner._sample_noise(key, nets, shape)]
  assert noise[0].shape == noise[1].shape == shape
  assert len(np.unique(noise)) == 2 * noise[0].size  # no number twice

  def drawn(actor, nu, i, t):
    x = features(nets.actor, actor, batch, i, t, batch.action)
    mean, scale = conclude(nets.actor, actor, x)
    return jnp.tanh(mean + scale * nu[i, t]), scale

  def one_by_one(state):
    errors, values, scales = [], [], []
    for i, t in RUNNING:
      following = []
      for nu in noise[0]:
        a, scale = drawn(state.target_actor, nu, i, t + 1)
        following.append(value(nets, state.target_critic, batch, i, t + 1, a))
        scales.append(scale)
      discount = GAMMA * batch.discount[i, t]
      y = batch.reward[i, t] + discount * sum(following) / 2
      q = value(nets, state.critic, batch, i, t, batch.action[i, t])
      errors.append((y - q) ** 2)
      for nu in noise[1]:
        a, scale = drawn(state.actor, nu, i, t)
        values.append(value(nets, state.critic, batch, i, t, a))
        scales.append(scale)
    return errors, values, scales

  errors, values, scales = jax.device_get(one_by_one(state))
  assert (np.array(scales) > 0.3).all()
  metrics = found[0][1]
  np.testing.assert_allclose(metrics["critic_loss"], np.mean(errors), rtol=1e-5)
  np.testing.assert_allclose(
    metrics["policy_value"], np.mean(values), rtol=1e-5
  )
  assert metrics["policy_value"] == found[1][1]["policy_value"]

  @jax.grad
  def size(actor):
    squares = []
    for i, t in RUNNING:
      x = features(nets.actor, actor, batch, i, t, batch.action)
      squares.append(jnp.mean(conclude(nets.actor, actor, x)[0] ** 2))
    return sum(squares) / len(RUNNING)

  jax.tree.map(
    lambda x, y, g: np.testing.assert_allclose(x - y, 0.5 * g, atol=2e-5),
    found[0][0].actor,
    found[1][0].actor,
    size(state.actor),
  )


@pytest.mark.parametrize("core", ["lstm", "feedforward"])
def test_acting_is_as_in_an_update(core):
  nets = networks(core)
  actor = start(nets).actor
  batch = episodes()
  seen = recurrent_dpg.history(batch.observation[0], batch.action[0])
  empty = nets.actor.core.initial_state()
  unroll = functools.partial(recurrent_actor_critic.unroll, nets.actor)
  _, together = jax.device_get(jax.jit(unroll)(actor, seen, empty))
  act = jax.jit(lambda state, *seen: learner.act(nets, actor, state, *seen))
  state = empty
  for t in range(T + 1):
    state, found = act(state, seen[0][t], seen[1][t])
    wanted = np.tanh(conclude(nets.actor, actor, together[t])[0])
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_what_is_masked_changes_nothing():
  nets = networks("lstm")
  state, batch = start(nets), episodes()
  # Of the second episode o_4 and step 3 come after its end.
  dirty = jax.tree.map(np.copy, batch)
  dirty.observation[1, 3] = 99.0
  dirty.action[1, 2] = -99.0
  dirty.reward[1, 2] = 1e6
  dirty.discount[1, 2] = 5.0
  clean, found = (
    updated(nets)(state, x, jax.random.key(0)) for x in (batch, dirty)
  )
  for mine, theirs in zip(
    jax.tree.leaves(clean), jax.tree.leaves(found), strict=True
  ):
    np.testing.assert_array_equal(mine, theirs)


def test_a_stochastic_policy_without_noise_is_a_deterministic_one():
  deterministic = networks("lstm")
  stochastic = networks("lstm", is_stochastic=True, least_scale=0.0)
  state, batch = start(deterministic), episodes()

  def widened(actor):
    # s = softplus(-100): numbers beside those of the mean.
    output = actor["head"]["output"]
    wide = {
      "w": np.concatenate([output["w"], np.zeros_like(output["w"])], 1),
      "b": np.concatenate([output["b"], np.full(M, -100.0, np.float32)]),
    }
    return actor | {"head": actor["head"] | {"output": wide}}

  other = state._replace(
    actor=widened(state.actor), target_actor=widened(state.target_actor)
  )
  wanted, metrics = updated(deterministic)(state, batch, jax.random.key(0))
  found, others = updated(stochastic)(other, batch, jax.random.key(0))
  for name in metrics:
    np.testing.assert_allclose(others[name], metrics[name], rtol=1e-6)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6),
    (found.critic, found.actor),
    (wanted.critic, widened(wanted.actor)),
  )


def test_noise_is_drawn_anew_for_each_step_and_update():
  nets = networks("lstm", is_stochastic=True, least_scale=0.0)
  state, batch = start(nets), episodes()
  one, same, other = (
    updated(nets)(state, batch, jax.random.key(seed))[1]["policy_value"]
    for seed in (0, 0, 1)
  )
  assert one == same
  assert one != other
  # All steps alike: only noise of their own tells their actions apart.
  still = batch._replace(
    observation=np.zeros_like(batch.observation),
    action=np.zeros_like(batch.action),
  )
  alike = networks("feedforward", is_stochastic=True)
  agent, empty = start(alike), alike.actor.core.initial_state()
  noise = np.random.default_rng(0).normal(size=(2, M)).astype(np.float32)
  seen = still.observation[0, 0], still.action[0, 0]
  act = jax.jit(lambda nu: learner.act(alike, agent.actor, empty, *seen, nu)[1])
  found = [act(nu) for nu in noise]
  assert np.abs(found[0] - found[1]).max() > 1e-3


def test_without_a_memory_it_is_ddpg():
  nets = networks("feedforward", uses_previous_action=False)
  state, batch = start(nets), episodes()
  nothing = np.zeros(M, np.float32)

  def of_steps(network, params, seen):
    return advance(network, params, (seen, nothing), ())[1]

  def q(critic, seen, action):
    x = of_steps(nets.critic, critic, seen)
    return conclude(nets.critic, critic, x, action)

  def mu(actor, seen):
    x = of_steps(nets.actor, actor, seen)
    return jnp.tanh(conclude(nets.actor, actor, x)[0])

  def critic_loss(critic):
    errors = []
    for i, t in RUNNING:
      following = batch.observation[i, t + 1]
      q_next = q(
        state.target_critic, following, mu(state.target_actor, following)
      )
      y = batch.reward[i, t] + GAMMA * batch.discount[i, t] * q_next
      errors.append(y - q(critic, batch.observation[i, t], batch.action[i, t]))
    return sum(error**2 for error in errors) / len(RUNNING)

  new, metrics = updated(nets)(state, batch, jax.random.key(0))
  loss, grads = jax.value_and_grad(critic_loss)(state.critic)
  np.testing.assert_allclose(metrics["critic_loss"], loss, rtol=1e-5)
  wanted = jax.tree.map(lambda x, g: x - g, state.critic, grads)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=2e-5), new.critic, wanted
  )


HYPER = {
  "actor_rate": 1e-3,
  "critic_rate": 1e-3,
  "tau": 1e-2,
  "discount": 0.99,
  "theta": 0.15,
  "sigma": 0.2,
}


def adams(hyper):
  return optax.adam(hyper["actor_rate"]), optax.adam(hyper["critic_rate"])


def environment(num_steps=6):
  """Of two actions; shows and rewards the last one, ends after some steps."""

  def reset(key):
    return jnp.zeros(()), jax.random.uniform(key, (O,))

  def step(key, state, action):
    del key
    state = state + 1
    reward = jnp.sum(action) + 0.1 * state
    is_over = state == num_steps
    return state, environments.make_step(action, reward, is_over)

  box = environments.box([-1.0, -1.0], [1.0, 1.0])
  return environments.Environment(reset, step, box, box)


@pytest.mark.parametrize("kind", ["lstm", "stochastic"])
def test_greedy_play_is_what_an_update_sees(kind):
  nets = networks("lstm", is_stochastic=kind == "stochastic")
  actor = start(nets).actor
  play = lambda key: learner.play(key, environment(), nets, actor, num_steps=5)
  _, seen, actions, steps = jax.device_get(jax.jit(play)(jax.random.key(0)))
  assert np.abs(actions).max() > 1e-2
  np.testing.assert_array_equal(steps.observation, actions)
  batch = Episode(seen[None], actions[None], None, None, None)
  wanted = [action(nets, actor, batch, 0, t) for t in range(5)]
  np.testing.assert_allclose(actions, wanted, atol=1e-6)


@functools.cache
def collected(is_stochastic):
  """Maps theta and sigma to actions, [8, 100, M]; the policy's mean is 0."""
  nets = networks("feedforward", is_stochastic=is_stochastic)
  actor = jax.tree.map(np.zeros_like, start(nets).actor)
  return jax.jit(
    lambda theta, sigma: (
      learner.collect(
        jax.random.key(1),
        environment(1000),
        nets,
        actor,
        num_episodes=8,
        num_steps=100,
        theta=theta,
        sigma=sigma,
      ).action
    )
  )


def test_exploration_is_noise_that_lasts():
  found = np.asarray(collected(False)(0.15, 0.2))
  assert not np.any(collected(False)(0.15, 0.0))
  # An Ornstein-Uhlenbeck process of theta 0.15: 0.85 from step to step.
  now, later = found[:, :-1].ravel(), found[:, 1:].ravel()
  assert 0.7 < np.corrcoef(now, later)[0, 1] < 0.95
  np.testing.assert_allclose(found[:, 0].std(), 0.2, rtol=0.5)
  assert len(np.unique(found[:, 50])) == 8 * M
  # The less it reverts, the more it lasts.
  wild = np.asarray(collected(False)(0.9, 0.2))
  now, later = wild[:, :-1].ravel(), wild[:, 1:].ravel()
  assert np.corrcoef(now, later)[0, 1] < 0.3


def test_a_stochastic_policy_explores_by_itself():
  found = np.asarray(collected(True)(0.15, 0.2))
  # No Ornstein-Uhlenbeck noise: s = 0.1 + softplus(-1), anew at each step.
  np.testing.assert_array_equal(found, collected(True)(0.9, 5.0))
  scale = 0.1 + np.log1p(np.exp(-1.0))
  np.testing.assert_allclose(np.arctanh(found).std(), scale, rtol=0.1)
  now, later = found[:, :-1].ravel(), found[:, 1:].ravel()
  assert abs(np.corrcoef(now, later)[0, 1]) < 0.1


@functools.cache
def run_and_round():
  """A run, and a jitted round of it: 2 episodes, 3 updates."""
  env, nets = environment(), networks("feedforward")

  @jax.jit
  def start_run(key, hyper):
    return learner.start(
      key,
      hyper,
      env,
      nets,
      adams,
      num_steps=6,
      start_episodes=3,
      capacity=20,
    )

  run = start_run(jax.random.key(0), jax.tree.map(jnp.float32, HYPER))
  # Nothing is 0: all that is learnt from has its part.
  agent = jax.tree.map(lambda x: np.asarray(x) + 1, run.agent)
  run = run._replace(agent=jax.device_put(agent))

  @jax.jit
  def update_round(run, reward_scale):
    return learner.update_round(
      run,
      env,
      nets,
      adams,
      num_steps=6,
      num_episodes=2,
      num_updates=3,
      batch_size=4,
      reward_scale=reward_scale,
    )

  return run, update_round


def copied(run):
  return run._replace(key=jax.random.clone(run.key))


def test_a_round_collects_and_learns_from_replay():
  run, update_round = run_and_round()
  assert run.replay.size == 3
  new, metrics = update_round(copied(run), 1.0)
  assert new.replay.size == 5 and len(ring.contents(new.replay).mask) == 20
  counts = [new.agent.actor_opt_state, new.agent.critic_opt_state]
  assert [x[0].count - 1 for x in counts] == [3, 3]
  assert not jnp.array_equal(
    jax.random.key_data(new.key), jax.random.key_data(run.key)
  )
  # What is stored and reported is not scaled.
  stored = jax.device_get(ring.contents(new.replay))
  assert (stored.mask[:5] == 1).all() and (stored.discount[:5, -1] == 0).all()
  wanted = stored.reward[3:5].sum(1).mean()
  np.testing.assert_allclose(metrics["return"], wanted, rtol=1e-5)
  wanted = stored.action.sum(-1) + 0.1 * np.arange(1, 7)
  np.testing.assert_allclose(stored.reward[:5], wanted[:5], rtol=1e-5)
  scaled, others = update_round(copied(run), 3.0)
  assert others["return"] == metrics["return"]
  assert (ring.contents(scaled.replay).reward == stored.reward).all()
  assert others["critic_loss"] != metrics["critic_loss"]
  # Leaves keep dtype and weak type.
  types = [jax.tree.map(jax.typeof, x) for x in (run, new)]
  assert types[0] == types[1]
  # A network that says 0 has as its loss the scaled rewards' mean square.
  nothing = run._replace(
    agent=jax.tree.map(jnp.zeros_like, run.agent),
    hyper=run.hyper
    | {"discount": jnp.float32(0), "critic_rate": jnp.float32(0)},
  )
  losses = [
    update_round(copied(nothing), scale)[1]["critic_loss"]
    for scale in (1.0, 3.0)
  ]
  np.testing.assert_allclose(losses[1], 9 * losses[0], rtol=1e-5)


@pytest.mark.parametrize(
  ("name", "value"),
  [
    ("actor_rate", 0.1),
    ("critic_rate", 0.1),
    ("tau", 0.5),
    ("discount", 0.5),
    ("theta", 1.0),
    ("sigma", 1.0),
  ],
)
def test_hyper_parameters_reach_a_round(name, value):
  run, update_round = run_and_round()
  base, _ = update_round(copied(run), 1.0)
  hyper = run.hyper | {name: jnp.float32(value)}
  changed, _ = update_round(copied(run)._replace(hyper=hyper), 1.0)
  same = jax.tree.map(np.array_equal, base.agent, changed.agent)
  assert not all(jax.tree.leaves(same))


def test_numbers_of_an_update_reach_it(monkeypatch):
  given = {}

  def update(key, nets, state, batch, *optimisers, **options):
    given.update(options, batch=batch)
    return state, {"q": jnp.zeros(())}

  monkeypatch.setattr(learner, "update", update)
  run, _ = run_and_round()
  options = {"num_samples": 5, "squash_penalty": 0.3}
  jax.eval_shape(
    lambda run: learner.update_round(
      run,
      environment(),
      networks("feedforward"),
      adams,
      num_steps=6,
      batch_size=7,
      **options,
    ),
    copied(run),
  )
  assert given["batch"].reward.shape == (7, 6)
  assert {name: given[name] for name in options} == options


def test_what_is_exported_is_what_acting_needs():
  nets = networks("lstm")
  state = start(nets)
  found = learner.export(state)
  assert found == {"actor": state.actor, "critic": state.critic}


@pytest.mark.slow
def test_a_constant_reward_is_worth_its_sum():
  """1 for ever under a time limit: Q = 10; where the world ends: 1."""
  # The policy is fixed: no new episodes would correct what it finds too good.
  fixed, optimiser = optax.sgd(0.0), optax.adam(3e-3)
  nets = networks("gru")
  rng = np.random.default_rng(0)
  shapes = (16, 6, O), (16, 5, M)
  seen, done = (jnp.asarray(rng.uniform(-1, 1, shape)) for shape in shapes)
  ones = jnp.ones((16, 5))
  for ends, wanted in ((False, 10.0), (True, 1.0)):
    discount = ones.at[:, -1].set(0.0) if ends else ones
    batch = Episode(seen, done, ones, discount, ones)
    state = learner.init(
      jax.random.key(0), nets, jnp.zeros(O), fixed, optimiser
    )

    def step(state, _, batch=batch):
      given = jax.random.key(0), nets, state, batch, fixed, optimiser
      return learner.update(*given, discount=GAMMA, tau=0.05)

    state, _ = jax.jit(lambda s: jax.lax.scan(step, s, length=4000))(state)
    network = nets.critic
    history = recurrent_dpg.history(seen[0], done[0])
    empty = network.core.initial_state()
    _, found = recurrent_actor_critic.unroll(
      network, state.critic, history, empty
    )
    q = network.head.apply(state.critic["head"], found[4], done[0, 4])
    np.testing.assert_allclose(q, wanted, rtol=0.05)


@pytest.mark.slow
def test_a_noisy_signal_is_tracked_almost_as_by_a_kalman_filter():
  """Tracks x' = a x + w, seen as x + v: the optimum is the filter's mean."""
  a, process, sensor, steps, count = 0.95, 0.1, 0.3, 20, 600
  start_variance = process**2 / (1 - a**2)
  variance, costs = start_variance, []
  for _ in range(steps):
    costs.append(variance * sensor**2 / (variance + sensor**2))
    variance = a**2 * costs[-1] + process**2
  least, of_a_glance = np.mean(costs), costs[0]

  def signals(key, count):
    keys = jax.random.split(key, 3)
    moves = process * jax.random.normal(keys[0], (count, steps + 1))
    first = jnp.sqrt(start_variance) * jax.random.normal(keys[1], (count,))
    move = lambda x, w: (a * x + w, x)
    x = jax.vmap(lambda x, w: jax.lax.scan(move, x, w)[1])(first, moves)
    noise = sensor * jax.random.normal(keys[2], x.shape)
    return x[:, :-1], (x + noise)[..., None]

  def cost(nets):
    optimiser = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(1e-3))
    keys = jax.random.split(jax.random.key(0), 5)
    x, seen = signals(keys[0], count)
    noise = jax.random.normal(keys[1], (*x.shape, 1))
    done = jnp.clip(0.5 * seen[:, :-1] + 0.4 * noise, -1, 1)
    ones = jnp.ones(x.shape)
    ends = ones.at[:, -1].set(0.0)
    found = Episode(seen, done, -((done[..., 0] - x) ** 2), ends, ones)
    agent = learner.init(keys[2], nets, seen[0, 0], optimiser, optimiser)

    def learn(agent, key):
      rows = jax.random.randint(key, (32,), 0, count)
      batch = jax.tree.map(lambda x: x[rows], found)
      given = key, nets, agent, batch, optimiser, optimiser
      return learner.update(*given, discount=0.5)[0], None

    agent, _ = jax.lax.scan(learn, agent, jax.random.split(keys[3], 1500))
    x, seen = signals(keys[4], 1000)

    def act(memory, seen):
      state, action = learner.act(nets, agent.actor, memory[0], seen, memory[1])
      return (state, action), action

    empty = nets.actor.core.initial_state(), jnp.zeros(1)
    track = lambda seen: jax.lax.scan(act, empty, seen[:-1])[1]
    return jnp.mean((jax.vmap(track)(seen)[..., 0] - x) ** 2)

  make = lambda make, **options: recurrent_actor_critic.networks(
    (1,), 1, functools.partial(make, hidden_size=16), **options
  )
  forgets = make(recurrent.feedforward, uses_previous_action=False)
  found = float(jax.jit(lambda: cost(make(recurrent.gru)))())
  # The filter is a bound but for the sample's error, some per cent.
  assert 0.95 * least < found < (least + of_a_glance) / 2
  assert 0.95 * of_a_glance < float(jax.jit(lambda: cost(forgets))())
