"""Tests of experiments/neural_bloom_filter.py: it runs, and says no."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags as absl_flags

from experiments import neural_bloom_filter as experiment
from lilly import training
from lilly.memory import bloom, learned_filters
from lilly.nets import filters
from lilly.training import reproduction, script
from tests.running import final, parse, run

VARIANTS = (
  "neural_bloom",
  "summed",
  "detached",
  "lstm",
  "dnc",
  "memory_network",
  "bloom",
)


def smoke(*flags):
  return parse(experiment, "--preset=smoke", *flags)[0]


def test_filters_are_compared_and_drawn(tmp_path):
  flags = ["--variants=neural_bloom,bloom", "--rates=0.05", "--sizes=6"]
  assert run(experiment, tmp_path, *flags) == 0
  found, classical = (final(tmp_path, x) for x in ("neural_bloom", "bloom"))
  for row in (found, classical):
    assert row["eval/false_negatives_at_0.05"] == 0
    assert row["eval/false_negatives_at_0.05_of_6"] == 0
  expected = learned_filters.space(
    12, 4 * found["eval/missed_at_0.05"], fpr=0.05
  )
  assert abs(found["eval/bits_at_0.05"] - expected) < 1e-3
  assert abs(classical["eval/bits_at_0.05"] - bloom.space(4, 0.05)) < 1e-3
  wanted = bloom.space(6, 0.05)
  assert abs(classical["eval/bits_at_0.05_of_6"] - wanted) < 1e-3
  assert classical["eval/missed_at_0.05"] == 1
  assert 0 <= found["eval/auc"] <= 1 and found["eval/auc"] != 0.5
  for picture in ("curves", "space", "roc", "neural_bloom_addresses"):
    assert (tmp_path / "run" / f"{picture}.png").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize(
  "flags",
  [
    ["--task=classes", f"--variants={','.join(VARIANTS)}"],
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
    assert row["eval/false_negatives_at_0.01"] == 0
    assert np.isfinite(row["eval/bits_at_0.01"])
  aucs = [row["eval/auc"] for row in found.values() if "eval/auc" in row]
  assert len(set(aucs)) == len(aucs)


@pytest.mark.slow
def test_classes_are_learnt(tmp_path):
  flags = ["--variants=neural_bloom", "--num_updates=300", "--set_size=20"]
  flags += ["--log_every=100", "--eval_every=300", "--num_sets=8"]
  flags += ["--num_slots=8", "--hidden_size=32", "--encoding_size=32"]
  flags += ["--query_size=16", "--num_queries=32", "--num_non_members=100"]
  assert run(experiment, tmp_path, *flags, "--num_tests=8") == 0
  assert final(tmp_path, "neural_bloom")["eval/auc"] > 0.8


def test_evaluating_changes_nothing_and_gives_the_same_twice():
  """Under key-reuse checking, with the driver's key, for several sizes."""
  settings, options = parse(
    experiment, "--preset=smoke", "--variants=memory_network", "--sizes=3"
  )
  (one,) = experiment.make_experiments(settings, options).values()
  hyper = {"learning_rate": jnp.float32(0.0)}
  state = jax.jit(one.init)(jax.random.key(0), hyper, one.data)
  evaluate = jax.jit(one.evaluate)
  first, second = (
    evaluate(jax.random.key(1), state, one.data) for _ in range(2)
  )
  assert first == second
  assert {"auc", "auc_of_3", "bits_at_0.01_of_3"} <= set(first)


def test_sets_have_the_sizes_that_are_set(monkeypatch):
  settings = smoke("--set_size=7", "--num_queries=5", "--num_sets=3")
  sizes = {"sample": set(), "test": set()}
  task = experiment.make_task(settings, None)

  def record(name):
    def draw(key, data, num_members, num_non_members):
      sizes[name].add((num_members, num_non_members))
      return getattr(task, name)(key, data, num_members, num_non_members)

    return draw

  own = task._replace(sample=record("sample"), test=record("test"))
  one = experiment.make_experiment(settings, "neural_bloom", own, 2)
  start = lambda key: one.init(key, one.hyper, task.data)
  state = jax.eval_shape(start, jax.random.key(0))
  after, metrics = jax.eval_shape(one.update, state, task.data)
  assert set(metrics) == {"loss", "accuracy"}
  jax.eval_shape(one.evaluate, jax.random.key(1), state, task.data)
  assert sizes == {"sample": {(7, 2)}, "test": {(7, 20)}}
  leaves = zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True)
  for x, y in leaves:
    assert (x.shape, x.dtype, x.weak_type) == (y.shape, y.dtype, y.weak_type)


def test_settings_are_what_memories_are_made_of(monkeypatch):
  made = []
  monkeypatch.setattr(filters, "bloom", lambda *_, **given: made.append(given))
  flags = ["--num_slots=7", "--word_size=3", "--query_size=5", "--sparse_k=2"]
  flags += ["--sphere", "--sphere_decay=0.7", "--sphere_every=9"]
  for variant, more in (
    ("neural_bloom", []),
    ("summed", ["--read_scale=0.125"]),
    ("detached", []),
  ):
    settings, _ = parse(
      experiment, *flags, *more, "--set_size=16", "--hidden_size=11"
    )
    experiment.make_memory(settings, variant)
  sizes = {"num_slots": 7, "word_size": 3, "query_size": 5, "hidden_size": 11}
  rest = {"read": "addressed", "is_detached": False, "num_sparse": 2}
  rest |= {"sphering_decay": 0.7, "sphering_every": 9, "is_sphered": True}
  assert made[0] == sizes | rest | {"read_scale": 0.25}
  assert made[1] == made[0] | {"read_scale": 0.125, "read": "summed"}
  assert made[2] == made[0] | {"is_detached": True}


def test_steps_are_clipped_and_end_at_nothing():
  settings = smoke("--max_norm=0.5")
  optimiser = experiment.make_optimiser(
    settings, 4, {"learning_rate": jnp.array(0.1)}
  )
  state = optimiser.init(jnp.zeros(2))
  update = jax.jit(optimiser.update)
  sizes = []
  for _ in range(5):
    updates, state = update(jnp.array([300.0, 400.0]), state)
    sizes.append(float(jnp.abs(updates).max()))
  np.testing.assert_allclose(sizes[0], 0.1, rtol=1e-3)
  assert (np.diff(sizes) < 0).all() and sizes[4] < 1e-6
  moments = [x for x in jax.tree.leaves(state) if x.shape == (2,)]
  first = 0.5 * np.array([0.6, 0.8]) * (1 - 0.9**5)
  np.testing.assert_allclose(moments[0], first, rtol=1e-4)


def test_what_is_exported_answers_alone():
  """Of a sphered filter the projection, too."""
  settings = smoke("--sphere")
  task = experiment.make_task(settings, None)
  one = experiment.make_experiment(settings, "neural_bloom", task, 2)

  def start(key):
    state = one.init(key, one.hyper, task.data)
    return state, one.export(state)

  state, found = jax.eval_shape(start, jax.random.key(0))
  assert found == {"params": state.params, "state": state.state}
  assert "sphere" in found["state"]


@pytest.mark.parametrize(
  "flags",
  [
    ["--universe=64"],
    ["--hidden_size=64"],
    ["--num_tests=8"],
    ["--num_updates=1000"],
    ["--task=uniform"],
  ],
)
def test_claims_are_of_no_other_settings(flags):
  one = experiment.SCRIPT
  for more in (["--num_seeds=4"], ["--variants=bloom", "--sizes=20"]):
    given = reproduction.parse_command(one, more)
    row = script.resolve(one, "cpu", given)
    assert not any(x.reason for x in reproduction.state(one, row))
    assert all(x.is_calibrated for x in reproduction.state(one, row))
    given = reproduction.parse_command(one, [*flags, *more])
    row = script.resolve(one, "cpu", given)
    assert all(x.reason for x in reproduction.state(one, row))


@pytest.mark.parametrize(
  ("flags", "reason"),
  [
    (["--variants=other"], "must be one of neural_bloom"),
    (["--variants=lstm,lstm"], "names something twice"),
    (["--rates=0.1,1"], "--rates=0.1,1.0 must be between 0 and 1"),
    (["--rates=x"], "each item must be a number"),
    (["--rates=0"], "must be above 0"),
    (["--sizes=0"], "each item must be at least 1"),
    (["--rates=0.1,0.10000001"], "and differ in six digits"),
    (["--rates=5e-324"], "the smallest number of float32"),
    (["--sizes=5,20000000"], "at most 10000000"),
    (["--max_norm=0"], "must be above 0"),
    (["--task=ranges", "--data=digits"], "elements of ranges are words only"),
    (["--read_scale=inf"], "must be a finite number"),
    (["--read_scale=0"], "must be above 0"),
    (["--num_filters=2"], "--num_filters is for images"),
    (["--sparse_k=9"], "--sparse_k=9 must be at most --num_slots=8"),
    (["--sphere", "--sphere_decay=2"], "at most 1"),
    (["--task=uniform", "--universe=99"], "universe of 99 elements has no 4 "),
    (["--data=digits", "--set_size=40"], "smallest class has 28 images"),
    (["--universe=1000000000000"], "at most 10000000"),
  ],
)
def test_settings_that_do_not_fit(flags, reason):
  with pytest.raises((training.RunError, absl_flags.Error), match=reason):
    experiment.make_experiments(*parse(experiment, *flags))


def test_presets_fit_their_tasks():
  for task in ("classes", "uniform", "nonuniform", "ranges"):
    for preset in ("cpu", "smoke"):
      own, options = parse(experiment, f"--preset={preset}", f"--task={task}")
      assert experiment.make_experiments(own, options)
