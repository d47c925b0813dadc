"""Tests of experiments/ddpg.py: it runs, it remembers rightly, it says no."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import ddpg
from lilly.envs import catalog, environment, wrappers
from lilly.replay import ring
from lilly.training import reproduction
from tests import haste, oracles
from tests.running import parse, run


def test_a_variant_of_a_task_runs_and_is_drawn(tmp_path):
  assert run(ddpg, tmp_path, "--variants=batch_norm_no_target") == 0
  folder = tmp_path / "run"
  summary = json.loads((folder / "summary.json").read_text())
  row = summary["variants"]["pendulum"]
  assert -2000 < row["points"][0]["final"]["eval/return"]["median"] < 0
  assert row["failed"] == [] and row["hyper"]["tau"] == 1.0
  for picture in ("pendulum.gif", "curves.png", "values.png"):
    assert (folder / picture).stat().st_size > 5000


def test_several_variants_have_names_of_their_own():
  flags = ["--tasks=pendulum,brax/ant:positional", "--variants=ddpg,batch_norm"]
  settings, _ = parse(ddpg, *flags)
  assert catalog.name_pairs(settings.tasks, settings.variants) == {
    "pendulum_ddpg": ("pendulum", "ddpg"),
    "pendulum_batch_norm": ("pendulum", "batch_norm"),
    "brax_ant_positional_ddpg": ("brax/ant:positional", "ddpg"),
    "brax_ant_positional_batch_norm": ("brax/ant:positional", "batch_norm"),
  }


def counting_environment(num_steps=5):
  """Observes its age, rewards with 1; ends by its time limit alone."""

  def reset(key):
    return jnp.zeros(()), jnp.zeros(1)

  def step(key, state, action):
    state = state + 1
    return state, environment.make_step(state[None], 1.0)

  box = environment.box([0.0], [10.0])
  action = environment.box([-1.0], [1.0])
  env = environment.Environment(reset, step, box, action)
  return wrappers.time_limit(env, num_steps)


def test_what_is_remembered():
  settings, _ = parse(ddpg, "--preset=smoke")
  experiment = ddpg.make_experiment(counting_environment(), settings)

  @jax.jit
  def train(key):
    state = experiment.init(key, experiment.hyper, ())

    def step(state, _):
      state, metrics = experiment.update(state, ())
      return state, (metrics["return"], state.stream.noise)

    return jax.lax.scan(step, state, None, length=12)

  state, (returns, noise) = train(jax.random.key(0))
  replay = ring.contents(state.replay)
  replay = jax.tree.map(lambda x: np.asarray(x)[:32], replay)
  assert int(state.replay.size) == 20 + 12
  # The true next observation, also where an episode ended.
  np.testing.assert_array_equal(
    replay.next_observation - replay.observation, 1.0
  )
  assert set(replay.observation.ravel()) == {0, 1, 2, 3, 4}
  # Time limits are bootstrapped.
  np.testing.assert_array_equal(replay.discount, 1.0)
  np.testing.assert_array_equal(replay.reward, 1.0)
  # Updates start at age 0, for 20 steps at random are whole episodes.
  np.testing.assert_array_equal(returns[:4], 0.0)
  np.testing.assert_array_equal(returns[4:], 5.0)
  # The key is the driver's, the same at every evaluation.
  key = jax.random.key(1)
  found = [experiment.evaluate(jax.random.clone(key), state, ()) for _ in "ab"]
  assert found == [{"return": 5.0}] * 2
  is_end = np.arange(1, 13) % 5 == 0
  np.testing.assert_array_equal(np.ravel(noise) == 0, is_end)
  assert np.abs(replay.action).max() <= 1


def test_ends_rewards_and_noisy_actions_are_remembered():
  flags = ["--preset=smoke", "--reward_scale=0.5", "--sigma=3", "--dt=0.25"]
  settings, _ = parse(ddpg, *flags)
  env = counting_environment(None)

  def step(key, state, action):
    state, step = env.step(key, state, action)
    return state, step._replace(discount=jnp.where(state % 4 == 0, 0.0, 1.0))

  experiment = ddpg.make_experiment(env._replace(step=step), settings)
  state = experiment.init(jax.random.key(0), experiment.hyper, ())
  state, _ = jax.jit(
    lambda state: jax.lax.scan(
      lambda s, _: experiment.update(s, ()), state, None, length=12
    )
  )(state)
  seen = jax.tree.map(lambda x: np.asarray(x)[:32], ring.contents(state.replay))
  np.testing.assert_array_equal(seen.reward, 0.5)
  np.testing.assert_array_equal(
    seen.discount, np.where(seen.next_observation[:, 0] % 4 == 0, 0.0, 1.0)
  )
  acted = np.abs(seen.action[20:])  # policies begin near 0: this is noise
  assert acted.max() == 1.0 and np.sum((acted > 0.2) & (acted < 1.0)) > 2


def trained(experiment, num_updates):
  """Maps a key to the state after some updates."""

  def train(key):
    hyper = jax.tree.map(jnp.float32, dict(experiment.hyper))
    state = experiment.init(key, hyper, ())

    def step(state, _):
      return experiment.update(state, ())

    return jax.lax.scan(step, state, None, length=num_updates)[0]

  return jax.jit(train)


def test_steps_that_the_clock_ended_can_be_left_out():
  flags = ["--preset=smoke", "--nokeep_truncated"]
  settings, _ = parse(ddpg, *flags)
  train = trained(ddpg.make_experiment(counting_environment(), settings), 12)
  replay = train(jax.random.key(0)).replay
  # Of 32 steps in episodes of 5 six ended one.
  assert int(replay.size) == 32 - 6
  seen = np.asarray(ring.contents(replay).next_observation)[:26, 0]
  np.testing.assert_array_equal(seen, np.tile([1, 2, 3, 4], 7)[:26])


@pytest.mark.slow
def test_seeds_together_learn_what_each_learns_alone():
  settings, _ = parse(ddpg, "--preset=smoke")
  env = ddpg.make_environment(settings, "pendulum")
  train = trained(ddpg.make_experiment(env, settings), 100)
  keys = jax.random.split(jax.random.key(0), 2)
  together = jax.jit(jax.vmap(train))(jax.random.clone(keys))
  for i, key in enumerate(jax.random.clone(keys)):
    alone = train(key)
    jax.tree.map(
      lambda x, y, i=i: np.testing.assert_allclose(
        x, y[i], rtol=1e-3, atol=1e-4
      ),
      alone.agent,
      together.agent,
    )


@pytest.mark.slow
def test_it_learns_from_pictures(tmp_path):
  flags = ["--pixels", "--image_size=8", "--num_starts=1", "--capacity=30"]
  assert run(ddpg, tmp_path, *flags) == 0
  assert (tmp_path / "run" / "pendulum.gif").stat().st_size > 5000
  with np.load(tmp_path / "run" / "pendulum" / "params.npz") as params:
    shapes = [x.shape for x in params.values()]
  # Of 3 x 3 pixels, three colours and three repeats.
  assert any(len(x) == 3 and x[1] == 9 * 9 for x in shapes)


@pytest.mark.parametrize(
  ("batch", "keep"),
  [
    ((2,), "nokeep_truncated"),
    pytest.param((), "keep_truncated", marks=pytest.mark.slow),
  ],
)
def test_replay_is_not_copied_at_every_step(batch, keep):
  flags = ["--preset=smoke", "--capacity=77", f"--{keep}"]
  settings, _ = parse(ddpg, *flags)
  env = ddpg.make_environment(settings, "pendulum")
  experiment = ddpg.make_experiment(env, settings)

  def train(state):
    step = experiment.update
    for _ in batch:
      step = jax.vmap(step, (0, None))
    return jax.lax.scan(lambda s, _: step(s, ()), state, None, length=3)

  def init():
    return experiment.init(jax.random.key(0), experiment.hyper, ())

  state = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((*batch, *x.shape), x.dtype),
    jax.eval_shape(init),
  )
  compiled = (
    jax.jit(train, donate_argnums=0).lower(state).compile(haste.AS_USED)
  )
  row = 3 + 1 + 1 + 1 + 3
  assert f"77,{row}]" in compiled.as_text()
  assert not oracles.copies_in_loops(compiled.as_text(), (*batch, 77, row))


def test_the_defaults_are_the_published_settings():
  """Their values are held by the table of resolved settings."""
  settings, _ = parse(ddpg, "--preset=paper")
  assert settings == ddpg.Settings()


def test_weights_decay_within_adam_and_biases_do_not():
  hyper = {"policy_rate": 0.1, "critic_rate": 0.2, "weight_decay": 0.5}
  params = {"w": jnp.array([[2.0]]), "b": jnp.array([2.0])}
  # Without a gradient, and with a large one: then Adam's step is its rate.
  wanted = {
    "policy": ((0, 0), (-0.1, -0.1)),
    "critic": ((-0.2, 0), (-0.2, -0.2)),
  }
  for optimiser, moves in zip(
    ddpg.optimisers(hyper), wanted.values(), strict=True
  ):
    for gradient, moved in zip((0.0, 9.0), moves, strict=True):
      grads = jax.tree.map(lambda x, g=gradient: jnp.full_like(x, g), params)
      updates, _ = optimiser.update(grads, optimiser.init(params), params)
      found = (updates["w"][0, 0], updates["b"][0])
      np.testing.assert_allclose(found, moved, rtol=1e-5)


@pytest.mark.parametrize(
  ("flags", "mention"),
  [
    (["--tasks=pendelum"], "did you mean 'pendulum'"),
    (["--tasks="], "must name at least one"),
    (["--tasks=pendulum,pendulum"], "twice"),
    (["--variants="], "must name at least one"),
    (["--variants=sac"], "no_target"),
    pytest.param(
      *(["--tasks=brax/elephant"], "elephant"),
      marks=[
        pytest.mark.slow,
        pytest.mark.filterwarnings("ignore:JAXopt is no longer maintained"),
      ],
    ),
    (["--capacity=3"], "capacity"),
    (["--hidden_sizes=64,x"], "hidden_sizes"),
    (["--hidden_sizes=0"], "hidden_sizes"),
    (["--reward_scale=0"], "leaves nothing to learn"),
    (["--hidden_sizes=8"], "hidden_sizes=8 must be 2 or more"),
    (["--variants=ddpg,ddpg"], "twice"),
    (["--batch_norm", "--variants=ddpg,batch_norm"], "--batch_norm"),
    (["--batch_norm", "--batch_size=1"], "use 2 or more"),
    (["--discount=1.5"], "discount"),
    (["--sigma=nan"], "finite"),
    (["--dt=0"], "must be above 0"),
    (["--theta=1", "--dt=2"], "less than 2"),
    (["--batch_size=0"], "batch_size"),
    (["--tau=-1"], "tau"),
  ],
)
def test_bad_flags_are_one_sentence(tmp_path, capsys, flags, mention):
  assert run(ddpg, tmp_path, *flags) == 1
  err = capsys.readouterr().err
  assert err.startswith("error: ") and err.count("\n") == 1, err
  assert mention in err


def test_settings_alone_make_an_experiment():
  env = wrappers.normalize_actions(catalog.make("pendulum"))
  settings = ddpg.Settings(hidden_sizes=(64, 64))
  experiment = ddpg.make_experiment(env, settings)
  assert experiment.hyper["tau"] == settings.tau
  state = jax.eval_shape(
    lambda key: experiment.init(key, experiment.hyper, ()), jax.random.key(0)
  )
  shapes = [x.shape for x in jax.tree.leaves(state.agent.policy.params)]
  assert (3, 64) in shapes and (64, 64) in shapes
  exported = experiment.export(state)
  assert set(exported) == {"policy", "critic"}
  # The published setting normalises, and acting needs the averages.
  assert jax.tree.leaves(exported["policy"].state)


def test_leaves_keep_their_types():
  settings, _ = parse(ddpg, "--preset=smoke")
  env = ddpg.make_environment(settings, "pendulum")
  experiment = ddpg.make_experiment(env, settings)
  hyper = {name: jnp.float32(x) for name, x in experiment.hyper.items()}
  init = lambda key: experiment.init(key, hyper, ())
  before = jax.eval_shape(init, jax.random.key(0))
  after, _ = jax.eval_shape(lambda x: experiment.update(x, ()), before)
  forms = [
    [(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(state)]
    for state in (before, after)
  ]
  assert forms[0] == forms[1]


@pytest.mark.parametrize(
  ("flags", "judged"),
  [
    (["--num_seeds=8"], {"pendulum/pendulum", "pendulum/q"}),
    (
      ["--tasks=reacher", "--num_updates=60000"],
      {"tasks/cartpole_swingup", "tasks/reacher"},
    ),
    (["--tau=0.5"], set()),
    (["--sigma=0.3"], set()),
    # Its only variant would have the name of the task, too.
    (["--variants=batch_norm"], set()),
    (["--preset=smoke"], set()),
  ],
)
def test_claims_are_about_whole_rows_of_settings(flags, judged):
  _, options = parse(ddpg, *flags)
  statements = reproduction.state(ddpg.SCRIPT, options.flags)
  assert len(statements) == 4
  assert {x.name for x in statements if x.reason is None} == judged


@pytest.mark.slow
def test_a_diverging_run_fails_alone_and_the_rest_is_evaluated(
  tmp_path, capsys
):
  flags = ["--sweep=critic_rate=1e-3,1e38", "--num_updates=20"]
  flags += ["--log_every=10", "--eval_every=20"]
  assert run(ddpg, tmp_path, *flags, "--max_bad_updates=3") == 3
  (failed,) = _failed(tmp_path, "summary.json")
  assert failed["critic_rate"] > 1e30
  assert "the other runs finished" in capsys.readouterr().err
  before = (tmp_path / "run" / "summary.json").read_text()
  # Evaluated again, nothing is trained and nothing that was written changes.
  assert run(ddpg, tmp_path, *flags, "--max_bad_updates=3", "--eval_only") == 3
  assert (tmp_path / "run" / "summary.json").read_text() == before
  returns = [
    [
      point["final"]["eval/return"]["median"]
      for point in _summary(tmp_path, name)["points"]
    ]
    for name in ("summary.json", "evaluation.json")
  ]
  assert returns[0] == returns[1] and np.isfinite(returns[0][0])
  assert _failed(tmp_path, "evaluation.json") == [failed]


def _summary(tmp_path, name):
  summary = json.loads((tmp_path / "run" / name).read_text())
  return summary["variants"]["pendulum"]


def _failed(tmp_path, name):
  return _summary(tmp_path, name)["failed"]
