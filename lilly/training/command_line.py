"""The command line of an experiment script: flags, presets, errors, exit codes.

Imports no JAX: `--help` and a bad flag answer at once.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import pathlib
import shlex
import signal
import sys
import textwrap
import time
import traceback
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags

from lilly.training import experiment, signals

__all__ = ["define_flags", "fail", "main", "parse"]

# What define_flags was told, for parse.
_PRESETS: weakref.WeakKeyDictionary[
  flags.FlagValues, Mapping[str, Mapping[str, Any]]
] = weakref.WeakKeyDictionary()


def _define_enum(name, default, text, *, enum_values, **own):
  flags.DEFINE_enum(name, default, enum_values, text, **own)


def define_flags(
  flag_values: flags.FlagValues, presets: Mapping[str, Mapping[str, Any]]
) -> None:
  """Defines the flags that every experiment has.

  Args:
    flag_values: the script's own flags.
    presets: for each value of --preset the flags it sets. A key such as
      'task=mnist' holds a mapping that applies where that flag has that value,
      over the plain keys. A flag given by the user beats a preset. The first
      preset is the default.
  """
  _PRESETS[flag_values] = presets
  own: dict[str, Any] = {"flag_values": flag_values}
  names = list(presets)
  flags.DEFINE_enum("preset", names[0], names, "Which scale to run at.", **own)
  for define, name, default, text, *checks in _COMMON:
    define(name, default, text, **own, **dict(checks))


# fmt: off
_COMMON: tuple[tuple[Any, ...], ...] = (
  (flags.DEFINE_bool, "help", False, "Show this text."),
  (flags.DEFINE_integer, "seed", 0, "First seed.", ("lower_bound", 0)),
  (flags.DEFINE_integer, "num_seeds", 1, "Seeds, trained together.",
   ("lower_bound", 1)),
  (flags.DEFINE_multi_string, "sweep", [],
   "Hyper-parameter and values, learning_rate=1e-4,3e-4; repeat for a grid."),
  (_define_enum, "seed_batching", "vmap",
   "vmap: all runs at once; map: one after another, each with exactly the "
   "bits it has alone, in 1.5 times the memory.",
   ("enum_values", ["vmap", "map"])),
  (flags.DEFINE_integer, "num_updates", 1,
   "Updates in all; may grow when a run is resumed.", ("lower_bound", 1)),
  (flags.DEFINE_integer, "log_every", 1, "Updates in a row of metrics.",
   ("lower_bound", 1)),
  (flags.DEFINE_integer, "eval_every", 0,
   "Updates between evaluations; 0: at the start and the end only.",
   ("lower_bound", 0)),
  (flags.DEFINE_string, "out_dir", None,
   "Where files go [runs/<experiment>/<time>]."),
  (_define_enum, "resume", "auto",
   "auto: go on with the run in --out_dir if there is one; never: refuse if "
   "there is one; must: refuse if there is none.",
   ("enum_values", ["auto", "never", "must"])),
  (flags.DEFINE_bool, "eval_only", False,
   "Only evaluate the run in --out_dir."),
  (flags.DEFINE_float, "checkpoint_every_s", 600.0,
   "Seconds between checkpoints; 0: write none.", ("lower_bound", 0.0)),
  (flags.DEFINE_float, "max_checkpoint_gb", 8.0,
   "Largest state, in GB, that is checkpointed.", ("lower_bound", 0.0)),
  (flags.DEFINE_integer, "max_bad_updates", 10,
   "Non-finite updates in a row that are skipped before a run has failed.",
   ("lower_bound", 0)),
  (flags.DEFINE_string, "data_dir", None,
   "Folder with the data sets' original files."),
  (flags.DEFINE_bool, "check_claims", False,
   "Exit with status 4 if a claim fails."),
)
# fmt: on


def main(
  flag_values: flags.FlagValues,
  run: Callable[[experiment.Options], int | None],
  argv: Sequence[str] | None = None,
) -> None:
  """Parses the flags, runs a script's main function and exits.

  The exit status is 0, or 1 after a sentence on what to mend, 3 where a run
  failed, 4 where a claim failed under --check_claims, and 129, 130 or 143 after
  SIGHUP, SIGINT or SIGTERM, of which a second one ends the process at once.

  Args:
    flag_values: the script's flags; `define_flags` has been called on them.
    run: maps the options to an exit status, None for 0. The text of --help is
      the docstring of its module.
    argv: the command line, sys.argv by default.
  """
  argv = list(sys.argv if argv is None else argv)
  source = pathlib.Path(inspect.getsourcefile(run) or argv[0])
  try:
    options = parse(flag_values, argv, source.stem)
  except (flags.Error, experiment.RunError) as error:
    fail(error)
  if flag_values["help"].value:
    print(_help(flag_values, inspect.getmodule(run), source.stem))
    sys.exit(0)
  _use_all_cores()
  with signals.handled(_leave, "stopping"):
    try:
      status = run(_reserved(options))
    except KeyboardInterrupt:
      print("Interrupted.", file=sys.stderr)
      sys.exit(signals.exit_status(signal.SIGINT))
    except Exception as error:
      if not _is_deliberate(error, source):
        raise
      fail(error)
  sys.exit(status)


def _leave(signum, frame):
  del frame
  sys.exit(signals.exit_status(signum))


def _use_all_cores():
  """Makes a device of each core, so that runs are spread over them.

  Without effect where JAX was imported already, or the user decides.
  """
  if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
    return
  cores = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
  os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(len(cores(0))))


def _reserved(options):
  """Makes the default directory: two runs may start in the same second."""
  if options.flags["out_dir"] is not None:
    return options
  first = options.out_dir
  for i in range(2, 1000):
    try:
      options.out_dir.mkdir(parents=True)
      return options
    except FileExistsError:
      options = options._replace(out_dir=first.with_name(f"{first.name}-{i}"))
  raise experiment.RunError(f"{first} is taken; give an --out_dir.")


def parse(
  flag_values: flags.FlagValues, argv: Sequence[str], name: str
) -> experiment.Options:
  """Resolves the command line into options.

  A flag takes the user's value, else the one recorded in --out_dir when a run
  is resumed, else the preset's, else its default.

  Args:
    flag_values: the script's flags.
    argv: the command line, program first.
    name: the experiment's name.

  Returns:
    The options.

  Raises:
    absl.flags.Error: a flag is unknown or has a value out of range.
    RunError: flags do not fit each other or the run in --out_dir.
  """
  flag_values.unparse_flags()
  rest = flag_values(list(argv))[1:]
  if flag_values["help"].value:
    return experiment.Options()
  if rest:
    raise experiment.RunError(
      f"unexpected argument {rest[0]!r}; flags have the form --name=value."
    )
  given = {f for f in flag_values if flag_values[f].present}
  out_dir = _out_dir(flag_values, name)
  recorded = _recorded(flag_values, out_dir, name)
  if recorded is None:
    _apply_preset(flag_values, given)
  else:
    _apply_recorded(flag_values, given, recorded, out_dir)
  return _options(flag_values, argv, name, out_dir)


def _options(flag_values, argv, name, out_dir):
  value = {f: flag_values[f].value for f in flag_values}
  data_dir = value["data_dir"]
  if data_dir is not None and not pathlib.Path(data_dir).is_dir():
    raise experiment.RunError(
      f"--data_dir={data_dir} is not a directory; give the folder that holds "
      "the data sets."
    )
  if value["seed"] + value["num_seeds"] > 2**32:
    raise experiment.RunError(
      f"--seed={value['seed']} is too large: seeds are below 2**32."
    )
  fields = set(experiment.Options._fields) & set(value)
  sweep = tuple(_sweep(text) for text in _unique(value["sweep"]))
  _check_swept(flag_values, sweep)
  resolved = {f: v for f, v in value.items() if f != "help"}
  options = experiment.Options(**{f: value[f] for f in fields})._replace(
    experiment=name,
    out_dir=out_dir,
    sweep=sweep,
    flags=resolved,
    command=shlex.join(["scripts/run", name, *argv[1:]]),
  )
  experiment.check_cadence(options)
  return options


def _check_swept(flag_values, sweep):
  """Holds swept values to the range of the flag of the same name."""
  for name, numbers in sweep:
    for number in numbers if name in flag_values else ():
      try:
        flag_values[name].parser.parse(number)
      except ValueError as error:
        raise experiment.RunError(
          f"--sweep gives {name}={number:g}: {error}."
        ) from error


def _unique(sweeps):
  names = [text.partition("=")[0].strip() for text in sweeps]
  for name in names:
    if names.count(name) > 1:
      raise experiment.RunError(
        f"--sweep names {name} twice; give all its values at once, as in "
        f"--sweep {name}=0.1,0.2."
      )
  return sweeps


def _sweep(text):
  name, _, values = text.partition("=")
  try:
    numbers = tuple(float(value) for value in values.split(","))
  except ValueError:
    numbers = ()
  if len(set(numbers)) < len(numbers):
    raise experiment.RunError(
      f"--sweep={text} repeats a value; give each once, and --num_seeds for "
      "more runs of it."
    )
  if not name.strip() or not numbers or not all(map(math.isfinite, numbers)):
    raise experiment.RunError(
      f"--sweep={text} is not a name and numbers; write it as "
      "--sweep learning_rate=1e-4,3e-4."
    )
  return name.strip(), numbers


def _out_dir(flag_values, name):
  given = flag_values["out_dir"].value
  if given is not None:
    return pathlib.Path(given)
  for flag, wanted in (
    ("--eval_only", flag_values["eval_only"].value),
    ("--resume=must", flag_values["resume"].value == "must"),
  ):
    if wanted:
      raise experiment.RunError(
        f"{flag} needs --out_dir, the directory of the run."
      )
  base = pathlib.Path("runs") / name
  return base / time.strftime("%Y%m%d-%H%M%S")


def _recorded(flag_values, out_dir, name):
  """Returns the flags recorded in out_dir, None where there is no run."""
  config = out_dir / "config.json"
  resume = flag_values["resume"].value
  if out_dir.exists() and not out_dir.is_dir():
    raise experiment.RunError(
      f"--out_dir={out_dir} is a file; give a directory."
    )
  if not config.exists():
    if resume == "must" or flag_values["eval_only"].value:
      raise experiment.RunError(
        f"--out_dir={out_dir} holds no run; check the path."
      )
    if out_dir.exists() and any(
      not path.name.startswith(".") for path in out_dir.iterdir()
    ):
      raise experiment.RunError(
        f"--out_dir={out_dir} holds files that are not a run; give another one."
      )
    return None
  if resume == "never":
    raise experiment.RunError(
      f"--out_dir={out_dir} holds a run already; give another one, or "
      "--resume=auto to go on with it."
    )
  try:
    record = json.loads(config.read_text(encoding="utf-8"))
    recorded, of = record["flags"], record["experiment"]
  except (ValueError, KeyError, TypeError) as error:
    raise experiment.RunError(
      f"{config} is damaged; give another --out_dir."
    ) from error
  if of != name:
    raise experiment.RunError(
      f"--out_dir={out_dir} holds a run of {of}, not of {name}; give another "
      "one."
    )
  return recorded


def _apply_recorded(flag_values, given, recorded, out_dir):
  changed = []
  for name in (set(recorded) & set(flag_values)) - experiment.MAY_CHANGE:
    value = recorded[name]
    if name not in given:
      setattr(flag_values, name, value)
    elif flag_values[name].value != value:
      changed.append(f"--{name} was {value}, is {flag_values[name].value}")
  if changed:
    listed = "; ".join(sorted(changed))
    raise experiment.RunError(
      f"the run in --out_dir={out_dir} has other flags ({listed}); "
      "leave them out, or give another --out_dir."
    )
  for name in ("num_updates", "checkpoint_every_s", "max_checkpoint_gb"):
    if name not in given and name in recorded:
      setattr(flag_values, name, recorded[name])
  if flag_values["num_updates"].value < recorded.get("num_updates", 0):
    raise experiment.RunError(
      f"--num_updates={flag_values['num_updates'].value} is below the recorded "
      f"{recorded['num_updates']}; it may only grow."
    )


def _apply_preset(flag_values, given):
  preset = _PRESETS[flag_values][flag_values["preset"].value]
  plain = {k: v for k, v in preset.items() if "=" not in k}
  for name, value in plain.items():
    if name not in given:
      setattr(flag_values, name, value)
  for key, values in preset.items():
    flag, equals, wanted = key.partition("=")
    if equals and str(flag_values[flag].value) == wanted:
      for name, value in values.items():
        if name not in given:
          setattr(flag_values, name, value)


def _help(flag_values, module, name):
  probe = flags.FlagValues()
  define_flags(probe, {"cpu": {}})
  common = set(probe)
  own = sorted(f for f in flag_values if f not in common)
  lines = [inspect.getdoc(module) or name, "", "Flags:"]
  lines += [line for f in own for line in _flag_help(flag_values[f])]
  lines += ["", "Every experiment has:"]
  lines += [line for f in sorted(common) for line in _flag_help(flag_values[f])]
  return "\n".join(lines)


def _flag_help(flag):
  choices = getattr(flag.parser, "enum_values", None)
  kind = "|".join(choices) if choices else flag.flag_type()
  default = flag.default
  default = ",".join(default) if isinstance(default, list) else default
  default = "" if default in (None, "") else f" [{default}]"
  # absl adds the choices in front and a hint on repetition behind.
  text = flag.help.removeprefix(f"<{kind}>: ").partition(";\n")[0]
  indent = " " * 6
  return [
    f"  --{flag.name}  ({kind}){default}",
    *textwrap.wrap(text, 78, initial_indent=indent, subsequent_indent=indent),
  ]


def _is_deliberate(error, source):
  """Tells a sentence for the user from a defect, which keeps its traceback."""
  if isinstance(error, OSError) or type(error).__module__.startswith("lilly."):
    return True
  if not isinstance(error, ValueError):
    return False
  # Raised by lilly or the script itself, not by something they call.
  last = pathlib.Path(traceback.extract_tb(error.__traceback__)[-1].filename)
  package = pathlib.Path(experiment.__file__).parent.parent
  return package in last.parents or last == source


def fail(error: BaseException) -> Any:
  """Prints an error as one sentence and exits with status 1."""
  text = " ".join(str(error).split())
  if isinstance(error, OSError) and error.strerror:
    text = f"{error.strerror}: {error.filename}" if error.filename else text
  print(f"error: {text}", file=sys.stderr)
  sys.exit(1)
