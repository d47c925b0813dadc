"""Tests of lilly.control.small_matrices against NumPy and LAPACK."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.control import kl_limited, linear_models, lqr, small_matrices
from lilly.envs import reacher

SIZES = [1, 2, 5, 13]  # the last one is LAPACK's


@pytest.fixture(autouse=True)
def _double():
  with jax.enable_x64(True):
    yield


def matrix(size):
  root = np.random.default_rng(size).normal(size=(size, size))
  return root @ root.T + 0.1 * np.eye(size)


@pytest.mark.parametrize("size", SIZES)
def test_factors_are_numpys(size):
  a = matrix(size)
  # Only the lower half is read.
  found = small_matrices.cholesky(jnp.asarray(np.tril(a)))
  np.testing.assert_allclose(found, np.linalg.cholesky(a), atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", [(), (4,)])
def test_solutions_are_numpys(size, shape):
  a = matrix(size)
  factor, b = np.linalg.cholesky(a), np.random.normal(size=(size, *shape))
  given = jnp.asarray(factor), jnp.asarray(b)
  found = small_matrices.solve(jnp.asarray(a), given[1])
  np.testing.assert_allclose(found, np.linalg.solve(a, b), atol=1e-8)
  for is_transposed, left in ((False, factor), (True, factor.T)):
    found = small_matrices.solve_triangular(*given, is_transposed=is_transposed)
    np.testing.assert_allclose(found, np.linalg.solve(left, b), atol=1e-8)


@pytest.mark.parametrize("size", SIZES)
def test_what_is_not_positive_definite_shows_in_the_diagonal(size):
  values = np.ones(size)
  vectors = np.linalg.qr(matrix(size))[0]
  for least in (-0.5, -1e-6, 0.5):
    values[-1] = least
    a = jnp.asarray(vectors * values @ vectors.T)
    pivots = jnp.diagonal(small_matrices.cholesky(a))
    assert bool((pivots > 0).all()) == (least > 0)
    solved = small_matrices.solve(a, jnp.ones(size))
    assert np.isfinite(solved).all() == (least > 0)
  nothing = small_matrices.cholesky(jnp.zeros((size, size)))
  assert not (jnp.diagonal(nothing) > 0).all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_singular_matrices_have_a_root(size, dtype):
  rng = np.random.default_rng(size)
  for rank in (0, 1, size - 1, size):
    # Of units that differ, as positions and velocities do.
    wide = rng.normal(size=(size, rank)) * 10.0 ** rng.uniform(-3, 1, (size, 1))
    a = jnp.asarray(wide @ wide.T, dtype)
    root = small_matrices.semidefinite_root(a)
    scale = np.sqrt(np.outer(np.diag(a), np.diag(a)))
    assert np.all(np.abs(root @ root.T - a) <= 3e-4 * scale + 1e-30)
  # Rounding below 0, which no semidefinite matrix has.
  noise = rng.normal(size=(size, size)) * 1e-9
  found = small_matrices.semidefinite_root(jnp.asarray(noise + noise.T, dtype))
  assert np.all(np.abs(found) < 1e-3)


def test_control_of_several_actions_leaves_lapack_alone():
  # On CPU, batches of its calls on several devices may wait for each other.
  d, m, length = 3, 2, 2
  shapes = ((d, d), (d, m), (d,), (m,), (d, d), (m, m), (m, d))
  steps = [jnp.zeros((2, length, *shape)) for shape in shapes]
  ends = jnp.zeros((2, d)), jnp.zeros((2, d, d))
  controllers = [jnp.zeros((2, length, m, n)) for n in (1, d, m)]
  visits = [jnp.zeros((2, 5, length, n)) for n in (d, m, d)]

  def planned(steps, ends, controller, visits):
    k, *rest = controller
    return (
      kl_limited.improve(
        lqr.Expansion(*steps, *ends),
        kl_limited.Controller(k[..., 0], *rest),
        max_kl=1.0,
      ),
      linear_models.roots(linear_models.fit(*visits)),
      reacher.dynamics(reacher.State(*[jnp.zeros(2)] * 3), steps[2][0, :2]),
    )

  lowered = jax.jit(jax.vmap(planned)).lower(steps, ends, controllers, visits)
  assert "lapack" not in lowered.as_text()


def test_shapes_are_checked():
  with pytest.raises(AssertionError):
    small_matrices.cholesky(jnp.ones((2, 3)))
  with pytest.raises(AssertionError):
    small_matrices.solve(jnp.eye(2), jnp.ones(3))
