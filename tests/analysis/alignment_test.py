"""Tests of the alignment read-outs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.analysis import alignment


def _pair(degrees, size=7):
  """Two vectors at a known angle, in a random plane."""
  rng = np.random.default_rng(0)
  basis, _ = np.linalg.qr(rng.normal(size=(size, 2)))
  radians = np.deg2rad(degrees)
  return basis[:, 0], basis @ [np.cos(radians), np.sin(radians)]


_angle = jax.jit(alignment.angle)


@pytest.mark.parametrize("degrees", [0, 1e-3, 30, 89, 91, 150, 179.999, 180])
def test_angle_is_signed_and_accurate(degrees):
  a, b = _pair(degrees)
  with jax.enable_x64(True):
    assert abs(_angle(3 * a, 0.1 * b) - degrees) < 1e-9
  a, b = a.astype(np.float32), b.astype(np.float32)
  assert abs(_angle(a, b) - degrees) < 2e-5


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_angle_knows_no_scale(scale):
  a, b = (v.astype(np.float32) for v in _pair(120))
  assert abs(_angle(np.float32(scale) * a, b) - 120) < 1e-3


def test_angle_with_zero_is_90_and_its_gradient_finite():
  a, zero = np.array([1.0, 2.0], np.float32), np.zeros(2, np.float32)
  both = jax.jit(jax.value_and_grad(alignment.angle, (0, 1)))
  for pair in ((a, zero), (zero, a), (zero, zero)):
    value, grads = both(*pair)
    assert abs(value - 90) < 1e-4
    assert np.all(np.isfinite(grads))
  assert abs(_angle(jnp.zeros((0, 3)), jnp.zeros((0, 3))) - 90) < 1e-4
  for pair in ((a, a), (a, -a)):
    assert np.all(np.isfinite(both(*pair)[1]))


def test_gradient_of_the_angle_is_a_central_difference():
  a, b = _pair(70)
  a = 3 * a
  with jax.enable_x64(True):
    grad = jax.jit(jax.grad(alignment.angle))(a, b)
    for i in range(a.size):
      step = 1e-6 * np.eye(a.size)[i]
      difference = (_angle(a + step, b) - _angle(a - step, b)) / 2e-6
      assert abs(grad[i] - difference) < 1e-6


def test_matrix_angle_and_norm_ratio_know_the_transposition():
  rng = np.random.default_rng(1)
  w = rng.normal(size=(4, 4)).astype(np.float32)
  matrix_angle = jax.jit(alignment.matrix_angle)
  assert matrix_angle(w, 2 * w.T) < 1e-3
  assert abs(matrix_angle(w, -w.T) - 180) < 1e-3
  assert matrix_angle(w, w) > 20
  kernel = rng.normal(size=(3, 3, 1, 2)).astype(np.float32)
  assert matrix_angle(kernel, 2 * kernel) < 1e-3
  norm_ratio = jax.jit(alignment.norm_ratio)
  assert abs(norm_ratio(kernel, 2 * kernel) - 2) < 1e-6
  assert abs(norm_ratio(w, 0.5 * w.T) - 0.5) < 1e-6
  assert norm_ratio(0 * w, w) == np.inf
  with pytest.raises(ValueError, match="feedback has shape"):
    alignment.norm_ratio(w[:2], w[:2])


def test_descent_is_the_papers_form_in_columns():
  rng = np.random.default_rng(2)
  e, W, B = rng.normal(size=3), rng.normal(size=(3, 4)), rng.normal(size=(4, 3))
  with jax.enable_x64(True):
    ours = alignment.descent(e, W.T, B.T)
  np.testing.assert_allclose(ours, e @ W @ B @ e, rtol=1e-12)
  with pytest.raises(ValueError, match="w has shape"):
    alignment.descent(e, W, B)


def test_descent_is_positive_within_90_degrees_only():
  rng = np.random.default_rng(3)
  signs, descent = [], jax.jit(alignment.descent)
  for _ in range(20):
    e, w, feedback = (
      rng.normal(size=shape).astype(np.float32) for shape in (3, (4, 3), (3, 4))
    )
    downhill = descent(e, w, feedback) > 0
    assert downhill == (_angle(e @ feedback, w @ e) < 90)
    signs.append(bool(downhill))
  assert len(set(signs)) == 2


def test_error_is_in_units_of_the_target():
  target = jnp.array([[1.0, 2.0], [2.0, 4.0]])
  output = jnp.array([[1.0, 2.0], [2.0, 0.0]])
  assert alignment.normalised_error(target, output) == 16 / 25
  assert alignment.normalised_error(target, 0 * target) == 1


def test_signals_are_compared_layer_by_layer():
  first, second = _pair(30), _pair(140, size=3)
  with jax.enable_x64(True):
    angles = jax.jit(alignment.compare)(
      (first[0], second[0]),
      (first[1], second[1]),
      (first[0], -second[0]),
    )
  np.testing.assert_allclose(angles.bp, [30, 140], atol=1e-9)
  np.testing.assert_allclose(angles.pbp, [0, 180], atol=1e-9)
  with pytest.raises(ValueError, match="pbp 1;"):
    alignment.compare(first, first, first[:1])
