"""Likelihoods of images under a decoder's outputs.

A `Likelihood` is a record of functions, so that one model handles binary as
well as grey and colour images.

All functions raise ValueError for arguments of another shape than stated; whole
numbers count as float32.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lilly import checks

__all__ = [
  "BERNOULLI",
  "GAUSSIAN",
  "Likelihood",
  "bernoulli",
  "bits_per_dimension",
  "gaussian",
]


def bernoulli(logits: jax.Array, image: jax.Array) -> jax.Array:
  """Computes the Bernoulli log likelihood: Σ x ln p + (1 - x) ln(1 - p).

  Args:
    logits: ln p / (1 - p) of each pixel, of any shape.
    image: x, 0 or 1, or an expectation in between, shaped as logits.

  Returns:
    ln p(x), in nats, summed over pixels, [].

  Reference:
    Kingma and Welling (2014), arXiv:1312.6114, appendix C.1.

  >>> f"{bernoulli(jnp.zeros((2, 2, 1)), jnp.ones((2, 2, 1))):.3f}"
  '-2.773'
  """
  sizes = {}
  logits = checks.real("logits", logits, "*S", sizes)
  image = checks.real("image", image, "*S", sizes)
  return -jnp.sum(optax.losses.sigmoid_binary_cross_entropy(logits, image))


def gaussian(numbers: jax.Array, image: jax.Array) -> jax.Array:
  """Computes the Gaussian log likelihood: Σ ln N(x; μ, σ²).

  Args:
    numbers: decoder outputs μ and ln σ, concatenated along the last axis,
      [..., 2 C]; σ is at least 1 / 256, the quantisation step of the data.
    image: x, from 0 to 1, dequantised with noise, [..., C].

  Returns:
    ln p(x), in nats, summed over values, [].

  Reference:
    Kingma and Welling (2014), arXiv:1312.6114, appendix C.2. The lower bound of
    σ is ours.

  >>> f"{gaussian(jnp.zeros((1, 1, 2)), jnp.ones((1, 1, 1))):.3f}"
  '-1.419'
  """
  sizes = {}
  numbers = checks.real("numbers", numbers, "*S D", sizes)
  image = checks.real("image", image, "*S C", sizes)
  if numbers.shape[-1] != 2 * image.shape[-1]:
    raise ValueError(
      f"numbers has {numbers.shape[-1]} numbers along its last axis; it must "
      f"have twice as many as image, {2 * image.shape[-1]}."
    )
  mean, log_scale = jnp.split(numbers, 2, axis=-1)
  log_scale = jnp.maximum(log_scale, -math.log(256))
  errors = (image - mean) * jnp.exp(-log_scale)
  logs = 0.5 * math.log(2 * math.pi) + log_scale
  return -jnp.sum(0.5 * jnp.square(errors) + logs)


def bits_per_dimension(
  nats: jax.Array, num_dimensions: int, *, num_levels: int = 256
) -> jax.Array:
  """Converts nats of a density on [0, 1] into bits per dimension.

  Args:
    nats: -ln p(x) of an image, [...].
    num_dimensions: number of values in the image, D.
    num_levels: quantisation levels of the data before noise was added.

  Returns:
    nats / (D ln 2) + log2(num_levels), [...].

  Raises:
    ValueError: if num_dimensions or num_levels is not positive.

  Reference:
    Theis, van den Oord and Bethge (2016), arXiv:1511.01844, section 3.1.

  >>> float(bits_per_dimension(jnp.zeros(()), 3))
  8.0
  """
  nats = checks.real("nats", nats, "...")
  num_dimensions = checks.whole_number(
    "num_dimensions", num_dimensions, least=1
  )
  num_levels = checks.whole_number("num_levels", num_levels, least=1)
  return nats / (num_dimensions * math.log(2)) + math.log2(num_levels)


class Likelihood(NamedTuple):
  """p(x | z), as functions of the decoder's outputs."""

  # log_density(numbers, image) -> []
  log_density: Callable[[jax.Array, jax.Array], jax.Array]
  # mode(numbers) -> image
  mode: Callable[[jax.Array], jax.Array]
  # mean(numbers) -> image
  mean: Callable[[jax.Array], jax.Array]
  num_numbers: int  # decoder outputs per value of the image


def _first_half(numbers):
  return jnp.split(numbers, 2, axis=-1)[0]


BERNOULLI = Likelihood(
  bernoulli, lambda x: (x > 0).astype(x.dtype), jax.nn.sigmoid, 1
)
GAUSSIAN = Likelihood(gaussian, _first_half, _first_half, 2)
