"""Public functions with inputs that do not fit, or nearly."""

from __future__ import annotations

import pathlib
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lilly
from scripts.attacks.case import FAILED, HELD, Case, Plan, sampled

__all__ = ["KINDS", "run"]

_LIBRARY = pathlib.Path(lilly.__file__).parent


def run(plan: Plan) -> Iterator[Case]:
  """Calls each function with each kind of input.

  What is right is a result, or a ValueError or TypeError of the library itself
  in one sentence. An error from inside JAX, and any other error, is not.
  """
  from tests import conformance

  attempts = [
    (row, kind, change)
    for row in conformance.ROWS
    for kind, change in KINDS.items()
  ]
  for row, kind, change in sampled(attempts, plan):
    for title, inputs in change(row.make_inputs(0, jnp.float32)):
      fault = _try(row.call or row.function, inputs)
      name = f"{row.name}, {kind}{title}"
      yield Case(name, FAILED if fault else HELD, fault)


def _try(call, inputs) -> str:
  """Says what is wrong with an answer, "" if nothing is."""
  try:
    jax.block_until_ready(call(*inputs))
  except (ValueError, TypeError, AssertionError) as error:
    last = traceback.extract_tb(error.__traceback__)[-1]
    text = str(error)
    if _LIBRARY not in pathlib.Path(last.filename).parents:
      return f"{type(error).__name__} from {last.filename}: {text[:100]}"
    return "" if "\n" not in text.strip() else f"many lines: {text[:100]}"
  except Exception as error:
    return f"{type(error).__name__}: {str(error)[:100]}"
  return ""


def _is_float(leaf) -> bool:
  dtype = getattr(leaf, "dtype", None)
  return dtype is not None and jnp.issubdtype(dtype, jnp.floating)


def _each(change: Callable[[Any], Any]):
  """Changes all floating-point arrays at once."""

  def kind(inputs):
    yield "", jax.tree.map(lambda x: change(x) if _is_float(x) else x, inputs)

  return kind


def _one(change: Callable[[Any], Any]):
  """Changes one array after another, the others as they are."""

  def kind(inputs):
    leaves, form = jax.tree.flatten(inputs)
    paths = jax.tree_util.tree_leaves_with_path(inputs)
    for number, (path, leaf) in enumerate(paths):
      changed = change(leaf) if _is_float(leaf) else None
      if changed is not None:
        found = list(map(_copied, leaves))
        found[number] = changed
        title = f" of {jax.tree_util.keystr(path)}"
        yield title, jax.tree.unflatten(form, found)

  return kind


def _copied(leaf):
  """A key is used once, and some functions take their arrays over."""
  dtype = getattr(leaf, "dtype", None)
  if dtype is None:
    return leaf
  if jnp.issubdtype(dtype, jax.dtypes.prng_key):
    return jax.random.clone(leaf)
  return jnp.array(leaf)


def _longer(x):
  return jnp.concatenate([x, x[..., :1]], axis=-1) if x.ndim else None


# kind -> kind(inputs) yields (title, changed inputs)
KINDS = {
  "NumPy arrays": _each(np.asarray),
  "whole numbers": _each(lambda x: jnp.asarray(jnp.round(x), jnp.int32)),
  "zeros": _each(jnp.zeros_like),
  "ones": _each(jnp.ones_like),
  "NaN": _each(lambda x: jnp.full_like(x, jnp.nan)),
  "infinity": _each(lambda x: jnp.full_like(x, jnp.inf)),
  "large numbers": _each(lambda x: x * 1e30),
  "small numbers": _each(lambda x: x * 1e-30),
  "an axis more": _one(lambda x: x[None]),
  "an axis less": _one(lambda x: x[0] if x.ndim else None),
  "a row more": _one(_longer),
  "a size of 1": _one(lambda x: x[..., :1] if x.ndim else None),
  "a size of 0": _one(lambda x: x[..., :0] if x.ndim else None),
}
