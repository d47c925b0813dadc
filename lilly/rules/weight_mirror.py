"""Weight mirror: feedback learns the weights from the layer's own noise."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from lilly import checks

__all__ = ["update"]


def update(
  key: jax.Array,
  w: jax.Array,
  feedback: jax.Array,
  *,
  noise_std: jax.typing.ArrayLike = 1.0,
  learning_rate: jax.typing.ArrayLike = 0.05,
  decay: jax.typing.ArrayLike = 0.05,
  activation: Callable[[jax.Array], jax.Array] | None = None,
  batch_size: int = 128,
  max_norm: jax.typing.ArrayLike | None = None,
) -> jax.Array:
  """Takes one mirror step of `feedback` towards the transposed weights.

  x ~ N(0, σ² I),  ỹ = f(x w) - f(0),
  feedback <- (1 - λ) feedback + η mean(ỹᵀ x).

  E[ỹᵀ x] = σ² wᵀ for the identity, and σ² E[f'] wᵀ, with one factor per output,
  for another f (Bussgang). The mean converges to (η σ² / λ) wᵀ times that
  factor, by default to wᵀ itself; without decay it grows without bound.

  Args:
    key: typed PRNG key.
    w: weights, [in, out]. Biases are not used.
    feedback: matrix of the backward pass, [out, in].
    noise_std: σ of the noise at the inputs, positive.
    learning_rate: η, positive; applied to a mean over the batch.
    decay: λ, in [0, 1].
    activation: f of the layer, elementwise; None is the identity.
    batch_size: number of noise vectors, at least 1.
    max_norm: Frobenius norm to which a larger result is rescaled, positive; or
      None.

  Returns:
    The new feedback, [out, in]. No gradient goes to w.

  Raises:
    ValueError: if a number (not a traced value) is outside its range, or an
      array has another shape than stated.

  Reference:
    Akrout, Wilson, Humphreys, Lillicrap and Tweed (2019), arXiv:1904.05391,
    "weight mirror". Deviations: f(0) is subtracted, which reduces the variance
    and keeps the mean; decay and max_norm bound the norm, which the paper
    mentions only in its text.

  >>> w, feedback = jnp.ones((3, 2)), jnp.zeros((2, 3))
  >>> update(jax.random.key(0), w, feedback, batch_size=4).shape
  (2, 3)
  """
  key, sizes = checks.key("key", key), {}
  w = checks.real("w", w, "in out", sizes)
  feedback = checks.real("feedback", feedback, "out in", sizes)
  noise_std = checks.number("noise_std", noise_std, above=0)
  learning_rate = checks.number("learning_rate", learning_rate, above=0)
  decay = checks.number("decay", decay, least=0, most=1)
  batch_size = checks.whole_number("batch_size", batch_size, least=1)
  w = jax.lax.stop_gradient(w)
  noise = jax.random.normal(key, (batch_size, w.shape[0]), w.dtype)
  x = jnp.asarray(noise_std, w.dtype) * noise
  correlation = _correlation(activation or (lambda y: y), x, w)
  rate = jnp.asarray(learning_rate)
  new = (1 - jnp.asarray(decay)) * feedback + rate * correlation
  if max_norm is not None:
    most = checks.number("max_norm", max_norm, above=0, may_be_infinite=True)
    # The norm of zeros has no derivative, nor is it needed.
    square = jnp.sum(new * new)
    norm = jnp.sqrt(jnp.where(square > 0, square, 1.0))
    is_larger = (norm > most) & (square > 0)
    new = new * jnp.where(is_larger, most / norm, 1.0)
  return new.astype(feedback.dtype)


def _correlation(f, x, w):
  y = f(x @ w) - f(jnp.zeros((), w.dtype))
  return jnp.einsum("no,ni->oi", y, x) / x.shape[0]
