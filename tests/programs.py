"""Walks over the programs of every experiment script: lowered, not compiled.

Tasks and variants are read from the scripts' settings, so that new ones are
walked over too.
"""

import importlib
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from lilly import training
from lilly.envs import catalog
from lilly.training import compilation, settings
from tests import running

__all__ = ["Walk", "experiments", "lowered", "walks"]

_FOLDER = pathlib.Path(__file__).parents[1] / "experiments"
# Tasks whose data come from files, or from a network.
_NEED_FILES = frozenset(
  {"babi", "cifar10", "cifar10_small", "fashion_mnist", "mnist", "omniglot"}
)
# Flags beside task and variant that lead to other programs.
_MORE = {
  "ddpg": (("--pixels",), ("--tasks=brax/inverted_pendulum",)),
  "neural_bloom_filter": (("--sphere",), ("--data=digits",)),
  "recurrent_policy_gradients": (("--core=sdnc",), ("--core=dnc",)),
  "sparse_access_memory": (("--search=lsh",), ("--curriculum",)),
}


class Walk(NamedTuple):
  """A command of a script."""

  script: str
  flags: tuple[str, ...]
  # why it cannot be walked here; empty if it can
  reason: str = ""
  # what the script does without flags
  is_default: bool = False

  def __str__(self) -> str:
    return " ".join([self.script, *self.flags])


def walks() -> Iterator[Walk]:
  """Yields each script's default, its tasks, and what has other programs."""
  for name in sorted(path.stem for path in _FOLDER.glob("[a-z]*.py")):
    script = _script(name)
    flag, tasks = _tasks(script)
    yield Walk(name, (), is_default=True)
    for task in tasks:
      reason = "its data are files" if task in _NEED_FILES else ""
      if task == "scaling":
        reason = "it is measured on the host, not compiled by the driver"
      yield Walk(name, (f"--{flag}={task}",), reason)
    yield Walk(name, ("--preset=smoke",))
    for flags in _MORE.get(name, ()):
      yield Walk(name, flags)
    for reproduction in script.SCRIPT.reproductions.values():
      flags = reproduction.command
      needs_files = _NEED_FILES & {f.partition("=")[2] for f in flags}
      is_scaling = "--task=scaling" in flags
      reason = "its data are files" if needs_files else ""
      reason = "it is measured on the host" if is_scaling else reason
      yield Walk(name, tuple(flags), reason)


def experiments(
  walk: Walk,
) -> Iterator[tuple[str, training.Experiment, training.Options]]:
  """Makes what a command would train.

  A command that names no variants is walked over with all that fit, but for the
  default one.

  Args:
    walk: the command.

  Yields:
    Variant, experiment and options.

  Raises:
    RunError: no variant fits.
  """
  script = _script(walk.script)
  # Two runs on each of two devices, as most users have it.
  flags = walk.flags
  if not any(flag.startswith("--num_seeds=") for flag in flags):
    flags = ("--num_seeds=4", *flags)
  flag, names = _variants(script)
  if walk.is_default or any(f.startswith(f"--{flag}=") for f in flags):
    yield from _make(script, flags)
    return
  try:
    yield from _make(script, (*flags, f"--{flag}={','.join(names)}"))
  except training.RunError as error:  # some do not fit this task
    refusal, count = error, 0
    for name in names:
      try:
        yield from _make(script, (*flags, f"--{flag}={name}"))
        count += 1
      except training.RunError as error:
        refusal = error
    if not count:
      raise refusal from None


def lowered(walk: Walk) -> Iterator[tuple[str, str, jax.stages.Lowered]]:
  """Lowers the programs of a command.

  Args:
    walk: the command.

  Yields:
    Variant, function (init, update or evaluate), and what is lowered of it.
  """
  for variant, experiment, options in experiments(walk):
    for name, program in compilation.lowered(experiment, options).items():
      yield variant, name, program


def _script(name) -> Any:
  return importlib.import_module(f"experiments.{name}")


def _make(script, flags):
  settings, options = running.parse(script, *flags)
  # All at once: where one is refused, nothing has been walked over.
  found = script.SCRIPT.make_experiments(settings, options)
  for variant, experiment in found.items():
    yield variant, experiment, options


def _tasks(script):
  """Gives the flag of a script's tasks, and all of them."""
  parsers = settings.parsers(script.SCRIPT.settings)
  if "tasks" in parsers:
    return "tasks", catalog.names()
  choices = getattr(parsers["task"], "choices", None)
  return "task", choices or catalog.partially_observed()


def _variants(script):
  """Gives the flag of a script's variants, and all of them."""
  if "cores" in script.Settings._fields:
    return "cores", script.CORES
  parsers = settings.parsers(script.SCRIPT.settings)
  flag = next(name for name in ("rules", "variants") if name in parsers)
  return flag, parsers[flag].each.choices
