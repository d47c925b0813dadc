"""Conformance rows of learning rules and of their analysis."""

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
from tests.rows.row import Row, arrays, keyed

__all__ = ["ROWS"]


def _masks_and_updates(seed, dtype):
  updates, params = arrays((3, 2), (3, 2))(seed, dtype)
  mask = jnp.asarray(np.random.default_rng(seed).integers(0, 2, (3, 2)), dtype)
  return mask, updates, params


def _masked_update(masks, updates, params):
  transformation = sparse_connectivity.apply_masks(masks)
  return transformation.update(updates, optax.EmptyState(), params)[0]


def _estimate(key, taps, noise_std=0.5):
  def loss(taps):
    return jnp.sum(jnp.square(taps))

  return node_perturbation.estimate(key, loss, taps, noise_std=noise_std)


def _perturbed_gradient(key, params, taps, **hyper):
  def signals(params, taps):
    hidden = params + taps[0]
    return [hidden, 2 * jax.lax.stop_gradient(hidden)]

  def loss(output):
    return jnp.sum(jnp.square(output))

  return node_perturbation.gradient(key, signals, loss, params, [taps], **hyper)


def _broadcast(output, first, second, feedback, other):
  return direct_feedback_alignment.broadcast_error(
    output, [first, second], [feedback, other]
  )


def _opposite(seed, dtype):
  (vector,) = arrays(3)(seed, dtype)
  return vector, -vector


def _without_feedback(seed, dtype):
  w, feedback = arrays((3, 2), (2, 3))(seed, dtype)
  return w, jnp.zeros_like(feedback)


def _layers(*signals):
  return alignment.compare(signals[:2], signals[2:4], signals[4:])


def _mirrored(key, w, feedback, batch_size=4, **hyper):
  return weight_mirror.update(key, w, feedback, batch_size=batch_size, **hyper)


def _sparsity(key, density=0.5):
  return sparse_connectivity.mask(key, (3, 2), density=density)


_DENSE = {
  "make_inputs": arrays((4, 3), (3, 2), (2, 3)),
  "free": frozenset({"x.0"}),
  "any_rank": frozenset({"x"}),
}
_CONV = {
  "make_inputs": arrays((5, 4, 2), (3, 3, 2, 2), (3, 3, 2, 2)),
  "free": frozenset({"x.0", "x.1"}),
  "any_rank": frozenset({"x"}),
  "constants": {"stride": (0, -1, 1.5), "feature_group_count": (0, -1, 1.5)},
}
_SIGNS = {
  "free": frozenset({"w.0", "w.1"}),
  "any_rank": frozenset({"w"}),
  "constants": {"scale": (0.0, -1.0, np.inf)},
}

ROWS = (
  Row(feedback_alignment.linear, "primitive", **_DENSE),
  Row(feedback_alignment.conv, "primitive", **_CONV),
  Row(kolen_pollack.linear, "primitive", **_DENSE),
  Row(kolen_pollack.conv, "primitive", **_CONV),
  Row(
    direct_feedback_alignment.broadcast_error,
    "primitive",
    arrays(2, 4, 3, (2, 4), (2, 3)),
    call=_broadcast,
    names=(
      "output",
      "hiddens[0]",
      "hiddens[1]",
      "feedbacks[0]",
      "feedbacks[1]",
    ),
    any_rank=frozenset({"output", "hiddens[0]", "hiddens[1]"}),
  ),
  Row(sign_symmetry.usf, "function", arrays((3, 2)), **_SIGNS),
  Row(sign_symmetry.brsf, "function", keyed((3, 2)), **_SIGNS),
  Row(
    sign_symmetry.frsf,
    "function",
    arrays((3, 2), (2, 3)),
    any_rank=frozenset({"w"}),
  ),
  Row(
    pseudo_backprop.feedback,
    "function",
    arrays((3, 2)),
    call=lambda w, **hyper: pseudo_backprop.feedback(w, **hyper),
    free=frozenset({"w.0", "w.1"}),
    constants={"rtol": (-0.1, 1.0)},
  ),
  Row(
    weight_mirror.update,
    "assignment",
    keyed((3, 2), (2, 3)),
    call=_mirrored,
    state=2,
    constants={
      "noise_std": (0.0, -1.0, np.inf),
      "learning_rate": (0.0, -1.0, np.inf),
      "decay": (-0.1, 1.1),
      "batch_size": (0, -1, 2.5),
      "max_norm": (0.0, -1.0),
    },
  ),
  Row(
    node_perturbation.estimate,
    "random",
    keyed(3),
    call=_estimate,
    free=frozenset({"taps.0"}),
    any_rank=frozenset({"taps"}),
    constants={"noise_std": (0.0, -1.0, np.inf)},
  ),
  Row(
    node_perturbation.gradient,
    "random",
    keyed(3, 3),
    call=_perturbed_gradient,
    constants={"noise_std": (0.0, -1.0, np.inf)},
    without={
      "ranks": "The functions that are given say what fits.",
      "sizes": "The functions that are given say what fits.",
      "integers": "Parameters are floating-point, as for jax.grad.",
    },
  ),
  Row(
    sparse_connectivity.mask,
    "random",
    keyed(),
    call=_sparsity,
    dtypes=(jnp.float32,),
    constants={"density": (0.0, -0.1, 1.1)},
  ),
  Row(
    sparse_connectivity.apply_masks,
    "transformation",
    _masks_and_updates,
    call=_masked_update,
  ),
  Row(
    alignment.angle,
    "function",
    arrays(3, 3),
    edges={"opposite vectors": _opposite},
  ),
  Row(alignment.matrix_angle, "function", arrays((3, 2), (2, 3))),
  Row(
    alignment.norm_ratio,
    "function",
    arrays((3, 2), (2, 3)),
    edges={"no feedback": _without_feedback},
    without={"zeros": "The ratio to weights of zero is infinite."},
  ),
  Row(alignment.descent, "function", arrays(2, (3, 2), (2, 3))),
  Row(
    alignment.normalised_error,
    "function",
    arrays(3, 3),
    without={"zeros": "The target must not be zero."},
  ),
  Row(
    alignment.compare,
    "function",
    arrays(3, 2, 3, 2, 3, 2),
    call=_layers,
    names=("signals", "signals", "bp", "bp", "pbp", "pbp"),
  ),
)
