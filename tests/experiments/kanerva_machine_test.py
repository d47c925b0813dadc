"""Tests of experiments/kanerva_machine.py: it runs, draws, and says no."""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import kanerva_machine as experiment
from lilly.memory import kanerva
from lilly.tasks import image_episodes
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
  variants = ",".join(experiment.VARIANTS)
  flags = ["--task=generated", f"--variants={variants}", "--num_filters=2"]
  flags += ["--lengths=4", "--classes=2", "--address_noise=0.2"]
  assert run(experiment, tmp_path, *flags) == 0
  found = final(tmp_path, "kanerva")
  assert found["eval/nats_at_4"] == found["eval/nats"]
  assert found["eval/nats_of_2_classes"] != found["eval/nats"]
  nats = [final(tmp_path, x)["eval/nats"] for x in experiment.VARIANTS]
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


def test_a_write_is_of_the_episode_alone():
  """Reads of an unwritten memory are the prior's, whatever was shown."""
  parse(experiment, "--preset=smoke")
  params = experiment.make_memory("kanerva").init(jax.random.key(0))
  prior = kanerva.prior(params["mean"], params["log_variance"])
  b, z = jnp.ones((4, 2)), jnp.ones((4, 4))
  for name, is_written in (("kanerva", True), ("unwritten", False)):
    state = experiment.make_memory(name).write(params, b, z)
    same = np.array_equal(state.mean, prior.mean)
    assert same != is_written


def test_it_is_measured_on_images_to_test_on():
  parse(experiment, "--preset=smoke")
  blank, black = (np.full((4, 8, 8, 1), ink, np.uint8) for ink in (0, 255))
  labels, starts = np.zeros(4, np.int32), np.array([0, 4], np.int32)
  parts = [image_episodes.Part(x, labels, starts) for x in (blank, black)]
  task = image_episodes.task("digits")._replace(data=tuple(parts))
  setting = experiment.make_setting("vae", task)
  state = experiment.start(jax.random.key(0), {"learning_rate": 0.0}, setting)
  # A decoder that says that all is ink is right of what is tested on alone.
  own = state.params["nets"]
  last = max(name for name in own if "decoder" in name)
  own[last] = {"w": 0 * own[last]["w"], "b": 0 * own[last]["b"] + 9}
  data = jax.tree.map(jnp.asarray, task.data)
  found = experiment.measure(state.params, data, setting, 4)
  assert found["nll"] < 1


def test_a_sweep_is_drawn(tmp_path):
  flags = ["--variants=vae", "--sweep=learning_rate=1e-4,1e-3"]
  assert run(experiment, tmp_path, *flags) == 0
  assert (tmp_path / "run" / "lengths.png").stat().st_size > 3000


@pytest.mark.parametrize(
  ("flags", "sentence"),
  [
    (["--variants="], "names no model"),
    (["--variants=vae,vae"], "names a model twice"),
    (["--lengths=4,x"], "must be positive integers"),
    (["--noise_variance=0"], "must be positive"),
  ],
)
def test_a_bad_flag_is_one_sentence(tmp_path, capsys, flags, sentence):
  assert run(experiment, tmp_path, *flags) == 1
  said = capsys.readouterr().err.strip().splitlines()
  assert len(said) == 1 and sentence in said[0]
