"""Addressing: attention weights over memory words for a head's read or write.

By content: a softmax over similarities to a query. By location: the previous
weights, shifted and sharpened. Functions take one head; `vmap` over several.
Sums are computed in float32 or wider; results keep the dtype of the inputs,
where whole numbers count as float32. A non-finite query gives NaN weights. All
functions raise ValueError for arguments of another shape than stated.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from lilly import checks

__all__ = [
  "Similarity",
  "content_weights",
  "cosine_similarity",
  "euclidean_similarity",
  "interpolate",
  "sharpen",
  "shift",
  "weighted_sum",
]

# (query [W], words [N, W]) -> similarities [N]
Similarity = Callable[[jax.Array, jax.Array], jax.Array]


def cosine_similarity(
  query: jax.Array, words: jax.Array, *, epsilon: float = 1e-6
) -> jax.Array:
  """Computes the cosine similarity of a query to each word.

  d(q, m) = q · m / (|q| |m|),  |x| = sqrt(Σ x² + epsilon).

  Args:
    query: query vector q, [W].
    words: memory words m, one per row, [N, W].
    epsilon: added under the square roots, so that a zero query or word has
      cosine 0 and a finite gradient.

  Returns:
    Cosines, [N], between -1 and 1.

  Raises:
    ValueError: if epsilon is not positive.

  Reference:
    Graves, Wayne and Danihelka (2014), arXiv:1410.5401, equation 6, without
    epsilon.

  >>> words = jnp.array([[3.0, 4.0], [-4.0, 3.0]])
  >>> print(cosine_similarity(jnp.array([3.0, 4.0]), words).round(3))
  [1. 0.]
  """
  q, m, epsilon, dtype = _checked(query, words, epsilon)
  products = jnp.matmul(m, q, precision=jax.lax.Precision.HIGHEST)
  norms = jnp.sqrt(jnp.sum(m * m, axis=1) + epsilon)
  norm = jnp.sqrt(jnp.sum(q * q) + epsilon)
  return (products / (norms * norm)).astype(dtype)


def euclidean_similarity(
  query: jax.Array, words: jax.Array, *, epsilon: float = 1e-6
) -> jax.Array:
  """Computes the negative Euclidean distance of a query to each word.

  d(q, m) = -sqrt(Σ (q - m)² + epsilon).

  Args:
    query: query vector q, [W].
    words: memory words m, one per row, [N, W].
    epsilon: added under the square root; a word equal to the query has
      similarity -sqrt(epsilon) and gradient 0.

  Returns:
    Similarities, [N], all negative.

  Raises:
    ValueError: if epsilon is not positive.

  Reference:
    Rae et al. (2016), arXiv:1610.09027, which names "Euclidean" besides the
    cosine without a formula; the sign, the root and epsilon are our choice.

  >>> words = jnp.array([[3.0, 4.0], [-6.0, 8.0]])
  >>> euclidean_similarity(jnp.zeros(2), words).tolist()
  [-5.0, -10.0]
  """
  q, m, epsilon, dtype = _checked(query, words, epsilon)
  squares = jnp.sum(jnp.square(m - q[None]), axis=1)
  return -jnp.sqrt(squares + epsilon).astype(dtype)


def _checked(query, words, epsilon):
  """Both arrays in a dtype wide enough for sums, and the output dtype."""
  epsilon = checks.number("epsilon", epsilon, above=0)
  query, words = _query_and_words(query, words)
  dtype = jnp.result_type(query, words)
  wide = jnp.promote_types(dtype, jnp.float32)
  return query.astype(wide), words.astype(wide), epsilon, dtype


def _query_and_words(query, words):
  sizes = {}
  query = checks.real("query", query, "W", sizes)
  words = checks.real("words", words, "N W", sizes)
  return query, words


def content_weights(
  query: jax.Array,
  words: jax.Array,
  strength: jax.Array,
  *,
  similarity: Similarity = cosine_similarity,
  where: jax.Array | None = None,
) -> jax.Array:
  """Computes content-based attention weights: a softmax over similarities.

  w(i) = exp(β d(q, m_i)) / Σ_j exp(β d(q, m_j)), over the i where `where` is
  true.

  Args:
    query: query vector q, [W].
    words: memory words m, one per row, [N, W].
    strength: key strength β, a scalar; the caller must ensure it is positive.
    similarity: similarity measure d, called as d(q, m).
    where: mask of the words to attend to, bool [N]; None means all. Masked
      words have weight 0 and gradient 0, even if they contain NaN.

  Returns:
    Weights, [N], summing to 1; all zero if every word is masked.

  Reference:
    Graves, Wayne and Danihelka (2014), arXiv:1410.5401, equation 5.

  >>> words = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
  >>> print(content_weights(words[0], words, jnp.log(2.0)).round(2))
  [0.57 0.29 0.14]
  """
  sizes = {}
  query = checks.real("query", query, "W", sizes)
  words = checks.real("words", words, "N W", sizes)
  strength = checks.real("strength", strength, "")
  dtype = jnp.result_type(query, words, strength)
  wide = jnp.promote_types(dtype, jnp.float32)
  query, words = query.astype(wide), words.astype(wide)
  if where is not None:
    mask = checks.mask("where", where, "N", sizes)
    # Mask the words as well: a weight of 0 does not stop the gradient of a NaN.
    words = jnp.where(mask[:, None], words, 0)
    where = mask
  scores = strength.astype(wide) * similarity(query, words)
  return jax.nn.softmax(scores, where=where).astype(dtype)


def interpolate(
  content: jax.Array, previous: jax.Array, gate: jax.Array
) -> jax.Array:
  """Interpolates content weights with the weights of the previous step.

  w(i) = g content(i) + (1 - g) previous(i).

  Args:
    content: content weights, [N].
    previous: weights of the previous step, [N].
    gate: interpolation gate g, a scalar in [0, 1].

  Returns:
    Weights, [N].

  Reference:
    Graves, Wayne and Danihelka (2014), arXiv:1410.5401, equation 7.

  >>> content, previous = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
  >>> interpolate(content, previous, jnp.array(0.75)).tolist()
  [0.75, 0.25]
  """
  sizes = {}
  content = checks.real("content", content, "N", sizes)
  previous = checks.real("previous", previous, "N", sizes)
  gate = checks.real("gate", gate, "")
  return gate * content + (1 - gate) * previous


def shift(weights: jax.Array, kernel: jax.Array) -> jax.Array:
  """Shifts weights by circular convolution over the slots.

  w'(i) = Σ_{k=-s..s} kernel(k) w(i - k), indices modulo N.

  Args:
    weights: w, [N].
    kernel: weight of a shift by k slots, for k from -s to s, [2s + 1]; usually
      sums to 1.

  Returns:
    Weights, [N].

  Raises:
    ValueError: if the kernel has even length.

  Reference:
    Graves, Wayne and Danihelka (2014), arXiv:1410.5401, equation 8.

  >>> w = jnp.array([1.0, 0.0, 0.0])
  >>> shift(w, jnp.array([0.0, 0.0, 1.0])).tolist()
  [0.0, 1.0, 0.0]
  """
  weights = checks.real("weights", weights, "N")
  kernel = checks.real("kernel", kernel, "K")
  size = kernel.shape[0]
  if size % 2 == 0:
    raise ValueError(f"kernel has length {size}; it must be odd.")
  # One convolution per head and batch entry would be slow.
  moves = range(-(size // 2), size // 2 + 1)
  return sum(
    (kernel[i] * jnp.roll(weights, k) for i, k in enumerate(moves)),
    start=jnp.zeros_like(weights),
  )


def sharpen(weights: jax.Array, exponent: jax.Array) -> jax.Array:
  """Sharpens weights by raising them to a power.

  w'(i) = w(i)^γ / Σ_j w(j)^γ.

  Args:
    weights: non-negative weights w, [N].
    exponent: γ, a scalar of at least 1; for γ < 1 the derivative at a weight of
      0 is infinite.

  Returns:
    Weights, [N], summing to 1; all zero if `weights` are all zero.

  Reference:
    Graves, Wayne and Danihelka (2014), arXiv:1410.5401, equation 9.

  >>> w = jnp.array([2.0, 1.0, 1.0, 1.0, 1.0]) / 6
  >>> sharpen(w, jnp.array(2.0)).tolist()
  [0.5, 0.125, 0.125, 0.125, 0.125]
  """
  weights = checks.real("weights", weights, "N")
  exponent = checks.real("exponent", exponent, "")
  dtype = jnp.result_type(weights, exponent)
  wide = jnp.promote_types(dtype, jnp.float32)
  w, exponent = weights.astype(wide), exponent.astype(wide)
  # The result is scale-invariant; unscaled powers of small weights underflow.
  largest = jax.lax.stop_gradient(jnp.max(w, initial=0.0))
  powers = (w / jnp.where(largest == 0, 1, largest)) ** exponent
  total = jnp.sum(powers)
  return (powers / jnp.where(total == 0, 1, total)).astype(dtype)


def weighted_sum(weights: jax.Array, words: jax.Array) -> jax.Array:
  """Reads from memory: the sum of the words weighted by w.

  r = Σ_i w(i) m_i.

  Args:
    weights: w, [N].
    words: memory words m, one per row, [N, W].

  Returns:
    The read vector, [W].

  Reference:
    Graves, Wayne and Danihelka (2014), arXiv:1410.5401, equation 2.

  >>> weighted_sum(jnp.array([0.5, 0.25]), 4 * jnp.eye(2)).tolist()
  [2.0, 1.0]
  """
  sizes = {}
  weights = checks.real("weights", weights, "N", sizes)
  words = checks.real("words", words, "N W", sizes)
  # Full precision: accelerators default to lower-precision products.
  return jnp.matmul(weights, words, precision=jax.lax.Precision.HIGHEST)
