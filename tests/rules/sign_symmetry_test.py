"""Tests of sign-symmetric feedback."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.rules import sign_symmetry

_W = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
_W[0, 0] = 0.0
_KERNEL = np.random.default_rng(1).normal(size=(3, 2, 1, 4)).astype(np.float32)
_SIGNS = ((_W, np.sign(_W).T), (_KERNEL, np.sign(_KERNEL)))


@pytest.mark.parametrize(("w", "signs"), _SIGNS)
def test_uniform_has_one_size(w, signs):
  np.testing.assert_array_equal(sign_symmetry.usf(w, scale=0.25), 0.25 * signs)


@pytest.mark.parametrize(("w", "signs"), _SIGNS)
def test_fixed_takes_its_sizes_from_the_magnitude(w, signs):
  magnitude = np.random.default_rng(2).normal(size=signs.shape)
  magnitude = magnitude.astype(np.float32)
  np.testing.assert_array_equal(
    sign_symmetry.frsf(w, magnitude), np.abs(magnitude) * signs
  )


@pytest.mark.parametrize(("w", "signs"), _SIGNS)
def test_batchwise_redraw_depends_on_the_key_only(w, signs):
  draw = jax.jit(lambda seed: sign_symmetry.brsf(jax.random.key(seed), w))
  first, again, other = draw(0), draw(0), draw(1)
  np.testing.assert_array_equal(first, again)
  assert np.all((first != other) == (signs != 0))
  for feedback in (first, other):
    np.testing.assert_array_equal(np.sign(feedback), signs)


def test_batchwise_sizes_are_uniform_up_to_the_scale():
  w = jnp.ones((100, 100))
  sizes = np.sort(np.ravel(sign_symmetry.brsf(jax.random.key(2), w, scale=3)))
  # Kolmogorov-Smirnov: 1.95 / sqrt(n) is a probability of 1e-3.
  uniform = (np.arange(sizes.size) + 0.5) / sizes.size
  assert np.abs(sizes / 3 - uniform).max() < 1.95 / 100


def test_no_gradient_goes_to_weights_or_magnitude():
  def total(w, magnitude):
    return jnp.sum(sign_symmetry.frsf(w, magnitude)) + jnp.sum(
      sign_symmetry.usf(w)
    )

  for grad in jax.jit(jax.grad(total, (0, 1)))(_W, _W.T):
    assert not np.any(grad)


@pytest.mark.parametrize("scale", [0.0, -1, float("nan")])
def test_scale_must_be_positive(scale):
  with pytest.raises(ValueError, match=f"scale is {scale}.*; it must be"):
    sign_symmetry.usf(_W, scale=scale)
  with pytest.raises(ValueError, match="scale"):
    sign_symmetry.brsf(jax.random.key(0), _W, scale=scale)


def test_magnitude_must_have_the_feedbacks_shape():
  with pytest.raises(
    ValueError, match=r"magnitude has shape \[4, 3\]; it must"
  ):
    sign_symmetry.frsf(_W, _W)
  with pytest.raises(ValueError, match=r"magnitude has shape \[3, 2, 4, 1\]"):
    sign_symmetry.frsf(_KERNEL, _KERNEL.swapaxes(2, 3))
  with pytest.raises(ValueError, match=r"w has shape \[3\]; it must be"):
    sign_symmetry.usf(_W[0])
