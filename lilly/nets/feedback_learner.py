"""A network that learns by any feedback rule: gradient, optimiser, read-outs.

What the learning rules have in common, as functions of one run's arrays, so
that rules can be compared with everything else equal. The loss is |e|² / 2,
summed over the outputs and averaged over the batch: with a batch of one, the
paper's rate is the optimiser's rate.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import optax

from lilly.analysis import alignment
from lilly.nets import feedback
from lilly.rules import node_perturbation, sparse_connectivity

__all__ = [
  "RULES",
  "Learner",
  "angles",
  "gradient",
  "identity",
  "network",
  "optimiser",
]

# `feedback.RULES`, and sparse feedback alignment (half of W and of B removed)
# and node perturbation.
RULES = (*feedback.RULES, "fa_sparse", "node")


def identity(x: jax.Array) -> jax.Array:
  """Returns x: the activation of a linear unit."""
  return x


class Learner(NamedTuple):
  """What is fixed: the rule and the network."""

  # one of RULES
  rule: str
  # units of the hidden layers and of the output layer
  sizes: Sequence[int]
  # of the hidden units and of the output units
  activation: Callable[[jax.Array], jax.Array] = jax.nn.sigmoid
  output: Callable[[jax.Array], jax.Array] = jax.nn.sigmoid
  with_bias: bool = True


def network(
  learner: Learner, hyper: Mapping[str, Any], rule: str | None = None
) -> hk.TransformedWithState:
  """Builds the network; its parameters have the same names under all rules.

  Args:
    learner: the rule and the network.
    hyper: omega and beta: weights start as U[-omega, omega], feedback weights
      are U[-beta, beta].
    rule: for read-outs, another rule than the learner's.

  Returns:
    Haiku functions; `apply(params, state, key, x, taps)` gives the
    pre-activations of all layers, see `feedback.MLP.pre_activations`.
  """
  plain = {"fa_sparse": "fa", "node": "output_only"}
  rule = rule or learner.rule
  omega, beta = hyper["omega"], hyper["beta"]

  def forward(x, taps=None):
    return feedback.MLP(
      learner.sizes,
      rule=plain.get(rule, rule),
      activation=learner.activation,
      with_bias=learner.with_bias,
      w_init=hk.initializers.RandomUniform(-omega, omega),
      b_init=jnp.zeros,
      feedback_init=hk.initializers.RandomUniform(-beta, beta),
      feedback_scale=beta,
      density=0.5 if learner.rule == "fa_sparse" else None,
    ).pre_activations(x, taps)

  return hk.transform_with_state(forward)


def gradient(
  key: jax.Array,
  learner: Learner,
  params: hk.Params,
  state: hk.State,
  hyper: Mapping[str, Any],
  x: jax.Array,
  target: jax.Array,
) -> tuple[jax.Array, hk.Params]:
  """Computes the loss of a batch and its gradient as the rule gives it.

  Args:
    key: random key, consumed by the rules that draw.
    learner: the rule and the network.
    params: parameters.
    state: feedback weights and masks.
    hyper: as in `network`; node perturbation reads noise_std.
    x: inputs, [B, in].
    target: targets, [B, out].

  Returns:
    The loss, and the gradient in the structure of the parameters.

  Reference:
    Lillicrap et al., 2014 (arXiv 1411.0247), steps 1 to 4 of its method.
  """
  chex.assert_rank([x, target], 2)
  apply = network(learner, hyper).apply

  def loss(params, key, x, target):
    signals, _ = apply(params, state, key, x)
    return jnp.mean(_squared_error(learner, signals[-1], target))

  def of_example(key, x, target):
    return node_perturbation.gradient(
      key,
      lambda params, taps: apply(params, state, None, x, taps)[0],
      lambda output: _squared_error(learner, output, target),
      params,
      feedback.taps(x, learner.sizes),
      noise_std=hyper["noise_std"],
    )

  if learner.rule != "node":
    return jax.value_and_grad(loss)(params, key, x, target)
  values = jax.vmap(of_example)(jax.random.split(key, len(x)), x, target)
  return jax.tree.map(lambda value: jnp.mean(value, axis=0), values)


def optimiser(
  learner: Learner,
  params: hk.Params,
  state: hk.State,
  hyper: Mapping[str, Any],
) -> optax.GradientTransformationExtraArgs:
  """Makes the update W <- (1 - decay) W - rate gradient.

  Biases do not decay. Fixed feedback is not a parameter and never changes;
  Kolen-Pollack's is updated as the weights are. Entries that a mask removes
  stay exactly 0.

  Args:
    learner: the rule and the network.
    params: parameters.
    state: feedback weights and masks.
    hyper: learning_rate; hidden_rate, the factor on it in all layers but the
      last; weight_decay, the fraction of a weight lost in an update.

  Returns:
    The transformation; numbers in `hyper` may be traced.
  """
  last = f"mlp/linear_{len(learner.sizes) - 1}"
  rate = hyper["learning_rate"]
  steps = [
    optax.partition(
      {
        "hidden": optax.sgd(rate * hyper["hidden_rate"]),
        "output": optax.sgd(rate),
      },
      {layer: "output" if layer == last else "hidden" for layer in params},
    ),
    optax.add_decayed_weights(
      -hyper["weight_decay"],
      {
        layer: {n: n != "b" for n in leaves} for layer, leaves in params.items()
      },
    ),
  ]
  if learner.rule == "fa_sparse":
    masks = feedback.masks(params, state)
    steps.append(sparse_connectivity.apply_masks(masks))
  return optax.chain(*steps)


def angles(
  learner: Learner,
  params: hk.Params,
  state: hk.State,
  hyper: Mapping[str, Any],
  x: jax.Array,
  target: jax.Array,
) -> dict[str, jax.Array]:
  """Measures how the rule's hidden signals stand to the references.

  Args:
    learner: the rule and the network; not node perturbation, whose signal is
      noise around backpropagation's.
    params: parameters.
    state: feedback weights and masks.
    hyper: as in `network`.
    x: inputs, [B, in].
    target: targets, [B, out].

  Returns:
    For each hidden layer l, counted from the input: angle_bp_l and angle_pbp_l,
    to backpropagation and to pseudo-backpropagation, in degrees, mean over the
    batch; matrix_angle_l and norm_ratio_l of the feedback into the layer where
    the rule stores a matrix.

  Reference:
    Lillicrap et al., 2014 (arXiv 1411.0247), figures 1, 2 and 4.
  """

  def signals(rule):
    def loss(taps):
      key = jax.random.key(0)
      apply = network(learner, hyper, rule).apply
      values, _ = apply(params, state, key, x, taps)
      return jnp.sum(_squared_error(learner, values[-1], target))

    return jax.grad(loss)(feedback.taps(x, learner.sizes))

  compare = jax.vmap(alignment.compare)
  found = compare(signals(learner.rule), signals("bp"), signals("pbp"))
  metrics = {}
  for l in range(1, len(learner.sizes)):
    metrics[f"angle_bp_{l}"] = jnp.mean(found.bp[:, l - 1])
    metrics[f"angle_pbp_{l}"] = jnp.mean(found.pbp[:, l - 1])
    layer = f"mlp/linear_{l}"
    leaves = {**state.get(layer, {}), **params[layer]}
    if "feedback" in leaves and learner.rule != "frsf":  # has sizes, not signs
      w, matrix = leaves["w"], leaves["feedback"]
      metrics[f"matrix_angle_{l}"] = alignment.matrix_angle(w, matrix)
      metrics[f"norm_ratio_{l}"] = alignment.norm_ratio(w, matrix)
  return metrics


def _squared_error(learner, signal, target):
  return 0.5 * jnp.sum((target - learner.output(signal)) ** 2, axis=-1)
