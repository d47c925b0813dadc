"""What every script exports is a part of its state, unchanged."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np

from lilly import training
from lilly.training import driver
from tests.experiments.contract_test import EVERY, SMOKE, load

# Fields of a state that no one acts or predicts with.
NOT_EXPORTED = ("replay", "stream", "environment", "opt_state", "optimiser")


def state_of(experiment):
  """The shapes of a state of one run."""
  hyper = {k: np.float32(v) for k, v in experiment.hyper.items()}
  data = jax.tree.map(jnp.asarray, experiment.data)
  return jax.eval_shape(experiment.init, jax.random.key(0), hyper, data)


@EVERY
def test_what_is_exported_is_a_part_of_the_state(name):
  """Each exported leaf is a leaf of the state: equal values, no computation."""
  one = load(name)
  experiments = one.make_experiments(*training.parse(one, [name, *SMOKE]))
  exported = 0
  for variant, each in experiments.items():
    if isinstance(each, training.Program):
      continue
    export = each.export or driver._parameters
    state = state_of(each)
    program = jax.make_jaxpr(export)(state).jaxpr
    names = dict(
      zip(
        program.invars,
        [jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(state)],
        strict=True,
      )
    )
    exported += len(program.outvars)
    for leaf in program.outvars:
      assert leaf in names, (variant, "is computed, not a leaf", leaf)
      found = [word for word in NOT_EXPORTED if word in names[leaf]]
      assert not found, (variant, names[leaf])
  assert exported  # of some variants there is nothing to learn


def test_the_whole_state_would_be_found():
  """An agent without `export` would write its replay."""
  ddpg = importlib.import_module("experiments.ddpg").SCRIPT
  experiments = ddpg.make_experiments(*training.parse(ddpg, ["ddpg", *SMOKE]))
  state = state_of(next(iter(experiments.values())))
  leaves = jax.tree.leaves_with_path(driver._parameters(state))
  found = [jax.tree_util.keystr(path) for path, _ in leaves]
  assert any("replay" in path for path in found)
