"""The recorded flags of a run that is resumed.

What is recorded is held to the types and ranges of what is typed. Imports no
JAX.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from lilly.training import experiment
from lilly.training import script as script_lib

__all__ = ["read_flags", "resolve"]

# A resumed run keeps the recorded values of these, unless they are given again.
_KEPT = ("num_updates", "checkpoint_every_s", "max_checkpoint_gb", "data_dir")
# What config.json must hold, and what it may.
_FORM = {"flags": dict, "experiment": str}
_FORM_IF_PRESENT = {"command": str, "resumed_on": list}


def read_flags(
  script: script_lib.Script, out_dir: pathlib.Path, given: Mapping[str, Any]
) -> dict[str, Any] | None:
  """Reads the flags recorded in out_dir.

  Args:
    script: script whose run it should be.
    out_dir: directory of the run.
    given: parsed flags of the command line.

  Returns:
    The flags as in config.json; None if out_dir is absent or empty.

  Raises:
    OSError: out_dir cannot be read.
    RunError: it is not the directory of a run that these flags may resume.
  """
  config = out_dir / "config.json"
  resume, eval_only = given.get("resume", "auto"), given.get("eval_only", False)
  if out_dir.exists() and not out_dir.is_dir():
    raise experiment.RunError(
      f"--out_dir={out_dir} is a file; give a directory."
    )
  if not config.exists():
    if resume == "must" or eval_only:
      raise experiment.RunError(
        f"--out_dir={out_dir} holds no run; check the path."
      )
    if out_dir.exists() and any(
      not path.name.startswith(".") for path in out_dir.iterdir()
    ):
      raise experiment.RunError(
        f"--out_dir={out_dir} holds files that are not a run; give another."
      )
    return None
  if resume == "never":
    raise experiment.RunError(
      f"--out_dir={out_dir} already holds a run; give another one, or "
      "--resume=auto to resume it."
    )
  record = _read_record(config)
  if record["experiment"] != script.name:
    raise experiment.RunError(
      f"--out_dir={out_dir} holds a run of {record['experiment']}, not of "
      f"{script.name}; give another one."
    )
  return record["flags"]


def _read_record(config):
  """Reads config.json and checks its form; values of flags are parsed later."""
  reason = "is damaged"
  try:
    if not config.is_file():
      reason = "is not a file"
      raise ValueError
    record = json.loads(config.read_text(encoding="utf-8"))
    form = _FORM | {
      name: kind for name, kind in _FORM_IF_PRESENT.items() if name in record
    }
    for name, kind in form.items():
      if not isinstance(record[name], kind):
        reason = f"is damaged ({name} is not a {kind.__name__})"
        raise TypeError
  except OSError as error:
    reason = f"cannot be read ({error.strerror})"
  except (ValueError, KeyError, TypeError, RecursionError):
    pass
  else:
    return record
  raise experiment.RunError(f"{config} {reason}; give another --out_dir.")


def resolve(
  script: script_lib.Script,
  preset: str,
  recorded: Mapping[str, Any],
  given: Mapping[str, Any],
  out_dir: pathlib.Path,
  changed: Sequence[str],
) -> dict[str, Any]:
  """Resolves the settings of a resumed run and checks changed flags.

  A setting that is newer than the record has the preset's value.

  Args:
    script: script that defines the settings.
    preset: name of the recorded preset.
    recorded: recorded flags.
    given: parsed flags of the command line.
    out_dir: directory of the run.
    changed: sentences about what has changed already.

  Returns:
    name -> value, for every setting and every common flag.

  Raises:
    RunError: a recorded value is not allowed, or the flags given differ.
  """
  config = out_dir / "config.json"
  if not isinstance(preset, str) or preset not in script.presets:
    raise experiment.RunError(
      f"{config} has --preset={preset}, which does not exist; give another "
      "--out_dir."
    )
  known = script_lib.parsers(script)
  identity = {*script.settings._fields, *script_lib.COMMON_OF_A_RUN}
  identity -= {"num_updates"}
  kept = {}
  for name in (identity | set(_KEPT)) & set(recorded):
    try:
      kept[name] = known[name].parse(recorded[name])
    except ValueError as error:
      raise experiment.RunError(
        f"{config} has --{name}={recorded[name]}: {error}; give another "
        "--out_dir."
      ) from error
  row = script_lib.resolve(script, preset, kept)
  changed = [
    *changed,
    *(
      f"--{name} was {known[name].show(row[name])}, is "
      f"{known[name].show(given[name])}"
      for name in sorted(identity & set(given))
      if given[name] != row[name]
    ),
  ]
  if changed:
    raise experiment.RunError(
      f"the run in --out_dir={out_dir} has different flags "
      f"({'; '.join(changed)}); leave them out, or give another --out_dir."
    )
  if given.get("num_updates", row["num_updates"]) < row["num_updates"]:
    raise experiment.RunError(
      f"--num_updates={given['num_updates']} is below the recorded "
      f"{row['num_updates']}; it may only increase."
    )
  return {**row, **given}
