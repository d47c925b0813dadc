"""Checks of arguments: shapes, types and ranges, each with one sentence.

A shape is written as in the docstrings, with a name or a number for each axis:
"N W" is [N, W], "" a scalar, "... D" any number of axes before the last, and
"*B D" as well, where all that say "*B" have the same ones. Axes of one name
have one size; a size of 1 is not stretched. A dict that a function passes to
all of its checks remembers the sizes:

  sizes = {}
  query = checks.real("query", query, "W", sizes)
  words = checks.real("words", words, "N W", sizes)

What is returned is a JAX array, so that callers may pass NumPy arrays, lists
and numbers, inside `jit` and outside. Whole numbers become floating-point where
the mathematics is real. A constant is checked whenever its value is known: a
Python number, a NumPy scalar, or an array outside `jit`.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = [
  "Sizes",
  "array",
  "integers",
  "key",
  "known",
  "mask",
  "number",
  "real",
  "storable",
  "whole_number",
]

# name of an axis -> its size, and the argument that has it; name of several
# axes ("*B") -> their sizes
Sizes = dict[str, tuple[Any, str]]


def real(name: str, x: Any, shape: str, sizes: Sizes | None = None) -> Any:
  """Checks an array of real numbers.

  Args:
    name: the argument's name, as in "query" or "state.mean".
    x: whatever converts to an array. Whole numbers and truth values become
      floating-point, of the type of what they meet (else float32).
    shape: its shape.
    sizes: sizes of named axes; extended by those of this argument.

  Returns:
    A floating-point array.

  Raises:
    ValueError: it has another shape, or is not an array of real numbers.

  >>> print(real("weights", np.array([1, 2]), "N"))
  [1. 2.]
  """
  x = array(name, x, shape, sizes)
  if jnp.issubdtype(x.dtype, jnp.floating):
    return x
  if jnp.issubdtype(x.dtype, jnp.integer) or x.dtype == jnp.bool_:
    return x * 1.0  # weakly typed: it takes the type of what it meets
  raise ValueError(f"{name} is of type {x.dtype}; it must hold real numbers.")


def integers(name: str, x: Any, shape: str, sizes: Sizes | None = None) -> Any:
  """Checks an array of whole numbers, such as indices or counts.

  Args:
    name: the argument's name.
    x: whatever converts to an array.
    shape: its shape.
    sizes: sizes of named axes; extended by those of this argument.

  Returns:
    An array of an integer type.

  Raises:
    ValueError: it has another shape, or another type.

  >>> print(integers("slots", [2, 0], "K"))
  [2 0]
  """
  x = array(name, x, shape, sizes)
  if not jnp.issubdtype(x.dtype, jnp.integer):
    raise ValueError(f"{name} is of type {x.dtype}; it must hold integers.")
  return x


def mask(name: str, x: Any, shape: str, sizes: Sizes | None = None) -> Any:
  """Checks an array of truth values.

  Args:
    name: the argument's name.
    x: whatever converts to an array of bool.
    shape: its shape.
    sizes: sizes of named axes; extended by those of this argument.

  Returns:
    An array of bool.

  Raises:
    ValueError: it has another shape, or another type.

  >>> print(mask("where", [True, False], "N"))
  [ True False]
  """
  x = array(name, x, shape, sizes)
  if x.dtype != jnp.bool_:
    raise ValueError(f"{name} is of type {x.dtype}; it must be bool.")
  return x


def array(name: str, x: Any, shape: str, sizes: Sizes | None = None) -> Any:
  """Checks the shape of an array of any type.

  Args:
    name: the argument's name.
    x: whatever converts to an array.
    shape: its shape.
    sizes: sizes of named axes; extended by those of this argument.

  Returns:
    A JAX array.

  Raises:
    ValueError: it has another shape, or is no array.

  >>> array("words", np.zeros((2, 3), np.uint8), "N W").shape
  (2, 3)
  """
  try:
    # NumPy would warn of a text, or take it for a type.
    x = jnp.asarray(None if isinstance(x, str) else x)
  except (TypeError, ValueError, OverflowError) as error:
    kind = f"an array {_written(shape)}" if shape else "a scalar"
    raise ValueError(
      f"{name} is of type {type(x).__name__}; it must be {kind}."
    ) from error
  sizes = {} if sizes is None else sizes
  axes = shape.split()
  is_open = shape.startswith(("...", "*"))
  axes = axes[1:] if is_open else axes
  if x.ndim < len(axes) or (x.ndim > len(axes) and not is_open):
    raise ValueError(
      f"{name} has shape {_shown(x.shape)}; it must be {_written(shape)} "
      "(unbatched: vmap over further axes)."
    )
  if shape.startswith("*"):
    _compare_leading(name, x.shape, shape, len(axes), sizes)
  _compare_sizes(name, x.shape, shape, axes, sizes)
  return x


def _compare_leading(name, actual, shape, num_last, sizes):
  """Compares the axes before the last ones, which have one name."""
  leading = actual[: len(actual) - num_last]
  axes = shape.split()[0]
  expected, where = sizes.setdefault(axes, (leading, name))
  if leading == expected:
    return
  is_other_rank = len(leading) != len(expected)
  raise ValueError(
    f"{name} has shape {_shown(actual)}; it must be {_written(shape)} with "
    f"{axes} = {_shown(expected)}, as in {where}"
    f"{' (unbatched: vmap over further axes)' if is_other_rank else ''}."
  )


def _compare_sizes(name, actual, shape, axes, sizes):
  """Compares the last axes with the sizes, and adds those that are new."""
  for axis, size in zip(axes, actual[len(actual) - len(axes) :], strict=True):
    if axis.isdigit():
      expected, reason = int(axis), ""
    else:
      expected, where = sizes.setdefault(axis, (size, name))
      reason = f" with {axis} = {expected}, as in {where}"
    if size != expected:
      raise ValueError(
        f"{name} has shape {_shown(actual)}; it must be {_written(shape)}"
        f"{reason}."
      )


def _shown(sizes):
  return f"[{', '.join(map(str, sizes))}]"


def _written(shape):
  return _shown(shape.split()) if shape else "a scalar"


def key(name: str, x: Any) -> Any:
  """Checks a single typed key.

  Args:
    name: the argument's name.
    x: a key of `jax.random.key`.

  Returns:
    The key.

  Raises:
    ValueError: it is no typed key, or an array of several.

  >>> key("key", jax.random.key(0)).shape
  ()
  """
  dtype = getattr(x, "dtype", None)
  if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key):
    raise ValueError(f"{name} must be a typed key, such as jax.random.key(0).")
  if x.shape:
    raise ValueError(
      f"{name} has shape {_shown(x.shape)}; it must be a single key "
      "(unbatched: vmap over further axes)."
    )
  return x


def number(
  name: str,
  x: Any,
  *,
  least: float = -math.inf,
  most: float = math.inf,
  above: float = -math.inf,
  below: float = math.inf,
  may_be_infinite: bool = False,
) -> Any:
  """Checks a constant of a real function, such as a hyper-parameter.

  Args:
    name: the argument's name.
    x: number, or scalar array.
    least: smallest allowed value.
    most: largest allowed value.
    above: excluded bound from below.
    below: excluded bound from above.
    may_be_infinite: whether infinities are allowed (within the bounds).

  Returns:
    A Python number where x is one or a NumPy scalar; else a scalar array of a
    floating-point type, whose values outside the range are only found where
    they are known.

  Raises:
    ValueError: it is out of range, NaN, or not a scalar.

  >>> number("decay", np.float32(2), least=0, most=1)
  Traceback (most recent call last):
  ...
  ValueError: decay is 2.0; it must be at least 0 and at most 1.
  """
  if isinstance(x, jax.Array):
    x = real(name, x, "")
    value = known(x)
  else:
    value = _as_number(name, x)
    x = value
  if value is None:
    return x
  is_within = least <= value <= most  # false for NaN
  is_within &= value > above or math.isinf(above)
  is_within &= value < below or math.isinf(below)
  is_within &= may_be_infinite or not math.isinf(value)
  if not is_within:
    allowed = _describe(least, most, above, below, may_be_infinite)
    raise ValueError(f"{name} is {value}; it must be {allowed}.")
  return x


def whole_number(
  name: str, x: Any, *, least: float = 0, most: float = math.inf
) -> int:
  """Checks a constant that is a size or a count.

  Args:
    name: the argument's name.
    x: whole number, of Python or NumPy.
    least: smallest allowed value.
    most: largest allowed value.

  Returns:
    A Python int.

  Raises:
    ValueError: it is out of range, or no whole number whose value is known.

  >>> whole_number("count", np.int32(3), least=1)
  3
  """
  value: Any = x
  if isinstance(x, jax.Array):
    value = known(x) if not x.shape else None
  if isinstance(value, np.ndarray) and not value.shape:
    value = value[()]
  is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
  if not is_whole:
    is_traced = value is None and x is not None
    shown = "not known while tracing" if is_traced else repr(x)
    raise ValueError(f"{name} is {shown}; it must be a whole number.")
  if not least <= value <= most:
    allowed = _describe(least, most, -math.inf, math.inf, True)
    raise ValueError(f"{name} is {value}; it must be {allowed}.")
  return int(value)


def known(x: jax.Array) -> Any:
  """Reads the value of a scalar array, where it is known.

  Args:
    x: array, [].

  Returns:
    A Python number; None inside a transformation such as `jit`.

  >>> known(jnp.arange(3).sum())
  3
  """
  try:
    return x.item() if x.is_fully_addressable else None
  except jax.errors.ConcretizationTypeError:
    return None


def storable(name: str, x: Any, dtype: Any) -> jax.Array:
  """Converts what is stored in an array of a given type, without loss.

  A floating-point type holds real numbers, with the ordinary rounding, whole
  numbers and truth values; an integer type holds integers that are no wider,
  and truth values; bool holds truth values. Of Python numbers, and of 64-bit
  NumPy integers where JAX has none, the values decide instead of the width.

  Args:
    name: the argument's name.
    x: whatever converts to an array, of any shape.
    dtype: type in which it is stored.

  Returns:
    A JAX array of this type, not weakly typed.

  Raises:
    ValueError: the type does not hold it, or it contains a finite number beyond
      the type's range, where values are known.

  >>> storable("x", 7, jnp.uint8).dtype
  dtype('uint8')
  >>> storable("x", jnp.float32(0.5), jnp.uint8)
  Traceback (most recent call last):
  ...
  ValueError: x is of type float32; it is stored as uint8, which cannot hold it.
  """
  dtype = jax.dtypes.canonicalize_dtype(dtype, allow_extended_dtype=True)
  given = x if isinstance(x, jax.Array) else np.asarray(x)
  if given.dtype == dtype:
    return jnp.asarray(given, dtype)  # not weakly typed
  kind, stored = _kind(given.dtype), _kind(dtype)
  holds = kind <= stored
  if kind == stored == _kind(jnp.int32) and hasattr(x, "dtype"):
    holds = np.can_cast(jax.dtypes.canonicalize_dtype(given.dtype), dtype)
  if not holds:
    raise ValueError(
      f"{name} is of type {given.dtype}; it is stored as {dtype}, which cannot "
      "hold it."
    )
  _check_range(name, given, dtype)
  return jnp.asarray(given, dtype)


def _kind(dtype):
  """Orders bool, integers, real and complex numbers; others hold nothing."""
  kinds = (jnp.bool_, jnp.integer, jnp.floating, jnp.complexfloating)
  found = [i for i, kind in enumerate(kinds) if jnp.issubdtype(dtype, kind)]
  return found[0] if found else len(kinds)


def _check_range(name, x, dtype):
  """Compares finite numbers with the ends of a type, where they are known."""
  if np.can_cast(x.dtype, dtype):
    return
  try:
    values = np.ravel(x)
  except jax.errors.TracerArrayConversionError:
    return
  if jnp.issubdtype(x.dtype, jnp.floating):
    values = values.astype(np.float64)  # so that the ends are no infinities
  if jnp.issubdtype(dtype, jnp.integer):
    least, most = jnp.iinfo(dtype).min, jnp.iinfo(dtype).max
  else:
    least, most = float(jnp.finfo(dtype).min), float(jnp.finfo(dtype).max)
  beyond = (values < least) | (values > most)
  beyond &= np.isfinite(values)
  if beyond.any():
    raise ValueError(
      f"{name} is {values[beyond][0]}, of type {x.dtype}; it is stored as "
      f"{dtype}, which holds {least} to {most}."
    )


def _as_number(name, x):
  """Converts a number of Python or NumPy, keeping whole numbers exact."""
  if isinstance(x, np.ndarray | np.generic) and not x.shape:
    x = x[()].item() if isinstance(x, np.ndarray) else x.item()
  if isinstance(x, bool):
    x = float(x)
  if not isinstance(x, int | float):
    raise ValueError(f"{name} is {x!r}; it must be a number.")
  return x


def _describe(least, most, above, below, may_be_infinite):
  words = []
  if not math.isinf(above):
    words.append(f"above {_shortest(above)}")
  if not math.isinf(least):
    words.append(f"at least {_shortest(least)}")
  if not math.isinf(below):
    words.append(f"below {_shortest(below)}")
  if not math.isinf(most):
    words.append(f"at most {_shortest(most)}")
  if not words:
    return "a number" if may_be_infinite else "a finite number"
  is_bounded = not math.isinf(max(least, above) - min(most, below))
  if not may_be_infinite and not is_bounded:
    words.insert(0, "finite")
  return " and ".join(words)


def _shortest(bound):
  short = f"{bound:g}"
  return short if float(short) == bound else str(bound)
