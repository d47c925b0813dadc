"""Feedback alignment: networks learn through random feedback weights.

Lillicrap, Cownden, Tweed, Akerman: Random feedback weights support learning in
deep neural networks (arXiv 1411.0247, 2014; Nature Communications 7:13276,
2016). Learning rules that differ only in what carries the error back are
compared on the same data from the same starting weights.

Tasks: linear, a 30-20-10 linear map, one example at a time (the default);
nonlinear, a 30-20-10-10 tanh teacher; digits, the 8x8 images of scikit-learn;
mnist and fashion_mnist, 784-1000-10 (--data_dir or a network). Expect on linear
that feedback alignment ends below 0.005 of the target's squared norm with its
signal 25 to 38 degrees from backpropagation's, and on mnist a test error of
2-3 %. Minutes on 2 cores with --preset=cpu: linear 1, digits 2, nonlinear 5,
mnist 10; mnist with --preset=gpu on one H200: not measured yet.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from absl import flags
from etils import epy

from lilly import training

with epy.lazy_imports():
  import haiku as hk
  import jax
  import jax.numpy as jnp
  import numpy as np
  import optax

  from lilly.analysis import alignment
  from lilly.nets import feedback
  from lilly.rules import node_perturbation, sparse_connectivity
  from lilly.tasks import supervised
  from lilly.training import pictures

RULES = {
  "bp": "backpropagation",
  "fa": "feedback alignment",
  "fa_sparse": "feedback alignment, half of W and of B removed",
  "dfa": "direct feedback alignment",
  "usf": "uniform sign symmetry",
  "brsf": "sign symmetry, sizes redrawn every batch",
  "frsf": "sign symmetry, sizes fixed",
  "kp": "Kolen-Pollack",
  "mirror": "weight mirror",
  "pbp": "pseudo-backpropagation",
  "node": "node perturbation",
  "output_only": "the output layer alone learns",
}

# Hyper-parameters of each task: the published ones for linear, where "*" stands
# for all rules; for images chosen on held-out training data for each rule.
TUNED: dict[str, dict[str, dict[str, float]]] = {
  "linear": {
    "*": {"learning_rate": 1e-3, "omega": 0.01, "beta": 0.5},
    "node": {"learning_rate": 2e-3},
  },
  "nonlinear": {
    "*": {"learning_rate": 1e-3, "omega": 0.1, "beta": 1.0},
  },
  "digits": {
    "*": {"learning_rate": 0.5, "omega": 0.1, "beta": 0.5},
  },
  "mnist": {
    "*": {"learning_rate": 0.3, "omega": 0.05, "beta": 0.5},
  },
}
TUNED["fashion_mnist"] = TUNED["mnist"]
IMAGES = ("digits", "mnist", "fashion_mnist")
_SHARED = {
  "hidden_rate": 1.0,
  "weight_decay": 0.0,
  "noise_std": 0.01,
  "mirror_rate": 1e-2,
}

_LINEAR = {"num_updates": 2000, "log_every": 50, "eval_every": 50}
_NONLINEAR = {"hidden": ["20x10", "20"], "rules": ["bp", "fa", "output_only"]}
_IMAGES = {"rules": ["bp", "fa"], "hidden": ["1000"], "batch_size": 64}
PRESETS: dict[str, dict[str, Any]] = {
  "cpu": {
    "task=linear": _LINEAR,
    "task=nonlinear": _NONLINEAR
    | {"num_updates": 400_000, "log_every": 4000, "eval_every": 8000},
    "task=digits": {
      "rules": ["bp", "fa", "fa_sparse", "output_only"],
      "hidden": ["128"],
      "batch_size": 20,
      "num_updates": 8640,
      "log_every": 72,
      "eval_every": 360,
    },
    "task=mnist": _IMAGES
    | {"num_updates": 18_760, "log_every": 469, "eval_every": 1876},
    "task=fashion_mnist": _IMAGES
    | {"num_updates": 18_760, "log_every": 469, "eval_every": 1876},
  },
  "smoke": {
    "num_updates": 40,
    "log_every": 10,
    "eval_every": 20,
    "task=nonlinear": {"hidden": ["8"]},
    "task=digits": {"hidden": ["16"], "batch_size": 20},
    "task=mnist": {"hidden": ["16"], "batch_size": 20},
    "task=fashion_mnist": {"hidden": ["16"], "batch_size": 20},
  },
  "gpu": {
    "task=linear": _LINEAR,
    "task=nonlinear": _NONLINEAR
    | {"num_updates": 400_000, "log_every": 4000, "eval_every": 8000},
    "task=digits": {
      "hidden": ["128"],
      "batch_size": 20,
      "num_updates": 8640,
      "log_every": 72,
      "eval_every": 360,
    },
    "task=mnist": _IMAGES
    | {"num_updates": 37_520, "log_every": 938, "eval_every": 1876},
    "task=fashion_mnist": _IMAGES
    | {"num_updates": 37_520, "log_every": 938, "eval_every": 1876},
  },
  "paper": {
    "learning_rate": 1e-3,
    "task=linear": _LINEAR | {"num_seeds": 20},
    "task=nonlinear": _NONLINEAR
    | {"num_updates": 1_500_000, "log_every": 5000, "eval_every": 15_000},
    "task=mnist": _IMAGES
    | {
      "batch_size": 1,
      "weight_decay": 1e-6,
      "num_updates": 1_500_000,
      "log_every": 6000,
      "eval_every": 60_000,
    },
  },
}

FLAGS = flags.FlagValues()
training.define_flags(FLAGS, PRESETS)


_OWN = {"flag_values": FLAGS}
_TASK = flags.DEFINE_enum("task", "linear", [*TUNED], "What is learnt.", **_OWN)
_RULES = flags.DEFINE_list(
  "rules",
  ["bp", "fa", "node", "output_only"],
  "Learning rules to compare: " + ", ".join(RULES) + ".",
  **_OWN,
)
_HIDDEN = flags.DEFINE_list(
  "hidden",
  ["20"],
  "Units of the hidden layers, joined by x; several networks by commas.",
  **_OWN,
)
_BATCH_SIZE = flags.DEFINE_integer(
  "batch_size", 1, "Examples in an update.", lower_bound=1, **_OWN
)
_VALIDATION = flags.DEFINE_bool(
  "validation",
  False,
  "Measure on the last sixth of the training images, held out from training.",
  **_OWN,
)
_HYPER = {
  name: flags.DEFINE_float(name, None, text, lower_bound=0.0, **_OWN)
  for name, text in {
    "learning_rate": "Rate, times the gradient of |e|^2 / 2 of one example, "
    "averaged over the batch and summed over the outputs.",
    "hidden_rate": "Factor on the rate of all layers but the last.",
    "omega": "Weights start as U[-omega, omega].",
    "beta": "Feedback weights are U[-beta, beta].",
    "weight_decay": "Fraction of every weight lost in an update.",
    "noise_std": "Noise of node perturbation.",
    "mirror_rate": "Rate of the weight mirror.",
  }.items()
}


class State(NamedTuple):
  """Everything of one run that changes, and what it was drawn with."""

  params: Any
  network: Any  # feedback weights and masks
  optimiser: Any
  hyper: Any
  instance: Any  # of the task
  key: Any


class Learner(NamedTuple):
  """What is fixed in one variant: a rule, a network, a task."""

  rule: str
  task: Any
  sizes: list[int]
  # of the hidden units and of the output units
  activation: Any
  output: Any
  with_bias: bool
  batch_size: int

  def network(self, hyper: Any, rule: str | None = None) -> Any:
    """Builds the network; under all rules the parameters' names agree."""
    rule = rule or self.rule
    plain = {"fa_sparse": "fa", "node": "output_only"}.get(rule, rule)

    def uniform(bound):
      return hk.initializers.RandomUniform(-bound, bound)

    def forward(x, taps=None):
      network = feedback.MLP(
        self.sizes,
        rule=plain,
        activation=self.activation,
        with_bias=self.with_bias,
        w_init=uniform(hyper["omega"]),
        b_init=jnp.zeros,
        feedback_init=uniform(hyper["beta"]),
        feedback_scale=hyper["beta"],
        density=0.5 if self.rule == "fa_sparse" else None,
      )
      return network.pre_activations(x, taps)

    return hk.transform_with_state(forward)


def squared_error(target: Any, output: Any) -> Any:
  return 0.5 * jnp.sum((target - output) ** 2, axis=-1)


def make_optimiser(hyper: Any, last_layer: str, masks: Any) -> Any:
  """W <- (1 - decay) W - rate gradient; biases do not decay, B is not there."""

  def labels(params):
    return {
      layer: "output" if layer == last_layer else "hidden" for layer in params
    }

  def decays(params):
    return {layer: {n: n != "b" for n in params[layer]} for layer in params}

  rate = hyper["learning_rate"]
  rates = {
    "hidden": optax.sgd(rate * hyper["hidden_rate"]),
    "output": optax.sgd(rate),
  }
  steps = [
    optax.partition(rates, labels),
    optax.add_decayed_weights(-hyper["weight_decay"], decays),
  ]
  if masks is not None:
    steps.append(sparse_connectivity.apply_masks(masks))
  return training.skip_nonfinite(optax.chain(*steps))


def make_experiment(learner: Learner, hyper: Any) -> training.Experiment:
  """One variant, as one run sees it."""
  task, rule = learner.task, learner.rule
  last_layer = f"mlp/linear_{len(learner.sizes) - 1}"

  def optimiser_of(state):
    masks = None
    if rule == "fa_sparse":
      masks = feedback.masks(state.params, state.network)
    return make_optimiser(state.hyper, last_layer, masks)

  def init(key, hyper, data):
    key, key_task, key_network = jax.random.split(key, 3)
    instance = task.init(key_task)
    x = jnp.zeros((1, task.num_inputs))
    params, network = learner.network(hyper).init(key_network, x)
    state = State(params, network, None, hyper, instance, key)
    return state._replace(optimiser=optimiser_of(state).init(params))

  def update(state, data):
    key, key_data, key_rule = jax.random.split(state.key, 3)
    batch = task.sample(key_data, state.instance, data, learner.batch_size)
    gradient = node_gradient if rule == "node" else rule_gradient
    loss, grads = gradient(learner, key_rule, state, *batch)
    updates, optimiser = optimiser_of(state).update(
      grads, state.optimiser, state.params
    )
    params = optax.apply_updates(state.params, updates)
    state = state._replace(params=params, optimiser=optimiser, key=key)
    return mirrored(state) if rule == "mirror" else state, {"loss": loss}

  def evaluate(state, data):
    x, target = task.test(state.instance, data)
    signals, _ = learner.network(state.hyper).apply(
      state.params, state.network, jax.random.key(0), x
    )
    output = learner.output(signals[-1])
    metrics = {"nse": alignment.normalised_error(target, output)}
    if task.data:
      wrong = jnp.argmax(output, -1) != jnp.argmax(target, -1)
      metrics["error"] = 100 * jnp.mean(wrong)
    if rule != "node":  # its signal is noise around backpropagation's
      metrics |= angles(learner, state, x[:200], target[:200])
    return metrics

  return training.Experiment(
    init=init,
    update=update,
    evaluate=evaluate,
    data=task.data,
    hyper=hyper,
    steps_per_update=learner.batch_size,
    unit="examples",
  )


def rule_gradient(learner, key, state, x, target):
  """The loss and its gradient as the rule gives it."""
  network = learner.network(state.hyper)

  def loss(params):
    signals, _ = network.apply(params, state.network, key, x)
    return jnp.mean(squared_error(target, learner.output(signals[-1])))

  return jax.value_and_grad(loss)(state.params)


def node_gradient(learner, key, state, x, target):
  """Node perturbation: the output layer sees its error, the others noise."""
  network = learner.network(state.hyper)

  def of_example(key, x, target):
    def signals(params, taps):
      return network.apply(params, state.network, None, x, taps)[0]

    def loss(output):
      return squared_error(target, learner.output(output))

    taps = feedback.taps(x, learner.sizes)
    estimate = node_perturbation.estimate(
      key,
      lambda taps: loss(signals(state.params, taps)[-1]),
      taps,
      noise_std=state.hyper["noise_std"],
    )
    values, pull = jax.vjp(lambda p: signals(p, taps), state.params)
    value, delta = jax.value_and_grad(loss)(values[-1])
    return value, pull([*estimate, delta])[0]

  keys = jax.random.split(key, len(x))
  values = jax.vmap(of_example)(keys, x, target)
  return jax.tree.map(lambda v: jnp.mean(v, axis=0), values)


def mirrored(state: State) -> State:
  """A step of the weight mirror between two of learning."""
  key, key_mirror = jax.random.split(state.key)
  network = feedback.mirror(
    key_mirror,
    state.params,
    state.network,
    noise_std=1.0,
    learning_rate=state.hyper["mirror_rate"],
    decay=state.hyper["mirror_rate"],
  )
  return state._replace(network=network, key=key)


def angles(learner, state, x, target):
  """Degrees, mean over examples; layers are counted from the input."""

  def signals(rule):
    network = learner.network(state.hyper, rule)

    def loss(taps):
      key = jax.random.key(0)
      values, _ = network.apply(state.params, state.network, key, x, taps)
      return jnp.sum(squared_error(target, learner.output(values[-1])))

    return jax.grad(loss)(feedback.taps(x, learner.sizes))

  def angle(a, b):
    return jnp.mean(jax.vmap(alignment.angle)(a, b))

  own, bp, pbp = signals(learner.rule), signals("bp"), signals("pbp")
  metrics = {}
  for l in range(len(own)):
    metrics[f"angle_bp_{l + 1}"] = angle(own[l], bp[l])
    metrics[f"angle_pbp_{l + 1}"] = angle(own[l], pbp[l])
    stored = state.network.get(f"mlp/linear_{l + 1}", {}).get("feedback")
    if stored is not None:
      w = state.params[f"mlp/linear_{l + 1}"]["w"]
      metrics[f"matrix_angle_{l + 1}"] = alignment.matrix_angle(w, stored)
      metrics[f"norm_ratio_{l + 1}"] = alignment.norm_ratio(w, stored)
  return metrics


def hyper_of(task: str, rule: str) -> dict[str, float]:
  """The user's value, else the rule's own on this task, else the task's."""
  tuned = _SHARED | TUNED[task]["*"] | TUNED[task].get(rule, {})
  given = {k: f.value for k, f in _HYPER.items() if f.value is not None}
  return tuned | given


def make_learner(name: str, task: Any, rule: str, hidden: list[int]) -> Learner:
  """The published units of each task."""
  unit, output = jax.nn.sigmoid, jax.nn.sigmoid
  if name not in IMAGES:
    unit = jnp.tanh if name == "nonlinear" else _identity
    output = _identity
  sizes = [*hidden, task.num_outputs]
  batch_size = _BATCH_SIZE.value
  with_bias = name != "linear"
  return Learner(rule, task, sizes, unit, output, with_bias, batch_size)


def make_task(options: training.Options) -> Any:
  if _TASK.value == "linear":
    return supervised.teacher([30, 10])
  if _TASK.value == "nonlinear":
    return supervised.teacher([30, 20, 10, 10])
  return supervised.images(
    _TASK.value, options.data_dir, held_out=_VALIDATION.value
  )


def make_experiments(
  options: training.Options,
) -> dict[str, training.Experiment]:
  """One variant for each rule and network."""
  unknown = [rule for rule in _RULES.value if rule not in RULES]
  if unknown or not _RULES.value:
    raise training.RunError(
      f"--rules={','.join(_RULES.value)} does not name rules; known ones are "
      f"{', '.join(RULES)}."
    )
  networks = {text: hidden_sizes(text) for text in _HIDDEN.value}
  task = make_task(options)
  experiments = {}
  for text, hidden in networks.items():
    for rule in _RULES.value:
      variant = rule if len(networks) == 1 else f"{rule}-{text}"
      learner = make_learner(_TASK.value, task, rule, hidden)
      hyper = hyper_of(_TASK.value, rule)
      experiments[variant] = make_experiment(learner, hyper)
  return experiments


def _identity(x):
  return x


def hidden_sizes(text: str) -> list[int]:
  """Reads 20x10 as [20, 10]."""
  sizes = text.split("x")
  if not all(size.isdigit() and int(size) for size in sizes):
    raise training.RunError(
      f"--hidden={text} is not a list of layer sizes; write it as 20x10."
    )
  return [int(size) for size in sizes]


def draw(results: training.Results, out_dir: Any) -> None:
  """Learning curves, angles over time, and angles against omega if swept."""
  metric = "eval/error" if _TASK.value in IMAGES else "eval/nse"
  label = "test error (%)" if _TASK.value in IMAGES else "normalised error"
  pictures.curves(
    results, out_dir / "curves.png", {metric: label}, log_scale=[metric]
  )
  layers = max(len(hidden_sizes(text)) for text in _HIDDEN.value)
  wanted = {
    f"eval/angle_bp_{l + 1}": f"angle to backpropagation, layer {l + 1} (degrees)"
    for l in range(layers)
  }
  pictures.curves(results, out_dir / "angles.png", wanted)
  if any(name == "omega" for name, _ in results.options.sweep):
    draw_omega(results, out_dir / "omega.png")


def draw_omega(results: training.Results, path: Any) -> None:
  """Final angles against the size of the starting weights (figure 4)."""
  sheet, grid = pictures.axes(1, len(results.metrics))
  for ax, variant in zip(grid[0], results.metrics, strict=True):
    omegas = sorted({run["omega"] for run in results.runs[variant]})
    for colour, reference in zip(pictures.COLOURS, ("bp", "pbp"), strict=False):
      name = f"eval/angle_{reference}_1"
      if name in results.metrics[variant]:
        values = [
          training.final(results, variant, name, omega=omega)
          for omega in omegas
        ]
        pictures.band(
          ax,
          np.array(omegas),
          np.stack(values, axis=1),
          colour=colour,
          label={"bp": "backprop", "pbp": "pseudo-backprop"}[reference],
        )
    ax.set_xscale("log")
    ax.set_title(variant)
    ax.set_xlabel("omega")
    ax.set_ylabel("final angle (degrees)")
    ax.legend(frameon=False)
  pictures.save(sheet, path)


def main(options: training.Options) -> int:
  metric = "eval/error" if _TASK.value in IMAGES else "eval/nse"
  experiments = make_experiments(options)
  results = training.run(experiments, options, key_metric=metric)
  return training.finish(results, CLAIMS, draw)


CLAIMS = ()

if __name__ == "__main__":
  training.main(FLAGS, main)
