"""Likelihoods of images, from what a decoder gives for each pixel.

A `Likelihood` is a record of functions, so that one model serves binary images
and those with grey values or colours.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

__all__ = [
  "BERNOULLI",
  "GAUSSIAN",
  "Likelihood",
  "bernoulli",
  "bits_per_dimension",
  "gaussian",
]


def bernoulli(logits: jax.Array, image: jax.Array) -> jax.Array:
  """Scores pixels that are ink or not: Σ x ln p + (1 - x) ln(1 - p).

  Args:
    logits: ln p / (1 - p) of each pixel, [...].
    image: x, 0 or 1, or an expectation between, [...].

  Returns:
    ln p(x), in nats, summed over pixels, [].

  Reference:
    Kingma and Welling (2014), arXiv:1312.6114, appendix C.1.

  >>> f"{bernoulli(jnp.zeros((2, 2, 1)), jnp.ones((2, 2, 1))):.3f}"
  '-2.773'
  """
  chex.assert_equal_shape([logits, image])
  return -jnp.sum(optax.losses.sigmoid_binary_cross_entropy(logits, image))


def gaussian(numbers: jax.Array, image: jax.Array) -> jax.Array:
  """Scores pixels with values by a normal density, Σ ln N(x; μ, σ²).

  Args:
    numbers: μ and ln σ of each value, one after the other along the last axis,
      [..., 2 C]; σ is at least 1 / 256, the step of what was rounded.
    image: x, from 0 to 1, with noise where it was rounded, [..., C].

  Returns:
    ln p(x), in nats, summed over values, [].

  Reference:
    Kingma and Welling (2014), arXiv:1312.6114, appendix C.2. The least σ is
    ours.

  >>> f"{gaussian(jnp.zeros((1, 1, 2)), jnp.ones((1, 1, 1))):.3f}"
  '-1.419'
  """
  mean, log_scale = jnp.split(numbers, 2, axis=-1)
  chex.assert_equal_shape([mean, image])
  log_scale = jnp.maximum(log_scale, -math.log(256))
  errors = (image - mean) * jnp.exp(-log_scale)
  logs = 0.5 * math.log(2 * math.pi) + log_scale
  return -jnp.sum(0.5 * jnp.square(errors) + logs)


def bits_per_dimension(
  nats: jax.Array, num_dimensions: int, *, num_levels: int = 256
) -> jax.Array:
  """Turns nats of a density on 0 to 1 into bits for each value.

  Args:
    nats: -ln p(x) of an image, [...].
    num_dimensions: values in the image.
    num_levels: to which values were rounded before noise was added.

  Returns:
    nats / (D ln 2) + log2 of the levels, [...].

  Reference:
    Theis, van den Oord and Bethge (2016), arXiv:1511.01844, section 3.1.

  >>> float(bits_per_dimension(jnp.zeros(()), 3))
  8.0
  """
  return nats / (num_dimensions * math.log(2)) + math.log2(num_levels)


class Likelihood(NamedTuple):
  """p(x | z), from the numbers of a decoder."""

  # log_density(numbers, image) -> []
  log_density: Callable[[jax.Array, jax.Array], jax.Array]
  # likeliest(numbers) -> image
  likeliest: Callable[[jax.Array], jax.Array]
  # mean(numbers) -> image
  mean: Callable[[jax.Array], jax.Array]
  num_numbers: int  # for each value of a pixel


def _first_half(numbers):
  return jnp.split(numbers, 2, axis=-1)[0]


BERNOULLI = Likelihood(
  bernoulli, lambda x: (x > 0).astype(x.dtype), jax.nn.sigmoid, 1
)
GAUSSIAN = Likelihood(gaussian, _first_half, _first_half, 2)
