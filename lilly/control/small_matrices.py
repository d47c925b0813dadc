"""Positive matrices of a few rows, without LAPACK.

Unrolled, they are fused with what is around them. Calls of LAPACK in a loop
take longer than that; and on CPU batches of them wait, within a worker of XLA's
pool, for other workers of it: where all of them wait nothing ever ends.
"""

import chex
import jax
import jax.numpy as jnp
import jax.scipy as jsp

__all__ = ["cholesky", "semidefinite_root", "solve", "solve_triangular"]

_MOST_ROWS = 12  # what is unrolled grows as the cube


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
    x, as b; not a number where A is not positive definite.

  Reference:
    Golub and Van Loan, Matrix computations, section 4.2.

  >>> A = jnp.array([[4.0, 2.0], [2.0, 5.0]])
  >>> solve(A, jnp.array([6.0, 7.0])).tolist()
  [1.0, 1.0]
  """
  factor = cholesky(matrix)
  middle = solve_triangular(factor, right)
  return solve_triangular(factor, middle, is_transposed=True)


def _dot(xs, ys):
  return sum((x * y for x, y in zip(xs, ys, strict=True)), start=0.0)
