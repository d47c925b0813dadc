"""Direct feedback alignment: the output error goes to every layer at once."""

from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp

__all__ = ["broadcast_error"]


@jax.custom_vjp
def _broadcast_error(output, hiddens, feedbacks):
  del hiddens, feedbacks
  return output


def _fwd(output, hiddens, feedbacks):
  return output, feedbacks


def _bwd(feedbacks, g):
  signals = tuple(g @ feedback for feedback in feedbacks)
  return g, signals, jax.tree.map(jnp.zeros_like, feedbacks)


_broadcast_error.defvjp(_fwd, _bwd)


def broadcast_error(
  output: jax.Array,
  hiddens: Sequence[jax.Array],
  feedbacks: Sequence[jax.Array],
) -> jax.Array:
  """Returns `output`, and sends its error directly to every hidden layer.

  doutput = dy,  dh_l = dy B_l,  dB_l = 0.

  The network must stop the gradient between its layers itself: compute h_l from
  `stop_gradient(h_{l-1})` and the output from `stop_gradient(h_L)`. Pass the
  activations h_l; the gradient to the layer's weights then includes the true f'
  once. With one hidden layer this is feedback alignment.

  Args:
    output: pre-activation of the output layer, [..., out].
    hiddens: activations of the hidden layers, [..., n_l] each, with the leading
      axes of `output`. Flatten images, with `feedbacks` of the flat size.
    feedbacks: matrices of the backward pass, [out, n_l] each.

  Returns:
    `output`, unchanged.

  Reference:
    Nøkland (2016), arXiv:1609.01596.

  >>> output, hidden, feedback = jnp.ones(2), jnp.ones(3), jnp.full((2, 3), 0.5)
  >>> loss = lambda h: broadcast_error(output, [h], [feedback]).sum()
  >>> jax.grad(loss)(hidden).tolist()
  [1.0, 1.0, 1.0]
  """
  chex.assert_equal(len(hiddens), len(feedbacks))
  for hidden, feedback in zip(hiddens, feedbacks, strict=True):
    chex.assert_shape(hidden, (*output.shape[:-1], feedback.shape[-1]))
    chex.assert_shape(feedback, (output.shape[-1], hidden.shape[-1]))
  dtype = jnp.result_type(output)
  hiddens = tuple(jnp.asarray(hidden, dtype) for hidden in hiddens)
  feedbacks = tuple(jnp.asarray(feedback, dtype) for feedback in feedbacks)
  return _broadcast_error(output, hiddens, feedbacks)
