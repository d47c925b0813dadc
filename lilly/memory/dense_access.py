"""Dense memories: every word takes part in every read.

DAM (Dense Access Memory), the dense twin of the sparse access memory; and the
Neural Turing Machine, under `ntm_`. A step is `write`, then `read`, once each:
what is read is the memory after the write of the same step. A step is O(H N W)
for H heads that read and write N words of size W.

A query to read that is not finite makes that head's read NaN, and the state
stays finite. Whatever else is not finite spreads over the memory.
"""

import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

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
  """A Dense Access Memory and what a step needs of the step before."""

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
  """Makes an empty Dense Access Memory.

  Args:
    num_slots: N.
    word_size: W.
    num_heads: H, each of which reads and writes at every step.
    fill: value of every number of the memory.
    dtype: of all arrays.

  Returns:
    The state: nothing was read or written, every slot is unused.

  Raises:
    ValueError: if a size is not positive, there are fewer slots than heads, or
      fill is not finite.

  Reference:
    Rae et al. (2016), arXiv:1610.09027, section 3. The initial words are not
    stated there; small constants as Collier and Beel (2018), arXiv:1807.08518.

  >>> init(64, 32, num_heads=4).read_weights.shape
  (4, 64)
  """
  _check_sizes(num_slots, word_size, num_heads, fill)
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


def _check_sizes(num_slots, word_size, num_heads, fill):
  sizes = {"num_slots": num_slots, "word_size": word_size}
  for name, size in (sizes | {"num_heads": num_heads}).items():
    if size < 1:
      raise ValueError(f"{name} is {size}; it must be positive.")
  if not math.isfinite(fill):
    raise ValueError(f"fill is {fill}; it must be finite.")


def write(
  state: State,
  word: jax.Array,
  write_gate: jax.Array,
  interpolation_gate: jax.Array,
) -> State:
  """Writes where the step before read, and over the least used slots.

  w^W_h = α_h (γ_h w^R_h + (1 - γ_h) I_h),
  M <- (1 - Σ_h I_h 1ᵀ) ⊙ M + Σ_h w^W_h a_hᵀ,
  with w^R of the previous step and I_h the indicator of the h-th least used
  slot; of equally used slots the lowest comes first. These H slots are erased
  whatever the gates are. No gradient passes through I.

  Args:
    state: the memory.
    word: a, [H, W].
    write_gate: α, [H], in [0, 1].
    interpolation_gate: γ, [H], in [0, 1]: 1 writes where was read.

  Returns:
    The state.

  Reference:
    Rae et al. (2016), arXiv:1610.09027, equations 3, 5 and 8. One slot for each
    head is our reading: the paper has them for one head.

  >>> gates = jnp.ones(1), jnp.zeros(1)
  >>> write(init(3, 2, fill=0.0), jnp.ones((1, 2)), *gates).memory.tolist()
  [[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]
  """
  num_heads, num_slots = state.read_weights.shape
  chex.assert_shape(word, (num_heads, state.memory.shape[1]))
  chex.assert_shape([write_gate, interpolation_gate], (num_heads,))
  dtype, wide = _types(state.memory)
  alpha = jnp.asarray(write_gate, wide)[:, None]
  gamma = jnp.asarray(interpolation_gate, wide)[:, None]
  least_used = jax.lax.top_k(-state.usage, num_heads)[1]
  indicators = jax.nn.one_hot(least_used, num_slots, dtype=wide)
  weights = alpha * (gamma * state.read_weights + (1 - gamma) * indicators)
  # Not by a product: NaN is erased too.
  is_erased = jnp.any(indicators > 0, axis=0)[:, None]
  memory = jnp.where(is_erased, 0, state.memory) + _outer(weights, word)
  return state._replace(
    memory=memory.astype(dtype), write_weights=weights.astype(dtype)
  )


def _types(memory):
  """The type of a memory, and one wide enough for sums."""
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
  """Reads by content, and notes what this step has read and written.

  w^R_h = softmax(β_h d(q_h, M)),  r_h = Σ_i w^R_h(i) M(i),
  U <- λ U + Σ_h (w^W_h + w^R_h).

  Args:
    state: the memory after this step's write.
    query: q, [H, W]. One that is not finite reads NaN and is kept as weights
      of 0: the head has read nothing.
    strength: β, [H], positive.
    similarity: d.
    usage_discount: λ, in [0, 1]. Not stated in the paper: 0.99 is ours.

  Returns:
    The state, and what each head read, [H, W].

  Raises:
    ValueError: if usage_discount is not in [0, 1].

  Reference:
    Rae et al. (2016), arXiv:1610.09027, section 3.2, U^(1). β is not among the
    paper's parameters of a head; 1 is a softmax without.

  >>> state, words = read(init(3, 2), jnp.ones((1, 2)), jnp.ones(1))
  >>> words.shape, state.read_weights.shape
  ((1, 2), (1, 3))
  """
  if isinstance(usage_discount, int | float) and not 0 <= usage_discount <= 1:
    raise ValueError(
      f"usage_discount is {usage_discount}; it must be in [0, 1]."
    )
  num_heads = state.read_weights.shape[0]
  chex.assert_shape(query, (num_heads, state.memory.shape[1]))
  chex.assert_shape(strength, (num_heads,))
  dtype, wide = _types(state.memory)

  def head(q, beta):
    w = addressing.content_weights(q, state.memory, beta, similarity=similarity)
    return w, addressing.weighted_sum(w, state.memory)

  weights, words = jax.vmap(head)(query, strength)
  kept = jnp.where(jnp.isfinite(weights), weights, 0)
  accesses = jnp.asarray(state.write_weights, wide) + kept
  usage = usage_discount * state.usage + jnp.sum(accesses, axis=0)
  state = state._replace(
    read_weights=kept.astype(dtype),
    usage=jax.lax.stop_gradient(usage).astype(dtype),
  )
  return state, words.astype(dtype)


class NtmAddress(NamedTuple):
  """What says where heads read or write; one head has no first axis."""

  query: jax.Array  # k, [H, W]
  strength: jax.Array  # β, [H], positive
  gate: jax.Array  # g, [H], in [0, 1]: 1 is content only, 0 location only
  kernel: jax.Array  # s, [H, 2s + 1], of sum 1: shifts from -s to s
  exponent: jax.Array  # γ, [H], at least 1


class NtmState(NamedTuple):
  """A Neural Turing Machine's memory, and where its heads are."""

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
  """Makes an empty memory of a Neural Turing Machine.

  Args:
    num_slots: N.
    word_size: W.
    num_heads: H, heads that read, and as many that write.
    fill: value of every number of the memory.
    dtype: of all arrays.

  Returns:
    The state; all heads are at slot 0.

  Raises:
    ValueError: if a size is not positive, or fill is not finite.

  Reference:
    Graves, Wayne and Danihelka (2014), arXiv:1410.5401, which states neither
    the initial memory nor the initial weights. Small constants as Collier and
    Beel (2018), arXiv:1807.08518; slot 0, a place from which to move, is ours.

  >>> ntm_init(3, 2).read_weights.tolist()
  [[1.0, 0.0, 0.0]]
  """
  _check_sizes(num_slots, word_size, num_heads, fill)
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
  """Moves one head: by content, then by location.

  softmax(β d(k, M)), interpolated by g with the previous weights, shifted by s,
  sharpened by γ: see `addressing`.

  Args:
    previous_weights: where the head was, [N].
    words: M, [N, W].
    address: of one head: query [W], strength [], gate [], kernel [2s + 1],
      exponent [].
    similarity: d.

  Returns:
    Weights, [N], of sum 1.

  Raises:
    ValueError: if the kernel has no middle.

  Reference:
    Graves, Wayne and Danihelka (2014), arXiv:1410.5401, equations 5 to 9.

  >>> stay = NtmAddress(jnp.ones(2), *jnp.array([1.0, 0.0]), jnp.eye(3)[1], 1.0)
  >>> ntm_address(jnp.array([0.0, 1.0, 0.0]), jnp.eye(3, 2), stay).tolist()
  [0.0, 1.0, 0.0]
  """
  weights = addressing.content_weights(
    address.query, words, address.strength, similarity=similarity
  )
  weights = addressing.interpolate(weights, previous_weights, address.gate)
  weights = addressing.shift(weights, address.kernel)
  return addressing.sharpen(weights, address.exponent)


def _ntm_move(previous, memory, address, similarity):
  """Moves all heads; also says where they are after the step."""

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
  """Moves the heads that write, erases, then adds.

  M <- Π_h (1 - w_h e_hᵀ) ⊙ M + Σ_h w_h a_hᵀ.

  Args:
    state: the memory.
    address: where to write, by the memory before the write.
    erase: e, [H, W], in [0, 1].
    word: a, [H, W].
    similarity: d.

  Returns:
    The state.

  Raises:
    ValueError: if the kernels have no middle.

  Reference:
    Graves, Wayne and Danihelka (2014), arXiv:1410.5401, equations 3 and 4.

  >>> here = jnp.ones((1, 2)), jnp.ones(1), jnp.zeros(1), jnp.ones((1, 1))
  >>> state, word = ntm_init(2, 2, fill=0.0), jnp.array([[3.0, 5.0]])
  >>> address = NtmAddress(*here, exponent=jnp.ones(1))
  >>> ntm_write(state, address, jnp.ones((1, 2)), word).memory.tolist()
  [[3.0, 5.0], [0.0, 0.0]]
  """
  num_heads = state.write_weights.shape[0]
  chex.assert_shape([erase, word], (num_heads, state.memory.shape[1]))
  dtype, wide = _types(state.memory)
  weights, kept = _ntm_move(
    state.write_weights, state.memory, address, similarity
  )
  w, e = jnp.asarray(weights, wide), jnp.asarray(erase, wide)
  retained = jnp.prod(1 - w[:, :, None] * e[:, None, :], axis=0)
  memory = state.memory * retained + _outer(w, word)
  return state._replace(memory=memory.astype(dtype), write_weights=kept)


def ntm_read(
  state: NtmState,
  address: NtmAddress,
  *,
  similarity: addressing.Similarity = addressing.cosine_similarity,
) -> tuple[NtmState, jax.Array]:
  """Moves the heads that read, and reads.

  r_h = Σ_i w_h(i) M(i).

  Args:
    state: the memory after this step's write.
    address: where to read. A head whose address is not finite reads NaN, and
      stays where it was.
    similarity: d.

  Returns:
    The state, and what each head read, [H, W].

  Raises:
    ValueError: if the kernels have no middle.

  Reference:
    Graves, Wayne and Danihelka (2014), arXiv:1410.5401, equation 2.

  >>> here = jnp.ones((1, 2)), jnp.ones(1), jnp.zeros(1), jnp.ones((1, 1))
  >>> state = ntm_init(2, 2)._replace(memory=jnp.array([[3.0, 5.0], [7, 9]]))
  >>> ntm_read(state, NtmAddress(*here, exponent=jnp.ones(1)))[1].tolist()
  [[3.0, 5.0]]
  """
  weights, kept = _ntm_move(
    state.read_weights, state.memory, address, similarity
  )
  words = jax.vmap(addressing.weighted_sum, (0, None))(weights, state.memory)
  return state._replace(read_weights=kept), words.astype(state.memory.dtype)
