"""Bloom filters: approximate sets in few bits, without false negatives.

k hash functions map an element to k bits, which are set when it is inserted. So
an inserted element is always found, in any order of insertion and at any load;
a small fraction of non-members is found too: the false positives. The
false-positive rate and the number of bits required are in closed form, also for
a cuckoo filter and for the information-theoretic lower bound.

Elements are arrays of any one shape and dtype; arrays of equal numbers are the
same element. Their bits are hashed, so query with the dtype that was inserted;
64-bit NumPy arrays are cast to 32 bits first, unless `jax_enable_x64` is set.
Filters are not differentiable: gradients are 0.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lilly import checks

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
  key = checks.key("key", key)
  num_bits = checks.whole_number("num_bits", num_bits, least=1, most=_MOST_BITS)
  num_hashes = checks.whole_number("num_hashes", num_hashes, least=1)
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

  Raises:
    ValueError: if `elements` is a scalar, or `where` has another size.

  Reference:
    Bloom (1970), Communications of the ACM 13:422.

  >>> state = insert(init(jax.random.key(0), 40, 3), jnp.array([5, 7]))
  >>> [bool(query(state, jnp.array(x))) for x in (5, 6, 7)]
  [True, False, True]
  """
  state = _checked_state(state)
  elements = checks.array("elements", elements, "...")
  if not elements.ndim:
    raise ValueError("elements is a scalar; it must be an array of elements.")
  places = jax.vmap(_places, in_axes=(None, 0))(state, elements)
  if where is not None:
    sizes = {"n": (len(elements), "elements")}
    is_inserted = checks.mask("where", where, "n", sizes)
    places = jnp.where(is_inserted[:, None], places, _ABSENT)
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
  state = _checked_state(state)
  element = checks.array("element", element, "...")
  index, bit = _bit(_places(state, element))
  return jnp.all(state.words[index] & bit != 0)


def _checked_state(state):
  words = checks.integers("state.words", state.words, "⌈m/32⌉")
  num_bits = checks.integers("state.num_bits", state.num_bits, "")
  seeds = checks.integers("state.seeds", state.seeds, "k")
  return State(*(x.astype(jnp.uint32) for x in (words, num_bits, seeds)))


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
  # More elements than that fit into no filter.
  num_elements = checks.whole_number("num_elements", num_elements, most=2**62)
  fpr = float(checks.number("fpr", fpr, above=0, below=1))
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
    bits are not independent. Differentiable for m above 1.

  Raises:
    ValueError: if a number is out of range.

  Reference:
    Bloom (1970), Communications of the ACM 13:422.

  >>> f"{float(false_positive_rate(960, 7, 100)):.4f}"
  '0.0100'
  """
  num_bits = checks.number("num_bits", num_bits, least=1)
  num_hashes = checks.number("num_hashes", num_hashes, least=0)
  num_elements = checks.number("num_elements", num_elements, least=0)
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
    ValueError: if n is negative, or fpr is not between 0 and 1.

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
  load = checks.number("load", load, above=0, most=1)
  overhead = checks.number("overhead", overhead, least=0)
  num_elements = checks.number("num_elements", num_elements, least=0)
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
  num_elements = checks.number("num_elements", num_elements, least=0)
  fpr = checks.number("fpr", fpr, above=0, below=1)
  # In single precision a rate below 1e-38 would be 0.
  log = jnp.log2 if isinstance(fpr, jax.Array) else math.log2
  return jnp.asarray(1.0 * num_elements * -log(fpr))
