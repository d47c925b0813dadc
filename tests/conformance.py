"""Rows of the conformance suite: one for each public pure function.

To cover a new function add a row to `ROWS`; `conformance_test.py` says what is
checked. A function that no check fits goes to `EXEMPT`, with the reason.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lilly.analysis import alignment
from lilly.rules import (
  direct_feedback_alignment,
  feedback_alignment,
  kolen_pollack,
  node_perturbation,
  pseudo_backprop,
  sign_symmetry,
  sparse_connectivity,
  weight_mirror,
)

__all__ = ["EXEMPT", "ROWS", "Row"]


class Row(NamedTuple):
  """A public function and how to call it."""

  function: Callable  # as its module exports it
  form: str  # the first row of each form is also run on two devices
  make_inputs: Callable  # (seed, dtype) -> tuple of trees, made for one call
  call: Callable | None = None  # of the inputs, where `function` is not
  state: int | None = None  # which input is the state that is returned
  dtypes: tuple[Any, ...] = (jnp.float32, jnp.bfloat16)  # those it keeps

  @property
  def name(self) -> str:
    module = self.function.__module__.removeprefix("lilly.")
    return f"{module}.{self.function.__name__}"


def _arrays(*shapes):
  """Makes inputs of these shapes."""

  def make_inputs(seed, dtype):
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.normal(size=s), dtype) for s in shapes)

  return make_inputs


def _keyed(*shapes):
  """Makes a fresh key, and inputs of these shapes."""
  make_arrays = _arrays(*shapes)

  def make_inputs(seed, dtype):
    return jax.random.key(seed), *make_arrays(seed, dtype)

  return make_inputs


def _masks_and_updates(seed, dtype):
  updates, params = _arrays((3, 2), (3, 2))(seed, dtype)
  mask = jnp.asarray(np.random.default_rng(seed).integers(0, 2, (3, 2)), dtype)
  return mask, updates, params


def _masked_update(mask, updates, params):
  transformation = sparse_connectivity.apply_masks(mask)
  return transformation.update(updates, optax.EmptyState(), params)[0]


def _estimate(key, taps):
  def loss(taps):
    return jnp.sum(jnp.square(taps))

  return node_perturbation.estimate(key, loss, taps, noise_std=0.5)


def _perturbed_gradient(key, params, taps):
  def signals(params, taps):
    hidden = params + taps[0]
    return [hidden, 2 * jax.lax.stop_gradient(hidden)]

  def loss(output):
    return jnp.sum(jnp.square(output))

  return node_perturbation.gradient(key, signals, loss, params, [taps])


def _broadcast(output, first, second, feedback, other):
  return direct_feedback_alignment.broadcast_error(
    output, [first, second], [feedback, other]
  )


def _layers(*signals):
  return alignment.compare(signals[:2], signals[2:4], signals[4:])


_DENSE = _arrays((4, 3), (3, 2), (2, 3))
_CONV = _arrays((5, 4, 2), (3, 3, 2, 2), (3, 3, 2, 2))

ROWS = (
  Row(feedback_alignment.linear, "primitive", _DENSE),
  Row(feedback_alignment.conv, "primitive", _CONV),
  Row(kolen_pollack.linear, "primitive", _DENSE),
  Row(kolen_pollack.conv, "primitive", _CONV),
  Row(
    direct_feedback_alignment.broadcast_error,
    "primitive",
    _arrays(2, 4, 3, (2, 4), (2, 3)),
    call=_broadcast,
  ),
  Row(sign_symmetry.usf, "function", _arrays((3, 2))),
  Row(sign_symmetry.brsf, "function", _keyed((3, 2))),
  Row(sign_symmetry.frsf, "function", _arrays((3, 2), (2, 3))),
  Row(pseudo_backprop.feedback, "function", _arrays((3, 2))),
  Row(
    weight_mirror.update,
    "assignment",
    _keyed((3, 2), (2, 3)),
    call=lambda *inputs: weight_mirror.update(*inputs, batch_size=4),
    state=2,
  ),
  Row(node_perturbation.estimate, "random", _keyed(3), call=_estimate),
  Row(
    node_perturbation.gradient,
    "random",
    _keyed(3, 3),
    call=_perturbed_gradient,
  ),
  Row(
    sparse_connectivity.mask,
    "random",
    _keyed(),
    call=lambda key: sparse_connectivity.mask(key, (3, 2)),
    dtypes=(jnp.float32,),
  ),
  Row(
    sparse_connectivity.apply_masks,
    "transformation",
    _masks_and_updates,
    call=_masked_update,
  ),
  Row(alignment.angle, "function", _arrays(3, 3)),
  Row(alignment.matrix_angle, "function", _arrays((3, 2), (2, 3))),
  Row(alignment.norm_ratio, "function", _arrays((3, 2), (2, 3))),
  Row(alignment.descent, "function", _arrays(2, (3, 2), (2, 3))),
  Row(alignment.normalised_error, "function", _arrays(3, 3)),
  Row(alignment.compare, "function", _arrays(3, 2, 3, 2, 3, 2), call=_layers),
)

# Function, "module.name" -> why none of the checks fits it.
EXEMPT: dict[str, str] = {}
