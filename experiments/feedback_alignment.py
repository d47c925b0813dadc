"""Feedback alignment: networks learn through random feedback weights.

Lillicrap, Cownden, Tweed, Akerman: Random feedback weights support learning in
deep neural networks (arXiv 1411.0247, 2014; Nature Communications 7:13276,
2016). Learning rules that differ only in what carries the error back are
compared on the same data from the same starting weights.

Tasks: linear, a 30-20-10 linear map, one example at a time (the default);
nonlinear, a 30-20-10-10 tanh teacher; digits, the 8x8 images of scikit-learn;
mnist and fashion_mnist, 784-1000-10 (--data_dir or a network). Expect on linear
that feedback alignment ends below 0.005 of the target's squared norm with its
signal 25 to 38 degrees from backpropagation's, and on mnist 3 % test errors.
Minutes on 2 cores with --preset=cpu: linear 1, digits 2, nonlinear 4, mnist 10
for 3 seeds. No GPU was at hand to measure --preset=gpu.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from absl import flags
from etils import epy

from lilly import training
from lilly.training import claims

with epy.lazy_imports():
  import jax
  import jax.numpy as jnp
  import optax

  from lilly.analysis import alignment
  from lilly.figures import curves
  from lilly.nets import feedback, feedback_learner
  from lilly.tasks import supervised

# Hyper-parameters of each task: the published ones for linear, where "*" stands
# for all rules; for images chosen on held-out training data for each rule.
TUNED: dict[str, dict[str, dict[str, float]]] = {
  "linear": {
    "*": {"learning_rate": 1e-3, "omega": 0.01, "beta": 0.5},
    "node": {"learning_rate": 2e-3},
  },
  "nonlinear": {
    "*": {"learning_rate": 1e-3, "omega": 0.01, "beta": 1.0},
  },
  "digits": {
    "*": {"learning_rate": 0.5, "omega": 0.1, "beta": 0.5},
  },
  "mnist": {  # beta and hidden_rate count as their product; decay: no effect
    "*": {
      "learning_rate": 0.2,
      "hidden_rate": 150.0,
      "omega": 0.1,
      "beta": 0.5,
    },
    "bp": {"learning_rate": 0.1, "hidden_rate": 600.0, "omega": 0.05},
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
_MNIST_CPU = _MNIST | {"num_updates": 11_256, "seed_batching": "map"}
_MNIST_GPU = _MNIST | {"num_updates": 37_520, "log_every": 938}
_MNIST_PAPER = _MNIST | {
  "batch_size": 1,
  "hidden_rate": 1.0,
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
  },
  "smoke": {
    "num_updates": 40,
    "log_every": 10,
    "eval_every": 20,
    "task=nonlinear": {"hidden": ["8"]},
    "task=digits": _TINY,
    "task=mnist": _TINY,
  },
  "gpu": {
    "task=linear": _LINEAR,
    "task=nonlinear": _NONLINEAR | _TEACHER,
    "task=digits": _DIGITS,
    "task=mnist": _MNIST_GPU,
  },
  "paper": {
    "learning_rate": 1e-3,
    "task=linear": _LINEAR | {"num_seeds": 20},
    "task=nonlinear": _NONLINEAR
    | {"num_updates": 1_500_000, "log_every": 5000, "eval_every": 15_000},
    "task=digits": _DIGITS | {"learning_rate": 0.5},
    "task=mnist": _MNIST_PAPER,
  },
}

for _preset in PRESETS.values():
  _preset["task=fashion_mnist"] = _preset["task=mnist"]
_LINEAR_HYPER = _SHARED | TUNED["linear"]["*"]

FLAGS = flags.FlagValues()
training.define_flags(FLAGS, PRESETS)
_OWN = {"flag_values": FLAGS}
_TASK = flags.DEFINE_enum("task", "linear", [*TUNED], "What is learnt.", **_OWN)
_RULES = flags.DEFINE_list(
  "rules",
  ["bp", "fa", "node", "output_only"],
  "Learning rules to compare: bp, fa, fa_sparse, dfa, usf, brsf, frsf, kp, "
  "mirror, pbp, node, output_only.",
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
  "validation", False, "Test on a sixth of the training images.", **_OWN
)
_HYPER = {
  name: flags.DEFINE_float(
    name, None, f"{text} [{_LINEAR_HYPER[name]:g} on linear]", 0.0, **_OWN
  )
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
flags.register_validator(
  "noise_std", lambda v: v != 0, "--noise_std must be positive", FLAGS
)


class State(NamedTuple):
  """Everything of one run that changes, and what it was drawn with."""

  params: Any
  network: Any  # feedback weights and masks
  optimiser: Any
  hyper: Any
  instance: Any  # of the task
  key: Any


def make_experiment(
  learner: Any, task: Any, hyper: dict[str, float], batch_size: int
) -> training.Experiment:
  """One rule on one task, as one run sees it."""

  def optimiser_of(state):
    run = (state.params, state.network, state.hyper)
    return training.skip_nonfinite(feedback_learner.optimiser(learner, *run))

  def init(key, hyper, data):
    key, key_task, key_network = jax.random.split(key, 3)
    x = jnp.zeros((1, task.num_inputs))
    run = feedback_learner.network(learner, hyper).init(key_network, x)
    state = State(*run, None, hyper, task.init(key_task), key)
    return state._replace(optimiser=optimiser_of(state).init(state.params))

  def update(state, data):
    key, key_data, key_rule = jax.random.split(state.key, 3)
    x, target = task.sample(key_data, state.instance, data, batch_size)
    run = (state.params, state.network, state.hyper)
    loss, grads = feedback_learner.gradient(key_rule, learner, *run, x, target)
    updates, optimiser = optimiser_of(state).update(
      grads, state.optimiser, state.params
    )
    params = optax.apply_updates(state.params, updates)
    state = state._replace(params=params, optimiser=optimiser, key=key)
    if learner.rule == "mirror":
      state = mirrored(key_rule, state)
    return state, {"loss": loss}

  def evaluate(state, data):
    x, target = task.test(state.instance, data)
    run = (state.params, state.network, state.hyper)
    network = feedback_learner.network(learner, state.hyper)
    signals, _ = network.apply(*run[:2], jax.random.key(0), x)
    output = learner.output(signals[-1])
    metrics = {"nse": alignment.normalised_error(target, output)}
    if task.data:
      wrong = jnp.argmax(output, -1) != jnp.argmax(target, -1)
      metrics["error"] = 100 * jnp.mean(wrong)
    if learner.rule not in ("node", "output_only"):  # noise, and nothing
      metrics |= feedback_learner.angles(learner, *run, x[:200], target[:200])
    return metrics

  return training.Experiment(
    init=init,
    update=update,
    evaluate=evaluate,
    data=task.data,
    hyper=hyper,
    steps_per_update=batch_size,
    unit="examples",
  )


def mirrored(key: Any, state: State) -> State:
  """Takes a step of the weight mirror between two of learning."""
  rate = state.hyper["mirror_rate"]
  network = feedback.mirror(
    key,
    state.params,
    state.network,
    noise_std=1.0,
    learning_rate=rate,
    decay=rate,
  )
  return state._replace(network=network)


def hyper_of(task: str, rule: str) -> dict[str, float]:
  """The user's value, else the rule's own on this task, else the task's."""
  tuned = _SHARED | TUNED[task]["*"] | TUNED[task].get(rule, {})
  given = {k: f.value for k, f in _HYPER.items() if f.value is not None}
  return tuned | given


def make_learner(name: str, rule: str, sizes: list[int]) -> Any:
  """The published units of each task."""
  if name in IMAGES:
    return feedback_learner.Learner(rule, sizes)
  linear = feedback_learner.identity
  hidden = jnp.tanh if name == "nonlinear" else linear
  return feedback_learner.Learner(
    rule, sizes, hidden, output=linear, with_bias=name == "nonlinear"
  )


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
  known = feedback_learner.RULES
  if not _HIDDEN.value:
    raise training.RunError("--hidden is empty; write layer sizes, as 20x10.")
  if not _RULES.value or not set(_RULES.value) <= set(known):
    raise training.RunError(
      f"--rules={','.join(_RULES.value)} does not name rules; these are known: "
      f"{', '.join(known)}."
    )
  networks = {text: hidden_sizes(text) for text in _HIDDEN.value}
  task = make_task(options)
  experiments = {}
  for text, hidden in networks.items():
    for rule in _RULES.value:
      variant = rule if len(networks) == 1 else f"{rule}-{text}"
      learner = make_learner(_TASK.value, rule, [*hidden, task.num_outputs])
      experiments[variant] = make_experiment(
        learner, task, hyper_of(_TASK.value, rule), _BATCH_SIZE.value
      )
  return experiments


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
  curves.plot_metrics(
    results, out_dir / "curves.png", {metric: label}, log_scale=[metric]
  )
  layers = max(len(hidden_sizes(text)) for text in _HIDDEN.value)
  wanted = {
    f"eval/angle_bp_{l + 1}": f"angle to BP, layer {l + 1} (degrees)"
    for l in range(layers)
  }
  curves.plot_metrics(results, out_dir / "angles.png", wanted)
  if [name for name, _ in results.options.sweep] == ["omega"]:
    lines = {
      "eval/angle_bp_1": "to backpropagation",
      "eval/angle_pbp_1": "to pseudo-backpropagation",
    }
    label = "final angle of layer 1 (degrees)"
    curves.plot_sweep(results, out_dir / "omega.png", "omega", lines, label)


def main(options: training.Options) -> int:
  metric = "eval/error" if _TASK.value in IMAGES else "eval/nse"
  experiments = make_experiments(options)
  results = training.run(experiments, options, key_metric=metric)
  return training.finish(results, CLAIMS, draw)


def _state(task, presets, *rows, min_seeds=8):
  """Turns rows of name, sentence, measure, relation, threshold into claims."""
  where = {"task": [task], "preset": presets, "validation": [False]}
  # With the task's own hyper-parameters, network and length.
  where |= {name: [None] for name in _HYPER}
  stated = [PRESETS[preset][f"task={task}"] for preset in presets]
  for flag in ("hidden", "batch_size", "num_updates"):
    where[flag] = [row.get(flag, FLAGS[flag].default) for row in stated]
  return tuple(
    claims.Claim(f"{task}/{name}", *row, where=where, min_seeds=min_seeds)
    for name, *row in rows
  )


def _at(step, variant="fa", metric="nse", **point):
  if step == "end":
    return claims.last(variant, f"eval/{metric}", **point)
  return claims.at(step, variant, f"eval/{metric}", **point)


def _wrong(variant):
  return _at("end", variant, "error")


_less = claims.difference
_BP, _PBP = {"metric": "angle_bp_1"}, {"metric": "angle_pbp_1"}
_FULL = ["cpu", "gpu"]
# fmt: off
CLAIMS = (
  *_state(
    "linear", _FULL,
    ("fa-500", "FA: error at 500 examples", _at(500), "<=", 0.4),
    ("fa-2000", "FA: error at 2,000", _at(2000), "<", 5e-3),
    ("bp-2000", "BP at FA's rate: error at 2,000", _at(2000, "bp"), ">", 0.05),
    ("shallow", "the output layer alone, from small weights: error at 2,000",
     _at(2000, "output_only"), ">", 0.5),
    ("node", "node perturbation less FA: error at 2,000",
     _less(_at(2000, "node"), _at(2000)), ">", 0.0),
    ("node-learns", "node perturbation: error at 2,000",
     _at(2000, "node"), "<", 0.1),
    ("angle-start", "FA: angle to BP at the start", _at(0, **_BP), ">=", 75.0),
    ("angle-end", "FA: angle to BP at 2,000", _at(2000, **_BP), "<=", 38.0),
    ("pbp", "FA: angle to pseudo-BP at 2,000", _at(2000, **_PBP), "<=", 22.0),
    ("pbp-nearer", "FA: angle to pseudo-BP less that to BP",
     _less(_at(2000, **_PBP), _at(2000, **_BP)), "<", 0.0),
    ("bp-tuned", "BP at rate 5e-3 less FA at 1e-3: error at 500",
     _less(_at(500, "bp", learning_rate=5e-3), _at(500, learning_rate=1e-3)),
     "<", 0.0),
    ("omega-order", "FA: rank correlation of omega and final angle to BP",
     claims.rank_correlation("fa", "eval/angle_bp_1", "omega"), ">=", 0.8),
    ("omega-large", "FA: final angle to BP at omega 0.25 less that at 0.01",
     _less(_at("end", omega=0.25, **_BP), _at("end", omega=0.01, **_BP)),
     ">=", 10.0),
  ),
  *_state(
    "nonlinear", _FULL,
    ("fa-4", "FA, 30-20-10-10: final error", _at("end", "fa-20x10"),
     "<=", 0.2),
    ("bp-4", "BP, 30-20-10-10: final error", _at("end", "bp-20x10"),
     "<", 1e-2),
    ("depth", "FA, 30-20-10-10, less BP, 30-20-10: final error",
     _less(_at("end", "fa-20x10"), _at("end", "bp-20")), "<", 0.0),
    ("shallow", "the output layer alone, 30-20-10, from small weights",
     _at("end", "output_only-20"), ">", 0.7),
  ),
  *_state(
    "digits", _FULL,
    ("bp", "BP: test error (%)", _wrong("bp"), "<=", 3.0),
    ("fa", "FA: test error (%)", _wrong("fa"), "<=", 4.0),
    ("sparse", "sparse FA: test error (%)", _wrong("fa_sparse"), "<=", 4.5),
    ("shallow", "the output layer alone: test error (%)",
     _wrong("output_only"), ">=", 9.0),
    ("angle", "FA: final angle to BP", _at("end", **_BP), "<=", 35.0),
    ("sparse-angle", "sparse FA: final angle to BP",
     _at("end", "fa_sparse", **_BP), "<=", 60.0),
  ),
  *_state(
    "mnist", _FULL,
    ("fa", "FA: test error (%)", _wrong("fa"), "<=", 3.0),
    ("gap", "FA less BP: test error (points)",
     _less(_wrong("fa"), _wrong("bp")), "<=", 1.0),
    min_seeds=3,
  ),
)
# fmt: on

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
