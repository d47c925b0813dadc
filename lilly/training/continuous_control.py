"""What the scripts of continuous control share: flags, tasks, checks."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from lilly.training.experiment import RunError

__all__ = [
  "HYPER",
  "SIZES",
  "check",
  "define_flags",
  "hyper",
  "pairs",
  "score",
  "task_environment",
  "tasks",
]

HYPER = ("tau", "discount", "theta", "sigma")
SIZES = ("batch_size", "capacity", "start_steps", "num_starts")
# fmt: off
_FLAGS: tuple[tuple[Any, ...], ...] = (
  (flags.DEFINE_list, "tasks", ["pendulum"],
   "What is learnt; all: what needs no engine."),
  (flags.DEFINE_float, "tau", 1e-3, "How far the slow copies go in an update.",
   ("lower_bound", 0.0), ("upper_bound", 1.0)),
  (flags.DEFINE_float, "discount", 0.99, "Of rewards, for each step.",
   ("lower_bound", 0.0), ("upper_bound", 1.0)),
  (flags.DEFINE_float, "theta", 0.15, "Noise: how fast it goes back to 0.",
   ("lower_bound", 0.0)),
  (flags.DEFINE_float, "sigma", 0.2, "Noise: its innovations.",
   ("lower_bound", 0.0)),
  (flags.DEFINE_float, "dt", 1.0, "Noise: length of a step.",
   ("lower_bound", 0.0)),
  (flags.DEFINE_float, "reward_scale", 1.0, "Factor of what is learnt from."),
  (flags.DEFINE_bool, "keep_truncated", True,
   "Remember steps that the clock ended."),
  (flags.DEFINE_integer, "action_repeat", 0, "How often; 0: by the task.",
   ("lower_bound", 0)),
  (flags.DEFINE_integer, "batch_size", 64, "Transitions in an update.",
   ("lower_bound", 1)),
  (flags.DEFINE_integer, "capacity", 1_000_000,
   "Transitions kept for replay.", ("lower_bound", 1)),
  (flags.DEFINE_integer, "start_steps", 1000,
   "Random steps before the first update.", ("lower_bound", 1)),
  (flags.DEFINE_integer, "num_starts", 50, "Episodes of an evaluation.",
   ("lower_bound", 1)),
)
# fmt: on


def define_flags(
  flag_values: flags.FlagValues,
  *,
  hidden_sizes: Sequence[str],
  variants: Sequence[str],
) -> None:
  """Defines the flags of tasks, networks, noise, replay and evaluation.

  Args:
    flag_values: the script's own flags.
    hidden_sizes: default of that flag.
    variants: those there are; the first is the default.
  """
  own: dict[str, Any] = {"flag_values": flag_values}
  flags.DEFINE_list(
    "variants", [variants[0]], f"To compare: {', '.join(variants)}.", **own
  )
  flags.DEFINE_list(
    "hidden_sizes", list(hidden_sizes), "Units of each layer.", **own
  )
  for define, name, default, text, *bounds in _FLAGS:
    define(name, default, text, **own, **dict(bounds))


def hyper(
  flag_values: flags.FlagValues, names: Sequence[str] = ()
) -> dict[str, float]:
  """Gives the floats that a sweep may name.

  Args:
    flag_values: the script's, parsed.
    names: of flags, beside HYPER.

  Returns:
    Name -> value.
  """
  given: dict[str, Any] = flag_values.flag_values_dict()
  return {name: given[name] for name in (*names, *HYPER)}


def tasks(flag_values: flags.FlagValues) -> list[str]:
  """Names the tasks.

  Args:
    flag_values: the script's, parsed.

  Returns:
    Their names; all that need no engine, for "all".
  """
  # Here and below: scripts parse their flags before JAX is imported.
  from lilly.envs import catalog

  names: list[str] = flag_values.flag_values_dict()["tasks"]
  return catalog.names() if names == ["all"] else names


def pairs(flag_values: flags.FlagValues) -> dict[str, tuple[str, str]]:
  """Pairs tasks and variants.

  Args:
    flag_values: the script's, parsed.

  Returns:
    Name of what is run -> its task and its variant; the name is the task's
    where there is one variant.
  """
  variants: list[str] = flag_values.flag_values_dict()["variants"]
  found = {}
  for task, variant in itertools.product(tasks(flag_values), variants):
    own = [variant] if len(variants) > 1 else []
    found["_".join([re.sub("[/:]", "_", task), *own])] = (task, variant)
  return found


def check(
  flag_values: flags.FlagValues,
  variants: Sequence[str],
  wrong: Mapping[str, Any],
  *,
  rates: Sequence[str] = (),
  least_layers: int = 1,
) -> None:
  """Refuses flags that do not fit, before anything is compiled.

  Args:
    flag_values: the script's, parsed.
    variants: those there are.
    wrong: the script's own sentences, and whether each is true.
    rates: flags whose numbers must be finite, beside HYPER.
    least_layers: how many hidden layers there must be.

  Raises:
    RunError: with the first sentence that is true.
  """
  given: dict[str, Any] = flag_values.flag_values_dict()
  chosen, names = given["variants"], tasks(flag_values)
  sizes = given["hidden_sizes"]
  shown = f"--variants={','.join(chosen)} --tasks={','.join(given['tasks'])}"
  numbers = [given[x] for x in (*HYPER, *rates, "dt", "reward_scale")]
  general = {
    f"{shown} names no experiment; variants are {', '.join(variants)}.": (
      not chosen or not names or set(chosen) - set(variants)
    ),
    f"{shown} names something twice; name it once.": (
      len({*chosen}) < len(chosen) or len({*names}) < len(names)
    ),
    f"--capacity={given['capacity']} is less than --batch_size="
    f"{given['batch_size']}; keep at least a batch for replay.": (
      given["capacity"] < given["batch_size"]
    ),
    "hyper-parameters, --dt and --reward_scale must be finite numbers, "
    "--reward_scale not 0.": not all(map(math.isfinite, numbers))
    or not given["reward_scale"],
    f"--dt={given['dt']} must be positive, and times --theta={given['theta']} "
    "less than 2, or the noise grows without end.": (
      not given["dt"] > 0 or not given["theta"] * given["dt"] < 2
    ),
    f"--hidden_sizes={','.join(sizes)} must be {least_layers} or more positive "
    "integers, such as 400,300.": len(sizes) < least_layers
    or not all(size.isdecimal() and int(size) for size in sizes),
  }
  for sentence, is_wrong in (general | dict(wrong)).items():
    if is_wrong:
      raise RunError(sentence)


def task_environment(task: str, repeats: int = 0, **options: Any) -> Any:
  """Makes a task with actions in [-1, 1].

  Args:
    task: its name.
    repeats: of each action; 0: as often as the task is used to.
    **options: of the task.

  Returns:
    The environment.

  Raises:
    RunError: there is no such task, or it has no such option.
  """
  from lilly.envs import catalog, wrappers

  try:
    env = wrappers.normalize_actions(catalog.make(task, **options))
  except (ValueError, ImportError) as error:
    raise RunError(f"--tasks={task}: {error}") from error
  return wrappers.action_repeat(env, repeats or catalog.REPEATS.get(task, 1))


def score(task: str, total: Any) -> dict[str, Any]:
  """Rates a mean return: random is 0, the best known 1.

  Args:
    task: its name.
    total: the mean return.

  Returns:
    Metrics: return, and score where the task's scale is known.
  """
  from lilly.envs import catalog

  if task not in catalog.SCORES:
    return {"return": total}
  worst, best = catalog.SCORES[task]
  return {"return": total, "score": (total - worst) / (best - worst)}
