"""Tests of lilly.control.linear_models against systems and least squares."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.control import linear_models

# Of 2 x 2 matrices many are their own transposes.
T, D, M = 4, 3, 2
K = D + M + D


pytestmark = pytest.mark.usefixtures("float64")


# Compiled as wholes: of what is done one by one, each shape is compiled too.
fit = jax.jit(linear_models.fit, static_argnames="ridge")
pooled_prior = jax.jit(
  linear_models.pooled_prior, static_argnames=("mean_count", "count")
)


def system():
  """F, f and a factor of N, each varying in time."""
  rng = np.random.default_rng(0)
  factor = 0.3 * rng.normal(size=(T, D, D))
  return rng.normal(size=(T, D, D + M)), rng.normal(size=(T, D)), factor


def rollouts(n, noise=0.0, seed=1):
  """Draws x, u and x' anew at each step: what is fitted is each step alone."""
  weights, offset, factor = system()
  rng = np.random.default_rng(seed)
  x, u = rng.normal(size=(n, T, D)) + 2, rng.normal(size=(n, T, M))
  following = np.einsum("tij,ntj->nti", weights, np.concatenate([x, u], -1))
  drawn = np.einsum("tij,ntj->nti", factor, rng.normal(size=(n, T, D)))
  following = following + offset + noise * drawn
  return tuple(map(jnp.asarray, (x, u, following)))


@jax.jit
def predictions(model, x, u):
  def at_all_times(x, u):
    return jnp.stack(
      [linear_models.mean(model, t, x[t], u[t]) for t in range(T)]
    )

  return jax.vmap(at_all_times)(x, u)


def test_data_without_noise_give_the_system():
  weights, offset, _ = system()
  model = fit(*rollouts(D + M + 2), ridge=0.0)
  np.testing.assert_allclose(model.weights, weights, atol=1e-9)
  np.testing.assert_allclose(model.offset, offset, atol=1e-9)
  np.testing.assert_allclose(model.covariance, 0.0, atol=1e-15)
  x, u, following = rollouts(3, seed=5)
  np.testing.assert_allclose(predictions(model, x, u), following, atol=1e-8)


def test_many_data_with_noise_come_near_the_system():
  weights, offset, factor = system()
  noise = factor @ factor.transpose(0, 2, 1)
  for given in ({"ridge": 0.0}, {}, {"prior": "pooled"}):
    errors = []
    for n in (100, 10_000):
      data = rollouts(n, noise=1.0)
      if given.get("prior"):
        given = {"prior": pooled_prior(*data)}
      model = fit(*data, **given)
      gaps = model.weights - weights, model.offset - offset
      errors.append(
        [np.abs(g).max() for g in (*gaps, model.covariance - noise)]
      )
    assert (np.array(errors[1]) < 0.3 * np.array(errors[0])).all()
    assert max(errors[1]) < 0.1


def test_without_a_ridge_it_is_least_squares():
  n = 9
  x, u, following = rollouts(n, noise=1.0)
  model = fit(x, u, following, ridge=0.0)
  for t in range(T):
    inputs = jnp.concatenate([x[:, t], u[:, t], jnp.ones((n, 1))], axis=1)
    wanted = jnp.linalg.lstsq(inputs, following[:, t])[0]
    np.testing.assert_allclose(model.weights[t], wanted[:-1].T, atol=1e-9)
    np.testing.assert_allclose(model.offset[t], wanted[-1], atol=1e-9)
    left = following[:, t] - inputs @ wanted
    np.testing.assert_allclose(model.covariance[t], left.T @ left / n)
    # The paper's formula: S_x'x' - F S_zz Fᵀ.
    z = np.concatenate([inputs[:, :-1], following[:, t]], axis=1)
    s, f = np.cov(z.T, bias=True), model.weights[t]
    formula = s[D + M :, D + M :] - f @ s[: D + M, : D + M] @ f.T
    np.testing.assert_allclose(model.covariance[t], formula, atol=1e-12)


def test_the_prior_is_the_papers():
  data = rollouts(5, noise=1.0)
  rng = np.random.default_rng(3)
  root, m_0 = rng.normal(size=(K, K)), rng.normal(size=K)
  phi, n, n_mean, n_0 = root @ root.T, 5, 2.0, 3.0
  prior = linear_models.Prior(
    *map(jnp.asarray, (m_0, phi)), jnp.asarray(n_mean), jnp.asarray(n_0)
  )
  model = fit(*data, prior=prior, ridge=0.1)
  z = np.concatenate(data, axis=-1)[:, 2]
  gap = z.mean(0) - m_0
  weight = n * n_mean / (n + n_mean)
  scatter = n * np.cov(z.T, bias=True)
  s = (phi + scatter + weight * np.outer(gap, gap)) / (n + n_0)
  s_zz, s_zx = s[: D + M, : D + M], s[: D + M, D + M :]
  f = s_zx.T @ np.linalg.inv(s_zz + 0.1 * np.eye(D + M))
  np.testing.assert_allclose(model.weights[2], f)
  offset = z.mean(0)[D + M :] - f @ z.mean(0)[: D + M]
  np.testing.assert_allclose(model.offset[2], offset)
  rest = np.hstack([-f, np.eye(D)])
  np.testing.assert_allclose(model.covariance[2], rest @ s @ rest.T)


def test_a_pooled_prior_has_the_moments_of_all_steps():
  data = rollouts(5, noise=1.0)
  prior = pooled_prior(*data, mean_count=2.0, count=3.0)
  z = np.concatenate(data, axis=-1).reshape(-1, K)
  np.testing.assert_allclose(prior.mean, z.mean(0))
  np.testing.assert_allclose(prior.scatter, 3.0 * np.cov(z.T, bias=True))
  assert (prior.mean_count, prior.count) == (2.0, 3.0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("with_prior", [False, True])
def test_five_rollouts_of_more_numbers_are_enough(with_prior, dtype):
  # d + m = 8: without a ridge or a prior F is not determined.
  rng = np.random.default_rng(2)
  x, u, weights = (rng.normal(size=s) for s in ((5, T, 6), (5, T, 2), (6, 8)))
  following = np.concatenate([x, u], -1) @ weights.T
  data = [jnp.asarray(a, dtype) for a in (x, u, following)]
  prior = pooled_prior(*data, count=0.1) if with_prior else None
  model = fit(*data, prior=prior)
  assert all(np.isfinite(leaf).all() for leaf in model)
  assert np.linalg.eigvalsh(model.covariance).min() > -1e-5
  gap = np.abs(predictions(model, *data[:2]) - data[2]).max()
  assert gap < 0.05 * np.abs(following).max()
  draw = jax.jit(linear_models.sample)
  drawn = draw(jax.random.key(0), model, 0, data[0][0, 0], data[1][0, 0])
  assert np.isfinite(drawn).all()


def test_covariances_are_semidefinite_whatever_the_ridge():
  for ridge in (1e-6, 1.0, 1e3):
    model = fit(*rollouts(3, noise=1.0), ridge=ridge)
    assert np.linalg.eigvalsh(model.covariance).min() > -1e-12


@jax.jit
def draw_many(model, t, x, u):
  """Draws without factors, and with factors given."""
  keys = jax.random.split(jax.random.key(0), 50_000)

  def draw(factors):
    sample = functools.partial(linear_models.sample, factors=factors)
    mapped = jax.vmap(sample, (0, None, None, None, None))
    return mapped(jax.random.clone(keys), model, t, x, u)

  return draw(None), draw(linear_models.roots(model))


@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_samples_have_the_mean_and_the_covariance(rank):
  weights, offset, factor = system()
  factor[:, :, rank:] = 0.0
  covariance = factor @ factor.transpose(0, 2, 1)
  model = linear_models.LinearGaussian(
    *map(jnp.asarray, (weights, offset, covariance))
  )
  t, x, u = 2, np.array([1.0, -2.0, 0.3]), np.array([0.5, 1.0])
  drawn, by_factors = draw_many(model, t, x, u)
  np.testing.assert_allclose(drawn, by_factors, rtol=1e-4, atol=1e-5)
  middle = weights[t] @ np.concatenate([x, u]) + offset[t]
  np.testing.assert_allclose(drawn.mean(0), middle, atol=0.01)
  np.testing.assert_allclose(np.cov(drawn.T), covariance[t], atol=0.005)


def test_each_step_has_its_model_and_the_last_serves_after_it():
  model = fit(*rollouts(6), ridge=0.0)
  x, u = jnp.ones(D), jnp.ones(M)
  found = [linear_models.mean(model, t, x, u) for t in (-3, 0, T - 1, T, 99)]
  np.testing.assert_array_equal(found[0], found[1])
  np.testing.assert_array_equal(found[2], found[3])
  np.testing.assert_array_equal(found[2], found[4])
  assert np.abs(found[1] - found[2]).max() > 0.1


def test_what_cannot_be_fitted_is_refused():
  with pytest.raises(ValueError, match=r"ridge is -0.1"):
    linear_models.fit(*rollouts(5), ridge=-0.1)
  with pytest.raises(ValueError, match="ridge is nan"):
    linear_models.fit(*rollouts(5), ridge=float("nan"))
  with pytest.raises(ValueError, match=r"5 rollouts; .* \+ 1 = 6 are needed"):
    linear_models.fit(*rollouts(D + M), ridge=0.0)
  with pytest.raises(ValueError, match="1 rollouts; give 2"):
    linear_models.fit(*rollouts(1))
  prior = pooled_prior(*rollouts(2))
  assert np.isfinite(fit(*rollouts(1), prior=prior).weights).all()
  with pytest.raises(ValueError, match="0 rollouts; give 1"):
    linear_models.fit(*rollouts(0), prior=prior)
  with pytest.raises(ValueError, match="mean_count is 0"):
    linear_models.pooled_prior(*rollouts(2), mean_count=0)
  with pytest.raises(ValueError, match=r"count is -1"):
    linear_models.pooled_prior(*rollouts(2), count=-1)


def test_other_shapes_of_priors_and_factors_are_refused():
  prior = pooled_prior(*rollouts(3))
  for name in ("mean", "scatter", "count", "mean_count"):
    longer = prior._replace(**{name: jnp.ones((2, 2))})
    with pytest.raises(ValueError, match=rf"^prior\.{name} has shape"):
      linear_models.fit(*rollouts(3), prior=longer)
  model = fit(*rollouts(6))
  x, u, key = jnp.ones(D), jnp.ones(M), jax.random.key(0)
  factors = linear_models.roots(model)
  linear_models.sample(key, model, 0, x, u, factors=factors)
  with pytest.raises(ValueError, match="factors has shape"):
    linear_models.sample(key, model, 0, x, u, factors=factors[:1])
  with pytest.raises(ValueError, match=r"model\.covariance is of type None"):
    linear_models.roots(model._replace(covariance=None))
  with pytest.raises(ValueError, match="time is of type float64"):
    linear_models.mean(model, 0.5, x, u)
