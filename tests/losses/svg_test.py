"""Tests of lilly.losses.svg against closed forms, and RDPG without noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.losses import recurrent_dpg, svg
from tests.whole import each

svg = each(svg)


def test_gradients_are_those_of_a_quadratic_problem():
  # E -(m + s ν - a*)² has gradients 2 (a* - m) and -2 s.
  mean, scale, best, count = 0.3, 0.7, 1.1, 4000
  noise = jax.random.normal(jax.random.key(0), (count, 1, 1))

  def loss(noise, mean, scale):
    return svg.actor_loss(
      lambda memory, a: -jnp.sum((a - memory) ** 2),
      jnp.array([best]),
      lambda nu: svg.action(
        jnp.full((1, 1), mean), jnp.full((1, 1), scale), nu
      ),
      noise,
      jnp.ones(1),
    )

  each = jax.vmap(
    lambda nu: jnp.stack(jax.grad(loss, (1, 2))(nu[None], mean, scale))
  )(noise)
  wanted = -np.array([2 * (best - mean), -2 * scale])
  error = np.std(each, axis=0) / np.sqrt(count)
  assert np.all(np.abs(np.mean(each, axis=0) - wanted) < 3 * error)
  together = jnp.stack(jax.grad(loss, (1, 2))(noise, mean, scale))
  np.testing.assert_allclose(together, np.mean(each, axis=0), rtol=1e-4)
  # The other estimator, by scores, has much more variance.
  values = -((mean + scale * noise[:, 0, 0] - best) ** 2)
  scores = -values * noise[:, 0, 0] / scale
  assert np.var(scores) > 2 * np.var(each[:, 0])


def test_without_noise_it_is_rdpg():
  rng = np.random.default_rng(0)
  memories, means = (jnp.asarray(rng.normal(size=(2, 3, 4))) for _ in range(2))
  noise = jnp.asarray(rng.normal(size=(5, 2, 3, 4)))
  mask = jnp.array([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
  critic = lambda k, a: jnp.sum(jnp.sin(k * a))

  def stochastic(means):
    policy = lambda nu: svg.action(means, jnp.zeros_like(means), nu)
    return svg.actor_loss(critic, memories, policy, noise, mask)

  def deterministic(means):
    return recurrent_dpg.actor_loss(critic, memories, means, mask)

  for found, wanted in zip(
    jax.value_and_grad(stochastic)(means),
    jax.value_and_grad(deterministic)(means),
    strict=True,
  ):
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_expectations_are_means_over_samples():
  values = jnp.arange(6.0).reshape(3, 2)
  np.testing.assert_array_equal(svg.average_samples(values), [2.0, 3.0])
  with pytest.raises(ValueError, match="no samples"):
    svg.average_samples(jnp.zeros((0, 2)))
