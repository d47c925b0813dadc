"""Plain NumPy versions, in the papers' own notation, to hold functions against.

Vectors are columns, W is [out, in], B is [in, out], e = y* - y: nothing here
shares storage, sign or code with the library.
"""

import numpy as np

__all__ = ["ACTIVATIONS", "feedback_alignment_step"]


def _sigmoid(a):
  return 1 / (1 + np.exp(-a))


# Name: f, and f' as a function of the pre-activation.
ACTIVATIONS = {
  "linear": (lambda a: a, np.ones_like),
  "tanh": (np.tanh, lambda a: 1 - np.tanh(a) ** 2),
  "sigmoid": (_sigmoid, lambda a: _sigmoid(a) * (1 - _sigmoid(a))),
}


def feedback_alignment_step(x, target, W, b, B, hidden="tanh", output="linear"):
  """Steps 1 to 4 of feedback alignment for one example.

  Args:
    x: input, [n_0].
    target: y*, [n_L].
    W: list of [n_l, n_{l-1}], l = 1..L.
    b: list of [n_l].
    B: list of [n_l, n_{l+1}], l = 1..L-1; B[i] goes with W[i + 1].
    hidden: activation of the hidden layers.
    output: activation of the output layer.

  Returns:
    (dW, db): directions of descent of |e|^2 / 2 under the rule; db are the
    signals δ_l.
  """
  f, df = ACTIVATIONS[hidden]
  g, dg = ACTIVATIONS[output]
  h, a = [x], []
  for i, (W_l, b_l) in enumerate(zip(W, b, strict=True)):
    a.append(W_l @ h[-1] + b_l)
    h.append(g(a[-1]) if i == len(W) - 1 else f(a[-1]))
  deltas = [(target - h[-1]) * dg(a[-1])]
  for i in reversed(range(len(W) - 1)):
    deltas.insert(0, (B[i] @ deltas[0]) * df(a[i]))
  dW = [np.outer(delta, h_l) for delta, h_l in zip(deltas, h, strict=False)]
  return dW, deltas
