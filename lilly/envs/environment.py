"""The environment interface: two pure functions, specs and step records.

Everything is unbatched: use `vmap` for many environments and `scan` for an
episode. A step always holds the true next observation. Two fields tell how an
episode ended, because learners treat the cases differently: `discount` is 0 at
termination; `truncated` is set when a time limit was reached, where a value may
be bootstrapped.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lilly import checks

__all__ = [
  "Environment",
  "Spec",
  "Step",
  "box",
  "discrete",
  "is_bounded",
  "is_last",
  "make_step",
  "sample",
]


class Spec(NamedTuple):
  """Shape, type and bounds of an observation or an action."""

  shape: tuple[int, ...]
  dtype: Any
  minimum: np.ndarray  # broadcasts to the shape; may be infinite
  maximum: np.ndarray  # likewise
  num_values: int | None = None  # discrete: 0 .. num_values - 1; else None


class Step(NamedTuple):
  """Result of one environment step."""

  observation: jax.Array  # the true next one, also at the end of an episode
  reward: jax.Array  # [] float32
  discount: jax.Array  # [] float32, 0 only at termination
  truncated: jax.Array  # [] bool, time limit reached; bootstrap here


class Environment(NamedTuple):
  """Pure functions; `state` is any pytree of arrays."""

  # reset(key) -> (state, observation)
  reset: Callable[[jax.Array], tuple[Any, jax.Array]]
  # step(key, state, action) -> (state, Step)
  step: Callable[[jax.Array, Any, jax.Array], tuple[Any, Step]]
  observation_spec: Spec
  action_spec: Spec
  # render(state, size) -> [size, size, 3] uint8; None: cannot be rendered
  render: Callable[[Any, int], jax.Array] | None = None
  # The next two serve models of the state.
  # observe(state) -> observation; None: the state does not determine it
  observe: Callable[[Any], jax.Array] | None = None
  # reward(state, action, next state) -> []; None: likewise
  reward: Callable[[Any, jax.Array, Any], jax.Array] | None = None
  # restart(key, state) -> (state, observation): starts an episode after one
  # that ended in `state`; None: as reset(key)
  restart: Callable[[jax.Array, Any], tuple[Any, jax.Array]] | None = None


def box(
  minimum: Sequence[float] | np.ndarray, maximum: Sequence[float] | np.ndarray
) -> Spec:
  """Makes the spec of a bounded float32 vector.

  Args:
    minimum: lower bound of each number; -inf if unbounded.
    maximum: upper bound of each number; inf if unbounded.

  Returns:
    The spec.

  Raises:
    ValueError: the vector is empty, a bound is NaN, or the bounds contradict
      each other.

  >>> box([-2.0], [2.0]).shape
  (1,)
  """
  low, high = np.asarray(minimum, np.float32), np.asarray(maximum, np.float32)
  if low.ndim != 1 or low.size == 0:
    raise ValueError(
      f"minimum has shape {low.shape}; it must be a vector of at least one "
      "number: an observation or action of size 0 cannot be used."
    )
  # NaN is not below anything either, so this asks for what must hold.
  if low.shape != high.shape or not (low <= high).all():
    raise ValueError(
      f"maximum is {high.tolist()}; it must have a number for each of minimum, "
      f"{low.tolist()}, none below it, and none of them NaN."
    )
  return Spec(low.shape, jnp.float32, low, high)


def discrete(num_values: int) -> Spec:
  """Makes the spec of one of several values, such as a discrete action.

  Args:
    num_values: number of values, 0 to num_values - 1.

  Returns:
    The spec, of an int32 scalar.

  Raises:
    ValueError: num_values is not positive.

  >>> discrete(3).maximum.item()
  2
  """
  num_values = checks.whole_number("num_values", num_values, least=1)
  low, high = np.asarray(0, np.int32), np.asarray(num_values - 1, np.int32)
  return Spec((), jnp.int32, low, high, num_values)


def is_bounded(spec: Spec) -> bool:
  """Tells whether the distance of a spec's bounds is finite.

  Bounds may be finite and so large that their distance is not, as where the
  largest float32 stands for no bound.

  Args:
    spec: a spec of numbers.

  Returns:
    Whether maximum - minimum is finite in the spec's type.

  >>> is_bounded(box([-2.0], [2.0])), is_bounded(box([-3e38], [3e38]))
  (True, False)
  """
  low, high = (
    np.asarray(x).astype(spec.dtype) for x in (spec.minimum, spec.maximum)
  )
  with np.errstate(over="ignore", invalid="ignore"):
    return bool(np.isfinite(high - low).all())


def is_last(step: Step) -> jax.Array:
  """Tells whether an episode ends with this step.

  Args:
    step: a step of an environment.

  Returns:
    [] bool; True after a termination and after a truncation.

  >>> step = make_step(jnp.zeros(1), 0.0)
  >>> bool(is_last(step)), bool(is_last(step._replace(truncated=True)))
  (False, True)
  """
  return (step.discount == 0) | step.truncated


def make_step(
  observation: jax.Array,
  reward: float | jax.Array,
  is_terminal: bool | jax.Array = False,
) -> Step:
  """Makes a step that is not truncated, with the types of `Step`.

  Args:
    observation: the true next observation.
    reward: the reward, [].
    is_terminal: whether the episode terminated, [] bool.

  Returns:
    The step.

  >>> float(make_step(jnp.zeros(1), 1.0, is_terminal=True).discount)
  0.0
  """
  return Step(
    observation,
    jnp.asarray(reward, jnp.float32),
    1 - jnp.asarray(is_terminal, jnp.float32),
    jnp.zeros((), bool),
  )


def sample(key: jax.Array, spec: Spec) -> jax.Array:
  """Samples uniformly from a spec, such as an action of the random policy.

  Args:
    key: typed key.
    spec: a discrete spec, or one with bounds whose distance is finite.

  Returns:
    An array of the spec's shape and type.

  Raises:
    ValueError: a bound or the distance of the bounds is infinite.

  >>> float(sample(jax.random.key(0), box([3.0], [3.0]))[0])
  3.0
  """
  if spec.num_values is not None:
    return jax.random.randint(key, spec.shape, 0, spec.num_values, spec.dtype)
  if not is_bounded(spec):
    raise ValueError(
      f"spec is from {np.asarray(spec.minimum).tolist()} to "
      f"{np.asarray(spec.maximum).tolist()}; its bounds must be finite, and "
      "their distance as well."
    )
  low = jnp.broadcast_to(jnp.asarray(spec.minimum, spec.dtype), spec.shape)
  high = jnp.broadcast_to(jnp.asarray(spec.maximum, spec.dtype), spec.shape)
  return jax.random.uniform(key, spec.shape, spec.dtype, low, high)
