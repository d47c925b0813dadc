"""Haiku layers with a choice of backward pass: `rule`.

  "bp"           backpropagation
  "fa"           feedback alignment: fixed random feedback
  "dfa"          direct feedback alignment (MLP): the output error to each layer
  "usf"          uniform sign symmetry
  "brsf"         sign symmetry, sizes drawn in every call: `apply` needs a key
  "frsf"         sign symmetry, sizes fixed
  "kp"           Kolen-Pollack: feedback is trained as the weights are
  "mirror"       weight mirror: as "fa"; call `mirror` between the updates
  "pbp"          pseudo-backpropagation: a reference, not for training
  "output_only"  no gradient is passed back: a control

Feedback that is not trained is haiku *state*, named "feedback", so that neither
the optimiser nor weight decay changes it: use `hk.transform_with_state` and
differentiate the parameters only. Kolen-Pollack's is a parameter, "feedback".
One key gives the same weights under every rule, for comparisons.

As the functions of `lilly.rules`, the layers have no forward-mode derivative.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Sequence

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from lilly.rules import (
  direct_feedback_alignment,
  feedback_alignment,
  kolen_pollack,
  pseudo_backprop,
  sign_symmetry,
  sparse_connectivity,
  weight_mirror,
)

__all__ = ["MLP", "RULES", "Conv2D", "Linear", "masks", "mirror", "taps"]

RULES = (
  "bp",
  "fa",
  "dfa",
  "usf",
  "brsf",
  "frsf",
  "kp",
  "mirror",
  "pbp",
  "output_only",
)

Initializer = Callable[..., jax.Array]


class Linear(hk.Module):
  """A dense layer, y = x w + b, with a custom backward pass."""

  def __init__(
    self,
    output_size: int,
    *,
    rule: str = "fa",
    with_bias: bool = True,
    w_init: Initializer | None = None,
    b_init: Initializer | None = None,
    feedback_init: Initializer | None = None,
    feedback_scale: jax.typing.ArrayLike = 1.0,
    density: float | None = None,
    name: str | None = None,
  ):
    """Configures the layer.

    Args:
      output_size: number of outputs.
      rule: one of `RULES`, except "dfa".
      with_bias: whether a bias is added.
      w_init: initialiser of the weights; None is haiku's, truncated normal, 1 /
        sqrt(in).
      b_init: initialiser of the bias; None is zeros.
      feedback_init: initialiser of the feedback (for "frsf", of its
        magnitudes); None is U[-0.5, 0.5], the published range.
      feedback_scale: magnitude of the feedback of "usf" and "brsf".
      density: fraction of the weights that exist; None is all. The mask is
        state, "mask". The feedback of "fa" has a separate mask, visible in its
        zeros; that of the other rules has the weights' mask.
      name: name of the module.

    Raises:
      ValueError: if a dense layer has no such rule.
    """
    super().__init__(name=name)
    _check_rule(rule, ("dfa",))
    self.output_size = output_size
    self.rule = rule
    self.with_bias = with_bias
    self.w_init = w_init
    self.b_init = b_init
    self.feedback_init = feedback_init or _uniform
    self.feedback_scale = feedback_scale
    self.density = density

  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x [..., in] to [..., out]."""
    shape = (x.shape[-1], self.output_size)
    w, mask = _weights(shape, x.dtype, self.w_init, self.density)
    x, matrix = _way_back(self, x, w, mask)
    rule = kolen_pollack if self.rule == "kp" else feedback_alignment
    y = rule.linear(x, w, matrix)
    return _add_bias(y, self.b_init) if self.with_bias else y


class Conv2D(hk.Module):
  """A 2-D convolution, y = x * w + b, with a custom backward pass."""

  def __init__(
    self,
    output_channels: int,
    kernel_shape: int | tuple[int, int],
    *,
    rule: str = "fa",
    stride: int | tuple[int, int] = 1,
    rate: int | tuple[int, int] = 1,
    padding: feedback_alignment.Padding = "SAME",
    feature_group_count: int = 1,
    with_bias: bool = True,
    w_init: Initializer | None = None,
    b_init: Initializer | None = None,
    feedback_init: Initializer | None = None,
    feedback_scale: jax.typing.ArrayLike = 1.0,
    density: float | None = None,
    name: str | None = "conv2d",
  ):
    """Configures the layer; for other arguments see `Linear`.

    Args:
      output_channels: number of output channels.
      kernel_shape: height and width of the kernel, in pixels.
      rule: one of `RULES`, except "dfa", "mirror" and "pbp".
      stride: steps of the window, in pixels.
      rate: distance between the kernel's taps, in pixels.
      padding: "SAME", "VALID", or the (low, high) pixels of each spatial axis.
      feature_group_count: number of groups of channels.
      with_bias: whether a bias is added.
      w_init: initialiser of the kernel; None is truncated normal, 1 / sqrt(fan
        in).
      b_init: initialiser of the bias; None is zeros.
      feedback_init: initialiser of the feedback kernel; None is the default of
        `w_init`.
      feedback_scale: magnitude of the feedback of "usf" and "brsf".
      density: fraction of the kernel's entries that exist; None is all.
      name: name of the module.

    Raises:
      ValueError: if a convolution has no such rule.
    """
    super().__init__(name=name)
    _check_rule(rule, ("dfa", "mirror", "pbp"))
    self.output_channels = output_channels
    self.kernel_shape = kernel_shape
    self.rule = rule
    self.geometry = {
      "stride": stride,
      "rhs_dilation": rate,
      "padding": padding,
      "feature_group_count": feature_group_count,
    }
    self.with_bias = with_bias
    self.w_init = w_init
    self.b_init = b_init
    self.feedback_init = feedback_init or _fan_in
    self.feedback_scale = feedback_scale
    self.density = density

  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x [..., height, width, in] to [..., height', width', out]."""
    size = self.kernel_shape
    size = (size, size) if isinstance(size, int | np.integer) else size
    in_channels = x.shape[-1] // self.geometry["feature_group_count"]
    shape = (*size, in_channels, self.output_channels)
    w, mask = _weights(shape, x.dtype, self.w_init, self.density)
    x, kernel = _way_back(self, x, w, mask)
    rule = kolen_pollack if self.rule == "kp" else feedback_alignment
    y = rule.conv(x, w, kernel, **self.geometry)
    return _add_bias(y, self.b_init) if self.with_bias else y


class MLP(hk.Module):
  """Dense layers a_l = h_{l-1} w + b, h_l = f(a_l), under one rule.

  Parameters and state are at "linear_0", "linear_1", ... of the module. The
  feedback at "linear_l" carries the signal to the layer's input; under "dfa" it
  is state of the MLP, "feedback_l", [out, n_l].
  """

  def __init__(
    self,
    sizes: Sequence[int],
    *,
    rule: str = "fa",
    activation: Callable[[jax.Array], jax.Array] = jnp.tanh,
    with_bias: bool = True,
    w_init: Initializer | None = None,
    b_init: Initializer | None = None,
    feedback_init: Initializer | None = None,
    feedback_scale: jax.typing.ArrayLike = 1.0,
    density: float | None = None,
    input_feedback: bool = False,
    name: str | None = "mlp",
  ):
    """Configures the network; see also `Linear`.

    Args:
      sizes: number of units of every layer, the output layer last.
      rule: one of `RULES`.
      activation: f of the hidden layers.
      with_bias: whether biases are added, as in `Linear`.
      w_init: initialiser of the weights.
      b_init: initialiser of the biases.
      feedback_init: initialiser of the feedback.
      feedback_scale: magnitude of the feedback of "usf" and "brsf".
      density: density from the second layer on; the first stays dense.
      input_feedback: whether a gradient is passed back to the network's input,
        for trained layers below it; under "bp" it always is.
      name: name of the module.

    Raises:
      ValueError: if there is no such rule.
    """
    super().__init__(name=name)
    _check_rule(rule, ())
    self.sizes = tuple(sizes)
    self.rule = rule
    self.activation = activation
    self.density = density
    self.input_feedback = input_feedback
    self.feedback_init = feedback_init or _uniform
    self._layer = functools.partial(
      Linear,
      with_bias=with_bias,
      w_init=w_init,
      b_init=b_init,
      feedback_init=feedback_init,
      feedback_scale=feedback_scale,
    )

  def __call__(
    self, x: jax.Array, taps: Sequence[jax.Array] | None = None
  ) -> jax.Array:
    """Maps x [..., in] to the pre-activation of the output layer, [..., out].

    Args:
      x: inputs, [..., in].
      taps: arrays, [..., n_l] for each hidden layer, that are added to the
        pre-activations: a_l = h_{l-1} w + b + tap_l. With zeros (see `taps`)
        their cotangents are the layers' signals δ_l = dL/da_l under the rule,
        f' included.

    Returns:
      Pre-activations of the output layer, [..., out].
    """
    return self.pre_activations(x, taps)[-1]

  @hk.name_like("__call__")
  def pre_activations(
    self, x: jax.Array, taps: Sequence[jax.Array] | None = None
  ) -> list[jax.Array]:
    """Maps x [..., in] to the pre-activations of all layers.

    Under "output_only" no layer passes a gradient down, so the cotangents of
    these are signals injected at each layer: node perturbation uses them to
    reach the parameters.

    Args:
      x: inputs, [..., in].
      taps: as in `__call__`.

    Returns:
      a_l, [..., n_l] for each layer, the output layer last.
    """
    if taps is not None:
      chex.assert_equal(len(taps), len(self.sizes) - 1)
    direct = self.rule == "dfa"
    inputs, signals = [], []
    for l, size in enumerate(self.sizes):
      h = x if l == 0 else self.activation(signals[-1])
      inputs.append(h)
      a = self._layer(
        size,
        rule="output_only" if direct else self._rule(l),
        density=None if l == 0 else self.density,
        name=f"linear_{l}",
      )(h)
      if taps is not None and l < len(taps):
        chex.assert_equal_shape([taps[l], a])
        a = a + taps[l]
      signals.append(a)
    return [*signals[:-1], self._broadcast(signals[-1], inputs)]

  def _rule(self, l: int) -> str:
    backward = l > 0 or self.input_feedback or self.rule == "bp"
    return self.rule if backward else "output_only"

  def _broadcast(self, output, inputs):
    with _side_stream():
      if self.rule != "dfa":
        return output
      first = 0 if self.input_feedback else 1
      matrices = [
        hk.get_state(
          f"feedback_{l}",
          (self.sizes[-1], h.shape[-1]),
          h.dtype,
          _sparse(self.feedback_init, self.density if l > 0 else None),
        )
        for l, h in enumerate(inputs[first:], start=first)
      ]
    return direct_feedback_alignment.broadcast_error(
      output, inputs[first:], matrices
    )


def taps(x: jax.Array, sizes: Sequence[int]) -> tuple[jax.Array, ...]:
  """Makes zero taps for an `MLP` of these sizes.

  Args:
    x: inputs of the network, [..., in].
    sizes: number of units of every layer, the output layer last.

  Returns:
    Zeros, [..., n_l] for each hidden layer.
  """
  return tuple(jnp.zeros((*x.shape[:-1], n), x.dtype) for n in sizes[:-1])


def masks(params: hk.Params, state: hk.State) -> dict:
  """Collects the masks of sparse layers for `sparse_connectivity.apply_masks`.

  The layers multiply by their masks anyway; `apply_masks` makes the stored
  entries stay 0 as well, under an optimiser that would move them.

  Args:
    params: parameters of a network with layers of this module.
    state: its state.

  Returns:
    A tree of the parameters' structure: a mask for the weights of a sparse
    layer and for its trained feedback, None for everything else.
  """

  def mask_of(module, name):
    mask = state.get(module, {}).get("mask")
    if mask is None or name not in ("w", "feedback"):
      return None
    return mask if name == "w" else _transposed(mask)

  return {
    module: {name: mask_of(module, name) for name in leaves}
    for module, leaves in params.items()
  }


def mirror(key: jax.Array, params: hk.Params, state: hk.State, **hyper) -> dict:
  """Takes one weight-mirror step in every dense layer that stores feedback.

  Args:
    key: random key, consumed.
    params: parameters of a network with layers of this module.
    state: its state.
    **hyper: hyper-parameters of `weight_mirror.update`.

  Returns:
    The new state.
  """
  layers = [name for name in sorted(state) if "feedback" in state[name]]
  new = {module: dict(leaves) for module, leaves in state.items()}
  for name, layer_key in zip(
    layers, jax.random.split(key, len(layers)), strict=True
  ):
    w, mask = params[name]["w"], state[name].get("mask")
    if w.ndim != 2:
      continue
    matrix = weight_mirror.update(
      layer_key, w, state[name]["feedback"], **hyper
    )
    new[name]["feedback"] = matrix if mask is None else matrix * mask.T
  return new


def _uniform(shape, dtype):
  return hk.initializers.RandomUniform(-0.5, 0.5)(shape, dtype)


def _fan_in(shape, dtype):
  stddev = max(1, math.prod(shape[:-1])) ** -0.5
  return hk.initializers.TruncatedNormal(stddev)(shape, dtype)


def _check_rule(rule: str, excluded: tuple[str, ...]) -> None:
  allowed = [name for name in RULES if name not in excluded]
  if rule not in allowed:
    raise ValueError(f"rule is {rule!r}; it must be one of {allowed}.")


def _side_stream(needed: bool = False):
  """Separate random keys, so that the weights do not depend on the rule."""
  if needed or hk.running_init():
    return hk.with_rng(hk.next_rng_key())
  return contextlib.nullcontext()


def _transposed(w):
  return w.T if w.ndim == 2 else w


def _sparse(init, density):
  """Multiplies an initialiser's output by a random mask."""
  if density is None:
    return init

  def sparse_init(shape, dtype):
    mask = sparse_connectivity.mask(
      hk.next_rng_key(), shape, density=density, dtype=dtype
    )
    return init(shape, dtype) * mask

  return sparse_init


def _weights(shape, dtype, init, density):
  """Declares the weights, and the mask of a sparse layer."""
  init = init or _fan_in
  mask = None
  with _side_stream():
    if density is not None:
      mask = hk.get_state(
        "mask", shape, dtype, _sparse(hk.initializers.Constant(1.0), density)
      )
  if mask is None:
    return hk.get_parameter("w", shape, dtype, init), None
  w = hk.get_parameter("w", shape, dtype, lambda *spec: init(*spec) * mask)
  return w * mask, mask


def _way_back(layer: Linear | Conv2D, x, w, mask):
  """Returns the rule's input, and the matrix of its backward pass."""
  rule, init = layer.rule, layer.feedback_init
  shape = _transposed(w).shape
  with _side_stream(needed=rule == "brsf"):
    if rule == "bp":
      return x, _transposed(w)
    if rule == "output_only":
      return jax.lax.stop_gradient(x), _transposed(w)
    if rule == "usf":
      return x, sign_symmetry.usf(w, scale=layer.feedback_scale)
    if rule == "brsf":
      key = hk.next_rng_key()
      return x, sign_symmetry.brsf(key, w, scale=layer.feedback_scale)
    if rule == "pbp":
      return x, pseudo_backprop.feedback(w)
    if rule == "fa":
      init = _sparse(init, layer.density)
      return x, hk.get_state("feedback", shape, w.dtype, init)
    declare = hk.get_parameter if rule == "kp" else hk.get_state
    if mask is None:
      matrix = declare("feedback", shape, w.dtype, init)
    else:
      mask = _transposed(mask)
      matrix = declare("feedback", shape, w.dtype, lambda *s: init(*s) * mask)
      matrix = matrix * mask
  return x, sign_symmetry.frsf(w, matrix) if rule == "frsf" else matrix


def _add_bias(y, init):
  b = hk.get_parameter("b", y.shape[-1:], y.dtype, init or jnp.zeros)
  return y + jnp.broadcast_to(b, y.shape)
