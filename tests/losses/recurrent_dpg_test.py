"""Tests of lilly.losses.recurrent_dpg against returns and loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.losses import recurrent_dpg
from tests.whole import each

recurrent_dpg = each(recurrent_dpg)

T = 4
# Of a scalar system x' = A x + B u and a policy's memory z' = F (z + x) + W u.
# A critic knows x from the first one and from the actions since.
A, B, F, W = 0.9, 0.8, 0.5, 0.3
THETA = -0.3


pytestmark = pytest.mark.usefixtures("float64")


def play(x, z, theta, first=None, start=0):
  """The return of T - start steps; the first action may be another one."""
  total = 0.0
  for t in range(start, T):
    z = z + x
    u = theta * z
    if t == start and first is not None:
      u = first
    x = A * x + B * u
    # An action costs at once, and what it brings comes later.
    total = total + x - 3.5 * u - 0.3 * u**2
    z = F * z + W * u
  return total


def stored(theta):
  """x_t, what was remembered before o_t, and u_t, of an episode."""
  x, z, found = 1.0, 0.0, []
  for _ in range(T):
    u = theta * (z + x)
    found.append((x, z, u))
    x, z = A * x + B * u, F * (z + x) + W * u
  return [jnp.asarray(values) for values in zip(*found, strict=True)]


def test_the_gradient_is_that_of_the_return():
  xs, zs, _ = stored(THETA)

  def critic(memory, action):
    # Exact: plays on from h_t. The step's number is part of the memory.
    t, x, z = memory
    return jax.lax.switch(
      t, [lambda start=i: play(x, z, THETA, action[0], start) for i in range(T)]
    )

  def loss(theta):
    actions = theta * (zs + xs)[:, None]
    memories = (jnp.arange(T), xs, zs)
    return recurrent_dpg.actor_loss(critic, memories, actions, jnp.ones(T))

  h = 1e-6
  ends = play(1.0, 0.0, THETA + h), play(1.0, 0.0, THETA - h)
  wanted = (ends[0] - ends[1]) / (2 * h)
  found = -T * jax.grad(loss)(THETA)
  np.testing.assert_allclose(found, wanted, rtol=1e-7)

  def wrong(theta):
    """The common bug: the critic remembers the policy's actions."""
    xs, zs, us = stored(theta)
    values = [
      critic((jnp.asarray(t), xs[t], zs[t]), us[t : t + 1]) for t in range(T)
    ]
    return sum(values)

  assert np.sign(jax.grad(wrong)(THETA)) == -np.sign(wanted)


def test_no_gradient_goes_through_memories():
  def loss(theta):
    memories = theta * jnp.ones((2, 3))
    return recurrent_dpg.actor_loss(
      lambda k, a: jnp.sum(k * a), memories, jnp.ones((2, 3)), jnp.ones(2)
    )

  assert loss(2.0) == -6.0
  assert jax.grad(loss)(2.0) == 0.0


def test_targets_are_of_the_next_step():
  # Q' counts steps: 10, 20, ... of h_1, h_2, ...
  values = 10.0 * jnp.arange(1, T + 2)
  discount = jnp.array([0.5, 0.5, 0.5, 0.0])
  y = recurrent_dpg.targets(jnp.arange(4.0), discount, values)
  np.testing.assert_array_equal(y, [10.0, 16.0, 22.0, 3.0])
  slope = jax.grad(lambda v: recurrent_dpg.targets(v[1:], discount, v).sum())
  np.testing.assert_array_equal(slope(values), 0.0)
  with pytest.raises(ValueError, match="value has shape"):
    recurrent_dpg.targets(jnp.ones(4), discount, values[1:])


def test_a_history_has_the_actions_before():
  rng = np.random.default_rng(0)
  seen, done = rng.normal(size=(3, T + 1, 2)), rng.normal(size=(3, T, 1))
  observation, before = recurrent_dpg.history(*map(jnp.asarray, (seen, done)))
  np.testing.assert_array_equal(observation, seen)
  np.testing.assert_array_equal(before[:, 0], 0.0)
  np.testing.assert_array_equal(before[:, 1:], done)
  with pytest.raises(ValueError, match="observation has shape"):
    recurrent_dpg.history(jnp.asarray(seen[:, 1:]), jnp.asarray(done))


@pytest.mark.parametrize("garbage", [1e6, np.inf, np.nan])
def test_what_is_masked_changes_nothing(garbage):
  rng = np.random.default_rng(1)
  mask = jnp.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
  q, y, k = (jnp.asarray(rng.normal(size=(2, 3))) for _ in range(3))
  a = jnp.asarray(rng.normal(size=(2, 3, 2)))
  dirty = lambda x: jnp.where(
    mask.reshape(mask.shape + (1,) * (x.ndim - 2)) > 0, x, garbage
  )
  critic = lambda k, a: jnp.sum(k * a**2) + jnp.sum(jnp.sin(a))

  def losses(q, y, k, a):
    return recurrent_dpg.critic_loss(q, y, mask) + recurrent_dpg.actor_loss(
      critic, k, a, mask
    )

  wanted = np.sum(mask * (q - y) ** 2) / 3
  wanted -= (
    sum(critic(k[i, t], a[i, t]) for i, t in ((0, 0), (0, 1), (1, 0))) / 3
  )
  slope = jax.value_and_grad(losses, (0, 3))
  value, grads = slope(q, y, k, a)
  np.testing.assert_allclose(value, wanted)
  again, others = slope(*map(dirty, (q, y, k, a)))
  assert again == value
  for mine, theirs in zip(grads, others, strict=True):
    np.testing.assert_array_equal(mine, theirs)
  assert np.all(np.isfinite(grads[1]))


def test_an_episode_without_steps_is_no_division_by_zero():
  nothing = jnp.zeros(3)
  assert recurrent_dpg.critic_loss(nothing + 1, nothing, nothing) == 0.0
