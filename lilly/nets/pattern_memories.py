"""Trained memories of sets of patterns in one form.

An energy, and baselines that are given at most as many numbers to write: all
are trained by the same loss of every step of a read.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax

from lilly.nets import (
  attention_memory,
  dynamic_kanerva_model,
  energy_memory,
  energy_networks,
)

__all__ = ["MEMORIES", "PatternMemory", "as_large_as", "dynamic_kanerva"]
__all__ += ["energy", "kanerva_sizes", "memory_network"]


class PatternMemory(NamedTuple):
  """Functions of sets."""

  # init(key, pattern) -> parameters
  init: Callable[[jax.Array, jax.Array], Any]
  # recall(parameters, patterns [N, ...], queries [M, ...]) -> Recall
  recall: Callable[[Any, jax.Array, jax.Array], energy_memory.Recall]


def energy(
  network: energy_networks.EnergyNetwork,
  *,
  write_steps: int,
  first_order: bool = False,
  remat: bool = False,
  **rates: Any,
) -> PatternMemory:
  """Makes an energy-based memory; see `energy_memory`.

  Args:
    network: an energy.
    write_steps: T; 0: nothing is written.
    first_order: as of `energy_memory.recall`.
    remat: as of `energy_memory.recall`.
    **rates: keywords of `energy_memory.init`, read_steps among them.

  Returns:
    The memory; of what it recalls there is an energy.

  Reference:
    Bartunov et al. (2020), arXiv:1910.02720.
  """
  options = {"write_steps": write_steps, "remat": remat}
  options |= {"first_order": first_order}
  return PatternMemory(
    lambda key, x: energy_memory.init(key, network, x, **rates),
    functools.partial(energy_memory.recall, network, **options),
  )


def memory_network(
  shape: tuple[int, ...],
  num_floats: int,
  *,
  num_words: int,
  num_reads: int,
  **sizes: Any,
) -> PatternMemory:
  """Makes a memory network; see `attention_memory`.

  Args:
    shape: of a pattern.
    num_floats: at most so many numbers are written.
    num_words: N, for which they suffice; a word has one number at least.
    num_reads: K.
    **sizes: hidden_size and num_filters.

  Returns:
    The memory.

  Raises:
    ValueError: a size is not positive, or the shape is none of a pattern.
  """
  size = attention_memory.word_size(num_floats, num_words, math.prod(shape))
  nets = attention_memory.attention_memory(shape, size, **sizes)
  recall = functools.partial(attention_memory.recall, num_reads=num_reads)
  return PatternMemory(nets.init, functools.partial(recall, nets))


def kanerva_sizes(num_floats: int, pattern_size: int) -> tuple[int, int]:
  """Chooses rows and codes of a Kanerva memory.

  Args:
    num_floats: at most so many numbers, of the mean and the covariance.
    pattern_size: numbers of a pattern, more than which no code needs.

  Returns:
    K and C: K (K + C) is at most num_floats, and K is less than C.

  Raises:
    ValueError: there is no such K, for num_floats is less than 4, or patterns
      have one number.

  >>> kanerva_sizes(495, 32), kanerva_sizes(4, 32)
  ((13, 22), (1, 2))
  """
  if num_floats < 4:
    raise ValueError(f"num_floats is {num_floats}; it must be 4 or more.")
  if pattern_size < 2:
    raise ValueError(f"pattern_size is {pattern_size}; it must be 2 or more.")
  size = min(pattern_size, math.isqrt(num_floats))
  rows = (math.isqrt(size**2 + 4 * num_floats) - size) // 2
  return min(rows, size - 1), size


def dynamic_kanerva(
  shape: tuple[int, ...],
  num_floats: int,
  *,
  num_words: int,
  num_reads: int,
  **sizes: Any,
) -> PatternMemory:
  """Makes a Dynamic Kanerva Machine, trained by errors of what is read.

  x^k = decode(read(encode(x^{k-1}))), at mean addresses. The paper's own loss
  is another, a bound: `dynamic_kanerva_model.loss`.

  Args:
    shape: of a pattern.
    num_floats: at most so many numbers are written: means and covariance.
    num_words: N; of no matter here.
    num_reads: K.
    **sizes: hidden_size and num_filters.

  Returns:
    The memory.

  Raises:
    ValueError: as `kanerva_sizes` and `dynamic_kanerva_model.networks`.

  Reference:
    Wu et al. (2018), arXiv:1811.09556; a baseline of Bartunov et al. (2020),
    arXiv:1910.02720.
  """
  del num_words
  is_flat = len(shape) == 1
  image_shape = cast(Any, (1, *shape, 1) if is_flat else shape)
  if is_flat:
    sizes = sizes | {"num_filters": 0}
  rows, size = kanerva_sizes(num_floats, math.prod(shape))
  nets = dynamic_kanerva_model.networks(image_shape, code_size=size, **sizes)
  memory = dynamic_kanerva_model.dynamic_memory(rows, size)

  def init(key, pattern):
    image = pattern.reshape(image_shape)
    return dynamic_kanerva_model.init(key, nets, memory, image)

  def recall(params, patterns, queries):
    images = lambda x: x.reshape(len(x), *image_shape)
    own = params["nets"]
    state = dynamic_kanerva_model.written(
      nets, memory, params, images(patterns)
    )

    def step(x, _):
      found = memory.read(params["memory"], state, nets.encode(own, x))
      x = jax.nn.sigmoid(nets.decode(own, found.code))
      return x, x.reshape(shape)

    read = lambda x: jax.lax.scan(step, x, length=num_reads)[1]
    reads = jax.vmap(read)(images(queries))
    return energy_memory.Recall(state, None, reads)

  return PatternMemory(init, recall)


MEMORIES = {
  "memory_network": memory_network,
  "dynamic_kanerva": dynamic_kanerva,
}


def as_large_as(
  network: energy_networks.EnergyNetwork,
  shape: tuple[int, ...],
  kind: str,
  **sizes: Any,
) -> PatternMemory:
  """Makes a memory that is as large as what an energy writes.

  Args:
    network: the energy's.
    shape: of a pattern.
    kind: a name in `MEMORIES`.
    **sizes: num_words, num_reads, hidden_size and num_filters.

  Returns:
    The memory.

  Raises:
    ValueError: there is no such kind, or as the memories.
  """
  if kind not in MEMORIES:
    raise ValueError(f"kind is {kind!r}; it must be one of {(*MEMORIES,)}.")
  num_floats = energy_networks.num_written(network, shape)
  return MEMORIES[kind](shape, num_floats, **sizes)
