"""Starts JAX's backend, or says why a platform that was asked for is absent."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import jax

from lilly.training import experiment

__all__ = ["start"]

_SECONDS = 60  # for another process to start JAX
_GPU = ("cuda", "gpu", "rocm")
_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin")


def start() -> None:
  """Starts the devices, before anything else uses them.

  Raises:
    RunError: JAX cannot start a platform that JAX_PLATFORMS names.
  """
  # An attribute that type checkers do not know.
  asked = getattr(jax.config, "jax_platforms", None)
  try:
    jax.devices()
  except Exception as error:  # JAX raises a RuntimeError, or fails an assert
    if not asked:
      raise
    reason, remedy = _explain(asked, error)
    raise experiment.RunError(
      f"JAX_PLATFORMS={asked}: JAX cannot start it here ({reason}), but "
      f"{_found()}; {remedy}leave JAX_PLATFORMS out to use what there is."
    ) from error


def _explain(asked, error):
  """Returns the reason, and a remedy besides the one that always helps."""
  if set(asked.split(",")) & set(_GPU):
    if any(map(importlib.util.find_spec, _PLUGINS)):
      return str(error) or "no GPU is visible", ""
    remedy = "set LILLY_EXTRAS=cuda for scripts/run to install them, or "
    return "its packages for GPUs are not installed", remedy
  return str(error).partition(" (set JAX_PLATFORMS")[0].rstrip("."), ""


def _found():
  """Asks another process which platform JAX takes by itself."""
  environment = {k: v for k, v in os.environ.items() if k != "JAX_PLATFORMS"}
  code = "import jax; print(jax.default_backend())"
  try:
    done = subprocess.run(
      [sys.executable, "-c", code],
      env=environment,
      capture_output=True,
      text=True,
      timeout=_SECONDS,
      check=True,
    )
  except (OSError, subprocess.SubprocessError):
    return "cpu is always there"
  names = dict.fromkeys([*done.stdout.split(), "cpu"])
  return f"it can start {' and '.join(names)}"
