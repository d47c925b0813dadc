"""Positive matrices of a few rows, without LAPACK.

Unrolled, they are fused with what is around them. Calls of LAPACK in a loop
take longer than that; and on CPU batches of them wait, within a worker of XLA's
pool, for other workers of it: where all of them wait nothing ever ends.

`invert` and both solvers leave it alone at any size: above 12 rows they loop
over blocks.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import jax.scipy as jsp

__all__ = ["cholesky", "invert", "semidefinite_root", "solve"]
__all__ += ["solve_by_inverse", "solve_triangular"]

_MOST_ROWS = 12  # what is unrolled grows as the cube
_BLOCK = 8  # rows that a step of a loop takes
# Not in the faster, coarser products that accelerators offer by default.
_product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def cholesky(matrix: jax.Array) -> jax.Array:
  """Factors a matrix: A = L Lᵀ.

  Args:
    matrix: A, [m, m], symmetric; its lower half is read.

  Returns:
    L, [m, m]. Where A is not positive definite, its diagonal is not positive
    somewhere: 0 or not a number. Above 12 rows it is LAPACK's.

  Reference:
    Golub and Van Loan, Matrix computations, section 4.2.

  >>> cholesky(jnp.array([[4.0, 2.0], [2.0, 5.0]])).tolist()
  [[2.0, 0.0], [1.0, 2.0]]
  """
  chex.assert_rank(matrix, 2)
  chex.assert_equal(*matrix.shape)
  if len(matrix) > _MOST_ROWS:
    return jnp.linalg.cholesky(matrix, symmetrize_input=False)
  rows = []
  for i in range(len(matrix)):
    row = []
    for j in range(i):
      rest = matrix[i, j] - _dot(row, rows[j][:j])
      row.append(rest / rows[j][j])
    rows.append([*row, jnp.sqrt(matrix[i, i] - _dot(row, row))])
  zero = jnp.zeros((), matrix.dtype)
  return jnp.stack(
    [jnp.stack([*row, *[zero] * (len(rows) - len(row))]) for row in rows]
  )


def semidefinite_root(matrix: jax.Array) -> jax.Array:
  """Finds a root of a matrix that may be singular: A = R Rᵀ.

  Args:
    matrix: A, [m, m], symmetric and positive semidefinite, but for rounding.

  Returns:
    R, [m, m], always finite: a pivot that is nothing but rounding is 0, and so
    is its column. It is unrolled whatever m is, to m steps.

  Reference:
    Golub and Van Loan, Matrix computations, section 4.2.

  >>> semidefinite_root(jnp.array([[4.0, 2.0], [2.0, 1.0]])).tolist()
  [[2.0, 0.0], [1.0, 0.0]]
  """
  chex.assert_rank(matrix, 2)
  chex.assert_equal(*matrix.shape)
  least = 100 * jnp.finfo(matrix.dtype).eps * jnp.diagonal(matrix)
  rest, columns = matrix, []
  for i in range(len(matrix)):
    left = jnp.maximum(jnp.diagonal(rest), 0)
    is_there = rest[i, i] > jnp.maximum(least[i], 0)
    pivot = jnp.sqrt(jnp.where(is_there, rest[i, i], 1))
    # No entry is larger than what is left of its diagonal allows.
    bound = jnp.sqrt(left)
    column = jnp.clip(rest[:, i] / pivot, -bound, bound)
    column = jnp.where(is_there & (jnp.arange(len(matrix)) >= i), column, 0)
    rest = rest - column[:, None] * column[None]
    columns.append(column)
  return jnp.stack(columns, axis=1)


def solve_triangular(
  factor: jax.Array, right: jax.Array, *, is_transposed: bool = False
) -> jax.Array:
  """Solves L x = b, or Lᵀ x = b.

  Args:
    factor: L, [m, m]; its lower half is read.
    right: b, [m] or [m, n].
    is_transposed: whether it is Lᵀ.

  Returns:
    x, as b.

  Reference:
    Golub and Van Loan, Matrix computations, section 3.1.

  >>> L = jnp.array([[2.0, 0.0], [1.0, 4.0]])
  >>> solve_triangular(L, jnp.array([2.0, 5.0])).tolist()
  [1.0, 1.0]
  """
  chex.assert_shape(factor, (len(right), len(right)))
  size = len(factor)
  if size > _MOST_ROWS:
    trans = "T" if is_transposed else "N"
    return jsp.linalg.solve_triangular(factor, right, trans=trans, lower=True)
  order = range(size)[::-1] if is_transposed else range(size)
  left = factor.T if is_transposed else factor
  found = {}
  for i in order:
    known = _dot([left[i, j] for j in found], list(found.values()))
    found[i] = (right[i] - known) / left[i, i]
  return jnp.stack([found[i] for i in range(size)])


def solve(matrix: jax.Array, right: jax.Array) -> jax.Array:
  """Solves A x = b.

  Args:
    matrix: A, [m, m], symmetric and positive definite.
    right: b, [m] or [m, n].

  Returns:
    x, as b; not a number where A is not positive definite. Above 12 rows it is
    `solve_by_inverse`.

  Reference:
    Golub and Van Loan, Matrix computations, section 4.2.

  >>> A = jnp.array([[4.0, 2.0], [2.0, 5.0]])
  >>> solve(A, jnp.array([6.0, 7.0])).tolist()
  [1.0, 1.0]
  """
  if len(matrix) > _MOST_ROWS:
    return solve_by_inverse(matrix, right)
  factor = cholesky(matrix)
  middle = solve_triangular(factor, right)
  return solve_triangular(factor, middle, is_transposed=True)


def solve_by_inverse(matrix: jax.Array, right: jax.Array) -> jax.Array:
  """Solves A x = b by `invert`: where there are more rows, or a derivative.

  x = A⁻¹ b, improved by A⁻¹ (b - A x), which leaves as little over as a factor
  does. Derivatives solve dx = A⁻¹ (db - dA x) by the same inverse, not through
  its loop; those of what `solve` unrolls can take half a minute to compile.

  Args:
    matrix: A, [m, m], symmetric and positive definite.
    right: b, [m] or [m, n].

  Returns:
    x, as b; not a number where A is not positive definite. Under `vmap` over b
    alone A is inverted once.

  Reference:
    Golub and Van Loan, Matrix computations, section 3.5.

  >>> A = jnp.array([[4.0, 2.0], [2.0, 5.0]])
  >>> solve_by_inverse(A, jnp.array([6.0, 7.0])).tolist()
  [1.0, 1.0]
  """
  chex.assert_shape(matrix, (len(right), len(right)))
  return _solve_by_inverse(matrix, right)


def invert(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Inverts a matrix, and finds the logarithm of its determinant.

  By sweeps: a pivot P exchanges its rows and columns, and of what is left of
  the matrix takes C P⁻¹ Cᵀ off, C being the pivot's columns. A loop takes 8
  rows at a time. Derivatives do not go through it: dA⁻¹ = -A⁻¹ dA A⁻¹ and
  d ln|A| = tr(A⁻¹ dA).

  Args:
    matrix: A, [m, m], symmetric and positive definite.

  Returns:
    A⁻¹, [m, m], symmetric, and ln|A|, []; neither is a number where A is not
    positive definite. Time is O(m³).

  Reference:
    Goodnight (1979), A tutorial on the SWEEP operator, The American
    Statistician 33:149; the blocks are ours.

  >>> inverse, log_determinant = invert(jnp.array([[4.0, 2.0], [2.0, 2.0]]))
  >>> inverse.tolist(), round(float(log_determinant), 2)
  ([[0.5, -0.5], [-0.5, 1.0]], 1.39)
  """
  chex.assert_rank(matrix, 2)
  chex.assert_equal(*matrix.shape)
  return _invert(matrix)


@jax.custom_jvp
def _invert(matrix):
  size = len(matrix)
  one_by_one = functools.partial(_sweep, size=1, invert_pivot=_invert_number)
  if size <= _BLOCK:
    inverse, log_determinant = one_by_one(matrix)
  else:
    # Ones on the diagonal until blocks fill it: they are their own inverse.
    missing = -size % _BLOCK
    ones = jnp.diag(jnp.arange(size + missing) >= size).astype(matrix.dtype)
    padded = jnp.pad(matrix, (0, missing)) + ones
    inverse, log_determinant = _sweep(padded, _BLOCK, one_by_one)
    inverse = inverse[:size, :size]
  return 0.5 * (inverse + inverse.T), log_determinant


@_invert.defjvp
def _invert_jvp(primals, tangents):
  (inverse, log_determinant), (change,) = _invert(*primals), tangents
  moved = -_product(_product(inverse, change), inverse)
  moved = moved, jnp.sum(inverse * change)
  return (inverse, log_determinant), moved


@jax.custom_jvp
def _solve_by_inverse(matrix, right):
  inverse, _ = _invert(matrix)
  return _refined(matrix, right, inverse)


@_solve_by_inverse.defjvp
def _solve_by_inverse_jvp(primals, tangents):
  (matrix, right), (change, right_change) = primals, tangents
  inverse, _ = _invert(matrix)
  x = _refined(matrix, right, inverse)
  return x, _product(inverse, right_change - _product(change, x))


def _refined(matrix, right, inverse):
  """Solves, and solves for what is left over: an inverse leaves more of it."""
  x = _product(inverse, right)
  return x + _product(inverse, right - _product(matrix, x))


def _sweep(matrix, size, invert_pivot):
  """Inverts; `size` rows at a time, of a matrix of a multiple of them."""

  def step(carry, start):
    left, log_determinant = carry
    columns = jax.lax.dynamic_slice_in_dim(left, start, size, axis=1)
    pivot = jax.lax.dynamic_slice_in_dim(columns, start, size, axis=0)
    inverse, log_pivot = invert_pivot(pivot)
    scaled = _product(columns, inverse)
    left = left - _product(scaled, columns.T)
    put = jax.lax.dynamic_update_slice_in_dim
    scaled = put(scaled, -inverse, start, axis=0)
    left = put(left, scaled, start, axis=1)
    left = put(left, scaled.T, start, axis=0)
    return (left, log_determinant + log_pivot), None

  start = matrix, jnp.zeros((), matrix.dtype)
  starts = jnp.arange(0, len(matrix), size)
  (swept, log_determinant), _ = jax.lax.scan(step, start, starts)
  return -swept, log_determinant


def _invert_number(pivot):
  """Inverts a matrix of one row."""
  pivot = jnp.where(pivot > 0, pivot, jnp.nan)
  return 1 / pivot, jnp.log(pivot[0, 0])


def _dot(xs, ys):
  return sum((x * y for x, y in zip(xs, ys, strict=True)), start=0.0)
