"""Environments by name, for the flags of experiments."""

import difflib
import functools
from collections.abc import Callable
from typing import Any

from lilly.envs import (
  brax_environments,
  cartpole,
  mountain_car,
  pendulum,
  playground_environments,
  point_mass,
  reacher,
)
from lilly.envs.environment import Environment

__all__ = ["REPEATS", "SCORES", "make", "names"]

_TASKS: dict[str, Callable[..., Environment]] = {
  "pendulum": pendulum.make,
  "cartpole_swingup": functools.partial(cartpole.make, swing_up=True),
  "cartpole_balance": functools.partial(cartpole.make, swing_up=False),
  "reacher": reacher.make,
  "reacher_fixed": functools.partial(reacher.make, target=(0.12, 0.08)),
  "point_mass": point_mass.make,
  "mountain_car": mountain_car.make,
}
_SIMULATORS: dict[str, Callable[..., Environment]] = {
  "brax": brax_environments.make,
  "playground": playground_environments.make,
}

# Mean returns of a random policy (1,000 episodes), and of the best policy that
# any run has found; the reacher's is a planner's (`planning.best_return`).
SCORES = {
  "pendulum": (-1208.0, -142.0),
  "cartpole_swingup": (86.0, 880.0),
  "cartpole_balance": (292.0, 998.0),
  "reacher": (486.0, 993.0),
  "reacher_fixed": (455.0, 994.0),
  "point_mass": (5.0, 896.0),
  "mountain_car": (-33.0, 94.0),
}
# How often an action is repeated, for about 25 actions in a second; SCORES are
# of tasks so repeated.
REPEATS = {
  "cartpole_swingup": 4,
  "cartpole_balance": 4,
  "reacher": 2,
  "reacher_fixed": 2,
  "point_mass": 2,
}


def names() -> list[str]:
  """Lists the tasks that need no simulator.

  Returns:
    Their names.

  >>> "pendulum" in names()
  True
  """
  return list(_TASKS)


def make(name: str, **options: Any) -> Environment:
  """Makes an environment.

  Args:
    name: one of `names()`, or a simulator's with the simulator in front:
      "brax/reacher", "playground/CartpoleSwingup"; of brax with its backend
      behind, if not spring: "brax/inverted_pendulum:generalized".
    **options: keyword arguments of that task's `make`.

  Returns:
    The environment, with its usual time limit.

  Raises:
    ImportError: the simulator is not installed.
    ValueError: there is no such environment, or an option is refused.

  >>> make("pendulum").action_spec.shape
  (1,)
  """
  simulator, _, task = name.rpartition("/")
  task, _, backend = task.partition(":")
  if simulator in _SIMULATORS:
    if backend:
      options = {"backend": backend} | options
    return _SIMULATORS[simulator](task, **options)
  if name not in _TASKS:
    near = difflib.get_close_matches(name, _TASKS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(
      f"name is {name!r}; {hint}Known: {', '.join(_TASKS)}, and with a "
      "simulator in front: brax/..., playground/..."
    )
  return _TASKS[name](**options)
