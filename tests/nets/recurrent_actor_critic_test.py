"""Tests of lilly.nets.recurrent_actor_critic, step by step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.losses import recurrent_dpg
from lilly.nets import recurrent, recurrent_actor_critic

T, O, M = 3, 2, 2


@functools.cache
def networks(**options):
  return recurrent_actor_critic.networks(
    (O,),
    M,
    functools.partial(recurrent.lstm, hidden_size=4),
    encoder_size=4,
    core_size=3,
    hidden_size=5,
    **options,
  )


def inputs(seed=0):
  """Observations and previous actions, and an action."""
  rng = np.random.default_rng(seed)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  return recurrent_dpg.history(draw(T + 1, O), draw(T, M)), draw(M)


@functools.cache
def parameters(nets):
  """Of actor and critic, large enough that every part matters."""
  (observation, previous), action = inputs()
  one = observation[0], previous[0]

  @jax.jit
  def init(key):
    keys = jax.random.split(key)
    return (
      recurrent_actor_critic.init(keys[0], nets.actor, one),
      recurrent_actor_critic.init(keys[1], nets.critic, one, action),
    )

  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: jnp.asarray(x + 0.4 * rng.normal(size=x.shape), x.dtype),
    jax.device_get(init(jax.random.key(0))),
  )


def test_features_are_the_cores_output_beside_its_input():
  nets = networks()
  actor, _ = parameters(nets)
  (observation, previous), _ = inputs()
  start = nets.actor.core.initial_state()
  state, found = recurrent_actor_critic.unroll(
    nets.actor, actor, (observation, previous), start
  )
  wanted = []
  dense = jax.device_get(actor["encoder"]["encoder"])
  apply = jax.jit(nets.actor.core.apply)
  for x in np.concatenate([observation, previous], axis=1):
    code = np.maximum(x @ dense["w"] + dense["b"], 0)
    start, output = apply(actor["core"], code, start)
    wanted.append(np.concatenate([code, output]))
  np.testing.assert_allclose(found, wanted, atol=1e-6)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), state, start
  )
  # A batch begins each episode from the initial state.
  twice = jax.tree.map(lambda x: jnp.stack([x, x]), (observation, previous))
  batch = recurrent_actor_critic.unroll_episodes(nets.actor, actor, twice)
  np.testing.assert_allclose(batch, [wanted, wanted], atol=1e-6)


def test_heads_are_perceptrons_of_the_features():
  nets = networks(is_stochastic=True, least_scale=0.3)
  actor, critic = parameters(nets)
  rng = np.random.default_rng(1)
  features = rng.normal(size=(2, 3, 7)).astype(np.float32)
  actions = rng.normal(size=(2, 3, M)).astype(np.float32)

  def head(params, x):
    hidden, output = jax.device_get(
      (params["head"]["hidden"], params["head"]["output"])
    )
    x = np.maximum(x @ hidden["w"] + hidden["b"], 0)
    return x @ output["w"] + output["b"]

  outputs = head(actor, features)
  mean, scale = recurrent_actor_critic.mean_and_scale(nets, actor, features)
  np.testing.assert_allclose(mean, outputs[..., :M], atol=1e-5)
  wanted = 0.3 + np.log1p(np.exp(outputs[..., M:] - 1))
  np.testing.assert_allclose(scale, wanted, atol=1e-5)
  noise = rng.normal(size=(2, 3, M)).astype(np.float32)
  policy = recurrent_actor_critic.policy(nets, mean, scale)
  np.testing.assert_allclose(
    policy(noise), np.tanh(mean + scale * noise), atol=1e-6
  )
  np.testing.assert_allclose(policy(0.0), np.tanh(mean), atol=1e-6)
  found = recurrent_actor_critic.evaluate(nets, critic, features, actions)
  wanted = head(critic, np.concatenate([features, actions], axis=-1))[..., 0]
  np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_deterministic_policy_uses_no_noise():
  nets = networks()
  actor, _ = parameters(nets)
  mean, scale = recurrent_actor_critic.mean_and_scale(nets, actor, jnp.ones(7))
  assert mean.shape == (M,) and not scale.any()
  policy = recurrent_actor_critic.policy(nets, mean, scale)
  np.testing.assert_array_equal(policy(jnp.full(M, 9.0)), jnp.tanh(mean))


def test_previous_actions_are_inputs_where_they_are_used():
  (observation, previous), _ = inputs()
  assert previous[1:].all()
  for is_used in (True, False):
    nets = networks(uses_previous_action=is_used)
    found = recurrent_actor_critic.make_inputs(nets, observation, previous)
    np.testing.assert_array_equal(found[0], observation)
    np.testing.assert_array_equal(found[1], is_used * previous)


def test_gradients_go_back_to_the_first_observation():
  nets = networks()
  actor, _ = parameters(nets)
  (observation, previous), _ = inputs(seed=3)

  @jax.jit
  def last(first, before):
    given = observation.at[0, 0].set(first), previous.at[1, 0].set(before)
    empty = nets.actor.core.initial_state()
    _, found = recurrent_actor_critic.unroll(nets.actor, actor, given, empty)
    return recurrent_actor_critic.mean_and_scale(nets, actor, found[-1])[0][0]

  slopes, h = jax.grad(last, (0, 1))(0.3, 0.2), 1e-2
  ends = [
    [last(0.3 + s * h, 0.2) for s in (1, -1)],
    [last(0.3, 0.2 + s * h) for s in (1, -1)],
  ]
  for slope, (high, low) in zip(slopes, ends, strict=True):
    assert abs(slope) > 1e-4
    np.testing.assert_allclose(
      slope, (high - low) / (2 * h), rtol=0.05, atol=2e-5
    )


def test_cores_have_weights_of_their_own():
  actor, critic = parameters(networks())
  count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
  # An LSTM of 4 units on 4 numbers, and a layer from 4 to 3.
  assert count(actor["core"]) == (8 * 16 + 16) + (4 * 3 + 3)
  assert count(critic["core"]) == count(actor["core"])


def test_images_are_encoded_by_convolutions():
  nets = recurrent_actor_critic.networks(
    (16, 16, 3), M, functools.partial(recurrent.gru, hidden_size=4)
  )
  image = jax.ShapeDtypeStruct((16, 16, 3), jnp.uint8)
  init = lambda key, *given: recurrent_actor_critic.init(key, nets.actor, given)
  found = jax.eval_shape(init, jax.random.key(0), image, jnp.zeros(M))
  # 3 x 3 x 3 numbers to 32 filters; 2 x 2 positions of them and the action.
  assert found["encoder"]["pixel_encoder/conv_0"]["w"].shape == (27, 32)
  assert found["encoder"]["encoder"]["w"].shape == (2 * 2 * 32 + M, 32)


@pytest.mark.parametrize("size", ["hidden", "core"])
def test_sizes_are_positive(size):
  core_size, hidden_size = (0, 4) if size == "core" else (3, 0)
  with pytest.raises(ValueError, match="must be at least 1"):
    recurrent_actor_critic.networks(
      (O,),
      M,
      functools.partial(recurrent.lstm, hidden_size=hidden_size),
      core_size=core_size,
    )
