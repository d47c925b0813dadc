"""Tests of lilly.training.compilation, on two virtual devices."""

import inspect
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly import training
from lilly.training import compilation
from tests import haste

ROWS = 20_011  # a length that nothing else in a program has
DATA = np.arange(5003.0, dtype=np.float32)


def make_experiment(seen=None, selects=False):
  """Adds to a weight and writes one row of a large buffer at each update.

  Args:
    seen: collects (function, data) whenever a function is traced.
    selects: whether the state is selected from two, the wrong way to skip one.

  Returns:
    The experiment.
  """
  seen = [] if seen is None else seen

  def init(key, hyper, data):
    seen.append(("init", data))
    return {
      "w": jax.random.normal(key, (3,)),
      "rate": hyper["rate"],
      "noise": hyper["noise"],
      "step": jnp.zeros((), jnp.int32),
      "replay": jnp.zeros((ROWS, 8)),
    }

  def update(state, data):
    seen.append(("update", data))
    step = state["step"]
    row = jnp.full((8,), data[step % DATA.size])
    replay = state["replay"].at[step % ROWS].set(row)
    sample = replay[jnp.array([0, 1]) * step]  # of the first row, 0, and of row
    new = state | {
      "w": state["w"] * (1.0 - state["rate"]) + jnp.sum(sample[:, 0]),
      "step": step + 1,
      "replay": replay,
    }
    if selects:
      bad = jnp.any(state["w"] > 1e30)
      new = jax.tree.map(lambda a, b: jnp.where(bad, a, b), state, new)
    return new, {"step": step.astype(float), "w": jnp.sum(state["w"])}

  def evaluate(key, state, data):
    seen.append(("evaluate", data))
    return {"w": jnp.sum(state["w"])}

  hyper = {"rate": 0.5, "noise": 0.25}
  return training.Experiment(init, update, evaluate, DATA, hyper)


def compile(experiment=None, **fields):
  options = training.Options(**({"log_every": 5, "num_seeds": 4} | fields))
  return training.compiled(experiment or make_experiment(), options)


def jitted(program):
  """The jitted function and the data behind `step_chunk`."""
  inside = inspect.getclosurevars(program.step_chunk).nonlocals
  return inside["step_runs"], inside["data"]


@pytest.mark.parametrize("seed_batching", ["vmap", "map"])
def test_without_jit_runs_are_loops_over_values(seed_batching):
  seen, fields = [], {"seed_batching": seed_batching, "sweep": SWEEP}
  experiment = make_experiment()

  def update(state, data):
    seen.append(float(state["step"]))
    assert float(data[3]) == 3.0  # a value
    return experiment.update(state, data)

  def advance(program):
    state = program.init()
    assert jax.tree.leaves(state)[0].shape[0] == 8
    state, first = program.step_chunk(state)
    state, second = program.step_chunk(state)
    return state, first, second, program.evaluate(state)

  with jax.disable_jit():
    found = advance(
      compile(experiment._replace(update=update), num_seeds=2, **fields)
    )
  wanted = advance(compile(experiment, num_seeds=2, **fields))
  chunk = list(range(5))
  assert seen == chunk * 8 + [step + 5 for step in chunk] * 8
  chex.assert_trees_all_close(found, wanted, rtol=1e-5)
  chex.assert_trees_all_equal_dtypes(found, wanted)


SWEEP = (("rate", (0.1, 0.2)), ("noise", (0.0, 1.0)))


def test_runs_are_the_grid_with_seeds_innermost():
  options = training.Options(seed=7, num_seeds=2, sweep=SWEEP)
  runs = compilation.grid(options, {"rate": 0.5, "noise": 0.25})
  assert runs == tuple(
    {"seed": seed, "rate": rate, "noise": noise}
    for rate in (0.1, 0.2)
    for noise in (0.0, 1.0)
    for seed in (7, 8)
  )
  assert compilation.grid(training.Options(), {}) == ({"seed": 0},)
  with pytest.raises(training.RunError, match=r"names rate.*these are: none"):
    compilation.grid(options, {})


def test_hyper_parameters_reach_their_runs():
  program = compile(num_seeds=2, sweep=SWEEP[:1])
  assert [run["rate"] for run in program.runs] == [0.1, 0.1, 0.2, 0.2]
  state = program.init()
  np.testing.assert_array_equal(state["rate"], np.float32([0.1, 0.1, 0.2, 0.2]))
  np.testing.assert_array_equal(state["noise"], np.float32([0.25] * 4))


def test_one_seed_starts_alike_everywhere():
  """At all grid points, in all variants, in whatever company."""
  first = compile(num_seeds=2, sweep=SWEEP[:1]).init()["w"]
  np.testing.assert_array_equal(first[:2], first[2:])
  assert not np.array_equal(first[0], first[1])
  other = make_experiment()._replace(hyper={"noise": 3.0, "rate": 0.0})
  np.testing.assert_array_equal(
    compile(other, num_seeds=2).init()["w"], first[:2]
  )
  np.testing.assert_array_equal(compile(seed=1).init()["w"][0], first[1])
  alone = jax.random.normal(jax.random.key(1), (3,))
  np.testing.assert_allclose(first[1], alone, rtol=1e-6)


@pytest.mark.parametrize("batching", ["vmap", "map"])
def test_a_chunk_is_log_every_updates(batching):
  program = compile(seed_batching=batching, sweep=SWEEP[:1])
  state = program.init()
  w, rate = np.array(state["w"]), np.array(state["rate"])[:, None]
  state, metrics = program.step_chunk(state)
  sums = []
  for step in range(5):
    sums.append(w.sum(1))
    w = w * (1 - rate) + DATA[step]
  np.testing.assert_allclose(state["w"], w, rtol=1e-5)
  assert state["step"].tolist() == [5] * 8
  assert metrics["step"].tolist() == [2.0] * 8  # the mean over the chunk
  np.testing.assert_allclose(metrics["w"], np.mean(sums, axis=0), rtol=1e-5)
  evaluated = program.evaluate(state)["w"]
  np.testing.assert_allclose(evaluated, w.sum(1), rtol=1e-5)


def test_traced_and_compiled_once():
  seen = []
  program = compile(make_experiment(seen))
  state = program.init()
  for _ in range(3):
    state, _ = program.step_chunk(state)
    program.evaluate(state)
  assert [name for name, _ in seen] == ["init", "update", "evaluate"]
  assert jitted(program)[0]._cache_size() == 1


def test_data_are_an_argument_and_not_a_constant():
  seen = []
  program = compile(make_experiment(seen))
  state, _ = program.step_chunk(program.init())
  program.evaluate(state)
  for name, data in seen:
    assert "Tracer" in type(data).__name__, name
  step_runs, data = jitted(program)
  text = step_runs.lower(state, data).as_text()
  (signature,) = re.findall(r"func.func public @main\((.*)", text)
  assert f"tensor<{DATA.size}xf32>" in signature
  for constant in re.findall(r"stablehlo.constant .*", text):
    assert f"tensor<{DATA.size}" not in constant


@pytest.mark.parametrize(("num_seeds", "batching"), [(2, "vmap"), (4, "map")])
def test_the_state_is_donated(num_seeds, batching):
  program = compile(num_seeds=num_seeds, seed_batching=batching)
  before = program.init()
  after, _ = program.step_chunk(before)
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
  program.evaluate(after)
  assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(after))
  # Another chunk does not need the data to be put there again.
  program.step_chunk(after)


def copies_in_loops(text):
  """Finds copies of the large buffer inside the bodies of while loops.

  In the compiled text a computation begins with a line "%name (...) -> ... {".
  A copy in a loop's body is made at every update (or, in the loop over runs of
  'map', for every run); in the entry computation, once for a chunk.
  """
  bodies = set(re.findall(r"body=(%[\w.-]+)", text))
  assert bodies
  found, inside = [], None
  for line in text.splitlines():
    if line.startswith(("%", "ENTRY")):
      inside = line.split(" ")[0]
    is_copy = re.search(rf"\[(\d+,)*{ROWS},8\]\S* copy(-start)?\(", line)
    if inside in bodies and is_copy:
      found.append(line.strip())
  return found


# Two runs are one for each device: another path than four.
@pytest.mark.parametrize(
  ("num_seeds", "batching"), [(2, "vmap"), (4, "vmap"), (4, "map")]
)
def test_a_large_buffer_is_not_copied_in_the_loop(num_seeds, batching):
  for selects in (False, True):
    experiment = make_experiment(selects=selects)
    program = compile(experiment, num_seeds=num_seeds, seed_batching=batching)
    step_runs, data = jitted(program)
    lowered = step_runs.lower(program.init(), data)
    copies = copies_in_loops(lowered.compile(haste.AS_USED).as_text())
    # A selection between two states needs both: the check sees its copies.
    assert bool(copies) == selects, copies


@pytest.mark.parametrize(("num_seeds", "devices"), [(2, 2), (3, 1), (4, 2)])
def test_runs_are_spread_over_the_devices(num_seeds, devices):
  assert len(jax.devices()) == 2
  program = compile(num_seeds=num_seeds)
  state = program.init()
  for where in (state, program.step_chunk(state)[0]):
    for leaf in jax.tree.leaves(where):
      if leaf.is_deleted():
        continue
      shards = leaf.addressable_shards
      assert len({shard.device for shard in shards}) == devices
      assert {s.data.shape[0] for s in shards} == {num_seeds // devices}


@pytest.mark.parametrize("batching", ["vmap", "map"])
def test_two_devices_give_what_one_gives(monkeypatch, batching):
  found = []
  for count in (2, 1):
    devices = jax.devices()[:count]
    with monkeypatch.context() as patch:
      patch.setattr(jax, "devices", lambda devices=devices: devices)
      program = compile(seed_batching=batching)
      state = program.init()
      assert len(state["w"].sharding.device_set) == count
      for _ in range(2):
        state, metrics = program.step_chunk(state)
      found.append((state["w"], metrics, program.evaluate(state)))
  jax.tree.map(
    lambda two, one: np.testing.assert_allclose(two, one, rtol=1e-5), *found
  )


def test_processes_must_share_the_runs_evenly(monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  with pytest.raises(training.RunError, match="3 runs cannot be spread over 2"):
    compile(num_seeds=3)


def with_lapack(name):
  """The toy, one of whose functions calls LAPACK."""
  plain = make_experiment()

  def more(w):
    return jnp.sum(jnp.linalg.svd(jnp.outer(w, w))[1])

  def init(key, hyper, data):
    state = plain.init(key, hyper, data)
    return state | {"w": state["w"] + more(state["w"])}

  def update(state, data):
    state, metrics = plain.update(state, data)
    return state, metrics | {"more": more(state["w"])}

  def evaluate(key, state, data):
    return plain.evaluate(key, state, data) | {"more": more(state["w"])}

  functions = {"init": init, "update": update, "evaluate": evaluate}
  return plain._replace(**{name: functions[name]})


def use(program):
  state, _ = program.step_chunk(program.init())
  return program.evaluate(state)


@pytest.mark.parametrize("name", ["init", "update", "evaluate"])
def test_lapack_is_refused_on_several_cpu_devices(name):
  options = training.Options(num_seeds=4)
  program = training.compiled(with_lapack(name), options, name="toy")
  with pytest.raises(training.RunError) as refusal:
    use(program)
  text = str(refusal.value)
  assert text.startswith(f"toy: {name} calls LAPACK (lapack_")
  assert "JAX_NUM_CPU_DEVICES=1" in text and "small_matrices" in text
  assert text.count(". ") == 0 and text.endswith("small_matrices.")


@pytest.mark.parametrize("name", ["init", "update", "evaluate"])
def test_lapack_may_be_called_on_one_device(name):
  # Three runs are not spread over two devices.
  found = use(compile(with_lapack(name), num_seeds=3))
  assert np.isfinite(found["w"]).all()


def test_lowering_computes_nothing_and_names_the_functions():
  seen = []
  experiment = make_experiment(seen)
  found = compilation.lowered(experiment, training.Options(num_seeds=4))
  assert list(found) == ["init", "update", "evaluate"]
  assert [name for name, _ in seen] == ["init", "update", "evaluate"]
  assert not any(map(compilation.lapack_calls, found.values()))
