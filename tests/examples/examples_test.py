"""Tests of the examples: they run, are short, and show what they say."""

import importlib.util
import json
import pathlib

import jax
import numpy as np
import pytest

from lilly import training

FOLDER = pathlib.Path(__file__).parents[2] / "examples"


def load(name):
  spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.mark.parametrize(
  "path", sorted(FOLDER.glob("*.py")), ids=lambda p: p.stem
)
def test_is_at_most_40_lines(path):
  assert len(path.read_text().splitlines()) <= 40


def test_a_feedback_alignment_layer_learns_digits():
  assert load("feedback_alignment_layer").main(num_updates=40) > 0.9


def test_a_sweep_by_vmap_holds_each_run_alone():
  import jax

  sweep = load("sweep_by_vmap")
  found = sweep.main(num_seeds=2, rates=(1e-3, 3e-3), num_updates=300)
  assert list(found) == [1e-3, 3e-3]
  key = jax.random.split(jax.random.key(0), 2)[1]
  alone = jax.jit(sweep.train, static_argnums=2)(key, 3e-3, 300)
  np.testing.assert_allclose(found[3e-3][1], alone, rtol=1e-4)
  assert max(found[3e-3]) < 0.5 < min(found[1e-3]) < 1.0


def test_an_own_experiment_learns_and_leaves_files(tmp_path, capsys):
  own = load("own_experiment")
  flags = [f"--out_dir={tmp_path}", "--sweep=rate=0.1,0", "--num_seeds=2"]
  with pytest.raises(SystemExit) as stopped:
    training.main(own.SCRIPT, argv=["own", *flags])
  assert stopped.value.code == 0
  assert "sgd rate=0.1" in capsys.readouterr().out
  summary = json.loads((tmp_path / "summary.json").read_text())
  learns, stays = summary["variants"]["sgd"]["points"]
  error = "eval/error"
  assert learns["final"][error]["median"] < stays["final"][error]["median"]
  assert summary["claims"][0]["verdict"] == "not applicable"


def test_a_sam_core_in_a_scan_of_ones_own_learns():
  first, last = load("sam_core_in_a_scan").main(num_segments=600)
  assert last < 0.8 * first


def test_an_agent_remembers_with_a_core_of_ones_own():
  cost = jax.jit(load("own_core").main)()
  assert cost < 0.02  # 0.008; 1/9 where the cue is forgotten


def test_ddpg_learns_an_environment_of_ones_own():
  flags = ["--num_updates=1500", "--log_every=1500", "--start_steps=500"]
  flags += ["--eval_every=1500", "--hidden_sizes=32,32", "--policy_rate=1e-3"]
  flags += ["--tau=1e-2", "--capacity=2000", "--num_starts=5"]
  own = load("own_environment")
  settings, options = training.parse(own.ddpg.SCRIPT, ["x", *flags])
  (returns,) = own.main(settings, options._replace(out_dir=None))
  assert returns[0] < 0 and returns[-1] > 25  # three seeds: 38 to 45


def test_a_learner_is_trained_in_a_loop_of_ones_own():
  main = jax.jit(load("own_training_loop").main, static_argnums=1)
  found = main(jax.random.key(0), 6000)
  assert found > -400  # three keys: -172 to -148; -1,208 at random


def test_a_boat_is_steered_across_a_river():
  costs, states = load("linear_quadratic_control").main()
  assert (np.diff(costs) < 0).all()
  assert costs[-1] < 0.2 * costs[0]  # 128 and 21
  np.testing.assert_allclose(states[-1, :2], [0.0, 4.0], atol=0.1)
  assert np.abs(states[:, 0]).max() > 0.02  # the current was felt


def test_a_kanerva_memory_knows_a_sine_from_a_few_points():
  errors = jax.jit(lambda: load("kanerva_regression").main(150))()
  assert errors.mean() < 0.1  # 0.67 of always 0


def test_a_memory_of_ones_own_energy_learns_to_write():
  wrong = jax.jit(lambda: load("own_energy").main(300))()
  assert wrong[:20].mean() > 6  # queries have 8
  assert wrong[-50:].mean() < 2  # 1.0


def test_scores_of_ones_own_make_a_filter_without_false_negatives():
  found = load("learned_filter").main(num_non_members=5000)
  assert found["false negatives"] == 0
  assert 0.012 < found["rate of false positives"] < 0.026
  # A quarter of a Bloom filter's; more if the scores were worse.
  assert 0.1 < found["bits"] / found["bits of a Bloom filter"] < 0.5


def test_workers_learn_to_walk_to_the_right():
  example = load("own_discrete_environment")
  assert jax.jit(example.main, static_argnums=1)(jax.random.key(0), 500) == 1
