"""The command line of an experiment script: flags, presets, errors, exit codes.

Imports no JAX, so that `--help` and errors in flags are immediate.
"""

from __future__ import annotations

import contextlib
import math
import os
import pathlib
import re
import shlex
import signal
import sys
import textwrap
import time
import traceback
from collections.abc import Sequence
from typing import Any

from absl import flags

from lilly.training import (
  experiment,
  messages,
  reproduction,
  resuming,
  signals,
  terminal,
)
from lilly.training import script as script_lib
from lilly.training import settings as settings_lib

__all__ = ["main", "parse"]


def main(script: script_lib.Script, argv: Sequence[str] | None = None) -> None:
  """Runs an experiment script and exits.

  The exit status is 0 for success, 1 for bad flags or files (a one-line
  message), 3 if a run failed, 4 if a claim failed under --check_claims, and
  129, 130 or 143 after SIGHUP, SIGINT or SIGTERM; a second signal ends the
  process at once.

  Args:
    script: settings, presets, experiments, figures and reproductions.
    argv: the command line, sys.argv by default.
  """
  terminal.secure()
  argv = list(sys.argv if argv is None else argv)
  try:
    probe = _parse_flags(script, argv)
    if probe["help"].value:
      messages.show(_help(script, probe))
      sys.exit(0)
    settings, options = _resolve(script, probe, argv)
    _use_all_cores()
  except (flags.Error, experiment.RunError) as error:
    messages.fail(error)
  with signals.handled(_leave, "stopping"):
    try:
      with _reserved(options) as options:
        status = _run(script, settings, options)
    except KeyboardInterrupt:
      terminal.tell("Interrupted.", sys.stderr)
      sys.exit(signals.exit_status(signal.SIGINT))
    except Exception as error:
      if not _is_deliberate(error, script.path):
        _fail_for_memory(error, options)
        raise
      messages.fail(error)
  sys.exit(status)


def _leave(signum, frame):
  del frame
  sys.exit(signals.exit_status(signum))


def _fail_for_memory(error, options):
  """Exits with one sentence if an error is a lack of memory."""
  from lilly.training import memory

  sentence = memory.explain(error, options)
  if sentence is not None:
    messages.fail(experiment.RunError(sentence))


def _run(script, settings, options):
  """Trains, checks claims and plots; returns the exit status."""
  from lilly.training import driver, memory, platforms

  memory.check_start()
  platforms.start()
  experiments = script.make_experiments(settings, options)
  metric = script.key_metric
  if metric is not None and not isinstance(metric, str):
    metric = metric(settings)
  results = driver.run(experiments, options, key_metric=metric)
  draw = None
  if script.draw is not None:
    draw = lambda results, out_dir: _draw(script, settings, results, out_dir)
  statements = reproduction.state(script, options.flags)
  return driver.finish(results, statements, draw)


def _draw(script, settings, results, out_dir):
  """Draws the figures; compiled, also where updates are debugged."""
  import jax

  with jax.disable_jit(False):
    script.draw(settings, results, out_dir)


def parse(
  script: script_lib.Script, argv: Sequence[str]
) -> tuple[Any, experiment.Options]:
  """Resolves a command line into settings and options.

  A flag takes the user's value, else, in a resumed run, the one recorded in
  --out_dir, else the preset's, else its default.

  Args:
    script: script that defines the flags.
    argv: the command line, program first.

  Returns:
    The settings, and the driver's options.

  Raises:
    absl.flags.Error: a flag is unknown or has a value out of range.
    RunError: flags do not fit each other or the run in --out_dir, or that
      cannot be read.
  """
  return _resolve(script, _parse_flags(script, argv), argv)


def _parse_flags(script, argv):
  """Parses the command line without applying presets."""
  flag_values = flags.FlagValues()
  presets = list(script.presets)
  flags.DEFINE_enum(
    "preset",
    presets[0],
    presets,
    "Size of the experiment: smoke (seconds), cpu (minutes on 2 cores), gpu "
    "(minutes on one accelerator), paper (the published settings).",
    flag_values=flag_values,
  )
  flags.DEFINE_bool(
    "help",
    False,
    "Show this text, with the values of the preset and task given.",
    flag_values=flag_values,
  )
  settings_lib.define(flag_values, script_lib.Common)
  settings_lib.define(flag_values, script.settings)
  try:
    rest = flag_values(list(argv))[1:]
  except UnicodeDecodeError as error:
    raise experiment.RunError(f"--flagfile is not text: {error}.") from error
  if rest and not flag_values["help"].value:
    raise experiment.RunError(
      f"unexpected argument {rest[0]!r}; flags have the form --name=value."
    )
  return flag_values


def _given(script, flag_values):
  """Returns the parsed values of the flags on the command line."""
  known = script_lib.parsers(script)
  return {
    name: known[name].parse(flag_values[name].value)
    for name in known
    if flag_values[name].present
  }


def _resolve(script, flag_values, argv):
  given = _given(script, flag_values)
  out_dir = _out_dir(script, given)
  try:
    recorded = resuming.read_flags(script, out_dir, given)
  except OSError as error:
    raise experiment.RunError(
      f"--out_dir={out_dir} cannot be used: {error.strerror}; give another one."
    ) from error
  if recorded is None:
    preset = flag_values["preset"].value
    row = script_lib.resolve(script, preset, given)
  else:
    asked = flag_values["preset"].value
    preset = recorded.get("preset", asked)
    changed = []
    if flag_values["preset"].present and asked != preset:
      changed = [f"--preset was {preset}, is {asked}"]
    row = resuming.resolve(script, preset, recorded, given, out_dir, changed)
  settings = script.settings(**{k: row[k] for k in script.settings._fields})
  try:
    options = _options(script, preset, row, out_dir, argv)
    if script.check is not None:
      script.check(settings)
  except experiment.RunError as error:
    if recorded is None:
      raise
    config = out_dir / "config.json"
    raise experiment.RunError(f"with the flags of {config}: {error}") from error
  return settings, options


def _options(script, preset, row, out_dir, argv):
  _check_data_dir(row["data_dir"])
  if row["seed"] + row["num_seeds"] > 2**32:
    raise experiment.RunError(
      f"--seed={row['seed']} is too large: seeds are below 2**32."
    )
  sweep = tuple(_sweep(text) for text in _unique(row["sweep"]))
  _check_swept(script, sweep)
  fields = set(experiment.Options._fields) & set(row)
  options = experiment.Options(**{name: row[name] for name in fields})._replace(
    experiment=script.name,
    preset=preset,
    out_dir=out_dir,
    sweep=sweep,
    flags={"preset": preset, **row},
    settings=script.settings._fields,
    command=shlex.join(["scripts/run", script.name, *argv[1:]]),
  )
  experiment.check_cadence(options)
  return options


def _check_data_dir(data_dir):
  try:
    if data_dir is None or pathlib.Path(data_dir).is_dir():
      return
    reason = "is not a directory"
  except OSError as error:
    reason = f"cannot be read: {error.strerror}"
  raise experiment.RunError(
    f"--data_dir={data_dir} {reason}; give --data_dir, the directory with the "
    "data sets."
  )


def _check_swept(script, sweep):
  """Checks swept values against the range of the setting of that name.

  A name that is no float setting is refused later, by the experiments, which
  know their hyper-parameters.
  """
  known = settings_lib.parsers(script.settings)
  for name, numbers in sweep:
    is_float = name in known and settings_lib.is_float(known[name])
    for number in numbers if is_float else ():
      try:
        known[name].parse(number)
      except ValueError as error:
        raise experiment.RunError(
          f"--sweep gives {name}={number:g}: it {error}."
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


def _out_dir(script, given):
  if given.get("out_dir") is not None:
    return pathlib.Path(given["out_dir"])
  for flag, wanted in (
    ("--eval_only", given.get("eval_only")),
    ("--resume=must", given.get("resume") == "must"),
  ):
    if wanted:
      raise experiment.RunError(
        f"{flag} needs --out_dir, the directory of the run."
      )
  base = pathlib.Path("runs") / script.name
  return base / time.strftime("%Y%m%d-%H%M%S")


@contextlib.contextmanager
def _reserved(options):
  """Makes the default directory, unique if two runs start in one second.

  It is removed again if nothing was written into it.
  """
  if options.flags["out_dir"] is not None:
    yield options
    return
  above = [path for path in options.out_dir.parents if not path.exists()]
  options = options._replace(out_dir=_make_unique(options.out_dir))
  try:
    yield options
  finally:
    with contextlib.suppress(OSError):  # it is not empty
      for directory in (options.out_dir, *above):
        directory.rmdir()


def _make_unique(first):
  directory = first
  for i in range(2, 1000):
    try:
      directory.mkdir(parents=True)
      return directory
    except FileExistsError:
      directory = first.with_name(f"{first.name}-{i}")
  raise experiment.RunError(f"{first} already exists; give an --out_dir.")


def _use_all_cores():
  """Makes one CPU device per core, so that runs are spread over the cores.

  Has no effect if JAX is already imported, or the user sets the number.
  """
  given = os.environ.get("JAX_NUM_CPU_DEVICES")
  if given is not None and not re.fullmatch("[1-9][0-9]{0,3}", given):
    raise experiment.RunError(
      f"JAX_NUM_CPU_DEVICES={given} must be a positive whole number; leave it "
      "out for one device per core."
    )
  if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
    return
  cores = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
  os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(len(cores(0))))


def _help(script, flag_values):
  """Writes the docstring, the current value of each flag, and the presets."""
  preset = flag_values["preset"].value
  row = script_lib.resolve(script, preset, _given(script, flag_values))
  shown = script_lib.describe(script, row)
  lines = [script.text, "", f"Flags [with --preset={preset}]:"]
  for name in script.settings._fields:
    lines += _flag_help(flag_values[name], shown[name])
  lines += ["", "Flags of every experiment:"]
  common = {"preset": preset, "help": "", **shown}
  for name in ("help", "preset", *script_lib.Common._fields):
    lines += _flag_help(flag_values[name], common[name])
  lines += ["", "Presets:"]
  for name, values in script.presets.items():
    lines += _preset_help(script, name, values)
  return "\n".join(lines)


def _flag_help(flag, value):
  choices = getattr(flag.parser, "enum_values", None)
  kind = "|".join(choices) if choices else flag.flag_type()
  kind = kind.removeprefix("multi ")
  value = f" [{value}]" if value not in ("", "none") else ""
  # absl puts choices before a help text and a hint on repetition after it.
  text = flag.help.removeprefix(f"<{kind}>: ").partition(";\n")[0]
  return [f"  --{flag.name}  ({kind}){value}", *_wrapped(text, 6)]


def _preset_help(script, name, values):
  known = script_lib.parsers(script)

  def written(values):
    each = [
      f"{k}={known[k].show(known[k].parse(v))}" for k, v in values.items()
    ]
    return " ".join(each) or "nothing: the defaults"

  plain = {k: v for k, v in values.items() if "=" not in k}
  lines = _wrapped(f"--preset={name}: {written(plain)}", 2, 6)
  for key, own in values.items():
    if "=" in key:
      lines += _wrapped(f"with --{key}: {written(own)}", 4, 6)
  return lines


def _wrapped(text, indent, further=None):
  return textwrap.wrap(
    text,
    78,
    initial_indent=" " * indent,
    subsequent_indent=" " * (indent if further is None else further),
    break_long_words=False,
    break_on_hyphens=False,
  )


def _is_deliberate(error, source):
  """Whether an error is a message for the user; bugs keep their traceback."""
  if isinstance(error, OSError) or type(error).__module__.startswith("lilly."):
    return True
  if not isinstance(error, ValueError):
    return False
  # Raised by lilly or the script itself, not by a library they call.
  last = pathlib.Path(traceback.extract_tb(error.__traceback__)[-1].filename)
  package = pathlib.Path(experiment.__file__).parent.parent
  return package in last.parents or last == source
