"""Tests of moving ZCA: features of a known covariance, eigenvectors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.memory import sphering
from tests.oracles import assert_close
from tests.whole import each

sphering = each(sphering)

refresh = jax.jit(sphering.refresh, static_argnames="every")


def inverse_root(matrix):
  values, vectors = np.linalg.eigh(matrix)
  return vectors @ np.diag(values**-0.5) @ vectors.T


def known(size=6, seed=0, offset=0.0):
  """Any mean and covariance, and features of these."""
  rng = np.random.default_rng(seed)
  root = rng.normal(size=(size, size))
  mean = offset * rng.normal(size=size)
  features = rng.normal(size=(40, 256, size)) @ root.T + mean
  return mean, root @ root.T, features


def test_features_are_made_spheres():
  mean, cov, features = known()
  features = jnp.asarray(features, jnp.float32)

  @jax.jit
  def learn(state):
    def step(state, batch):
      state = sphering.update(state, batch, decay=0.9)
      return sphering.refresh(state, decay=0.8), None

    return jax.lax.scan(step, state, features)[0]

  state = learn(sphering.init(6))
  assert_close(state.projection, state.projection.T, atol=1e-6)
  q = jax.vmap(functools.partial(sphering.apply, state))(features[-1])
  error = np.cov(np.asarray(q).T) - np.eye(6)
  assert np.linalg.norm(error) < 0.2 * np.sqrt(6)
  # More exactly: of the covariance that the features were drawn with.
  state = sphering.State(mean, cov, np.eye(6))
  theta = refresh(state, decay=0.0, epsilon=1e-6).projection
  error = theta @ cov @ theta.T - np.eye(6)
  assert np.linalg.norm(error) < 0.01 * np.sqrt(6)


def test_the_projection_is_that_of_eigenvectors():
  with jax.enable_x64(True):
    _, _, features = known(offset=2.0)
    state = sphering.init(6, dtype=jnp.float64)
    old = state.projection
    mu, sigma = np.zeros(6), np.eye(6)
    for batch in features[:3]:
      state = sphering.update(state, batch, decay=0.7)
      mu = 0.7 * mu + 0.3 * batch.mean(0)
      sigma = 0.7 * sigma + 0.3 * batch.T @ batch / len(batch)
    assert_close(state.mean, mu)
    assert_close(state.second_moment, sigma)
    np.testing.assert_array_equal(state.projection, old)
    root = inverse_root(sigma - np.outer(mu, mu) + 0.01 * np.eye(6))
    found = refresh(state, decay=0.6, epsilon=0.01)
    assert_close(found.projection, 0.6 * np.eye(6) + 0.4 * root)
    # Every 3rd time it moves three times.
    for _ in range(3):
      state = refresh(state, decay=0.6, epsilon=0.01)
    start = state._replace(projection=old)
    rare = refresh(start, decay=0.6, epsilon=0.01, every=3)
    assert_close(rare.projection, state.projection)
    features = features[0, 0]
    projected = sphering.apply(state, features)
    assert_close(projected, state.projection @ features)
    centred = sphering.apply(state, features, is_centred=True)
    assert_close(centred, state.projection @ (features - mu))


@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_features_that_never_change_or_repeat_are_finite(offset):
  rng = np.random.default_rng(0)
  batch = rng.normal(size=(512, 8))
  batch[:, 0], batch[:, 1] = offset, batch[:, 2]
  # As layer normalisation does: features that add up to 0.
  batch[:, 7] = -batch[:, :7].sum(axis=1)
  state = sphering.init(8)
  batch = jnp.asarray(batch, jnp.float32)
  state = sphering.update(state, batch, decay=0.0)
  theta = refresh(state, decay=0.0).projection
  assert np.isfinite(theta).all()
  wide = np.asarray(state.second_moment, np.float64)
  mean = np.asarray(state.mean, np.float64)
  expected = inverse_root(wide - np.outer(mean, mean) + 1e-3 * np.eye(8))
  assert_close(theta, expected, rtol=0.01, atol=0.01 * np.abs(expected).max())


@pytest.mark.parametrize("decay", [0.0, 0.99])
@pytest.mark.parametrize("offset", [100.0, 1e4])
def test_means_far_above_deviations_are_finite(offset, decay):
  batches = np.random.default_rng(0).normal(size=(50, 512, 8))
  batches[..., 0] = offset
  batches[..., 1] = batches[..., 2] + offset
  batches[..., 2] += offset
  batches[..., 3:] *= 2
  batches = jnp.asarray(batches, jnp.float32)

  @jax.jit
  def learn(state):
    def step(state, i):
      return sphering.update(state, batches[i % 50], decay=decay), None

    return jax.lax.scan(step, state, jnp.arange(2000))[0]

  state = learn(sphering.init(8))
  theta = refresh(state, decay=0.0).projection
  assert np.isfinite(theta).all()
  np.testing.assert_array_equal(theta, theta.T)
  # The other features, of deviation 2, know nothing of these.
  assert_close(theta[3:, 3:], 0.5 * np.eye(5), atol=0.1)
  assert np.abs(theta[3:, :3]).max() < 0.15


def test_a_projection_stays_a_number():
  state = sphering.init(3)
  state = sphering.update(state, jnp.full((2, 3), jnp.nan))
  found = refresh(state, decay=0.5).projection
  np.testing.assert_array_equal(found, np.eye(3))


def test_wide_spectra_in_double_precision():
  with jax.enable_x64(True):
    rng = np.random.default_rng(1)
    vectors = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    cov = vectors @ np.diag(np.logspace(-4, 3, 8)) @ vectors.T
    state = sphering.init(8, dtype=jnp.float64)
    state = state._replace(second_moment=jnp.asarray(cov))
    theta = refresh(state, decay=0.0, epsilon=1e-12).projection
    assert_close(theta, inverse_root(cov), rtol=1e-5, atol=1e-5)


def test_wide_spectra_in_single_precision():
  rng = np.random.default_rng(1)
  vectors = np.linalg.qr(rng.normal(size=(32, 32)))[0]
  values = np.logspace(-3, 2, 32)
  cov = vectors @ np.diag(values) @ vectors.T
  state = sphering.init(32)._replace(
    second_moment=jnp.asarray(cov, jnp.float32)
  )
  theta = refresh(state, decay=0.0, epsilon=1e-3).projection
  whitened = np.asarray(theta, np.float64)
  whitened = whitened @ (cov + 1e-3 * np.eye(32)) @ whitened
  assert np.linalg.norm(whitened - np.eye(32)) < 0.1 * np.sqrt(32)


def test_rates_at_the_ends():
  state, batch = sphering.init(2), jnp.array([[1.0, 2.0], [3.0, 5.0]])
  kept = sphering.update(state, batch, decay=1.0)
  jax.tree.map(np.testing.assert_array_equal, kept, state)
  new = sphering.update(state, batch, decay=0.0)
  assert_close(new.mean, [2.0, 3.5])
  assert_close(new.second_moment, batch.T @ batch / 2)
  np.testing.assert_array_equal(
    sphering.refresh(new, decay=1.0).projection, np.eye(2)
  )


def test_gradients_go_to_features_only():
  state = sphering.init(2)._replace(projection=jnp.array([[2.0, 1], [1, 3]]))

  def total(state, features):
    state = sphering.update(state, features[None])
    return jnp.sum(sphering.apply(state, features, is_centred=True))

  of_state, of_features = jax.grad(total, argnums=(0, 1))(state, jnp.ones(2))
  for leaf in of_state:
    np.testing.assert_array_equal(leaf, jnp.zeros_like(leaf))
  assert_close(of_features, [3.0, 4.0])
  moments = lambda batch: jnp.sum(sphering.update(state, batch).mean)
  np.testing.assert_array_equal(jax.grad(moments)(jnp.ones((3, 2))), 0)


def test_lapack_is_left_alone():
  given = jax.tree.map(lambda x: jnp.stack([x, x]), sphering.init(16))
  text = jax.jit(jax.vmap(sphering.refresh)).lower(given).as_text()
  assert "while" in text
  assert "lapack" not in text


def test_bad_arguments_are_refused():
  state, batch = sphering.init(2), jnp.ones((3, 2))
  with pytest.raises(ValueError, match="size is 0"):
    sphering.init(0)
  for bad in (-0.1, 1.5, np.nan, np.float32(2)):
    with pytest.raises(ValueError, match="decay is"):
      sphering.update(state, batch, decay=bad)
    with pytest.raises(ValueError, match="decay is"):
      sphering.refresh(state, decay=bad)
  for bad in (0.0, -1.0, np.float32(0)):
    with pytest.raises(ValueError, match="epsilon is"):
      sphering.refresh(state, epsilon=bad)
  with pytest.raises(ValueError, match="every is 0"):
    sphering.refresh(state, every=0)
  with pytest.raises(ValueError, match="features has 0 items"):
    sphering.update(state, batch[:0])
  with pytest.raises(ValueError, match="features has shape"):
    sphering.update(state, batch[0])
  with pytest.raises(ValueError, match="features has shape"):
    sphering.apply(state, batch)
  square = state._replace(second_moment=jnp.eye(3))
  with pytest.raises(ValueError, match=r"state\.second_moment has shape"):
    sphering.refresh(square)


def test_whole_numbers_are_features_too():
  state = sphering.State(*jax.tree.map(np.int32, sphering.init(2)))
  batch = np.array([[1, 2], [3, 5]])
  found = sphering.update(state, batch, decay=0.5)
  assert_close(found.mean, [1.0, 1.75])
  assert not any(x.weak_type for x in found)
  assert_close(sphering.apply(found, batch[0]), batch[0])
