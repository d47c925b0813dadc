"""Tests of experiments/dynamic_kanerva_machine.py: it runs, and says no."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import dynamic_kanerva_machine as experiment
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
  codes, _ = experiment.make_memory("list").write((), jnp.ones((256, 100)))
  memory = experiment.make_memory("dkm")
  params = memory.init(jax.random.key(0))
  state, _ = jax.eval_shape(memory.write, params, jnp.ones((2, 100)))
  size = state.mean.size + state.cov.size
  assert size - 100 < codes.size <= size


def test_recalls_by_hand(monkeypatch):
  """A memory that gives back, of its own episode, all but one pixel."""
  parse(experiment, "--preset=smoke", "--num_reads=3")
  task = image_episodes.task("digits")
  images = task.test(jax.random.key(0), task.data, 8).reshape(2, 4, 8, 8, 1)
  queries = 1 - images

  def written(nets, memory, params, images):
    return images

  def recall(nets, memory, params, state, query, *, num_reads):
    # What is nearest to the query's opposite; then, one pixel from it.
    distance = jnp.sum(jnp.abs(state + query[None] - 1), (1, 2, 3))
    stored = state[jnp.argmin(distance)]
    near = stored.at[0, 0, 0].set(1 - stored[0, 0, 0])
    seen = [query, near, stored, stored][: num_reads + 1]
    value = jnp.array([4.0, 3.0, 3.5, 1.0])[: num_reads + 1]
    return jnp.stack(seen), value

  monkeypatch.setattr(experiment.model, "written", written)
  monkeypatch.setattr(experiment.model, "recall", recall)
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
    (["--classes=0"], "must be positive integers"),
    (["--flipped=2"], "must be at most 1"),
    (["--flipped=nan"], "must be at most 1"),
    (["--lengths=²"], "must be positive integers"),
  ],
)
def test_a_bad_flag_is_one_sentence(tmp_path, capsys, flags, sentence):
  assert run(experiment, tmp_path, *flags) == 1
  said = capsys.readouterr().err.strip().splitlines()
  assert len(said) == 1 and sentence in said[0]
