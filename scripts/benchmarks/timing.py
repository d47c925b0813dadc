"""Times candidates against one another on a shared machine."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def compare(
  candidates: Mapping[str, Callable[[], Any]],
  rounds: int = 11,
) -> dict[str, Any]:
  """Times the candidates alternately: A B C, A B C, ...

  Each is called once before the first round, untimed, so that compilation is
  not counted, and each call waits until its result is ready. A slow period of
  the machine affects all candidates of a round alike, and the medians ignore
  it.

  Args:
    candidates: name -> function without arguments, whose result is awaited and
      discarded. It must not donate arrays that it needs again.
    rounds: number of times each is timed.

  Returns:
    `{"rounds": rounds, "seconds": {name: {"median", "min", "max"}},
    "ratio": {name: its median over the first candidate's median}}`.

  Raises:
    ValueError: if there are no candidates, or rounds < 1.
  """
  import jax  # Imported late: the runner imports this package without JAX.

  if not candidates:
    raise ValueError("candidates is empty; give at least one function.")
  if rounds < 1:
    raise ValueError(f"rounds={rounds}; at least 1 is needed.")
  for call in candidates.values():
    jax.block_until_ready(call())
  times = {name: [] for name in candidates}
  for _ in range(rounds):
    for name, call in candidates.items():
      start = time.perf_counter()
      jax.block_until_ready(call())
      times[name].append(time.perf_counter() - start)
  medians = {name: statistics.median(times[name]) for name in times}
  base = next(iter(medians.values()))
  return {
    "rounds": rounds,
    "seconds": {
      name: {"median": medians[name], "min": min(spent), "max": max(spent)}
      for name, spent in times.items()
    },
    "ratio": {name: median / base for name, median in medians.items()},
  }
