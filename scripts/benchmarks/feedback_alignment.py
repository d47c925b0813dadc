"""Feedback alignment: a step against backprop's, seeds in one program."""

import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks import timing

_UPDATES = 50
_SEEDS = 32


def measure() -> dict[str, Any]:
  """Measures the step at 784-1000-10, and 32 seeds of the linear task."""
  return {
    "step_784_1000_10_batch_64": _steps(),
    "linear_32_seeds_warm": _throughput(),
    "linear_32_seeds_commands": _commands(),
  }


def _steps():
  """Times updates by plain autodiff, by the rule bp, and by the rule fa."""
  import jax
  import jax.numpy as jnp
  import optax

  from lilly.learners import feedback_alignment

  key = jax.random.key(0)
  x = jax.random.uniform(key, (64, 784))
  target = jax.nn.one_hot(jnp.arange(64) % 10, 10)

  def plain(params, state):
    def loss(params):
      h = x
      for layer in ("mlp/linear_0", "mlp/linear_1"):
        h = jax.nn.sigmoid(h @ params[layer]["w"] + params[layer]["b"][None])
      return jnp.mean(0.5 * jnp.sum((target - h) ** 2, axis=-1))

    return jax.grad(loss)(params)

  def by_rule(rule):
    model = feedback_alignment.Model(rule, [1000, 10])

    def gradient(params, state):
      _, grads = feedback_alignment.gradient(
        jax.random.key(1), model, params, state, x, target
      )
      return grads

    return model, gradient

  def updates(model, gradient):
    network = feedback_alignment.make_network(model, omega=0.05)
    params, state = network.init(key, x)

    def update(params, _):
      optimiser = feedback_alignment.make_optimiser(
        model, params, state, learning_rate=0.1
      )
      opt_state = optimiser.init(params)
      grads = gradient(params, state)
      change, _ = optimiser.update(grads, opt_state, params)
      return optax.apply_updates(params, change), None

    run = jax.jit(lambda p: jax.lax.scan(update, p, length=_UPDATES)[0])
    return lambda: run(params)

  bp, bp_gradient = by_rule("bp")
  fa, fa_gradient = by_rule("fa")
  return timing.compare(
    {
      "plain_backprop": updates(bp, plain),
      "bp": updates(bp, bp_gradient),
      "fa": updates(fa, fa_gradient),
    }
  ) | {"updates": _UPDATES, "target": "fa at most 1.1 of plain_backprop"}


def _throughput():
  """Compares updates per second of 32 seeds in one program with one seed's."""
  import jax

  from experiments import feedback_alignment
  from lilly import training

  def chunk(num_seeds):
    argv = [
      "bench",
      "--rules=fa",
      f"--num_seeds={num_seeds}",
      "--log_every=500",
    ]
    argv += ["--eval_every=500"]
    settings, options = training.parse(feedback_alignment.SCRIPT, argv)
    experiments = feedback_alignment.make_experiments(settings, options)
    program = training.compiled(experiments["fa"], options)
    state = program.init()

    def run():
      nonlocal state
      state, metrics = program.step_chunk(state)
      return jax.block_until_ready(metrics)

    return run

  found = timing.compare({"seeds_1": chunk(1), "seeds_32": chunk(_SEEDS)})
  medians = {name: row["median"] for name, row in found["seconds"].items()}
  ratio = _SEEDS * medians["seeds_1"] / medians["seeds_32"]
  return found | {"updates_per_second_ratio": ratio, "target": "at least 1.5"}


def _commands():
  """Compares one command of 32 seeds with 32 commands of one seed."""
  many = _command(_SEEDS, 0)
  ones = sorted(_command(1, seed) for seed in range(3))
  return {
    "seconds_32_seeds_in_one_command": many,
    "seconds_one_command_of_one_seed": ones,
    "ratio_to_32_commands": many / (_SEEDS * ones[1]),
    "target": "at most 0.05",
  }


def _command(num_seeds, seed):
  root = pathlib.Path(__file__).parents[2]
  with tempfile.TemporaryDirectory() as folder:
    command = [sys.executable, "-m", "experiments.feedback_alignment"]
    command += ["--rules=fa", f"--seed={seed}", f"--num_seeds={num_seeds}"]
    command += [f"--out_dir={folder}/run"]
    start = time.perf_counter()
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    return time.perf_counter() - start
