"""Faults of the file system, and of standard output and error."""

from __future__ import annotations

import contextlib
import pathlib
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from scripts.attacks import toy_runs
from scripts.attacks.case import FAILED, HELD, LEFT_OUT, Case, Plan, sampled

__all__ = ["run"]

_RUN = ("--num_updates=40",)
# The run is held before its chunk at this update, and something is done.
_HELD_AT = 20


class _CannotBeMade(Exception):
  """A fault that this machine or user cannot make."""


class Fault(NamedTuple):
  """One fault, and what is right."""

  name: str
  # statuses that are right
  statuses: tuple[int, ...]
  # prepare(folder), before the process starts
  prepare: Callable[[pathlib.Path], Any] = lambda folder: None
  # of toy_runs.start
  options: dict[str, Any] | None = None
  flags: tuple[str, ...] = _RUN
  # meanwhile(folder), while the run is held
  meanwhile: Callable[[pathlib.Path], Any] | None = None
  # check(folder) says what is wrong afterwards, "" if nothing is
  check: Callable[[pathlib.Path], str] = lambda folder: ""
  # whether standard error is seen
  is_heard: bool = True


def run(plan: Plan) -> Iterator[Case]:
  """Runs the toy while something is wrong with its files or its output."""
  for number, fault in enumerate(sampled(_faults(), plan)):
    folder = plan.folder / f"fault-{number}"
    folder.mkdir(parents=True)
    try:
      wrong = _try(fault, folder, plan)
    except _CannotBeMade as error:
      yield Case(fault.name, LEFT_OUT, f"cannot be made here: {error}")
      continue
    except AssertionError as error:
      wrong = str(error)
    finally:
      _clear(folder)
    yield Case(fault.name, FAILED if wrong else HELD, wrong)


def _try(fault, folder, plan) -> str:
  """Says what went wrong, "" if nothing did."""
  fault.prepare(folder)
  gate = f"chunk {_HELD_AT}" if fault.meanwhile else None
  process = toy_runs.start(
    folder, *fault.flags, gate=gate, **fault.options or {}
  )
  if fault.meanwhile:
    toy_runs.wait_for((folder / "held").exists, process, plan.seconds)
    fault.meanwhile(folder)
    (folder / "go").touch()
  status, err = toy_runs.finish(process, plan.seconds)
  if status is None:
    return "it did not end"
  if "Traceback" in err or "Error:" in err:
    return f"a traceback: {err.strip().splitlines()[-1]}"
  errors = [line for line in err.splitlines() if line.startswith("error: ")]
  if status not in fault.statuses:
    return f"status {status}, not {fault.statuses}: {err.strip()[-200:]}"
  if status == 1 and fault.is_heard and len(errors) != 1:
    return f"status 1 with {len(errors)} lines of error"
  return fault.check(folder)


def _clear(folder):
  """Unmounts what a fault has mounted, and removes its folder."""
  for path in sorted(folder.glob("**/*"), reverse=True):
    if path.is_mount():
      subprocess.run(["umount", "-l", str(path)], check=False)
  shutil.rmtree(folder, ignore_errors=True)


def _faults() -> list[Fault]:
  return [
    *_of_place(),
    *_of_links(),
    *_of_records(),
    *_while_running(),
    *_of_output(),
  ]


def _of_place() -> list[Fault]:
  """The place of the output directory cannot be used."""
  deep = "/".join(["d" * 200] * 25)
  named = [
    ("a name of 300 letters", "x" * 300),
    ("a path of 5,000 letters", deep),
    ("a path below a file", "file/run"),
    ("a file", "file"),
    ("a dangling link", "dangling"),
    ("an address", "gs://bucket/run"),
    ("a device", "/dev/null"),
    ("below proc", "/proc/run"),
  ]

  def prepare(folder):
    (folder / "file").write_text("mine\n")
    (folder / "dangling").symlink_to(folder / "nowhere")

  found = [
    Fault(
      f"--out_dir is {name}",
      (1,),
      prepare,
      {"out_dir": value},
      check=lambda folder: (
        "" if (folder / "file").read_text() == "mine\n" else "a file changed"
      ),
    )
    for name, value in named
  ]
  found += [
    Fault("a folder that cannot be written", (1,), _mount_read_only),
    Fault("a full disk", (1,), _mount_full),
    Fault(
      "a disk that is full at the first checkpoint",
      (1,),
      _mount_small,
      flags=("--task=big", *_RUN),
    ),
    Fault(
      "a limit on the size of files",
      (1,),
      options={
        "shell": "ulimit -f 100; exec {}",
        "env": {"JAX_ENABLE_COMPILATION_CACHE": "false"},
      },
      flags=("--task=big", *_RUN),
    ),
    *_without_locks(),
  ]
  return found


def _mount(folder, options):
  (folder / "run").mkdir()
  done = subprocess.run(
    ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder / "run")],
    capture_output=True,
    text=True,
    check=False,
  )
  if done.returncode:
    raise _CannotBeMade(done.stderr.strip())


def _mount_read_only(folder):
  _mount(folder, "size=1m,ro")


def _mount_full(folder):
  _mount(folder, "size=1m")
  with contextlib.suppress(OSError), open(folder / "run" / ".fill", "wb") as f:
    f.write(b"0" * 2**21)


def _mount_small(folder):
  _mount(folder, "size=200k")


_LOCKS = """
import errno, fcntl, runpy, sys

name = sys.argv[1]

def flock(*args):
  raise OSError(getattr(errno, name), "no locks here")

fcntl.flock = fcntl.lockf = flock
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def _without_locks() -> list[Fault]:
  """A file system that answers flock with an error."""
  found = []
  for name, statuses in (
    ("ENOSYS", (0,)),
    ("ENOLCK", (0,)),
    ("EOPNOTSUPP", (0,)),
    ("EWOULDBLOCK", (1,)),
  ):
    shell = f'python=$1; shift; exec "$python" locks.py {name} "$@"'
    found.append(
      Fault(
        f"flock fails with {name}",
        statuses,
        lambda folder: (folder / "locks.py").write_text(_LOCKS),
        {"shell": shell},
      )
    )
  return found


def _of_links() -> list[Fault]:
  """Links where a run writes, to a file of somebody else."""
  places = (
    ".lock",
    ".config.json.partial",
    ".summary.json.partial",
    "config.json",
    "summary.json",
    "adam/metrics.jsonl",
    "adam/params.npz",
    "adam/.params.npz.partial",
    "adam",
    "adam/checkpoints",
  )

  def prepare(place):
    def make(folder):
      (folder / "thesis").write_text("mine\n")
      (folder / "theses").mkdir()
      (folder / "theses" / "one").write_text("mine\n")
      path = folder / "run" / place
      path.parent.mkdir(parents=True)
      is_folder = place in ("adam", "adam/checkpoints")
      path.symlink_to(folder / ("theses" if is_folder else "thesis"))

    return make

  def check(folder):
    if (folder / "thesis").read_text() != "mine\n":
      return "the file behind the link was changed"
    names = [path.name for path in (folder / "theses").iterdir()]
    return "" if names == ["one"] else "files were made behind the link"

  # Refused, or left alone, or replaced by a file.
  found = [
    Fault(f"{place} is a link", (0, 1), prepare(place), check=check)
    for place in places
  ]
  return found + [
    Fault(
      f"{place} of a run has become a link",
      (0, 1),
      _moved_behind_a_link(place),
      flags=("--num_updates=80",),
      check=_is_untouched,
    )
    for place in ("config.json", "summary.json", "adam/metrics.jsonl")
  ]


def _moved_behind_a_link(place):
  def prepare(folder):
    _finished(folder)
    path, thesis = folder / "run" / place, folder / "thesis"
    path.rename(thesis)
    (folder / "before").write_bytes(thesis.read_bytes())
    path.symlink_to(thesis)

  return prepare


def _is_untouched(folder):
  same = (folder / "thesis").read_bytes() == (folder / "before").read_bytes()
  return "" if same else "the file behind the link was changed"


def _finished(folder):
  """A finished run, to be damaged."""
  process = toy_runs.start(folder, *_RUN)
  status, err = toy_runs.finish(process, 300)
  if status != 0:
    raise AssertionError(err)


def _of_records() -> list[Fault]:
  """Files of a finished run that cannot be read."""

  def damaged(name, change):
    def prepare(folder):
      _finished(folder)
      path = folder / "run" / name
      change(path)

    return prepare

  def replaced(path):
    path.unlink()
    path.mkdir()

  def edited(old, new):
    def edit(path):
      text, count = re.subn(old, new, path.read_text(), count=1)
      if not count:
        raise AssertionError(f"{old} is not in {path}")
      path.write_text(text)

    return edit

  longer = ("--num_updates=80",)
  config = [
    ("is empty", lambda path: path.write_text("")),
    ("is no JSON", lambda path: path.write_text("{")),
    ("is binary", lambda path: path.write_bytes(b"\xff\xfe\0")),
    ("is a list", lambda path: path.write_text("[]")),
    ("is nested deep", lambda path: path.write_text("[" * 100_000)),
    ("is a folder", replaced),
    ("has text as a number", edited(r'"num_seeds": 1', '"num_seeds": "two"')),
    ("has a part of a seed", edited(r'"num_seeds": 1', '"num_seeds": 2.5')),
    ("has a null", edited(r'"num_seeds": 1', '"num_seeds": null')),
    ("has NaN", edited(r'"learning_rate": 0.1', '"learning_rate": NaN')),
    ("has flags null", edited(r'"flags": \{', '"flags": null, "f": {')),
    ("is of another", edited(r'"experiment": "toy"', '"experiment": "a"')),
  ]
  found = [
    Fault(f"config.json {name}", (1,), damaged("config.json", change))
    for name, change in config
  ]
  rows = [
    ("is gone", lambda path: path.unlink()),
    ("is a folder", replaced),
    ("is cut", lambda path: path.write_bytes(path.read_bytes()[:40])),
    ("is binary", lambda path: path.write_bytes(b"\xff\0" * 4000)),
  ]
  found += [
    Fault(
      f"metrics.jsonl {name}",
      (1,),
      damaged("adam/metrics.jsonl", change),
      flags=longer,
    )
    for name, change in rows
  ]
  return found


def _while_running() -> list[Fault]:
  """What goes away while a run is held between two chunks."""

  def check_no_second(folder):
    if not (folder / "moved").exists():
      return ""
    made = [p.name for p in (folder / "run").glob("*") if p.name != ".lock"]
    return f"a second folder was made, with {made}" if made else ""

  return [
    Fault(
      "the folder is moved",
      (1,),
      meanwhile=lambda folder: (folder / "run").rename(folder / "moved"),
      check=check_no_second,
    ),
    Fault(
      "the folder is removed",
      (1,),
      meanwhile=lambda folder: shutil.rmtree(folder / "run"),
    ),
    Fault(
      "the folder of checkpoints is removed",
      (0, 1),
      flags=(*_RUN, "--checkpoint_every_s=1e-9"),
      # A checkpoint may be written at that moment.
      meanwhile=lambda folder: shutil.rmtree(
        folder / "run/adam/checkpoints", ignore_errors=True
      ),
    ),
    Fault(
      "metrics.jsonl is removed",
      (1,),
      meanwhile=lambda folder: (folder / "run/adam/metrics.jsonl").unlink(),
    ),
    Fault(
      "config.json is removed",
      (0, 1),
      meanwhile=lambda folder: (folder / "run/config.json").unlink(),
    ),
    Fault("another run starts in the folder", (0,), meanwhile=_start_second),
  ]


def _start_second(folder):
  """Starts a second process in the same folder; it must be refused."""
  process = toy_runs.start(folder, *_RUN)
  status, err = toy_runs.finish(process, 300)
  if status != 1 or "another process" not in err:
    raise AssertionError(f"the second run was not refused: {status}, {err}")


def _of_output() -> list[Fault]:
  """Standard output or error that cannot be written."""

  def has_results(folder):
    there = (folder / "run" / "summary.json").exists()
    return "" if there else "no summary.json"

  found = []
  for name, redirection in (
    ("standard output is closed", ">&-"),
    ("standard output is full", ">/dev/full"),
    ("nobody reads standard output", "> >(exec true)"),
    ("standard error is closed", "2>&-"),
    ("standard error is full", "2>/dev/full"),
    ("nobody reads standard error", "2> >(exec true)"),
    ("both are closed", ">&- 2>&-"),
    ("standard input is closed", "<&-"),
  ):
    found.append(
      Fault(
        name,
        (0,),
        options={"shell": f"exec {{}} {redirection}"},
        check=has_results,
        is_heard=False,
      )
    )
  return found
