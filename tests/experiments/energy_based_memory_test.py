"""Tests of experiments/energy_based_memory.py: it runs, and says no."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import energy_based_memory as experiment
from lilly.nets import energy_memory, set_memories
from lilly.tasks import patterns
from tests.running import final, parse, run


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
    ["--task=binary", f"--variants={','.join(experiment.VARIANTS)}"],
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
def test_hopfield_s_errors_are_the_published_ones():
  """Hebb's rule, 128 bits, 64 of them drawn anew, the others clamped."""
  parse(experiment, "--num_bits=128", "--num_redrawn=64", "--num_tests=20")
  setting = experiment.make_setting("hebb", experiment.make_task(None))

  def errors(keys):
    stored = setting.task.test(keys[0], (), 32)
    each = jax.random.split(keys[1], 32)
    queries = jax.vmap(setting.task.damage)(each, stored)
    return experiment.of_rule(keys[2], setting, (), stored, queries, ())

  keys = jax.random.split(jax.random.key(0), (20, 3))
  found = jax.jit(jax.vmap(errors))(keys)
  assert abs(found["error_clamped"].mean() - 5.0) < 0.7
  assert 37 < found["error"].mean() < 45


def test_what_is_measured_by_hand():
  """Reads go to the pattern but for one bit, then to its opposite."""
  parse(experiment, "--preset=smoke")
  task = experiment.make_task(None)
  setting = experiment.make_setting("ebmm", task)
  stored = jnp.array([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
  start = jnp.array([[0.375, 0.375, 0.0], [0.0, 0.0, 0.75]])
  queries = patterns.Query(start, jnp.ones((2, 3), bool))

  def read(params, state, written, query):
    """Which pattern is asked for, the query's last bit says."""
    _, stored = written
    x = stored[jnp.asarray(query[-1] > 0.5, int)]
    return jnp.stack([x.at[0].set(1 - x[0]), 1 - x])

  memory = set_memories.SetMemory(
    init=lambda key, x: ((), {}),
    write=lambda params, state, stored: (jnp.array(-2.0), stored),
    read=read,
    energy=lambda params, state, written, x: written[0] * jnp.sum(x),
  )
  other = lambda key, data, count: jnp.zeros((count, 3))
  setting = setting._replace(memory=memory, task=task._replace(test=other))
  before = jnp.array(3.0), stored
  params = energy_memory.Params(before, None, None, None)
  found = experiment.of_trained(None, setting, params, stored, queries, ())
  expected = {
    "loss": [4.0, 4.0],  # 1 + 3: steps are added, the query is left out
    "error": [3.0, 3.0],
    "error_elsewhere": [1.0, 2.0],  # reads of a set of zeros are ones
    "energy_before": [6.0, 3.0],
    "energy_after": [-4.0, -2.0],
    # Sums of x: 0.75, 3, 1 and 0.75, 0, 2; the energy is -2 times that.
    "falling": [[1.0, 0.0], [0.0, 1.0]],
  }
  assert found.keys() == expected.keys()
  for name, values in expected.items():
    np.testing.assert_allclose(found[name], values, err_msg=name)


TRAIN = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]], np.float32)


def linear(data=(TRAIN, 1 - TRAIN)):
  """Reads w x̃, then 2 w x̃ + b; a set and its queries are always the same."""

  def read(params, state, written, query):
    first = params["w"] * query
    return jnp.stack([first, 2 * first + params["b"]])

  task = experiment.make_task(None)._replace(
    is_binary=False,
    shape=(3,),
    sample=lambda key, data, count: data[0],
    test=None,
    data=data,
    damage=lambda key, x: patterns.Query(0.5 * x + 0.25, x > 0),
  )
  memory = set_memories.SetMemory(
    init=lambda key, x: ({"w": jnp.array(2.0), "b": jnp.zeros(3)}, {}),
    write=lambda params, state, stored: (),
    read=read,
  )
  return experiment.Setting(task, "ebmm", memory, 0)


def numpy_slopes(w, b, x):
  """Of the loss, which is given too, and of the last step's error."""
  query = 0.5 * x + 0.25
  first, last = x - w * query, x - 2 * w * query - b
  errors = (first**2).sum(1).mean(), (last**2).sum(1).mean()
  by_w = (-2 * first * query - 4 * last * query).sum(1).mean()
  return sum(errors), errors[1], np.array([by_w, *(-2 * last.mean(0))])


def test_an_update_is_clipped_adam_with_weight_decay():
  given = ["--num_sets=3", "--max_norm=0.5", "--weight_decay=0.1"]
  parse(experiment, "--preset=smoke", *given)
  setting = linear()
  hyper = {"learning_rate": jnp.array(0.3)}
  state = experiment.start(jax.random.key(0), hyper, setting)
  step = jax.jit(lambda *given: experiment.update(*given, setting))
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
  assert after.moments.bad_total == 1 and state.moments.bad_total == 0


def drawn(setting, monkeypatch):
  """Of random damage: reads are what it is from the first query's."""
  damage = lambda key, x: patterns.Query(jax.random.normal(key, x.shape), x > 0)

  def recall(setting, params, stored, queries):
    reads = stored + queries - queries[:1] + 0 * params["w"]
    return None, reads[:, None]

  monkeypatch.setattr(experiment, "recall", recall)
  return setting._replace(task=setting.task._replace(damage=damage))


def test_each_query_of_each_update_is_damaged_for_itself(monkeypatch):
  parse(experiment, "--preset=smoke", "--num_sets=2000")
  setting = drawn(linear(), monkeypatch)
  hyper = {"learning_rate": jnp.array(0.0)}
  state = experiment.start(jax.random.key(0), hyper, setting)
  step = jax.jit(lambda *given: experiment.update(*given, setting))
  errors = []
  for _ in range(2):
    state, metrics = step(state, setting.task.data)
    errors.append(float(metrics["error"]))
  assert errors[0] != errors[1]
  # Between two damages is 6, three normal numbers each; of the first query 0.
  np.testing.assert_allclose(errors, 3, atol=0.3)


def test_evaluations_are_of_the_same_test_sets_at_every_time(monkeypatch):
  given = ["--counts=1,3", "--num_tests=2000", "--num_sets=500"]
  parse(experiment, "--preset=smoke", *given)
  setting = drawn(linear(), monkeypatch)
  stored = lambda key, data, count: jnp.zeros((count, 3)) + data[1][:1]
  task = setting.task._replace(test=stored, sample=None)
  setting = setting._replace(task=task, variant="memory_network")
  hyper = {"learning_rate": jnp.array(0.0)}
  made = [experiment.start(jax.random.key(i), hyper, setting) for i in range(2)]
  evaluate = jax.jit(lambda *x: experiment.evaluate(*x, setting))
  found, again = (evaluate(state, task.data) for state in made)
  assert found == again
  errors = [float(found[f"error_at_{n}"]) for n in (1, 2, 3)]
  # As above; each test has a damage of its own, or means were far from that.
  np.testing.assert_allclose(errors, [0, 3, 4], atol=0.3)
  assert found["error"] == errors[1]  # of as many as are trained on


def test_variants_differ_in_how_they_write(monkeypatch):
  made = []
  keep = lambda network, **given: made.append(given)
  monkeypatch.setattr(energy_memory, "make", keep)
  flags = ["--write_steps=4", "--nogradient_norm", "--remat"]
  flags += ["--step_size=0.25", "--momentum=0.125", "--write_rate=0.2"]
  parse(experiment, *flags, "--read_steps=5")
  rates = {"step_size": 0.25, "momentum": 0.125, "write_rate": 0.2}
  rates |= {"gradient_norm": False, "remat": True, "read_steps": 5}
  task = experiment.make_task(None)
  for variant in experiment.ENERGIES:
    experiment.make_setting(variant, task)
    steps = 0 if variant == "unwritten" else 4
    own = {"write_steps": steps, "first_order": variant == "first_order"}
    assert made[-1] == own | rates


def test_a_memory_network_is_as_large_as_what_is_written():
  parse(experiment, "--num_bits=32", "--num_patterns=40", "--dynamic_size=15")
  task = experiment.make_task(None)
  setting = experiment.make_setting("memory_network", task)
  ebmm = experiment.make_setting("ebmm", task)
  sizes = [
    set_memories.num_floats(made.memory, 40, jnp.zeros(32))
    for made in (setting, ebmm)
  ]
  assert sizes == [40 * 12, 33 * 15]


@pytest.mark.slow
def test_a_memory_network_learns(tmp_path):
  flags = ["--variants=memory_network", "--num_updates=1500", "--num_tests=200"]
  flags += ["--log_every=500", "--eval_every=1500", "--learning_rate=1e-2"]
  flags += ["--hidden_size=32", "--dynamic_size=7", "--num_sets=16"]
  assert run(experiment, tmp_path, *flags) == 0
  found = final(tmp_path, "memory_network")
  assert found["eval/error"] < 0.5 * found["eval/query"]
  assert "eval/energy_after" not in found


def test_memories_of_several_sizes_are_compared(tmp_path):
  flags = ["--variants=memory_network,query", "--num_patterns=4"]
  assert run(experiment, tmp_path, *flags, "--dynamic_sizes=2,3") == 0
  found = {final(tmp_path, f"memory_network-{n}")["eval/loss"] for n in (2, 3)}
  assert len(found) == 2
  assert (tmp_path / "run" / "sizes.png").stat().st_size > 1000
  # Of a sweep there would be several lines for each: it is not drawn.
  flags += ["--sweep=learning_rate=1e-3,1e-2", "--dynamic_sizes=2"]
  assert run(experiment, tmp_path / "swept", *flags) == 0
  assert not (tmp_path / "swept" / "run" / "sizes.png").exists()
  parse(experiment, "--dynamic_size=7")
  task = experiment.make_task(None)
  sizes = [
    experiment.make_setting(name, task).num_floats
    for name in ("ebmm-5", "ebmm", "memory_network-15")
  ]
  assert sizes == [33 * 5, 33 * 7, 33 * 15]


def test_errors_of_colours_are_squares():
  parse(experiment, "--preset=smoke")
  task = experiment.make_task(None)._replace(is_binary=False)
  x, stored = jnp.full((1, 2, 2, 1), 0.5), jnp.zeros((1, 2, 2, 1))
  setting = experiment.Setting(task, "query", None, 0)
  assert experiment.distance(setting)(x, stored).tolist() == [1.0]


@pytest.mark.parametrize(
  ("flags", "sentence"),
  [
    (["--variants=storky"], "names no memory"),
    (["--variants=query,query"], "names a memory twice"),
    (["--task=cifar10", "--variants=hebb"], "rules are of bits"),
    (["--counts=0"], "--counts=0 must be integers, 1 to 10**6"),
    (["--counts=2,1000001"], "--counts=2,1000001 must be integers"),
    (["--num_bits=1000000000000"], "--num_bits=1000000000000"),
    (["--counts="], "--counts is empty"),
    (["--dynamic_sizes=3,0"], "--dynamic_sizes=3,0 must be integers"),
    (["--dynamic_sizes=abc"], "--dynamic_sizes=abc must be integers"),
    (["--num_redrawn=9"], "num_redrawn is 9; it must be from 0 to 8"),
    (["--network=residual"], "is of images"),
    (["--dynamic_size=6"], "dynamic_size is 6; it must be from 1 to 5"),
    (
      ["--task=digits", "--network=convolutional", "--dynamic_size=4"],
      "to 3, less than width",
    ),
    (["--task=digits", "--block_size=9"], "it must be from 1 to 8"),
    (
      ["--task=digits", "--network=convolutional", "--num_filters=0"],
      "num_filters is 0; it must be a positive integer",
    ),
    (["--write_rate=0"], "--write_rate must be positive"),
    (["--write_rate=inf"], "--write_rate must be finite"),
    (["--write_rate=1e300"], "initial is 1e+300; it must be positive and"),
    (["--step_size=nan"], "--step_size must be finite"),
    (["--learning_rate=nan"], "--learning_rate must be finite"),
    (["--weight_decay=inf"], "--weight_decay must be finite"),
    (["--max_norm=0"], "--max_norm must be positive"),
    (["--max_norm=nan"], "--max_norm must be positive"),
    (["--momentum=nan"], "must be at most 1"),
  ],
)
def test_a_bad_flag_is_one_sentence(tmp_path, capsys, flags, sentence):
  assert run(experiment, tmp_path, *flags) == 1
  said = capsys.readouterr().err.strip().splitlines()
  assert len(said) == 1 and sentence in said[0]
