"""Refuses what does not fit into memory, before its arrays are allocated.

Linux grants more memory than there is and ends a process that uses it, without
an exception. So sizes are computed from shapes, and compared with the memory
that is left: on the machine, within the limits of the process and of its
control groups, and on an accelerator.
"""

from __future__ import annotations

import math
import pathlib
import re
import resource
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lilly.training import experiment

__all__ = [
  "Room",
  "check_program",
  "check_runs",
  "check_start",
  "check_state",
  "explain",
  "room",
]

# More runs than this are refused before they are listed, a record for each.
_MAX_RUNS = 10**6

# Address space that JAX reserves when it starts, and later for its threads and
# its compiler; without it the process is aborted (2 cores, jaxlib 0.10).
_TO_START = 1.6e9
_TO_COMPILE = 0.4e9

_ROOT = pathlib.Path("/")
_ADDRESS_SPACE = "address space (ulimit -v)"
_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB", "EB")
# Memory of a control group that the kernel gives back when it is needed.
_RECLAIMABLE = ("inactive_file", "active_file", "slab_reclaimable")


class Room(NamedTuple):
  """Memory that may still be allocated."""

  # bytes; infinite if nothing is known
  nbytes: float
  # what sets the bound, after "of"
  source: str


def room(device: Any = None, root: pathlib.Path = _ROOT) -> Room:
  """Returns the memory that may still be allocated.

  Args:
    device: an accelerator, or None for the host. Devices without figures of
      their own, such as CPU, are the host's.
    root: the folder that holds proc and sys, for tests.

  Returns:
    The tightest of the bounds that are known; swap space is not counted.
  """
  stats = None if device is None else device.memory_stats()
  if stats and "bytes_limit" in stats:
    left = stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return Room(left, f"memory of {device}")
  rooms = [Room(math.inf, "memory"), *_of_machine(root), *_of_process(root)]
  found = min([*rooms, *_of_control_groups(root)])
  return found._replace(nbytes=max(found.nbytes, 0))


def check_state(
  name: str,
  state: Any,
  data: Any,
  mesh: jax.sharding.Mesh,
  options: experiment.Options,
) -> None:
  """Refuses a state that memory cannot hold.

  Args:
    name: name of the experiment, for the message.
    state: shapes of the state of all runs.
    data: the data set; each device has a copy.
    mesh: the devices that the runs are spread over.
    options: uses out_dir, checkpoint_every_s, settings and flags.

  Raises:
    RunError: it does not fit; the message names both sizes and the largest
      flags.
  """
  here = len(mesh.local_devices)
  size = _nbytes(state) * here // mesh.size
  total = size + here * _nbytes(data)
  saves = options.out_dir is not None and options.checkpoint_every_s > 0
  told = f"{name}: the state takes {_written(size)}"
  if saves:
    told += ", and as much again while a checkpoint is written"
  shapes = _named_shapes(state)
  device = mesh.local_devices[0]
  if not _is_host(device):
    _require(total / here, room(device), told, shapes, options)
    total = 0
  _require(total + saves * size, room(), told, shapes, options)


def check_program(
  name: str,
  program: jax.stages.Compiled,
  mesh: jax.sharding.Mesh,
  options: experiment.Options,
) -> None:
  """Refuses a compiled program whose arrays memory cannot hold.

  Args:
    name: name of the program, for the message.
    program: the program; its arguments are allocated already.
    mesh: the devices that run it.
    options: uses settings and flags.

  Raises:
    RunError: it does not fit; the message names both sizes and the largest
      flags.
  """
  stats = program.memory_analysis()
  if stats is None:
    return
  size = stats.temp_size_in_bytes + stats.generated_code_size_in_bytes
  size += stats.output_size_in_bytes - stats.alias_size_in_bytes
  device = mesh.local_devices[0]
  if _is_host(device):
    size *= len(mesh.local_devices)
  left = room(device)
  if size > left.nbytes:
    # The text is long: it is made where it is needed.
    shapes = _shapes_in(program.as_text() or "")
    told = f"{name} takes {_written(size)} besides its arguments"
    _require(size, left, told, shapes, options)


def check_start() -> None:
  """Refuses to start JAX in an address space that is too small for it.

  Raises:
    RunError: the limit on address space leaves too little.
  """
  for left in _of_process(_ROOT):
    size = left.nbytes + _TO_COMPILE
    if left.source == _ADDRESS_SPACE and size < _TO_START:
      raise experiment.RunError(
        f"JAX reserves {_written(_TO_START)} when it starts; only "
        f"{_left(left._replace(nbytes=size))} is left: raise the limit."
      )


def check_runs(options: experiment.Options) -> None:
  """Refuses more runs than can be listed.

  Args:
    options: uses num_seeds and sweep.

  Raises:
    RunError: there are more than a million.
  """
  points = math.prod(len(values) for _, values in options.sweep)
  if options.num_seeds * points > _MAX_RUNS:
    raise experiment.RunError(
      f"--num_seeds={options.num_seeds} at {points} grid points is "
      f"{options.num_seeds * points} runs; at most {_MAX_RUNS} can be trained "
      "together."
    )


def explain(
  error: BaseException, options: experiment.Options | None = None
) -> str | None:
  """Puts an error for lack of memory into a sentence.

  Args:
    error: any error.
    options: uses settings and flags.

  Returns:
    The sentence, or None if the error is of another kind.
  """
  text = " ".join(str(error).split())
  if isinstance(error, MemoryError):
    asked = re.search(r"allocate ([\d.]+ [KMGTPEi]*B)", text)
  elif isinstance(error, jax.errors.JaxRuntimeError) and (
    # The second is all that XLA's matrix kernels say when they get no memory.
    "RESOURCE_EXHAUSTED" in text or "YNNPACK operation failed" in text
  ):
    asked = re.search(r"(\d[\d.]* ?(?:bytes|[KMGTPE]i?B))", text)
  else:
    return None
  size = f" ({asked.group(1)} were asked for)" if asked else ""
  left = room()
  told = "" if math.isinf(left.nbytes) else f"; {_left(left)} is left"
  return f"out of memory{size}{told}: {_advice([], options)}."


def _require(size, left, told, shapes, options):
  """Raises unless a size fits."""
  if size > left.nbytes:
    raise experiment.RunError(
      f"{told}; only {_left(left)} is left: {_advice(shapes, options)}."
    )


def _left(left):
  return f"{_written(max(left.nbytes, 0))} of {left.source}"


def _advice(shapes, options):
  """Names the flags that the largest arrays have their sizes from."""
  flags = [] if options is None else _flags_behind(shapes, options)
  if flags:
    return f"make {' or '.join(flags)} smaller"
  if shapes:
    _, name, shape = max(shapes)
    return f"the largest array is {name} of shape {list(shape)}"
  return "make the run smaller"


def _flags_behind(shapes, options, most=3):
  """Finds the flags whose values are sizes of the largest arrays."""
  sizes = {
    name: numbers
    for name in (*options.settings, "num_seeds")
    if (numbers := _whole_numbers(options.flags.get(name)))
  }
  if "num_seeds" in sizes:
    # A device has its part of the runs, of all grid points.
    points = math.prod(len(values) for _, values in options.sweep)
    runs = points * options.num_seeds
    sizes["num_seeds"] += [runs, -(-runs // jax.device_count())]
  # Arrays that are little beside the largest do not matter.
  largest = max((nbytes for nbytes, _, _ in shapes), default=0)
  axes = {
    axis
    for nbytes, _, shape in shapes
    if nbytes > largest / 10
    for axis in shape
  }
  behind = {
    name: max(axes & set(n)) for name, n in sizes.items() if axes & set(n)
  }
  if not behind:
    behind = {name: max(numbers) for name, numbers in sizes.items()}
  least = max(behind.values(), default=0) / 1000
  names = sorted(behind, key=lambda name: (-behind[name], name))
  return [
    f"--{name}={_shown(options.flags[name])}"
    for name in names[:most]
    if behind[name] >= least
  ]


def _whole_numbers(value) -> list[int]:
  """Lists the numbers above 1 in a flag's value."""
  if isinstance(value, bool):
    return []
  if isinstance(value, int):
    return [value] if value > 1 else []
  if isinstance(value, str):  # such as layers, joined by x
    return [int(n) for n in re.findall(r"\d+", value) if int(n) > 1]
  if isinstance(value, tuple | list):
    return [n for item in value for n in _whole_numbers(item)]
  return []


def _shown(value):
  return ",".join(map(str, value)) if isinstance(value, tuple | list) else value


def _is_host(device):
  return device is None or not (device.memory_stats() or {}).get("bytes_limit")


def _nbytes(tree) -> int:
  return sum(map(_leaf_nbytes, jax.tree.leaves(tree)))


def _leaf_nbytes(leaf) -> int:
  """Returns the size of an array or of a shape, in Python's whole numbers."""
  shape, dtype = np.shape(leaf), getattr(leaf, "dtype", None)
  if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
    return math.prod(shape) * 8
  return math.prod(shape) * (8 if dtype is None else dtype.itemsize)


def _named_shapes(tree):
  """Lists (bytes, name, shape) of the leaves."""
  return [
    (_leaf_nbytes(leaf), f"state{jax.tree_util.keystr(path)}", np.shape(leaf))
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  ]


def _shapes_in(text):
  """Lists (bytes, name, shape) of the arrays in a compiled program's text."""
  found = set(re.findall(r"\b([a-z]+)(\d+)\[([\d,]+)\]", text))
  shapes = []
  for kind, bits, axes in found:
    shape = tuple(map(int, axes.split(",")))
    nbytes = math.prod(shape) * max(int(bits) // 8, 1)
    shapes.append((nbytes, f"a {kind}{bits} array", shape))
  return shapes


def _written(nbytes: float) -> str:
  """Writes a size with three digits and its unit."""
  unit = 0
  while nbytes >= 999.5 and unit < len(_UNITS) - 1:
    nbytes, unit = nbytes / 1000, unit + 1
  figure = f"{nbytes:.3g}" if nbytes < 999.5 else f"{nbytes:,.0f}"
  return f"{figure} {_UNITS[unit]}"


def _of_machine(root) -> Iterator[Room]:
  figures = _figures(root / "proc/meminfo")
  if "MemAvailable" in figures:
    yield Room(figures["MemAvailable"] * 1024, "free memory")


def _of_process(root) -> Iterator[Room]:
  """What the process may still take of its own limits."""
  status = _figures(root / "proc/self/status")
  for limit, taken, source, reserve in (
    (resource.RLIMIT_AS, "VmSize", _ADDRESS_SPACE, _TO_COMPILE),
    (resource.RLIMIT_DATA, "VmData", "data segment (ulimit -d)", 0),
  ):
    most, _ = resource.getrlimit(limit)
    if most != resource.RLIM_INFINITY and taken in status:
      yield Room(most - status[taken] * 1024 - reserve, source)


def _of_control_groups(root) -> Iterator[Room]:
  """What the control groups that the process is in may still take."""
  for line in _lines(root / "proc/self/cgroup"):
    _, controllers, path = line.split(":", 2)
    if not controllers:
      places = [(root / "sys/fs/cgroup", "memory.max", "memory.current")]
      places.append((root / "sys/fs/cgroup/unified", *places[0][1:]))
    elif "memory" in controllers.split(","):
      files = ("memory.limit_in_bytes", "memory.usage_in_bytes")
      places = [(root / "sys/fs/cgroup/memory", *files)]
    else:
      continue
    for mount, limit, usage in places:
      # In a container the path may be one of the host's, not seen here.
      for group in _ancestors(mount, path):
        yield from _of_group(group, limit, usage)


def _ancestors(mount, path):
  parts = [part for part in path.split("/") if part not in ("", "..")]
  for count in range(len(parts), -1, -1):
    yield mount.joinpath(*parts[:count])


def _of_group(group, limit, usage) -> Iterator[Room]:
  try:
    most = int((group / limit).read_text())
    used = int((group / usage).read_text())
  except (OSError, ValueError):  # not there, or "max"
    return
  stat = _figures(group / "memory.stat", separator=None)
  # The older files count a group's children under names with "total_".
  free = sum(
    stat.get(f"total_{name}", stat.get(name, 0)) for name in _RECLAIMABLE
  )
  yield Room(most - used + free, "memory of the control group")


def _lines(path) -> list[str]:
  try:
    return path.read_text().splitlines()
  except OSError:
    return []


def _figures(path, separator: str | None = ":") -> dict[str, int]:
  """Reads lines such as "MemFree:  12 kB"."""
  found = {}
  for line in _lines(path):
    name, *rest = line.split(separator, 1)
    number = rest[0].split()[:1] if rest else []
    if number and number[0].isdigit():
      found[name] = int(number[0])
  return found
