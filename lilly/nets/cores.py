"""The table of recurrent cores: networks with and without a memory, by name.

A core takes (input_size, output_size, *, hidden_size). A core with a memory is
an LSTM controller around it: it also takes the other keywords of
`recurrent.with_memory` and those of the memory's function in `memories`:
num_slots, word_size, num_heads and so on.

The table holds names, not functions, so that a script can list its choices
without importing JAX. To add a memory, write its module, tests and one line
here: scripts, figures and tests of cores use this table.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from lilly.nets import memories, recurrent

__all__ = ["CORES", "MEMORIES", "make", "make_memory"]

# Name, as in --core -> "module:function" that makes the memory.
MEMORIES = {
  "ntm": "lilly.nets.memories:ntm",
  "dam": "lilly.nets.memories:dam",
  "dnc": "lilly.nets.memories:dnc",
  "sam": "lilly.nets.memories:sam",
  "sdnc": "lilly.nets.memories:sdnc",
}
# Name, as in --core -> "module:function" that makes the core or its memory.
CORES = {
  "lstm": "lilly.nets.recurrent:lstm",
  "gru": "lilly.nets.recurrent:gru",
  **MEMORIES,
}
_OF_CONTROLLER = ("hidden_size", "clip", "use_reads")


def make(
  name: str, input_size: int, output_size: int, **options: Any
) -> recurrent.Core:
  """Makes a recurrent core.

  Args:
    name: a name in `CORES`.
    input_size: size of an input.
    output_size: size of an output.
    **options: keywords of the core's function; for a core with a memory, those
      of `recurrent.with_memory` and of the memory's function.

  Returns:
    The core.

  Raises:
    ValueError: there is no such core, or an option is out of its range.

  >>> core = make("sam", 3, 2, hidden_size=8, num_slots=16, word_size=4)
  >>> core.initial_state().memory.words.words.shape
  (16, 4)
  """
  from lilly.nets import recurrent

  if name not in MEMORIES:
    return _find(name, CORES)(input_size, output_size, **options)
  controller = {k: v for k, v in options.items() if k in _OF_CONTROLLER}
  rest = {k: v for k, v in options.items() if k not in _OF_CONTROLLER}
  return recurrent.with_memory(
    make_memory(name, **rest), input_size, output_size, **controller
  )


def make_memory(name: str, **options: Any) -> memories.Memory:
  """Makes the memory of a core, for a custom controller.

  Args:
    name: a name in `MEMORIES`.
    **options: keywords of its function.

  Returns:
    The memory.

  Raises:
    ValueError: there is no such memory, or an option is out of its range.

  >>> make_memory("dam", num_slots=16, word_size=4, num_heads=1).reads
  (1, 4)
  """
  return _find(name, MEMORIES)(**options)


def _find(name: str, table: dict[str, str]) -> Callable[..., Any]:
  if name not in table:
    raise ValueError(f"name is {name!r}; it must be one of {(*table,)}.")
  module, function = table[name].split(":")
  return getattr(importlib.import_module(module), function)
