"""The driver: its overhead, checkpoints, and startup time."""

import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

_ROOT = pathlib.Path(__file__).parents[2]
_SCRIPT = [sys.executable, "-m", "experiments.feedback_alignment"]
_CHUNKS = 8


def measure() -> dict[str, Any]:
  """Measures overhead, checkpoints, --help and the first update."""
  return {
    "overhead": _overhead(),
    "help_seconds": _help(),
    "first_update_seconds": _first_update(),
  }


def _overhead():
  """Times the loop without its chunks: 784-1000-10, 3 seeds.

  The chunks are timed inside the loop, so the noise of the machine cancels. A
  5-minute run at the default cadence has one checkpoint, its last: the share is
  that of 300 s of such chunks and one checkpoint.
  """
  import jax
  import numpy as np

  from experiments import feedback_alignment
  from lilly import training
  from lilly.tasks import supervised

  rng = np.random.default_rng(0)
  images = rng.integers(0, 255, (10_000, 784), np.uint8)
  labels = rng.integers(0, 10, 10_000)
  task = supervised.images("digits")._replace(
    num_inputs=784, data=[(images, labels), (images[:100], labels[:100])]
  )
  argv = ["bench", "--task=mnist"]
  settings, _ = training.parse(feedback_alignment.SCRIPT, argv)
  experiment = feedback_alignment.make_experiment(settings, "fa", [1000], task)
  options = training.Options(
    num_seeds=3,
    num_updates=200 * _CHUNKS,
    log_every=200,
    seed_batching="map",
  )
  program = training.compiled(experiment, options)
  spent = []

  def step_chunk(state):
    start = time.perf_counter()
    result = jax.block_until_ready(program.step_chunk(state))
    spent.append(time.perf_counter() - start)
    return result

  def rest(checkpoint_every_s):
    """Returns the seconds of a loop that are not spent in its chunks."""
    state = program.init()
    spent.clear()
    with tempfile.TemporaryDirectory() as folder:
      start = time.perf_counter()
      training.loop(
        step_chunk,
        state,
        options._replace(checkpoint_every_s=checkpoint_every_s),
        directory=pathlib.Path(folder),
        num_runs=3,
      )
      return time.perf_counter() - start - sum(spent)

  step_chunk(program.init())
  without, with_one = rest(0.0), rest(600.0)
  chunk = statistics.median(spent)
  share = (without / _CHUNKS) / chunk + max(0.0, with_one - without) / 300
  return {
    "seconds_per_chunk": chunk,
    "chunks": _CHUNKS,
    "seconds_apart_from_chunks": without,
    "seconds_apart_from_chunks_with_a_checkpoint": with_one,
    "share_of_5_minutes": share,
    "target": "at most 0.03",
  }


def _help():
  times = []
  for _ in range(5):
    start = time.perf_counter()
    subprocess.run(
      [*_SCRIPT, "--help"], cwd=_ROOT, check=True, capture_output=True
    )
    times.append(time.perf_counter() - start)
  return {"median": statistics.median(times), "target": "at most 2"}


def _first_update():
  """Times a command up to its first row of training metrics."""
  found = {}
  for task in ("linear", "digits"):
    with tempfile.TemporaryDirectory() as folder:
      command = [*_SCRIPT, f"--task={task}", "--num_seeds=8", "--rules=fa"]
      start = time.perf_counter()
      process = subprocess.Popen(
        [*command, f"--out_dir={folder}/run"],
        cwd=_ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
      )
      metrics = pathlib.Path(folder, "run", "fa", "metrics.jsonl")
      while process.poll() is None:
        if metrics.exists() and "train/" in metrics.read_text():
          break
        time.sleep(0.01)
      found[task] = time.perf_counter() - start
      process.kill()
      process.wait()
  return found | {"target": "at most 20"}
