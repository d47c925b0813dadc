"""Tests of experiments/recurrent_policy_gradients.py: it runs, and says no."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import recurrent_policy_gradients as experiment
from lilly.envs import catalog
from tests.running import final, parse, run

HYPER = {"actor_rate": 1e-3, "critic_rate": 1e-3, "tau": 1e-2}
HYPER |= {"discount": 0.99, "theta": 0.15, "sigma": 0.2}


def test_the_maze_is_searched_and_drawn(tmp_path):
  flags = ["--task=water_maze", "--variants=rsvg0", "--episode_steps=30"]
  assert run(experiment, tmp_path, *flags) == 0
  found = final(tmp_path, "rsvg0")
  assert 0 <= found["eval/missed"] <= 1
  for picture in ("curves", "paths", "searches"):
    assert (tmp_path / "run" / f"{picture}.png").stat().st_size > 5000
  assert (tmp_path / "run" / "rsvg0.gif").stat().st_size > 3000


@pytest.mark.slow
@pytest.mark.parametrize(
  "flags",
  [
    ["--variants=rdpg,rsvg0,feedforward,svg0,full_state"],
    ["--task=cue_recall", "--core=sam", "--variants=rdpg"],
    ["--pixels", "--core=gru", "--image_size=16"],
    ["--task=cartpole_hidden", "--variants=rdpg"],
  ],
)
def test_every_kind_runs(tmp_path, flags):
  assert run(experiment, tmp_path, *flags) == 0


def test_variants_differ_in_what_their_names_say():
  parse(experiment, "--episode_steps=3")
  kinds = {name: experiment.make_setting(name) for name in experiment.VARIANTS}
  states = {
    name: bool(jax.tree.leaves(kind.nets.actor.core.initial_state()))
    for name, kind in kinds.items()
  }
  assert states == {
    "rdpg": True,
    "rsvg0": True,
    "feedforward": False,
    "svg0": False,
    "full_state": False,
  }
  assert [n for n, k in kinds.items() if k.nets.is_stochastic] == [
    "rsvg0",
    "svg0",
  ]
  sizes = {n: k.env.observation_spec.shape for n, k in kinds.items()}
  assert sizes == dict.fromkeys(sizes, (2,)) | {"full_state": (3,)}


def test_acting_without_noise_is_what_an_update_sees():
  parse(experiment, "--episode_steps=5")
  setting = experiment.make_setting("rdpg")
  key_agent, key_play = jax.random.split(jax.random.key(0))
  spec = setting.env.observation_spec
  agent = experiment.learner.init(
    key_agent,
    setting.nets,
    jnp.zeros(spec.shape),
    *experiment.optimisers({"actor_rate": 1e-3, "critic_rate": 1e-3}),
  )
  actor = jax.tree.map(lambda x: 3 * x, agent.actor)
  _, seen, actions, _ = experiment.play(key_play, setting, actor)
  assert np.abs(actions).max() > 1e-3
  before = jnp.concatenate([jnp.zeros_like(actions[:1]), actions[:-1]])
  empty = setting.nets.actor.core.initial_state()
  _, features = experiment.learner.recall(
    setting.nets.actor, actor, (seen, before), empty
  )
  head = setting.nets.actor.head
  wanted = jnp.tanh(
    jax.vmap(lambda x: head.apply(actor["head"], x)[0])(features)
  )
  np.testing.assert_allclose(actions, wanted, atol=1e-5)


def test_new_episodes_have_noise_that_lasts():
  parse(experiment, "--episode_steps=100")
  setting = experiment.make_setting("feedforward")
  state = experiment.start(jax.random.key(0), HYPER, setting)
  agent = jax.tree.map(jnp.zeros_like, state.agent)  # whose action is 0
  still = HYPER | {"sigma": 0.0}
  found, silent = (
    experiment.collect(jax.random.key(1), setting, agent, hyper, 8).action
    for hyper in (HYPER, still)
  )
  assert not silent.any()
  now, later = np.asarray(found)[:, :-1].ravel(), np.asarray(found)[:, 1:]
  # An Ornstein-Uhlenbeck process of theta 0.15: 0.85 from step to step.
  assert 0.7 < np.corrcoef(now, later.ravel())[0, 1] < 0.95
  assert len(np.unique(found[:, 50])) == 8


def test_a_round_is_learnt_from_as_the_flags_say():
  parse(experiment, "--preset=smoke", "--episode_steps=6")
  setting = experiment.make_setting("feedforward")
  state = experiment.start(jax.random.key(0), HYPER, setting)
  # Nothing is 0: all that is learnt from has its part.
  agent = jax.tree.map(lambda x: x + 0.3, state.agent)
  update = jax.jit(lambda state: experiment.update(state, setting)[0])

  def learnt(**given):
    hyper = jax.tree.map(jnp.float32, HYPER | given)
    key = jax.random.key(1)
    return update(state._replace(agent=agent, hyper=hyper, key=key))

  base = learnt()
  assert base.replay.size == state.replay.size + 2  # --num_episodes
  others = {"actor_rate": 0.1, "critic_rate": 0.1, "tau": 0.5}
  others |= {"discount": 0.5, "theta": 1.0, "sigma": 1.0}
  assert set(others) == set(HYPER)
  for name, value in others.items():
    changed = learnt(**{name: value})
    same = jax.tree.map(np.array_equal, base.agent, changed.agent)
    assert not all(jax.tree.leaves(same)), name


@pytest.mark.slow
@pytest.mark.parametrize(
  "flag",
  [
    *("reward_scale=3", "max_norm=1e-3", "squash_penalty=1"),
    *("num_samples=2", "least_scale=1"),
  ],
)
def test_flags_reach_an_update(flag):
  agents = []
  for flags in ([], [f"--{flag}"]):
    parse(experiment, "--preset=smoke", *flags)
    setting = experiment.make_setting("svg0")
    state = experiment.start(jax.random.key(0), HYPER, setting)
    state, _ = jax.jit(lambda x, s=setting: experiment.update(x, s))(state)
    agents.append(state.agent)
  same = jax.tree.map(np.array_equal, *agents)
  assert not all(jax.tree.leaves(same))


def test_every_task_of_hidden_state_has_a_length():
  parse(experiment)
  assert set(catalog.partially_observed()) <= set(experiment._STEPS)


@pytest.mark.parametrize(
  ("flags", "mention"),
  [
    (["--variants=ddpg"], "there are rdpg, rsvg0"),
    (["--variants=rdpg,rdpg"], "name it once"),
    (["--task=pendelum"], "did you mean 'pendulum"),
    (["--task=water_maze", "--variants=full_state"], "leave out full_state"),
    (["--task=cue_recall", "--pixels"], "show what is to be remembered"),
    (["--capacity=1"], "keep as many"),
    (["--sigma=nan"], "finite"),
    (["--discount=1.5"], "discount"),
    (["--least_scale=nan"], "finite"),
    (["--pixels", "--variants=full_state"], "leave out --pixels"),
    (["--task=water_maze", "--action_repeat=2"], "leave it out"),
    (["--max_norm=0"], "must be positive"),
    (["--core=sam", "--num_heads=0"], "num_heads"),
  ],
)
def test_bad_flags_are_one_sentence(tmp_path, capsys, flags, mention):
  assert run(experiment, tmp_path, *flags) == 1
  error = capsys.readouterr().err
  assert mention in error
  assert "Traceback" not in error
