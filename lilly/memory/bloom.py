"""Bloom filters: approximate sets in few bits, without false negatives.

k hash functions map an element to k bits, which are set when it is inserted. So
an inserted element is always found, in any order of insertion and at any load;
a small fraction of non-members is found too: the false positives. The
false-positive rate and the number of bits required are in closed form, also for
a cuckoo filter and for the information-theoretic lower bound.

Elements are arrays of any one shape and dtype; arrays of equal numbers are the
same element. Their bits are hashed, so query with the dtype that was inserted;
64-bit NumPy arrays are cast to 32 bits first, unless `jax_enable_x64` is set.
Nothing here is differentiable.
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
_ABSENT = np.uint32(2**32 - 1)  # an index beyond the end of any filter


class State(NamedTuple):
  """A Bloom filter; bit i is bit i % 32 of word i // 32."""

  words: jax.Array  # uint32 [⌈m / 32⌉]
  num_bits: jax.Array  # m, uint32 []
  seeds: jax.Array  # uint32 [k], one per hash function


def init(key: jax.Array, num_bits: int, num_hashes: int) -> State:
  """Creates an empty filter.

  Args:
    key: typed PRNG key for the hash functions.
    num_bits: number of bits m, from 1 to 2³¹.
    num_hashes: number of hash functions k, at least 1. See `optimal_size`.

  Returns:
    The filter. While it is empty, its `num_bits` may be lowered, so that one
    `vmap` handles filters of several sizes.

  Raises:
    ValueError: if m or k is out of range.

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
    elements: [n, ...]; may be empty and may contain repeated or already
      inserted elements.
    where: mask of the elements to insert, bool [n]; None means all.

  Returns:
    The filter. Inserting more elements than it was sized for raises its
    false-positive rate. Time is O(n k log(n k)), independent of m.

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
  # Adding a bit sets it only if it is 0 and added once, so repeated indices are
  # dropped; after sorting they are adjacent.
  places = jnp.sort(places.ravel())
  is_first = jnp.append(True, places[1:] != places[:-1])[: places.size]
  index, bit = _bit(places)
  is_set = state.words.at[index].get(mode="fill", fill_value=0) & bit
  added = jnp.where(is_first & (is_set == 0), bit, 0)
  return state._replace(words=state.words.at[index].add(added, mode="drop"))


def query(state: State, element: jax.Array) -> jax.Array:
  """Tests whether an element may be in the set.

  Args:
    state: the filter.
    element: the element, [...].

  Returns:
    Bool []: always true for an inserted element, and true for a non-member
    with probability `false_positive_rate`.

  Reference:
    Bloom (1970), Communications of the ACM 13:422.

  >>> bool(query(init(jax.random.key(0), 40, 3), jnp.array([1.0, 2.0])))
  False
  """
  index, bit = _bit(_places(state, element))
  return jnp.all(state.words[index] & bit != 0)


def _bit(places):
  """The word that holds a bit, and the mask of the bit within that word."""
  return places >> 5, jnp.uint32(1) << (places & 31)


def _places(state, element):
  """Indices of the bits of an element, uint32 [k]."""
  first, second = _fingerprint(_bits(element))
  hashes = _mixed(first ^ state.seeds) + _mixed(second + _mixed(state.seeds))
  return hashes % state.num_bits


def _bits(x):
  """An element's bits as uint32, equal for equal numbers."""
  x = jnp.asarray(x)
  if x.dtype == bool:
    x = x.astype(jnp.uint8)
  if jnp.iscomplexobj(x):
    x = jnp.stack([x.real, x.imag])
  unsigned = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
  bits_of = lambda x: jax.lax.bitcast_convert_type(x, unsigned)
  bits = bits_of(x)
  if jnp.issubdtype(x.dtype, jnp.floating):
    # Floats have two zeros and many NaNs.
    minus_zero, nan = (bits_of(jnp.asarray(y, x.dtype)) for y in (-0.0, np.nan))
    bits = jnp.where(bits == minus_zero, 0, bits)
    bits = jnp.where(jnp.isnan(x), nan, bits)
  if x.dtype.itemsize < 4:
    bits = bits.astype(jnp.uint32)
  return jax.lax.bitcast_convert_type(bits, jnp.uint32).ravel()


def _fingerprint(bits):
  """Hashes words to two numbers; sums are unordered, so positions enter too."""
  where = jnp.arange(bits.size, dtype=jnp.uint32) * np.uint32(0x9E3779B9)
  first = jnp.sum(_mixed(bits ^ _mixed(where + 1)), dtype=jnp.uint32)
  second = jnp.sum(_mixed(bits + _mixed(where + 2)), dtype=jnp.uint32)
  return first, second


def _mixed(x):
  """Mixes 32 bits by MurmurHash3's finalizer."""
  x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
  x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
  return x ^ (x >> 16)


def optimal_size(num_elements: int, fpr: float) -> tuple[int, int]:
  """Computes the smallest filter with a given false-positive rate.

  m = 1 / (1 - (1 - fpr^(1/k))^(1/(k n))), for the integers k next to
  log2(1/fpr).

  Args:
    num_elements: number of elements n; 0 gives a filter of one bit.
    fpr: false-positive rate, between 0 and 1.

  Returns:
    m and k, integers.

  Raises:
    ValueError: if n is negative, fpr is not between 0 and 1, or m exceeds 2³¹.

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
  """Computes the false-positive rate of a Bloom filter.

  (1 - (1 - 1/m)^(k n))^k.

  Args:
    num_bits: number of bits m, at least 1, [].
    num_hashes: number of hash functions k, [].
    num_elements: number of distinct elements n, [].

  Returns:
    The rate, []; a slight underestimate for filters of a few bits, whose set
    bits are not independent.

  Reference:
    Bloom (1970), Communications of the ACM 13:422.

  >>> f"{float(false_positive_rate(960, 7, 100)):.4f}"
  '0.0100'
  """
  log_zeros = jax.scipy.special.xlog1py(
    # As floats: 2^31 and above overflow int32.
    *jnp.broadcast_arrays(1.0 * num_hashes * num_elements, -1 / num_bits)
  )
  return jnp.abs(jnp.expm1(log_zeros)) ** num_hashes


def space(num_elements: float | jax.Array, fpr: float | jax.Array) -> jax.Array:
  """Computes the bits required by a Bloom filter: n log2(1/fpr) log2(e).

  Args:
    num_elements: number of elements n, [].
    fpr: false-positive rate, between 0 and 1, [].

  Returns:
    Bits, [], 1.44 times `least_space`; k = log2(1/fpr) is not rounded.

  Raises:
    ValueError: if n is a negative number, or fpr is a number that is not
      between 0 and 1.

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
  """Computes the bits required by a cuckoo filter: n (log2(1/fpr) + c) / load.

  Args:
    num_elements: number of elements n, [].
    fpr: false-positive rate, between 0 and 1, [].
    load: load factor of the table, above 0, at most 1.
    overhead: bits c per element in addition to its fingerprint.

  Returns:
    Bits, [].

  Raises:
    ValueError: as `space`, or if load is out of range, or c is negative.

  Reference:
    Fan et al. (2014), CoNEXT; the default load and c reproduce the numbers of
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, which does not state
    them.

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
  """Computes the lower bound on the bits of any filter: n log2(1/fpr).

  Args:
    num_elements: number of elements n, [].
    fpr: false-positive rate, between 0 and 1, [].

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
  # In single precision a rate below 1e-38 would be 0.
  log = math.log2 if isinstance(fpr, numbers.Real) else jnp.log2
  return jnp.asarray(1.0 * num_elements * -log(fpr))


def _check(num_elements, fpr):
  if isinstance(num_elements, numbers.Real) and not float(num_elements) >= 0:
    raise ValueError(
      f"num_elements is {num_elements}; it must not be negative."
    )
  if isinstance(fpr, numbers.Real) and not 0 < float(fpr) < 1:
    raise ValueError(f"fpr is {fpr}; it must be between 0 and 1.")
