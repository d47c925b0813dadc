"""A memory network: stores encoded patterns, and reads them by attention.

A baseline for memories that are written by gradients. An encoder maps each
pattern to a word; the words are the memory. A query is encoded by the same
encoder and attends to the words; the attended sum is added to the query vector,
which a decoder maps to a pattern.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import haiku as hk
import jax
import jax.numpy as jnp

from lilly import checks
from lilly.memory import addressing
from lilly.nets import encoders
from lilly.nets.set_memories import SetMemory

__all__ = ["Networks", "choose_word_size", "make", "make_networks"]


class Networks(NamedTuple):
  """Functions of one pattern, parameters first."""

  init: Callable[[jax.Array, jax.Array], Any]  # key, pattern -> parameters
  encode: Callable[[Any, jax.Array], jax.Array]  # pattern -> word, [W]
  ask: Callable[[Any, jax.Array], jax.Array]  # word of a query -> u⁰, [W]
  decode: Callable[[Any, jax.Array], jax.Array]  # u -> pattern, in [0, 1]


def choose_word_size(num_floats: int, num_words: int, pattern_size: int) -> int:
  """Chooses the word size of a memory of a given total size.

  Args:
    num_floats: size of the memory that this one is compared with, in floats.
    num_words: number of words, N.
    pattern_size: size of a pattern, an upper bound of W.

  Returns:
    W, at least 1; otherwise N W is at most num_floats.

  Raises:
    ValueError: if one of them is not positive.

  >>> choose_word_size(495, 4, 32), choose_word_size(495, 100, 32)
  (32, 4)
  """
  _check(num_floats=num_floats, num_words=num_words, pattern_size=pattern_size)
  return max(1, min(num_floats // num_words, pattern_size))


def _check(**sizes):
  for name, size in sizes.items():
    checks.whole_number(name, size, least=1)


def make_networks(
  shape: tuple[int, ...],
  size: int,
  *,
  hidden_size: int = 128,
  num_filters: int = 0,
) -> Networks:
  """Makes the networks.

  Args:
    shape: shape of a pattern: rows, columns and channels, or a number of bits.
    size: size of a word, W.
    hidden_size: units of perceptrons' hidden layers.
    num_filters: filters of convolutional encoder and decoder, for images only;
      0: both are perceptrons.

  Returns:
    The networks.

  Raises:
    ValueError: the shape is invalid; or, when called, a size is not positive or
      a pattern or word has another shape.

  Reference:
    Weston, Chopra and Bordes (2015), arXiv:1410.3916, and Sukhbaatar et al.
    (2015), arXiv:1503.08895, for the hops. The networks of the baseline in
    Bartunov et al. (2020), arXiv:1910.02720, are not known.

  >>> nets = make_networks((8,), 3, hidden_size=4)
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
      x = checks.real("pattern", x, " ".join(map(str, shape)))
      return encoder(x.reshape(image_shape))

    def ask(word):
      return question(checks.real("word", word, f"{size}"))

    def decode(u):
      u = checks.real("u", u, f"{size}")
      return jax.nn.sigmoid(decoder(u)).reshape(shape)

    return lambda x: decode(ask(encode(x))), (encode, ask, decode)

  made = hk.without_apply_rng(hk.multi_transform(build))
  encode, ask, decode = cast(Any, made.apply)
  return Networks(made.init, encode, ask, decode)


def make(nets: Networks, *, num_reads: int) -> SetMemory:
  """Makes a memory network from its encoder and decoder.

  m_i = encode(x_i); u⁰ = ask(encode(x̃)); K times
  u <- u + Σ_i softmax_i(m_i·u / √W) m_i, x^k = decode(u).

  Args:
    nets: networks from `make_networks`.
    num_reads: hops of a read, K.

  Returns:
    The memory. Items and queries are patterns; the order of items does not
    matter. Its content is the words, [N, W]; its output is x¹ .. x^K, [K, ...].

  Raises:
    ValueError: num_reads is not positive; or N is 0, when called.

  Reference:
    See `make_networks`.
  """
  _check(num_reads=num_reads)

  def init(key, pattern):
    return nets.init(key, pattern), {}

  def write(params, state, patterns):
    if not len(patterns):
      raise ValueError("patterns has 0 items; give 1 or more.")
    return jax.vmap(nets.encode, (None, 0))(params, patterns)

  def similarity(u, words):
    return words @ u / math.sqrt(words.shape[1])

  def hop(params, words, u, _):
    weights = addressing.content_weights(
      u, words, jnp.ones((), u.dtype), similarity=similarity
    )
    u = u + addressing.weighted_sum(weights, words)
    return u, nets.decode(params, u)

  def read(params, state, words, query):
    start = nets.ask(params, nets.encode(params, query))
    step = functools.partial(hop, params, words)
    return jax.lax.scan(step, start, length=num_reads)[1]

  return SetMemory(init, write, read)
