"""Tests of node perturbation: unbiased, with a variance that grows."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.rules import node_perturbation


def _problem(num_hidden):
  rng = np.random.default_rng(0)
  x = rng.normal(size=3)
  u = rng.normal(size=(3, num_hidden)) / np.sqrt(num_hidden)
  w, target = rng.normal(size=(num_hidden, 2)), rng.normal(size=2)
  arrays = [a.astype(np.float32) for a in (x, u, w, target)]

  def loss(taps):
    x, u, w, target = arrays
    return jnp.sum(jnp.square(target - (x @ u + taps) @ w)) / 2

  return arrays, loss


def _draws(loss, num_hidden, number, noise_std):
  estimate = functools.partial(
    node_perturbation.estimate,
    loss=loss,
    taps=jnp.zeros(num_hidden),
    noise_std=noise_std,
  )
  keys = jax.random.split(jax.random.key(0), number)
  return np.asarray(jax.jit(jax.vmap(lambda key: estimate(key)))(keys))


def test_mean_is_backpropagations_signal():
  # Exact for a quadratic loss, whatever σ; pulled back, W₀'s gradient.
  (x, u, w, target), loss = _problem(4)
  draws = _draws(loss, 4, 100_000, noise_std=0.3)
  expected = -(target - x @ u @ w) @ w.T
  error = draws.std(0) / np.sqrt(len(draws))
  assert np.all(np.abs(draws.mean(0) - expected) < 3 * error)
  assert np.all(error < 0.02 * np.abs(expected).max())


def test_variance_grows_with_the_number_of_taps():
  ratios = []
  for num_hidden in (4, 64):
    (x, u, w, target), loss = _problem(num_hidden)
    draws = _draws(loss, num_hidden, 4000, noise_std=0.01)
    signal = -(target - x @ u @ w) @ w.T
    ratios.append(draws.var(0).sum() / np.sum(np.square(signal)))
  # For small σ it is (n + 1) times the signal's square.
  np.testing.assert_allclose(ratios, [5, 65], rtol=0.15)


def test_taps_may_be_a_tree():
  # For a linear loss the estimate is (slope · ξ) ξ.
  slope = (np.array([2.0, 2.0]), {"a": np.array([[1.0], [1.0], [1.0]])})
  slope = jax.tree.map(np.float32, slope)

  def loss(taps):
    products = jax.tree.map(jnp.vdot, slope, taps)
    return sum(jax.tree.leaves(products))

  @jax.jit
  def estimate(key):
    taps = jax.tree.map(jnp.zeros_like, slope)
    return node_perturbation.estimate(key, loss, taps, noise_std=0.5)

  estimates = estimate(jax.random.key(1))
  chex.assert_trees_all_equal_shapes_and_dtypes(estimates, slope)
  squared = sum(map(np.vdot, *map(jax.tree.leaves, (slope, estimates))))
  noise = np.concatenate([np.ravel(e) for e in jax.tree.leaves(estimates)])
  noise = noise / np.sqrt(squared)
  assert len(set(noise.tolist())) == 5
  weights = np.concatenate([np.ravel(s) for s in jax.tree.leaves(slope)])
  np.testing.assert_allclose(weights @ noise, np.sqrt(squared), rtol=1e-4)


def test_gradient_is_exact_above_and_unbiased_below():
  (x, u, w, target), _ = _problem(4)

  def signals(params, taps):
    hidden = x @ params["u"] + taps[0]
    return [hidden, jax.lax.stop_gradient(hidden) @ params["w"]]

  def loss(output):
    return jnp.sum(jnp.square(target - output)) / 2

  def gradient(key):
    return node_perturbation.gradient(
      key, signals, loss, {"u": u, "w": w}, [jnp.zeros(4)], noise_std=0.3
    )

  keys = jax.random.split(jax.random.key(2), 50_000)
  values, grads = jax.tree.map(np.asarray, jax.jit(jax.vmap(gradient))(keys))
  e = target - x @ u @ w
  np.testing.assert_allclose(values, e @ e / 2, rtol=1e-4)
  np.testing.assert_allclose(
    grads["w"][:5].mean(0), -np.outer(x @ u, e), rtol=1e-4
  )
  # One estimate for each unit: its error is shared by the unit's weights.
  below = grads["u"][:, 0] / x[0]
  error = below.std(0) / np.sqrt(len(below))
  assert np.all(np.abs(below.mean(0) + w @ e) < 3 * error)
  np.testing.assert_allclose(
    grads["u"][0], np.outer(x, below[0]), rtol=1e-3, atol=1e-4
  )


def test_loss_must_be_scalar():
  with pytest.raises(ValueError, match=r"loss has shape \[2\]; it must be a s"):
    node_perturbation.estimate(jax.random.key(0), jnp.square, jnp.zeros(2))


def test_noise_must_be_positive():
  with pytest.raises(ValueError, match=r"noise_std is 0\.0; it must be"):
    node_perturbation.estimate(
      jax.random.key(0), jnp.sum, jnp.zeros(2), noise_std=0.0
    )
