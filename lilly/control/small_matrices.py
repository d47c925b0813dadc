"""Small matrices without LAPACK: factorisations, solves and inverses.

Unrolled code is fused with the surrounding operations and is faster than LAPACK
calls in a loop. Also, on CPU, batched LAPACK calls inside a worker of XLA's
thread pool wait for other workers of the pool, which can deadlock.

No function calls LAPACK at any size: code is unrolled up to 12 rows, and loops
over rows or blocks of rows above. All functions raise ValueError for arguments
of another shape than stated; whole numbers count as float32.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from lilly import checks

__all__ = [
  "cholesky",
  "invert",
  "pseudo_inverse",
  "semidefinite_root",
  "solve",
  "solve_by_inverse",
  "solve_triangular",
]

_MOST_ROWS = 12  # the size of unrolled code grows cubically
_BLOCK = 8  # rows per loop step
_MOST_SWEEPS = 30  # Jacobi sweeps; matrices of 1,000 rows need about 10
# Full precision: accelerators default to lower-precision products.
_product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def cholesky(matrix: jax.Array) -> jax.Array:
  """Computes the Cholesky factor of a matrix: A = L Lᵀ.

  Args:
    matrix: A, [m, m], symmetric; its lower half is read.

  Returns:
    L, [m, m]. If A is not positive definite, some diagonal entry is 0 or NaN.
    Above 12 rows it is computed by a loop over columns.

  Reference:
    Golub and Van Loan, Matrix computations, section 4.2.

  >>> cholesky(jnp.array([[4.0, 2.0], [2.0, 5.0]])).tolist()
  [[2.0, 0.0], [1.0, 2.0]]
  """
  matrix = checks.real("matrix", matrix, "m m")
  if len(matrix) > _MOST_ROWS:
    return _cholesky_by_columns(matrix)
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
  """Computes a square root of a possibly singular matrix: A = R Rᵀ.

  Args:
    matrix: A, [m, m], symmetric and positive semidefinite up to rounding.

  Returns:
    R, [m, m], always finite: pivots at rounding level are set to 0, with their
    columns. The m steps are unrolled for any m. It has a gradient if A is
    positive definite. If A is singular the gradient is finite as well, that of
    the other columns, with the pivots that are set to 0 held constant.

  Reference:
    Golub and Van Loan, Matrix computations, section 4.2.

  >>> semidefinite_root(jnp.array([[4.0, 2.0], [2.0, 1.0]])).tolist()
  [[2.0, 0.0], [1.0, 0.0]]
  """
  matrix = checks.real("matrix", matrix, "m m")
  least = 100 * jnp.finfo(matrix.dtype).eps * jnp.diagonal(matrix)
  rest, columns = matrix, []
  for i in range(len(matrix)):
    left = jnp.maximum(jnp.diagonal(rest), 0)
    is_there = rest[i, i] > jnp.maximum(least[i], 0)
    pivot = jnp.sqrt(jnp.where(is_there, rest[i, i], 1))
    # No entry can exceed the bound set by its remaining diagonal, of which the
    # part above this row is 0.
    bound = _sqrt(left)
    column = jnp.clip(rest[:, i] / pivot, -bound, bound)
    column = jnp.where(is_there & (jnp.arange(len(matrix)) >= i), column, 0)
    rest = rest - column[:, None] * column[None]
    columns.append(column)
  return jnp.stack(columns, axis=1)


@jax.custom_jvp
def _sqrt(x):
  """The square root, with derivative 0 at 0, where it would be infinite."""
  return jnp.sqrt(x)


@_sqrt.defjvp
def _sqrt_jvp(primals, tangents):
  (x,), (change,) = primals, tangents
  root, is_zero = jnp.sqrt(x), x == 0
  slope = jnp.where(is_zero, 0, 0.5 / jnp.where(is_zero, 1, root))
  return root, slope * change


def solve_triangular(
  factor: jax.Array, right: jax.Array, *, is_transposed: bool = False
) -> jax.Array:
  """Solves L x = b, or Lᵀ x = b.

  Args:
    factor: L, [m, m]; its lower half is read.
    right: b, [m] or [m, n].
    is_transposed: whether to solve with Lᵀ.

  Returns:
    x, shaped as b. Above 12 rows it is computed by a loop over rows.

  Reference:
    Golub and Van Loan, Matrix computations, section 3.1.

  >>> L = jnp.array([[2.0, 0.0], [1.0, 4.0]])
  >>> solve_triangular(L, jnp.array([2.0, 5.0])).tolist()
  [1.0, 1.0]
  """
  factor, right = _checked_system("factor", factor, right)
  size = len(factor)
  if size > _MOST_ROWS:
    return _solve_by_rows(factor, right, is_transposed)
  order = range(size)[::-1] if is_transposed else range(size)
  left = factor.T if is_transposed else factor
  found = {}
  for i in order:
    known = _dot([left[i, j] for j in found], list(found.values()))
    found[i] = (right[i] - known) / left[i, i]
  return jnp.stack([found[i] for i in range(size)])


def _checked_system(name, matrix, right):
  sizes = {}
  matrix = checks.real(name, matrix, "m m", sizes)
  is_matrix = np.ndim(right) > 1
  return matrix, checks.real("right", right, "m n" if is_matrix else "m", sizes)


def solve(matrix: jax.Array, right: jax.Array) -> jax.Array:
  """Solves A x = b.

  Args:
    matrix: A, [m, m], symmetric and positive definite.
    right: b, [m] or [m, n].

  Returns:
    x, shaped as b; NaN if A is not positive definite. Above 12 rows it is
    `solve_by_inverse`.

  Reference:
    Golub and Van Loan, Matrix computations, section 4.2.

  >>> A = jnp.array([[4.0, 2.0], [2.0, 5.0]])
  >>> solve(A, jnp.array([6.0, 7.0])).tolist()
  [1.0, 1.0]
  """
  matrix, right = _checked_system("matrix", matrix, right)
  if len(matrix) > _MOST_ROWS:
    return solve_by_inverse(matrix, right)
  factor = cholesky(matrix)
  middle = solve_triangular(factor, right)
  return solve_triangular(factor, middle, is_transposed=True)


def solve_by_inverse(matrix: jax.Array, right: jax.Array) -> jax.Array:
  """Solves A x = b by `invert`: for larger matrices or if differentiated.

  x = A⁻¹ b, refined by A⁻¹ (b - A x), after which residuals are as small as
  with a factorisation. Derivatives solve dx = A⁻¹ (db - dA x) with the same
  inverse, not through its loop; those of the unrolled `solve` can take half a
  minute to compile.

  Args:
    matrix: A, [m, m], symmetric and positive definite.
    right: b, [m] or [m, n].

  Returns:
    x, shaped as b; NaN if A is not positive definite. Under `vmap` over b alone
    A is inverted once.

  Reference:
    Golub and Van Loan, Matrix computations, section 3.5.

  >>> A = jnp.array([[4.0, 2.0], [2.0, 5.0]])
  >>> solve_by_inverse(A, jnp.array([6.0, 7.0])).tolist()
  [1.0, 1.0]
  """
  return _solve_by_inverse(*_checked_system("matrix", matrix, right))


def invert(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Computes the inverse and the log determinant of a matrix.

  By the sweep operator, in blocks of 8 rows: a pivot block P is inverted, and
  C P⁻¹ Cᵀ is subtracted from the rest of the matrix, with C the pivot's
  columns. Derivatives do not pass through the loop: dA⁻¹ = -A⁻¹ dA A⁻¹ and
  d ln|A| = tr(A⁻¹ dA).

  Args:
    matrix: A, [m, m], symmetric and positive definite.

  Returns:
    A⁻¹, [m, m], symmetric, and ln|A|, []; both NaN if A is not positive
    definite. Time is O(m³).

  Reference:
    Goodnight (1979), A tutorial on the SWEEP operator, The American
    Statistician 33:149; the block version is ours.

  >>> inverse, log_determinant = invert(jnp.array([[4.0, 2.0], [2.0, 2.0]]))
  >>> inverse.tolist(), round(float(log_determinant), 2)
  ([[0.5, -0.5], [-0.5, 1.0]], 1.39)
  """
  return _invert(checks.real("matrix", matrix, "m m"))


def pseudo_inverse(
  matrix: jax.Array, *, rtol: float | None = None
) -> jax.Array:
  """Computes the Moore-Penrose inverse, A⁺ = V S⁺ Uᵀ, of a matrix of any rank.

  One-sided Jacobi: the columns of A V are rotated in pairs until they are
  orthogonal; their norms are then the singular values, each as accurate as its
  own column. (The normal equations would square the condition number, and in
  float32 lose singular values below 1/3000 of the largest.) All pairs of one
  half of the columns with the other are rotated at once. The gradient is
  stopped.

  Args:
    matrix: A, [m, n].
    rtol: singular values up to `rtol` times the largest count as zero; None is
      10 max(m, n) times the machine epsilon of the dtype.

  Returns:
    A⁺, [n, m]; NaN if A is not finite. With k = min(m, n), time is O(m n k) for
    each of about ten sweeps; they are computed in float32 or wider.

  Raises:
    ValueError: if rtol is not in [0, 1).

  Reference:
    Brent and Luk (1985), The solution of singular-value and symmetric
    eigenvalue problems on multiprocessor arrays, SIAM Journal on Scientific
    and Statistical Computing 6:69.

  >>> pseudo_inverse(jnp.array([[2.0, 0.0], [0.0, 0.0], [0.0, 0.0]])).tolist()
  [[0.5, 0.0, 0.0], [0.0, 0.0, 0.0]]
  """
  matrix = checks.real("matrix", matrix, "m n")
  if rtol is not None:
    rtol = checks.number("rtol", rtol, least=0, below=1)
  if not matrix.size:
    return jnp.zeros(matrix.shape[::-1], matrix.dtype)
  dtype = jnp.promote_types(matrix.dtype, jnp.float32)
  if rtol is None:
    rtol = 10 * max(matrix.shape) * float(jnp.finfo(dtype).eps)
  wide = jax.lax.stop_gradient(matrix).astype(dtype)
  is_flat = len(wide) < wide.shape[1]
  tall = wide.T if is_flat else wide
  # Rescale: squares of very small and very large numbers under- and overflow.
  scale = jnp.max(jnp.abs(tall))
  scale = jnp.where(scale == 0, 1, scale)
  turned, v = _orthogonalise(tall / scale)
  lengths = jnp.sqrt(jnp.sum(jnp.square(turned), axis=1))
  # Not "above the cut-off": NaN must propagate.
  is_zero = (lengths <= rtol * jnp.max(lengths)) | (lengths == 0)
  weights = jnp.where(is_zero, 0, 1 / jnp.where(is_zero, 1, lengths))[:, None]
  inverse = _product((v * weights).T, turned * weights) / scale
  return (inverse.T if is_flat else inverse).astype(matrix.dtype)


def _orthogonalise(matrix):
  """Rotates columns until they are orthogonal to each other.

  Args:
    matrix: A, [m, n].

  Returns:
    (A V)ᵀ, [c, m], and Vᵀ, [c, n]; the rows that pad A's columns are zero.
  """
  num_rows, num_columns = matrix.shape
  # Round-robin tournament: an even number of players, at least two pairs.
  missing = max(4 - num_columns, num_columns % 2)
  players = jnp.concatenate([matrix, jnp.eye(num_columns, dtype=matrix.dtype)])
  players = jnp.pad(players, ((0, 0), (0, missing))).T
  tolerance = num_rows**0.5 * jnp.finfo(matrix.dtype).eps

  def is_unfinished(carry):
    _, sweep, cosine = carry
    return (sweep < _MOST_SWEEPS) & (cosine > tolerance)

  def play(carry, _):
    players, largest = carry
    players, cosines = _rotate_pairs(*players, num_rows)
    return (_next_round(*players), jnp.maximum(largest, jnp.max(cosines))), None

  def sweep(carry):
    players, count, _ = carry
    (players, cosine), _ = jax.lax.scan(
      play,
      (players, jnp.zeros((), matrix.dtype)),
      length=num_columns + missing - 1,
    )
    return players, count + 1, cosine

  start = tuple(jnp.split(players, 2)), 0, jnp.ones((), matrix.dtype)
  players, _, _ = jax.lax.while_loop(is_unfinished, sweep, start)
  players = jnp.concatenate(players)
  return players[:, :num_rows], players[:, num_rows:]


def _rotate_pairs(first, second, length):
  """Rotates pairs of rows until their first `length` columns are orthogonal.

  Args:
    first: [k, d].
    second: [k, d].
    length: number of columns that count.

  Returns:
    Both, and the cosines between the rows before the rotation, [k].
  """
  x, y = first[:, :length], second[:, :length]
  xx, yy, xy = jnp.sum(x * x, 1), jnp.sum(y * y, 1), jnp.sum(x * y, 1)
  cosine = jnp.abs(xy) / jnp.maximum(
    jnp.sqrt(xx) * jnp.sqrt(yy), jnp.finfo(xy.dtype).tiny
  )
  # The smaller of the two rotation angles: tan φ from cot 2φ.
  cotangent = (yy - xx) / (2 * jnp.where(xy == 0, 1, xy))
  sign = jnp.where(cotangent < 0, -1, 1)
  tangent = sign / (jnp.abs(cotangent) + jnp.hypot(1, cotangent))
  tangent = jnp.where(xy == 0, 0, tangent)[:, None]
  c = jax.lax.rsqrt(1 + jnp.square(tangent))
  s = c * tangent
  return (c * first - s * second, s * first + c * second), cosine


def _next_round(first, second):
  """Next round of the tournament: after a sweep each pair has met once."""
  return (
    jnp.concatenate([first[:1], second[:1], first[1:-1]]),
    jnp.concatenate([second[1:], first[-1:]]),
  )


def _cholesky_by_columns(matrix):
  index = jnp.arange(len(matrix))

  def step(factor, j):
    column = matrix[:, j] - _product(factor, factor[j])
    column = jnp.where(index < j, 0, column / jnp.sqrt(column[j]))
    return factor.at[:, j].set(column), None

  return jax.lax.scan(step, jnp.zeros_like(matrix), index)[0]


def _solve_by_rows(factor, right, is_transposed):
  lower = jnp.tril(factor)
  left = lower.T if is_transposed else lower

  def step(x, i):
    row = (right[i] - _product(left[i], x)) / left[i, i]
    return x.at[i].set(row), None

  dtype = jnp.result_type(factor, right)
  start = jnp.zeros(right.shape, dtype)
  index = jnp.arange(len(factor))
  return jax.lax.scan(step, start, index, reverse=is_transposed)[0]


@jax.custom_jvp
def _invert(matrix):
  size = len(matrix)
  one_by_one = functools.partial(_sweep, size=1, invert_pivot=_invert_number)
  if size <= _BLOCK:
    inverse, log_determinant = one_by_one(matrix)
  else:
    # Padded to full blocks with ones on the diagonal, which are self-inverse.
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
  """Solves, with one step of iterative refinement, as inverses need."""
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
