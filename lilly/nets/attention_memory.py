"""A memory network: words of patterns are kept, and found by attention.

A baseline of memories that are written by gradients. An encoder makes a word of
each pattern; the words are the memory. A query is encoded by the same encoder,
attends to the words, and what it finds is added to what it asks next; of that a
decoder makes a pattern.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import chex
import haiku as hk
import jax
import jax.numpy as jnp

from lilly.memory import addressing
from lilly.nets import encoders, energy_memory

__all__ = ["AttentionMemory", "attention_memory", "recall", "word_size"]


class AttentionMemory(NamedTuple):
  """Functions of one pattern, parameters first."""

  init: Callable[[jax.Array, jax.Array], Any]  # key, pattern -> parameters
  encode: Callable[[Any, jax.Array], jax.Array]  # pattern -> word, [W]
  ask: Callable[[Any, jax.Array], jax.Array]  # word of a query -> u⁰, [W]
  decode: Callable[[Any, jax.Array], jax.Array]  # u -> pattern, in [0, 1]


def word_size(num_floats: int, num_words: int, pattern_size: int) -> int:
  """Shares numbers among words.

  Args:
    num_floats: of the memory that this one is compared with.
    num_words: N.
    pattern_size: numbers of a pattern, more than which no word needs.

  Returns:
    W; N W is at most num_floats, but a word has at least one number.

  Raises:
    ValueError: if one of them is not positive.

  >>> word_size(495, 4, 32), word_size(495, 100, 32), word_size(3, 4, 32)
  (32, 4, 1)
  """
  _check(num_floats=num_floats, num_words=num_words, pattern_size=pattern_size)
  return max(1, min(num_floats // num_words, pattern_size))


def _check(**sizes):
  for name, size in sizes.items():
    if size < 1:
      raise ValueError(f"{name} is {size}; it must be a positive integer.")


def attention_memory(
  shape: tuple[int, ...],
  size: int,
  *,
  hidden_size: int = 128,
  num_filters: int = 0,
) -> AttentionMemory:
  """Makes the networks.

  Args:
    shape: of a pattern: rows, columns and channels, or one number of bits.
    size: numbers of a word, W.
    hidden_size: units of perceptrons' hidden layers.
    num_filters: of convolutional encoder and decoder, of images only; 0: both
      are perceptrons.

  Returns:
    The networks.

  Raises:
    ValueError: the shape is another; or a size is not positive, when called.

  Reference:
    Weston, Chopra and Bordes (2015), arXiv:1410.3916, and Sukhbaatar et al.
    (2015), arXiv:1503.08895, whose hops these are. How Bartunov et al. (2020),
    arXiv:1910.02720, made theirs is not known to us.

  >>> nets = attention_memory((8,), 3, hidden_size=4)
  >>> params = nets.init(jax.random.key(0), jnp.zeros(8))
  >>> nets.encode(params, jnp.zeros(8)).shape
  (3,)
  """
  if len(shape) not in (1, 3):
    raise ValueError(f"shape is {shape}; it must have 1 or 3 numbers.")
  is_flat = len(shape) == 1
  image_shape = (1, *shape, 1) if is_flat else shape
  num_filters = 0 if is_flat else num_filters

  def build():
    encoder, decoder = encoders.pair(
      cast(Any, image_shape),
      size,
      hidden_size=hidden_size,
      num_filters=num_filters,
    )
    question = hk.Linear(size, name="question")

    def encode(x):
      chex.assert_shape(x, shape)
      return encoder(x.reshape(image_shape))

    def decode(u):
      return jax.nn.sigmoid(decoder(u)).reshape(shape)

    return lambda x: decode(question(encode(x))), (encode, question, decode)

  made = hk.without_apply_rng(hk.multi_transform(build))
  return AttentionMemory(made.init, *cast(Any, made.apply))


def recall(
  memory: AttentionMemory,
  params: Any,
  patterns: jax.Array,
  queries: jax.Array,
  *,
  num_reads: int,
) -> energy_memory.Recall:
  """Writes a set of patterns, and reads each query.

  m_i = encode(x_i); u⁰ = ask(encode(x̃)); K times
  u <- u + Σ_i softmax_i(m_i·u / √W) m_i, x^k = decode(u).

  Args:
    memory: as from `attention_memory`.
    params: of it.
    patterns: x_i, [N, ...]; their order does not matter.
    queries: x̃, [M, ...].
    num_reads: K.

  Returns:
    What was written, the words, [N, W], and read, x¹ .. x^K, [M, K, ...]; there
    is no energy.

  Raises:
    ValueError: if N is 0, or num_reads is not positive.

  Reference:
    As of `attention_memory`.
  """
  _check(num_reads=num_reads)
  if not len(patterns):
    raise ValueError("patterns has 0 items; give 1 or more.")
  encode = jax.vmap(memory.encode, (None, 0))
  words = encode(params, patterns)
  similarity = lambda u, words: words @ u / math.sqrt(words.shape[1])

  def hop(u, _):
    weights = addressing.content_weights(
      u, words, jnp.ones((), u.dtype), similarity=similarity
    )
    u = u + addressing.weighted_sum(weights, words)
    return u, memory.decode(params, u)

  def read(word):
    return jax.lax.scan(hop, memory.ask(params, word), length=num_reads)[1]

  reads = jax.vmap(read)(encode(params, queries))
  return energy_memory.Recall(words, None, reads)
