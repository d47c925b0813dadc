"""What an environment is: two pure functions and what they take and give.

Everything is unbatched: `vmap` gives many environments, `scan` an episode. The
observation of a step is always the true one that followed; how an episode ended
is in two fields, because it is learnt from in two ways: `discount` is 0 where
the world ended, and nothing follows; `truncated` is set where only the
recording ended, and a value may be bootstrapped.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

__all__ = [
  "Environment",
  "Spec",
  "Step",
  "box",
  "is_last",
  "make_step",
  "sample",
]


class Spec(NamedTuple):
  """The form of an observation or of an action."""

  shape: tuple[int, ...]
  dtype: Any
  minimum: np.ndarray  # broadcasts to the shape; maybe infinite
  maximum: np.ndarray  # likewise
  num_values: int | None = None  # of a choice, 0 .. num_values - 1; else None


class Step(NamedTuple):
  """What an action led to."""

  observation: jax.Array  # the true next one, also at an end
  reward: jax.Array  # [] float32
  discount: jax.Array  # [] float32, 0 only where the world ended
  truncated: jax.Array  # [] bool, the time was up; bootstrapped


class Environment(NamedTuple):
  """Pure functions; `state` is any pytree of arrays."""

  # reset(key) -> (state, observation)
  reset: Callable[[jax.Array], tuple[Any, jax.Array]]
  # step(key, state, action) -> (state, Step)
  step: Callable[[jax.Array, Any, jax.Array], tuple[Any, Step]]
  observation_spec: Spec
  action_spec: Spec
  # render(state, size) -> [size, size, 3] uint8; None: there are no pictures
  render: Callable[[Any, int], jax.Array] | None = None
  # For models of the state: what is seen of one, and what a step is worth.
  # observe(state) -> observation; None: a state alone does not say it
  observe: Callable[[Any], jax.Array] | None = None
  # reward(state, action, following state) -> []; None: likewise
  reward: Callable[[Any, jax.Array, Any], jax.Array] | None = None


def box(
  minimum: Sequence[float] | np.ndarray, maximum: Sequence[float] | np.ndarray
) -> Spec:
  """Describes a vector of float32 numbers with bounds.

  Args:
    minimum: of each number; -inf where there is none.
    maximum: of each number; inf where there is none.

  Returns:
    The spec.

  Raises:
    ValueError: there is no number, or the bounds do not fit each other.

  >>> box([-2.0], [2.0]).shape
  (1,)
  """
  low, high = np.asarray(minimum, np.float32), np.asarray(maximum, np.float32)
  if low.ndim != 1 or low.size == 0:
    raise ValueError(
      f"minimum has shape {low.shape}; it must be a vector of at least one "
      "number: an observation or action of size 0 cannot be used."
    )
  if low.shape != high.shape or (low > high).any():
    raise ValueError(
      f"maximum is {high.tolist()}; it must have a number for each of minimum, "
      f"{low.tolist()}, none below it."
    )
  return Spec(low.shape, jnp.float32, low, high)


def is_last(step: Step) -> jax.Array:
  """Tells whether an episode ends with this step.

  Args:
    step: of an environment.

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
  """Makes a step that is not truncated, in the types of `Step`.

  Args:
    observation: the true next one.
    reward: [].
    is_terminal: whether the world ended, [] bool.

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
  """Draws uniformly from a spec: an action of the random policy.

  Args:
    key: typed key.
    spec: a choice, or numbers with finite bounds.

  Returns:
    An array of the spec's shape and type.

  Raises:
    ValueError: a bound is infinite.

  >>> float(sample(jax.random.key(0), box([3.0], [3.0]))[0])
  3.0
  """
  if spec.num_values is not None:
    return jax.random.randint(key, spec.shape, 0, spec.num_values, spec.dtype)
  if not np.isfinite([np.min(spec.minimum), np.max(spec.maximum)]).all():
    raise ValueError(f"spec is {spec}; its bounds must be finite.")
  low = jnp.broadcast_to(jnp.asarray(spec.minimum, spec.dtype), spec.shape)
  high = jnp.broadcast_to(jnp.asarray(spec.maximum, spec.dtype), spec.shape)
  return jax.random.uniform(key, spec.shape, spec.dtype, low, high)
