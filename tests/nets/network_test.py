"""Tests of lilly.nets.network, against batched haiku."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lilly.nets import network


def one(x, is_training=False):
  """Of one example: its batch is the axis named 'batch'."""
  norm = hk.BatchNorm(True, True, 0.9, cross_replica_axis="batch")
  hidden = norm(hk.Linear(3)(x), is_training)
  return hk.Linear(2)(hidden)


def batch(x, is_training=False):
  """The same of a batch, as haiku has it."""
  norm = hk.BatchNorm(True, True, 0.9)
  hidden = norm(hk.Linear(3)(x), is_training)
  return hk.Linear(2)(hidden)


NET = network.from_haiku(hk.transform_with_state(one))
X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def variables():
  return network.init(jax.random.key(0), NET, X)[0]


def test_a_batch_is_normalised_as_by_a_batched_network(variables):
  batched = hk.transform_with_state(batch)
  # What haiku's normalisation keeps of a batch has an axis for it.
  params = dict(variables.params)
  params["batch_norm"] = jax.tree.map(lambda x: x[None], params["batch_norm"])
  state = jax.tree.map(lambda x: x[None] if x.ndim else x, variables.state)
  for is_training in (True, False):
    found, found_state = network.apply(
      NET, variables, 2 * X, is_training=is_training
    )
    wanted, wanted_state = batched.apply(
      params, state, None, 2 * X, is_training=is_training
    )
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    for x, y in zip(
      jax.tree.leaves(found_state), jax.tree.leaves(wanted_state), strict=True
    ):
      np.testing.assert_allclose(x.ravel(), y.ravel(), atol=1e-5)


def test_running_averages_begin_with_the_moments_of_the_first_batch(variables):
  hidden = X @ variables.params["linear"]["w"]
  averages = variables.state["batch_norm/~/mean_ema"]["average"]
  np.testing.assert_allclose(averages.ravel(), hidden.mean(0), atol=1e-5)


def test_one_example_is_normalised_by_the_averages_not_by_itself(variables):
  """By itself it would be the same output for every example."""
  found = [network.apply_one(NET, variables, x) for x in X[:2]]
  wanted, _ = network.apply(NET, variables, X[:2])
  np.testing.assert_allclose(np.stack(found), wanted, atol=1e-6)
  assert np.abs(found[0] - found[1]).max() > 1e-2


def test_a_step_keeps_averages_that_are_not_finite_out(variables):
  optimiser = optax.sgd(0.5)
  grads = jax.tree.map(jnp.ones_like, variables.params)
  state = jax.tree.map(lambda x: x + 1, variables.state)
  state["batch_norm/~/mean_ema"]["average"] *= jnp.nan
  opt_state = optimiser.init(variables.params)
  found, _ = network.step(optimiser, grads, opt_state, variables, state)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y - 0.5, atol=1e-6),
    found.params,
    variables.params,
  )
  means, old = (
    x.state["batch_norm/~/mean_ema"]["average"] for x in (found, variables)
  )
  np.testing.assert_array_equal(means, old)
  squares, old = (
    x.state["batch_norm/~/var_ema"]["average"] for x in (found, variables)
  )
  np.testing.assert_array_equal(squares, old + 1)


def test_targets_are_averaged_and_counters_copied(variables):
  new = jax.tree.map(lambda x: x + 4, variables)
  targets = jax.tree.map(jnp.zeros_like, variables)
  found = network.update_targets(new, targets, 0.25)
  for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(new), strict=True):
    share = 0.25 if jnp.issubdtype(y.dtype, jnp.floating) else 1
    np.testing.assert_allclose(x, share * y, rtol=1e-6)
