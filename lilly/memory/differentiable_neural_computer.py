"""The memory of the Differentiable Neural Computer (DNC).

One head writes, by content or to slots that are free; R heads read, by content
or along the order in which slots were written. A step is `write`, then `read`,
once each: what is read is the memory after the write of the same step. It is
O(R N (N + W)) for N words of size W: the links between slots are N x N.

What a controller puts out becomes an interface before it comes here: sigmoids
for gates and erasures, 1 + softplus for strengths, softmax for modes. A key to
read that is not finite makes that head's read NaN, and the state stays finite.
Whatever else is not finite spreads over the memory.
"""

import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from lilly.memory import addressing

__all__ = [
  "ReadInterface",
  "State",
  "WriteInterface",
  "allocation",
  "directional_weights",
  "init",
  "read",
  "update_links",
  "update_usage",
  "write",
]


class State(NamedTuple):
  """The memory and what a step needs of the step before."""

  memory: jax.Array  # M, [N, W]
  read_weights: jax.Array  # w^r of the last read, [R, N]
  write_weights: jax.Array  # w^w of the last write, [N]
  usage: jax.Array  # u, in [0, 1], before the last write, [N]
  links: jax.Array  # L, [N, N]: how far slot i was written right after slot j
  precedence: jax.Array  # p: how far slot i was the last written, [N]


class WriteInterface(NamedTuple):
  """What a controller says about a write."""

  key: jax.Array  # k^w, [W]
  strength: jax.Array  # β^w, [], positive
  erase: jax.Array  # e, [W], in [0, 1]
  word: jax.Array  # v, [W]
  free_gates: jax.Array  # f, [R], in [0, 1]: 1 frees what the head has read
  allocation_gate: jax.Array  # g^a, [], in [0, 1]: 1 writes to free slots
  write_gate: jax.Array  # g^w, [], in [0, 1]: 0 writes nothing


class ReadInterface(NamedTuple):
  """What a controller says about a read."""

  keys: jax.Array  # k^r, [R, W]
  strengths: jax.Array  # β^r, [R], positive
  modes: jax.Array  # π, [R, 3], of sum 1: backward, by content, forward


def init(
  num_slots: int,
  word_size: int,
  *,
  num_reads: int = 4,
  fill: float = 1e-6,
  dtype: jax.typing.DTypeLike = jnp.float32,
) -> State:
  """Makes an empty memory.

  Args:
    num_slots: N.
    word_size: W.
    num_reads: R, heads that read.
    fill: value of every number of the memory.
    dtype: of all arrays.

  Returns:
    The state: nothing was read or written, every slot is free.

  Raises:
    ValueError: if a size is not positive or fill is not finite.

  Reference:
    Graves et al. (2016), Nature 538:471, methods: L_0 and p_0 are zero. For the
    words small constants as Collier and Beel (2018), arXiv:1807.08518; what the
    paper takes is unconfirmed.

  >>> init(16, 8).links.shape
  (16, 16)
  """
  sizes = {"num_slots": num_slots, "word_size": word_size}
  for name, size in (sizes | {"num_reads": num_reads}).items():
    if size < 1:
      raise ValueError(f"{name} is {size}; it must be positive.")
  if not math.isfinite(fill):
    raise ValueError(f"fill is {fill}; it must be finite.")
  return State(
    memory=jnp.full((num_slots, word_size), fill, dtype),
    read_weights=jnp.zeros((num_reads, num_slots), dtype),
    write_weights=jnp.zeros(num_slots, dtype),
    usage=jnp.zeros(num_slots, dtype),
    links=jnp.zeros((num_slots, num_slots), dtype),
    precedence=jnp.zeros(num_slots, dtype),
  )


def update_usage(
  usage: jax.Array,
  write_weights: jax.Array,
  read_weights: jax.Array,
  free_gates: jax.Array,
) -> jax.Array:
  """Takes what was written into use, and frees what was read and is done with.

  u <- (u + w^w - u ⊙ w^w) ⊙ ψ,  ψ = Π_r (1 - f_r w^r_r).

  Args:
    usage: u, [N], in [0, 1].
    write_weights: w^w of the previous step, [N].
    read_weights: w^r of the previous step, [R, N].
    free_gates: f of this step, [R], in [0, 1].

  Returns:
    Usage, [N], in [0, 1].

  Reference:
    Graves et al. (2016), Nature 538:471, methods, "Dynamic memory allocation".
    All of it is differentiated, as the equations stand; the authors' published
    code lets no gradient through w^w here.

  >>> used, read = jnp.array([1.0, 0.5]), jnp.array([[1.0, 0.0]])
  >>> update_usage(used, jnp.array([0.0, 0.5]), read, jnp.ones(1)).tolist()
  [0.0, 0.75]
  """
  chex.assert_rank([read_weights, free_gates], [2, 1])
  chex.assert_equal_shape([usage, write_weights, read_weights[0]])
  chex.assert_equal_shape_prefix([read_weights, free_gates], 1)
  retained = jnp.prod(1 - free_gates[:, None] * read_weights, axis=0)
  # In this form it rounds to at most 1.
  return (usage + (1 - usage) * write_weights) * retained


def allocation(usage: jax.Array) -> jax.Array:
  """Weights slots for writing by how free they are.

  a(φ_j) = (1 - u(φ_j)) Π_{i<j} u(φ_i), with φ the slots from the least used to
  the most used; of equally used slots the lowest comes first. The order has no
  gradient.

  Args:
    usage: u, [N], in [0, 1].

  Returns:
    Weights, [N], of sum 1 - Π u, at most 1: all zero where every slot is in
    use.

  Reference:
    Graves et al. (2016), Nature 538:471, methods, "Dynamic memory allocation".

  >>> allocation(jnp.array([0.5, 0.25, 1.0])).tolist()
  [0.125, 0.75, 0.0]
  """
  chex.assert_rank(usage, 1)
  u = jnp.asarray(usage, jnp.promote_types(usage.dtype, jnp.float32))
  order = jnp.argsort(u)
  ascending = u[order]
  before = jnp.cumprod(jnp.concatenate([jnp.ones_like(u[:1]), ascending[:-1]]))
  weights = ((1 - ascending) * before).astype(usage.dtype)
  return jnp.zeros_like(usage).at[order].set(weights, unique_indices=True)


def update_links(
  links: jax.Array, precedence: jax.Array, write_weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Links the slots written now to those written last.

  L(i, j) <- (1 - w(i) - w(j)) L(i, j) + w(i) p(j) for i ≠ j,  L(i, i) = 0,
  p <- (1 - Σ_i w(i)) p + w; the links take the old p.

  Args:
    links: L, [N, N], of zero diagonal.
    precedence: p, [N].
    write_weights: w of this step, [N], of sum at most 1.

  Returns:
    L and p: rows and columns of L, and p, have sums of at most 1.

  Reference:
    Graves et al. (2016), Nature 538:471, methods, "Temporal memory linkage".

  >>> links, last = jnp.zeros((2, 2)), jnp.array([1.0, 0.0])
  >>> links, last = update_links(links, last, jnp.array([0.0, 1.0]))
  >>> links.tolist(), last.tolist()
  ([[0.0, 0.0], [1.0, 0.0]], [0.0, 1.0])
  """
  chex.assert_equal_shape([precedence, write_weights, links[0], links[:, 0]])
  w, p = write_weights, precedence
  written = w[:, None] + w[None, :]
  linked = (1 - written) * links + w[:, None] * p[None, :]
  is_self = jnp.eye(links.shape[0], dtype=bool)
  return jnp.where(is_self, 0, linked), (1 - jnp.sum(w)) * p + w


def directional_weights(
  links: jax.Array, read_weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Moves a head that reads along the order of the writes.

  f = L w,  b = Lᵀ w.

  Args:
    links: L, [N, N].
    read_weights: w of the previous step, [N].

  Returns:
    f, where was written after, and b, where was written before, each [N].

  Reference:
    Graves et al. (2016), Nature 538:471, methods, "Temporal memory linkage".

  >>> links = jnp.array([[0.0, 0.0], [1.0, 0.0]])
  >>> forward, backward = directional_weights(links, jnp.array([1.0, 0.0]))
  >>> forward.tolist(), backward.tolist()
  ([0.0, 1.0], [0.0, 0.0])
  """
  forward = addressing.weighted_sum(read_weights, links.T)
  return forward, addressing.weighted_sum(read_weights, links)


def _wide(tree, dtype):
  """Casts to a type wide enough for sums."""
  wide = jnp.promote_types(dtype, jnp.float32)
  return jax.tree.map(lambda x: jnp.asarray(x, wide), tree)


def write(state: State, interface: WriteInterface) -> State:
  """Writes one word, by content and to free slots.

  w^w = g^w (g^a a + (1 - g^a) c),  c = softmax(β^w cos(k^w, M)),
  M <- M ⊙ (1 - w^w eᵀ) + w^w vᵀ,
  with the allocation a after freeing what the previous step has read; then the
  links and the precedence take w^w in.

  Args:
    state: the memory.
    interface: of this step; free_gates concern the previous step's reads.

  Returns:
    The state.

  Reference:
    Graves et al. (2016), Nature 538:471, methods.

  >>> gates = jnp.zeros(1), jnp.ones(()), jnp.ones(())
  >>> what = jnp.ones(2), jnp.ones(()), jnp.ones(2), jnp.array([3.0, 5.0])
  >>> write(init(2, 2, num_reads=1, fill=0.0), WriteInterface(*what, *gates))[0]
  Array([[3., 5.],
         [0., 0.]], dtype=float32)
  """
  num_reads, word_size = state.read_weights.shape[0], state.memory.shape[1]
  key, beta, erase, word, free_gates, g_a, g_w = interface
  chex.assert_shape([key, erase, word], (word_size,))
  chex.assert_shape(free_gates, (num_reads,))
  chex.assert_shape([beta, g_a, g_w], ())
  dtype = state.memory.dtype
  old = _wide(state, dtype)
  key, beta, erase, word, free_gates, g_a, g_w = _wide(interface, dtype)

  usage = update_usage(
    old.usage, old.write_weights, old.read_weights, free_gates
  )
  content = addressing.content_weights(key, old.memory, beta)
  w = g_w * addressing.interpolate(allocation(usage), content, g_a)
  erased = old.memory * (1 - w[:, None] * erase[None])
  links, precedence = update_links(old.links, old.precedence, w)
  new = State(
    memory=erased + w[:, None] * word[None],
    read_weights=old.read_weights,
    write_weights=w,
    usage=usage,
    links=links,
    precedence=precedence,
  )
  return jax.tree.map(lambda x: x.astype(dtype), new)


def read(state: State, interface: ReadInterface) -> tuple[State, jax.Array]:
  """Reads by content, and along the order of the writes.

  w^r = π_1 b + π_2 c + π_3 f,  c = softmax(β^r cos(k^r, M)),  r = Mᵀ w^r,
  with b and f from the links and the previous step's w^r.

  Args:
    state: the memory after this step's write.
    interface: of this step. A head for which it is not finite reads NaN and is
      kept as weights of 0: the head has read nothing.

  Returns:
    The state, and what each head read, [R, W].

  Reference:
    Graves et al. (2016), Nature 538:471, methods, "Read weighting".

  >>> state = init(2, 2, num_reads=1, fill=3.0)
  >>> content = jnp.array([[0.0, 1.0, 0.0]])
  >>> here = ReadInterface(jnp.ones((1, 2)), jnp.ones(1), content)
  >>> read(state, here)[1].tolist()
  [[3.0, 3.0]]
  """
  num_reads, word_size = state.read_weights.shape[0], state.memory.shape[1]
  chex.assert_shape(interface.keys, (num_reads, word_size))
  chex.assert_shape(interface.strengths, (num_reads,))
  chex.assert_shape(interface.modes, (num_reads, 3))
  dtype = state.memory.dtype
  old = _wide(state, dtype)

  def head(previous, key, strength, modes):
    forward, backward = directional_weights(old.links, previous)
    content = addressing.content_weights(key, old.memory, strength)
    w = modes[0] * backward + modes[1] * content + modes[2] * forward
    return w, addressing.weighted_sum(w, old.memory)

  weights, words = jax.vmap(head)(old.read_weights, *_wide(interface, dtype))
  kept = jnp.where(jnp.isfinite(weights), weights, 0)
  state = state._replace(read_weights=kept.astype(dtype))
  return state, words.astype(dtype)
