"""Tests of experiments/dynamic_kanerva_machine.py: it runs, and says no."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import dynamic_kanerva_machine as experiment
from lilly.memory import dynamic_kanerva, kanerva
from lilly.nets import dynamic_kanerva_model, set_memories
from lilly.tasks import image_episodes
from tests.running import final, parse, run


def test_models_are_compared_and_drawn(tmp_path):
  assert run(experiment, tmp_path, "--variants=dkm") == 0
  found = final(tmp_path, "dkm")
  terms = ("nll", "kl_weights", "kl_memory")
  parts = sum(found[f"eval/{x}"] for x in terms)
  np.testing.assert_allclose(found["eval/nats"], parts, rtol=1e-5)
  # 15 % of 64 pixels.
  assert 7 < found["eval/query"] < 12
  assert 0 < found["eval/wrong_at_8"] < 64
  assert 0 <= found["eval/falling"] <= 1
  for picture in ("curves", "lengths", "falling", "dkm"):
    assert (tmp_path / "run" / f"{picture}.png").stat().st_size > 3000


@pytest.mark.slow
def test_all_models_run(tmp_path):
  variants = ",".join(experiment.VARIANTS)
  flags = ["--task=generated", f"--variants={variants}", "--num_filters=2"]
  flags += ["--lengths=4", "--classes=2"]
  assert run(experiment, tmp_path, *flags) == 0
  found = final(tmp_path, "dkm")
  assert found["eval/wrong_at_4"] == found["eval/wrong"]
  nats = [final(tmp_path, x)["eval/nats"] for x in experiment.VARIANTS]
  assert len(set(nats)) == len(nats)


def test_a_list_fills_the_same_bytes():
  parse(experiment, "--num_rows=32", "--code_size=100")
  code = jnp.ones(100)
  kept, size = (
    set_memories.num_floats(experiment.make_memory(name), 256, code)
    for name in ("list", "dkm")
  )
  assert size - 100 < kept <= size


def test_it_learns_from_images_to_train_on_and_tests_on_others(monkeypatch):
  parse(experiment, "--preset=smoke", "--lengths=8")
  blank, black = (np.full((4, 8, 8, 1), ink, np.uint8) for ink in (0, 255))
  labels, starts = np.zeros(4, np.int32), np.array([0, 4], np.int32)
  parts = [image_episodes.Part(x, labels, starts) for x in (blank, black)]
  data = jax.tree.map(jnp.asarray, tuple(parts))
  task = image_episodes.task("digits")._replace(data=data)

  def loss(key, params, images):
    zero = sum(jnp.sum(0 * x) for x in jax.tree.leaves(params))
    return zero, {"nats": len(images) + 100 * jnp.mean(images)}

  def recalled(params, setting, images, queries):
    return {"wrong": images.size / len(images), "query": jnp.mean(images)}

  monkeypatch.setattr(experiment, "recalled", recalled)
  setting = experiment.make_setting("dkm", task)._replace(loss=loss)
  params, hyper = {"w": jnp.ones(())}, {"learning_rate": 1.0}
  moments = experiment.optimiser_of(hyper).init(params)
  state = experiment.State(params, moments, hyper, jax.random.key(0))
  update = jax.jit(lambda *x: experiment.update(*x, setting))
  _, metrics = update(state, data)
  assert metrics["nats"] == 4
  found = experiment.evaluate(state, data, setting)
  assert found["nats"] == 104 and found["query"] == 1
  assert found["wrong"] == 4 * 64 and found["wrong_at_8"] == 8 * 64


def test_flags_reach_the_memory():
  flags = ["--noise_variance=2", "--num_iterations=3"]
  parse(experiment, "--preset=smoke", *flags)
  codes = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4)), jnp.float32)
  for variant in ("dkm", "squared", "mean_field", "no_autoencoder"):
    memory = experiment.make_memory(variant)
    params, _ = memory.init(jax.random.key(0))
    wanted, _ = dynamic_kanerva.write(
      kanerva.prior(params["mean"], params["log_variance"]),
      codes,
      noise_variance=2.0,
      num_iterations=3,
      method=variant if variant in ("squared", "mean_field") else "ridge",
    )
    found = memory.write(params, {}, codes)
    np.testing.assert_allclose(found.mean, wanted.mean, rtol=1e-5)


def test_the_ablation_leaves_the_autoencoder_out():
  parse(experiment, "--preset=smoke")
  task = image_episodes.task("digits")
  assert task.is_binary
  for variant, part in (("dkm", 1), ("no_autoencoder", 0)):
    setting = experiment.make_setting(variant, task)
    assert setting.nets.likelihood.num_numbers == 1
    hyper = {"learning_rate": 0.0}
    params = experiment.start(jax.random.key(0), hyper, setting).params
    loss = jax.jit(setting.loss)
    total, terms = loss(jax.random.key(1), params, jnp.ones((4, 8, 8, 1)))
    wanted = terms["nats"] + part * terms["autoencoder"]
    np.testing.assert_allclose(total, wanted, rtol=1e-5)
  colours = task._replace(is_binary=False)
  setting = experiment.make_setting("dkm", colours)
  assert setting.nets.likelihood.num_numbers == 2


def test_recalls_by_hand(monkeypatch):
  """A memory that gives back, of its own episode, all but one pixel."""
  parse(experiment, "--preset=smoke", "--num_reads=3")
  task = image_episodes.task("digits")
  images = task.test(jax.random.key(0), task.data, 8).reshape(2, 4, 8, 8, 1)
  queries = 1 - images

  def write(nets, memory, params, images):
    return images

  def recall(nets, memory, params, state, query, *, num_reads):
    # What is nearest to the query's opposite; then, one pixel from it.
    distance = jnp.sum(jnp.abs(state + query[None] - 1), (1, 2, 3))
    stored = state[jnp.argmin(distance)]
    near = stored.at[0, 0, 0].set(1 - stored[0, 0, 0])
    seen = [query, near, stored, stored][: num_reads + 1]
    value = jnp.array([4.0, 3.0, 3.5, 1.0])[: num_reads + 1]
    return jnp.stack(seen), value

  # Of the module itself: from a lazy one they would not come back.
  monkeypatch.setattr(dynamic_kanerva_model, "write", write)
  monkeypatch.setattr(dynamic_kanerva_model, "recall", recall)
  setting = experiment.make_setting("dkm", task)
  found = experiment.recalled({}, setting, images, queries)
  assert found["query"] == 64 and found["wrong"] == 1
  assert found["wrong_in_the_end"] == found["last_change"] == 0
  assert found["control"] > 5  # the other episode has other digits
  assert found["falling"] == 0  # the second read raised every value


@pytest.mark.parametrize(
  ("flags", "sentence"),
  [
    (["--variants=kanerva"], "names no model"),
    (["--variants=vae,vae"], "names a model twice"),
    (["--classes=0"], "must be integers, 1 to"),
    (["--flipped=2"], "must be at most 1"),
    (["--flipped=nan"], "must be at most 1"),
    (["--lengths=²"], "must be integers, 1 to"),
    (["--num_rows=1000001"], "not an integer in the range"),
    (["--noise_variance=inf"], "noise_variance must be finite"),
    (["--learning_rate=nan"], "learning_rate must be finite"),
  ],
)
def test_a_bad_flag_is_one_sentence(tmp_path, capsys, flags, sentence):
  assert run(experiment, tmp_path, *flags) == 1
  said = capsys.readouterr().err.strip().splitlines()
  assert len(said) == 1 and sentence in said[0]
