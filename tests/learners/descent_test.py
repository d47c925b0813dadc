"""Tests of lilly.learners.descent, against steps written out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lilly.learners import descent

HYPER = {"learning_rate": jnp.float32(0.1)}
DATA = jnp.arange(12.0).reshape(6, 2)


def init(key):
  return jax.random.normal(key, (2,)), {"seen": jnp.zeros(())}


def sample(key, data):
  return jax.random.choice(key, data)


def loss(key, params, state, episode):
  target = episode.sum() + 0.1 * jax.random.normal(key)
  error = params @ episode - target + 0 * state["seen"]
  return error**2, {"error": error, "seen": state["seen"]}


def optimiser(hyper):
  return optax.sgd(hyper["learning_rate"])


def observe(params, state, episodes):
  return {"seen": state["seen"] + episodes.shape[0] + 0 * params.sum()}


LEARNER = descent.make(
  init=init,
  sample=sample,
  loss=loss,
  optimiser=optimiser,
  batch_size=3,
  observe=observe,
)


def test_an_update_is_a_step_down_the_mean_of_the_batch():
  state = LEARNER.init(jax.random.key(0), HYPER, DATA)
  found, metrics = jax.jit(LEARNER.update)(state, DATA)
  # Written out in NumPy: the gradient of each episode, and their mean.
  key, key_sample, key_loss = jax.random.split(jax.random.clone(state.key), 3)
  params = np.asarray(state.params)
  grads, errors = [], []
  keys = zip(
    jax.random.split(key_sample, 3), jax.random.split(key_loss, 3), strict=True
  )
  for one, other in keys:
    x = np.asarray(jax.random.choice(one, DATA))
    target = x.sum() + 0.1 * float(jax.random.normal(other))
    errors.append(params @ x - target)
    grads.append(2 * errors[-1] * x)
  wanted = params - 0.1 * np.mean(grads, axis=0)
  np.testing.assert_allclose(found.params, wanted, rtol=1e-4)
  np.testing.assert_allclose(metrics["error"], np.mean(errors), rtol=1e-4)
  assert metrics["seen"] == 0 and found.state["seen"] == 3
  np.testing.assert_array_equal(
    jax.random.key_data(found.key), jax.random.key_data(key)
  )


def test_the_gradient_of_the_batch_is_measured():
  learner = descent.make(
    init=lambda key: (jnp.ones(2), ()),
    sample=sample,
    loss=lambda key, params, state, episode: (
      params @ episode,
      {"first": episode[0], "second": episode[1]},
    ),
    optimiser=lambda hyper: optax.clip_by_global_norm(1e-3),
    batch_size=3,
    measure_gradient=lambda grads: {"gradient": grads},
  )
  state = learner.init(jax.random.key(0), HYPER, DATA)
  _, metrics = learner.update(state, DATA)
  # Of a linear loss it is the mean episode, before the optimiser clips it.
  wanted = [metrics["first"], metrics["second"]]
  np.testing.assert_allclose(metrics["gradient"], wanted, rtol=1e-6)


def test_no_state_of_networks_is_needed():
  learner = descent.make(
    init=lambda key: (jnp.ones(2), ()),
    sample=sample,
    loss=lambda key, params, state, episode: (params @ episode, {}),
    optimiser=optimiser,
    batch_size=1,
  )
  state = learner.init(jax.random.key(0), HYPER, DATA)
  state, metrics = learner.update(state, DATA)
  assert state.state == () and metrics == {}


def test_leaves_keep_their_types():
  state = LEARNER.init(jax.random.key(0), HYPER, DATA)
  after = jax.eval_shape(LEARNER.update, state, DATA)[0]
  before = jax.eval_shape(lambda: LEARNER.init(jax.random.key(0), HYPER, DATA))
  assert jax.tree.map(
    lambda x, y: (x.shape, x.dtype) == (y.shape, y.dtype), before, after
  )
  leaves = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
  for x, y in leaves:
    assert (x.shape, x.dtype, x.weak_type) == (y.shape, y.dtype, y.weak_type)


def test_measures_are_means_over_as_many_episodes_as_asked_for():
  draw = lambda key: jax.random.choice(key, DATA)
  params, state = jnp.array([1.0, 2.0]), {"seen": jnp.ones(())}
  found = descent.measure(
    jax.random.key(3), loss, params, state, draw, num_episodes=5
  )
  errors = []
  for one, other in jax.random.split(jax.random.key(3), (5, 2)):
    errors.append(loss(other, params, state, draw(one))[1]["error"])
  np.testing.assert_allclose(found["error"], np.mean(errors), rtol=1e-5)
  again = descent.measure(
    jax.random.key(3), loss, params, state, draw, num_episodes=5
  )
  assert found["error"] == again["error"]


def test_a_batch_of_nothing_is_refused():
  with pytest.raises(ValueError, match="batch_size is 0"):
    descent.make(
      init=init, sample=sample, loss=loss, optimiser=optimiser, batch_size=0
    )
