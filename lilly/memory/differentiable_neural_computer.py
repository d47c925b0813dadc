"""The memory of the Differentiable Neural Computer (DNC).

One head writes, by content or to free slots; R heads read, by content or along
the order in which slots were written. A step is one `write`, then one `read`,
which sees the memory after the write. A step is O(R N (N + W)) for N words of
size W, since the link matrix is N x N.

The caller maps controller outputs to an interface: sigmoid for gates and erase
vectors, 1 + softplus for strengths, softmax for read modes. Whole numbers count
as float32. A non-finite read key makes that head's read NaN, while the state
stays finite. Any other non-finite input spreads over the memory. All functions
raise ValueError for arguments of another shape than stated.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lilly import checks
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
  """State of the memory between steps."""

  memory: jax.Array  # M, [N, W]
  read_weights: jax.Array  # w^r of the last read, [R, N]
  write_weights: jax.Array  # w^w of the last write, [N]
  usage: jax.Array  # u, in [0, 1], before the last write, [N]
  links: jax.Array  # L, [N, N]: degree to which i was written right after j
  precedence: jax.Array  # p: degree to which slot i was written last, [N]


class WriteInterface(NamedTuple):
  """Controller outputs that parametrise a write."""

  key: jax.Array  # k^w, [W]
  strength: jax.Array  # β^w, [], positive
  erase: jax.Array  # e, [W], in [0, 1]
  word: jax.Array  # v, [W]
  free_gates: jax.Array  # f, [R], in [0, 1]: 1 frees the slots the head read
  allocation_gate: jax.Array  # g^a, [], in [0, 1]: 1 writes to free slots
  write_gate: jax.Array  # g^w, [], in [0, 1]: 0 writes nothing


class ReadInterface(NamedTuple):
  """Controller outputs that parametrise a read."""

  keys: jax.Array  # k^r, [R, W]
  strengths: jax.Array  # β^r, [R], positive
  modes: jax.Array  # π, [R, 3], sums to 1: backward, content, forward


def init(
  num_slots: int,
  word_size: int,
  *,
  num_reads: int = 4,
  fill: float = 1e-6,
  dtype: jax.typing.DTypeLike = jnp.float32,
) -> State:
  """Creates an empty memory.

  Args:
    num_slots: number of memory slots, N.
    word_size: size of a memory word, W.
    num_reads: number of read heads, R.
    fill: initial value of all memory entries.
    dtype: data type of all arrays.

  Returns:
    The state, with zero weights, usage and links: every slot is free.

  Raises:
    ValueError: if a size is not positive or fill is not finite.

  Reference:
    Graves et al. (2016), Nature 538:471, methods: L_0 and p_0 are zero. Small
    constant words follow Collier and Beel (2018), arXiv:1807.08518; the paper's
    initial words are unconfirmed.

  >>> init(16, 8).links.shape
  (16, 16)
  """
  num_slots = checks.whole_number("num_slots", num_slots, least=1)
  word_size = checks.whole_number("word_size", word_size, least=1)
  num_reads = checks.whole_number("num_reads", num_reads, least=1)
  fill = checks.number("fill", fill)
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
  """Updates usage: raises it where written, lowers it where read and freed.

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
    Gradients pass through all terms; the authors' published code stops the
    gradient through w^w here.

  >>> used, read = jnp.array([1.0, 0.5]), jnp.array([[1.0, 0.0]])
  >>> update_usage(used, jnp.array([0.0, 0.5]), read, jnp.ones(1)).tolist()
  [0.0, 0.75]
  """
  sizes = {}
  usage = checks.real("usage", usage, "N", sizes)
  write_weights = checks.real("write_weights", write_weights, "N", sizes)
  read_weights = checks.real("read_weights", read_weights, "R N", sizes)
  free_gates = checks.real("free_gates", free_gates, "R", sizes)
  retained = jnp.prod(1 - free_gates[:, None] * read_weights, axis=0)
  # In this form the rounded result is at most 1.
  return (usage + (1 - usage) * write_weights) * retained


def allocation(usage: jax.Array) -> jax.Array:
  """Computes allocation weights, which favour free slots for writing.

  a(φ_j) = (1 - u(φ_j)) Π_{i<j} u(φ_i), with φ the slots from the least used to
  the most used; ties go to the lowest slot. No gradient passes through the
  order.

  Args:
    usage: u, [N], in [0, 1].

  Returns:
    Weights, [N], summing to 1 - Π u, at most 1: all zero if every slot is in
    use.

  Reference:
    Graves et al. (2016), Nature 538:471, methods, "Dynamic memory allocation".

  >>> allocation(jnp.array([0.5, 0.25, 1.0])).tolist()
  [0.125, 0.75, 0.0]
  """
  usage = checks.real("usage", usage, "N")
  u = usage.astype(jnp.promote_types(usage.dtype, jnp.float32))
  order = jnp.argsort(u)
  ascending = u[order]
  before = jnp.cumprod(jnp.concatenate([jnp.ones_like(u[:1]), ascending[:-1]]))
  weights = ((1 - ascending) * before).astype(usage.dtype)
  return jnp.zeros_like(usage).at[order].set(weights, unique_indices=True)


def update_links(
  links: jax.Array, precedence: jax.Array, write_weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Updates the temporal links with the slots written at this step.

  L(i, j) <- (1 - w(i) - w(j)) L(i, j) + w(i) p(j) for i ≠ j,  L(i, i) = 0,
  p <- (1 - Σ_i w(i)) p + w; the links use the old p.

  Args:
    links: L, [N, N], with zero diagonal.
    precedence: p, [N].
    write_weights: w of this step, [N], summing to at most 1.

  Returns:
    L and p: rows and columns of L, and p, sum to at most 1.

  Reference:
    Graves et al. (2016), Nature 538:471, methods, "Temporal memory linkage".

  >>> links, last = jnp.zeros((2, 2)), jnp.array([1.0, 0.0])
  >>> links, last = update_links(links, last, jnp.array([0.0, 1.0]))
  >>> links.tolist(), last.tolist()
  ([[0.0, 0.0], [1.0, 0.0]], [0.0, 1.0])
  """
  sizes = {}
  links = checks.real("links", links, "N N", sizes)
  p = checks.real("precedence", precedence, "N", sizes)
  w = checks.real("write_weights", write_weights, "N", sizes)
  written = w[:, None] + w[None, :]
  linked = (1 - written) * links + w[:, None] * p[None, :]
  is_self = jnp.eye(links.shape[0], dtype=bool)
  return jnp.where(is_self, 0, linked), (1 - jnp.sum(w)) * p + w


def directional_weights(
  links: jax.Array, read_weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Moves a read head along the order of the writes.

  f = L w,  b = Lᵀ w.

  Args:
    links: L, [N, N].
    read_weights: w of the previous step, [N].

  Returns:
    Forward weights f, over the slots written next, and backward weights b, over
    the slots written before, each [N].

  Reference:
    Graves et al. (2016), Nature 538:471, methods, "Temporal memory linkage".

  >>> links = jnp.array([[0.0, 0.0], [1.0, 0.0]])
  >>> forward, backward = directional_weights(links, jnp.array([1.0, 0.0]))
  >>> forward.tolist(), backward.tolist()
  ([0.0, 1.0], [0.0, 0.0])
  """
  sizes = {}
  links = checks.real("links", links, "N N", sizes)
  read_weights = checks.real("read_weights", read_weights, "N", sizes)
  forward = addressing.weighted_sum(read_weights, links.T)
  return forward, addressing.weighted_sum(read_weights, links)


def _checked_state(state, sizes):
  memory = checks.real("state.memory", state.memory, "N W", sizes)
  reads = checks.real("state.read_weights", state.read_weights, "R N", sizes)
  write = checks.real("state.write_weights", state.write_weights, "N", sizes)
  usage = checks.real("state.usage", state.usage, "N", sizes)
  links = checks.real("state.links", state.links, "N N", sizes)
  last = checks.real("state.precedence", state.precedence, "N", sizes)
  state = State(memory, reads, write, usage, links, last)
  # Fixes the type of what was whole numbers.
  return jax.tree.map(lambda x: x.astype(x.dtype), state)


def _checked_write_interface(interface, sizes):
  key, strength, erase, word, free, allocation_gate, write_gate = interface
  return WriteInterface(
    key=checks.real("interface.key", key, "W", sizes),
    strength=checks.real("interface.strength", strength, ""),
    erase=checks.real("interface.erase", erase, "W", sizes),
    word=checks.real("interface.word", word, "W", sizes),
    free_gates=checks.real("interface.free_gates", free, "R", sizes),
    allocation_gate=checks.real(
      "interface.allocation_gate", allocation_gate, ""
    ),
    write_gate=checks.real("interface.write_gate", write_gate, ""),
  )


def _checked_read_interface(interface, sizes):
  keys, strengths, modes = interface
  return ReadInterface(
    keys=checks.real("interface.keys", keys, "R W", sizes),
    strengths=checks.real("interface.strengths", strengths, "R", sizes),
    modes=checks.real("interface.modes", modes, "R 3", sizes),
  )


def _wide(tree, dtype):
  """Casts to a dtype wide enough for sums."""
  wide = jnp.promote_types(dtype, jnp.float32)
  return jax.tree.map(lambda x: x.astype(wide), tree)


def write(state: State, interface: WriteInterface) -> State:
  """Writes one word, by content and to free slots.

  w^w = g^w (g^a a + (1 - g^a) c),  c = softmax(β^w cos(k^w, M)),
  M <- M ⊙ (1 - w^w eᵀ) + w^w vᵀ,
  with the allocation a after freeing slots read at the previous step; then the
  links and the precedence are updated with w^w.

  Args:
    state: the memory.
    interface: write parameters of this step; free_gates apply to the previous
      step's reads.

  Returns:
    The updated state.

  Reference:
    Graves et al. (2016), Nature 538:471, methods.

  >>> gates = jnp.zeros(1), jnp.ones(()), jnp.ones(())
  >>> what = jnp.ones(2), jnp.ones(()), jnp.ones(2), jnp.array([3.0, 5.0])
  >>> write(init(2, 2, num_reads=1, fill=0.0), WriteInterface(*what, *gates))[0]
  Array([[3., 5.],
         [0., 0.]], dtype=float32)
  """
  sizes = {}
  state = _checked_state(state, sizes)
  interface = _checked_write_interface(interface, sizes)
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
    interface: read parameters of this step. A head whose parameters are not
      finite reads NaN, and zero weights are stored for it.

  Returns:
    The updated state, and each head's read vector, [R, W].

  Reference:
    Graves et al. (2016), Nature 538:471, methods, "Read weighting".

  >>> state = init(2, 2, num_reads=1, fill=3.0)
  >>> content = jnp.array([[0.0, 1.0, 0.0]])
  >>> here = ReadInterface(jnp.ones((1, 2)), jnp.ones(1), content)
  >>> read(state, here)[1].tolist()
  [[3.0, 3.0]]
  """
  sizes = {}
  state = _checked_state(state, sizes)
  interface = _checked_read_interface(interface, sizes)
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
