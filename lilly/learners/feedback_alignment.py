"""Trains a multilayer perceptron by any feedback rule, all else being equal.

The loss is |e|² / 2, summed over the outputs and averaged over the batch: with
a batch of one, the optimiser's learning rate equals the paper's.
Hyper-parameters may be traced, for sweeps by `vmap`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import optax

from lilly import checks
from lilly.analysis import alignment
from lilly.learners import descent
from lilly.nets import feedback
from lilly.rules import node_perturbation, sparse_connectivity
from lilly.tasks import supervised

__all__ = [
  "RULES",
  "Model",
  "State",
  "angles",
  "evaluate",
  "gradient",
  "identity",
  "loss",
  "make",
  "make_network",
  "make_optimiser",
]

# `feedback.RULES`, sparse feedback alignment (half of W and of B removed), and
# node perturbation.
RULES = (*feedback.RULES, "fa_sparse", "node")
# The rules of `feedback.MLP` that these two are built on.
_LAYERS_OF = {"fa_sparse": "fa", "node": "output_only"}


def identity(x: jax.Array) -> jax.Array:
  """Returns x: the activation of a linear unit."""
  return x


class Model(NamedTuple):
  """A multilayer perceptron and the rule that trains it."""

  # name of the rule, one of RULES
  rule: str
  # units of the hidden layers and of the output layer
  sizes: Sequence[int]
  # activation of the hidden units
  activation: Callable[[jax.Array], jax.Array] = jax.nn.sigmoid
  # activation of the output units
  output: Callable[[jax.Array], jax.Array] = jax.nn.sigmoid
  with_bias: bool = True


class State(NamedTuple):
  """State of one run, with its hyper-parameters and task instance."""

  params: Any
  state: hk.State  # feedback matrices and masks
  opt_state: optax.OptState
  hyper: Mapping[str, Any]  # hyper-parameters that may be swept
  instance: Any  # instance of the task
  key: jax.Array


def loss(model: Model, signal: jax.Array, target: jax.Array) -> jax.Array:
  """Computes the loss of each example, |y* - y|² / 2.

  Args:
    model: the rule and the network.
    signal: pre-activations of the output layer, [..., out].
    target: y*, [..., out].

  Returns:
    The losses, [...].
  """
  return 0.5 * jnp.sum((target - model.output(signal)) ** 2, axis=-1)


def make_network(
  model: Model,
  *,
  rule: str | None = None,
  omega: float = 0.01,
  beta: float = 0.5,
) -> hk.TransformedWithState:
  """Builds the network; its parameters have the same names under all rules.

  Args:
    model: the rule and the network.
    rule: rule to use instead of the model's, to compare signals.
    omega: weights are initialised from U[-omega, omega].
    beta: feedback weights are drawn from U[-beta, beta].

  Returns:
    Haiku functions; `apply(params, state, key, x, taps)` gives the
    pre-activations of all layers, see `feedback.MLP.pre_activations`.
  """
  rule = rule or model.rule

  def forward(x, taps=None):
    return feedback.MLP(
      model.sizes,
      rule=_LAYERS_OF.get(rule, rule),
      activation=model.activation,
      with_bias=model.with_bias,
      w_init=hk.initializers.RandomUniform(-omega, omega),
      b_init=jnp.zeros,
      feedback_init=hk.initializers.RandomUniform(-beta, beta),
      feedback_scale=beta,
      density=0.5 if model.rule == "fa_sparse" else None,
    ).pre_activations(x, taps)

  return hk.transform_with_state(forward)


def gradient(
  key: jax.Array,
  model: Model,
  params: hk.Params,
  state: hk.State,
  x: jax.Array,
  target: jax.Array,
  *,
  beta: float = 0.5,
  noise_std: float = 0.01,
) -> tuple[jax.Array, hk.Params]:
  """Computes the loss of a batch and its gradient under the rule.

  Args:
    key: random key, consumed by the random rules (brsf, node).
    model: the rule and the network.
    params: parameters.
    state: feedback matrices and masks.
    x: inputs, [B, in].
    target: targets, [B, out].
    beta: magnitude of the feedback of usf and brsf.
    noise_std: standard deviation of the noise of node perturbation.

  Returns:
    The mean loss [], and the gradient, with the structure of the parameters.

  Reference:
    Lillicrap et al., 2014 (arXiv 1411.0247), steps 1 to 4 of its method.
  """
  chex.assert_rank([x, target], 2)
  apply = make_network(model, beta=beta).apply

  def mean_loss(params, key, x, target):
    signals, _ = apply(params, state, key, x)
    return jnp.mean(loss(model, signals[-1], target))

  def perturb(key, x, target):
    return node_perturbation.gradient(
      key,
      lambda params, taps: apply(params, state, None, x, taps)[0],
      lambda signal: loss(model, signal, target),
      params,
      feedback.taps(x, model.sizes),
      noise_std=noise_std,
    )

  if model.rule != "node":
    return jax.value_and_grad(mean_loss)(params, key, x, target)
  values = jax.vmap(perturb)(jax.random.split(key, len(x)), x, target)
  return jax.tree.map(lambda value: jnp.mean(value, axis=0), values)


def make_optimiser(
  model: Model,
  params: hk.Params,
  state: hk.State,
  *,
  learning_rate: float | jax.Array = 1e-3,
  hidden_rate: float | jax.Array = 1.0,
  weight_decay: float | jax.Array = 0.0,
) -> optax.GradientTransformationExtraArgs:
  """Makes the update W <- (1 - decay) W - rate gradient.

  Biases do not decay. Fixed feedback is not a parameter and never changes;
  Kolen-Pollack's is updated like the weights. Masked entries stay exactly 0.

  Args:
    model: the rule and the network.
    params: parameters.
    state: feedback matrices and masks.
    learning_rate: learning rate of the output layer.
    hidden_rate: factor on the learning rate in all other layers.
    weight_decay: fraction of a weight lost per update.

  Returns:
    The transformation.
  """
  last = f"mlp/linear_{len(model.sizes) - 1}"
  steps = [
    optax.partition(
      {
        "hidden": optax.sgd(learning_rate * hidden_rate),
        "output": optax.sgd(learning_rate),
      },
      {layer: "output" if layer == last else "hidden" for layer in params},
    ),
    optax.add_decayed_weights(
      -weight_decay,
      {
        layer: {name: name != "b" for name in leaves}
        for layer, leaves in params.items()
      },
    ),
  ]
  if model.rule == "fa_sparse":
    masks = feedback.masks(params, state)
    steps.append(sparse_connectivity.apply_masks(masks))
  return optax.chain(*steps)


def make(
  model: Model,
  task: supervised.Task,
  *,
  optimiser: Callable[[hk.Params, hk.State, Mapping[str, Any]], Any],
  batch_size: int = 1,
) -> descent.Learner:
  """Makes a learner of one task under one rule.

  The run's hyper-parameters must include omega, beta, noise_std and
  mirror_rate, and those of the optimiser.

  Args:
    model: the rule and the network.
    task: task that examples are drawn from.
    optimiser: maps parameters, network state (for its masks) and the run's
      hyper-parameters to a gradient transformation, such as `make_optimiser`'s.
    batch_size: examples per update, B.

  Returns:
    The learner; its metric is the loss. Its init takes a key, the
    hyper-parameters and the task's data.

  Raises:
    ValueError: there is no such rule, or batch_size is not positive.

  Reference:
    Lillicrap et al., 2014 (arXiv 1411.0247).
  """
  if model.rule not in RULES:
    raise ValueError(f"rule is {model.rule!r}; it must be one of {RULES}.")
  batch_size = checks.whole_number("batch_size", batch_size, least=1)

  def init(key, hyper, data):
    del data
    key, key_task, key_network = jax.random.split(key, 3)
    network = make_network(model, omega=hyper["omega"], beta=hyper["beta"])
    x = jnp.zeros((1, task.num_inputs))
    params, state = network.init(key_network, x)
    opt_state = optimiser(params, state, hyper).init(params)
    instance = task.init(key_task)
    return State(params, state, opt_state, hyper, instance, key)

  def update(state, data):
    hyper = state.hyper
    key, key_data, key_rule = jax.random.split(state.key, 3)
    x, target = task.sample(key_data, state.instance, data, batch_size)
    value, grads = gradient(
      key_rule,
      model,
      state.params,
      state.state,
      x,
      target,
      beta=hyper["beta"],
      noise_std=hyper["noise_std"],
    )
    steps, opt_state = optimiser(state.params, state.state, hyper).update(
      grads, state.opt_state, state.params
    )
    params = optax.apply_updates(state.params, steps)
    state = State(params, state.state, opt_state, hyper, state.instance, key)
    if model.rule == "mirror":
      state = _mirror(key_rule, state)
    return state, {"loss": value}

  return descent.Learner(init, update)


def _mirror(key, state):
  """Takes a weight-mirror step, between updates."""
  network_state = feedback.mirror(
    key,
    state.params,
    state.state,
    noise_std=1.0,
    learning_rate=state.hyper["mirror_rate"],
    decay=state.hyper["mirror_rate"],
  )
  return state._replace(state=network_state)


def evaluate(
  key: jax.Array,
  state: State,
  model: Model,
  task: supervised.Task,
  data: Any = (),
) -> dict[str, jax.Array]:
  """Evaluates a run on the task's test examples.

  Args:
    key: typed key, consumed only by brsf, which draws its feedback.
    state: state of the run.
    model: the rule and the network.
    task: task of the run.
    data: data of the task.

  Returns:
    nse, the error normalised by the targets' squared norm; error, wrong labels
    in per cent, if the task has a data set; and `angles` of the first 200
    examples, except under node and output_only. All are scalars.
  """
  x, target = task.test(state.instance, data)
  beta = state.hyper["beta"]
  signals, _ = make_network(model, beta=beta).apply(
    state.params, state.state, jax.random.clone(key), x
  )
  output = model.output(signals[-1])
  metrics = {"nse": alignment.normalised_error(target, output)}
  if task.data:
    wrong = jnp.argmax(output, -1) != jnp.argmax(target, -1)
    metrics["error"] = 100 * jnp.mean(wrong)
  if model.rule not in ("node", "output_only"):  # no signal to compare
    x, target = x[:200], target[:200]
    metrics |= angles(
      key, model, state.params, state.state, x, target, beta=beta
    )
  return metrics


def angles(
  key: jax.Array,
  model: Model,
  params: hk.Params,
  state: hk.State,
  x: jax.Array,
  target: jax.Array,
  *,
  beta: float = 0.5,
) -> dict[str, jax.Array]:
  """Measures the angles of the rule's hidden signals to the reference signals.

  Args:
    key: typed key, consumed only by brsf, which draws its feedback.
    model: the rule and the network; not node perturbation, whose signal is
      noise around backpropagation's.
    params: parameters.
    state: feedback matrices and masks.
    x: inputs, [B, in].
    target: targets, [B, out].
    beta: magnitude of the feedback of usf and brsf.

  Returns:
    For each hidden layer l, counted from the input: angle_bp_l and angle_pbp_l,
    to backpropagation and to pseudo-backpropagation, in degrees, mean over the
    batch; matrix_angle_l and norm_ratio_l of the feedback into the layer if the
    rule stores a matrix.

  Reference:
    Lillicrap et al., 2014 (arXiv 1411.0247), figures 1, 2 and 4.
  """

  def signals(rule):
    apply = make_network(model, rule=rule, beta=beta).apply

    def total(taps):
      values, _ = apply(params, state, jax.random.clone(key), x, taps)
      return jnp.sum(loss(model, values[-1], target))

    return jax.grad(total)(feedback.taps(x, model.sizes))

  compare = jax.vmap(alignment.compare)
  found = compare(signals(model.rule), signals("bp"), signals("pbp"))
  metrics = {}
  for l in range(1, len(model.sizes)):
    metrics[f"angle_bp_{l}"] = jnp.mean(found.bp[:, l - 1])
    metrics[f"angle_pbp_{l}"] = jnp.mean(found.pbp[:, l - 1])
    layer = f"mlp/linear_{l}"
    leaves = {**state.get(layer, {}), **params[layer]}
    if "feedback" in leaves and model.rule != "frsf":  # stores magnitudes only
      w, matrix = leaves["w"], leaves["feedback"]
      metrics[f"matrix_angle_{l}"] = alignment.matrix_angle(w, matrix)
      metrics[f"norm_ratio_{l}"] = alignment.norm_ratio(w, matrix)
  return metrics
