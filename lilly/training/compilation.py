"""Turns an experiment into one compiled program over all its runs."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lilly.training import experiment as experiment_lib
from lilly.training import memory, platforms

__all__ = ["compiled", "grid", "lapack_calls", "lowered"]


def grid(
  options: experiment_lib.Options, hyper: Mapping[str, float]
) -> tuple[dict[str, float], ...]:
  """Lists the runs: the sweep's product times the seeds, seeds innermost.

  Args:
    options: uses sweep, seed and num_seeds.
    hyper: the experiment's hyper-parameters.

  Returns:
    The seed and swept values of each run.

  Raises:
    RunError: the sweep names an unknown hyper-parameter, or there are more
      than a million runs.
  """
  memory.check_runs(options)
  for name, _ in options.sweep:
    if name not in hyper:
      raise experiment_lib.RunError(
        f"--sweep names {name}, which is not a hyper-parameter here; these "
        f"are: {', '.join(sorted(hyper)) or 'none'}."
      )
  names = [name for name, _ in options.sweep]
  points = itertools.product(*(values for _, values in options.sweep))
  seeds = range(options.seed, options.seed + options.num_seeds)
  return tuple(
    {"seed": seed, **dict(zip(names, point, strict=True))}
    for point in points
    for seed in seeds
  )


class _Functions(NamedTuple):
  """An experiment over all its runs, not yet compiled."""

  runs: tuple[dict[str, float], ...]
  # spreads the runs over devices
  mesh: jax.sharding.Mesh
  # jitted: (start, data) -> state
  init: Any
  # jitted: (state, data) -> (state, metrics); the state is donated
  step: Any
  # jitted: (state, data) -> metrics
  evaluate: Any
  # seeds and hyper-parameters, run axis first
  start: Any
  # the data set, on all devices
  data: Any


def compiled(
  experiment: experiment_lib.Experiment,
  options: experiment_lib.Options,
  *,
  name: str = "the experiment",
) -> experiment_lib.Program:
  """Compiles an experiment: scan over updates, all runs in one program.

  A run's key is `jax.random.key(seed)`, independent of the number of runs and
  the same in every variant and at every grid point: comparisons are paired.

  On several CPU devices of one process a program that calls LAPACK is refused
  on its first call, before it is compiled: batched LAPACK calls may deadlock
  there. A state that memory cannot hold is refused before it is allocated, and
  so is a compiled program before its first call.

  Under `jax.disable_jit` nothing is compiled: runs and updates are plain Python
  loops on one device, so that `print` and `breakpoint` inside `update` see
  values. Results agree with the compiled program's to rounding.

  Args:
    experiment: one learner, written for one run.
    options: uses seeds, sweep, `log_every` and `seed_batching`. With 'map' runs
      are computed one after another by the same instructions, so that each is
      bit-identical to the run alone; with 'vmap', faster for small networks,
      they agree to rounding.
    name: name of the experiment, for error messages.

  Returns:
    The program; its state is donated to each chunk. Its functions raise
    RunError if they call LAPACK on several CPU devices, or need more memory
    than there is.

  Raises:
    RunError: the sweep names an unknown hyper-parameter, or the state of all
      runs does not fit into memory.
  """
  if _is_jit_disabled():
    return _interpreted(experiment, options)
  functions = _functions(experiment, options, name)
  init_runs, start = functions.init, functions.start
  step_runs, data = functions.step, functions.data
  evaluate_runs = functions.evaluate
  call = _caller(name, functions.mesh, options)
  return experiment_lib.Program(
    step_chunk=lambda state: call("update", step_runs, state, data),
    init=lambda: call("init", init_runs, start, data),
    evaluate=lambda state: call("evaluate", evaluate_runs, state, data),
    runs=functions.runs,
    steps_per_update=experiment.steps_per_update,
    unit=experiment.unit,
  )


def _take(x, i):
  """Selects one run; taking several keys of an array is no reuse of a key."""
  if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
    x = jax.random.clone(x)
  return x[i]


def _is_jit_disabled():
  # An attribute that type checkers do not know.
  return getattr(jax.config, "jax_disable_jit", False)


def _interpreted(experiment, options):
  """Makes a program that computes run after run without compiling."""
  platforms.start()
  runs = grid(options, experiment.hyper)
  data = jax.tree.map(jnp.asarray, experiment.data)

  def over_runs(function):
    def every(states):
      each = [
        function(jax.tree.map(lambda x, i=i: _take(x, i), states))
        for i in range(len(runs))
      ]
      return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)

    return every

  def init_one(start):
    seed, hyper = start
    return experiment.init(jax.random.key(seed), hyper, data)

  def update_one(state):
    rows = []
    for _ in range(options.log_every):
      state, metrics = experiment.update(state, data)
      rows.append(metrics)
    mean = lambda *values: jnp.mean(jnp.stack(values), axis=0)
    return state, jax.tree.map(mean, *rows)

  def evaluate_one(state):
    return experiment.evaluate(jax.random.key(1), state, data)

  start = jax.tree.map(jnp.asarray, _start(runs, experiment.hyper))
  return experiment_lib.Program(
    step_chunk=over_runs(update_one),
    init=lambda: over_runs(init_one)(start),
    evaluate=over_runs(evaluate_one),
    runs=runs,
    steps_per_update=experiment.steps_per_update,
    unit=experiment.unit,
  )


def lowered(
  experiment: experiment_lib.Experiment, options: experiment_lib.Options
) -> dict[str, jax.stages.Lowered]:
  """Lowers the programs of `compiled` without running them.

  Args:
    experiment: one learner, written for one run.
    options: as for `compiled`.

  Returns:
    The lowered programs of `init`, `update` (a chunk of updates) and
    `evaluate`.

  Raises:
    RunError: the sweep names an unknown hyper-parameter.
  """
  functions = _functions(experiment, options)
  data = functions.data
  state = jax.eval_shape(functions.init, functions.start, data)
  return {
    "init": functions.init.lower(functions.start, data),
    "update": functions.step.lower(state, data),
    "evaluate": functions.evaluate.lower(state, data),
  }


def lapack_calls(program: jax.stages.Lowered) -> list[str]:
  """Lists the LAPACK functions that a lowered program calls."""
  return sorted(
    set(re.findall(r"custom_call @(lapack_\w+)", program.as_text()))
  )


def _functions(experiment, options, name="the experiment"):
  """Jits an experiment's functions over all its runs."""
  platforms.start()
  runs = grid(options, experiment.hyper)
  mesh = _mesh(len(runs))
  by_run = NamedSharding(mesh, PartitionSpec("runs"))
  everywhere = NamedSharding(mesh, PartitionSpec())
  one_by_one = options.seed_batching == "map" or len(runs) == mesh.size
  across = functools.partial(_across, mesh, _map if one_by_one else _vmap)

  def update_one(state, data):
    state, metrics = jax.lax.scan(
      lambda state, _: experiment.update(state, data),
      state,
      length=options.log_every,
    )
    metrics = jax.tree.map(lambda m: jnp.mean(m, axis=0), metrics)
    return jax.tree.map(_strongly_typed, state), metrics

  def init_one(start, data):
    seed, hyper = start
    state = experiment.init(jax.random.key(seed), hyper, data)
    return jax.tree.map(_strongly_typed, state)

  def evaluate_one(state, data):
    return experiment.evaluate(jax.random.key(1), state, data)

  init = jax.jit(
    across(init_one),
    out_shardings=by_run,
    compiler_options=_for_running_once(),
  )
  start = _start(runs, experiment.hyper)
  _check_state(name, init, start, experiment.data, mesh, everywhere, options)
  return _Functions(
    runs=runs,
    mesh=mesh,
    init=init,
    step=jax.jit(
      across(update_one),
      donate_argnums=0,
      out_shardings=(by_run, everywhere),
      compiler_options=_for_running_long(),
    ),
    evaluate=jax.jit(across(evaluate_one), out_shardings=everywhere),
    start=start,
    data=jax.device_put(experiment.data, everywhere),
  )


def _strongly_typed(leaf):
  """Drops a leaf's weak type: with it the next chunk is compiled anew."""
  leaf = jnp.asarray(leaf)
  return jnp.asarray(leaf, leaf.dtype)


def _check_state(name, init, start, data, mesh, everywhere, options):
  """Refuses a state that memory cannot hold, before it is allocated."""
  # As they will be placed, so that the trace is kept.
  placed = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      np.shape(x), jax.dtypes.result_type(x), sharding=everywhere
    ),
    data,
  )
  # Only shapes are computed, also where functions are not to be compiled.
  with jax.disable_jit(False):
    state = jax.eval_shape(init, start, placed)
  memory.check_state(name, state, placed, mesh, options)


def _caller(name, mesh, options):
  """Makes a caller that checks a program before its first call."""
  on_cpu = mesh.devices.flat[0].platform == "cpu"
  is_at_risk = on_cpu and len(mesh.local_devices) > 1
  checked = set()

  def call(what, function, *args):
    if what not in checked:
      # Traced, lowered and compiled here, not again where it is called.
      program = function.lower(*args)
      found = lapack_calls(program) if is_at_risk else []
      if found:
        raise experiment_lib.RunError(
          f"{name}: {what} calls LAPACK ({', '.join(found)}), whose batched "
          "calls may deadlock on several CPU devices; set "
          "JAX_NUM_CPU_DEVICES=1, or use lilly.control.small_matrices."
        )
      memory.check_program(f"{name}: {what}", program.compile(), mesh, options)
      checked.add(what)
    return function(*args)

  return call


def _start(runs, hyper):
  """Collects each run's seed and hyper-parameters, run axis first."""
  seeds = np.array([run["seed"] for run in runs], np.uint32)
  values = {
    name: np.array([run.get(name, value) for run in runs], np.float32)
    for name, value in hyper.items()
  }
  return seeds, values


def _for_running_once():
  """Favours short compilation (ten times, mostly threefry) over speed."""
  if jax.default_backend() != "cpu":
    return None
  return {"xla_backend_optimization_level": 0}


@functools.cache
def _for_running_long():
  """Uses Eigen for matrix products, where the compiler has the option.

  With the kernels that replaced it (YNNPACK, jaxlib 0.10) an update of small
  networks takes 1.2 to 1.7 times as long; large ones are unaffected.
  """
  options = {"xla_cpu_experimental_ynn_fusion_type": ""}
  if jax.default_backend() != "cpu":
    return None
  try:
    jax.jit(lambda: 0, compiler_options=options).lower().compile()
  except jax.errors.JaxRuntimeError:  # no such option in this version
    return None
  return options


def _across(mesh, batch, function):
  """Gives each device its own runs, without communication."""
  return jax.shard_map(
    batch(function),
    mesh=mesh,
    in_specs=(PartitionSpec("runs"), PartitionSpec()),
    out_specs=PartitionSpec("runs"),
    check_vma=False,
  )


def _vmap(function):
  return jax.vmap(function, in_axes=(0, None))


def _map(function):
  # On CPU a batched matrix product is slower than a plain one, even at batch 1.
  return lambda xs, data: jax.lax.map(lambda x: function(x, data), xs)


def _mesh(num_runs: int) -> jax.sharding.Mesh:
  """Spreads runs over as many devices as divide them evenly."""
  devices = jax.devices()
  if jax.process_count() > 1 and num_runs % len(devices):
    raise experiment_lib.RunError(
      f"{num_runs} runs cannot be spread over {len(devices)} devices of "
      f"{jax.process_count()} processes; choose --num_seeds so that the number "
      "of runs is a multiple of the devices."
    )
  sizes = range(1, len(devices) + 1)
  size = max(size for size in sizes if num_runs % size == 0)
  return jax.make_mesh(
    (size,), ("runs",), axis_types=(AxisType.Auto,), devices=devices[:size]
  )
