"""The Neural Bloom Filter: a learned memory for set membership.

A set is written in one shot, as a sum of outer products of addresses and words,
in any order; networks compute both from the elements. A query reads the whole
memory, each slot multiplied by its address weight, not their sum. A network
maps the read to a score; `learned_filters` turns scores into a filter without
false negatives.

Memory entries grow with the size of the set; if that hurts the network that
reads them, divide by a constant, not by the number of writes, which would have
to be stored. An element that is written twice counts twice.

All functions raise ValueError for arguments of another shape than stated. Whole
numbers count as float32.
"""

import functools

import jax
import jax.numpy as jnp
import optax

from lilly import checks
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
  """Creates an empty memory; use one per set.

  Args:
    num_slots: number of memory slots, m.
    word_size: size of a memory word, W.
    dtype: data type of the memory. In bfloat16, later ones of many consecutive
      writes are lost to rounding.

  Returns:
    M, zeros, [m, W]; transposed with respect to the paper.

  Raises:
    ValueError: if a size is not positive.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304.

  >>> init(2, 3).tolist()
  [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
  """
  num_slots = checks.whole_number("num_slots", num_slots, least=1)
  word_size = checks.whole_number("word_size", word_size, least=1)
  return jnp.zeros((num_slots, word_size), dtype)


def random_keys(
  key: jax.Array,
  num_slots: int,
  query_size: int,
  *,
  dtype: jax.typing.DTypeLike = jnp.float32,
) -> jax.Array:
  """Samples the slot keys from N(0, I), with one seed per slot.

  So slots can be added later without changing the first ones.

  Args:
    key: typed PRNG key.
    num_slots: number of memory slots, m.
    query_size: size of a query, D.
    dtype: data type of the keys.

  Returns:
    A, [m, D]; transposed with respect to the paper. With sparse addresses they
    are not learned.

  Raises:
    ValueError: if a size is not positive.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304.

  >>> few, many = (random_keys(jax.random.key(0), m, 2) for m in (3, 5))
  >>> bool(jnp.all(few == many[:3]))
  True
  """
  key = checks.key("key", key)
  num_slots = checks.whole_number("num_slots", num_slots, least=1)
  query_size = checks.whole_number("query_size", query_size, least=1)

  def draw(slot):
    return jax.random.normal(
      jax.random.fold_in(key, slot), (query_size,), dtype
    )

  return jax.vmap(draw)(jnp.arange(num_slots))


def address(query: jax.Array, keys: jax.Array) -> jax.Array:
  """Computes the soft address of an element: a = softmax(A q).

  Args:
    query: q, [D], a network output, usually whitened (see `sphering`).
    keys: A, [m, D].

  Returns:
    a, [m], summing to 1.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304.

  >>> address(jnp.zeros(2), jnp.ones((4, 2))).tolist()
  [0.25, 0.25, 0.25, 0.25]
  """
  query, keys = _query_and_keys(query, keys)
  one = jnp.ones((), query.dtype)
  return addressing.content_weights(query, keys, one, similarity=_scores)


def _query_and_keys(query, keys):
  sizes = {}
  query = checks.real("query", query, "D", sizes)
  keys = checks.real("keys", keys, "m D", sizes)
  return query, keys


def _scores(query, keys):
  return _product(keys, query)


def sparse_address(
  query: jax.Array, keys: jax.Array, *, count: int
) -> tuple[jax.Array, jax.Array]:
  """Computes the sparse address of an element: its k best slots.

  Args:
    query: q, [D].
    keys: A, [m, D].
    count: number of slots k, from 1 to m.

  Returns:
    Slots, [k] int32, in ascending order, so that k = m equals the dense
    address; and their weights, [k], a softmax over these slots only.

  Raises:
    ValueError: if k is not from 1 to m.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, algorithm 3.

  >>> slots, weights = sparse_address(jnp.ones(1), jnp.eye(3, 1), count=1)
  >>> slots.tolist(), weights.tolist()
  ([0], [1.0])
  """
  query, keys = _query_and_keys(query, keys)
  count = checks.whole_number("count", count, least=1, most=len(keys))
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

  Writes are independent: the result is the same in any order and as a sum of
  parts, and all gradients are computed in parallel. Negated words erase.

  Args:
    memory: M, [m, W].
    addresses: a_i, [n, m]; zeros write nothing.
    words: w_i, [n, W].

  Returns:
    The updated M, unchanged if n is 0. Sums are in float32 or wider.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304.

  >>> write(init(2, 1), jnp.array([[0.5, 0.5]]), jnp.array([[4.0]])).tolist()
  [[2.0], [2.0]]
  """
  sizes = {}
  memory = checks.real("memory", memory, "m W", sizes)
  addresses = checks.real("addresses", addresses, "n m", sizes)
  words = checks.real("words", words, "n W", sizes)
  wide = jnp.promote_types(memory.dtype, jnp.float32)
  added = _product(addresses.T.astype(wide), words.astype(wide))
  return (memory.astype(wide) + added).astype(memory.dtype)


def sparse_write(
  memory: jax.Array, slots: jax.Array, weights: jax.Array, words: jax.Array
) -> jax.Array:
  """Writes a set, each element to its own few slots.

  Args:
    memory: M, [m, W].
    slots: [n, k] int32; slots out of range are ignored.
    weights: weights of the slots, [n, k].
    words: w_i, [n, W].

  Returns:
    The updated M. Time is O(m W + n k W).

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, algorithm 3.

  >>> place = jnp.array([[1]]), jnp.array([[0.5]])
  >>> sparse_write(init(2, 1), *place, jnp.array([[4.0]])).tolist()
  [[0.0], [2.0]]
  """
  sizes = {}
  memory = checks.real("memory", memory, "m W", sizes)
  slots = checks.integers("slots", slots, "n k", sizes)
  weights = checks.real("weights", weights, "n k", sizes)
  words = checks.real("words", words, "n W", sizes)
  wide = jnp.promote_types(memory.dtype, jnp.float32)
  updates = weights[:, :, None].astype(wide) * words[:, None].astype(wide)
  # Negative indices would count from the end.
  slots = jnp.where(slots < 0, len(memory), slots)
  written = memory.astype(wide).at[slots].add(updates, mode="drop")
  return written.astype(memory.dtype)


def read(memory: jax.Array, weights: jax.Array) -> jax.Array:
  """Reads all slots, each multiplied by its weight: not summed.

  r = flatten(a ⊙ M).

  Args:
    memory: M, [m, W].
    weights: address a of an element, [m].

  Returns:
    r, [m W], in slot order.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304.

  >>> M = jnp.array([[2.0, 4.0], [6.0, 8.0]])
  >>> read(M, jnp.array([0.5, 1.0])).tolist()
  [1.0, 2.0, 6.0, 8.0]
  """
  sizes = {}
  memory = checks.real("memory", memory, "m W", sizes)
  weights = checks.real("weights", weights, "m", sizes)
  return (memory * weights[:, None]).ravel()


def sparse_read(
  memory: jax.Array, slots: jax.Array, weights: jax.Array
) -> jax.Array:
  """Reads a few slots, each multiplied by its weight.

  Args:
    memory: M, [m, W].
    slots: slots of an element, [k] int32, from 0 to m - 1.
    weights: weights of the slots, [k].

  Returns:
    r, [k W], independent of m.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, algorithm 3.

  >>> M = jnp.array([[2.0, 4.0], [6.0, 8.0]])
  >>> sparse_read(M, jnp.array([1]), jnp.array([0.5])).tolist()
  [3.0, 4.0]
  """
  sizes = {}
  memory = checks.real("memory", memory, "m W", sizes)
  slots = checks.integers("slots", slots, "k", sizes)
  weights = checks.real("weights", weights, "k", sizes)
  return read(memory[slots], weights)


def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Computes the mean cross-entropy over queries of one set.

  -1/t Σ_j y_j ln σ(o_j) + (1 - y_j) ln(1 - σ(o_j)).

  Args:
    logits: o, [t].
    labels: y, [t], 1 if the query is a member, 0 otherwise.

  Returns:
    The loss, in nats, [].

  Raises:
    ValueError: if t is 0.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, whose algorithm 2
    prints it with an error.

  >>> f"{float(loss(jnp.zeros(2), jnp.array([0.0, 1.0]))):.3f}"
  '0.693'
  """
  sizes = {}
  logits = checks.real("logits", logits, "t", sizes)
  labels = checks.real("labels", labels, "t", sizes)
  if not logits.size:
    raise ValueError("logits has 0 items; give 1 or more.")
  labels = labels.astype(logits.dtype)
  return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, labels))
