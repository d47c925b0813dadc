"""Tasks with hidden physical constants that vary between episodes.

The constants show only in the response to actions, so that the agent must
identify the system in order to control it.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lilly.envs import wrappers
from lilly.envs.environment import Environment

__all__ = ["State", "make"]


class State(NamedTuple):
  """A state of the task, and the constants of its episode."""

  constants: dict[str, jax.Array]  # [] float32 each
  state: Any


def make(
  make_env: Callable[..., Environment],
  ranges: Mapping[str, tuple[float, float]],
  *,
  num_steps: int | None,
) -> Environment:
  """Makes a task whose constants are drawn uniformly at each reset.

  Specs and `render` are those of the task with each constant at the middle of
  its range.

  Args:
    make_env: a task's `make`, which takes constants as keyword arguments and
      num_steps=None for no limit.
    ranges: constant name -> lowest and highest value. Constants that determine
      shapes or specs, such as a number of links, cannot be drawn.
    num_steps: time limit of an episode; None: no limit.

  Returns:
    The environment; inside its time limit its states are `State`.

  Raises:
    ValueError: ranges is empty, a range is out of order, make_env does not take
      a constant of that name or refuses the ends of its range, or num_steps is
      not positive.

  Reference:
    Heess et al., 2015 (arXiv 1512.04455): a pole of varying length.

  >>> from lilly.envs import pendulum
  >>> env = make(pendulum.make, {"mass": (0.5, 2.0)}, num_steps=None)
  >>> state, observation = env.reset(jax.random.key(0))
  >>> 0.5 <= state.constants["mass"] <= 2.0, observation.shape
  (Array(True, dtype=bool), (3,))
  """
  _check(make_env, ranges)
  task = functools.partial(make_env, num_steps=None)

  def reset(key):
    constants_key, start_key = jax.random.split(key)
    constants = _draw(constants_key, ranges)
    state, observation = task(**constants).reset(start_key)
    return State(constants, state), observation

  def step(key, state, action):
    inner, step = task(**state.constants).step(key, state.state, action)
    return State(state.constants, inner), step

  typical = task(**{name: sum(ranges[name]) / 2 for name in ranges})
  env = typical._replace(reset=reset, step=step, **_of_states(task, typical))
  return wrappers.time_limit(env, num_steps)


def _draw(key, ranges):
  # Sorted: the result does not depend on the order of the ranges.
  names = sorted(ranges)
  low, high = jnp.array([ranges[name] for name in names], jnp.float32).T
  drawn = jax.random.uniform(key, low.shape, jnp.float32, low, high)
  return dict(zip(names, drawn, strict=True))


def _of_states(task, typical):
  """The task's functions of a state, evaluated with that state's constants."""

  def observe(state):
    return task(**state.constants).observe(state.state)

  def reward(state, action, following):
    own = task(**state.constants)
    return own.reward(state.state, action, following.state)

  render = typical.render
  return {
    "render": render and (lambda s, size: render(s.state, size)),
    "observe": typical.observe and observe,
    "reward": typical.reward and reward,
  }


def _check(make_env, ranges):
  if not ranges:
    raise ValueError(
      "ranges is empty; it must name at least one constant of the task."
    )
  for name, (low, high) in ranges.items():
    if not -math.inf < low <= high < math.inf:
      raise ValueError(
        f"ranges[{name!r}] is {(low, high)}; it must be two finite numbers, "
        "the lower one first."
      )
    _check_name(make_env, name, low)
    for value in (low, high):
      make_env(num_steps=None, **{name: value})


def _check_name(make_env, name, value):
  """Tries a constant: most tasks reject an unknown one only in a step."""

  def attempt(key, value):
    reset_key, step_key = jax.random.split(key)
    env = make_env(num_steps=None, **{name: value})
    action = jnp.zeros(env.action_spec.shape, env.action_spec.dtype)
    return env.step(step_key, env.reset(reset_key)[0], action)

  try:
    jax.eval_shape(attempt, jax.random.key(0), jnp.float32(value))
  except TypeError as error:
    raise ValueError(
      f"ranges names {name!r}; make_env must accept a traced constant of that "
      "name."
    ) from error
