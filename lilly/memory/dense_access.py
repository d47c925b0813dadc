"""Dense memories: every read is a weighted sum over all words.

DAM (Dense Access Memory), the dense counterpart of Sparse Access Memory; and
the Neural Turing Machine, prefixed `ntm_`. A step is one `write`, then one
`read`, which sees the memory after the write. A step is O(H N W) for H heads
and N words of size W.

Whole numbers count as float32. A non-finite read query makes that head's read
NaN, while the state stays finite. Any other non-finite input spreads over the
memory. All functions raise ValueError for arguments of another shape than
stated.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lilly import checks
from lilly.memory import addressing

__all__ = [
  "NtmAddress",
  "NtmState",
  "State",
  "init",
  "ntm_address",
  "ntm_init",
  "ntm_read",
  "ntm_write",
  "read",
  "write",
]


class State(NamedTuple):
  """State of a Dense Access Memory between steps."""

  memory: jax.Array  # M, [N, W]
  read_weights: jax.Array  # w^R of the last read, [H, N]
  write_weights: jax.Array  # w^W of the last write, [H, N]
  usage: jax.Array  # U, discounted accesses before the last write, [N]


def init(
  num_slots: int,
  word_size: int,
  *,
  num_heads: int = 1,
  fill: float = 1e-6,
  dtype: jax.typing.DTypeLike = jnp.float32,
) -> State:
  """Creates an empty Dense Access Memory.

  Args:
    num_slots: number of memory slots, N.
    word_size: size of a memory word, W.
    num_heads: number of heads, H; each reads and writes at every step.
    fill: initial value of all memory entries.
    dtype: data type of all arrays.

  Returns:
    The state, with zero read and write weights and zero usage.

  Raises:
    ValueError: if a size is not positive, there are fewer slots than heads, or
      fill is not finite.

  Reference:
    Rae et al. (2016), arXiv:1610.09027, section 3. The initial words are not
    stated there; a small constant follows Collier and Beel (2018),
    arXiv:1807.08518.

  >>> init(64, 32, num_heads=4).read_weights.shape
  (4, 64)
  """
  num_slots, word_size, num_heads, fill = _checked_sizes(
    num_slots, word_size, num_heads, fill
  )
  if num_heads > num_slots:
    raise ValueError(
      f"num_heads is {num_heads}; it must be at most num_slots, {num_slots}."
    )
  return State(
    memory=jnp.full((num_slots, word_size), fill, dtype),
    read_weights=jnp.zeros((num_heads, num_slots), dtype),
    write_weights=jnp.zeros((num_heads, num_slots), dtype),
    usage=jnp.zeros(num_slots, dtype),
  )


def _checked_sizes(num_slots, word_size, num_heads, fill):
  return (
    checks.whole_number("num_slots", num_slots, least=1),
    checks.whole_number("word_size", word_size, least=1),
    checks.whole_number("num_heads", num_heads, least=1),
    checks.number("fill", fill),
  )


def write(
  state: State,
  word: jax.Array,
  write_gate: jax.Array,
  interpolation_gate: jax.Array,
) -> State:
  """Writes to the slots read at the previous step and to the least used slots.

  w^W_h = α_h (γ_h w^R_h + (1 - γ_h) I_h),
  M <- (1 - Σ_h I_h 1ᵀ) ⊙ M + Σ_h w^W_h a_hᵀ,
  with w^R of the previous step and I_h the indicator of the h-th least used
  slot; ties go to the lowest slot. These H slots are erased regardless of the
  gates. No gradient passes through I.

  Args:
    state: the memory.
    word: word to write a, [H, W].
    write_gate: α, [H], in [0, 1].
    interpolation_gate: γ, [H], in [0, 1]: 1 writes to the slots last read.

  Returns:
    The updated state.

  Reference:
    Rae et al. (2016), arXiv:1610.09027, equations 3, 5 and 8. The paper states
    them for one head; one erased slot per head is our interpretation.

  >>> gates = jnp.ones(1), jnp.zeros(1)
  >>> write(init(3, 2, fill=0.0), jnp.ones((1, 2)), *gates).memory.tolist()
  [[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]
  """
  sizes = {}
  state = _checked_state(state, sizes)
  word = checks.real("word", word, "H W", sizes)
  alpha = checks.real("write_gate", write_gate, "H", sizes)
  gamma = checks.real("interpolation_gate", interpolation_gate, "H", sizes)
  num_heads, num_slots = state.read_weights.shape
  dtype, wide = _types(state.memory)
  alpha, gamma = alpha.astype(wide)[:, None], gamma.astype(wide)[:, None]
  least_used = jax.lax.top_k(-state.usage, num_heads)[1]
  indicators = jax.nn.one_hot(least_used, num_slots, dtype=wide)
  weights = alpha * (gamma * state.read_weights + (1 - gamma) * indicators)
  # `where` instead of a product, so that NaN is erased too.
  is_erased = jnp.any(indicators > 0, axis=0)[:, None]
  memory = jnp.where(is_erased, 0, state.memory) + _outer(weights, word)
  return state._replace(
    memory=memory.astype(dtype), write_weights=weights.astype(dtype)
  )


def _checked_state(state, sizes):
  memory = checks.real("state.memory", state.memory, "N W", sizes)
  reads = checks.real("state.read_weights", state.read_weights, "H N", sizes)
  writes = checks.real("state.write_weights", state.write_weights, "H N", sizes)
  usage = checks.real("state.usage", state.usage, "N", sizes)
  return _without_weak_types(State(memory, reads, writes, usage))


def _without_weak_types(state):
  """Fixes the type of what was whole numbers."""
  return jax.tree.map(lambda x: x.astype(x.dtype), state)


def _types(memory):
  """The dtype of a memory, and one wide enough for sums."""
  return memory.dtype, jnp.promote_types(memory.dtype, jnp.float32)


def _outer(weights, words):
  """Sums the outer products of [H, N] and [H, W] over the heads."""
  return jax.vmap(addressing.weighted_sum, (1, None))(weights, words)


def read(
  state: State,
  query: jax.Array,
  strength: jax.Array,
  *,
  similarity: addressing.Similarity = addressing.cosine_similarity,
  usage_discount: float = 0.99,
) -> tuple[State, jax.Array]:
  """Reads by content, and updates the usage of the slots.

  w^R_h = softmax(β_h d(q_h, M)),  r_h = Σ_i w^R_h(i) M(i),
  U <- λ U + Σ_h (w^W_h + w^R_h).

  Args:
    state: the memory after this step's write.
    query: q, [H, W]. A non-finite query reads NaN, and zero weights are stored
      for its head.
    strength: key strength β, [H], positive.
    similarity: similarity measure d.
    usage_discount: λ, in [0, 1]. The paper does not state it; 0.99 is ours.

  Returns:
    The updated state, and each head's read vector, [H, W].

  Raises:
    ValueError: if usage_discount is not in [0, 1].

  Reference:
    Rae et al. (2016), arXiv:1610.09027, section 3.2, U^(1). The paper has no β;
    1 gives its softmax.

  >>> state, words = read(init(3, 2), jnp.ones((1, 2)), jnp.ones(1))
  >>> words.shape, state.read_weights.shape
  ((1, 2), (1, 3))
  """
  usage_discount = checks.number(
    "usage_discount", usage_discount, least=0, most=1
  )
  sizes = {}
  state = _checked_state(state, sizes)
  query = checks.real("query", query, "H W", sizes)
  strength = checks.real("strength", strength, "H", sizes)
  dtype, wide = _types(state.memory)

  def head(q, beta):
    w = addressing.content_weights(q, state.memory, beta, similarity=similarity)
    return w, addressing.weighted_sum(w, state.memory)

  weights, words = jax.vmap(head)(query, strength)
  kept = jnp.where(jnp.isfinite(weights), weights, 0)
  accesses = state.write_weights.astype(wide) + kept
  usage = usage_discount * state.usage + jnp.sum(accesses, axis=0)
  state = state._replace(
    read_weights=kept.astype(dtype),
    usage=jax.lax.stop_gradient(usage).astype(dtype),
  )
  return state, words.astype(dtype)


class NtmAddress(NamedTuple):
  """Addressing parameters of heads; for a single head without axis H."""

  query: jax.Array  # k, [H, W]
  strength: jax.Array  # β, [H], positive
  gate: jax.Array  # g, [H], in [0, 1]: 1 content only, 0 location only
  kernel: jax.Array  # s, [H, 2s + 1], sums to 1: shifts from -s to s
  exponent: jax.Array  # γ, [H], at least 1


class NtmState(NamedTuple):
  """State of a Neural Turing Machine's memory between steps."""

  memory: jax.Array  # M, [N, W]
  read_weights: jax.Array  # of the last read, [H, N]
  write_weights: jax.Array  # of the last write, [H, N]


def ntm_init(
  num_slots: int,
  word_size: int,
  *,
  num_heads: int = 1,
  fill: float = 1e-6,
  dtype: jax.typing.DTypeLike = jnp.float32,
) -> NtmState:
  """Creates an empty Neural Turing Machine memory.

  Args:
    num_slots: number of memory slots, N.
    word_size: size of a memory word, W.
    num_heads: number of read heads, and of write heads, H.
    fill: initial value of all memory entries.
    dtype: data type of all arrays.

  Returns:
    The state; all heads attend to slot 0.

  Raises:
    ValueError: if a size is not positive, or fill is not finite.

  Reference:
    Graves, Wayne and Danihelka (2014), arXiv:1410.5401, which states neither
    the initial memory nor the initial weights. A small constant follows Collier
    and Beel (2018), arXiv:1807.08518; slot 0 is our choice.

  >>> ntm_init(3, 2).read_weights.tolist()
  [[1.0, 0.0, 0.0]]
  """
  num_slots, word_size, num_heads, fill = _checked_sizes(
    num_slots, word_size, num_heads, fill
  )
  start = jnp.zeros((num_heads, num_slots), dtype).at[:, 0].set(1)
  memory = jnp.full((num_slots, word_size), fill, dtype)
  return NtmState(memory, read_weights=start, write_weights=jnp.copy(start))


def ntm_address(
  previous_weights: jax.Array,
  words: jax.Array,
  address: NtmAddress,
  *,
  similarity: addressing.Similarity = addressing.cosine_similarity,
) -> jax.Array:
  """Computes the weights of one head: by content, then by location.

  softmax(β d(k, M)), interpolated with the previous weights by g, shifted by s,
  sharpened by γ: see `addressing`.

  Args:
    previous_weights: weights of the head at the previous step, [N].
    words: memory words M, [N, W].
    address: parameters of one head: query [W], strength [], gate [], kernel
      [2s + 1], exponent [].
    similarity: similarity measure d.

  Returns:
    Weights, [N], summing to 1.

  Raises:
    ValueError: if the kernel has even length.

  Reference:
    Graves, Wayne and Danihelka (2014), arXiv:1410.5401, equations 5 to 9.

  >>> stay = NtmAddress(jnp.ones(2), *jnp.array([1.0, 0.0]), jnp.eye(3)[1], 1.0)
  >>> ntm_address(jnp.array([0.0, 1.0, 0.0]), jnp.eye(3, 2), stay).tolist()
  [0.0, 1.0, 0.0]
  """
  sizes = {}
  previous_weights = checks.real(
    "previous_weights", previous_weights, "N", sizes
  )
  words = checks.real("words", words, "N W", sizes)
  address = _checked_address(address, "", sizes)
  weights = addressing.content_weights(
    address.query, words, address.strength, similarity=similarity
  )
  weights = addressing.interpolate(weights, previous_weights, address.gate)
  weights = addressing.shift(weights, address.kernel)
  return addressing.sharpen(weights, address.exponent)


def _checked_address(address, heads, sizes):
  """Addressing parameters, each with the leading axes `heads`."""
  address = NtmAddress(
    query=checks.real("address.query", address.query, f"{heads} W", sizes),
    strength=checks.real("address.strength", address.strength, heads, sizes),
    gate=checks.real("address.gate", address.gate, heads, sizes),
    kernel=checks.real("address.kernel", address.kernel, f"{heads} K", sizes),
    exponent=checks.real("address.exponent", address.exponent, heads, sizes),
  )
  size = address.kernel.shape[-1]
  if size % 2 == 0:
    raise ValueError(f"address.kernel has length {size}; it must be odd.")
  return address


def _checked_ntm(state, address, sizes):
  """The state, and addressing parameters of its heads."""
  memory = checks.real("state.memory", state.memory, "N W", sizes)
  reads = checks.real("state.read_weights", state.read_weights, "H N", sizes)
  writes = checks.real("state.write_weights", state.write_weights, "H N", sizes)
  state = _without_weak_types(NtmState(memory, reads, writes))
  return state, _checked_address(address, "H", sizes)


def _ntm_move(previous, memory, address, similarity):
  """New weights of all heads, for this step's access and for the state."""

  def move(previous, address):
    return ntm_address(previous, memory, address, similarity=similarity)

  weights = jax.vmap(move)(previous, address)
  kept = jnp.where(jnp.isfinite(weights), weights, previous)
  return weights, kept.astype(previous.dtype)


def ntm_write(
  state: NtmState,
  address: NtmAddress,
  erase: jax.Array,
  word: jax.Array,
  *,
  similarity: addressing.Similarity = addressing.cosine_similarity,
) -> NtmState:
  """Moves the write heads, erases, then adds.

  M <- Π_h (1 - w_h e_hᵀ) ⊙ M + Σ_h w_h a_hᵀ.

  Args:
    state: the memory.
    address: where to write, applied to the memory before the write.
    erase: erase vector e, [H, W], in [0, 1].
    word: add vector a, [H, W].
    similarity: similarity measure d.

  Returns:
    The updated state.

  Raises:
    ValueError: if the kernels have even length.

  Reference:
    Graves, Wayne and Danihelka (2014), arXiv:1410.5401, equations 3 and 4.

  >>> here = jnp.ones((1, 2)), jnp.ones(1), jnp.zeros(1), jnp.ones((1, 1))
  >>> state, word = ntm_init(2, 2, fill=0.0), jnp.array([[3.0, 5.0]])
  >>> address = NtmAddress(*here, exponent=jnp.ones(1))
  >>> ntm_write(state, address, jnp.ones((1, 2)), word).memory.tolist()
  [[3.0, 5.0], [0.0, 0.0]]
  """
  sizes = {}
  state, address = _checked_ntm(state, address, sizes)
  erase = checks.real("erase", erase, "H W", sizes)
  word = checks.real("word", word, "H W", sizes)
  dtype, wide = _types(state.memory)
  weights, kept = _ntm_move(
    state.write_weights, state.memory, address, similarity
  )
  w, e = weights.astype(wide), erase.astype(wide)
  retained = jnp.prod(1 - w[:, :, None] * e[:, None, :], axis=0)
  memory = state.memory * retained + _outer(w, word)
  return state._replace(memory=memory.astype(dtype), write_weights=kept)


def ntm_read(
  state: NtmState,
  address: NtmAddress,
  *,
  similarity: addressing.Similarity = addressing.cosine_similarity,
) -> tuple[NtmState, jax.Array]:
  """Moves the read heads, and reads.

  r_h = Σ_i w_h(i) M(i).

  Args:
    state: the memory after this step's write.
    address: where to read. A head with a non-finite address reads NaN and keeps
      its previous weights.
    similarity: similarity measure d.

  Returns:
    The updated state, and each head's read vector, [H, W].

  Raises:
    ValueError: if the kernels have even length.

  Reference:
    Graves, Wayne and Danihelka (2014), arXiv:1410.5401, equation 2.

  >>> here = jnp.ones((1, 2)), jnp.ones(1), jnp.zeros(1), jnp.ones((1, 1))
  >>> state = ntm_init(2, 2)._replace(memory=jnp.array([[3.0, 5.0], [7, 9]]))
  >>> ntm_read(state, NtmAddress(*here, exponent=jnp.ones(1)))[1].tolist()
  [[3.0, 5.0]]
  """
  state, address = _checked_ntm(state, address, {})
  weights, kept = _ntm_move(
    state.read_weights, state.memory, address, similarity
  )
  words = jax.vmap(addressing.weighted_sum, (0, None))(weights, state.memory)
  return state._replace(read_weights=kept), words.astype(state.memory.dtype)
