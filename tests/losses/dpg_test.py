"""Tests of lilly.losses.dpg."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.losses import dpg
from tests.whole import each

dpg = each(dpg)


def test_critic_loss_is_the_plain_square_and_its_target_a_constant():
  inputs = tuple(map(jnp.float32, (1.5, 0.5, 0.9, 2.0)))
  loss, grads = jax.value_and_grad(dpg.critic_loss, (0, 1, 2, 3))(*inputs)
  error = 0.5 + 0.9 * 2.0 - 1.5
  np.testing.assert_allclose(loss, error**2, rtol=1e-6)
  np.testing.assert_allclose(grads, (-2 * error, 0, 0, 0), rtol=1e-6)


def test_a_discount_of_zero_ends_the_sum():
  values = [
    dpg.critic_loss(*map(jnp.float32, (1.0, 2.0, 0.0, q))) for q in (5.0, -9.0)
  ]
  assert values == [1.0, 1.0]


def _policy(params, s):
  return jnp.tanh(s @ params["w"])


def _critic(s, a):
  return jnp.sum(jnp.sin(s) * a) - jnp.sum(a**2)


def test_actor_gradient_is_that_of_minus_the_value():
  rng = np.random.default_rng(0)
  params = {"w": jnp.asarray(rng.normal(size=(3, 3)), jnp.float32)}
  states = jnp.asarray(rng.normal(size=(5, 3)), jnp.float32)

  def by_slope(params):
    def loss(s):
      a = _policy(params, s)
      return dpg.actor_loss(a, jax.grad(_critic, 1)(s, a))

    return jnp.mean(jax.vmap(loss)(states))

  def by_value(params):
    return -jnp.mean(jax.vmap(lambda s: _critic(s, _policy(params, s)))(states))

  found, wanted = (
    jax.grad(by_slope)(params)["w"],
    jax.grad(by_value)(params)["w"],
  )
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
  # And that value rises along it.
  better = {"w": params["w"] - 0.01 * found}
  assert by_value(better) < by_value(params)


def test_long_slopes_are_clipped_and_short_ones_are_not():
  def gradient(slope):
    return jax.grad(lambda a: dpg.actor_loss(a, slope, max_norm=2.0))(
      jnp.zeros(2)
    )

  np.testing.assert_allclose(gradient(jnp.array([3.0, -4.0])), [-1.2, 1.6])
  np.testing.assert_allclose(gradient(jnp.array([0.3, -0.4])), [-0.3, 0.4])
  np.testing.assert_allclose(gradient(jnp.zeros(2)), [0.0, 0.0])


def test_bad_input_is_refused():
  with pytest.raises(ValueError, match="max_norm is 0"):
    dpg.actor_loss(jnp.zeros(2), jnp.zeros(2), max_norm=0)
  with pytest.raises(ValueError, match="dqda_t has shape"):
    dpg.actor_loss(jnp.zeros(2), jnp.zeros(3))
