"""Environments by name, for command-line flags."""

import difflib
import functools
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax

from lilly.envs import (
  brax_environments,
  cartpole,
  catch,
  cue_recall,
  mountain_car,
  partial_observation,
  pendulum,
  playground_environments,
  point_mass,
  randomized,
  reacher,
  water_maze,
  wrappers,
)
from lilly.envs.environment import Environment

__all__ = [
  "REPEATS",
  "SCORES",
  "discrete",
  "list_tasks",
  "make",
  "make_normalized",
  "name_pairs",
  "names",
  "partially_observed",
  "score",
]


def _pendulum_angle(**options: Any) -> Environment:
  """Makes the pendulum without velocity observations."""
  return partial_observation.select(pendulum.make(**options), [0, 1])


def _cartpole_hidden(
  *,
  length: tuple[float, float] = (0.3, 0.9),
  num_steps: int | None = 1000,
  **options: Any,
) -> Environment:
  """Makes swing-up of a pole of hidden length, without velocities."""
  make_env = functools.partial(cartpole.make, **options)
  env = randomized.make(make_env, {"length": length}, num_steps=num_steps)
  return partial_observation.select(env, [0, 1, 2])


def _reacher_cue(
  *, num_cue_steps: int = 1, num_steps: int | None = 1000, **options: Any
) -> Environment:
  """Makes the reacher whose target is shown only initially."""
  env = reacher.make(num_steps=None, **options)
  (n,) = env.action_spec.shape
  # Cosines and sines, then the vector to the target, which alone reveals it.
  target = [2 * n, 2 * n + 1]
  env = partial_observation.cue_only(env, target, num_cue_steps)
  return wrappers.time_limit(env, num_steps)


_TASKS: dict[str, Callable[..., Environment]] = {
  "pendulum": pendulum.make,
  "cartpole_swingup": functools.partial(cartpole.make, swing_up=True),
  "cartpole_balance": functools.partial(cartpole.make, swing_up=False),
  "reacher": reacher.make,
  "reacher_fixed": functools.partial(reacher.make, target=(0.12, 0.08)),
  "point_mass": point_mass.make,
  "mountain_car": mountain_car.make,
}
# Kept apart: `names()` are the fully observed tasks above.
_PARTIALLY_OBSERVED: dict[str, Callable[..., Environment]] = {
  "pendulum_angle": _pendulum_angle,
  "cartpole_hidden": _cartpole_hidden,
  "reacher_cue": _reacher_cue,
  "cue_recall": cue_recall.make,
  "water_maze": water_maze.make,
  "water_maze_fast": functools.partial(
    water_maze.make, speed=0.2, num_steps=100
  ),
}
# Their actions are choices.
_DISCRETE: dict[str, Callable[..., Environment]] = {
  "catch": catch.make,
  "sticky_catch": functools.partial(catch.make, persistence=50),
}
_SIMULATORS: dict[str, Callable[..., Environment]] = {
  "brax": brax_environments.make,
  "playground": playground_environments.make,
}

# Mean returns of a random policy (1,000 episodes) and of the best policy found
# in any run; the reacher's best is a planner's (`planning.best_return`).
SCORES = {
  "pendulum": (-1208.0, -142.0),
  "cartpole_swingup": (86.0, 880.0),
  "cartpole_balance": (292.0, 998.0),
  "reacher": (486.0, 993.0),
  "reacher_fixed": (455.0, 994.0),
  "point_mass": (5.0, 896.0),
  "mountain_car": (-33.0, 94.0),
  "catch": (-0.6, 1.0),
  "sticky_catch": (-0.6, 1.0),
}
# Times each action is repeated, for about 25 actions per second. SCORES are
# measured with these repeats.
REPEATS = {
  "cartpole_swingup": 4,
  "cartpole_balance": 4,
  "reacher": 2,
  "reacher_fixed": 2,
  "point_mass": 2,
  "cartpole_hidden": 4,
  "reacher_cue": 2,
}


def names() -> list[str]:
  """Lists the fully observed tasks that need no external simulator.

  Returns:
    Their names.

  >>> "pendulum" in names()
  True
  """
  return list(_TASKS)


def partially_observed() -> list[str]:
  """Lists the tasks that require memory and need no external simulator.

  pendulum_angle: the velocity is not observed. cartpole_hidden: swing-up of a
  pole whose length is drawn at each reset from the range `length`; velocities
  are not observed. reacher_cue: only the first `num_cue_steps` observations
  show the target. cue_recall and water_maze: see their modules.
  water_maze_fast: twice the speed and half the time limit.

  Returns:
    Their names.

  >>> "water_maze" in partially_observed()
  True
  """
  return list(_PARTIALLY_OBSERVED)


def discrete() -> list[str]:
  """Lists the tasks with discrete actions.

  sticky_catch: catch whose ball falls in the same column for 50 episodes, on
  average.

  Returns:
    Their names.

  >>> "catch" in discrete()
  True
  """
  return list(_DISCRETE)


def make(name: str, **options: Any) -> Environment:
  """Makes an environment.

  Args:
    name: one of `names()`, `partially_observed()` or `discrete()`, or a
      simulator's name prefixed with the simulator: "brax/reacher",
      "playground/CartpoleSwingup". A suffix selects a brax backend other than
      spring: "brax/inverted_pendulum:generalized".
    **options: keyword arguments of that task's `make`.

  Returns:
    The environment, with its default time limit.

  Raises:
    ImportError: the simulator is not installed.
    ValueError: there is no such environment, or an option is invalid.

  >>> make("pendulum").action_spec.shape
  (1,)
  """
  simulator, _, task = name.rpartition("/")
  task, _, backend = task.partition(":")
  if simulator in _SIMULATORS:
    if backend:
      options = {"backend": backend} | options
    return _SIMULATORS[simulator](task, **options)
  tasks = _TASKS | _PARTIALLY_OBSERVED | _DISCRETE
  if name not in tasks:
    near = difflib.get_close_matches(name, tasks, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(
      f"name is {name!r}; {hint}Known: {', '.join(tasks)}, and simulators' "
      "environments: brax/..., playground/..."
    )
  return tasks[name](**options)


def make_normalized(name: str, repeats: int = 0, **options: Any) -> Environment:
  """Makes an environment with repeated actions, in [-1, 1] if continuous.

  Args:
    name: as in `make`.
    repeats: times each action is repeated; 0: the task's default, in REPEATS.
    **options: as in `make`.

  Returns:
    The environment.

  Raises:
    ImportError: the simulator is not installed.
    ValueError: there is no such environment, or an option is invalid.

  >>> make_normalized("pendulum").action_spec.maximum.tolist()
  [1.0]
  """
  env = make(name, **options)
  if env.action_spec.num_values is None:
    env = wrappers.normalize_actions(env)
  return wrappers.action_repeat(env, repeats or REPEATS.get(name, 1))


def list_tasks(tasks: Sequence[str]) -> list[str]:
  """Lists task names, where "all" alone stands for `names()`.

  Args:
    tasks: names of tasks.

  Returns:
    The names.

  >>> list_tasks(["all"]) == names(), list_tasks(["reacher"])
  (True, ['reacher'])
  """
  return names() if list(tasks) == ["all"] else list(tasks)


def name_pairs(
  tasks: Sequence[str], variants: Sequence[str]
) -> dict[str, tuple[str, str]]:
  """Names every pair of a task and a variant.

  Args:
    tasks: as in `list_tasks`.
    variants: names of learners.

  Returns:
    Name -> task and variant; the name omits the variant if there is only one.

  >>> name_pairs(["brax/ant:positional"], ["ddpg"])
  {'brax_ant_positional': ('brax/ant:positional', 'ddpg')}
  >>> list(name_pairs(["pendulum"], ["naf", "ddpg"]))
  ['pendulum_naf', 'pendulum_ddpg']
  """
  found = {}
  for task, variant in itertools.product(list_tasks(tasks), variants):
    name = re.sub("[/:]", "_", task)
    if len(variants) > 1:
      name = f"{name}_{variant}"
    found[name] = (task, variant)
  return found


def score(
  name: str, mean_return: float | jax.Array
) -> dict[str, float | jax.Array]:
  """Normalises a mean return: 0 for a random policy, 1 for the best known.

  Args:
    name: name of the task, as in `make`.
    mean_return: mean return of its episodes, [].

  Returns:
    Metrics: return, and score if the task is in SCORES.

  >>> score("pendulum", -1208.0)
  {'return': -1208.0, 'score': 0.0}
  """
  if name not in SCORES:
    return {"return": mean_return}
  worst, best = SCORES[name]
  return {
    "return": mean_return,
    "score": (mean_return - worst) / (best - worst),
  }
