"""Tests of lilly.control.small_matrices against NumPy and LAPACK."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.control import kl_limited, linear_models, lqr, small_matrices
from lilly.envs import reacher

SIZES = [1, 2, 5, 13]  # the last one is looped over


pytestmark = pytest.mark.usefixtures("float64")


# Compiled as wholes: of what is done one by one, each shape is compiled too.
cholesky = jax.jit(small_matrices.cholesky)
invert = jax.jit(small_matrices.invert)
pseudo_inverse = jax.jit(small_matrices.pseudo_inverse, static_argnames="rtol")
semidefinite_root = jax.jit(small_matrices.semidefinite_root)
solve = jax.jit(small_matrices.solve)
solve_by_inverse = jax.jit(small_matrices.solve_by_inverse)
solve_triangular = jax.jit(
  small_matrices.solve_triangular, static_argnames="is_transposed"
)


def matrix(size):
  root = np.random.default_rng(size).normal(size=(size, size))
  return root @ root.T + 0.1 * np.eye(size)


@pytest.mark.parametrize("size", SIZES)
def test_factors_are_numpys(size):
  a = matrix(size)
  # Only the lower half is read.
  found = cholesky(jnp.asarray(np.tril(a)))
  np.testing.assert_allclose(found, np.linalg.cholesky(a), atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", [(), (4,)])
def test_solutions_are_numpys(size, shape):
  a = matrix(size)
  factor, b = np.linalg.cholesky(a), np.random.normal(size=(size, *shape))
  given = jnp.asarray(factor), jnp.asarray(b)
  for function in (solve, solve_by_inverse):
    found = function(jnp.asarray(a), given[1])
    np.testing.assert_allclose(found, np.linalg.solve(a, b), atol=1e-8)
  for is_transposed, left in ((False, factor), (True, factor.T)):
    found = solve_triangular(*given, is_transposed=is_transposed)
    np.testing.assert_allclose(found, np.linalg.solve(left, b), atol=1e-8)


@pytest.mark.parametrize("size", SIZES)
def test_what_is_not_positive_definite_shows_in_the_diagonal(size):
  values = np.ones(size)
  vectors = np.linalg.qr(matrix(size))[0]
  for least in (-0.5, -1e-6, 0.5):
    values[-1] = least
    a = jnp.asarray(vectors * values @ vectors.T)
    pivots = np.diagonal(cholesky(a))
    assert bool((pivots > 0).all()) == (least > 0)
    solved = solve(a, np.ones(size))
    assert np.isfinite(solved).all() == (least > 0)
    for x in invert(a):
      assert np.isfinite(x).all() == (least > 0)
      assert np.isnan(x).all() == (least < 0)
  nothing = cholesky(np.zeros((size, size)))
  assert not (np.diagonal(nothing) > 0).all()


# About the blocks of 8 rows: less than one, one, and a part of the last.
@pytest.mark.parametrize("size", [1, 3, 8, 9, 16, 21])
def test_inverses_and_determinants_are_numpys(size):
  a = matrix(size)
  inverse, log_determinant = invert(jnp.asarray(a))
  np.testing.assert_allclose(inverse, np.linalg.inv(a), atol=1e-10)
  np.testing.assert_array_equal(inverse, np.transpose(inverse))
  _, wanted = np.linalg.slogdet(a)
  np.testing.assert_allclose(log_determinant, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [3, 13])
def test_factors_and_solutions_have_derivatives(size):
  rng = np.random.default_rng(size)
  a, b = jnp.asarray(matrix(size)), jnp.asarray(rng.normal(size=size))
  change = rng.normal(size=(size, size))
  change = jnp.asarray(change + change.T)

  def value(at):
    factor = small_matrices.cholesky(a + at * change)
    x = small_matrices.solve_triangular(factor, b)
    x = small_matrices.solve_triangular(factor, x + at, is_transposed=True)
    return jnp.sin(x).sum()

  step, both = 1e-6, jax.jit(jax.value_and_grad(value))
  wanted = (both(step)[0] - both(-step)[0]) / (2 * step)
  np.testing.assert_allclose(both(0.0)[1], wanted, rtol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_only_the_lower_half_of_a_factor_is_read(size):
  factor = np.linalg.cholesky(matrix(size))
  b = np.random.default_rng(0).normal(size=(size, 2))
  noise = factor + np.triu(np.full((size, size), np.nan), 1)
  for is_transposed in (False, True):
    x = solve_triangular(jnp.asarray(noise), b, is_transposed=is_transposed)
    wanted = solve_triangular(factor, b, is_transposed=is_transposed)
    np.testing.assert_array_equal(x, wanted)


# Square, tall and flat; one column, an odd number of them, and many.
SHAPES = [(1, 1), (1, 4), (5, 1), (3, 3), (20, 10), (10, 20), (31, 7), (64, 40)]


def graded(shape, values, seed=0):
  """A matrix of these singular values."""
  rng = np.random.default_rng(seed)
  u = np.linalg.qr(rng.normal(size=(shape[0], len(values))))[0]
  v = np.linalg.qr(rng.normal(size=(shape[1], len(values))))[0]
  return u * np.asarray(values) @ v.T


def of_rank(shape, rank):
  return graded(shape, np.linspace(1, 0.1, rank))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("missing", [0, 1, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pseudo_inverses_are_numpys(shape, missing, dtype):
  rank = max(min(shape) - missing, 0)
  a = of_rank(shape, rank).astype(dtype)
  rtol = 10 * max(shape) * np.finfo(dtype).eps
  wanted = np.linalg.pinv(a.astype(np.float64), rcond=rtol)
  found = pseudo_inverse(jnp.asarray(a))
  assert found.dtype == dtype
  tolerance = 1e-5 if dtype == np.float32 else 1e-12
  assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()


@pytest.mark.parametrize("shape", [(12, 6), (6, 12)])
def test_singular_values_are_cut_where_numpy_cuts_them(shape):
  # The normal equations would square these: 1e-4 is below float32's 1/3000.
  a = graded(shape, [1, 0.3, 1e-2, 1e-3, 1e-4]).astype(np.float32)
  for rtol in (0.5, 0.1, 3e-3, 3e-4, 1e-5):
    wanted = np.linalg.pinv(a.astype(np.float64), rcond=rtol)
    found = pseudo_inverse(jnp.asarray(a), rtol=rtol)
    error = np.abs(found - wanted).max() / np.abs(wanted).max()
    # What an inverse can have of float32: its condition number of them.
    assert error < 1e-5 + 3e-7 / rtol, rtol
  # The largest counts: 0.3 is just cut off by 0.3001, not by 0.2999.
  kept = [
    np.linalg.matrix_rank(pseudo_inverse(jnp.asarray(a), rtol=rtol), tol=0.5)
    for rtol in (0.3001, 0.2999)
  ]
  assert kept == [1, 2]


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e30])
def test_a_pseudo_inverse_has_any_scale(scale):
  a = of_rank((9, 5), 3).astype(np.float32)
  found = pseudo_inverse(jnp.asarray(a * np.float32(scale)))
  wanted = pseudo_inverse(jnp.asarray(a)) / np.float32(scale)
  np.testing.assert_allclose(found, wanted, rtol=2e-4)


def test_equal_columns_share_what_they_invert():
  a = np.ones((4, 3), np.float32)
  np.testing.assert_allclose(pseudo_inverse(a), np.full((3, 4), 1 / 12), 1e-6)
  eye = np.eye(5, dtype=np.float32)
  np.testing.assert_array_equal(pseudo_inverse(eye), eye)


def test_a_pseudo_inverse_of_nothing_and_of_what_is_no_number():
  for shape in ((0, 3), (3, 0), (0, 0)):
    assert pseudo_inverse(jnp.zeros(shape)).shape == shape[::-1]
  assert not np.any(pseudo_inverse(jnp.zeros((3, 2))))
  for bad in (np.nan, np.inf):
    found = pseudo_inverse(jnp.asarray([[1.0, 2.0], [bad, 1.0], [0.0, 1.0]]))
    assert np.isnan(found).all()


def test_pseudo_inverses_of_many_are_those_of_each():
  """Though one needs more sweeps than the others."""
  many = np.stack(
    [np.eye(8, 6), of_rank((8, 6), 6), of_rank((8, 6), 2), np.zeros((8, 6))]
  )
  found = jax.jit(jax.vmap(small_matrices.pseudo_inverse))(jnp.asarray(many))
  for one, a in zip(found, many, strict=True):
    np.testing.assert_allclose(one, pseudo_inverse(jnp.asarray(a)), atol=1e-14)


def test_a_pseudo_inverse_has_no_gradient_and_keeps_16_bits():
  a = jnp.asarray(of_rank((4, 3), 3), jnp.bfloat16)
  slope = jax.grad(lambda a: small_matrices.pseudo_inverse(a).sum())(a)
  assert not np.any(slope)
  found = small_matrices.pseudo_inverse(a)
  assert found.dtype == jnp.bfloat16
  wanted = np.linalg.pinv(np.asarray(a, np.float64))
  np.testing.assert_allclose(np.asarray(found, float), wanted, rtol=8e-3)


# Of each function one size that is unrolled and one that is not.
@pytest.mark.parametrize("size", [5, 13])
def test_no_function_calls_lapack(size):
  a, b = jnp.ones((2, size, size)), jnp.ones((2, size))

  def all_of_them(a, b):
    return (
      small_matrices.cholesky(a),
      small_matrices.semidefinite_root(a),
      small_matrices.solve_triangular(a, b),
      small_matrices.solve_triangular(a, b, is_transposed=True),
      small_matrices.solve(a, b),
      small_matrices.solve_by_inverse(a, b),
      small_matrices.invert(a),
      small_matrices.pseudo_inverse(a),
    )

  text = jax.jit(jax.vmap(all_of_them)).lower(a, b).as_text()
  assert "stablehlo.custom_call" not in text


def test_derivatives_do_not_go_through_the_loop():
  size = 9
  rng = np.random.default_rng(size)
  a, b = jnp.asarray(matrix(size)), jnp.asarray(rng.normal(size=size))
  change = rng.normal(size=(2, size, size))
  change = jnp.asarray(change + change.transpose(0, 2, 1))

  def value(at):
    # Both solutions and their slopes take part, and second derivatives.
    moved = a + 0.01 * (at[0] * change[0] + at[1] * change[1])
    solved = small_matrices.solve_by_inverse(moved, b + at[1])
    inverse, log_determinant = small_matrices.invert(moved)
    return jnp.sin(solved).sum() + jnp.cos(inverse[0]).sum() + log_determinant

  at, step = jnp.asarray([0.3, -0.2]), 1e-5
  by = step * jnp.asarray([1.0, 0.7])
  both = jax.jit(jax.value_and_grad(value))
  (above, slope_above), (below, slope_below) = both(at + by), both(at - by)
  slope, curvature = jax.jit(
    lambda at: jax.jvp(jax.grad(value), (at,), (by / step,))
  )(at)
  wanted = (above - below) / (2 * step)
  np.testing.assert_allclose(slope @ by / step, wanted, rtol=1e-7)
  wanted = (slope_above - slope_below) / (2 * step)
  np.testing.assert_allclose(curvature, wanted, rtol=1e-6)
  # One loop over blocks, whose steps loop over rows, forward and backward.
  compiled = jax.jit(
    jax.grad(lambda a, b: small_matrices.solve_by_inverse(a, b).sum(), (0, 1))
  )
  text = compiled.lower(a, b).as_text()
  assert text.count("stablehlo.while") == 2
  assert "lapack" not in text


def test_what_is_solved_often_is_inverted_once():
  a, bs = jnp.asarray(matrix(13)), jnp.ones((5, 13))
  solve = jax.vmap(small_matrices.solve, in_axes=(None, 0))
  one = jax.jit(small_matrices.solve)(a, bs[3])
  np.testing.assert_allclose(jax.jit(solve)(a, bs)[3], one)
  text = jax.jit(solve).lower(a, bs).as_text()
  assert "5x13x13" not in text
  assert "5x16x16" not in text


def test_what_an_inverse_leaves_over_is_taken_off():
  # Of float32 and a condition of 10⁵ an inverse alone leaves ten times this.
  rng = np.random.default_rng(0)
  vectors = np.linalg.qr(rng.normal(size=(32, 32)))[0]
  a = vectors * 10.0 ** np.linspace(0, -5, 32) @ vectors.T
  a = jnp.asarray(0.5 * (a + a.T), jnp.float32)
  b = jnp.asarray(rng.normal(size=32), jnp.float32)
  wide = np.asarray(a, np.float64)
  left = wide @ np.asarray(jax.jit(small_matrices.solve_by_inverse)(a, b)) - b
  alone = wide @ np.asarray(jax.jit(small_matrices.invert)(a)[0] @ b) - b
  assert np.abs(left).max() < 3e-3
  assert np.abs(alone).max() > 6e-3


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_singular_matrices_have_a_root(size, dtype):
  rng = np.random.default_rng(size)
  for rank in (0, 1, size - 1, size):
    # Of units that differ, as positions and velocities do.
    wide = rng.normal(size=(size, rank)) * 10.0 ** rng.uniform(-3, 1, (size, 1))
    a = jnp.asarray(wide @ wide.T, dtype)
    root = semidefinite_root(a)
    scale = np.sqrt(np.outer(np.diag(a), np.diag(a)))
    root = np.asarray(root)
    assert np.all(np.abs(root @ root.T - a) <= 3e-4 * scale + 1e-30)
  # Rounding below 0, which no semidefinite matrix has.
  noise = rng.normal(size=(size, size)) * 1e-9
  found = semidefinite_root(jnp.asarray(noise + noise.T, dtype))
  assert np.all(np.abs(found) < 1e-3)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_a_root_of_rank_r_has_r_columns(dtype):
  rng = np.random.default_rng(0)
  for rank in (1, 2, 3):
    for _ in range(20):
      # The first rows are far from dependent: the rest is but rounding.
      wide = np.eye(6)[:, :rank] + np.tril(rng.uniform(-1, 1, (6, rank)), -1)
      wide *= 10.0 ** rng.uniform(-3, 1, (6, 1))
      root = np.asarray(semidefinite_root(jnp.asarray(wide @ wide.T, dtype)))
      assert np.count_nonzero(np.any(root != 0, axis=0)) == rank


def test_a_root_has_no_entry_above_its_diagonal():
  # A correlation of 3, which no semidefinite matrix has.
  given = jnp.array([[1e-4, 3e-2], [3e-2, 1.0]])
  root = semidefinite_root(given)
  np.testing.assert_allclose(root, [[1e-2, 0.0], [1.0, 0.0]], rtol=1e-6)


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


@pytest.mark.parametrize("size", [1, 3, 6, 14])
def test_the_gradient_of_a_root_is_that_of_the_cholesky_factor(size):
  rng = np.random.default_rng(size)
  root = rng.normal(size=(size, size))
  a = jnp.asarray(root @ root.T + np.eye(size), jnp.float32)
  weights = jnp.asarray(rng.normal(size=(size, size)), jnp.float32)

  def slope(function):
    # Symmetric: the two functions read other halves of the matrix.
    total = lambda a: jnp.sum(weights * function(0.5 * (a + a.T)))
    return jax.jit(jax.grad(total))(a)

  found = slope(small_matrices.semidefinite_root)
  wanted = slope(jnp.linalg.cholesky)
  np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_the_gradient_of_a_singular_root_is_finite(rank):
  rng = np.random.default_rng(rank)
  tall = jnp.asarray(rng.normal(size=(4, rank)), jnp.float32)

  def total(a):
    return jnp.sum(small_matrices.semidefinite_root(a))

  for a in (tall @ tall.T, jnp.diag(jnp.arange(4.0) * (jnp.arange(4) < rank))):
    assert np.isfinite(jax.grad(total)(a)).all()


def test_shapes_are_checked():
  with pytest.raises(ValueError, match="has shape"):
    small_matrices.cholesky(jnp.ones((2, 3)))
  with pytest.raises(ValueError, match="has shape"):
    small_matrices.solve(jnp.eye(2), jnp.ones(3))
  # A row for each of the matrix's: sizes of 1 are not stretched.
  for solve_any in (
    small_matrices.solve,
    small_matrices.solve_by_inverse,
    small_matrices.solve_triangular,
  ):
    for right in (jnp.ones((1, 2)), jnp.ones(()), jnp.ones((2, 2, 2))):
      with pytest.raises(ValueError, match="right has shape"):
        solve_any(jnp.eye(2), right)
  with pytest.raises(ValueError, match="has shape"):
    small_matrices.solve_by_inverse(jnp.eye(2), jnp.ones(3))
  with pytest.raises(ValueError, match="has shape"):
    small_matrices.invert(jnp.ones((2, 3)))
  with pytest.raises(ValueError, match="has shape"):
    small_matrices.pseudo_inverse(jnp.ones(3))
