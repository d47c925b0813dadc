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
from lilly.training import claims

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

_TEACHER = {"num_updates": 400_000, "log_every": 4000, "eval_every": 8000}
_LINEAR = {"num_updates": 2000, "log_every": 50, "eval_every": 50}
_NONLINEAR = {"hidden": ["20x10", "20"], "rules": ["bp", "fa", "output_only"]}
_DIGITS = {
  "rules": ["bp", "fa", "fa_sparse", "output_only"],
  "hidden": ["128"],
  "batch_size": 20,
  "num_updates": 8640,  # 120 epochs
  "log_every": 72,
  "eval_every": 360,
}
_MNIST = {
  "rules": ["bp", "fa"],
  "hidden": ["1000"],
  "batch_size": 64,
  "log_every": 469,  # half an epoch
  "eval_every": 1876,
}
_MNIST_CPU = _MNIST | {"num_updates": 18_760, "seed_batching": "map"}
_MNIST_GPU = _MNIST | {"num_updates": 37_520, "log_every": 938}
_MNIST_PAPER = _MNIST | {
  "batch_size": 1,
  "weight_decay": 1e-6,
  "num_updates": 1_500_000,
  "log_every": 6000,
  "eval_every": 60_000,
}
_TINY = {"hidden": ["16"], "batch_size": 20}
PRESETS: dict[str, dict[str, Any]] = {
  "cpu": {
    "task=linear": _LINEAR,
    "task=nonlinear": _NONLINEAR | _TEACHER,
    "task=digits": _DIGITS,
    "task=mnist": _MNIST_CPU,
    "task=fashion_mnist": _MNIST_CPU,
  },
  "smoke": {
    "num_updates": 40,
    "log_every": 10,
    "eval_every": 20,
    "task=nonlinear": {"hidden": ["8"]},
    "task=digits": _TINY,
    "task=mnist": _TINY,
    "task=fashion_mnist": _TINY,
  },
  "gpu": {
    "task=linear": _LINEAR,
    "task=nonlinear": _NONLINEAR | _TEACHER,
    "task=digits": _DIGITS,
    "task=mnist": _MNIST_GPU,
    "task=fashion_mnist": _MNIST_GPU,
  },
  "paper": {
    "learning_rate": 1e-3,
    "task=linear": _LINEAR | {"num_seeds": 20},
    "task=nonlinear": _NONLINEAR
    | {"num_updates": 1_500_000, "log_every": 5000, "eval_every": 15_000},
    "task=mnist": _MNIST_PAPER,
    "task=fashion_mnist": _MNIST_PAPER,
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
  """The loss and its gradient by node perturbation, mean over the batch."""
  network = learner.network(state.hyper)

  def of_example(key, x, target):
    return node_perturbation.gradient(
      key,
      lambda params, taps: network.apply(params, state.network, None, x, taps)[
        0
      ],
      lambda output: squared_error(target, learner.output(output)),
      state.params,
      feedback.taps(x, learner.sizes),
      noise_std=state.hyper["noise_std"],
    )

  values = jax.vmap(of_example)(jax.random.split(key, len(x)), x, target)
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

  found = jax.vmap(alignment.compare)(
    signals(learner.rule), signals("bp"), signals("pbp")
  )
  metrics = {}
  for l in range(len(learner.sizes) - 1):
    metrics[f"angle_bp_{l + 1}"] = jnp.mean(found.bp[:, l])
    metrics[f"angle_pbp_{l + 1}"] = jnp.mean(found.pbp[:, l])
    layer = f"mlp/linear_{l + 1}"
    stored = {**state.network.get(layer, {}), **state.params[layer]}
    if "feedback" in stored and learner.rule != "frsf":  # has sizes, not signs
      w, b = stored["w"], stored["feedback"]
      metrics[f"matrix_angle_{l + 1}"] = alignment.matrix_angle(w, b)
      metrics[f"norm_ratio_{l + 1}"] = alignment.norm_ratio(w, b)
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
    f"eval/angle_bp_{l + 1}": f"angle to BP, layer {l + 1} (degrees)"
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


def rank_correlation(results: training.Results) -> Any:
  """Spearman's, of omega and the final angle, for each seed."""
  omegas = sorted({run.get("omega", 0.0) for run in results.runs["fa"]})
  if len(omegas) < 3:
    raise claims.NotApplicable("omega was not swept")
  final = [
    claims.final(results, "fa", "eval/angle_bp_1", omega=omega)
    for omega in omegas
  ]
  ranks = np.argsort(np.argsort(np.stack(final), axis=0), axis=0)
  order = np.arange(len(omegas))
  spread = np.sum((ranks - order[:, None]) ** 2, axis=0)
  return 1 - 6 * spread / (len(omegas) * (len(omegas) ** 2 - 1))


def _state(task, presets, *rows):
  """Turns rows of name, sentence, measure, relation, threshold into claims."""
  where = {"task": [task], "preset": presets}
  return tuple(
    claims.Claim(f"{task}/{name}", *row, where=where) for name, *row in rows
  )


def _error(variant, step=None, **point):
  metric = "eval/nse"
  if step is None:
    return claims.last(variant, metric, **point)
  return claims.at(step, variant, metric, **point)


def _angle(reference, step=None, variant="fa", **point):
  metric = f"eval/angle_{reference}_1"
  if step is None:
    return claims.last(variant, metric, **point)
  return claims.at(step, variant, metric, **point)


def _wrong(variant):
  return claims.last(variant, "eval/error")


_less = claims.difference
_FULL = ["cpu", "gpu", "paper"]
CLAIMS = (
  *_state(
    "linear",
    _FULL,
    ("fa-500", "FA: error at 500 examples", _error("fa", 500), "<=", 0.4),
    ("fa-2000", "FA: error at 2,000", _error("fa", 2000), "<", 5e-3),
    ("bp-2000", "BP, FA's rate: error at 2,000", _error("bp", 2000), ">", 0.05),
    (
      "shallow",
      "the output layer alone: error at 2,000",
      _error("output_only", 2000),
      ">",
      0.5,
    ),
    (
      "node",
      "node perturbation less FA: error at 2,000",
      _less(_error("node", 2000), _error("fa", 2000)),
      ">",
      0.0,
    ),
    (
      "angle-start",
      "FA: angle to BP at the start",
      _angle("bp", 0),
      ">=",
      75.0,
    ),
    ("angle-end", "FA: angle to BP at 2,000", _angle("bp", 2000), "<=", 38.0),
    ("pbp", "FA: angle to pseudo-BP at 2,000", _angle("pbp", 2000), "<=", 22.0),
    (
      "pbp-nearer",
      "FA: angle to pseudo-BP less that to BP",
      _less(_angle("pbp", 2000), _angle("bp", 2000)),
      "<",
      0.0,
    ),
    (
      "bp-tuned",
      "BP at rate 5e-3 less FA at 1e-3: error at 500",
      _less(
        _error("bp", 500, learning_rate=5e-3),
        _error("fa", 500, learning_rate=1e-3),
      ),
      "<",
      0.0,
    ),
    (
      "omega-order",
      "FA: rank correlation of omega and final angle to BP",
      rank_correlation,
      ">=",
      0.8,
    ),
    (
      "omega-large",
      "FA: final angle to BP at omega 0.25 less that at 0.01",
      _less(_angle("bp", omega=0.25), _angle("bp", omega=0.01)),
      ">=",
      10.0,
    ),
  ),
  *_state(
    "nonlinear",
    _FULL,
    ("fa-4", "FA, 30-20-10-10: final error", _error("fa-20x10"), "<=", 0.2),
    ("bp-4", "BP, 30-20-10-10: final error", _error("bp-20x10"), "<", 1e-2),
    (
      "depth",
      "FA, 30-20-10-10, less BP, 30-20-10: final error",
      _less(_error("fa-20x10"), _error("bp-20")),
      "<",
      0.0,
    ),
    (
      "shallow",
      "the output layer alone, 30-20-10: final error",
      _error("output_only-20"),
      ">",
      0.7,
    ),
  ),
  *_state(
    "digits",
    _FULL,
    ("bp", "BP: test error (%)", _wrong("bp"), "<=", 3.0),
    ("fa", "FA: test error (%)", _wrong("fa"), "<=", 4.0),
    ("sparse", "sparse FA: test error (%)", _wrong("fa_sparse"), "<=", 4.5),
    (
      "shallow",
      "the output layer alone: test error (%)",
      _wrong("output_only"),
      ">=",
      9.0,
    ),
    ("angle", "FA: final angle to BP", _angle("bp"), "<=", 35.0),
    (
      "sparse-angle",
      "sparse FA: final angle to BP",
      _angle("bp", variant="fa_sparse"),
      "<=",
      60.0,
    ),
  ),
  *_state(
    "mnist",
    ["gpu"],
    ("fa", "FA: test error (%)", _wrong("fa"), "<=", 3.0),
    (
      "gap",
      "FA less BP: test error (points)",
      _less(_wrong("fa"), _wrong("bp")),
      "<=",
      1.0,
    ),
  ),
)

REPRODUCE = {
  "linear": ["--num_seeds=20"],
  "rates": [
    "--num_seeds=20",
    "--rules=bp,fa",
    "--sweep=learning_rate=1e-3,5e-3",
  ],
  "omega": [
    "--num_seeds=20",
    "--rules=fa",
    "--sweep=omega=1e-4,1e-3,0.01,0.05,0.1,0.125,0.15,0.2,0.25",
  ],
  "digits": ["--task=digits", "--num_seeds=8"],
  "nonlinear": ["--task=nonlinear", "--num_seeds=8"],
  "mnist": ["--task=mnist", "--num_seeds=3"],
}

if __name__ == "__main__":
  training.main(FLAGS, main)
