"""Tests of lilly.control.exploration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

from lilly.control import exploration


def simulate(num_steps, num_runs, **options):
  def step(noise, key):
    noise = exploration.ornstein_uhlenbeck(key, noise, **options)
    return noise, noise

  keys = jax.random.split(jax.random.key(0), num_steps)
  return np.asarray(jax.lax.scan(step, jnp.zeros(num_runs), keys)[1])


@pytest.mark.parametrize(
  ("dt", "correlation", "std"),
  [(1.0, 0.85, 0.3797), (0.01, 0.9985, 0.3653)],
)
def test_moments_of_the_process(dt, correlation, std):
  x = simulate(2000, 400, dt=dt)[1000 if dt == 1 else 1990 :]
  if dt == 1:
    np.testing.assert_allclose(x.mean(), 0.0, atol=0.02)
    np.testing.assert_allclose(x.std(), std, atol=0.01)
  # From 0 the variance grows by a factor 1 - (1 - theta dt)^(2 t) less than 1.
  else:
    grown = std * np.sqrt(1 - correlation ** (2 * 1995))
    np.testing.assert_allclose(x.std(), grown, rtol=0.1)
  lag = np.mean(x[1:] * x[:-1]) / np.mean(x[:-1] ** 2)
  np.testing.assert_allclose(lag, correlation, atol=0.01)


def test_a_step_of_length_one_is_that_of_rlax():
  noise = jnp.array([0.3, -2.0])
  key = jax.random.key(3)
  wanted = rlax.add_ornstein_uhlenbeck_noise(
    jax.random.clone(key), jnp.zeros(2), noise, 0.4, 0.7
  )
  found = exploration.ornstein_uhlenbeck(key, noise, theta=0.4, sigma=0.7)
  np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_without_noise_it_decays():
  found = exploration.ornstein_uhlenbeck(
    jax.random.key(0), jnp.ones(1), theta=0.5, sigma=0.0, dt=0.1
  )
  np.testing.assert_allclose(found, 0.95, rtol=1e-6)


def test_the_step_must_be_positive():
  with pytest.raises(ValueError, match="dt is 0"):
    exploration.ornstein_uhlenbeck(jax.random.key(0), jnp.zeros(1), dt=0)


def test_the_noise_that_is_given_has_the_shape_of_the_state():
  zeros = jnp.zeros((3, 2))
  found = exploration.ornstein_uhlenbeck(
    jax.random.key(0), zeros, sigma=0.5, innovation=np.ones((3, 2), np.int32)
  )
  np.testing.assert_array_equal(found, 0.5)
  for shape in ((), (2,), (1, 2), (1, 3, 2)):
    with pytest.raises(ValueError, match="innovation has shape"):
      exploration.ornstein_uhlenbeck(
        jax.random.key(0), zeros, innovation=jnp.ones(shape)
      )
