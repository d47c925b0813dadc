"""Tests of pseudo-backpropagation against the inverse's own definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.rules import feedback_alignment, pseudo_backprop


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (1, 3)])
@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_is_the_moore_penrose_inverse(shape, scale):
  # Scaled down, an absolute cut-off would return zeros.
  w = scale * np.random.default_rng(0).normal(size=shape)
  with jax.enable_x64(True):
    p = np.asarray(jax.jit(pseudo_backprop.feedback)(w))
  np.testing.assert_allclose(w @ p @ w, w, atol=1e-12 * scale)
  np.testing.assert_allclose(p @ w @ p, p, atol=1e-12 / scale)
  np.testing.assert_allclose(w @ p, (w @ p).T, atol=1e-12)
  np.testing.assert_allclose(p @ w, (p @ w).T, atol=1e-12)


def test_small_singular_values_are_cut_relative_to_the_largest():
  u, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))
  w = (u[:, :2] * np.array([1e-3, 1e-8])).astype(np.float32)
  cut = np.asarray(pseudo_backprop.feedback(w, rtol=1e-3))
  np.testing.assert_allclose(cut[0], u[:, 0] * 1e3, rtol=1e-3, atol=0.5)
  assert np.abs(cut[1]).max() < 1
  kept = np.asarray(pseudo_backprop.feedback(w, rtol=1e-7))
  assert np.abs(kept[1]).max() > 1e7
  assert not np.any(pseudo_backprop.feedback(np.zeros((3, 2), np.float32)))


def test_feedback_alignments_signal_on_one_pair_is_this_one():
  # From zero weights and one (x, y*), W stays rank one and W⁺ e ∝ B e.
  rng = np.random.default_rng(2)
  x, target, feedback = (rng.normal(size=n) for n in (30, 10, (10, 20)))

  def loss(params):
    y = feedback_alignment.linear(x @ params[0], params[1], feedback)
    return jnp.sum(jnp.square(target - y)) / 2, target - y

  @jax.jit
  def step(params):
    grads, e = jax.grad(loss, has_aux=True)(params)
    signals = e @ feedback, e @ pseudo_backprop.feedback(params[1], rtol=1e-9)
    new = jax.tree.map(lambda p, g: p - 1e-3 * g, params, grads)
    return new, (e, *signals)

  with jax.enable_x64(True):
    params = (np.zeros((30, 20)), np.zeros((20, 10)))
    for t in range(1, 11):
      params, (e, fa, pbp) = step(params)
      if t >= 3:
        e, fa, pbp = map(np.asarray, (e, fa, pbp))
        assert np.linalg.norm(e) > 1e-10
        cosine = fa @ pbp / np.linalg.norm(fa) / np.linalg.norm(pbp)
        assert cosine > 1 - 1e-8


def test_gradient_is_stopped_and_16_bits_are_kept():
  w = jnp.array([[1.0, 2.0], [0.0, 1.0]], jnp.bfloat16)

  def total(w):
    return pseudo_backprop.feedback(w).sum()

  assert not np.any(jax.jit(jax.grad(total))(w))
  assert pseudo_backprop.feedback(w).dtype == jnp.bfloat16


@pytest.mark.parametrize("rtol", [-0.1, 1.0])
def test_cut_off_must_be_a_fraction(rtol):
  with pytest.raises(ValueError, match=f"rtol is {rtol}; .*"):
    pseudo_backprop.feedback(jnp.ones((2, 2)), rtol=rtol)
