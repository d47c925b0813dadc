"""Sparse Differentiable Neural Computer (SDNC): SAM with temporal links.

Reads, writes and usage are those of `sparse_access`; there is no allocation by
free gates. Each head also records the order of its writes, see
`temporal_links`, and its read mixes three addresses: by content, and the slots
written after and before those it last read. Links have no gradient. Whole
numbers count as float32. All functions raise ValueError for arguments of
another shape than stated.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lilly import checks
from lilly.memory import addressing, sparse_access, temporal_links

__all__ = ["State", "detach", "init", "read", "write"]


class State(NamedTuple):
  """The memory, and the temporal links of its writes."""

  memory: sparse_access.State
  links: temporal_links.State  # one per head, [H, N, L]


def init(memory: sparse_access.State, *, num_links: int = 8) -> State:
  """Creates the state of an empty memory.

  Args:
    memory: as from `sparse_access.init`.
    num_links: links kept per slot, K_L.

  Returns:
    The state.

  Raises:
    ValueError: if `num_links` is not positive or above the number of slots.

  Reference:
    Rae et al. (2016), arXiv:1610.09027, supplement D. The paper does not say
    whether several heads share the links; here they do not.

  >>> init(sparse_access.init(16, 2)).links.precedence_slots.shape
  (4, 8)
  """
  slots = checks.integers("memory.reads.slots", memory.reads.slots, "H K")
  weights = checks.real("memory.reads.weights", memory.reads.weights, "H K")
  words = checks.real("memory.words.words", memory.words.words, "N W")
  num_heads = len(slots)
  links = temporal_links.init(
    len(words), num_links=num_links, dtype=weights.dtype
  )
  links = jax.tree.map(lambda x: jnp.stack([x] * num_heads), links)
  return State(memory, links)


def _checked_state(state, sizes):
  """The state; `sparse_access` checks what else the memory holds."""
  memory = state.memory
  name = "state.memory"
  words = checks.real(f"{name}.words.words", memory.words.words, "N W", sizes)
  slots = checks.integers(
    f"{name}.reads.slots", memory.reads.slots, "H K", sizes
  )
  weights = checks.real(
    f"{name}.reads.weights", memory.reads.weights, "H K", sizes
  )
  memory = memory._replace(
    words=memory.words._replace(words=words),
    reads=sparse_access.Address(slots, weights),
  )
  links = {}
  for name, x in state.links._asdict().items():
    check = checks.integers if name.endswith("slots") else checks.real
    shape = "H L" if name.startswith("precedence") else "H N L"
    x = check(f"state.links.{name}", x, shape, sizes)
    links[name] = x.astype(x.dtype)  # fixes the type of whole numbers
  return State(memory, temporal_links.State(**links))


def detach(state: State) -> State:
  """Ends a segment of truncated backpropagation; the words are kept.

  Args:
    state: the memory.

  Returns:
    The state, through which no gradient passes.

  Reference:
    Rae et al. (2016), arXiv:1610.09027, section 3.4.

  >>> detach(init(sparse_access.init(16, 2))).memory.time
  Array(0, dtype=int32)
  """
  state = _checked_state(state, {})
  links = jax.lax.stop_gradient(state.links)
  return State(sparse_access.detach(state.memory), links)


def write(
  state: State,
  word: jax.Array,
  write_gate: jax.Array,
  interpolation_gate: jax.Array,
  *,
  delta: float = 0.005,
) -> State:
  """Writes as `sparse_access.write`, and updates the temporal links.

  Args:
    state: the memory.
    word: a, [H, W].
    write_gate: α in (0, 1), [H].
    interpolation_gate: γ in (0, 1), [H].
    delta: δ, the weight above which a slot counts as accessed.

  Returns:
    The updated state.

  Raises:
    ValueError: if delta is not in [0, 1).

  Reference:
    Rae et al. (2016), arXiv:1610.09027, equations 3, 5, 6 and supplement D.

  >>> state = init(sparse_access.init(16, 2, num_heads=1))
  >>> state = write(state, jnp.ones((1, 2)), jnp.ones(1), jnp.zeros(1))
  >>> state.links.precedence_slots[0, 0].item()
  0
  """
  state = _checked_state(state, {})
  memory = sparse_access.write(
    state.memory, word, write_gate, interpolation_gate, delta=delta
  )
  written = jax.lax.stop_gradient(memory.writes)
  links = jax.vmap(temporal_links.update)(state.links, *written)
  return State(memory, links)


def read(
  state: State,
  query: jax.Array,
  strength: jax.Array,
  modes: jax.Array,
  *,
  similarity: addressing.Similarity = addressing.cosine_similarity,
  delta: float = 0.005,
) -> tuple[State, jax.Array]:
  """Reads by content and along the order of the writes.

  w = π_1 b + π_2 c + π_3 f, reduced to the K largest weights.

  Args:
    state: the memory, after this step's write.
    query: q, [H, W].
    strength: key strength β, [H].
    modes: π, [H, 3], sums to 1: backward, content, forward.
    similarity: d, maps a query [W] and words [K, W] to similarities [K].
    delta: δ, the weight above which a slot counts as accessed.

  Returns:
    The updated state and r, [H, W].

  Raises:
    ValueError: if delta is not in [0, 1).

  Reference:
    Rae et al. (2016), arXiv:1610.09027, supplement D, which does not state how
    the mixture is sparsified: see `temporal_links.strongest`.

  >>> state = init(sparse_access.init(16, 2, num_heads=1))
  >>> modes = jnp.array([[0.0, 1.0, 0.0]])
  >>> state, r = read(state, jnp.ones((1, 2)), jnp.ones(1), modes)
  >>> r.shape
  (1, 2)
  """
  delta = checks.number("delta", delta, least=0, below=1)
  sizes = {}
  state = _checked_state(state, sizes)
  modes = checks.real("modes", modes, "H 3", sizes)
  _, count = state.memory.reads.slots.shape
  previous = state.memory.reads  # carries gradients, unlike the links
  memory, content, _ = sparse_access.content_address(
    state.memory, query, strength, similarity=similarity
  )
  num_slots = len(memory.words.words)

  def mix(links, previous, content, mode):
    forward, backward = temporal_links.follow(links, *previous)
    parts = (backward, content, forward)
    slots = jnp.concatenate([part[0] for part in parts])
    weights = [m * part[1] for m, part in zip(mode, parts, strict=True)]
    return temporal_links.strongest(
      slots, jnp.concatenate(weights), count, num_slots=num_slots
    )

  mixed = jax.vmap(mix)(state.links, previous, content, modes)
  memory, r = sparse_access.read_at(
    memory, sparse_access.Address(*mixed), delta=delta
  )
  return State(memory, state.links), r
