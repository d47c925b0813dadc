"""Tests of experiments/naf.py: it runs, it draws, it says no."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import naf
from lilly.learners import imagination
from lilly.training import reproduction
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
  assert 0 < found["eval/jitter"] < found["eval/distance"] < 0.5
  assert (tmp_path / "run" / "jitter.png").stat().st_size > 5000


def test_the_defaults_are_the_published_settings():
  """Their values are held by the table of resolved settings."""
  settings, _ = parse(naf, "--preset=paper")
  assert settings == naf.Settings()


def test_episodes_are_as_long_as_the_tasks_own():
  settings, _ = parse(naf)
  steps = {"pendulum": 200, "cartpole_swingup": 250, "reacher": 500}
  for task, horizon in steps.items():
    world = naf.make_world(settings, task)
    assert (world.horizon, world.horizon % world.block) == (horizon, 0)
  experiment = naf.make_experiment(settings, "pendulum", "naf")
  assert experiment.steps_per_update == 1000


def test_a_fixed_start_is_the_same_for_all():
  flags = ["--tasks=pendulum", "--fixed_start"]
  settings, _ = parse(naf, *flags)
  for task in ("pendulum", "reacher_fixed"):
    world = naf.make_world(settings, task)
    states = [world.limited.reset(jax.random.key(i))[1] for i in range(2)]
    np.testing.assert_array_equal(*states)


@pytest.mark.parametrize(
  ("variant", "agent", "model", "uses"),
  [
    ("naf", "naf", None, set()),
    ("ddpg", "ddpg", None, set()),
    ("more_updates", "naf", None, {"more_updates"}),
    ("true_model", "naf", "true", {"imagines"}),
    ("linear_model", "naf", "linear", {"imagines"}),
    ("neural_model", "naf", "neural", {"imagines"}),
    ("planner", "naf", "linear", {"plans"}),
    ("linear_model_planner", "naf", "linear", {"imagines", "plans"}),
  ],
)
def test_the_variants_are_what_their_names_say(variant, agent, model, uses):
  settings, _ = parse(naf, "--imagine_until=7", "--max_kl=3", "--dt=0.5")
  world = naf.make_world(settings, "pendulum")
  found = naf.make_model(settings, world, variant)
  kinds = {
    None: found is None,
    "true": found is not None and not found.needs_fit,
    "linear": found is not None and found.is_local,
    "neural": found is not None and found.needs_fit and not found.is_local,
  }
  assert kinds[model] and sum(kinds.values()) == 1
  constants = naf.make_constants(settings, variant)
  given = constants.imagine_until, constants.max_kl, constants.dt
  assert given == (7, 3.0, 0.5)
  flags = ("imagines", "plans", "more_updates")
  assert {name for name in flags if getattr(constants, name)} == uses
  state = jax.eval_shape(
    lambda key: naf.make_agent(settings, world, variant).init(
      key, jnp.zeros((2, 3)), naf.Settings()._asdict()
    ),
    jax.random.key(0),
  )
  assert hasattr(state, "target_policy") == (agent == "ddpg")


def test_every_constant_of_the_algorithm_has_a_setting():
  chosen = {"imagines", "plans", "more_updates"}
  names = set(imagination.Constants._fields)
  assert names - chosen <= set(naf.Settings._fields)
  # Where the paper gives a number, both have it.
  for name in names - chosen:
    default = imagination.Constants._field_defaults[name]
    assert getattr(naf.Settings(), name) == default, name


@pytest.mark.parametrize(
  ("flags", "judged"),
  [
    (
      ["--variants=naf,ddpg"],
      {"pendulum/pendulum", "pendulum/value-median", "pendulum/value-max"},
    ),
    (
      [
        "--variants=naf,more_updates,true_model",
        "--refit_every=1",
        "--num_updates=15",
        "--goal_return=-500",
      ],
      {"imagination/imagination"},
    ),
    (
      [
        "--tasks=reacher",
        "--variants=naf,ddpg",
        "--num_updates=24",
        "--eval_every=4",
      ],
      {"reacher/distance", "reacher/jitter"},
    ),
    (["--variants=naf,ddpg", "--imagined_sigma=0.2"], set()),
    (["--variants=naf,ddpg", "--tau=1e-3"], set()),
    (["--preset=smoke", "--variants=naf,ddpg"], set()),
  ],
)
def test_claims_are_about_whole_rows_of_settings(flags, judged):
  _, options = parse(naf, *flags)
  statements = reproduction.state(naf.SCRIPT, options.flags)
  assert len(statements) == 6
  assert {x.name for x in statements if x.reason is None} == judged


@pytest.mark.parametrize("variant", ["ddpg", "linear_model_planner"])
def test_leaves_keep_their_types(variant):
  settings, _ = parse(naf, "--preset=smoke", "--goal_return=-100")
  experiment = naf.make_experiment(settings, "pendulum", variant)
  hyper = {name: jnp.float32(x) for name, x in experiment.hyper.items()}
  init = lambda key: experiment.init(key, hyper, ())
  before = jax.eval_shape(init, jax.random.key(0))
  after, _ = jax.eval_shape(lambda x: experiment.update(x, ()), before)
  forms = [
    [(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(state)]
    for state in (before, after)
  ]
  assert forms[0] == forms[1]


def test_an_evaluation_is_the_same_at_every_time():
  settings, _ = parse(naf, "--preset=smoke", "--episode_steps=4")
  experiment = naf.make_experiment(settings, "reacher", "naf")

  @jax.jit
  def evaluate_twice(key, test_key):
    state = experiment.init(key, experiment.hyper, ())
    again = jax.random.clone(test_key)
    return [experiment.evaluate(x, state, ()) for x in (test_key, again)]

  first, second = evaluate_twice(jax.random.key(0), jax.random.key(1))
  assert first == second and 0 <= first["jitter"] < first["distance"]
  assert set(first) >= {"return", "value_median", "value_max"}


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
  assert "the other runs finished" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("flags", "mention"),
  [
    (["--variants=sac"], "must be one of naf, ddpg"),
    (["--tasks=pendelum"], "did you mean 'pendulum'"),
    (["--planner_share=2"], "at most 1"),
    (["--max_kl=0"], "must be above 0"),
    (["--reward_scale=0"], "leaves nothing to learn"),
    (["--theta=1", "--dt=2"], "less than 2"),
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
