"""Threads that update shared parameters without locks: Hogwild.

Each thread has a worker: it pulls a copy of the shared parameters, computes a
gradient with it, and pushes the gradient into the parameters in place, while
the others do the same. JAX releases Python's lock while a program runs, and
NumPy while it adds, so threads run at the same time; a push may be torn, as in
the paper. The shared arrays are NumPy's, for JAX's cannot be changed.

`make_program` returns a `Program` for the driver: metrics, evaluation,
checkpoints and resuming are the driver's, but two runs are never the same.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from lilly import checks
from lilly.training import experiment, nonfinite, signals

__all__ = ["Problem", "RmsProp", "State", "make_program"]


class RmsProp(NamedTuple):
  """The shared optimiser: g <- α g + (1 - α) Δθ², θ <- θ - η Δθ / √(g + ε)."""

  learning_rate: float = 7e-4
  decay: float = 0.99  # α
  epsilon: float = 0.1  # ε
  max_norm: float = 40.0  # largest norm of a gradient
  anneal_frames: float = np.inf  # frames over which the rate falls to 0


class Problem(NamedTuple):
  """What the threads learn; all functions are called on the host."""

  # init(key) -> params
  init: Callable[[jax.Array], Any]
  # init_worker(key, params, index) -> worker, a tree of arrays
  init_worker: Callable[[jax.Array, Any, int], Any]
  # compute(params, target_params, worker, frames)
  #   -> (worker, gradient, metrics []); called from several threads at once
  compute: Callable[[Any, Any, Any, int], tuple[Any, Any, Mapping[str, Any]]]
  # evaluate(params) -> metrics []
  evaluate: Callable[[Any], Mapping[str, Any]]
  num_frames: int  # frames of a gradient
  # frames between copies to the target parameters; None: there are none
  target_period: int | None = None


class State(NamedTuple):
  """State of all runs between two chunks, run axis first."""

  params: np.ndarray  # θ, flat, [R, P]
  mean_squares: np.ndarray  # g, [R, P]
  target_params: np.ndarray  # θ⁻, [R, P]
  workers: Any  # [R, N, ...]
  frames: np.ndarray  # [R] int64
  chunks: np.ndarray  # [R] int64, chunks begun so far
  staleness: np.ndarray  # [R, K] int64, pushes by the number that came between
  guard: nonfinite.NonfiniteState  # counts of skipped gradients


_PUBLISHED = RmsProp()
_MOST_STALE = 255  # the last entry of the histogram counts all beyond


class _Templates(NamedTuple):
  """Structures of what the state holds as plain arrays."""

  unravel: Callable[[np.ndarray], Any]  # flat parameters -> a tree of views
  worker: Any  # a worker of the problem, abstractly


class _Shared:
  """The arrays of one run that its threads change in place."""

  def __init__(self, state, run, num_threads, problem):
    self.params = state.params[run].copy()
    self.mean_squares = state.mean_squares[run].copy()
    self.target_params = state.target_params[run].copy()
    self.staleness = np.zeros_like(state.staleness[run])
    self.skipped: list[Any] = []  # of each push: None, or its bad leaves
    self.frames_before = int(state.frames[run])
    self.pushes = [0] * num_threads  # each is changed by one thread alone
    self.metrics: list[Mapping[str, Any]] = []
    self.error: BaseException | None = None
    self.problem = problem

  @property
  def frames(self):
    return self.frames_before + sum(self.pushes) * self.problem.num_frames


def make_program(
  problem: Problem,
  options: experiment.Options,
  *,
  num_threads: int = 2,
  frames_per_update: int = 1000,
  optimiser: RmsProp = _PUBLISHED,
  has_lock: bool = False,
  record: Callable[..., None] | None = None,
) -> experiment.Program:
  """Makes a program whose workers are threads.

  Args:
    problem: what is learnt.
    options: uses seed, num_seeds, sweep and log_every; seeds run one after
      another.
    num_threads: number of threads, each with a worker.
    frames_per_update: frames of an update of the driver.
    optimiser: the shared optimiser.
    has_lock: whether a push locks the parameters, for comparison.
    record: called as record(thread, params, worker, gradient) after each
      gradient, for tests.

  Returns:
    The program; its metrics are the problem's, and staleness, the mean number
    of pushes between a pull and its push.

  Raises:
    ValueError: a number is out of range.
    RunError: options have a sweep.

  Reference:
    Recht et al., 2011 (arXiv 1106.5730); Mnih et al., 2016 (arXiv 1602.01783).
  """
  num_threads = checks.whole_number("num_threads", num_threads, least=1)
  frames_per_update = checks.whole_number(
    "frames_per_update", frames_per_update, least=1
  )
  if options.sweep:
    raise experiment.RunError(
      "--sweep: threads learn with one setting at a time; leave it out, or "
      "simulate the workers."
    )
  seeds = [options.seed + i for i in range(options.num_seeds)]
  like = _templates(problem)
  frames_per_chunk = frames_per_update * options.log_every

  def init():
    runs = [_init_run(problem, seed, num_threads) for seed in seeds]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *runs)

  def step_chunk(state):
    results, metrics = [], []
    for run in range(len(seeds)):
      after, found = _run_threads(
        problem,
        state,
        run,
        like,
        frames_per_chunk,
        num_threads,
        optimiser,
        threading.Lock() if has_lock else None,
        record,
      )
      results.append(after)
      metrics.append(found)
    state = jax.tree.map(lambda *leaves: np.stack(leaves), *results)
    # A run that was stopped before its first push has fewer metrics.
    names = max(metrics, key=len)
    return state, {
      name: np.array([row.get(name, np.nan) for row in metrics])
      for name in names
    }

  def evaluate(state):
    rows = [problem.evaluate(like.unravel(params)) for params in state.params]
    return {
      name: np.array([float(row[name]) for row in rows]) for name in rows[0]
    }

  return experiment.Program(
    step_chunk=step_chunk,
    init=init,
    evaluate=evaluate,
    runs=tuple({"seed": seed} for seed in seeds),
    steps_per_update=frames_per_update,
    unit="frames",
    reproducible=False,
  )


def _init_run(problem, seed, num_threads):
  """The state of one run."""
  key = jax.random.key(seed)
  key_params, *keys = jax.random.split(key, num_threads + 1)
  params = problem.init(key_params)
  flat = _ravel(params)
  workers = [
    _to_host(problem.init_worker(key, params, i)) for i, key in enumerate(keys)
  ]
  guard = nonfinite.skip_nonfinite(optax.identity()).init(params)
  return State(
    params=flat,
    mean_squares=np.zeros_like(flat),
    target_params=flat.copy(),
    workers=jax.tree.map(lambda *leaves: np.stack(leaves), *workers),
    frames=np.zeros((), np.int64),
    chunks=np.zeros((), np.int64),
    staleness=np.zeros(_MOST_STALE + 1, np.int64),
    guard=jax.tree.map(np.array, guard),
  )


def _templates(problem):
  """The structures of parameters and workers, without computing them."""
  key = jax.eval_shape(lambda: jax.random.key(0))
  params = jax.eval_shape(problem.init, key)
  leaves, structure = jax.tree.flatten(params)
  sizes = [int(np.prod(leaf.shape)) for leaf in leaves]
  ends = np.cumsum(sizes)

  def unravel(flat):
    views = [
      flat[end - size : end].reshape(leaf.shape)
      for leaf, size, end in zip(leaves, sizes, ends, strict=True)
    ]
    return jax.tree.unflatten(structure, views)

  worker = jax.eval_shape(
    lambda key, params: problem.init_worker(key, params, 0), key, params
  )
  return _Templates(unravel, worker)


def _ravel(tree):
  """All leaves as one vector of NumPy."""
  return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def _is_key(leaf):
  return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_host(worker):
  """Arrays of NumPy; typed keys as their data."""
  data = lambda x: jax.random.key_data(x) if _is_key(x) else x
  return jax.tree.map(lambda x: np.array(data(x)), worker)


def _from_host(worker, like):
  wrap = lambda x, y: jax.random.wrap_key_data(x) if _is_key(y) else x
  return jax.tree.map(wrap, worker, like)


def _run_threads(
  problem,
  state,
  run,
  like,
  frames_per_chunk,
  num_threads,
  optimiser,
  lock,
  record,
):
  """Runs one chunk of one run: its state afterwards, and its metrics."""
  shared = _Shared(state, run, num_threads, problem)
  workers = [
    _from_host(
      jax.tree.map(lambda x, i=i: x[run, i], state.workers), like.worker
    )
    for i in range(num_threads)
  ]
  chunks = int(state.chunks[run]) + 1
  goal = chunks * frames_per_chunk

  def work(index):
    try:
      while (
        shared.frames < goal
        and shared.error is None
        and not signals.is_stopping()
      ):
        workers[index] = _push_once(
          shared, index, workers[index], like, optimiser, lock, record
        )
    except BaseException as error:  # raised again in the main thread
      shared.error = error

  threads = [
    threading.Thread(target=work, args=(index,)) for index in range(num_threads)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  if shared.error is not None:
    raise shared.error
  after = State(
    params=shared.params,
    mean_squares=shared.mean_squares,
    target_params=shared.target_params,
    workers=jax.tree.map(
      lambda *leaves: np.stack(leaves), *map(_to_host, workers)
    ),
    frames=np.array(shared.frames, np.int64),
    chunks=np.array(chunks, np.int64),
    staleness=state.staleness[run] + shared.staleness,
    guard=_counted(jax.tree.map(lambda x: x[run], state.guard), shared.skipped),
  )
  return after, _summary(shared)


def _push_once(shared, index, worker, like, optimiser, lock, record):
  """One segment of one thread: pull, compute, push."""
  problem = shared.problem
  pushes_before = sum(shared.pushes)
  copy = shared.params.copy()
  targets = ()
  if problem.target_period is not None:
    targets = like.unravel(shared.target_params.copy())
  before = worker
  worker, gradient, metrics = problem.compute(
    like.unravel(copy), targets, worker, shared.frames
  )
  if record is not None:
    record(index, like.unravel(copy), before, gradient)
  flat = _ravel(gradient)
  bad = None
  if np.isfinite(flat).all():
    with lock or contextlib.nullcontext():
      _apply(shared, flat, optimiser)
  else:
    bad = jax.tree.map(lambda x: not np.isfinite(x).all(), gradient)
  shared.skipped.append(bad)
  between = sum(shared.pushes) - pushes_before
  shared.staleness[min(between, _MOST_STALE)] += 1
  frames = shared.frames
  shared.pushes[index] += 1
  shared.metrics.append({k: float(v) for k, v in metrics.items()})
  period = problem.target_period
  if period and (frames + problem.num_frames) // period > frames // period:
    shared.target_params[:] = shared.params
  return worker


def _apply(shared, gradient, optimiser):
  """Changes the shared arrays in place."""
  norm = np.sqrt(np.sum(np.square(gradient)))
  if norm > optimiser.max_norm:
    gradient = gradient * (optimiser.max_norm / norm)
  part = min(shared.frames / optimiser.anneal_frames, 1.0)
  rate = np.float32(optimiser.learning_rate * (1 - part))
  shared.mean_squares *= np.float32(optimiser.decay)
  shared.mean_squares += np.float32(1 - optimiser.decay) * np.square(gradient)
  shared.params -= (
    rate
    * gradient
    / np.sqrt(shared.mean_squares + np.float32(optimiser.epsilon))
  )


def _counted(guard, skipped):
  """The counts of skipped pushes, as `skip_nonfinite` keeps them."""
  for bad in skipped:
    is_bad = bad is not None
    if is_bad and guard.bad_total == 0:
      guard = guard._replace(
        first_bad_update=guard.count.copy(),
        first_bad_leaves=jax.tree.map(np.array, bad),
      )
    in_a_row = np.where(is_bad, guard.bad_in_a_row + 1, 0).astype(np.int32)
    guard = guard._replace(
      count=guard.count + np.int32(1),
      bad_in_a_row=in_a_row,
      worst_in_a_row=np.maximum(guard.worst_in_a_row, in_a_row),
      bad_total=guard.bad_total + np.int32(is_bad),
    )
  return jax.tree.map(np.asarray, guard)


def _summary(shared):
  """Means over the pushes of a chunk."""
  counts = shared.staleness
  found = {
    "staleness": float(np.sum(np.arange(len(counts)) * counts))
    / max(int(np.sum(counts)), 1)
  }
  for name in shared.metrics[0] if shared.metrics else ():
    found[name] = float(np.mean([row[name] for row in shared.metrics]))
  return found
