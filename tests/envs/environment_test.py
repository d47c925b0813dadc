"""Tests of lilly.envs.environment."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.envs import environment


@pytest.mark.parametrize("bounds", [([], []), (1.0, 2.0)])
def test_a_box_has_at_least_one_number(bounds):
  with pytest.raises(ValueError, match="at least one number"):
    environment.box(*bounds)


@pytest.mark.parametrize(
  "bounds", [([0.0], [0.0, 1.0]), ([0.0, 2.0], [1.0, 1])]
)
def test_bounds_fit_each_other(bounds):
  with pytest.raises(ValueError, match=r"maximum is .*none below it"):
    environment.box(*bounds)


@pytest.mark.parametrize(
  "bounds", [([np.nan], [1.0]), ([0.0], [np.nan]), ([0.0, np.nan], [1.0, 2.0])]
)
def test_a_bound_is_a_number(bounds):
  with pytest.raises(ValueError, match=r"maximum is .*none of them NaN"):
    environment.box(*bounds)


def _samples(spec, count):
  draw = jax.jit(jax.vmap(lambda key: environment.sample(key, spec)))
  return np.asarray(draw(jax.random.split(jax.random.key(0), count)))


def test_samples_fill_a_box_uniformly():
  spec = environment.box([-2.0, 10.0], [4.0, 11.0])
  x = _samples(spec, 2000)
  assert x.shape == (2000, 2) and x.dtype == np.float32
  place = (x - [-2, 10]) / [6, 1]
  quantiles = np.quantile(place, [0, 0.5, 1], axis=0)
  np.testing.assert_allclose(quantiles.T, [[0, 0.5, 1]] * 2, atol=0.05)
  assert abs(np.corrcoef(place.T)[0, 1]) < 0.1


def test_samples_of_a_choice_are_all_its_values():
  low, high = np.array(0), np.array(2)
  spec = environment.Spec((), jnp.int32, low, high, num_values=3)
  x = _samples(spec, 300)
  assert x.dtype == jnp.int32
  assert (np.bincount(x, minlength=4) > [70, 70, 70, -1]).all()
  assert x.max() == 2


# The largest float32 stands for no bound in other libraries.
_LARGEST = float(np.finfo(np.float32).max)


@pytest.mark.parametrize(
  ("low", "high", "dtype"),
  [
    ([0.0, 0.0], [1.0, np.inf], jnp.float32),
    ([0.0, -_LARGEST], [1.0, _LARGEST], jnp.float32),
    # Finite in float32, but not in the spec's type.
    ([-4e4], [4e4], jnp.float16),
  ],
)
def test_samples_need_bounds(low, high, dtype):
  spec = environment.box(low, high)._replace(dtype=dtype)
  assert not environment.is_bounded(spec)
  with pytest.raises(ValueError, match="bounds must be finite") as caught:
    environment.sample(jax.random.key(0), spec)
  assert "\n" not in str(caught.value)


def test_samples_of_the_widest_bounds_are_finite():
  spec = environment.box([-_LARGEST / 2], [_LARGEST / 2])
  x = _samples(spec, 300)
  assert np.isfinite(x).all() and np.ptp(x / _LARGEST) > 0.9


def test_a_made_step_has_the_types_of_steps():
  step = environment.make_step(jnp.ones(2), 3, np.True_)
  assert [x.dtype.name for x in step] == ["float32"] * 3 + ["bool"]
  assert (step.reward, step.discount, step.truncated) == (3, 0, False)
