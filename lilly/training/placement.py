"""Transfers between devices and hosts, for one or several processes."""

from __future__ import annotations

from typing import Any

import jax

__all__ = ["agreed", "fetch"]


def fetch(tree: Any) -> Any:
  """Fetches complete arrays to every host.

  Args:
    tree: a pytree of arrays; with several processes, all must call this.

  Returns:
    The same pytree of numpy arrays, which may share memory with the devices.
  """
  if jax.process_count() == 1:
    return jax.device_get(tree)
  from jax.experimental import multihost_utils

  return multihost_utils.process_allgather(tree, tiled=True)


def agreed(*flags: bool) -> tuple[bool, ...]:
  """Returns the first process's flags, as clocks and signals differ."""
  if jax.process_count() == 1:
    return flags
  from jax.experimental import multihost_utils

  return tuple(map(bool, multihost_utils.broadcast_one_to_all(list(flags))))
