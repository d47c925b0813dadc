"""Tests of experiments/asynchronous_rl.py: it runs, and refuses."""

import jax
import numpy as np
import pytest

from experiments import asynchronous_rl
from lilly import training
from tests.running import final, parse, run


def test_variants_and_numbers_of_workers_run_and_are_drawn(tmp_path):
  flags = ["--variants=a3c,async_sarsa", "--num_workers=1,2"]
  assert run(asynchronous_rl, tmp_path, *flags) == 0
  names = {
    "catch_a3c_1",
    "catch_a3c_2",
    "catch_async_sarsa_1",
    "catch_async_sarsa_2",
  }
  for name in names:
    assert -1 <= final(tmp_path, name)["eval/return"] <= 1
  assert (tmp_path / "run" / "curves.png").stat().st_size > 5000


def test_names_leave_out_what_is_alone():
  settings, _ = parse(asynchronous_rl, "--num_workers=1,4")
  assert asynchronous_rl.name_variants(settings) == {
    "catch_1": ("catch", "a3c", 1),
    "catch_4": ("catch", "a3c", 4),
  }
  settings, _ = parse(
    asynchronous_rl, "--tasks=brax/ant:spring", "--variants=a3c,a2c"
  )
  assert list(asynchronous_rl.name_variants(settings)) == [
    "brax_ant_spring_a3c",
    "brax_ant_spring_a2c",
  ]


def test_an_update_has_the_same_frames_with_any_number_of_workers():
  settings, options = parse(
    asynchronous_rl, "--preset=smoke", "--num_workers=1,2,4"
  )
  experiments = asynchronous_rl.make_experiments(settings, options)
  for each in experiments.values():
    assert each.steps_per_update == settings.frames_per_update == 20
    state, _ = jax.eval_shape(
      lambda key, each=each: each.update(each.init(key, each.hyper, ()), ()),
      jax.random.key(0),
    )
    assert state.state.shared.frames.shape == ()

  for each in experiments.values():

    @jax.jit
    def count_frames(key, each=each):
      run = each.init(key, each.hyper, ())
      return each.update(run, ())[0].state.shared.frames

    assert count_frames(jax.random.key(0)) == 20


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--num_workers=3"], "--frames_per_update=20 must be a multiple of 15"),
    (["--segment_length=7"], "a multiple of 14"),
    (["--core=nothing"], "--core=nothing is no recurrent core"),
    (["--reward_scale=0"], "--reward_scale=0"),
    (["--tasks=nowhere"], "--tasks=nowhere"),
    (
      ["--tasks=pendulum", "--variants=async_q"],
      "--variants=async_q needs discrete actions",
    ),
  ],
)
def test_what_cannot_be_is_refused(tmp_path, capsys, flags, message):
  assert run(asynchronous_rl, tmp_path, *flags) == 1
  assert message in capsys.readouterr().err


def test_the_rate_is_annealed_to_zero_over_the_run():
  """After the last update a push changes nothing."""
  settings, _ = parse(asynchronous_rl, "--preset=smoke", "--num_workers=2")
  assert settings.anneal_rate
  experiment = asynchronous_rl.make_experiment(
    asynchronous_rl.make_environment(settings, "catch"),
    settings,
    num_workers=2,
    num_updates=1,
  )

  @jax.jit
  def two_updates(key):
    first, _ = experiment.update(experiment.init(key, experiment.hyper, ()), ())
    second, _ = experiment.update(first, ())
    return first.state.shared.params, second.state.shared.params

  first, second = two_updates(jax.random.key(0))
  for x, y in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
    np.testing.assert_array_equal(x, y)


def test_a_core_with_a_memory_learns_continuous_actions():
  settings, options = parse(
    asynchronous_rl,
    "--preset=smoke",
    "--tasks=cue_recall",
    "--core=lstm",
    "--encoder_sizes=4",
  )
  (experiment,) = asynchronous_rl.make_experiments(settings, options).values()
  state, metrics = jax.eval_shape(
    lambda key: experiment.update(
      experiment.init(key, experiment.hyper, ()), ()
    ),
    jax.random.key(0),
  )
  assert set(metrics) == {"loss", "return"}
  assert {"encoder", "core"} == set(state.state.shared.params.policy)


def test_parameters_alone_are_exported():
  settings, options = parse(asynchronous_rl, "--preset=smoke")
  (experiment,) = asynchronous_rl.make_experiments(settings, options).values()
  state = jax.eval_shape(
    lambda key: experiment.init(key, experiment.hyper, ()), jax.random.key(0)
  )
  exported = jax.eval_shape(experiment.export, state)
  sizes = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(exported))
  assert sizes == 50 * 8 + 8 + 8 * 4 + 4
  assert isinstance(experiment, training.Experiment)
