"""Tests of experiments/neural_bloom_filter.py: it runs, and says no."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags as absl_flags

from experiments import neural_bloom_filter as experiment
from lilly import training
from lilly.memory import bloom, learned_filters
from lilly.nets import filters, set_memories
from tests.running import final, parse, run


def test_filters_are_compared_and_drawn(tmp_path):
  flags = ["--variants=neural_bloom,bloom", "--rates=0.05", "--sizes=6"]
  assert run(experiment, tmp_path, *flags) == 0
  found, classical = (final(tmp_path, x) for x in ("neural_bloom", "bloom"))
  for row in (found, classical):
    assert row["eval/denied_at_0.05"] == row["eval/denied_at_0.05_of_6"] == 0
  expected = learned_filters.space(
    12, 4 * found["eval/missed_at_0.05"], fpr=0.05
  )
  assert abs(found["eval/bits_at_0.05"] - expected) < 1e-3
  assert abs(classical["eval/bits_at_0.05"] - bloom.space(4, 0.05)) < 1e-3
  assert classical["eval/missed_at_0.05"] == 1
  assert 0 <= found["eval/auc"] <= 1 and found["eval/auc"] != 0.5
  for picture in ("curves", "space", "roc", "neural_bloom_addresses"):
    assert (tmp_path / "run" / f"{picture}.png").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize(
  "flags",
  [
    ["--task=classes", f"--variants={','.join(experiment.VARIANTS)}"],
    ["--task=uniform", "--variants=neural_bloom", "--sparse_k=2", "--sphere"],
    ["--task=nonuniform", "--variants=neural_bloom", "--data=digits"],
    ["--task=ranges", "--variants=neural_bloom,bloom"],
    ["--data=generated", "--variants=neural_bloom", "--num_filters=1"],
  ],
)
def test_all_tasks_and_variants_run(tmp_path, flags):
  assert run(experiment, tmp_path, *flags) == 0
  names = flags[1].partition("=")[2].split(",")
  found = {name: final(tmp_path, name) for name in names}
  for row in found.values():
    assert row["eval/denied_at_0.01"] == 0
    assert np.isfinite(row["eval/bits_at_0.01"])
  aucs = [row["eval/auc"] for row in found.values() if "eval/auc" in row]
  assert len(set(aucs)) == len(aucs)


@pytest.mark.slow
def test_classes_are_learnt(tmp_path):
  flags = ["--variants=neural_bloom", "--num_updates=300", "--set_size=20"]
  flags += ["--log_every=100", "--eval_every=300", "--num_sets=8"]
  flags += ["--num_slots=8", "--hidden_size=32", "--encoding_size=32"]
  flags += ["--query_size=16", "--num_queries=32", "--num_strangers=100"]
  assert run(experiment, tmp_path, *flags, "--num_tests=8") == 0
  assert final(tmp_path, "neural_bloom")["eval/auc"] > 0.8


def test_a_backup_is_for_what_is_missed(monkeypatch):
  """By hand: what scores 0 and less is missed, and still found."""
  parse(experiment)
  members = jnp.arange(6.0)[:, None]
  strangers = 10 + jnp.arange(400.0)[:, None]
  episode = experiment.membership.Episode(members, strangers)
  # One is so little above that it counts as missed.
  of_members = (members[:, 0] - 2.5).at[3].set(5e-4)
  scores = of_members, jnp.where(strangers[:, 0] < 50, 1.0, -1.0)
  keys = jax.random.split(jax.random.key(0), 300)
  given = episode, scores, jnp.array(0.0), 0.2
  of_whole = lambda key: experiment.whole(key, *given)
  found = jax.jit(jax.vmap(of_whole))(jax.random.clone(keys))
  missed, denied, wrong = found
  assert (missed == 4).all() and not denied.any()
  # 40 of 400, and of the others the backup's, which has half of the rate.
  assert 0.1 + 0.9 * 0.08 < wrong.mean() < 0.1 + 0.9 * 0.13
  fill = lambda key: experiment.classical(key, episode, 0.2)
  count, denied, wrong = jax.jit(jax.vmap(fill))(keys)
  assert (count == 6).all() and not denied.any()
  assert 0.17 < wrong.mean() < 0.26


def uniform_scores(key, data, num_members, num_strangers):
  """Elements that are their own scores: from 0.5 to 1.5, and from 0 to 1."""
  keys = jax.random.split(key)
  return experiment.membership.Episode(
    0.5 + jax.random.uniform(keys[0], (num_members, 1)),
    jax.random.uniform(keys[1], (num_strangers, 1)),
  )


def its_own_score(sample, test):
  """A task, and a memory that learns two factors of an element's number."""
  memory = set_memories.SetMemory(
    init=lambda key, element: (dict.fromkeys("wr", jnp.array(1.0)), {}),
    write=lambda params, state, elements: params["w"] * jnp.ones(10),
    read=lambda params, state, memory, x: params["r"] * memory[0] * x[0],
    observe=lambda params, state, elements: {"seen": elements},
  )
  task = experiment.membership.Task((1,), sample, test, ())
  setting = experiment.Setting(task, memory)
  hyper = {"learning_rate": jnp.array(1e-3)}
  return setting, experiment.start(jax.random.key(0), hyper, setting)


def test_rates_are_kept_of_other_sets_than_the_threshold_is_from():
  parse(experiment, "--num_tests=50", "--num_strangers=400", "--rates=0.2,0.4")
  setting, state = its_own_score(None, uniform_scores)
  of_size = jax.jit(experiment.of_size, static_argnums=(2, 3))
  found = of_size(state, (), setting, 40)
  # A tenth of the strangers is above 0.9, and so are six in ten members.
  assert abs(found["missed_at_0.2"] - 0.4) < 0.05
  assert abs(found["found_at_0.2"] - 0.19) < 0.015
  expected = learned_filters.space(10, 40 * found["missed_at_0.2"], fpr=0.2)
  assert abs(found["bits_at_0.2"] - expected) < 0.01
  assert found["denied_at_0.2"] == 0
  # A fifth is above 0.8.
  assert abs(found["missed_at_0.4"] - 0.3) < 0.05
  assert abs(found["found_at_0.4"] - 0.36) < 0.02
  for name in ("auc", "auc_within"):
    assert abs(found[name] - 7 / 8) < 0.01
  classical = of_size(state, (), setting._replace(memory=None), 40)
  for rate in (0.2, 0.4):
    assert abs(classical[f"found_at_{rate}"] - rate) < 0.03
    assert abs(classical[f"bits_at_{rate}"] - bloom.space(40, rate)) < 0.01
    assert classical[f"missed_at_{rate}"] == 1


@pytest.mark.parametrize("num_queries", [4, 5])
def test_an_update_learns_from_what_is_asked(num_queries):
  parse(
    experiment,
    *(f"--num_queries={num_queries}", "--num_sets=3", "--set_size=7"),
  )
  asked = []

  def sample(key, data, num_members, num_strangers):
    asked.append((num_members, num_strangers))
    found = uniform_scores(key, data, num_members, num_strangers)
    return found._replace(strangers=-1 - found.strangers)

  setting, state = its_own_score(sample, None)
  after, metrics = experiment.update(state, (), setting)
  assert asked == [(7, 2)]
  assert metrics["accuracy"] == 1
  assert 0 < metrics["loss"] < np.log(2)
  # Through the read, and through the write.
  assert after.params["r"] > 1 and after.params["w"] > 1
  # Of sets that are all different.
  assert len(np.unique(after.state["seen"])) == 21


def test_flags_are_what_memories_are_made_of(monkeypatch):
  made = []
  monkeypatch.setattr(filters, "bloom", lambda *_, **given: made.append(given))
  flags = ["--num_slots=7", "--word_size=3", "--query_size=5", "--sparse_k=2"]
  flags += ["--sphere", "--sphere_decay=0.7", "--sphere_every=9"]
  for variant, more in (
    ("neural_bloom", []),
    ("summed", ["--read_scale=0.125"]),
    ("detached", []),
  ):
    parse(experiment, *flags, *more, "--set_size=16", "--hidden_size=11")
    experiment.make_setting(variant, None)
  sizes = {"num_slots": 7, "word_size": 3, "query_size": 5, "hidden_size": 11}
  rest = {"read": "addressed", "is_detached": False, "num_sparse": 2}
  rest |= {"sphering_decay": 0.7, "sphering_every": 9, "is_sphered": True}
  assert made[0] == sizes | rest | {"read_scale": 0.25}
  assert made[1] == made[0] | {"read_scale": 0.125, "read": "summed"}
  assert made[2] == made[0] | {"is_detached": True}


def test_steps_are_clipped_and_end_at_nothing():
  parse(experiment, "--num_updates=4", "--log_every=1", "--max_norm=0.5")
  optimiser = experiment.optimiser_of({"learning_rate": jnp.array(0.1)})
  state = optimiser.init(jnp.zeros(2))
  sizes = []
  for _ in range(5):
    updates, state = optimiser.update(jnp.array([300.0, 400.0]), state)
    sizes.append(float(jnp.abs(updates).max()))
  np.testing.assert_allclose(sizes[0], 0.1, rtol=1e-3)
  assert (np.diff(sizes) < 0).all() and sizes[4] < 1e-6
  moments = [x for x in jax.tree.leaves(state) if x.shape == (2,)]
  first = 0.5 * np.array([0.6, 0.8]) * (1 - 0.9**5)
  np.testing.assert_allclose(moments[0], first, rtol=1e-4)


def test_an_update_moves_moments_of_queries_only_if_they_are_sphered():
  for flag in ("--nosphere", "--sphere"):
    parse(experiment, flag, "--hidden_size=4")
    setting = experiment.make_setting(
      "neural_bloom", experiment.make_task(None)
    )
    hyper = {"learning_rate": jnp.array(1e-3)}
    state = experiment.start(jax.random.key(0), hyper, setting)
    update = jax.jit(lambda s, d: experiment.update(s, d, setting)[0])  # noqa: B023
    after = update(state, setting.task.data)
    is_moved = [
      bool((x != y).any())
      for x, y in zip(*map(jax.tree.leaves, (state, after)), strict=True)
      if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    ]
    assert any(is_moved)
    assert bool(after.state) == (flag == "--sphere")
    if after.state:
      assert after.state["count"] == 1
      old, new = (s.state["sphere"].projection for s in (state, after))
      assert (old != new).any()


@pytest.mark.parametrize(
  ("flags", "reason"),
  [
    (["--variants=other"], "names no memory; there are neural_bloom"),
    (["--variants=lstm,lstm"], "names a memory twice"),
    (["--rates=0.1,1"], "--rates=0.1,1 must be between 0 and 1"),
    (["--rates=x"], "--rates=x must be between"),
    (["--sizes=0"], "--sizes=0 must be positive"),
    (["--rates=0.1,0.10000001"], "and differ in six digits"),
    (["--rates=5e-324"], "must be between"),
    (["--sizes=5,20000000"], "must be positive integers, at most 10000000"),
    (["--max_norm=0"], "--max_norm must be positive"),
    (["--task=ranges", "--data=digits"], "elements of ranges are words only"),
    (["--read_scale=inf"], "read_scale is inf; it must be positive, and"),
    (["--read_scale=0"], "read_scale is 0.0; it must be positive"),
    (["--num_filters=2"], "--num_filters is for images"),
    (["--sparse_k=9"], "num_sparse is 9; it must be from 0 to 8"),
    (["--sphere", "--sphere_decay=2"], "sphering_decay is 2"),
    (["--task=uniform", "--universe=99"], "universe of 99 elements has no 4 "),
    (["--data=digits", "--set_size=40"], "smallest class has 28 images"),
  ],
)
def test_flags_that_do_not_fit(tmp_path, flags, reason):
  with pytest.raises(training.RunError, match=reason):
    experiment.make_experiments(
      parse(experiment, f"--out_dir={tmp_path}/run", *flags)
    )


def test_what_no_machine_holds_is_refused():
  with pytest.raises(absl_flags.Error, match="not an integer in the range"):
    parse(experiment, "--universe=1000000000000")


def test_presets_fit_their_tasks():
  for task in experiment.TASKS:
    for preset in ("cpu", "smoke"):
      given = parse(experiment, f"--preset={preset}", f"--task={task}")
      assert experiment.make_experiments(given)
