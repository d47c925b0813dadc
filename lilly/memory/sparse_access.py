"""Sparse Access Memory (SAM): reads of K words and writes of K + 1.

One step of a recurrent network is `write`, then `read`. No work is O(N), be it
forward or backward, but for an exact search: with an `Index` the search takes
constant time. The least recently used slot takes O(sqrt N). See `sparse_rows`
for how gradients travel: along the returned states; a loss of the numbers in
`state.words.words` themselves has none.

A patent exists on this family of memories (US 11,151,443).
"""

import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from lilly.memory import (
  addressing,
  nearest_neighbors,
  recency,
  sparse_rows,
)

__all__ = [
  "Address",
  "State",
  "content_address",
  "detach",
  "init",
  "read",
  "read_at",
  "write",
]


class Address(NamedTuple):
  """Few slots and their weights, for each head."""

  slots: jax.Array  # [H, K] int32; N: absent, of weight 0
  weights: jax.Array  # [H, K]


class State(NamedTuple):
  """The memory and what a step needs of the step before."""

  words: sparse_rows.State  # [N, W]
  accesses: recency.State  # when each slot was accessed last
  reads: Address  # of the last read, [H, K]
  writes: Address  # of the last write, [H, K + 1], the erased slot last
  time: jax.Array  # [] int32, writes so far
  index: nearest_neighbors.Index | None  # None: exact search


def init(
  num_slots: int,
  word_size: int,
  *,
  num_heads: int = 4,
  num_reads: int = 4,
  index: nearest_neighbors.Index | None = None,
  gradient_rows: int | None = None,
  fill: float = 1e-6,
  dtype: jax.typing.DTypeLike = jnp.float32,
) -> State:
  """Makes an empty memory.

  Args:
    num_slots: N.
    word_size: W.
    num_heads: H, each of which reads and writes at every step.
    num_reads: K, words a head reads.
    index: an empty one, which finds only what was written; None searches all.
    gradient_rows: as in `sparse_rows.init`; num_heads * (num_reads + 1) times
      the steps between two calls of `detach` are enough, and so is N.
    fill: value of every number of the memory.
    dtype: of the words.

  Returns:
    The state, at time 0 and with nothing read.

  Raises:
    ValueError: if a size is not positive, there are fewer slots than heads or
      words to read, `fill` is not finite, or the index has another N or W.

  Reference:
    Rae et al. (2016), arXiv:1610.09027, section 3. The initial words are not
    stated there; small constants as Collier and Beel (2018), arXiv:1807.08518.

  >>> init(1024, 32).reads.slots.shape
  (4, 4)
  """
  _check(fill, index, num_slots, word_size, num_heads, num_reads)
  words = jnp.full((num_slots, word_size), fill, dtype)

  def nowhere(count):
    slots = jnp.full((num_heads, count), num_slots, jnp.int32)
    return Address(slots, jnp.zeros((num_heads, count), dtype))

  return State(
    words=sparse_rows.init(words, gradient_rows=gradient_rows),
    accesses=recency.init(num_slots),
    reads=nowhere(num_reads),
    writes=nowhere(num_reads + 1),
    time=jnp.int32(0),
    index=index,
  )


def _check(fill, index, *sizes):
  names = ("num_slots", "word_size", "num_heads", "num_reads")
  sizes = dict(zip(names, sizes, strict=True))
  for name, size in sizes.items():
    if size < 1:
      raise ValueError(f"{name} must be positive, got {size}.")
  for name in ("num_heads", "num_reads"):
    if sizes[name] > sizes["num_slots"]:
      raise ValueError(
        f"{name} must be at most num_slots={sizes['num_slots']}, got "
        f"{sizes[name]}."
      )
  if not math.isfinite(fill):
    raise ValueError(f"fill must be finite, got {fill}.")
  if index is not None:
    wanted = (sizes["num_slots"], sizes["word_size"])
    found = (len(index.places), index.hyperplanes.shape[-1])
    if found != wanted:
      raise ValueError(
        f"index must be for num_slots, word_size = {wanted}, got {found}."
      )


def detach(state: State) -> State:
  """Ends a segment of truncated backpropagation; the words stay.

  Args:
    state: the memory.

  Returns:
    The state, through which no gradient passes.

  Reference:
    Rae et al. (2016), arXiv:1610.09027, section 3.4.

  >>> detach(init(8, 2)).time
  Array(0, dtype=int32)
  """
  words = sparse_rows.detach(state.words)
  return jax.lax.stop_gradient(state._replace(words=words))


def _touch(state: State, *addresses: Address, delta: float) -> recency.State:
  """Notes slots whose weights, those of the present step together, exceed δ."""
  if not 0 <= delta < 1:
    raise ValueError(f"delta is {delta}; it must be in [0, 1).")
  slots = jnp.concatenate([a.slots.reshape(-1) for a in addresses])
  weights = jnp.concatenate([a.weights.reshape(-1) for a in addresses])
  weights = jax.lax.stop_gradient(weights)
  is_same = slots[:, None] == slots[None]
  total = jnp.sum(jnp.where(is_same, weights[None], 0), axis=1)
  slots = jnp.where(total > delta, slots, state.words.words.shape[0])
  # Those of the write, if the last address is one, have been noted by it.
  return recency.touch(
    state.accesses, slots[: addresses[0].slots.size], state.time
  )


def write(
  state: State,
  word: jax.Array,
  write_gate: jax.Array,
  interpolation_gate: jax.Array,
  *,
  delta: float = 0.005,
) -> State:
  """Writes each head's word where it last read and to an unused slot.

  w^W = α (γ w^R_tm1 + (1 - γ) I^U);  M_t = (1 - I^U 1ᵀ) M_tm1 + w^W aᵀ.

  The slot u of I^U is the one accessed longest ago, another for each head. It
  is erased at every step, whatever the gates. O(H K (W + sqrt N)), and with an
  index the cost of `nearest_neighbors.insert`.

  Args:
    state: the memory.
    word: a, [H, W].
    write_gate: α in (0, 1), [H].
    interpolation_gate: γ in (0, 1), [H]; 1 writes only where it was read.
    delta: δ, the weight above which a slot counts as accessed.

  Returns:
    The state. No gradient passes through the choice of slots.

  Raises:
    ValueError: delta is not in [0, 1).

  Reference:
    Rae et al. (2016), arXiv:1610.09027, equations 3, 5, 6 and 8, with U^(2).

  >>> state = init(4, 2, num_heads=1, num_reads=1)
  >>> state = write(state, jnp.ones((1, 2)), jnp.ones(1), jnp.zeros(1))
  >>> state.words.words[0].tolist()
  [1.0, 1.0]
  """
  num_heads, _ = state.reads.slots.shape
  _, word_size = state.words.words.shape
  chex.assert_shape(word, (num_heads, word_size))
  chex.assert_shape([write_gate, interpolation_gate], (num_heads,))
  erased = recency.least_recent(state.accesses, num_heads)
  gate = interpolation_gate[:, None]
  weights = jnp.concatenate([gate * state.reads.weights, 1 - gate], axis=1)
  writes = Address(
    slots=jnp.concatenate([state.reads.slots, erased[:, None]], axis=1),
    weights=write_gate[:, None] * weights,
  )
  slots = writes.slots.reshape(-1)
  additions = writes.weights[..., None] * word[:, None]
  additions = additions.reshape(-1, word_size)
  words = sparse_rows.write(state.words, erased, slots, additions)
  weights = writes.weights.astype(state.writes.weights.dtype)
  state = state._replace(
    words=words, writes=writes._replace(weights=weights), time=state.time + 1
  )
  state = state._replace(accesses=_touch(state, state.writes, delta=delta))
  return _filed(state, slots)


def _filed(state, slots):
  """Files what slots now hold in the index, if there is one."""
  if state.index is None:
    return state
  written = jax.lax.stop_gradient(state.words.words)
  written = written.at[slots].get(mode="fill", fill_value=0)
  index = nearest_neighbors.insert(state.index, slots, written)
  return state._replace(index=index)


def content_address(
  state: State,
  query: jax.Array,
  strength: jax.Array,
  *,
  similarity: addressing.Similarity = addressing.cosine_similarity,
) -> tuple[State, Address, jax.Array]:
  """Finds the K words most similar to each query, and weighs them.

  w(s_k) = exp(β d(q, M(s_k))) / Σ_k' exp(β d(q, M(s_k'))).

  Args:
    state: the memory.
    query: q, [H, W]. Where it is not finite, neither are the weights.
    strength: β, [H].
    similarity: d, of a query [W] and words [K, W], [K].

  Returns:
    The state, the address, and the words there, [H, K, W]. Gradients reach q, β
    and these words.

  Reference:
    Rae et al. (2016), arXiv:1610.09027, section 3.1. That the weights are
    normalised over the K words is a reading of the paper (unconfirmed), and β
    is not among its heads' parameters: without it a cosine could not weigh the
    best word more than e² times the worst.

  >>> state, address, words = content_address(
  ...   init(8, 2, num_heads=1), jnp.ones((1, 2)), jnp.ones(1)
  ... )
  >>> address.weights.tolist(), words.shape
  ([[0.25, 0.25, 0.25, 0.25]], (1, 4, 2))
  """
  num_heads, count = state.reads.slots.shape
  num_slots, word_size = state.words.words.shape
  chex.assert_shape(query, (num_heads, word_size))
  chex.assert_shape(strength, (num_heads,))
  slots = _search(state, query, count, similarity)
  words, rows = sparse_rows.read(state.words, slots.reshape(-1))
  rows = rows.reshape(num_heads, count, word_size)

  def weigh(query, rows, strength, is_found):
    return addressing.content_weights(
      query, rows, strength, similarity=similarity, where=is_found
    )

  weights = jax.vmap(weigh)(query, rows, strength, slots < num_slots)
  is_finite = jnp.isfinite(query).all(axis=1, keepdims=True)
  weights = jnp.where(is_finite, weights, jnp.nan)
  return state._replace(words=words), Address(slots, weights), rows


def _search(state, query, count, similarity):
  words = state.words.words

  def search(query):
    if state.index is None:
      return nearest_neighbors.exact(words, query, count, similarity=similarity)
    return nearest_neighbors.query(
      state.index, words, query, count, similarity=similarity
    )

  return jax.vmap(search)(query)


def read_at(
  state: State, address: Address, *, delta: float = 0.005
) -> tuple[State, jax.Array]:
  """Reads at given slots, as when content is mixed with other addresses.

  Args:
    state: the memory.
    address: where, [H, K']; absent slots read as zeros. A K' other than K
      changes the shape of the state.
    delta: δ, the weight above which a slot counts as accessed.

  Returns:
    The state and r, [H, W].

  Reference:
    Rae et al. (2016), arXiv:1610.09027, equation 4.

  >>> state = init(4, 2, num_heads=1, num_reads=1, fill=1.0)
  >>> address = Address(jnp.array([[2]]), jnp.array([[0.5]]))
  >>> read_at(state, address)[1].tolist()
  [[0.5, 0.5]]
  """
  chex.assert_axis_dimension(address.slots, 0, state.reads.slots.shape[0])
  words, rows = sparse_rows.read(state.words, address.slots.reshape(-1))
  rows = rows.reshape(*address.slots.shape, -1)
  return _finish(state._replace(words=words), address, rows, delta)


def _finish(state, address, rows, delta):
  dtype = state.reads.weights.dtype
  r = jax.vmap(addressing.weighted_sum)(address.weights, rows).astype(dtype)
  # A head that read NaN read nothing: it must not write there.
  weights = jnp.where(jnp.isfinite(address.weights), address.weights, 0)
  reads = address._replace(weights=weights.astype(dtype))
  accesses = _touch(state, reads, state.writes, delta=delta)
  return state._replace(accesses=accesses, reads=reads), r


def read(
  state: State,
  query: jax.Array,
  strength: jax.Array,
  *,
  similarity: addressing.Similarity = addressing.cosine_similarity,
  delta: float = 0.005,
) -> tuple[State, jax.Array]:
  """Reads the K words most similar to each head's query.

  r = Σ_k w(s_k) M(s_k), with w of `content_address`.

  Args:
    state: the memory, after the write of the same step.
    query: q, [H, W]. Where it is not finite the read is NaN and counts as
      weights of 0: the head has read nothing.
    strength: β, [H].
    similarity: d, of a query [W] and words [K, W], [K].
    delta: δ, the weight above which a slot counts as accessed.

  Returns:
    The state and r, [H, W].

  Reference:
    Rae et al. (2016), arXiv:1610.09027, equation 4 and section 3.1.

  >>> state, r = read(init(8, 2), jnp.ones((4, 2)), jnp.ones(4))
  >>> r.shape
  (4, 2)
  """
  state, address, rows = content_address(
    state, query, strength, similarity=similarity
  )
  return _finish(state, address, rows, delta)
