"""The environment of a run: versions, commit, devices."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import platform
import subprocess
from typing import Any

import jax

import lilly

__all__ = ["describe", "versions"]


def versions() -> dict[str, str]:
  """Returns the versions of Python and of the library's dependencies."""
  found = {"python": platform.python_version(), "lilly": lilly.__version__}
  names = (
    "jax",
    "jaxlib",
    "numpy",
    "optax",
    "dm-haiku",
    "chex",
    "rlax",
  )
  for name in names:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found[name] = "from source"
  return found


def describe() -> dict[str, Any]:
  """Returns versions, the checkout's commit, and the devices."""
  devices = jax.devices()
  kind = f"{devices[0].device_kind} ({devices[0].platform})"
  return {
    "versions": versions(),
    "commit": _commit(),
    "device": f"{len(devices)} x {kind}",
    "cpus": os.cpu_count(),
  }


def _commit():
  here = pathlib.Path(__file__).parent
  git = [
    "git",
    "-C",
    str(here),
    "describe",
    "--always",
    "--dirty",
    "--abbrev=40",
  ]
  try:
    done = subprocess.run(git, capture_output=True, text=True, timeout=10)
  except (OSError, subprocess.TimeoutExpired):
    return None
  return done.stdout.strip() or None
