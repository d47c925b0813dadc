"""Tests of experiments/energy_based_memory.py: it runs, and says no."""

import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import energy_based_memory as experiment
from lilly import training
from lilly.nets import energy_memory, energy_networks, set_memories
from lilly.tasks import patterns
from lilly.training import claims
from tests.running import final, parse, run

VARIANTS = (*experiment.TRAINED, *experiment.HOPFIELD, "modern", "query")


def smoke(*flags):
  return parse(experiment, "--preset=smoke", *flags)[0]


def test_memories_are_compared_and_drawn(tmp_path):
  flags = ["--variants=ebmm,hebb,query", "--counts=1,2", "--num_tests=8"]
  assert run(experiment, tmp_path, *flags) == 0
  found, hebb, query = (final(tmp_path, x) for x in ("ebmm", "hebb", "query"))
  # All see the same sets; half of 4 bits of 8.
  assert found["eval/query"] == hebb["eval/query"] == query["eval/error"]
  assert 1 < found["eval/query"] < 3
  assert found["eval/error"] == found["eval/error_at_2"]
  assert found["eval/error_elsewhere"] != found["eval/error"]
  assert found["eval/energy_after"] < found["eval/energy_before"]
  # It helps to know which bits were not drawn anew.
  assert hebb["eval/error_clamped_at_1"] == 0
  assert hebb["eval/error_clamped"] < hebb["eval/error"]
  for picture in ("curves", "counts", "energy", "ebmm"):
    assert (tmp_path / "run" / f"{picture}.png").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize(
  "flags",
  [
    ["--task=binary", f"--variants={','.join(VARIANTS)}"],
    ["--task=digits", "--variants=ebmm,modern,hebb", "--nogradient_norm"],
    ["--task=digits", "--network=gated", "--remat"],
    [
      "--task=generated",
      "--variants=ebmm,query",
      "--network=convolutional",
    ],
  ],
)
def test_all_tasks_and_variants_run(tmp_path, flags):
  assert run(experiment, tmp_path, *flags) == 0
  loss = final(tmp_path, "ebmm")["eval/loss"]
  if "first_order" in flags[1]:
    values = {loss} | {
      final(tmp_path, x)["eval/loss"] for x in ("first_order", "unwritten")
    }
    assert len(values) == 3
  assert np.isfinite(loss)


@pytest.mark.slow
def test_errors_fall_below_what_is_unwritten(tmp_path):
  flags = ["--variants=ebmm,unwritten", "--num_updates=400", "--num_tests=200"]
  flags += ["--log_every=100", "--eval_every=400", "--learning_rate=1e-2"]
  flags += ["--hidden_size=32", "--dynamic_size=15", "--write_rate=0.3"]
  flags += ["--num_patterns=1", "--counts=1", "--num_sets=16"]
  assert run(experiment, tmp_path, *flags) == 0
  found, control = (final(tmp_path, x) for x in ("ebmm", "unwritten"))
  assert found["eval/loss"] < 0.8 * control["eval/loss"]


@pytest.mark.slow
def test_a_memory_network_learns(tmp_path):
  flags = ["--variants=memory_network", "--num_updates=1500", "--num_tests=200"]
  flags += ["--log_every=500", "--eval_every=1500", "--learning_rate=1e-2"]
  flags += ["--hidden_size=32", "--dynamic_size=7", "--num_sets=16"]
  assert run(experiment, tmp_path, *flags) == 0
  found = final(tmp_path, "memory_network")
  assert found["eval/error"] < 0.5 * found["eval/query"]
  assert "eval/energy_after" not in found


TRAIN = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]], np.float32)


def linear(data=(TRAIN, 1 - TRAIN)):
  """Reads w x̃, then 2 w x̃ + b; a set and its queries are always the same."""

  def read(params, state, written, query):
    first = params["w"] * query
    return jnp.stack([first, 2 * first + params["b"]])

  def sample(key, data, count):
    assert count == 2
    return data[0]

  task = patterns.Task(
    is_binary=False,
    shape=(3,),
    sample=sample,
    test=None,
    data=data,
    damage=lambda key, x: patterns.Query(0.5 * x + 0.25, x > 0),
  )
  memory = set_memories.SetMemory(
    init=lambda key, x: ({"w": jnp.array(2.0), "b": jnp.zeros(3)}, {}),
    write=lambda params, state, stored: (),
    read=read,
  )
  return memory, task


def numpy_slopes(w, b, x):
  """Of the loss, which is given too, and of the last step's error."""
  query = 0.5 * x + 0.25
  first, last = x - w * query, x - 2 * w * query - b
  errors = (first**2).sum(1).mean(), (last**2).sum(1).mean()
  by_w = (-2 * first * query - 4 * last * query).sum(1).mean()
  return sum(errors), errors[1], np.array([by_w, *(-2 * last.mean(0))])


def test_an_update_is_clipped_adam_with_weight_decay():
  settings = smoke("--num_sets=3", "--max_norm=0.5", "--weight_decay=0.1")
  learner = experiment.make_learner(settings, *linear())
  hyper = {"learning_rate": jnp.array(0.3)}
  state = learner.init(jax.random.key(0), hyper, ())
  step = jax.jit(learner.update)
  w, m, v = np.array([2.0, 0, 0, 0]), 0.0, 0.0
  for t in range(1, 4):
    # The second set is far easier: norms differ, but none is clipped after.
    scale = 0.1 if t == 2 else 1.0
    loss, error, slope = numpy_slopes(w[0], w[1:], scale * TRAIN)
    norm = np.linalg.norm(slope)
    assert norm > 0.5
    state, metrics = step(state, (scale * TRAIN, None))
    assert {**metrics} == pytest.approx(
      {"loss": loss, "error": error, "norm": norm}, rel=1e-4
    )
    slope = slope / norm * 0.5
    m, v = 0.9 * m + 0.1 * slope, 0.999 * v + 0.001 * slope**2
    adam = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    w = w - 0.3 * (adam + 0.1 * w)
    np.testing.assert_allclose(state.params["w"], w[0], rtol=1e-4)
    np.testing.assert_allclose(state.params["b"], w[1:], rtol=1e-4)
  after, _ = step(state, (np.nan * TRAIN, None))
  np.testing.assert_array_equal(after.params["b"], state.params["b"])
  assert after.opt_state.bad_total == 1 and state.opt_state.bad_total == 0


def test_each_set_of_each_update_is_damaged_for_itself():
  memory, task = linear()
  damage = lambda key, x: patterns.Query(
    x + 0 * x + jax.random.normal(key, ()), x > 0
  )
  memory = memory._replace(
    read=lambda params, state, written, query: query[None] + 0 * params["w"]
  )
  learner = experiment.make_learner(
    smoke("--num_sets=2000"), memory, task._replace(damage=damage)
  )
  hyper = {"learning_rate": jnp.array(0.0)}
  state = learner.init(jax.random.key(0), hyper, ())
  step = jax.jit(learner.update)
  errors = []
  for _ in range(2):
    state, metrics = step(state, task.data)
    errors.append(float(metrics["error"]))
  assert errors[0] != errors[1]
  # Three times the same normal number; its square is 1.
  np.testing.assert_allclose(errors, 3, atol=0.3)


def test_variants_differ_in_how_they_write(monkeypatch):
  made = []
  keep = lambda network, **given: made.append(given)
  monkeypatch.setattr(energy_memory, "make", keep)
  flags = ["--write_steps=4", "--nogradient_norm", "--remat"]
  flags += ["--step_size=0.25", "--momentum=0.125", "--write_rate=0.2"]
  settings = parse(experiment, *flags, "--read_steps=5")[0]
  rates = {"step_size": 0.25, "momentum": 0.125, "write_rate": 0.2}
  rates |= {"gradient_norm": False, "remat": True, "read_steps": 5}
  task = experiment.make_task(settings, None)
  for variant in experiment.ENERGIES:
    experiment.make_memory(settings, variant, task)
    steps = 0 if variant == "unwritten" else 4
    own = {"write_steps": steps, "first_order": variant == "first_order"}
    assert made[-1] == own | rates


def test_a_memory_network_is_as_large_as_what_is_written():
  flags = ["--num_bits=32", "--num_patterns=40", "--dynamic_size=15"]
  settings = parse(experiment, *flags)[0]
  task = experiment.make_task(settings, None)
  sizes = [
    set_memories.num_floats(
      experiment.make_memory(settings, variant, task), 40, jnp.zeros(32)
    )
    for variant in ("memory_network", "ebmm")
  ]
  assert sizes == [40 * 12, 33 * 15]


def test_memories_of_several_sizes_are_compared(tmp_path):
  flags = ["--variants=memory_network", "--num_patterns=4"]
  assert run(experiment, tmp_path, *flags, "--dynamic_sizes=2,3") == 0
  found = {final(tmp_path, f"memory_network-{n}")["eval/loss"] for n in (2, 3)}
  assert len(found) == 2
  assert (tmp_path / "run" / "sizes.png").stat().st_size > 1000


@pytest.mark.slow
def test_sizes_are_not_drawn_of_a_sweep(tmp_path):
  """There would be several lines for each size."""
  flags = ["--variants=memory_network", "--dynamic_sizes=2"]
  flags += ["--sweep=learning_rate=1e-3,1e-2"]
  assert run(experiment, tmp_path, *flags) == 0
  assert not (tmp_path / "run" / "sizes.png").exists()


def test_a_name_says_how_large_a_memory_is():
  settings = parse(experiment, "--dynamic_size=7")[0]
  sizes = [
    energy_networks.count_written(
      experiment.make_network(settings, name), (32,)
    )
    for name in ("ebmm-5", "ebmm", "memory_network-15")
  ]
  assert sizes == [33 * 5, 33 * 7, 33 * 15]
  task = experiment.make_task(settings, None)
  for name in ("ebmm-5", "memory_network-5"):
    memory = experiment.make_memory(settings, name, task)
    size = set_memories.num_floats(memory, 4, jnp.zeros(32))
    assert size == {"ebmm-5": 165, "memory_network-5": 4 * 32}[name]


def test_evaluating_changes_nothing_and_gives_the_same_twice():
  """Under key-reuse checking, with the driver's key made anew."""
  settings = smoke("--variants=memory_network,query", "--counts=3")
  options = training.Options()
  for one in experiment.make_experiments(settings, options).values():
    hyper = {"learning_rate": jnp.array(0.0)}
    state = jax.jit(one.init)(jax.random.key(0), hyper, one.data)
    evaluate = jax.jit(one.evaluate)
    first, second = (
      evaluate(jax.random.key(1), state, one.data) for _ in range(2)
    )
    assert first == second and "error_at_3" in first


@pytest.mark.parametrize(
  ("name", "metric", "value", "threshold_distance"),
  [
    ("control-error", "unwritten eval/error", 8.0, 0.15),
    ("hebb-16", "hebb eval/error_clamped_at_16", 0.4, 0.5),
    ("hebb-96", "hebb eval/error_clamped_at_96", 16.5, 0.5),
  ],
)
def test_claims_are_of_distances(name, metric, value, threshold_distance):
  (claim,) = (
    claim
    for each in experiment.REPRODUCTIONS.values()
    for claim in each.claims
    if claim.name == name
  )
  variant, metric = metric.split()
  for shift in (-1.1, -0.9, 0.9, 1.1):
    found = np.full((1, 1), value + shift * threshold_distance)
    results = training.Results(
      summary={"variants": {variant: {"failed": []}}},
      states={},
      metrics={variant: {metric: (np.array([1]), found)}},
      runs={variant: ({"seed": 0},)},
      options=None,
    )
    measured = claim.measure(results)[0]
    holds = claims._HOLDS[claim.relation](measured, claim.threshold)
    assert holds == (abs(shift) < 1)


def test_trained_variants_and_rules_are_all_there_are():
  annotation = typing.get_type_hints(experiment.Settings)["variants"]
  choices = typing.get_args(typing.get_args(annotation)[0])
  assert choices == VARIANTS
  assert set(experiment.HOPFIELD) == set(energy_memory.RULES)


@pytest.mark.parametrize(
  ("flags", "sentence"),
  [
    (["--variants=storky"], "each item must be one of ebmm"),
    (["--variants=query,query"], "names something twice"),
    (["--task=cifar10", "--variants=hebb"], "rules store bits"),
    (["--counts=0"], "each item must be at least 1 and at most 1000000"),
    (["--counts=2,1000001"], "each item must be at least 1 and at most"),
    (["--num_bits=1000000000000"], "--num_bits=1000000000000"),
    (["--counts="], "is empty"),
    (["--dynamic_sizes=3,0"], "each item must be at least 1"),
    (["--dynamic_sizes=abc"], "each item must be a whole number"),
    (
      ["--num_redrawn=9"],
      "num_redrawn is 9; it must be at least 0 and at most 8",
    ),
    (["--network=residual"], "is for images"),
    (["--dynamic_size=6"], "dynamic_size is 6; it must be from 1 to 5"),
    (
      ["--task=digits", "--network=convolutional", "--dynamic_size=4"],
      "to 3, less than width",
    ),
    (
      ["--task=digits", "--block_size=9"],
      "block_size is 9; it must be at least 1 and at most 8",
    ),
    (
      ["--task=digits", "--network=convolutional", "--num_filters=0"],
      "num_filters is 0; it must be a positive integer",
    ),
    (["--write_rate=0"], "must be above 0"),
    (["--write_rate=inf"], "must be a finite number"),
    (["--write_rate=1e300"], "must be a number that float32 can hold"),
    (["--step_size=nan"], "must be a finite number"),
    (["--learning_rate=nan"], "must be a finite number"),
    (["--weight_decay=inf"], "must be a finite number"),
    (["--max_norm=0"], "must be above 0"),
    (["--max_norm=nan"], "must be a finite number"),
    (["--momentum=1.5"], "must be at least 0 and at most 1"),
  ],
)
def test_a_bad_flag_is_one_sentence(tmp_path, capsys, flags, sentence):
  assert run(experiment, tmp_path, *flags) == 1
  said = capsys.readouterr().err.strip().splitlines()
  assert len(said) == 1 and sentence in said[0]
