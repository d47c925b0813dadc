"""Tests of lilly.losses.likelihoods against densities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from lilly.losses import likelihoods
from tests.whole import each

likelihoods = each(likelihoods)


def numbers(*shape):
  return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def test_ink_is_drawn_with_the_probability_of_its_logit():
  logits = numbers(3, 2, 1)
  image = jnp.array([1.0, 0, 0, 1, 1, 0]).reshape(3, 2, 1)
  p = 1 / (1 + np.exp(-np.asarray(logits)))
  wanted = scipy.stats.bernoulli.logpmf(np.asarray(image), p).sum()
  np.testing.assert_allclose(likelihoods.bernoulli(logits, image), wanted, 1e-5)
  # No pixel is counted twice, none left out.
  found = likelihoods.bernoulli(jnp.zeros((3, 2, 1)), image)
  np.testing.assert_allclose(found, -6 * np.log(2), 1e-6)


def test_values_have_a_normal_density():
  x, image = numbers(2, 3, 4), numbers(2, 3, 2)
  mean, log_scale = np.split(np.asarray(x), 2, axis=-1)
  wanted = scipy.stats.norm.logpdf(image, mean, np.exp(log_scale)).sum()
  np.testing.assert_allclose(likelihoods.gaussian(x, image), wanted, 1e-5)
  # No scale is below the step of what was rounded.
  sure = x.at[..., 2:].set(-100.0)
  wanted = scipy.stats.norm.logpdf(image, mean, 1 / 256).sum()
  np.testing.assert_allclose(likelihoods.gaussian(sure, image), wanted, 1e-5)


def test_noise_on_bytes_costs_eight_bits():
  """Uniform over the cube, a density of 1, is 256 equal levels."""
  found = likelihoods.bits_per_dimension(jnp.zeros(()), 12)
  assert found == 8
  nats = 12 * np.log(2.0)
  assert likelihoods.bits_per_dimension(jnp.float32(nats), 12) == pytest.approx(
    9
  )
  assert likelihoods.bits_per_dimension(jnp.zeros(()), 3, num_levels=2) == 1


@pytest.mark.parametrize("name", ["BERNOULLI", "GAUSSIAN"])
def test_the_likeliest_image_is_likelier_than_others(name):
  likelihood = getattr(likelihoods, name)
  x = numbers(2, 2, 3 * likelihood.num_numbers)
  best = likelihood.mode(x)
  assert best.shape == likelihood.mean(x).shape == (2, 2, 3)
  found = likelihood.log_density(x, best)
  for other in (1 - best, 0 * best, best.at[0, 0, 0].add(-0.5)):
    assert likelihood.log_density(x, other) < found
  expected = jax.nn.sigmoid(x) if name == "BERNOULLI" else x[..., :3]
  np.testing.assert_allclose(likelihood.mean(x), expected)
