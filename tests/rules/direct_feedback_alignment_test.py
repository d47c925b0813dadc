"""Tests of direct feedback alignment against its rule and its limit."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.rules import direct_feedback_alignment, feedback_alignment

_SIZES = (4, 6, 5, 3)


def _arrays(seed, *shapes):
  rng = np.random.default_rng(seed)
  return [rng.normal(size=shape) for shape in shapes]


def _direct(weights, feedbacks, x):
  """A tanh network that stops the gradient between its layers."""
  h, hiddens = x, []
  for w in weights[:-1]:
    h = jnp.tanh(jax.lax.stop_gradient(h) @ w)
    hiddens.append(h)
  output = jax.lax.stop_gradient(h) @ weights[-1]
  return direct_feedback_alignment.broadcast_error(output, hiddens, feedbacks)


def _loss(weights, feedbacks, x, target, network=_direct):
  return jnp.sum(jnp.square(target - network(weights, feedbacks, x))) / 2


def test_every_layer_hears_the_output_error():
  x, target, *weights = _arrays(0, (4,), (3,), *itertools.pairwise(_SIZES))
  feedbacks = _arrays(1, (3, 6), (3, 5))
  with jax.enable_x64(True):
    grads = jax.jit(jax.grad(_loss))(weights, feedbacks, x, target)
    value = _direct(weights, feedbacks, x)
  # In columns: δ_l = (B_l δ_y) ⊙ f'(a_l).
  h = [x]
  for w in weights[:-1]:
    h.append(np.tanh(w.T @ h[-1]))
  error = target - weights[-1].T @ h[-1]
  deltas = [
    (feedback.T @ error) * (1 - h_l**2)
    for feedback, h_l in zip(feedbacks, h[1:], strict=True)
  ]
  for dw, delta, below in zip(grads, [*deltas, error], h, strict=True):
    np.testing.assert_allclose(dw, -np.outer(delta, below).T, atol=1e-12)
  np.testing.assert_allclose(value, weights[-1].T @ h[-1], atol=1e-12)


@pytest.mark.parametrize("leading", [(), (7,), (2, 3)])
def test_with_one_hidden_layer_it_is_feedback_alignment(leading):
  x, target, *weights = _arrays(2, (*leading, 4), (*leading, 3), (4, 5), (5, 3))
  feedbacks = _arrays(3, (3, 5))

  def sequential(weights, feedbacks, x):
    h = jnp.tanh(x @ weights[0])
    return feedback_alignment.linear(h, weights[1], feedbacks[0])

  with jax.enable_x64(True):
    grad = jax.jit(jax.grad(_loss, (0, 1)), static_argnames="network")
    direct = grad(weights, feedbacks, x, target)
    expected = grad(weights, feedbacks, x, target, network=sequential)
  for actual, desired in zip(direct[0], expected[0], strict=True):
    np.testing.assert_array_equal(actual, desired)
  assert not np.any(direct[1][0])


def test_types_of_hiddens_are_kept():
  hidden = jnp.ones(4, jnp.bfloat16)
  feedback = jnp.ones((3, 4))

  def loss(hidden):
    return direct_feedback_alignment.broadcast_error(
      jnp.ones(3), [hidden], [feedback]
    ).sum()

  grad = jax.grad(loss)(hidden)
  assert grad.dtype == jnp.bfloat16
  assert np.all(grad == 3)


def test_wrong_shapes_are_refused():
  broadcast = direct_feedback_alignment.broadcast_error
  output, hidden = jnp.ones((2, 3)), jnp.ones((2, 4))
  with pytest.raises(ValueError, match="feedbacks has 0 matrices"):
    broadcast(output, [hidden], [])
  with pytest.raises(ValueError, match=r"feedbacks\[0\] has shape \[4, 3\]"):
    broadcast(output, [hidden], [jnp.ones((4, 3))])
  with pytest.raises(ValueError, match=r"hiddens\[0\] has shape \[4\]"):
    broadcast(output, [hidden[0]], [jnp.ones((3, 4))])
