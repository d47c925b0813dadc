"""Sparse Access Memory (SAM): reads of K words and writes of K + 1.

One step of a recurrent network is `write`, then `read`. Neither pass, forward
or backward, does O(N) work, except for an exact search: with an `Index` the
search takes constant time. The least recently used slot is found in O(sqrt N).
See `sparse_rows` for gradients: they flow along the returned states; a loss of
`state.words.words` itself has none. Whole numbers count as float32. All
functions raise ValueError for arguments of another shape than stated.

A patent exists on this family of memories (US 11,151,443).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lilly import checks
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
  """A few slots and their weights, per head."""

  slots: jax.Array  # [H, K] int32; N marks an absent slot, of weight 0
  weights: jax.Array  # [H, K]


class State(NamedTuple):
  """State of the memory between steps."""

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
  """Creates an empty memory.

  Args:
    num_slots: number of memory slots, N.
    word_size: size of a memory word, W.
    num_heads: number of heads, H; each reads and writes at every step.
    num_reads: words read per head, K.
    index: an empty index, which finds only written words; None searches all
      words exactly.
    gradient_rows: see `sparse_rows.init`; num_heads * (num_reads + 1) times
      the steps between two calls of `detach` are enough, and so is N.
    fill: initial value of all memory entries.
    dtype: data type of the words.

  Returns:
    The state at time 0, with no reads or writes.

  Raises:
    ValueError: if a size is not positive, there are fewer slots than heads or
      words to read, `fill` is not finite, or the index has another N or W.

  Reference:
    Rae et al. (2016), arXiv:1610.09027, section 3. The initial words are not
    stated there; a small constant follows Collier and Beel (2018),
    arXiv:1807.08518.

  >>> init(1024, 32).reads.slots.shape
  (4, 4)
  """
  num_slots = checks.whole_number("num_slots", num_slots, least=1)
  word_size = checks.whole_number("word_size", word_size, least=1)
  num_heads = checks.whole_number("num_heads", num_heads, least=1)
  num_reads = checks.whole_number("num_reads", num_reads, least=1)
  fill = checks.number("fill", fill)
  for name, size in (("num_heads", num_heads), ("num_reads", num_reads)):
    if size > num_slots:
      raise ValueError(
        f"{name} is {size}; it must be at most num_slots, {num_slots}."
      )
  if index is not None:
    sizes = {"N": (num_slots, "num_slots"), "W": (word_size, "word_size")}
    index = _checked_index("index", index, sizes)
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


def _checked_state(state, sizes):
  """The state, of N words of size W, H heads and K words read by each."""
  words, accesses = state.words, state.accesses
  tape, tickets = "N W", None
  if words.tickets is not None:
    tape = "T W"
    tickets = checks.integers("state.words.tickets", words.tickets, "N", sizes)
  words = sparse_rows.State(
    words=checks.real("state.words.words", words.words, "N W", sizes),
    tape=checks.real("state.words.tape", words.tape, tape, sizes),
    tickets=tickets,
    first=checks.integers("state.words.first", words.first, ""),
    following=checks.integers("state.words.following", words.following, ""),
  )
  blocks = jax.eval_shape(lambda: recency.init(len(words.words))).times
  num_blocks, block_size = blocks.shape
  accesses = recency.State(
    times=checks.integers(
      "state.accesses.times", accesses.times, f"{num_blocks} {block_size}"
    ),
    oldest=checks.integers(
      "state.accesses.oldest", accesses.oldest, f"{num_blocks}"
    ),
  )
  state = State(
    words=words,
    accesses=accesses,
    reads=_checked_address("state.reads", state.reads, "H K", sizes),
    writes=_checked_address("state.writes", state.writes, "H J", sizes),
    time=checks.integers("state.time", state.time, ""),
    index=_checked_index("state.index", state.index, sizes),
  )
  # Fixes the type of what was whole numbers.
  return jax.tree.map(lambda x: x.astype(x.dtype), state)


def _checked_address(name, address, shape, sizes):
  return Address(
    slots=checks.integers(f"{name}.slots", address.slots, shape, sizes),
    weights=checks.real(f"{name}.weights", address.weights, shape, sizes),
  )


def _checked_index(name, index, sizes):
  if index is None:
    return None
  planes = checks.real(f"{name}.hyperplanes", index.hyperplanes, "L b W", sizes)
  buckets = f"L {2 ** planes.shape[1]}"
  return nearest_neighbors.Index(
    planes,
    checks.integers(f"{name}.entries", index.entries, f"{buckets} C", sizes),
    checks.integers(f"{name}.cursors", index.cursors, buckets, sizes),
    checks.integers(f"{name}.places", index.places, "N L", sizes),
  )


def detach(state: State) -> State:
  """Ends a segment of truncated backpropagation; the words are kept.

  Args:
    state: the memory.

  Returns:
    The state, through which no gradient passes.

  Reference:
    Rae et al. (2016), arXiv:1610.09027, section 3.4.

  >>> detach(init(8, 2)).time
  Array(0, dtype=int32)
  """
  state = _checked_state(state, {})
  words = sparse_rows.detach(state.words)
  return jax.lax.stop_gradient(state._replace(words=words))


def _touch(state: State, *addresses: Address, delta: float) -> recency.State:
  """Records slots whose weights, summed over this step's accesses, exceed δ."""
  slots = jnp.concatenate([a.slots.reshape(-1) for a in addresses])
  weights = jnp.concatenate([a.weights.reshape(-1) for a in addresses])
  weights = jax.lax.stop_gradient(weights)
  is_same = slots[:, None] == slots[None]
  total = jnp.sum(jnp.where(is_same, weights[None], 0), axis=1)
  slots = jnp.where(total > delta, slots, state.words.words.shape[0])
  # The write's own accesses, if the last address is one, are recorded by it.
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
  """Writes each head's word to its last read slots and to an unused slot.

  w^W = α (γ w^R_tm1 + (1 - γ) I^U);  M_t = (1 - I^U 1ᵀ) M_tm1 + w^W aᵀ.

  The slot u of I^U is the least recently accessed, a different one per head. It
  is erased at every step, regardless of the gates. O(H K (W + sqrt N)), plus
  the cost of `nearest_neighbors.insert` with an index.

  Args:
    state: the memory.
    word: a, [H, W].
    write_gate: α in (0, 1), [H].
    interpolation_gate: γ in (0, 1), [H]; 1 writes only to the slots last read.
    delta: δ, the weight above which a slot counts as accessed.

  Returns:
    The updated state. No gradient passes through the choice of slots.

  Raises:
    ValueError: if delta is not in [0, 1).

  Reference:
    Rae et al. (2016), arXiv:1610.09027, equations 3, 5, 6 and 8, with U^(2).

  >>> state = init(4, 2, num_heads=1, num_reads=1)
  >>> state = write(state, jnp.ones((1, 2)), jnp.ones(1), jnp.zeros(1))
  >>> state.words.words[0].tolist()
  [1.0, 1.0]
  """
  delta = checks.number("delta", delta, least=0, below=1)
  sizes = {}
  state = _checked_state(state, sizes)
  word = checks.real("word", word, "H W", sizes)
  write_gate = checks.real("write_gate", write_gate, "H", sizes)
  interpolation_gate = checks.real(
    "interpolation_gate", interpolation_gate, "H", sizes
  )
  num_heads, word_size = word.shape
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
  """Inserts the slots' new words into the index, if there is one."""
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
  """Finds the K words most similar to each query, and computes their weights.

  w(s_k) = exp(β d(q, M(s_k))) / Σ_k' exp(β d(q, M(s_k'))).

  Args:
    state: the memory.
    query: q, [H, W]. A non-finite query gives NaN weights.
    strength: key strength β, [H].
    similarity: d, maps a query [W] and words [K, W] to similarities [K].

  Returns:
    The updated state, the address, and the words there, [H, K, W]. Gradients
    reach q, β and these words.

  Reference:
    Rae et al. (2016), arXiv:1610.09027, section 3.1. Normalising over the K
    words is our interpretation (unconfirmed), and the paper has no β: without
    it a cosine could not weight the best word more than e² times the worst.

  >>> state, address, words = content_address(
  ...   init(8, 2, num_heads=1), jnp.ones((1, 2)), jnp.ones(1)
  ... )
  >>> address.weights.tolist(), words.shape
  ([[0.25, 0.25, 0.25, 0.25]], (1, 4, 2))
  """
  sizes = {}
  state = _checked_state(state, sizes)
  query = checks.real("query", query, "H W", sizes)
  strength = checks.real("strength", strength, "H", sizes)
  num_heads, count = state.reads.slots.shape
  num_slots, word_size = state.words.words.shape
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
  """Reads at given slots, e.g. to mix content with other addresses.

  Args:
    state: the memory.
    address: slots and weights, [H, K']; absent slots read as zeros. A K' other
      than K changes the shape of the state.
    delta: δ, the weight above which a slot counts as accessed.

  Returns:
    The updated state and r, [H, W].

  Raises:
    ValueError: if delta is not in [0, 1).

  Reference:
    Rae et al. (2016), arXiv:1610.09027, equation 4.

  >>> state = init(4, 2, num_heads=1, num_reads=1, fill=1.0)
  >>> address = Address(jnp.array([[2]]), jnp.array([[0.5]]))
  >>> read_at(state, address)[1].tolist()
  [[0.5, 0.5]]
  """
  delta = checks.number("delta", delta, least=0, below=1)
  sizes = {}
  state = _checked_state(state, sizes)
  address = _checked_address("address", address, "H A", sizes)
  words, rows = sparse_rows.read(state.words, address.slots.reshape(-1))
  rows = rows.reshape(*address.slots.shape, -1)
  return _finish(state._replace(words=words), address, rows, delta)


def _finish(state, address, rows, delta):
  dtype = state.reads.weights.dtype
  r = jax.vmap(addressing.weighted_sum)(address.weights, rows).astype(dtype)
  # A head whose read is NaN must not write to its slots at the next step.
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
    state: the memory, after this step's write.
    query: q, [H, W]. A non-finite query reads NaN, and zero weights are stored
      for its head.
    strength: key strength β, [H].
    similarity: d, maps a query [W] and words [K, W] to similarities [K].
    delta: δ, the weight above which a slot counts as accessed.

  Returns:
    The updated state and r, [H, W].

  Raises:
    ValueError: if delta is not in [0, 1).

  Reference:
    Rae et al. (2016), arXiv:1610.09027, equation 4 and section 3.1.

  >>> state, r = read(init(8, 2), jnp.ones((4, 2)), jnp.ones(4))
  >>> r.shape
  (4, 2)
  """
  delta = checks.number("delta", delta, least=0, below=1)
  state, address, rows = content_address(
    state, query, strength, similarity=similarity
  )
  return _finish(state, address, rows, delta)
