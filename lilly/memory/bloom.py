"""Bloom filters: approximate sets in few bits, without false negatives.

k hashes of an element name k bits, which are 1 once it is in the set. So what
was inserted is always found, in whatever order and however much else there is;
a small fraction of other elements is found too: the false positives. Their rate
and the bits that it costs are in closed form, as are those of a cuckoo filter
and of any filter.

Elements are arrays of any one shape and type; those of equal numbers are the
same. They are hashed by their bits: give the type that was inserted; NumPy's
numbers of 64 bits are cut to 32 before, unless JAX is told to keep them
(`jax_enable_x64`). Nothing here has a gradient.
"""

import math
import numbers
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

__all__ = [
  "State",
  "cuckoo_space",
  "false_positive_rate",
  "init",
  "insert",
  "least_space",
  "optimal_size",
  "query",
  "space",
]

_MOST_BITS = 2**31
_ABSENT = np.uint32(2**32 - 1)  # a place behind those of any filter


class State(NamedTuple):
  """A filter; bit i is bit i % 32 of word i // 32."""

  words: jax.Array  # uint32 [⌈m / 32⌉]
  num_bits: jax.Array  # m, uint32 []
  seeds: jax.Array  # uint32 [k], one for each hash


def init(key: jax.Array, num_bits: int, num_hashes: int) -> State:
  """Makes an empty filter.

  Args:
    key: typed key; draws the hashes.
    num_bits: m, from 1 to 2³¹.
    num_hashes: k, at least 1. See `optimal_size` for both.

  Returns:
    The filter. While it is empty m may be made less: so filters of several
    sizes go through one `vmap`.

  Raises:
    ValueError: if m or k is not as said.

  Reference:
    Bloom (1970), Communications of the ACM 13:422.

  >>> init(jax.random.key(0), 40, 3).words.tolist()
  [0, 0]
  """
  if not 1 <= num_bits <= _MOST_BITS:
    raise ValueError(f"num_bits is {num_bits}; it must be from 1 to 2**31.")
  if num_hashes < 1:
    raise ValueError(f"num_hashes is {num_hashes}; it must be 1 or more.")
  words = jnp.zeros(-(-num_bits // 32), jnp.uint32)
  seeds = jax.random.bits(key, (num_hashes,), jnp.uint32)
  return State(words, jnp.asarray(num_bits, jnp.uint32), seeds)


def insert(
  state: State, elements: jax.Array, *, where: jax.Array | None = None
) -> State:
  """Inserts elements.

  Args:
    state: the filter.
    elements: [n, ...]; may repeat, or be there already, or be none.
    where: which of them to insert, booleans, [n]; None is all.

  Returns:
    The filter. Of more elements than it was made for, there are more false
    positives. Time is O(n k log(n k)), whatever m is.

  Reference:
    Bloom (1970), Communications of the ACM 13:422.

  >>> state = insert(init(jax.random.key(0), 40, 3), jnp.array([5, 7]))
  >>> [bool(query(state, jnp.array(x))) for x in (5, 6, 7)]
  [True, False, True]
  """
  chex.assert_rank(elements, set(range(1, 9)))
  places = jax.vmap(_places, in_axes=(None, 0))(state, elements)
  if where is not None:
    chex.assert_shape(where, elements.shape[:1])
    places = jnp.where(where[:, None], places, _ABSENT)
  # To add a bit is to set it, where it is 0 and added once: so places that
  # repeat are left out, which are next to each other once they are sorted.
  places = jnp.sort(places.ravel())
  is_first = jnp.append(True, places[1:] != places[:-1])[: places.size]
  index, bit = _bit(places)
  is_set = state.words.at[index].get(mode="fill", fill_value=0) & bit
  added = jnp.where(is_first & (is_set == 0), bit, 0)
  return state._replace(words=state.words.at[index].add(added, mode="drop"))


def query(state: State, element: jax.Array) -> jax.Array:
  """Tells whether an element may be in the set.

  Args:
    state: the filter.
    element: [...].

  Returns:
    Whether, [] bool: always true of what was inserted, and of other elements
    with probability `false_positive_rate`.

  Reference:
    Bloom (1970), Communications of the ACM 13:422.

  >>> bool(query(init(jax.random.key(0), 40, 3), jnp.array([1.0, 2.0])))
  False
  """
  index, bit = _bit(_places(state, element))
  return jnp.all(state.words[index] & bit != 0)


def _bit(places):
  """Where a bit is: its word, and that word with this bit only."""
  return places >> 5, jnp.uint32(1) << (places & 31)


def _places(state, element):
  """The bits of an element, uint32 [k]."""
  first, second = _fingerprint(_bits(element))
  hashes = _mixed(first ^ state.seeds) + _mixed(second + _mixed(state.seeds))
  return hashes % state.num_bits


def _bits(x):
  """An element as unsigned integers of 32 bits, equal for equal numbers."""
  x = jnp.asarray(x)
  if x.dtype == bool:
    x = x.astype(jnp.uint8)
  if jnp.iscomplexobj(x):
    x = jnp.stack([x.real, x.imag])
  unsigned = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
  bits_of = lambda x: jax.lax.bitcast_convert_type(x, unsigned)
  bits = bits_of(x)
  if jnp.issubdtype(x.dtype, jnp.floating):
    # There are two zeros, and many that are not a number.
    minus_zero, nan = (bits_of(jnp.asarray(y, x.dtype)) for y in (-0.0, np.nan))
    bits = jnp.where(bits == minus_zero, 0, bits)
    bits = jnp.where(jnp.isnan(x), nan, bits)
  if x.dtype.itemsize < 4:
    bits = bits.astype(jnp.uint32)
  return jax.lax.bitcast_convert_type(bits, jnp.uint32).ravel()


def _fingerprint(bits):
  """Hashes words to two numbers; the sums have no order, the places do."""
  where = jnp.arange(bits.size, dtype=jnp.uint32) * np.uint32(0x9E3779B9)
  first = jnp.sum(_mixed(bits ^ _mixed(where + 1)), dtype=jnp.uint32)
  second = jnp.sum(_mixed(bits + _mixed(where + 2)), dtype=jnp.uint32)
  return first, second


def _mixed(x):
  """Mixes 32 bits: the finalizer of MurmurHash3."""
  x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
  x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
  return x ^ (x >> 16)


def optimal_size(num_elements: int, fpr: float) -> tuple[int, int]:
  """Finds the least filter that keeps a false positive rate.

  m = 1 / (1 - (1 - fpr^(1/k))^(1/(k n))), for whole k next to log2(1/fpr).

  Args:
    num_elements: n; of 0 it is a filter of one bit.
    fpr: the rate, between 0 and 1.

  Returns:
    m and k, whole numbers.

  Raises:
    ValueError: if n is negative, or the rate not between 0 and 1, or more bits
      would be needed than a filter can have.

  Reference:
    Bloom (1970), Communications of the ACM 13:422; `false_positive_rate` solved
    for m.

  >>> optimal_size(100, 0.01)
  (960, 7)
  """
  _check(num_elements, fpr)
  if not num_elements:
    return 1, 1
  sizes = []
  for k in (math.floor(-math.log2(fpr)), math.ceil(-math.log2(fpr))):
    k = max(k, 1)
    is_zero = math.log1p(-(fpr ** (1 / k))) / (k * num_elements)
    sizes.append((math.ceil(-1 / math.expm1(is_zero)), k))
  num_bits, num_hashes = min(sizes)
  if num_bits > _MOST_BITS:
    raise ValueError(
      f"num_elements is {num_elements} and fpr {fpr}; they need {num_bits} "
      "bits, at most 2**31 are allowed."
    )
  return num_bits, num_hashes


def false_positive_rate(
  num_bits: float | jax.Array,
  num_hashes: float | jax.Array,
  num_elements: float | jax.Array,
) -> jax.Array:
  """Returns the rate of false positives of a filter.

  (1 - (1 - 1/m)^(k n))^k.

  Args:
    num_bits: m, at least 1, [].
    num_hashes: k, [].
    num_elements: n, all different, [].

  Returns:
    The rate, []; somewhat too little for filters of a few bits, of which the
    bits that are set are not independent.

  Reference:
    Bloom (1970), Communications of the ACM 13:422.

  >>> f"{float(false_positive_rate(960, 7, 100)):.4f}"
  '0.0100'
  """
  log_zeros = jax.scipy.special.xlog1py(
    # Floats: 2^31 and more does not go into whole numbers of 32 bits.
    *jnp.broadcast_arrays(1.0 * num_hashes * num_elements, -1 / num_bits)
  )
  return jnp.abs(jnp.expm1(log_zeros)) ** num_hashes


def space(num_elements: float | jax.Array, fpr: float | jax.Array) -> jax.Array:
  """Tells how many bits a Bloom filter takes: n log2(1/fpr) log2(e).

  Args:
    num_elements: n, [].
    fpr: the rate, between 0 and 1, [].

  Returns:
    Bits, [], 1.44 times `least_space`; k = log2(1/fpr) need not be whole.

  Raises:
    ValueError: if n is a negative number, or the rate one that is not between
      0 and 1: at 1 nothing need be kept, at 0 no number of bits is enough.

  Reference:
    Bloom (1970), as in Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304.

  >>> f"{float(space(5000, 0.05)) / 1000:.1f}"
  '31.2'
  """
  return least_space(num_elements, fpr) / math.log(2)


def cuckoo_space(
  num_elements: float | jax.Array,
  fpr: float | jax.Array,
  *,
  load: float = 0.955,
  overhead: float = 2.0,
) -> jax.Array:
  """Tells how many bits a cuckoo filter takes: n (log2(1/fpr) + c) / load.

  Args:
    num_elements: n, [].
    fpr: the rate, between 0 and 1, [].
    load: how much of the table is in use, above 0, at most 1.
    overhead: c, bits for each element besides its fingerprint.

  Returns:
    Bits, [].

  Raises:
    ValueError: as `space`, or if load is not as said, or c is negative.

  Reference:
    Fan et al. (2014), CoNEXT; load and c as they give the numbers of Rae,
    Bartunov and Lillicrap (2019), arXiv:1906.04304, who do not tell them.

  >>> f"{float(cuckoo_space(5000, 0.05)) / 1000:.1f}"
  '33.1'
  """
  if not 0 < load <= 1:
    raise ValueError(f"load is {load}; it must be above 0 and at most 1.")
  if not overhead >= 0:
    raise ValueError(f"overhead is {overhead}; it must not be negative.")
  return (least_space(num_elements, fpr) + 1.0 * num_elements * overhead) / load


def least_space(
  num_elements: float | jax.Array, fpr: float | jax.Array
) -> jax.Array:
  """Tells how many bits any filter of any set takes: n log2(1/fpr).

  Args:
    num_elements: n, [].
    fpr: the rate, between 0 and 1, [].

  Returns:
    Bits, [].

  Raises:
    ValueError: as `space`.

  Reference:
    Carter et al. (1978), STOC, as in Rae, Bartunov and Lillicrap (2019),
    arXiv:1906.04304.

  >>> float(least_space(10, 0.25))
  20.0
  """
  _check(num_elements, fpr)
  # A rate below 1e-38 is 0 in single precision.
  log = math.log2 if isinstance(fpr, numbers.Real) else jnp.log2
  return jnp.asarray(1.0 * num_elements * -log(fpr))


def _check(num_elements, fpr):
  if isinstance(num_elements, numbers.Real) and not float(num_elements) >= 0:
    raise ValueError(
      f"num_elements is {num_elements}; it must not be negative."
    )
  if isinstance(fpr, numbers.Real) and not 0 < float(fpr) < 1:
    raise ValueError(f"fpr is {fpr}; it must be between 0 and 1.")
