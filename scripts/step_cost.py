"""Time and memory per step of a recurrent program, without one-off costs."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lilly.nets import memories
from lilly.training import compilation, experiment
from scripts import random_use

__all__ = ["Cost", "of_memory", "of_step", "program"]

PyTree = Any


class Cost(NamedTuple):
  """Cost of one step, forward and backward."""

  seconds: float  # marginal time
  bytes_per_step: float  # marginal temporary memory
  bytes_in_all: float  # total temporary memory of the longer run
  seconds_once: float  # one-off time of a run, independent of its length


def of_step(
  step: Callable[[PyTree, PyTree], tuple[PyTree, jax.Array]],
  make: Callable[[int], tuple[PyTree, PyTree]],
  lengths: tuple[int, int],
  *,
  detach: Callable[[PyTree], PyTree] = jax.lax.stop_gradient,
  rounds: int = 5,
  max_bytes: float = math.inf,
) -> Cost:
  """Measures a step as the difference between a long and a short run.

  The program is the gradient of the outputs' squared sum with respect to all
  inputs, through a scan. Its final state is donated as the next initial state:
  nothing is copied that a training loop would not copy.

  Args:
    step: maps (state, inputs of a step) to (state, output).
    make: maps a length to the initial state and inputs, with a leading axis of
      that length.
    lengths: numbers of steps of the short and the long run.
    detach: function applied to the initial state; the gradient stops there.
    rounds: number of times each run is timed, alternately; the result is the
      median of the differences.
    max_bytes: programs that need more memory, or have larger arguments, are
      compiled but not run.

  Returns:
    The cost. Bytes are the compiler's planned temporary memory, without
    arguments and results: exact, and known without a run. Seconds are NaN
    without one.

  Raises:
    ValueError: if the lengths do not grow or there is no round.
  """
  short, long = lengths
  if not 1 <= short < long:
    raise ValueError(f"lengths must grow from 1 or more, got {lengths}.")
  if rounds < 1:
    raise ValueError(f"rounds must be positive, got {rounds}.")

  def loss(inputs, state):
    state, outputs = jax.lax.scan(step, detach(state), inputs)
    return jnp.sum(jnp.square(outputs)), state

  gradient = jax.jit(jax.grad(loss, has_aux=True), donate_argnums=1)
  # From shapes: programs that are only compiled may be too large to allocate.
  shapes = [jax.eval_shape(lambda n=n: make(n)) for n in lengths]
  compiled = [gradient.lower(x, state).compile() for state, x in shapes]
  plans: list[Any] = [program.memory_analysis() for program in compiled]
  sizes = [plan.temp_size_in_bytes for plan in plans]
  times = [(math.nan, math.nan)]
  if max(*sizes, *(p.argument_size_in_bytes for p in plans)) <= max_bytes:
    times = _times(compiled, [make(n) for n in lengths], rounds)
  seconds = statistics.median((b - a) / (long - short) for a, b in times)
  return Cost(
    seconds=seconds,
    bytes_per_step=(sizes[1] - sizes[0]) / (long - short),
    bytes_in_all=sizes[1],
    seconds_once=statistics.median(a for a, _ in times) - short * seconds,
  )


def of_memory(
  key: jax.Array,
  make: Callable[[int], memories.Memory],
  lengths: tuple[int, int],
  **options: Any,
) -> Cost:
  """Measures a full memory alone, with random controller outputs.

  Args:
    key: key for words and controller outputs.
    make: maps a number of steps to a memory for gradients over them.
    lengths: as in `of_step`.
    **options: other keywords of `of_step`.

  Returns:
    The cost of a step, in which all heads write and read.

  Raises:
    ValueError: the memory has no `fill`.
  """
  memory = make(lengths[0])
  fill = memory.fill
  if fill is None:
    raise ValueError("make makes a memory without `fill`; give it one.")

  def state_and_numbers(length):
    keys = jax.random.split(jax.random.clone(key))  # for both lengths
    state = fill(keys[0], make(length).init())
    return state, random_use.interface(keys[1], memory, length)

  def step(state, numbers):
    return memory.step(state, **numbers)

  return of_step(
    step, state_and_numbers, lengths, detach=memory.detach, **options
  )


def program(
  measure: Callable[[int, int], Cost], options: experiment.Options
) -> experiment.Program:
  """Makes a program that measures instead of learning.

  Args:
    measure: maps (update from 0, seed) to a cost.
    options: uses the seeds.

  Returns:
    The program; its metrics are the fields of `Cost`. An update is one measure
    for each seed, and so is a chunk: set `log_every` to 1.

  Raises:
    RunError: options have a sweep, for there are no hyper-parameters.
  """
  runs = compilation.grid(options, {})
  seeds = [int(run["seed"]) for run in runs]

  def step_chunk(state):
    costs = [measure(int(state["measured"][0]), seed) for seed in seeds]
    metrics = {
      field: np.array([getattr(cost, field) for cost in costs])
      for field in Cost._fields
    }
    return {"measured": state["measured"] + 1}, metrics

  return experiment.Program(
    step_chunk=step_chunk,
    init=lambda: {"measured": np.zeros(len(runs), np.int32)},
    evaluate=lambda state: {},
    runs=runs,
    unit="sizes",
    reproducible=False,
  )


def _times(compiled, made, rounds):
  """Times the programs alternately, in seconds, after an untimed round."""
  programs = [
    [program, inputs, state]
    for program, (state, inputs) in zip(compiled, made, strict=True)
  ]
  return [[_timed(p) for p in programs] for _ in range(rounds + 1)][1:]


def _timed(program):
  """Times a program, continuing from its last state, in seconds."""
  compiled, inputs, state = program
  start = time.perf_counter()
  gradients, program[2] = jax.block_until_ready(compiled(inputs, state))
  del gradients
  return time.perf_counter() - start
