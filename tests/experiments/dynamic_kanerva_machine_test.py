"""Tests of experiments/dynamic_kanerva_machine.py: it runs, and says no."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import dynamic_kanerva_machine as experiment
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
  codes, _ = experiment.make_memory("list").write((), jnp.ones((256, 100)))
  memory = experiment.make_memory("dkm")
  params = memory.init(jax.random.key(0))
  state, _ = jax.eval_shape(memory.write, params, jnp.ones((2, 100)))
  size = state.mean.size + state.cov.size
  assert size - 100 < codes.size <= size


@pytest.mark.parametrize(
  ("flags", "sentence"),
  [
    (["--variants=kanerva"], "names no model"),
    (["--variants=vae,vae"], "names a model twice"),
    (["--classes=0"], "must be positive integers"),
    (["--flipped=2"], "must be at most 1"),
  ],
)
def test_a_bad_flag_is_one_sentence(tmp_path, capsys, flags, sentence):
  assert run(experiment, tmp_path, *flags) == 1
  said = capsys.readouterr().err.strip().splitlines()
  assert len(said) == 1 and sentence in said[0]
