"""Tests of lilly.envs.rewards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.envs import rewards


def test_without_a_margin_only_the_bound_counts():
  x = jnp.array([-1.01, -1.0, 0.0, 1.0, 1.01])
  value = rewards.tolerance(x, upper=1.0)
  assert value.tolist() == [0, 1, 1, 1, 0] and value.dtype == x.dtype


def test_falls_off_alike_on_both_sides():
  x = jnp.array([-1.5, -1.0, 0.5, 1.5, 2.0])
  value = rewards.tolerance(x, upper=1.0, margin=0.5, value_at_margin=0.3)
  np.testing.assert_allclose(value, [0.3, 1, 1, 0.3, 0.3**4], rtol=1e-5)


def test_slopes_are_finite_everywhere():
  def value(x):
    return rewards.tolerance(x, upper=1.0, margin=0.5)

  slope = jax.jit(jax.vmap(jax.grad(value)))
  slopes = slope(jnp.array([0.0, 1.0, 1.2, -1.2, 50.0]))
  assert np.isfinite(slopes).all()
  assert slopes[2] < 0 < slopes[3] and slopes[0] == 0


def test_small_control_is_the_suites():
  for action in ([0.0], [1.0], [-0.5, 0.5, 0.2]):
    expected = (4 + np.mean(1 - np.square(action))) / 5
    actual = rewards.small_control(jnp.array(action))
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.parametrize(
  "options",
  [
    {"upper": -1.0},
    {"margin": np.float32(-0.5)},
    {"margin": np.nan},
    {"margin": 1.0, "value_at_margin": 0.0},
    {"margin": 1.0, "value_at_margin": np.float32(1)},
  ],
)
def test_constants_out_of_range_are_refused(options):
  with pytest.raises(ValueError, match=f"{list(options)[-1]} is .* must be"):
    rewards.tolerance(jnp.ones(2), **options)


def test_whole_numbers_are_real_numbers():
  options = {"upper": 1, "margin": 2}
  found = rewards.tolerance(np.array([0, 2, 3]), **options)
  wanted = rewards.tolerance(jnp.array([0.0, 2.0, 3.0]), **options)
  np.testing.assert_array_equal(found, wanted)
  assert rewards.small_control([1, 0]) == np.float32(0.9)
