"""Tests of Kolen-Pollack learning: the difference of the paths dies out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lilly.rules import feedback_alignment, kolen_pollack


def _train(optimiser, layer, params, xs):
  """Trains both paths on a loss without a meaning; yields all parameters."""

  def loss(params, x):
    return jnp.sum(jnp.sin(layer(jnp.tanh(x), params["w"], params["feedback"])))

  def step(carry, x):
    params, state = carry
    updates, state = optimiser.update(jax.grad(loss)(params, x), state, params)
    params = optax.apply_updates(params, updates)
    return (params, state), params

  @jax.jit
  def run(params, xs):
    return jax.lax.scan(step, (params, optimiser.init(params)), xs)[1]

  return jax.tree.map(np.asarray, run(params, xs))


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_difference_shrinks_geometrically(decay):
  learning_rate = 0.1
  # optax multiplies the decay by the rate; the paper's λ is the product.
  optimiser = optax.chain(
    optax.add_decayed_weights(decay / learning_rate), optax.sgd(learning_rate)
  )
  rng = np.random.default_rng(0)
  with jax.enable_x64(True):
    params = {"w": rng.normal(size=(4, 3)), "feedback": rng.normal(size=(3, 4))}
    history = _train(
      optimiser, kolen_pollack.linear, params, rng.normal(size=(50, 2, 4))
    )
  difference = history["w"] - history["feedback"].swapaxes(1, 2)
  start = params["w"] - params["feedback"].T
  for t, actual in enumerate(difference, start=1):
    np.testing.assert_allclose(actual, (1 - decay) ** t * start, atol=1e-12)
  assert np.abs(history["w"][-1] - params["w"]).max() > 0.1


def test_adam_keeps_the_difference_from_equal_statistics():
  rng = np.random.default_rng(1)
  params = {"w": rng.normal(size=(4, 3)), "feedback": rng.normal(size=(3, 4))}
  with jax.enable_x64(True):
    history = _train(
      optax.adam(0.1), kolen_pollack.linear, params, rng.normal(size=(9, 2, 4))
    )
  np.testing.assert_allclose(
    history["w"][-1] - history["feedback"][-1].T,
    params["w"] - params["feedback"].T,
    atol=1e-12,
  )


@pytest.mark.parametrize("leading", [(), (5,)])
def test_only_the_feedbacks_gradient_differs_from_feedback_alignment(leading):
  rng = np.random.default_rng(2)
  arrays = [
    rng.normal(size=shape).astype(np.float32)
    for shape in ((*leading, 4), (4, 3), (3, 4))
  ]

  @jax.jit
  def grads(*arrays):
    return [
      jax.grad(lambda *a, f=f: jnp.sum(jnp.sin(f(*a))), (0, 1, 2))(*arrays)
      for f in (kolen_pollack.linear, feedback_alignment.linear)
    ]

  (dx, dw, dfeedback), (dx_fa, dw_fa, _) = grads(*arrays)
  np.testing.assert_array_equal(dx, dx_fa)
  np.testing.assert_array_equal(dw, dw_fa)
  np.testing.assert_array_equal(dfeedback, dw.T)
  assert np.any(dw)


def test_convolution_shares_its_gradient():
  rng = np.random.default_rng(3)
  x, w, feedback = (
    rng.normal(size=shape).astype(np.float32)
    for shape in ((2, 5, 6, 2), (3, 2, 1, 4), (3, 2, 1, 4))
  )
  geometry = {
    "stride": 2,
    "padding": "VALID",
    "rhs_dilation": (1, 2),
    "feature_group_count": 2,
  }

  @jax.jit
  def grads(*arrays):
    return [
      jax.grad(lambda *a, f=f: jnp.sum(jnp.sin(f(*a, **geometry))), (0, 1, 2))(
        *arrays
      )
      for f in (kolen_pollack.conv, feedback_alignment.conv)
    ]

  (dx, dw, dfeedback), (dx_fa, dw_fa, _) = grads(x, w, feedback)
  np.testing.assert_array_equal(dx, dx_fa)
  np.testing.assert_array_equal(dw, dw_fa)
  np.testing.assert_array_equal(dfeedback, dw)
  assert np.any(dx)


def test_wrong_shapes_are_refused():
  x, w = jnp.ones(3), jnp.ones((3, 2))
  with pytest.raises(ValueError, match="feedback has shape"):
    kolen_pollack.linear(x, w, w)
  with pytest.raises(ValueError, match="feedback has shape"):
    kolen_pollack.conv(jnp.ones((3, 3, 1)), jnp.ones((1, 1, 1, 2)), w)
