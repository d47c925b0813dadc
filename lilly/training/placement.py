"""Between devices and the host, on one machine and on several."""

from __future__ import annotations

from typing import Any

import jax

__all__ = ["agreed", "fetch"]


def fetch(tree: Any) -> Any:
  """Brings arrays to every host, whole.

  Args:
    tree: a pytree of arrays; where several processes run, all must call this.

  Returns:
    The same pytree of numpy arrays, which may share memory with the devices.
  """
  if jax.process_count() == 1:
    return jax.device_get(tree)
  from jax.experimental import multihost_utils

  return multihost_utils.process_allgather(tree, tiled=True)


def agreed(*flags: bool) -> tuple[bool, ...]:
  """Returns what the first process says: clocks and signals differ."""
  if jax.process_count() == 1:
    return flags
  from jax.experimental import multihost_utils

  return tuple(map(bool, multihost_utils.broadcast_one_to_all(list(flags))))
