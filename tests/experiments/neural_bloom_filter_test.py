"""Tests of experiments/neural_bloom_filter.py: it runs, and says no."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import neural_bloom_filter as experiment
from lilly import training
from lilly.memory import bloom, learned_filters
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
  scores = members[:, 0] - 2.5, jnp.where(strangers[:, 0] < 50, 1.0, -1.0)
  keys = jax.random.split(jax.random.key(0), 300)
  given = episode, scores, jnp.array(0.0), 0.2
  found = jax.jit(jax.vmap(lambda key: experiment.whole(key, *given)))(keys)
  missed, denied, wrong = found
  assert (missed == 3).all() and not denied.any()
  # 40 of 400, and of the others the backup's, which has half of the rate.
  assert 0.1 + 0.9 * 0.08 < wrong.mean() < 0.1 + 0.9 * 0.13
  count, denied, wrong = experiment.classical(jax.random.key(0), episode, 0.2)
  assert (count, denied) == (6, 0)
  assert 0.05 < wrong < 0.35


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
    (["--read_scale=0"], "--read_scale must be positive"),
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


def test_presets_fit_their_tasks():
  for task in experiment.TASKS:
    for preset in ("cpu", "smoke"):
      given = parse(experiment, f"--preset={preset}", f"--task={task}")
      assert experiment.make_experiments(given)
