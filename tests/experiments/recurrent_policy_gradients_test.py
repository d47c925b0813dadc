"""Tests of experiments/recurrent_policy_gradients.py: it runs, and says no."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import recurrent_policy_gradients as experiment
from lilly import training
from lilly.envs import catalog
from lilly.learners import recurrent_dpg
from lilly.nets import cores, recurrent_actor_critic
from lilly.training import claims, reproduction, script
from tests.running import final, parse, run

VARIANTS = ("rdpg", "rsvg0", "feedforward", "svg0", "full_state")


def test_the_maze_is_searched_and_drawn(tmp_path):
  flags = ["--task=water_maze", "--variants=rsvg0", "--episode_steps=30"]
  assert run(experiment, tmp_path, *flags) == 0
  found = final(tmp_path, "rsvg0")
  assert 0 <= found["eval/missed"] <= 1
  for picture in ("curves", "paths", "searches"):
    assert (tmp_path / "run" / f"{picture}.png").stat().st_size > 5000
  assert (tmp_path / "run" / "rsvg0.gif").stat().st_size > 3000
  with np.load(tmp_path / "run" / "rsvg0" / "params.npz") as params:
    assert {name.split("'")[1] for name in params} == {"actor", "critic"}


@pytest.mark.slow
@pytest.mark.parametrize(
  "flags",
  [
    ["--variants=rdpg,rsvg0,feedforward,svg0,full_state"],
    ["--task=cue_recall", "--core=sam", "--variants=rdpg"],
    ["--task=pendulum", "--pixels", "--core=gru", "--image_size=16"],
    ["--task=cartpole_hidden", "--variants=rdpg"],
  ],
)
def test_every_kind_runs(tmp_path, flags):
  assert run(experiment, tmp_path, *flags) == 0


def test_variants_differ_in_what_their_names_say():
  settings, _ = parse(experiment, "--episode_steps=3")
  envs = {v: experiment.make_environment(settings, v) for v in VARIANTS}
  nets = {v: experiment.make_networks(settings, envs[v], v) for v in VARIANTS}
  for variant, each in nets.items():
    is_recurrent = variant in ("rdpg", "rsvg0")
    state = each.actor.core.initial_state()
    assert bool(jax.tree.leaves(state)) == is_recurrent
    assert each.uses_previous_action == is_recurrent
    assert each.is_stochastic == (variant in ("rsvg0", "svg0"))
  sizes = {v: env.observation_spec.shape for v, env in envs.items()}
  assert sizes == dict.fromkeys(sizes, (2,)) | {"full_state": (3,)}


@pytest.mark.parametrize("core", list(cores.CORES))
def test_every_core_has_the_sizes_of_the_flags(core):
  flags = ["--hidden_size=6", "--num_slots=12", "--word_size=5"]
  settings, _ = parse(experiment, f"--core={core}", *flags, "--num_heads=3")
  env = experiment.make_environment(settings, "rdpg")
  nets = experiment.make_networks(settings, env, "rdpg")
  state = jax.eval_shape(nets.actor.core.initial_state)
  sizes = {x.shape for x in jax.tree.leaves(state)}
  assert (6,) in sizes
  if core in cores.MEMORIES:
    assert state.reads.shape[-1] == 5 and state.reads.shape[0] % 3 == 0
    assert any(12 in shape for shape in sizes)


def test_settings_reach_the_learner(monkeypatch):
  flags = {
    "updates_per_round": 3,
    "num_episodes": 5,
    "batch_size": 7,
    "start_episodes": 11,
    "capacity": 13,
    "episode_steps": 17,
    "num_samples": 19,
    "num_starts": 23,
    "reward_scale": 0.5,
    "squash_penalty": 0.25,
    "max_norm": 0.125,
  }
  settings, _ = parse(experiment, *[f"--{k}={v}" for k, v in flags.items()])
  given = {}

  def stand_in(name, result):
    def call(*args, **options):
      given[name] = args, options
      return result

    # Of the module itself: from a lazy one it would not come back.
    monkeypatch.setattr(recurrent_dpg, name, call)

  stand_in("start", None)
  stand_in("update_round", None)
  one = experiment.make_experiment(settings)
  one.init(None, one.hyper, ())
  one.update(None, ())
  (_, hyper, _, _, optimisers), options = given["start"]
  assert options == {"num_steps": 17, "start_episodes": 11, "capacity": 13}
  assert given["update_round"][1] == {
    "num_steps": 17,
    "num_episodes": 5,
    "num_updates": 3,
    "batch_size": 7,
    "reward_scale": 0.5,
    "num_samples": 19,
    "squash_penalty": 0.25,
  }
  # Adam's first moment is a tenth of the clipped gradient.
  for optimiser, name in zip(
    optimisers(hyper), ("actor_rate", "critic_rate"), strict=True
  ):
    zeros = jnp.zeros(4)
    step, state = optimiser.update(zeros + 8.0, optimiser.init(zeros), zeros)
    moment = state.inner[1][0].mu
    np.testing.assert_allclose(np.linalg.norm(moment), 0.0125, rtol=1e-5)
    np.testing.assert_allclose(step, -hyper[name], rtol=1e-4)


def test_an_evaluation_is_the_same_when_it_is_made_again():
  flags = ["--variants=feedforward", "--episode_steps=30", "--num_starts=3"]
  settings, _ = parse(experiment, "--preset=smoke", "--task=water_maze", *flags)
  env = experiment.make_environment(settings, "feedforward")
  nets = experiment.make_networks(settings, env, "feedforward")
  actor = recurrent_actor_critic.init(
    jax.random.key(0), nets.actor, (jnp.zeros(3), jnp.zeros(2))
  )
  agent = recurrent_dpg.State(actor, *[None] * 5)
  state = recurrent_dpg.Run(agent, None, None, None)
  one = experiment.make_experiment(settings, "feedforward")
  evaluate = jax.jit(lambda key: one.evaluate(key, state, ()))
  first, again = (evaluate(jax.random.key(1)) for _ in range(2))
  assert set(first) == {"return", "missed", "once", "first", "later"}
  jax.tree.map(np.testing.assert_array_equal, first, again)
  # The mean return of greedy episodes from these starts.
  play = jax.jit(
    lambda key: recurrent_dpg.play(key, env, nets, actor, num_steps=30)
  )
  keys = jax.random.split(jax.random.key(1), 3)
  totals = [play(key)[-1].reward.sum() for key in keys]
  np.testing.assert_allclose(first["return"], np.mean(totals), rtol=1e-5)


def test_every_task_of_hidden_state_has_a_length():
  assert set(catalog.partially_observed()) <= set(experiment.NUM_STEPS)
  for task, num_steps in experiment.NUM_STEPS.items():
    settings, _ = parse(experiment, f"--task={task}")
    assert experiment.episode_length(settings) == num_steps
  settings, _ = parse(experiment, "--task=reacher")
  assert experiment.episode_length(settings) == 200
  settings, _ = parse(experiment, "--episode_steps=3")
  assert experiment.episode_length(settings) == 3


@pytest.mark.parametrize("name", experiment.REPRODUCTIONS)
@pytest.mark.parametrize("preset", ["cpu", "gpu"])
def test_claims_are_of_their_command_in_every_setting(name, preset):
  one, each = experiment.SCRIPT, experiment.REPRODUCTIONS[name]
  given = reproduction.parse_command(one, each.command)
  rows = {x: script.resolve(one, x, given) for x in ("cpu", "gpu")}

  def applicable(**changed):
    statements = reproduction.state(one, rows[preset] | changed)
    return {x.name for x in statements if x.reason is None}

  own = {f"{name}/{claim.name}" for claim in each.claims}
  assert applicable() == own
  assert applicable(variants=("rdpg",), seed=5, num_seeds=9) == own
  # Of an evaluation alone, and yet results are others.
  assert not applicable(num_starts=1)
  assert not applicable(num_slots=5)
  assert not applicable(eval_every=5)
  assert not applicable(theta=0.3)
  assert not applicable(sweep=("tau=0.1",))
  if name == "maze":  # one of the other preset's values is not enough
    other = rows["gpu" if preset == "cpu" else "cpu"]
    assert not applicable(num_updates=other["num_updates"])
    assert not applicable(hidden_size=other["hidden_size"])


def test_one_evaluation_episode_makes_no_claim_applicable():
  _, options = parse(
    experiment,
    "--variants=rdpg,feedforward,full_state",
    "--num_seeds=8",
    "--num_starts=1",
  )
  statements = reproduction.state(experiment.SCRIPT, options.flags)
  assert len(statements) == 8
  assert all(statement.reason is not None for statement in statements)
  assert "num_starts=1 in place of 50" in statements[0].reason


def test_claims_measure_what_they_say():
  def results(**values):
    metrics = {}
    for name, value in values.items():
      variant, _, metric = name.rpartition("_")
      metrics.setdefault(variant, {})[f"eval/{metric}"] = (
        np.array([1]),
        np.array(value, float)[:, None],
      )
    return training.Results(
      summary={"variants": {name: {"failed": []} for name in metrics}},
      states={},
      metrics=metrics,
      runs={name: ({"seed": 0}, {"seed": 1}) for name in metrics},
      options=None,
    )

  measures = {
    f"{name}/{claim.name}": claim.measure
    for name, each in experiment.REPRODUCTIONS.items()
    for claim in each.claims
  }
  found = results(
    rdpg_return=[-150, -160],
    rsvg0_return=[-0.5, -0.25],
    feedforward_return=[-500, -600],
    full_state_return=[-140, -150],
    rdpg_first=[9.0, 8.0],
    rdpg_later=[3.0, 1.0],
  )
  wanted = {
    "pendulum/rdpg": [-150, -160],
    "pendulum/gap": [350, 440],
    "pendulum/full-state": [-140, -150],
    "cue/cue-rdpg": [150, 160],
    "cue/cue-rsvg0": [0.5, 0.25],
    "cue/cue-feedforward": [500 - 1 / 3, 600 - 1 / 3],
    "maze/maze": [3.0],  # of the seed with the higher return
    "maze/maze-gap": [0.3, 160 / 600],
  }
  assert set(measures) == set(wanted)
  for name, measure in measures.items():
    np.testing.assert_allclose(measure(found), wanted[name], err_msg=name)
  with pytest.raises(claims.NotApplicable):
    measures["cue/cue-rsvg0"](results(rdpg_return=[0, 0]))


def test_a_simulator_that_is_not_installed_is_one_sentence(monkeypatch):
  def make(*args, **options):
    raise ImportError("install brax.")

  monkeypatch.setattr(catalog, "make_normalized", make)
  settings, _ = parse(experiment, "--task=brax/ant")
  with pytest.raises(training.RunError, match="--task=brax/ant: install brax"):
    experiment.make_environment(settings, "rdpg")


@pytest.mark.parametrize(
  ("flags", "mention"),
  [
    (["--variants=ddpg"], "each item must be one of rdpg, rsvg0"),
    (["--variants=rdpg,rdpg"], "name it once"),
    (["--core=elman"], "give one of lstm, gru, ntm"),
    (["--task=pendelum"], "--task=pendelum: name is 'pendelum'; did you"),
    (["--task=water_maze", "--variants=full_state"], "leave out full_state"),
    (["--task=cue_recall", "--pixels"], "what the observation hides"),
    (["--task=cue_recall", "--episode_steps=1"], "num_steps is 1"),
    (["--capacity=1"], "keep as many"),
    (["--sigma=nan"], "finite"),
    (["--reward_scale=0"], "nothing to learn"),
    (["--discount=1.5"], "discount"),
    (["--theta=2"], "theta"),
    (["--least_scale=nan"], "finite"),
    (["--pixels", "--variants=full_state"], "leave out --pixels"),
    (["--task=water_maze", "--action_repeat=2"], "leave it out"),
    (["--max_norm=0"], "must be above 0"),
    (["--core=sam", "--num_heads=0"], "num_heads"),
  ],
)
def test_bad_flags_are_one_sentence(tmp_path, capsys, flags, mention):
  assert run(experiment, tmp_path, *flags) == 1
  said = capsys.readouterr().err.strip().splitlines()
  assert len(said) == 1 and mention in said[0]
