"""Tests of lilly.losses.naf, with P written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from lilly.losses import naf
from tests.whole import each

naf = each(naf)

M = 4


def drawn(seed=0):
  """Numbers of a triangle, an action, a mean."""
  rng = np.random.default_rng(seed)
  return [
    jnp.asarray(rng.normal(size=n), jnp.float32)
    for n in (M * (M + 1) // 2, M, M)
  ]


def test_numbers_fill_the_triangle_row_by_row():
  numbers = jnp.arange(1.0, 7.0) / 10
  wanted = [
    [np.exp(0.1), 0.0, 0.0],
    [0.2, np.exp(0.3), 0.0],
    [0.4, 0.5, np.exp(0.6)],
  ]
  np.testing.assert_allclose(naf.triangle(numbers), wanted, rtol=1e-6)


def test_precision_is_positive_and_its_determinant_known():
  numbers, _, _ = drawn()
  factor = np.asarray(naf.triangle(numbers), np.float64)
  precision = factor @ factor.T
  assert np.linalg.eigvalsh(precision).min() > 0
  diagonal = np.cumsum(np.arange(1, M + 1)) - 1
  np.testing.assert_allclose(
    np.linalg.slogdet(precision)[1], 2 * numbers[diagonal].sum(), rtol=1e-5
  )
  # One action: P = exp(2 l).
  np.testing.assert_allclose(
    naf.triangle(jnp.array([0.7])) ** 2, [[np.exp(1.4)]], rtol=1e-6
  )
  extreme = naf.triangle(jnp.array([90.0, 3.0, -90.0]))
  np.testing.assert_allclose(jnp.diag(extreme), np.exp([5.0, -5.0]), rtol=1e-6)


def test_the_advantage_is_a_quadratic_form_with_its_maximum_at_the_mean():
  numbers, action, mean = drawn()
  factor = naf.triangle(numbers)
  precision = factor @ factor.T
  away = action - mean
  np.testing.assert_allclose(
    naf.advantage(action, mean, factor),
    -0.5 * away @ precision @ away,
    rtol=1e-5,
  )
  hessian = jax.hessian(naf.advantage)(action, mean, factor)
  np.testing.assert_allclose(hessian, -precision, rtol=1e-4, atol=1e-5)
  slope = jax.grad(naf.advantage)(mean, mean, factor)
  np.testing.assert_array_equal(slope, 0.0)
  others = jax.random.normal(jax.random.key(0), (100, M))
  values = jax.vmap(naf.advantage, (0, None, None))(others, mean, factor)
  assert values.max() < 0 == naf.advantage(mean, mean, factor)


def test_loss_multiplies_what_comes_after_by_the_discount():
  inputs = tuple(map(jnp.float32, (1.5, -0.5, 0.25, 0.5, 4.0)))
  value, grads = jax.value_and_grad(naf.loss, range(5))(*inputs)
  error = 0.25 + 0.5 * 4.0 - (1.5 - 0.5)
  np.testing.assert_allclose(value, error**2, rtol=1e-6)
  np.testing.assert_allclose(grads, (-2 * error,) * 2 + (0,) * 3, rtol=1e-6)
  # A terminal state is worth nothing, whatever V' says of it.
  ended = [
    naf.loss(*map(jnp.float32, (1.0, 0.0, 2.0, 0.0, v))) for v in (5.0, -9.0)
  ]
  assert ended == [1.0, 1.0]


def test_noise_has_the_covariance_of_the_policy():
  numbers, _, _ = drawn()
  factor = naf.triangle(numbers)
  keys = jax.random.split(jax.random.key(0), 100_000)
  draws = jax.vmap(lambda key: naf.noise(key, factor, scale=0.3))(keys)
  exact = np.asarray(factor, np.float64)
  wanted = 0.3 * np.linalg.inv(exact @ exact.T)
  np.testing.assert_allclose(
    np.cov(draws.T), wanted, rtol=0.02, atol=0.02 * np.abs(wanted).max()
  )


@pytest.mark.parametrize("count", [0, 2, 5])
def test_a_count_that_is_no_triangle_is_refused(count):
  with pytest.raises(ValueError, match=f"numbers has {count} entries"):
    naf.triangle(jnp.zeros(count))


def riccati(a, b, cost, effort, discount):
  """S, K of the best controller and P of its Q, by iteration."""
  s = np.zeros_like(a)
  for _ in range(500):
    q_uu = effort + discount * b.T @ s @ b
    gain = np.linalg.solve(q_uu, discount * b.T @ s @ a)
    s = cost + discount * a.T @ s @ a - discount * a.T @ s @ b @ gain
  return s, gain, 2 * q_uu


@pytest.mark.parametrize("bootstrapped", [False, True])
def test_a_linear_quadratic_problem_is_fitted_exactly(bootstrapped):
  # V = -xᵀ S x, μ = -K x and one P for all states hold the best Q there is.
  a, b = np.array([[1.0, 0.2], [-0.1, 0.9]]), np.array([[0.0], [0.5]])
  cost, effort, discount = np.diag([1.0, 0.3]), np.array([[0.4]]), 0.8
  s, gain, precision = riccati(a, b, cost, effort, discount)
  rng = np.random.default_rng(0)
  x, u = rng.normal(size=(40, 2)), rng.normal(size=(40, 1))
  following = x @ a.T + u @ b.T
  reward = -np.sum(x @ cost * x, 1) - np.sum(u @ effort * u, 1)

  with jax.enable_x64(True):

    def value(params, x):
      p, q, r = params[:3]
      return -x @ jnp.array([[p, q], [q, r]]) @ x

    @jax.jit
    def loss(params, after):
      def of_one(x, u, r, v_t):
        mean = -params[3:5][None] @ x
        away = naf.advantage(u, mean, naf.triangle(params[5:]))
        limit = jnp.asarray(discount, x.dtype)
        return naf.loss(value(params, x), away, r, limit, v_t)

      return jnp.mean(jax.vmap(of_one)(x, u, reward, after))

    @jax.jit
    def values(params):
      return jax.vmap(lambda x: value(params, x))(following)

    slope = jax.jit(jax.value_and_grad(loss))
    params = np.zeros(6)
    exact = np.array([s[0, 0], s[0, 1], s[1, 1]])
    for _ in range(60 if bootstrapped else 1):
      target = params if bootstrapped else np.concatenate([exact, np.zeros(3)])
      after = values(target)
      params = scipy.optimize.minimize(
        lambda p, after=after: tuple(map(np.asarray, slope(p, after))),
        params,
        jac=True,
        method="BFGS",
        options={"gtol": 1e-9},
      ).x
    factor = naf.triangle(jnp.asarray(params[5:]))
  np.testing.assert_allclose(params[:3], exact, atol=1e-4)
  np.testing.assert_allclose(params[3:5], gain[0], atol=1e-4)
  factor = np.asarray(factor)
  np.testing.assert_allclose(factor @ factor.T, precision, atol=1e-4)
