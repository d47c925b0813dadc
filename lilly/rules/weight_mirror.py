"""Weight mirror: feedback learns the weights from the layer's own noise."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

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
    max_norm: Frobenius norm to which a larger result is rescaled, or None.

  Returns:
    The new feedback, [out, in].

  Raises:
    ValueError: if a number (not a traced value) is outside its range.

  Reference:
    Akrout, Wilson, Humphreys, Lillicrap and Tweed (2019), arXiv:1904.05391,
    "weight mirror". Deviations: f(0) is subtracted, which reduces the variance
    and keeps the mean; decay and max_norm bound the norm, which the paper
    mentions only in its text.

  >>> w, feedback = jnp.ones((3, 2)), jnp.zeros((2, 3))
  >>> update(jax.random.key(0), w, feedback, batch_size=4).shape
  (2, 3)
  """
  chex.assert_rank([w, feedback], 2)
  chex.assert_shape(feedback, w.shape[::-1])
  _check(noise_std, learning_rate, decay, batch_size, max_norm)
  w = jax.lax.stop_gradient(w)
  noise = jax.random.normal(key, (batch_size, w.shape[0]), w.dtype)
  x = jnp.asarray(noise_std, w.dtype) * noise
  correlation = _correlation(activation or (lambda y: y), x, w)
  rate = jnp.asarray(learning_rate)
  new = (1 - jnp.asarray(decay)) * feedback + rate * correlation
  if max_norm is not None:
    norm = jnp.linalg.norm(new)
    new = new * jnp.where(norm > max_norm, max_norm / norm, 1.0)
  return new.astype(feedback.dtype)


def _correlation(f, x, w):
  y = f(x @ w) - f(jnp.zeros((), w.dtype))
  return jnp.einsum("no,ni->oi", y, x) / x.shape[0]


def _check(noise_std, learning_rate, decay, batch_size, max_norm) -> None:
  positive = {
    "noise_std": noise_std,
    "learning_rate": learning_rate,
    "batch_size": batch_size,
    "max_norm": max_norm,
  }
  for name, value in positive.items():
    if isinstance(value, int | float) and not value > 0:
      raise ValueError(f"{name} is {value}; it must be positive.")
  if isinstance(decay, int | float) and not 0 <= decay <= 1:
    raise ValueError(f"decay is {decay}; it must be in [0, 1].")
