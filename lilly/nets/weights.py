"""What a network has learnt: how it begins, steps, and is followed.

Networks are `hk.transform_with_state`d functions of one example, which may
normalise by their batch: here they are applied to batches whose axis is named
"batch".
"""

from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import optax

__all__ = ["Weights", "adam", "apply", "apply_one", "follow", "init", "step"]


class Weights(NamedTuple):
  """What a network has learnt."""

  params: Any
  norms: Any  # running averages of batch normalisation


def adam(
  learning_rate: float | jax.Array, weight_decay: float | jax.Array = 0.0
) -> optax.GradientTransformation:
  """Makes Adam with weight decay as a part of the gradient.

  Not AdamW: g + decay w is what Adam's moments are of. Biases, and scales and
  offsets of batch normalisation, do not decay.

  Args:
    learning_rate: of Adam.
    weight_decay: of weights.

  Returns:
    The optimiser.

  Reference:
    Lillicrap et al., 2016 (arXiv 1509.02971), supplement 7: 1e-2 for the
    critic; that it is coupled is our reading (unconfirmed).
  """

  def is_weight(params):
    return jax.tree.map(lambda x: x.ndim > 1, params)

  decay = optax.add_decayed_weights(weight_decay, mask=is_weight)
  return optax.chain(decay, optax.adam(learning_rate))


def init(
  key: jax.Array, network: hk.TransformedWithState, *inputs: Any
) -> tuple[Weights, Any]:
  """Starts a network; its running averages begin with the moments of a batch.

  Args:
    key: typed key.
    network: a function of one example and `is_training`.
    *inputs: a batch, [B, ...] each.

  Returns:
    The weights, and the outputs for that batch.
  """

  def of_one(*inputs):
    return network.init(key, *inputs)

  of_batch = jax.vmap(of_one, out_axes=None, axis_name="batch")
  weights = Weights(*of_batch(*inputs))
  outputs, norms = apply(network, weights, *inputs, is_training=True)
  return weights._replace(norms=norms), outputs


def apply(
  network: hk.TransformedWithState,
  weights: Weights,
  *inputs: Any,
  is_training: bool = False,
) -> tuple[Any, Any]:
  """Applies a network to a batch.

  Args:
    network: a function of one example and `is_training`.
    weights: of the network.
    *inputs: a batch, [B, ...] each.
    is_training: whether to normalise by this batch instead of by the averages.

  Returns:
    Outputs, [B, ...] each, and the next running averages.
  """

  def of_one(*inputs):
    params, norms = weights
    return network.apply(params, norms, None, *inputs, is_training=is_training)

  return jax.vmap(of_one, out_axes=(0, None), axis_name="batch")(*inputs)


def apply_one(
  network: hk.TransformedWithState, weights: Weights, *inputs: Any
) -> Any:
  """Applies a network to one example, by its running averages.

  Args:
    network: a function of one example and `is_training`.
    weights: of the network.
    *inputs: the example.

  Returns:
    The outputs.
  """
  batch = jax.tree.map(lambda x: x[None], inputs)
  return jax.tree.map(lambda x: x[0], apply(network, weights, *batch)[0])


def step(
  optimiser: optax.GradientTransformation,
  grads: Any,
  moments: optax.OptState,
  weights: Weights,
  norms: Any,
) -> tuple[Weights, optax.OptState]:
  """Steps against a gradient.

  Args:
    optimiser: of the parameters.
    grads: as the parameters.
    moments: what the optimiser keeps.
    weights: before the step.
    norms: the next running averages; those that are not finite are left out,
      for they would keep a NaN that the optimiser's guard keeps out of the
      parameters.

  Returns:
    The weights and the moments after it.
  """
  updates, moments = optimiser.update(grads, moments, weights.params)
  norms = jax.tree.map(
    lambda new, old: jnp.where(jnp.isfinite(new), new, old),
    norms,
    weights.norms,
  )
  return Weights(optax.apply_updates(weights.params, updates), norms), moments


def follow(new: Any, slow: Any, tau: float | jax.Array) -> Any:
  """Moves slow copies: θ' <- τ θ + (1 - τ) θ'.

  Args:
    new: weights θ, or a tree of them.
    slow: their copies θ'.
    tau: τ.

  Returns:
    The copies. Running averages follow as parameters do; counters are taken.

  Reference:
    Lillicrap et al., 2016 (arXiv 1509.02971), algorithm 1.
  """

  def of_leaf(x, y):
    is_number = jnp.issubdtype(x.dtype, jnp.floating)
    return optax.incremental_update(x, y, tau) if is_number else x

  return jax.tree.map(of_leaf, new, slow)
