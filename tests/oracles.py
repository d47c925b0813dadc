"""Plain NumPy versions, in the papers' own notation, to hold functions against.

Vectors are columns, W is [out, in], B is [in, out], e = y* - y: nothing here
shares storage, sign or code with the library. And a reader of compiled text,
for promises on what is not done.
"""

import re

import jax
import numpy as np

__all__ = ["ACTIVATIONS", "assert_close", "copies_in_loops"]
__all__ += ["feedback_alignment_step"]


def assert_close(actual, expected, **tolerance):
  """Compares trees of float64, to 1e-10 if nothing else is said."""
  tolerance = tolerance or {"rtol": 1e-10, "atol": 1e-10}
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, **tolerance), actual, expected
  )


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


def copies_in_loops(compiled_text, shape):
  """Lists the copies of an array that a compiled program makes in its loops.

  Args:
    compiled_text: `jax.jit(f).lower(...).compile().as_text()`.
    shape: dimensions of the array, as the program has them: with the batch
      axes in front under vmap. Copies of other shapes are not listed.

  Returns:
    The instructions, in the bodies of while loops or in what these call.

  Raises:
    ValueError: if there is no loop; then no copies would mean nothing.
  """
  computations = _computations(compiled_text)
  pending = [
    body
    for lines in computations.values()
    for line in lines
    for body in re.findall(r"\bbody=%?([\w.-]+)", line)
  ]
  if not pending:
    raise ValueError("the program holds no while loop.")
  reached = set()
  while pending:
    name = pending.pop()
    if name not in reached:
      reached.add(name)
      pending += [
        callee
        for line in computations[name]
        for callee in _callees(line)
        if callee in computations
      ]
  wanted = ",".join(map(str, shape))
  found = []
  for name in sorted(reached):
    for line in computations[name]:
      match = re.search(r"= \(?\w+\[([\d,]*)\].* copy(?:-start)?\(", line)
      if match and match[1] == wanted:
        found.append(f"{name}: {line}")
  return found


def _computations(compiled_text):
  """Splits a program's text into computations: name -> instructions."""
  computations, lines = {}, []
  for line in compiled_text.splitlines():
    # Texts in an instruction, such as the names of its source, are no program.
    line = re.sub(r'"[^"]*"', '""', line).strip()
    header = re.match(r"(?:ENTRY )?%?([\w.-]+)(?: \(.*\) -> .*)? \{$", line)
    if header and " = " not in line:
      lines = computations.setdefault(header[1], [])
    elif " = " in line:
      lines.append(line)
  return computations


def _callees(line):
  """Names that an instruction mentions in its attributes: key=%x, key={%x}."""
  for values in re.findall(r"\b\w+=(\{[^{}]*\}|%?[\w.-]+)", line):
    yield from re.findall(r"[\w.-]+", values)
