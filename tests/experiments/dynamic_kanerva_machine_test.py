"""Tests of experiments/dynamic_kanerva_machine.py: it runs, and says no."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import dynamic_kanerva_machine as experiment
from lilly.learners import dynamic_kanerva as dynamic_kanerva_learner
from lilly.memory import dynamic_kanerva, kanerva
from lilly.nets import set_memories
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
  variants = ("dkm", "squared", "mean_field", "no_autoencoder")
  variants += ("dnc", "list", "vae")
  flags = ["--task=generated", f"--variants={','.join(variants)}"]
  flags += ["--num_filters=2", "--lengths=4", "--classes=2"]
  assert run(experiment, tmp_path, *flags) == 0
  found = final(tmp_path, "dkm")
  assert found["eval/wrong_at_4"] == found["eval/wrong"]
  nats = [final(tmp_path, x)["eval/nats"] for x in variants]
  assert len(set(nats)) == len(nats)


def smoke(*flags):
  return parse(experiment, "--preset=smoke", *flags)[0]


def test_a_list_fills_the_same_bytes():
  settings = smoke("--num_rows=32", "--code_size=100")
  code = jnp.ones(100)
  kept, size = (
    set_memories.num_floats(experiment.make_memory(settings, name), 256, code)
    for name in ("list", "dkm")
  )
  assert size - 100 < kept <= size


def test_it_learns_from_training_images_and_is_tested_on_others(monkeypatch):
  settings = smoke("--lengths=8")
  blank, black = (np.full((4, 8, 8, 1), ink, np.uint8) for ink in (0, 255))
  labels, starts = np.zeros(4, np.int32), np.array([0, 4], np.int32)
  parts = [image_episodes.Part(x, labels, starts) for x in (blank, black)]
  data = jax.tree.map(jnp.asarray, tuple(parts))
  task = image_episodes.task("digits")._replace(data=data)

  def make_loss(nets, memory, *, autoencodes):
    def loss(key, params, state, images):
      zero = sum(jnp.sum(0 * x) for x in jax.tree.leaves(params))
      return zero, {"nats": len(images) + 100 * jnp.mean(images)}

    return loss

  def measure_recall(nets, memory, params, images, queries, *, num_reads):
    count = images.shape[0] * images.shape[1]
    return {"wrong": images.size / count, "query": jnp.mean(images)}

  monkeypatch.setattr(dynamic_kanerva_learner, "make_loss", make_loss)
  monkeypatch.setattr(dynamic_kanerva_learner, "measure_recall", measure_recall)
  one = experiment.make_experiment(settings, "dkm", task)
  state = one.init(jax.random.key(0), {"learning_rate": 1.0}, data)
  _, metrics = jax.jit(one.update)(state, data)
  assert metrics["nats"] == 4
  found = one.evaluate(jax.random.key(1), state, data)
  assert found["nats"] == 104 and found["query"] == 1
  assert found["wrong"] == found["wrong_at_8"] == 64


def test_evaluating_twice_gives_the_same():
  """Under key-reuse checking, with the driver's key made anew."""
  task = image_episodes.task("digits")
  one = experiment.make_experiment(smoke(), "dkm", task)
  data = jax.tree.map(jnp.asarray, task.data)
  state = one.init(jax.random.key(0), {"learning_rate": 0.0}, data)
  evaluate = jax.jit(one.evaluate)
  first, second = (evaluate(jax.random.key(1), state, data) for _ in range(2))
  assert first == second and first["wrong"] != first["wrong_at_8"]


def test_settings_reach_the_memory():
  settings = smoke("--noise_variance=2", "--num_iterations=3")
  codes = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4)), jnp.float32)
  for variant in ("dkm", "squared", "mean_field", "no_autoencoder"):
    memory = experiment.make_memory(settings, variant)
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
  settings, task = smoke(), image_episodes.task("digits")
  assert task.is_binary
  for variant, part in (("dkm", 1), ("no_autoencoder", 0)):
    nets = experiment.make_networks(settings, variant, task)
    memory = experiment.make_memory(settings, variant)
    assert nets.likelihood.num_numbers == 1
    images = jnp.ones((4, 8, 8, 1))
    params, _ = dynamic_kanerva_learner.init(
      jax.random.key(0), nets, memory, images[0]
    )
    loss = jax.jit(experiment.make_loss(settings, variant, nets, memory))
    total, terms = loss(jax.random.key(1), params, (), images)
    wanted = terms["nats"] + part * terms["autoencoder"]
    np.testing.assert_allclose(total, wanted, rtol=1e-5)
  colours = task._replace(is_binary=False)
  nets = experiment.make_networks(settings, "dkm", colours)
  assert nets.likelihood.num_numbers == 2


@pytest.mark.parametrize(
  ("flags", "sentence"),
  [
    (["--variants=kanerva"], "must be one of dkm"),
    (["--variants=vae,vae"], "names something twice"),
    (["--classes=0"], "at least 1"),
    (["--classes=99"], "has 10 test classes"),
    (["--flipped=2"], "at most 1"),
    (["--flipped=nan"], "must be a finite number"),
    (["--lengths=²"], "whole number"),
    (["--num_rows=1000001"], "at most 1000000"),
    (["--num_tests=1"], "at least 2"),
    (["--noise_variance=inf"], "must be a finite number"),
    (["--learning_rate=nan"], "must be a finite number"),
  ],
)
def test_a_bad_flag_is_one_sentence(tmp_path, capsys, flags, sentence):
  assert run(experiment, tmp_path, *flags) == 1
  said = capsys.readouterr().err.strip().splitlines()
  assert len(said) == 1 and sentence in said[0]
