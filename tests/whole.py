"""Functions compiled whole, where operation by operation is not what is tested.

Called as it stands a function compiles each of its operations: dozens of tiny
programs, which take most of a test's time.
"""

import functools
import inspect
import types

import jax
import numpy as np

__all__ = ["each", "whole"]


def whole(function):
  """Returns a function that compiles a function as one program.

  What is not an array (numbers of Python, names, functions) reaches the
  function as it is, so that it may choose and refuse by it.

  Args:
    function: of arrays and other things, by position and by name.

  Returns:
    A function of the same arguments.
  """

  @functools.cache
  def compiled(treedef, kept):
    def call(arrays):
      arrays = iter(arrays)
      leaves = [next(arrays) if k is None else k[1] for k in kept]
      args, kwargs = jax.tree.unflatten(treedef, leaves)
      return function(*args, **kwargs)

    return jax.jit(call)

  @functools.wraps(function)
  def call(*args, **kwargs):
    leaves, treedef = jax.tree.flatten((args, kwargs))
    # Types, for 1, 1.0 and True are equal.
    kept = tuple(
      None if isinstance(x, (jax.Array, np.ndarray)) else (type(x), x)
      for x in leaves
    )
    pairs = zip(leaves, kept, strict=True)
    return compiled(treedef, kept)([x for x, k in pairs if k is None])

  return call


def each(module, *, but=()):
  """Returns what a module holds, its functions compiled whole.

  Args:
    module: with `__all__`.
    but: names of functions that are not of arrays.
  """
  found = dict(vars(module))
  for name in set(module.__all__) - set(but):
    if inspect.isroutine(found[name]):
      found[name] = whole(found[name])
  return types.SimpleNamespace(**found)
