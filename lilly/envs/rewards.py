"""Smooth reward terms shared by several tasks."""

import math

import jax
import jax.numpy as jnp

from lilly import checks

__all__ = ["small_control", "tolerance"]


def tolerance(
  x: jax.Array,
  *,
  upper: float = 0.0,
  margin: float = 0.0,
  value_at_margin: float = 0.1,
) -> jax.Array:
  """Rewards magnitudes within a bound, with a smooth decay beyond it.

  1 where |x| <= upper; beyond, exp(log(value_at_margin) ((|x| - upper) /
  margin)²), and 0 where the margin is 0.

  Args:
    x: array of any shape; whole numbers count as float32.
    upper: bound of |x|.
    margin: distance beyond the bound where the value is `value_at_margin`.
    value_at_margin: number between 0 and 1.

  Returns:
    Values from 0 to 1, of the shape of x.

  Raises:
    ValueError: upper or margin is negative, or value_at_margin is not between 0
      and 1.

  Reference:
    Tassa et al., 2018 (arXiv 1801.00690), section 3; the Gaussian variant, with
    an interval symmetric about 0.

  >>> print(tolerance(jnp.array([1.0, 3.0]), upper=1.0, margin=2.0).round(3))
  [1.  0.1]
  """
  x = checks.real("x", x, "...")
  upper = checks.number("upper", upper, least=0)
  margin = checks.number("margin", margin, least=0)
  value_at_margin = checks.number(
    "value_at_margin", value_at_margin, above=0, below=1
  )
  excess = jnp.maximum(jnp.abs(x) - upper, 0)
  if margin == 0:
    return (excess == 0).astype(x.dtype)
  return jnp.exp(math.log(value_at_margin) * jnp.square(excess / margin))


def small_control(action: jax.Array) -> jax.Array:
  """Rewards small actions: 1 for zero, 4/5 for the largest.

  (4 + mean(1 - a²)) / 5.

  Args:
    action: action in [-1, 1], [m].

  Returns:
    The factor, [].

  Reference:
    Tassa et al., 2018 (arXiv 1801.00690), where several tasks use it.

  >>> round(float(small_control(jnp.array([1.0, 0.0]))), 3)
  0.9
  """
  action = checks.real("action", action, "m")
  return (4 + jnp.mean(1 - jnp.square(action))) / 5
