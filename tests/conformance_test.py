"""What every public function of the bottom floor keeps, row by row.

Compiled, in a `scan` and under `vmap`, equals eager and is traced once; types
are kept; a returned state fits `lax.cond` beside the old one; the function is
documented and exported. The list is `conformance.ROWS`.
"""

import functools
import importlib
import inspect
import pkgutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import lilly
from tests import conformance

_BOTTOM = (
  *("losses", "memory", "rules", "control", "search", "replay", "analysis"),
)
_SEEDS = (0, 1)

_rows = pytest.mark.parametrize(
  "row", conformance.ROWS, ids=lambda row: row.name
)
_compiled_rows = pytest.mark.parametrize(
  "row",
  [
    pytest.param(
      row, marks=[pytest.mark.slow] if row.name in conformance.SLOW else []
    )
    for row in conformance.ROWS
  ],
  ids=lambda row: row.name,
)
_FORMS = {row.form: row for row in reversed(conformance.ROWS)}
_forms = pytest.mark.parametrize("row", _FORMS.values(), ids=_FORMS.keys())


pytestmark = pytest.mark.usefixtures("few_programs")


def _call(row):
  return row.call or row.function


def _stacked(row):
  """Inputs of all seeds, with a leading axis."""
  inputs = [row.make_inputs(seed, jnp.float32) for seed in _SEEDS]

  def stack(*leaves):
    if jnp.issubdtype(jnp.result_type(leaves[0]), jax.dtypes.prng_key):
      # The check for reused keys takes stacking for a use.
      return jax.random.clone(jnp.stack(leaves))
    return jnp.asarray(np.stack(leaves))

  return jax.tree.map(stack, *inputs)


def _eager(row):
  """Outputs of all seeds, computed one after another without compilation."""
  return _eager_of(row.name)


@functools.cache
def _eager_of(name):
  (row,) = (row for row in conformance.ROWS if row.name == name)
  outputs = [_call(row)(*row.make_inputs(seed, jnp.float32)) for seed in _SEEDS]
  return jax.tree.map(lambda *leaves: np.stack(leaves), *outputs)


def _assert_close(actual, expected):
  chex.assert_trees_all_equal_shapes_and_dtypes(actual, expected)
  chex.assert_trees_all_close(actual, expected, rtol=1e-5, atol=1e-5)


@_compiled_rows
def test_compiled_in_a_scan_and_mapped_equals_eager_and_is_traced_once(row):
  call, traces = _call(row), []

  # One program: by itself each way takes as long as both.
  @jax.jit
  def both(scanned, mapped):
    traces.append(None)

    def step(carry, inputs):
      return carry, call(*inputs)

    return jax.lax.scan(step, None, scanned)[1], jax.vmap(call)(*mapped)

  for _ in range(2):
    for outputs in both(_stacked(row), _stacked(row)):
      _assert_close(outputs, _eager(row))
  assert len(traces) == 1


@_rows
def test_keeps_types(row):
  for dtype in row.dtypes:
    inputs = row.make_inputs(0, dtype)
    outputs = jax.eval_shape(_call(row), *inputs)
    for leaf in jax.tree.leaves(outputs):
      if jnp.issubdtype(leaf.dtype, jnp.floating):
        assert leaf.dtype == dtype


@pytest.mark.parametrize(
  "row",
  [row for row in conformance.ROWS if row.state is not None],
  ids=lambda row: row.name,
)
def test_state_keeps_its_form(row):
  def either(keep, *inputs):
    output = _call(row)(*inputs)
    is_pair = type(output) is tuple
    state = output[0] if is_pair else output
    return jax.lax.cond(keep, lambda: inputs[row.state], lambda: state)

  inputs = row.make_inputs(0, jnp.float32)
  new = jax.eval_shape(either, True, *inputs)
  chex.assert_trees_all_equal_shapes_and_dtypes(new, inputs[row.state])


@_rows
def test_is_documented_and_exported(row):
  module = importlib.import_module(row.function.__module__)
  assert row.function.__name__ in module.__all__
  documentation = inspect.getdoc(row.function) or ""
  for part in ("Args:", "Returns:", "Reference:", ">>> "):
    assert part in documentation, part
  assert documentation.splitlines()[0].endswith(".")
  parameters = inspect.signature(row.function).parameters.values()
  for parameter in parameters:
    name = ("", "", "*", "", "**")[parameter.kind] + parameter.name
    assert f"\n  {name}: " in documentation, name


@_forms
def test_runs_sharded_over_two_devices(row):
  mesh = jax.make_mesh((2,), ("run",), axis_types=(AxisType.Auto,))
  sharding = NamedSharding(mesh, PartitionSpec("run"))
  inputs = jax.device_put(_stacked(row), sharding)
  outputs = jax.jit(jax.vmap(_call(row)), out_shardings=sharding)(*inputs)
  for leaf in jax.tree.leaves(outputs):
    assert len(leaf.sharding.device_set) == 2
  _assert_close(jax.tree.map(np.asarray, outputs), _eager(row))


@_forms
def test_runs_under_pmap(row):
  outputs = jax.pmap(_call(row))(*_stacked(row))
  _assert_close(jax.tree.map(np.asarray, outputs), _eager(row))


def _bottom_modules():
  for folder in _BOTTOM:
    path = [f"{root}/{folder}" for root in lilly.__path__]
    for info in pkgutil.walk_packages(path, f"lilly.{folder}."):
      yield importlib.import_module(info.name)


def test_slow_rows_are_rows():
  assert {row.name for row in conformance.ROWS} >= conformance.SLOW


def test_every_public_function_has_a_row_or_a_reason():
  public = set()
  for module in _bottom_modules():
    defined = {
      name
      for name, value in vars(module).items()
      if inspect.isroutine(value)
      and value.__module__ == module.__name__
      and not name.startswith("_")
    }
    assert defined <= set(module.__all__), module.__name__
    assert all(hasattr(module, name) for name in module.__all__)
    short = module.__name__.removeprefix("lilly.")
    public |= {f"{short}.{name}" for name in defined}
  rows = [row.name for row in conformance.ROWS]
  assert len(rows) == len(set(rows))
  assert public == set(rows) | conformance.EXEMPT.keys()
  assert not set(rows) & conformance.EXEMPT.keys()
  assert all(conformance.EXEMPT.values())
