"""Kanerva memories: writes by each method, and by a Python loop."""

from typing import Any

from benchmarks import timing

_CODE_SIZE, _NUM_ITEMS, _NUM_EPISODES = 32, 32, 16
_METHODS = ("sequential", "joseph", "batch", "information")


def measure() -> dict[str, Any]:
  """Measures the exact write, with few and many rows, and the dynamic one."""
  return {
    "cost_of_a_write_of_t_items": {
      "sequential": "O(T (K^2 + K C))",
      "joseph": "O(T (K^2 + K C))",
      "batch": "O(T^3 + T^2 (K + C) + T K (K + C))",
      "information": "O(K^3 + (T + K) K (K + C))",
      "dynamic": "O(T (K^3 + K^2 C))",
    },
    "write_32_rows": _writes(32, _NUM_ITEMS, _METHODS),
    "write_256_rows": _writes(256, _NUM_ITEMS, _METHODS),
    "write_1000_items_32_rows": _writes(32, 1000, _METHODS),
    "write_1000_items_256_rows": _writes(256, 1000, _METHODS),
    "16_episodes_side_by_side_32_rows": _side_by_side(32),
    "dynamic_write_32_rows": _dynamic(32),
  }


def _made(num_rows, num_items):
  """Makes a memory, and addresses and codes like those of networks."""
  import jax
  import jax.numpy as jnp

  from lilly.memory import kanerva

  keys = jax.random.split(jax.random.key(0), 3)
  mean = jax.random.normal(keys[0], (num_rows, _CODE_SIZE))
  weights = jax.random.normal(keys[1], (num_items, num_rows))
  values = jax.random.normal(keys[2], (num_items, _CODE_SIZE))
  weights /= jnp.sqrt(num_rows)
  return kanerva.prior(mean, 0.0), weights, values


def _python_loop(state, weights, values):
  """Computes the same write by a plain NumPy loop, in float32."""
  import numpy as np

  mean, cov = (np.asarray(x) for x in state)
  for w, z in zip(np.asarray(weights), np.asarray(values), strict=True):
    c = cov @ w
    total = w @ c + 1.0
    mean = mean + np.outer(c, z - w @ mean) / total
    cov = cov - np.outer(c, c) / total
  return mean, cov


def _writes(num_rows, num_items, methods):
  """Measures items per second by each method, and the ratio to the loop."""
  import functools

  import jax
  import numpy as np

  from lilly.memory import kanerva

  given = _made(num_rows, num_items)
  candidates = {"python_loop": lambda: _python_loop(*given)}
  expected = _python_loop(*given)
  for method in methods:
    write = jax.jit(
      functools.partial(kanerva.write, noise_variance=1.0, method=method)
    )
    for ours, theirs in zip(write(*given), expected, strict=True):
      np.testing.assert_allclose(ours, theirs, atol=1e-3)
    candidates[method] = functools.partial(write, *given)
  return _rates(candidates, num_items)


def _rates(candidates, num_items):
  found = timing.compare(candidates)
  seconds = {name: row["median"] for name, row in found["seconds"].items()}
  base = next(iter(seconds.values()))
  return {
    name: {"items_per_second": num_items / x, "times_the_python_loop": base / x}
    for name, x in seconds.items()
  }


def _side_by_side(num_rows):
  """Measures several episodes in parallel, as in training."""
  import functools

  import jax
  import jax.numpy as jnp

  from lilly.memory import kanerva

  state, weights, values = _made(num_rows, _NUM_ITEMS)
  given = [jnp.stack([x] * _NUM_EPISODES) for x in (weights, values)]

  def loop():
    return [_python_loop(state, *item) for item in zip(*given, strict=True)]

  candidates = {"python_loop": loop}
  for method in _METHODS:
    write = functools.partial(kanerva.write, noise_variance=1.0, method=method)
    each = jax.jit(jax.vmap(write, (None, 0, 0)))
    candidates[method] = functools.partial(each, state, *given)
  return _rates(candidates, _NUM_ITEMS * _NUM_EPISODES)


def _dynamic(num_rows):
  """Measures the write that solves for addresses, and a NumPy loop."""
  import jax
  import numpy as np

  from lilly.memory import dynamic_kanerva

  state, _, values = _made(num_rows, _NUM_ITEMS)

  def loop():
    mean, cov = (np.asarray(x) for x in state)
    for z in np.asarray(values):
      left = mean @ mean.T + np.eye(num_rows, dtype=np.float32)
      w = np.linalg.solve(left, mean @ z)
      c = cov @ w
      total = w @ c + 1.0
      mean = mean + np.outer(c, z - w @ mean) / total
      cov = cov - np.outer(c, c) / total
    return mean

  write = jax.jit(dynamic_kanerva.write)
  np.testing.assert_allclose(write(state, values)[0].mean, loop(), atol=1e-2)
  return _rates(
    {"python_loop": loop, "ridge": lambda: write(state, values)}, _NUM_ITEMS
  )
