"""Tests of experiments/kanerva_machine.py: it runs, draws, and says no."""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import kanerva_machine as experiment
from lilly import training
from lilly.memory import kanerva, kanerva_bounds
from lilly.nets import kanerva_model
from lilly.tasks import image_episodes
from lilly.training import claims
from tests.running import final, parse, run

DATA = pathlib.Path(os.environ.get("LILLY_DATA_DIR", "../shared/data"))


def test_models_are_compared_and_drawn(tmp_path):
  assert run(experiment, tmp_path, "--variants=kanerva") == 0
  found = final(tmp_path, "kanerva")
  parts = sum(found[f"eval/{x}"] for x in ("nll", "kl_address", "kl_code"))
  # Binary digits at the start: about ln 2 for each of 64 pixels.
  np.testing.assert_allclose(found["eval/nats"], parts, rtol=1e-5)
  assert 30 < found["eval/nll"] < 60
  assert 30 < found["eval/nats_at_8"] != found["eval/nats"]
  pictures = ("curves", "lengths", "kanerva", "kanerva_addresses")
  for picture in pictures:
    assert (tmp_path / "run" / f"{picture}.png").stat().st_size > 3000


@pytest.mark.slow
def test_all_models_run(tmp_path):
  variants = ("kanerva", "one_draw", "unwritten", "vae", "dnc")
  flags = [
    "--task=generated",
    f"--variants={','.join(variants)}",
    "--num_filters=2",
  ]
  flags += ["--lengths=4", "--classes=2", "--address_noise=0.2"]
  assert run(experiment, tmp_path, *flags) == 0
  found = final(tmp_path, "kanerva")
  assert found["eval/nats_at_4"] == found["eval/nats"]
  assert found["eval/nats_of_2_classes"] != found["eval/nats"]
  nats = [final(tmp_path, x)["eval/nats"] for x in variants]
  assert len(set(nats)) == len(nats)


@pytest.mark.slow
@pytest.mark.skipif(
  not (DATA / "cifar10").is_dir(),
  reason="needs images of CIFAR-10: set LILLY_DATA_DIR",
)
def test_colours_have_bits(tmp_path):
  flags = ["--task=cifar10_small", f"--data_dir={DATA}", "--expected"]
  assert run(experiment, tmp_path, *flags) == 0
  found = final(tmp_path, "vae")
  bits = found["eval/nats"] / (32 * 32 * 3 * np.log(2)) + 8
  np.testing.assert_allclose(found["eval/bits"], bits, rtol=1e-4)


def smoke(*flags):
  return parse(experiment, "--preset=smoke", *flags)[0]


def test_a_write_is_of_the_episode_alone():
  """Reads of an unwritten memory are the prior's, whatever was shown."""
  settings = smoke()
  memory = experiment.make_memory(settings, "kanerva")
  params, _ = memory.init(jax.random.key(0))
  prior = kanerva.prior(params["mean"], params["log_variance"])
  b, z = jnp.ones((4, 2)), jnp.ones((4, 4))
  for name, is_written in (("kanerva", True), ("unwritten", False)):
    state = experiment.make_memory(settings, name).write(params, {}, b, z)
    same = np.array_equal(state.mean, prior.mean)
    assert same != is_written


def test_it_is_measured_on_test_images():
  task = episodes_of_ink()
  one = experiment.make_experiment(smoke("--lengths=4"), "vae", task)
  state = one.init(jax.random.key(0), {"learning_rate": 0.0}, task.data)
  # A decoder that says that all is ink is right about test images alone.
  own = state.params["nets"]
  last = max(name for name in own if "decoder" in name)
  own[last] = {"w": 0 * own[last]["w"], "b": 0 * own[last]["b"] + 9}
  found = one.evaluate(jax.random.key(1), state, task.data)
  assert found["nll"] < 1


def episodes_of_ink():
  """A task of blank images to train on and black ones to test on."""
  blank, black = (np.full((4, 8, 8, 1), ink, np.uint8) for ink in (0, 255))
  labels, starts = np.zeros(4, np.int32), np.array([0, 4], np.int32)
  parts = [image_episodes.Part(x, labels, starts) for x in (blank, black)]
  data = jax.tree.map(jnp.asarray, tuple(parts))
  return image_episodes.task("digits")._replace(data=data)


def test_it_learns_from_training_images_and_is_tested_on_others(monkeypatch):
  def bound(key, nets, memory, params, images, **options):
    # Nats that say how many images there are, and what is on them.
    nats = len(images) + 100 * jnp.mean(images)
    zero = sum(jnp.sum(0 * x) for x in jax.tree.leaves(params))
    terms = kanerva_bounds.ConditionalTerms(-nats, nats, nats)
    return zero - nats, terms

  monkeypatch.setattr(kanerva_model, "bound", bound)
  settings, task = smoke("--lengths=8,2"), episodes_of_ink()
  one = experiment.make_experiment(settings, "vae", task)
  state = one.init(jax.random.key(0), {"learning_rate": 1.0}, task.data)
  _, metrics = jax.jit(one.update)(state, task.data)
  assert metrics["nats"] == metrics["nll"] == 4
  found = one.evaluate(jax.random.key(1), state, task.data)
  assert found["nats"] == found["kl_code"] == 104
  assert found["nats_at_8"] == 108 and found["nats_at_2"] == 102
  assert "bits" not in found
  colours = task._replace(is_binary=False, shape=(8, 8, 3))
  one = experiment.make_experiment(settings, "vae", colours)
  found = one.evaluate(jax.random.key(1), state, task.data)
  np.testing.assert_allclose(found["bits"], 104 / (192 * np.log(2)) + 8)


def test_evaluating_changes_nothing_and_gives_the_same_twice():
  """Under key-reuse checking, with the driver's key made anew."""
  task = image_episodes.task("digits")
  one = experiment.make_experiment(smoke(), "kanerva", task)
  data = jax.tree.map(jnp.asarray, task.data)
  state = one.init(jax.random.key(0), {"learning_rate": 0.0}, data)
  first, second = (
    one.evaluate(jax.random.key(1), state, data) for _ in range(2)
  )
  assert first == second


def test_settings_reach_the_model(monkeypatch):
  settings = smoke("--noise_variance=2", "--address_noise=0.3", "--expected")
  given = {}

  def bound(key, nets, memory, params, images, **options):
    given.update(options, nets=nets, memory=memory)
    return jnp.zeros(()), kanerva_bounds.ConditionalTerms(0.0, 0.0, 0.0)

  monkeypatch.setattr(kanerva_model, "bound", bound)
  task = image_episodes.task("digits")
  wanted = {"noise_variance": 2.0, "address_noise": 0.3, "expected": True}
  for variant in experiment.Settings().variants:
    one = experiment.make_experiment(settings, variant, task)
    state = one.init(jax.random.key(0), {"learning_rate": 0.0}, task.data)
    jax.eval_shape(one.evaluate, jax.random.key(1), state, task.data)
    nets, memory = given.pop("nets"), given.pop("memory")
    assert given == wanted | {"one_draw": variant == "one_draw"}
    assert nets.likelihood.num_numbers == 1
    assert memory.is_addressed == (variant != "vae")
  colours = task._replace(is_binary=False)
  nets = experiment.make_networks(settings, colours)
  assert nets.likelihood.num_numbers == 2
  memory = experiment.make_memory(settings, "kanerva")
  params, _ = memory.init(jax.random.key(0))
  b, z = jnp.ones((1, 2)), jnp.ones((1, 4))
  wanted = kanerva.rank_one_write(
    kanerva.prior(params["mean"], params["log_variance"]),
    params["addresses"] @ b[0],
    z[0],
    noise_variance=2.0,
  )
  found = memory.write(params, {}, b, z)
  np.testing.assert_allclose(found.mean, wanted.mean, rtol=1e-5)


# Medians of eight seeds.
NATS = {"kanerva": 16.9, "vae": 18.07, "one_draw": 14.67, "unwritten": 17.88}


@pytest.mark.parametrize(
  ("wrong", "failed"),
  [
    ({}, set()),
    # The memory is not written.
    ({"kanerva": 17.88}, {"kanerva", "gap"}),
    # Items are read at the samples of y at which they were written.
    ({"kanerva": 14.67}, {"new-draw"}),
    # An unwritten memory is written after all, or is worse than none.
    ({"unwritten": 16.9}, {"unwritten"}),
    ({"unwritten": 20.2}, {"unwritten"}),
  ],
)
def test_claims_tell_the_right_version_from_wrong_ones(wrong, failed):
  nats = NATS | wrong
  results = training.Results(
    summary={"variants": {name: {"failed": []} for name in nats}},
    states={},
    metrics={
      name: {"eval/nats": (np.array([1]), np.full((1, 1), value))}
      for name, value in nats.items()
    },
    runs=dict.fromkeys(nats, ({"seed": 0},)),
    options=None,
  )
  for claim in experiment.REPRODUCTIONS["digits"].claims:
    value = claim.measure(results)[0]
    holds = claims._HOLDS[claim.relation](value, claim.threshold)
    assert holds == (claim.name not in failed)


def test_a_sweep_is_drawn(tmp_path):
  flags = ["--variants=vae", "--sweep=learning_rate=1e-4,1e-3"]
  assert run(experiment, tmp_path, *flags) == 0
  assert (tmp_path / "run" / "lengths.png").stat().st_size > 3000


@pytest.mark.parametrize(
  ("flags", "sentence"),
  [
    (["--variants="], "it must name at least one"),
    (["--variants=vae,vae"], "names something twice"),
    (["--variants=vea"], "must be one of kanerva"),
    (["--lengths=4,x"], "each item must be a whole number"),
    (["--lengths=999999999999"], "at most 1000000"),
    (["--num_items=999999999999"], "at most 1000000"),
    (["--noise_variance=0"], "must be above 0"),
    (["--noise_variance=inf"], "must be a finite number"),
    (["--address_noise=nan"], "must be a finite number"),
    (["--learning_rate=nan"], "must be a finite number"),
    (["--classes=99"], "has 10 test classes"),
  ],
)
def test_a_bad_flag_is_one_sentence(tmp_path, capsys, flags, sentence):
  assert run(experiment, tmp_path, *flags) == 1
  said = capsys.readouterr().err.strip().splitlines()
  assert len(said) == 1 and sentence in said[0]
