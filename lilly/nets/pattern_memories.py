"""Baselines for energy-based memories, of at most the same size.

Items and queries are patterns, from 0 to 1; reads return x¹ .. x^K, so that all
are trained by the same loss over the steps of a read.
"""

import math
from typing import Any, cast

import jax

from lilly.nets import (
  attention_memory,
  dynamic_kanerva_model,
  energy_networks,
  kanerva_memories,
)
from lilly.nets.set_memories import SetMemory

__all__ = [
  "MEMORIES",
  "choose_kanerva_sizes",
  "dynamic_kanerva",
  "make_as_large",
  "memory_network",
]


def memory_network(
  shape: tuple[int, ...],
  num_floats: int,
  *,
  num_words: int,
  num_reads: int,
  **sizes: Any,
) -> SetMemory:
  """Makes a memory network; see `attention_memory`.

  Args:
    shape: shape of a pattern.
    num_floats: maximum size of the content, in floats.
    num_words: number of words N that fit into it; W is at least 1.
    num_reads: hops of a read, K.
    **sizes: keywords hidden_size and num_filters.

  Returns:
    The memory.

  Raises:
    ValueError: a size is not positive, or the shape is invalid.
  """
  size = attention_memory.choose_word_size(
    num_floats, num_words, math.prod(shape)
  )
  nets = attention_memory.make_networks(shape, size, **sizes)
  return attention_memory.make(nets, num_reads=num_reads)


def choose_kanerva_sizes(num_floats: int, pattern_size: int) -> tuple[int, int]:
  """Chooses the number of rows and the code size of a Kanerva memory.

  Args:
    num_floats: maximum size of mean and covariance, in floats.
    pattern_size: size of a pattern, an upper bound of C.

  Returns:
    K and C: K (K + C) is at most num_floats, and K is less than C.

  Raises:
    ValueError: there is no such K: num_floats is less than 4, or pattern_size
      less than 2.

  >>> choose_kanerva_sizes(495, 32), choose_kanerva_sizes(4, 32)
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
) -> SetMemory:
  """Makes a Dynamic Kanerva Machine, trained on the error of its reads.

  x^k = decode(read(encode(x^{k-1}))), at mean addresses. The paper's own loss
  is a bound instead: `dynamic_kanerva_model.loss`.

  Args:
    shape: shape of a pattern.
    num_floats: maximum size of the content (mean and covariance), in floats.
    num_words: ignored.
    num_reads: reads of a query, K.
    **sizes: keywords hidden_size and num_filters.

  Returns:
    The memory.

  Raises:
    ValueError: as `choose_kanerva_sizes` and `dynamic_kanerva_model.networks`.

  Reference:
    Wu et al. (2018), arXiv:1811.09556; a baseline of Bartunov et al. (2020),
    arXiv:1910.02720.
  """
  del num_words
  is_flat = len(shape) == 1
  image_shape = cast(Any, (1, *shape, 1) if is_flat else shape)
  if is_flat:
    sizes = sizes | {"num_filters": 0}
  rows, size = choose_kanerva_sizes(num_floats, math.prod(shape))
  nets = dynamic_kanerva_model.networks(image_shape, code_size=size, **sizes)
  memory = kanerva_memories.dynamic(rows, size)

  def init(key, pattern):
    image = pattern.reshape(image_shape)
    return dynamic_kanerva_model.init(key, nets, memory, image), {}

  def write(params, state, patterns):
    images = patterns.reshape(len(patterns), *image_shape)
    return dynamic_kanerva_model.write(nets, memory, params, images)

  def read(params, state, content, query):
    def step(x, _):
      code = nets.encode(params["nets"], x)
      found = memory.read(params["memory"], {}, content, code)
      x = jax.nn.sigmoid(nets.decode(params["nets"], found.code))
      return x, x.reshape(shape)

    start = query.reshape(image_shape)
    return jax.lax.scan(step, start, length=num_reads)[1]

  return SetMemory(init, write, read)


MEMORIES = {
  "memory_network": memory_network,
  "dynamic_kanerva": dynamic_kanerva,
}


def make_as_large(
  network: energy_networks.EnergyNetwork,
  shape: tuple[int, ...],
  kind: str,
  **sizes: Any,
) -> SetMemory:
  """Makes a memory as large as an energy network's writable weights.

  Args:
    network: the energy network.
    shape: shape of a pattern.
    kind: a name in `MEMORIES`.
    **sizes: keywords num_words, num_reads, hidden_size and num_filters.

  Returns:
    The memory.

  Raises:
    ValueError: there is no such kind, or as the memory's function.
  """
  if kind not in MEMORIES:
    raise ValueError(f"kind is {kind!r}; it must be one of {(*MEMORIES,)}.")
  num_floats = energy_networks.count_written(network, shape)
  return MEMORIES[kind](shape, num_floats, **sizes)
