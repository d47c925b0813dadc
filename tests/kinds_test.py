"""Kinds of input that users give, tried on every public function.

What comes from files (NumPy arrays), whole numbers, constants of NumPy, a
forgotten `vmap` or a size that is off by one, zeros, and vectors that are
equal. The functions are those of `conformance.ROWS`, where each row says what
does not fit it, and why.
"""

import functools
import inspect
import math
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import conformance

pytestmark = pytest.mark.usefixtures("few_programs")

_rows = pytest.mark.parametrize(
  "row", conformance.ROWS, ids=lambda row: row.name
)


def _is_key(leaf):
  return jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)


def _is_float(leaf):
  return not _is_key(leaf) and jnp.issubdtype(
    jnp.result_type(leaf), jnp.floating
  )


def _inputs(row, make=None):
  return (make or row.make_inputs)(0, jnp.float32)


def _name_leaves(row, inputs):
  """Lists the leaves' names: "query", "state.memory"."""
  names = []
  for name, tree in zip(row.input_names, inputs, strict=False):
    for path, _ in jax.tree_util.tree_leaves_with_path(tree):
      names.append(name + _written(path))
  return names


def _written(path):
  return "".join(
    f".{getattr(part, 'name', getattr(part, 'key', getattr(part, 'idx', '')))}"
    for part in path
  )


def _skip(row, kind):
  if kind in row.without:
    pytest.skip(row.without[kind])


def _assert_equal(actual, expected, **tolerance):
  chex.assert_trees_all_equal_shapes_and_dtypes(actual, expected)
  chex.assert_trees_all_close(actual, expected, **tolerance)


@_rows
def test_inputs_have_names(row):
  inputs = _inputs(row)
  assert len(row.input_names) >= len(inputs), row.input_names


@_rows
def test_takes_numpy_arrays(row):
  _skip(row, "numpy")

  def converted(leaf):
    return leaf if _is_key(leaf) else np.asarray(leaf)

  outputs = row.run(*jax.tree.map(converted, _inputs(row)))
  _assert_equal(outputs, row.run(*_inputs(row)), rtol=1e-6, atol=1e-6)


@_rows
def test_whole_numbers_are_real_numbers(row):
  """A result of integers is that of the same floats, or is refused."""
  _skip(row, "integers")

  def rounded(leaf):
    if not _is_float(leaf):
      return leaf
    signs = jnp.where(jnp.asarray(leaf) < 0, -1.0, 1.0)
    return jnp.asarray(signs * jnp.ceil(jnp.abs(leaf)), leaf.dtype)

  def whole(leaf):
    return leaf.astype(jnp.int32) if _is_float(leaf) else leaf

  floats = jax.tree.map(rounded, _inputs(row))
  integers = jax.tree.map(whole, jax.tree.map(rounded, _inputs(row)))
  expected = row.run(*floats)
  try:
    actual = row.run(*integers)
  except ValueError as error:
    assert _is_one_sentence(error)
    assert "integers_are_refused" in row.without
    return
  _assert_strong(row, actual)
  # A weak type is no difference between the numbers.
  chex.assert_trees_all_close(
    jax.tree.map(np.asarray, actual),
    jax.tree.map(np.asarray, expected),
    rtol=1e-5,
    atol=1e-6,
  )


def _assert_strong(row, output):
  """A state with a weak type would be compiled for anew."""
  if row.state is None:
    return
  state = output[0] if type(output) is tuple else output
  for leaf in jax.tree.leaves(state):
    assert _is_key(leaf) or not leaf.weak_type


def _is_one_sentence(error):
  text = str(error)
  return "\n" not in text and text.endswith(".") and len(text) < 300


def _changed(inputs, index, change):
  """Inputs with one leaf changed."""
  leaves, structure = jax.tree.flatten(inputs)
  leaves[index] = change(leaves[index])
  return jax.tree.unflatten(structure, leaves)


def _with_an_axis(size, leaf):
  return jnp.stack([leaf] * size) if size else jnp.asarray(leaf)[None]


def _resized(axis, size, leaf):
  """The leaf with another size of an axis."""
  indices = [i % leaf.shape[axis] for i in range(size)]
  return jnp.take(leaf, jnp.array(indices, jnp.int32), axis=axis)


def _evaluate(row, inputs):
  """Runs abstractly: what is checked must not depend on values."""
  return jax.eval_shape(row.run, *inputs)


def _assert_refused(row, inputs, name, kind):
  argument = re.escape(name.split(".")[0])
  with pytest.raises(ValueError, match=argument) as caught:
    _evaluate(row, inputs)
  assert _is_one_sentence(caught.value), caught.value
  if kind == "rank":
    assert "unbatched: vmap over" in str(caught.value), caught.value


@_rows
def test_wrong_ranks_are_refused(row):
  _skip(row, "ranks")
  names = _name_leaves(row, _inputs(row))
  for i, name in enumerate(names):
    if name in row.any_rank:
      continue
    changes = [functools.partial(_with_an_axis, n) for n in (1, 2)]
    if jnp.ndim(jax.tree.leaves(_inputs(row))[i]):
      changes.append(lambda leaf: leaf[0])
    for change in changes:
      inputs = _changed(_inputs(row), i, change)
      _assert_refused(row, inputs, name, "rank")


@_rows
def test_wrong_sizes_are_refused(row):
  """One size is changed: to one more, and to 1, which is not stretched.

  One that is free is changed by two: the size of a kernel stays odd.
  """
  _skip(row, "sizes")
  names = _name_leaves(row, _inputs(row))
  for i, name in enumerate(names):
    shape = jnp.shape(jax.tree.leaves(_inputs(row))[i])
    for axis, size in enumerate(shape):
      is_free = f"{name}.{axis}" in row.free
      for other in {size + (2 if is_free else 1), 1} - {size}:
        resize = functools.partial(_resized, axis, other)
        inputs = _changed(_inputs(row), i, resize)
        if is_free:
          _evaluate(row, inputs)
        else:
          _assert_refused(row, inputs, name, "size")


def _constants(row):
  """Numerical keywords with a default."""
  return {
    name: parameter.default
    for name, parameter in inspect.signature(row.function).parameters.items()
    if isinstance(parameter.default, int | float)
    and not isinstance(parameter.default, bool)
  }


def _takes(row, name):
  parameters = inspect.signature(row.run).parameters
  kinds = [parameter.kind for parameter in parameters.values()]
  return name in parameters or inspect.Parameter.VAR_KEYWORD in kinds


_rows_with_constants = pytest.mark.parametrize(
  "row",
  [row for row in conformance.ROWS if row.constants or _constants(row)],
  ids=lambda row: row.name,
)


@_rows_with_constants
def test_constants_out_of_range_are_refused_whatever_their_type(row):
  assert row.constants.keys() >= _constants(row).keys()
  for name, refused in row.constants.items():
    assert _takes(row, name), f"call takes no {name}; give it **hyper"
    for value in (*refused, math.nan):
      for kind in (float, np.float32, np.float16, np.asarray, jnp.asarray):
        with pytest.raises(ValueError, match=name) as caught:
          row.run(*_inputs(row), **{name: kind(value)})
        assert _is_one_sentence(caught.value), caught.value


@_rows_with_constants
def test_constants_of_numpy_are_those_of_python(row):
  for name, default in _constants(row).items():
    kinds = (np.int32, np.int64) if isinstance(default, int) else (np.float32,)
    for kind in kinds:
      actual = row.run(*_inputs(row), **{name: kind(default)})
      expected = row.run(*_inputs(row), **{name: default})
      _assert_equal(actual, expected, rtol=1e-6, atol=1e-6)


def _zeros(row):
  inputs = list(_inputs(row))
  for i, tree in enumerate(inputs):
    if i != row.state:
      inputs[i] = jax.tree.map(
        lambda x: jnp.zeros_like(x) if _is_float(x) else x, tree
      )
  return tuple(inputs)


def _equal(row):
  """Every vector is the same, but those of the state."""
  vector = jnp.asarray([0.7, -0.4, 1.3, 0.2, -0.9, 0.5, 1.1, -0.3] * 8)

  def filled(leaf):
    if not _is_float(leaf) or not leaf.ndim:
      return leaf
    return jnp.broadcast_to(vector[: leaf.shape[-1]], leaf.shape)

  inputs = list(_inputs(row))
  for i, tree in enumerate(inputs):
    if i != row.state:
      inputs[i] = jax.tree.map(filled, tree)
  return tuple(inputs)


def _value_and_gradient(row):
  """A program: the outputs, and the gradient of a weighted sum of them."""

  def weighted(leaf):
    leaf = jnp.ravel(leaf).astype(jnp.float32)
    return jnp.sum(jnp.cos(1.0 + jnp.arange(leaf.size)) * leaf)

  def total(floats, inputs):
    merged = jax.tree.map(
      lambda x, y: y if x is None else x,
      floats,
      inputs,
      is_leaf=lambda x: x is None,
    )
    outputs = row.run(*merged)
    leaves = [x for x in jax.tree.leaves(outputs) if _is_float(x)]
    return sum(map(weighted, leaves), start=jnp.zeros(())), leaves

  def both(inputs):
    floats = jax.tree.map(lambda x: x if _is_float(x) else None, inputs)
    if "gradient" in row.without:
      return total(floats, inputs)[1], ()
    gradient, outputs = jax.grad(total, has_aux=True)(floats, inputs)
    return outputs, gradient

  return jax.jit(both)


def _points(row):
  yield "ordinary", lambda: _inputs(row)
  yield "zeros", lambda: _zeros(row)
  yield "equal", lambda: _equal(row)
  for name, make in row.edges.items():
    yield name, functools.partial(_inputs, row, make)


@pytest.mark.parametrize(
  "row",
  [
    pytest.param(
      row, marks=[pytest.mark.slow] if row.name in conformance.SLOW else []
    )
    for row in conformance.ROWS
  ],
  ids=lambda row: row.name,
)
def test_value_and_gradient_are_finite(row):
  program = _value_and_gradient(row)
  for point, make in _points(row):
    if point in row.without:
      continue
    outputs, gradient = program(make())
    for leaf in jax.tree.leaves((outputs, gradient)):
      assert np.all(np.isfinite(leaf)), point


def test_reasons_are_of_kinds():
  kinds = {
    *("numpy", "integers", "integers_are_refused", "ranks", "sizes"),
    *("gradient", "ordinary", "zeros", "equal"),
  }
  for row in conformance.ROWS:
    assert row.without.keys() <= kinds | row.edges.keys(), row.name
    assert all(row.without.values())
