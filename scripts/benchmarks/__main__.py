"""Runs the benchmarks, each in its own process; `scripts/bench` calls this."""

import argparse
import difflib
import importlib
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time
from typing import Annotated

from lilly.training import experiment, messages, settings
from lilly.training.settings import PATH

_NOT_BENCHMARKS = ("__init__", "__main__", "commands", "timing")


def _names() -> list[str]:
  """Returns the names of the benchmarks, sorted."""
  files = pathlib.Path(__file__).parent.glob("*.py")
  return sorted(f.stem for f in files if f.stem not in _NOT_BENCHMARKS)


def _measure(name: str, path: str) -> None:
  """Measures one benchmark in this process and writes its figures."""
  import jax

  from lilly.training import platforms

  platforms.start()
  figures = importlib.import_module(f"benchmarks.{name}").measure()
  devices = jax.devices()
  device = f"{len(devices)} x {devices[0].device_kind}"
  text = json.dumps(
    {"device": device, "figures": figures},
    allow_nan=False,
    default=lambda scalar: scalar.item(),
  )
  pathlib.Path(path).write_text(text, encoding="utf-8")


def _run(name: str) -> dict:
  """Measures one benchmark in a new process; its output goes to stderr."""
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "figures.json"
    command = [sys.executable, "-P", "-m", "benchmarks"]
    code = subprocess.run(
      [*command, "--measure", name, str(path)], stdout=sys.stderr, check=False
    ).returncode
    if code:
      return {"figures": {"error": f"{name} ended with exit code {code}."}}
    return json.loads(path.read_text(encoding="utf-8"))


def _cpus() -> int:
  """Returns how many processors this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def _path(text: str) -> pathlib.Path:
  """Parses a path as the experiments do; its directory must exist."""
  try:
    path = pathlib.Path(settings.make_parser(Annotated[str, PATH]).parse(text))
    if not path.parent.is_dir() or path.is_dir():
      raise ValueError("cannot be written there")
  except (ValueError, OSError) as error:
    raise argparse.ArgumentTypeError(
      f"{text}: {messages.as_sentence(error)}"
    ) from error
  return path


def _parse() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog="scripts/bench",
    description="Prints the speed of the systems as JSON.",
    epilog="Benchmarks: " + (", ".join(_names()) or "none yet"),
  )
  parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
  parser.add_argument(
    "--json", metavar="PATH", type=_path, help="write the JSON here too"
  )
  parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
  return parser.parse_args()


def main() -> int:
  options = _parse()
  if options.measure:
    try:
      _measure(*options.measure)
    except experiment.RunError as error:
      messages.fail(error)
    return 0
  known = _names()
  for name in options.names:
    if name not in known:
      near = difflib.get_close_matches(name, known, n=1)
      hint = f'did you mean "{near[0]}"?' if near else f"there are {known}."
      print(f'scripts/bench: no benchmark "{name}"; {hint}', file=sys.stderr)
      return 1
  machine = {
    "cpus": _cpus(),
    "platform": platform.platform(),
    "python": platform.python_version(),
    "jax": importlib.metadata.version("jax"),
    "device": None,
  }
  figures = {}
  for name in options.names or known:
    start = time.perf_counter()
    print(f"{name} ...", file=sys.stderr, flush=True)
    result = _run(name)
    figures[name] = result["figures"]
    machine["device"] = result.get("device", machine["device"])
    spent = time.perf_counter() - start
    print(f"{name}: {spent:.0f} s", file=sys.stderr, flush=True)
  text = json.dumps({"machine": machine, "figures": figures}, indent=2)
  if options.json:
    options.json.write_text(text + "\n", encoding="utf-8")
  print(text)
  return int(any("error" in values for values in figures.values()))


if __name__ == "__main__":
  sys.exit(main())
