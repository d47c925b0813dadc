"""The Neural Bloom Filter: a memory that tells whether it has seen something.

A set is written at once, as a sum of products of words and addresses, in any
order; both are what networks make of its elements. What is read for a query is
the whole memory, each slot times its weight: not their sum. A network turns
that into a score; `learned_filters` makes of scores a filter that never denies
what was written.

The numbers of the memory grow with the set; where that troubles what reads
them, divide by a constant, not by a count of what was written, which would have
to be stored. An element that is written twice counts twice.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import optax

from lilly.memory import addressing

__all__ = [
  "address",
  "init",
  "loss",
  "random_keys",
  "read",
  "sparse_address",
  "sparse_read",
  "sparse_write",
  "write",
]

_product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def init(
  num_slots: int,
  word_size: int,
  *,
  dtype: jax.typing.DTypeLike = jnp.float32,
) -> jax.Array:
  """Makes an empty memory; each set has its own.

  Args:
    num_slots: m.
    word_size: W.
    dtype: of the memory. In bfloat16, of many writes after one another the
      later ones are lost.

  Returns:
    M, zeros, [m, W]: the paper's, transposed.

  Raises:
    ValueError: if a size is not positive.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304.

  >>> init(2, 3).tolist()
  [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
  """
  for name, size in (("num_slots", num_slots), ("word_size", word_size)):
    if size < 1:
      raise ValueError(f"{name} is {size}; it must be 1 or more.")
  return jnp.zeros((num_slots, word_size), dtype)


def random_keys(
  key: jax.Array,
  num_slots: int,
  query_size: int,
  *,
  dtype: jax.typing.DTypeLike = jnp.float32,
) -> jax.Array:
  """Draws the keys of slots, N(0, I), each from a seed of its own.

  So there may be more slots later, with the same first ones.

  Args:
    key: typed key.
    num_slots: m.
    query_size: D.
    dtype: of the keys.

  Returns:
    A, [m, D]: the paper's, transposed. Where addresses are sparse they are not
    learned.

  Raises:
    ValueError: if a size is not positive.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304.

  >>> few, many = (random_keys(jax.random.key(0), m, 2) for m in (3, 5))
  >>> bool(jnp.all(few == many[:3]))
  True
  """
  for name, size in (("num_slots", num_slots), ("query_size", query_size)):
    if size < 1:
      raise ValueError(f"{name} is {size}; it must be 1 or more.")

  def draw(slot):
    return jax.random.normal(
      jax.random.fold_in(key, slot), (query_size,), dtype
    )

  return jax.vmap(draw)(jnp.arange(num_slots))


def address(query: jax.Array, keys: jax.Array) -> jax.Array:
  """Finds where an element is, softly: a = softmax(A q).

  Args:
    query: q, [D], of a network and, commonly, sphered.
    keys: A, [m, D].

  Returns:
    a, [m], of sum 1.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304.

  >>> address(jnp.zeros(2), jnp.ones((4, 2))).tolist()
  [0.25, 0.25, 0.25, 0.25]
  """
  one = jnp.ones((), query.dtype)
  return addressing.content_weights(query, keys, one, similarity=_scores)


def _scores(query, keys):
  return _product(keys, query)


def sparse_address(
  query: jax.Array, keys: jax.Array, *, count: int
) -> tuple[jax.Array, jax.Array]:
  """Finds the k best slots of an element, and softly which of them.

  Args:
    query: q, [D].
    keys: A, [m, D].
    count: k, from 1 to m.

  Returns:
    Slots, [k] int32, in the order of the memory, which at k = m makes all as
    dense; and their weights, [k], a softmax over these alone.

  Raises:
    ValueError: if k is not from 1 to m.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, algorithm 3.

  >>> slots, weights = sparse_address(jnp.ones(1), jnp.eye(3, 1), count=1)
  >>> slots.tolist(), weights.tolist()
  ([0], [1.0])
  """
  chex.assert_rank([query, keys], [1, 2])
  chex.assert_equal_shape_suffix([query, keys], 1)
  if not 1 <= count <= len(keys):
    raise ValueError(f"count is {count}; it must be from 1 to {len(keys)}.")
  dtype = jnp.result_type(query, keys)
  wide = jnp.promote_types(dtype, jnp.float32)
  scores = _scores(query.astype(wide), keys.astype(wide))
  best, slots = jax.lax.top_k(scores, count)
  order = jnp.argsort(slots)
  return slots[order], jax.nn.softmax(best[order]).astype(dtype)


def write(
  memory: jax.Array, addresses: jax.Array, words: jax.Array
) -> jax.Array:
  """Writes a set: M + Σ_i a_i w_iᵀ.

  No write knows of another: the result is the same in any order, in parts that
  are added, and gradients of all are found side by side. Negative words take
  back what was written.

  Args:
    memory: M, [m, W].
    addresses: a_i, [n, m]; zeros write nothing.
    words: w_i, [n, W].

  Returns:
    M, as it was if n is 0. Sums are of float32 at least.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304.

  >>> write(init(2, 1), jnp.array([[0.5, 0.5]]), jnp.array([[4.0]])).tolist()
  [[2.0], [2.0]]
  """
  chex.assert_rank([memory, addresses, words], 2)
  chex.assert_equal_shape_prefix([addresses, words], 1)
  chex.assert_shape(memory, (addresses.shape[1], words.shape[1]))
  wide = jnp.promote_types(memory.dtype, jnp.float32)
  added = _product(addresses.T.astype(wide), words.astype(wide))
  return (memory.astype(wide) + added).astype(memory.dtype)


def sparse_write(
  memory: jax.Array, slots: jax.Array, weights: jax.Array, words: jax.Array
) -> jax.Array:
  """Writes a set, each element at its own few slots.

  Args:
    memory: M, [m, W].
    slots: [n, k] int32; one out of range writes nothing.
    weights: of the slots, [n, k].
    words: w_i, [n, W].

  Returns:
    M. Time is O(m W + n k W).

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, algorithm 3.

  >>> place = jnp.array([[1]]), jnp.array([[0.5]])
  >>> sparse_write(init(2, 1), *place, jnp.array([[4.0]])).tolist()
  [[0.0], [2.0]]
  """
  chex.assert_rank([memory, slots, weights, words], 2)
  chex.assert_equal_shape([slots, weights])
  chex.assert_shape(words, (len(slots), memory.shape[1]))
  wide = jnp.promote_types(memory.dtype, jnp.float32)
  updates = weights[:, :, None].astype(wide) * words[:, None].astype(wide)
  # In Python's manner a slot below 0 would be one from the end.
  slots = jnp.where(slots < 0, len(memory), slots)
  written = memory.astype(wide).at[slots].add(updates, mode="drop")
  return written.astype(memory.dtype)


def read(memory: jax.Array, weights: jax.Array) -> jax.Array:
  """Reads all slots, each times its weight: the memory, not a sum of it.

  r = flatten(a ⊙ M).

  Args:
    memory: M, [m, W].
    weights: a, of an element, [m].

  Returns:
    r, [m W], slot by slot.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304.

  >>> M = jnp.array([[2.0, 4.0], [6.0, 8.0]])
  >>> read(M, jnp.array([0.5, 1.0])).tolist()
  [1.0, 2.0, 6.0, 8.0]
  """
  chex.assert_rank(memory, 2)
  chex.assert_shape(weights, memory.shape[:1])
  return (memory * weights[:, None]).ravel()


def sparse_read(
  memory: jax.Array, slots: jax.Array, weights: jax.Array
) -> jax.Array:
  """Reads few slots, each times its weight.

  Args:
    memory: M, [m, W].
    slots: of an element, [k] int32, from 0 to m - 1.
    weights: of the slots, [k].

  Returns:
    r, [k W], whatever m is.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, algorithm 3.

  >>> M = jnp.array([[2.0, 4.0], [6.0, 8.0]])
  >>> sparse_read(M, jnp.array([1]), jnp.array([0.5])).tolist()
  [3.0, 4.0]
  """
  chex.assert_equal_shape([slots, weights])
  chex.assert_rank(slots, 1)
  return read(memory[slots], weights)


def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Measures answers to queries of one set: their mean cross-entropy.

  -1/t Σ_j y_j ln σ(o_j) + (1 - y_j) ln(1 - σ(o_j)).

  Args:
    logits: o, [t].
    labels: y, whether the query was in the set, [t]; not whether it is like it.

  Returns:
    The loss, in nats, [].

  Raises:
    ValueError: if t is 0.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, whose algorithm 2
    prints it with a slip.

  >>> f"{float(loss(jnp.zeros(2), jnp.array([0.0, 1.0]))):.3f}"
  '0.693'
  """
  chex.assert_rank(logits, 1)
  chex.assert_equal_shape([logits, labels])
  if not logits.size:
    raise ValueError("logits has 0 items; give 1 or more.")
  labels = labels.astype(logits.dtype)
  return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, labels))
