"""The Neural Bloom Filter: a memory that tells whether it has seen something.

A set is written at once, as a sum of products of words and addresses, in any
order; both are what networks make of its elements. What is read for a query is
the whole memory, each slot times its weight: not their sum. A network turns
that into a score, of which a threshold is calibrated; elements of the set that
fall below it go to a classical filter, the backup. So nothing that was written
is ever denied.

The numbers of the memory grow with the set; where that troubles what reads
them, divide by a constant, not by a count of what was written, which would have
to be stored. An element that is written twice counts twice.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import optax

from lilly.memory import addressing, bloom

__all__ = ["address", "calibrate", "contains", "false_positive_rate"]
__all__ += ["fill_backup", "init", "loss", "missed", "random_keys", "read"]
__all__ += ["space", "sparse_address", "sparse_read", "sparse_write", "write"]

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


def calibrate(scores: jax.Array, *, fpr: float | jax.Array) -> jax.Array:
  """Finds the least threshold that few scores of no members are above.

  An answer is yes where a score is above the threshold. The paper has "not
  below": by that, a threshold among equal scores would let all of them in.

  Args:
    scores: of queries that are not in their sets, of many sets, [n]; one that
      is not a number counts as the largest.
    fpr: ε, which part of them may be above, from 0 to 1.

  Returns:
    τ, []: of all thresholds with at most ε n scores above them the least, so
    that most members are above; -inf where ε is 1.

  Raises:
    ValueError: if n is 0, or ε is a number that is not from 0 to 1.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, section 3.

  >>> float(calibrate(jnp.array([1.0, 4.0, 2.0, 3.0]), fpr=0.25))
  3.0
  """
  chex.assert_rank(scores, 1)
  if not scores.size:
    raise ValueError("scores has 0 items; give 1 or more.")
  _check_rate("fpr", fpr)
  # A rate of 0.29 and 100 scores are 29, for all that products round.
  most = jnp.floor(jnp.asarray(fpr, jnp.float32) * (scores.size * (1 + 1e-6)))
  most = most.astype(jnp.int32)
  sorted_scores = jnp.sort(scores, descending=True)
  return sorted_scores.at[most].get(mode="fill", fill_value=-jnp.inf)


def missed(
  scores: jax.Array, threshold: jax.Array, *, margin: float = 1e-3
) -> jax.Array:
  """Tells which elements of a set need the backup.

  Args:
    scores: of elements of the set, after the last write, [...].
    threshold: τ, [].
    margin: so much above the threshold a score must be: computed again, in
      another program or a batch of another size, it may differ by rounding.
      0 is the paper's.

  Returns:
    Whether, booleans, [...]; also where a score is not a number. They are n_fn
    of `space`.

  Raises:
    ValueError: if the margin is negative.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304; the margin is ours.

  >>> missed(jnp.array([1.0, 2.0, 3.0]), jnp.array(2.0)).tolist()
  [True, True, False]
  """
  if not margin >= 0:
    raise ValueError(f"margin is {margin}; it must not be negative.")
  return ~(scores > threshold + margin)


def fill_backup(
  backup: bloom.State,
  elements: jax.Array,
  scores: jax.Array,
  threshold: jax.Array,
  *,
  margin: float = 1e-3,
) -> bloom.State:
  """Inserts what the network misses.

  Each write moves the scores of what was written before. So later elements of a
  set either go to the backup alone, by this, the memory left as it is; or all
  elements are scored by the new memory, and an empty backup is filled.

  Args:
    backup: a classical filter; `bloom.optimal_size` tells how large.
    elements: of the set, [n, ...].
    scores: of these, by the memory that will be asked, [n].
    threshold: τ, [].
    margin: as of `missed`.

  Returns:
    The backup.

  Raises:
    ValueError: as `missed`.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, section 3.

  >>> empty, few = bloom.init(jax.random.key(0), 40, 3), jnp.array([5, 7])
  >>> backup = fill_backup(empty, few, jnp.array([-1.0, 1.0]), jnp.array(0.0))
  >>> [bool(bloom.query(backup, x)) for x in few]
  [True, False]
  """
  chex.assert_shape(scores, elements.shape[:1])
  where = missed(scores, threshold, margin=margin)
  return bloom.insert(backup, elements, where=where)


def contains(
  score: jax.Array,
  element: jax.Array,
  threshold: jax.Array,
  backup: bloom.State,
) -> jax.Array:
  """Answers: by the network, or by the backup.

  Args:
    score: of the element, [].
    element: as the backup's, [...].
    threshold: τ, [].
    backup: filled with what the network misses.

  Returns:
    Whether the element may be in the set, [] bool: always true where it is.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, section 3.

  >>> backup = bloom.init(jax.random.key(0), 40, 3)
  >>> bool(contains(jnp.array(2.0), jnp.array(5), jnp.array(0.0), backup))
  True
  """
  chex.assert_rank([score, threshold], 0)
  return (score > threshold) | bloom.query(backup, element)


def false_positive_rate(
  fpr: float | jax.Array, backup_fpr: float | jax.Array
) -> jax.Array:
  """Tells how often the whole finds what was not inserted: ε + (1 - ε) δ.

  Args:
    fpr: ε, of the network, from 0 to 1, [].
    backup_fpr: δ, of the backup, from 0 to 1, []. With ε = δ = α / 2 the whole
      is at most α.

  Returns:
    The rate, [].

  Raises:
    ValueError: if a rate is a number that is not from 0 to 1.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, section 3.

  >>> float(false_positive_rate(0.5, 0.5))
  0.75
  """
  _check_rate("fpr", fpr)
  _check_rate("backup_fpr", backup_fpr)
  return jnp.asarray(fpr + (1 - fpr) * backup_fpr)


def space(
  num_floats: float | jax.Array,
  num_missed: float | jax.Array,
  *,
  fpr: float | jax.Array,
  bits: int = 32,
) -> jax.Array:
  """Tells how many bits a set takes: 32 m W + n_fn log2(2/α) log2(e).

  The networks' weights, which all sets share, are not counted, nor is τ.

  Args:
    num_floats: how many numbers the memory has, m W; of a Memory Network n W.
    num_missed: n_fn, how many elements are in the backup.
    fpr: α, of the whole, between 0 and 1; half of it is the backup's.
    bits: of each number.

  Returns:
    Bits, [].

  Raises:
    ValueError: if α is a number that is not between 0 and 1.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, section 5.1.

  >>> float(space(8 * 4, 0, fpr=0.01))
  1024.0
  """
  if isinstance(fpr, int | float) and not 0 < fpr < 1:
    raise ValueError(f"fpr is {fpr}; it must be between 0 and 1.")
  return bits * num_floats + bloom.space(num_missed, fpr / 2)


def _check_rate(name, value):
  if isinstance(value, int | float) and not 0 <= value <= 1:
    raise ValueError(f"{name} is {value}; it must be from 0 to 1.")
