"""Tests of experiments/naf.py: it runs, it draws, it says no."""

import jax
import numpy as np
import pytest

from experiments import naf
from tests.running import final, parse, run


def test_imagination_in_a_fitted_model_runs_and_is_drawn(tmp_path):
  flags = ["--variants=linear_model_planner", "--goal_return=-1e6"]
  assert run(naf, tmp_path, *flags, "--precision_noise") == 0
  name = "pendulum"
  found = final(tmp_path, name)
  assert -200 < found["eval/return"] < 0
  # Scores are of whole episodes; these are of 10 steps.
  assert "eval/score" not in found
  for picture in ("curves.png", "imagined.png", f"{name}.gif"):
    assert (tmp_path / "run" / picture).stat().st_size > 3000
  assert (tmp_path / "run" / f"{name}_values.png").stat().st_size > 20_000


@pytest.mark.slow
def test_ddpg_learns_the_reacher_beside(tmp_path):
  flags = ["--tasks=reacher", "--variants=ddpg", "--episode_steps=20"]
  assert run(naf, tmp_path, *flags, "--batch_norm") == 0
  found = final(tmp_path, "reacher")
  assert 0 < found["eval/tremble"] < found["eval/distance"] < 0.5
  assert (tmp_path / "run" / "tremble.png").stat().st_size > 5000


def test_published_settings():
  options = parse(naf, "--preset=paper")
  wanted = {
    "hidden_sizes": ["200", "200"],
    "updates_per_step": 5,
    "imagined_steps": 10,
    "refit_every": 5,
    "learning_rate": 1e-3,
    "sigma": 0.3,
    "batch_norm": True,
    "imagined_sigma": 0.0,
    "discount": 0.99,
    "tau": 1e-3,
    "batch_size": 64,
    "capacity": 1_000_000,
    "reward_scale": 1.0,
  }
  assert {name: options.flags[name] for name in wanted} == wanted


def test_episodes_are_as_long_as_the_tasks_own():
  parse(naf)
  steps = {"pendulum": 200, "cartpole_swingup": 250, "reacher": 500}
  for task, horizon in steps.items():
    world = naf.make_world(task)
    assert (world.horizon, world.horizon % world.block) == (horizon, 0)
  assert naf.make_experiment("pendulum", "naf").steps_per_update == 1000


def test_a_fixed_start_is_the_same_for_all():
  flags = ["--tasks=pendulum", "--fixed_start"]
  parse(naf, *flags)
  for task in ("pendulum", "reacher_fixed"):
    world = naf.make_world(task)
    states = [world.limited.reset(jax.random.key(i))[1] for i in range(2)]
    np.testing.assert_array_equal(*states)


def test_the_variants_are_what_their_names_say():
  parse(naf, "--imagine_until=7")
  for name, chosen in naf.VARIANTS.items():
    assert (chosen.model != "") == bool(
      {"imagines", "plans"} & set(chosen.options)
    ), name
  world = naf.make_world("pendulum")
  assert naf.make_model(world, "") is None
  assert not naf.make_model(world, "true").needs_fit
  assert naf.make_model(world, "linear").is_local


@pytest.mark.slow
def test_planning_with_the_simulator_is_not_worse_than_no_learning(tmp_path):
  assert run(naf, tmp_path, "--variants=naf,ilqg") == 0
  planned, learnt = (
    final(tmp_path, f"pendulum_{name}")["eval/return"]
    for name in ("ilqg", "naf")
  )
  assert planned >= learnt


@pytest.mark.slow
def test_a_diverging_run_fails_alone(tmp_path, capsys):
  flags = ["--sweep=learning_rate=1e-3,1e38", "--max_bad_updates=3"]
  assert run(naf, tmp_path, "--variants=naf", *flags) == 3
  assert "its siblings finished" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("flags", "mention"),
  [
    (["--variants=sac"], "variants are naf, ddpg"),
    (["--tasks=pendelum"], "did you mean 'pendulum'"),
    (["--planner_share=2"], "at most 1"),
    (["--max_kl=0"], "give a positive number"),
    (["--ridge=nan"], "finite"),
    (["--capacity=3"], "keep at least a batch"),
    (["--batch_norm", "--batch_size=1"], "use 2 or more"),
    (
      ["--tasks=mountain_car", "--variants=linear_model"],
      "leave out mountain_car",
    ),
    (["--tasks=brax/ant", "--variants=true_model"], "physics engine"),
    (["--tasks=brax/ant", "--variants=ilqg"], "physics engine"),
    (["--tasks=reacher", "--variants=neural_model"], "--action_repeat=1"),
    (["--refit_every=0"], "refit_every"),
    (["--imagined_steps=0"], "imagined_steps"),
  ],
)
def test_bad_flags_are_one_sentence(tmp_path, capsys, flags, mention):
  assert run(naf, tmp_path, *flags) == 1
  err = capsys.readouterr().err
  assert err.startswith("error: ") and err.count("\n") == 1, err
  assert mention in err
