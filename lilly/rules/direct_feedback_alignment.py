"""Direct feedback alignment: the output error goes to every layer at once."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from lilly import checks

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

  Raises:
    ValueError: an argument has another shape than stated.

  Reference:
    Nøkland (2016), arXiv:1609.01596.

  >>> output, hidden, feedback = jnp.ones(2), jnp.ones(3), jnp.full((2, 3), 0.5)
  >>> loss = lambda h: broadcast_error(output, [h], [feedback]).sum()
  >>> jax.grad(loss)(hidden).tolist()
  [1.0, 1.0, 1.0]
  """
  if len(hiddens) != len(feedbacks):
    raise ValueError(
      f"feedbacks has {len(feedbacks)} matrices; it must have "
      f"{len(hiddens)}, one for each of hiddens."
    )
  sizes = {}
  output = checks.real("output", output, "... out", sizes)
  leading = " ".join(map(str, output.shape[:-1]))
  checked_hiddens, matrices = [], []
  for l, (hidden, feedback) in enumerate(zip(hiddens, feedbacks, strict=True)):
    hidden = checks.real(f"hiddens[{l}]", hidden, f"{leading} n_{l}", sizes)
    feedback = checks.real(f"feedbacks[{l}]", feedback, f"out n_{l}", sizes)
    checked_hiddens.append(hidden.astype(output.dtype))
    matrices.append(feedback.astype(output.dtype))
  return _broadcast_error(output, tuple(checked_hiddens), tuple(matrices))
