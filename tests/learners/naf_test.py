"""Tests of lilly.learners.naf against equations written out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lilly.envs import streams
from lilly.learners import naf as learner
from lilly.nets import normalized_advantage

O, M, B = 3, 2, 6
RATE = 0.01


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
  """A network, a start whose target is another, and an update."""
  norm = {} if batch_norm else None
  net = normalized_advantage.network(M, (5, 4), batch_norm=norm)
  begin = jax.jit(
    lambda key: learner.init(key, net, batch_of().observation, optax.adam(rate))
  )
  # NumPy compiles nothing for what is done with these leaf by leaf.
  first, second = (jax.device_get(begin(jax.random.key(i))) for i in (0, 1))
  # Far from where they begin, or L is nearly the identity.
  online, target = (
    x._replace(params=jax.tree.map(lambda w: 3 * w, x.params))
    for x in (first.online, second.online)
  )
  state = first._replace(online=online, target=target)

  def update(state, batch, **options):
    return learner.update(net, state, batch, optax.adam(rate), **options)

  return net, state, jax.jit(update)


def naive_outputs(params, s):
  """V, μ and P of a batch, from three networks."""
  found = {}
  for part in ("value", "mean", "triangle"):
    net = {
      path.rsplit("/", maxsplit=1)[-1]: layer
      for path, layer in params.items()
      if f"/{part}/" in path
    }
    x = s
    for l in range(2):
      layer = net[f"hidden_{l}"]
      x = jnp.maximum(x @ layer["w"] + layer["b"][None], 0)
    found[part] = x @ net["output"]["w"] + net["output"]["b"][None]
  a, b, c = found["triangle"].T
  zero = jnp.zeros_like(a)
  factor = jnp.stack(
    [jnp.stack([jnp.exp(a), zero]), jnp.stack([b, jnp.exp(c)])]
  )
  factor = factor.transpose(2, 0, 1)
  precision = jnp.einsum("bij,bkj->bik", factor, factor)
  return found["value"][:, 0], jnp.tanh(found["mean"]), precision


def test_an_update_against_the_equations():
  _, state, update = made()
  batch = batch_of()
  new, metrics = jax.device_get(update(state, batch, discount=0.9, tau=0.25))

  def loss(params):
    following = naive_outputs(state.target.params, batch.next_observation)[0]
    y = batch.reward + 0.9 * batch.discount * following
    value, mean, precision = naive_outputs(params, batch.observation)
    away = batch.action - mean
    q = value - 0.5 * jnp.einsum("bi,bij,bj->b", away, precision, away)
    return jnp.mean((y - q) ** 2), (q, value)

  descend = jax.jit(jax.value_and_grad(loss, has_aux=True))
  (error, (q, value)), grads = jax.device_get(descend(state.online.params))
  np.testing.assert_allclose(metrics["critic_loss"], error, rtol=1e-4)
  np.testing.assert_allclose(metrics["q"], q.mean(), rtol=1e-4)
  np.testing.assert_allclose(metrics["value"], value.mean(), rtol=1e-4)
  wanted = jax.tree.map(
    lambda w, g: w - RATE * g / (np.abs(g) + 1e-8), state.online.params, grads
  )
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5),
    new.online.params,
    wanted,
  )
  jax.tree.map(
    lambda x, y, z: np.testing.assert_allclose(
      z, 0.75 * x + 0.25 * y, rtol=1e-4, atol=1e-6
    ),
    state.target.params,
    new.online.params,
    new.target.params,
  )


def test_the_target_comes_from_the_target_network_alone():
  _, state, update = made()

  def moved(state):
    return update(state, batch_of(), discount=0.9)[1]["critic_loss"]

  other = jax.tree.map(lambda x: x + 0.5, state.target)
  assert moved(state._replace(target=other)) != moved(state)


@pytest.mark.slow
def test_an_absorbing_end_of_reward_0_keeps_its_value():
  # Two states in a row: 1 -> 0 -> end, rewards 1 and 0. V is 0 at the last and
  # 1 before it. A target that adds the discount has no fixed point here.
  net, _, _ = made()
  seen = jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
  state = jax.jit(lambda key: learner.init(key, net, seen, optax.adam(0.01)))(
    jax.random.key(0)
  )

  @jax.jit
  def train(key, state):
    def step(carry, _):
      key, state = carry
      key, key_action = jax.random.split(key)
      action = jax.random.uniform(key_action, (16, M), minval=-1.0)
      which = jnp.arange(16) % 2
      batch = streams.Transition(
        observation=seen[which],
        action=action,
        reward=jnp.where(which == 0, 1.0, 0.0),
        discount=jnp.where(which == 0, 1.0, 0.0),
        next_observation=jnp.tile(seen[1], (16, 1)),
      )
      state, _ = learner.update(
        net, state, batch, optax.adam(0.003), discount=0.5, tau=0.1
      )
      return (key, state), None

    return jax.lax.scan(step, (key, state), None, length=3000)[0][1]

  state = train(jax.random.key(1), state)
  values = [learner.outputs(net, state, x).value for x in seen]
  # From the first, 1 + 0.5 V(second); actions make no difference.
  np.testing.assert_allclose(values, [1.0, 0.0], atol=0.05)


def test_best_actions_are_the_means():
  net, state, _ = made()
  seen = batch_of().observation[0]
  found = learner.outputs(net, state, seen)
  act = learner.greedy(net, state)
  np.testing.assert_array_equal(act(jax.random.key(0), seen), found.mean)
  assert found.value.shape == () and found.factor.shape == (M, M)
  assert np.abs(found.mean).max() < 1


@pytest.mark.slow
def test_batch_norm_learns_by_the_batch_and_acts_by_averages():
  net, state, update = made(batch_norm=True, rate=0.0)
  batch = batch_of(1)
  new, metrics = update(state, batch, tau=0.25)
  assert np.isfinite(metrics["critic_loss"])
  old = [x["average"] for x in state.online.state.values()]
  latest = [x["average"] for x in new.online.state.values()]
  slow = [x["average"] for x in new.target.state.values()]
  before = [x["average"] for x in state.target.state.values()]
  assert any(np.any(x != y) for x, y in zip(old, latest, strict=True))
  for x, y, z in zip(before, latest, slow, strict=True):
    np.testing.assert_allclose(z, 0.75 * x + 0.25 * y, rtol=1e-4, atol=1e-6)
  one = learner.outputs(net, state, batch.observation[0])
  assert one.mean.shape == (M,)


def test_sizes_are_checked():
  net = normalized_advantage.network(M, ())
  with pytest.raises(ValueError, match="hidden_sizes is empty"):
    net.init(jax.random.key(0), jnp.zeros(O))
