"""Tasks whose constants differ from episode to episode, and are not told.

What an episode's constants are shows only in how the world answers to actions:
to act well is to identify the system first.
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
  """A state of the task, and the constants that hold in its episode."""

  constants: dict[str, jax.Array]  # [] float32 each
  state: Any


def make(
  make_env: Callable[..., Environment],
  ranges: Mapping[str, tuple[float, float]],
  *,
  num_steps: int | None,
) -> Environment:
  """Makes a task whose constants are drawn uniformly at each reset.

  Specs and pictures are those of the task in the middle of the ranges.

  Args:
    make_env: a task's `make`, that takes constants as keyword arguments and
      num_steps=None for no limit.
    ranges: lowest and highest value of each constant, by its name. Constants
      that shape the task before it runs, such as a number of links or a bound
      of its specs, cannot be drawn.
    num_steps: of an episode; None: it never ends.

  Returns:
    The environment; inside of its time limit its states are `State`.

  Raises:
    ValueError: ranges is empty, a range is out of order, make_env does not take
      a constant of that name, or num_steps is not positive.

  Reference:
    Heess et al., 2015 (arXiv 1512.04455): a pole of a length that varies.

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
  # The order in which a caller names them makes no difference.
  names = sorted(ranges)
  low, high = jnp.array([ranges[name] for name in names], jnp.float32).T
  drawn = jax.random.uniform(key, low.shape, jnp.float32, low, high)
  return dict(zip(names, drawn, strict=True))


def _of_states(task, typical):
  """The functions of states that the task has, with their own constants."""

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


def _check_name(make_env, name, value):
  """Tries a constant: most tasks hand it on, and refuse it only in a step."""

  def attempt(key, value):
    reset_key, step_key = jax.random.split(key)
    env = make_env(num_steps=None, **{name: value})
    action = jnp.zeros(env.action_spec.shape, env.action_spec.dtype)
    return env.step(step_key, env.reset(reset_key)[0], action)

  try:
    jax.eval_shape(attempt, jax.random.key(0), jnp.float32(value))
  except TypeError as error:
    raise ValueError(
      f"ranges names {name!r}; make_env must take a constant of that name that "
      "may differ between episodes."
    ) from error
