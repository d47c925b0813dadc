"""Tests of node perturbation: unbiased, with a variance that grows."""

import functools

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
  np.testing.assert_allclose(
    expected, jax.grad(loss)(jnp.zeros(4)), rtol=1e-4, atol=1e-5
  )


def test_variance_grows_with_the_number_of_taps():
  ratios = []
  for num_hidden in (4, 64):
    _, loss = _problem(num_hidden)
    draws = _draws(loss, num_hidden, 4000, noise_std=0.01)
    signal = jax.grad(loss)(jnp.zeros(num_hidden))
    ratios.append(draws.var(0).sum() / jnp.sum(jnp.square(signal)))
  # For small σ it is (n + 1) times the signal's square.
  np.testing.assert_allclose(ratios, [5, 65], rtol=0.15)


def test_taps_may_be_a_tree():
  taps = (jnp.zeros(2), {"a": jnp.zeros((3, 1))})

  def loss(taps):
    return 2.0 * jnp.sum(taps[0]) + jnp.sum(taps[1]["a"])

  first, second = node_perturbation.estimate(
    jax.random.key(1), loss, taps, noise_std=1.0
  )
  # For a linear loss: (slope · ξ) ξ, so all noise is recovered from the result.
  slope = 2 * first.sum() + second["a"].sum()
  noise_slope = np.sqrt(slope)
  noise = [first / noise_slope, second["a"] / noise_slope]
  np.testing.assert_allclose(
    2 * noise[0].sum() + noise[1].sum(), noise_slope, rtol=1e-4
  )
  assert len(set(np.concatenate([np.ravel(n) for n in noise]).tolist())) == 5


def test_loss_must_be_scalar():
  with pytest.raises(AssertionError):
    node_perturbation.estimate(jax.random.key(0), jnp.square, jnp.zeros(2))


def test_noise_must_be_positive():
  with pytest.raises(ValueError, match=r"noise_std is 0\.0; .*positive"):
    node_perturbation.estimate(
      jax.random.key(0), jnp.sum, jnp.zeros(2), noise_std=0.0
    )
