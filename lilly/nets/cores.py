"""Recurrent cores: networks with and without a memory, in one form.

`CORES` has them by name. All take (input_size, output_size, *, hidden_size);
those with a memory also take the keywords of `recurrent.with_memory`, and those
of their function in `memories`: num_slots, word_size, num_heads and so on.
"""

from collections.abc import Callable
from typing import Any

from lilly.nets import memories
from lilly.nets.recurrent import (
  Core,
  State,
  gru,
  lstm,
  unroll,
  with_memory,
)

__all__ = ["CORES", "Core", "State", "dam", "dnc", "gru", "lstm", "ntm"]
__all__ += ["sam", "sdnc", "unroll", "with_memory"]


def _core(make_memory, input_size, output_size, options):
  names = ("hidden_size", "clip", "use_reads")
  of_core = {name: options.pop(name) for name in names if name in options}
  memory = make_memory(**options)
  return with_memory(memory, input_size, output_size, **of_core)


def ntm(input_size: int, output_size: int, **options: Any) -> Core:
  """Makes a Neural Turing Machine with an LSTM controller.

  Args:
    input_size: numbers in an input.
    output_size: numbers in an output.
    **options: keywords of `with_memory` and of `memories.ntm`.

  Returns:
    The core. At first all heads are at slot 0.

  Raises:
    ValueError: if an option is out of its range; it is named.

  Reference:
    Graves, Wayne and Danihelka (2014), arXiv:1410.5401.

  >>> core = ntm(3, 2, hidden_size=8, num_slots=16, word_size=4)
  >>> core.initial_state().reads.shape
  (4, 4)
  """
  return _core(memories.ntm, input_size, output_size, options)


def dam(input_size: int, output_size: int, **options: Any) -> Core:
  """Makes a network with a Dense Access Memory.

  Args:
    input_size: numbers in an input.
    output_size: numbers in an output.
    **options: keywords of `with_memory` and of `memories.dam`.

  Returns:
    The core.

  Raises:
    ValueError: if an option is out of its range; it is named.

  Reference:
    Rae et al. (2016), arXiv:1610.09027, section 3 and supplement C.

  >>> core = dam(3, 2, hidden_size=8, num_slots=16, word_size=4)
  >>> core.initial_state().memory.usage.shape
  (16,)
  """
  return _core(memories.dam, input_size, output_size, options)


def dnc(input_size: int, output_size: int, **options: Any) -> Core:
  """Makes a Differentiable Neural Computer with an LSTM controller.

  Args:
    input_size: numbers in an input.
    output_size: numbers in an output.
    **options: keywords of `with_memory` and of `memories.dnc`.

  Returns:
    The core.

  Raises:
    ValueError: if an option is out of its range; it is named.

  Reference:
    Graves et al. (2016), Nature 538:471.

  >>> core = dnc(3, 2, hidden_size=8, num_slots=16, word_size=4)
  >>> core.initial_state().memory.links.shape
  (16, 16)
  """
  return _core(memories.dnc, input_size, output_size, options)


def sam(input_size: int, output_size: int, **options: Any) -> Core:
  """Makes a network with a Sparse Access Memory.

  A patent exists on this family of memories (US 11,151,443).

  Args:
    input_size: numbers in an input.
    output_size: numbers in an output.
    **options: keywords of `with_memory` and of `memories.sam`.

  Returns:
    The core. Use its `detach` between segments: it also frees the rows that
    gradients took.

  Raises:
    ValueError: if an option is out of its range; it is named.

  Reference:
    Rae et al. (2016), arXiv:1610.09027, section 3 and supplement C.

  >>> core = sam(3, 2, hidden_size=8, num_slots=16, word_size=4)
  >>> core.initial_state().memory.words.words.shape
  (16, 4)
  """
  return _core(memories.sam, input_size, output_size, options)


def sdnc(input_size: int, output_size: int, **options: Any) -> Core:
  """Makes a Sparse Differentiable Neural Computer.

  Args:
    input_size: numbers in an input.
    output_size: numbers in an output.
    **options: keywords of `with_memory`, of `memories.sam` and of
      `memories.sdnc`.

  Returns:
    The core, to be used as `sam`'s.

  Raises:
    ValueError: if an option is out of its range; it is named.

  Reference:
    Rae et al. (2016), arXiv:1610.09027, supplement D.

  >>> core = sdnc(3, 2, hidden_size=8, num_slots=16, word_size=4)
  >>> core.initial_state().memory.links.successor_slots.shape
  (4, 16, 8)
  """
  return _core(memories.sdnc, input_size, output_size, options)


# Name, as in --core -> function that makes the core.
CORES: dict[str, Callable[..., Core]] = {
  "lstm": lstm,
  "gru": gru,
  "ntm": ntm,
  "dam": dam,
  "dnc": dnc,
  "sam": sam,
  "sdnc": sdnc,
}
