"""Tests of lilly.learners.ddpg against equations written out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lilly.envs import environment, streams
from lilly.learners import ddpg as learner
from lilly.nets import actor_critic

O, M, B = 3, 2, 6
RATE, DECAY = 0.01, 0.1


def optimisers(rate=RATE):
  return learner.adam(rate), learner.adam(rate, DECAY)


def batch_of(seed=0, size=B):
  rng = np.random.default_rng(seed)

  def normal(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)

  discounts = jnp.asarray(rng.integers(0, 2, size), jnp.float32)
  return streams.Transition(
    observation=normal(size, O),
    action=jnp.tanh(normal(size, M)),
    reward=normal(size),
    discount=discounts,
    next_observation=normal(size, O),
  )


@functools.cache
def made(batch_norm=False, rate=RATE):
  """Networks, a start whose targets are others, and an update."""
  nets = actor_critic.networks(M, (5, 4), batch_norm={} if batch_norm else None)
  begin = jax.jit(
    lambda key: learner.init(
      key, nets, batch_of().observation, *optimisers(rate)
    )
  )
  # NumPy compiles nothing for what is done with these leaf by leaf.
  first, second = (jax.device_get(begin(jax.random.key(i))) for i in (0, 1))
  state = first._replace(
    target_policy=second.policy, target_critic=second.critic
  )

  def update(state, batch, **options):
    return learner.update(nets, state, batch, *optimisers(rate), **options)

  return nets, state, jax.jit(update)


def layers(variables):
  return {
    path.rsplit("/", maxsplit=1)[-1]: layer
    for path, layer in variables.params.items()
  }


def naive_policy(variables, s):
  net = layers(variables)
  for l in range(2):
    layer = net[f"hidden_{l}"]
    s = jnp.maximum(s @ layer["w"] + layer["b"][None], 0)
  return jnp.tanh(s @ net["output"]["w"] + net["output"]["b"][None])


def naive_critic(variables, s, a):
  net = layers(variables)
  for l in range(2):
    layer = net[f"hidden_{l}"]
    s = s @ layer["w"] + layer["b"][None]
    s = jnp.maximum(s + a @ net["action"]["w"] if l == 1 else s, 0)
  return (s @ net["output"]["w"] + net["output"]["b"][None])[:, 0]


def first_adam_step(params, grads, decay):
  """Adam's first step on g + decay w, of weights alone: -rate g / (|g| + ε)."""

  def of_leaf(w, g):
    g = g + (decay * w if w.ndim > 1 else 0)
    return w - RATE * g / (np.abs(g) + 1e-8)

  return jax.tree.map(of_leaf, params, grads)


def assert_close(found, wanted, **tolerance):
  tolerance = {"rtol": 1e-4, "atol": 1e-6} | tolerance
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, **tolerance), found, wanted
  )


def test_an_update_against_the_equations():
  _, state, update = made()
  batch = batch_of()
  new, metrics = jax.device_get(update(state, batch, discount=0.9, tau=0.25))

  def critic_loss(critic):
    y = batch.reward + 0.9 * batch.discount * naive_critic(
      state.target_critic,
      batch.next_observation,
      naive_policy(state.target_policy, batch.next_observation),
    )
    q = naive_critic(critic, batch.observation, batch.action)
    return jnp.mean((y - q) ** 2)

  slope = jax.jit(jax.value_and_grad(critic_loss))
  loss, grads = jax.device_get(slope(state.critic))
  np.testing.assert_allclose(metrics["critic_loss"], loss, rtol=1e-5)
  critic = first_adam_step(state.critic.params, grads.params, DECAY)
  assert_close(new.critic.params, critic)

  def policy_value(policy):
    a = naive_policy(policy, batch.observation)
    return jnp.mean(naive_critic(new.critic, batch.observation, a))

  slope = jax.jit(jax.value_and_grad(policy_value))
  value, grads = jax.device_get(slope(state.policy))
  np.testing.assert_allclose(metrics["policy_value"], value, rtol=1e-4)
  uphill = jax.tree.map(np.negative, grads.params)
  assert_close(
    new.policy.params, first_adam_step(state.policy.params, uphill, 0.0)
  )
  for name in ("policy", "critic"):
    old, latest = getattr(state, f"target_{name}"), getattr(new, name)
    assert_close(
      getattr(new, f"target_{name}").params,
      jax.tree.map(lambda x, y: 0.75 * x + 0.25 * y, old.params, latest.params),
    )


def test_the_target_comes_from_the_target_networks_alone():
  _, state, update = made()

  def loss(state):
    return float(update(state, batch_of(), discount=0.9)[1]["critic_loss"])

  other = jax.tree.map(lambda x: x + 0.5, state.policy)
  assert loss(state._replace(policy=other)) == loss(state)
  for name in ("target_policy", "target_critic"):
    other = jax.tree.map(lambda x: x + 0.5, getattr(state, name))
    assert loss(state._replace(**{name: other})) != loss(state)


def test_targets_close_in_geometrically():
  _, state, update = made(rate=0.0)
  zeros = jax.tree.map(np.zeros_like, (state.policy, state.critic))
  state = state._replace(target_policy=zeros[0], target_critic=zeros[1])

  @jax.jit
  def run(state):
    def step(state, _):
      return update(state, batch_of(), tau=1e-3)[0], None

    return jax.lax.scan(step, state, None, length=1000)[0]

  end = run(state)
  part = 1 - (1 - 1e-3) ** 1000
  for name in ("policy", "critic"):
    wanted = jax.tree.map(lambda x: part * x, getattr(state, name).params)
    assert_close(getattr(end, f"target_{name}").params, wanted, atol=1e-6)


def test_a_value_without_end_is_bootstrapped():
  # Reward 1 for ever: Q is 1 / (1 - 0.9), not a sum that stops somewhere.
  nets, state, _ = made()
  optimiser = optax.adam(0.01)
  state = state._replace(
    policy_opt_state=optimiser.init(state.policy.params),
    critic_opt_state=optimiser.init(state.critic.params),
  )

  def step(state, key):
    s, a, following = jax.random.uniform(key, (3, 16, O), minval=-1.0)
    ones = jnp.ones(16)
    batch = streams.Transition(s, a[:, :M], ones, ones, following)
    return learner.update(
      nets, state, batch, optimiser, optimiser, discount=0.9, tau=0.1
    )

  keys = jax.random.split(jax.random.key(0), 1500)
  _, metrics = jax.jit(lambda state: jax.lax.scan(step, state, keys))(state)
  np.testing.assert_allclose(metrics["q"][-1], 10.0, rtol=0.03)


def test_batch_norm_acts_by_averages_which_targets_average():
  nets, state, update = made(batch_norm=True, rate=0.0)
  batch = batch_of()
  policy = state.policy
  one = learner.act(nets, policy, batch.observation[0])
  assert one.shape == (M,)
  # The first averages are those of the batch the agent began from.
  means = [
    x["average"]
    for path, x in policy.state.items()
    if path.endswith("norm_input/~/mean_ema")
  ]
  np.testing.assert_allclose(
    means[0].reshape(-1), batch.observation.mean(0), rtol=1e-4, atol=1e-6
  )
  new, _ = jax.device_get(update(state, batch, tau=0.25))

  def averages(variables):
    return [norm["average"] for norm in variables.state.values()]

  for name in ("policy", "critic"):
    old, latest = getattr(state, f"target_{name}"), getattr(new, name)
    assert_close(
      averages(getattr(new, f"target_{name}")),
      [
        0.75 * x + 0.25 * y
        for x, y in zip(averages(old), averages(latest), strict=True)
      ],
    )


def test_seeds_under_vmap_equal_seeds_alone():
  _, state, update = made()
  states = jax.tree.map(lambda x: np.stack([x, 1.1 * x]).astype(x.dtype), state)
  batches = jax.tree.map(lambda *x: jnp.stack(x), batch_of(0), batch_of(1))
  batches = jax.device_get(batches)
  together, _ = jax.device_get(jax.jit(jax.vmap(update))(states, batches))
  for i in range(2):
    alone, _ = update(*jax.tree.map(lambda x, i=i: x[i], (states, batches)))
    assert_close(jax.tree.map(lambda x, i=i: x[i], together), alone)


@pytest.mark.parametrize("pixels", [False, True])
def test_values_and_actions_of_one_example(pixels):
  nets = actor_critic.networks(M, (5, 4), pixels=pixels)
  shape = (8, 8, 3) if pixels else (O,)
  observations = jnp.ones((2, *shape), jnp.uint8 if pixels else jnp.float32)
  state = jax.jit(
    lambda key: learner.init(key, nets, observations, *optimisers())
  )(jax.random.key(0))

  @jax.jit
  def use(state, observation):
    action = learner.act(nets, state.policy, observation)
    return action, learner.value(nets, state.critic, observation, action)

  action, q = use(state, observations[0])
  assert action.shape == (M,) and q.shape == ()


def test_q_is_compared_with_the_discounted_returns_of_its_own_steps():
  def reset(key):
    del key
    return jnp.zeros(()), jnp.zeros(O)

  def step(key, state, action):
    del key, action
    state = state + 1
    return state, environment.make_step(jnp.full(O, state), state)

  env = environment.Environment(
    reset,
    step,
    environment.box([0.0] * O, [9.0] * O),
    environment.box([-1.0] * M, [1.0] * M),
  )
  nets, state, _ = made()

  @jax.jit
  def evaluate(state):
    q, returns = learner.evaluate_critic(
      jax.random.key(0),
      env,
      nets,
      state,
      discount=0.5,
      num_steps=3,
      num_steps_after=1,
    )
    seen = jnp.broadcast_to(jnp.arange(3.0)[:, None], (3, O))
    actions = naive_policy(state.policy, seen)
    return q, returns, naive_critic(state.critic, seen, actions)

  q, returns, wanted = evaluate(state)
  np.testing.assert_allclose(q, wanted, rtol=1e-5)
  # Rewards 1, 2, 3 and 4, the last of a step that is not compared.
  np.testing.assert_allclose(returns, [3.25, 4.5, 5.0], rtol=1e-6)
