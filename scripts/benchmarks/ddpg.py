"""DDPG: steps of environment and learning per second, and replay alone."""

import statistics
from typing import Any

from benchmarks import commands

_RATES = "--sweep=policy_rate=3e-5,1e-4,3e-4,1e-3"
# Pendulum, 64 x 64 units, batches of 64, no batch normalisation, guarded.
_COMMANDS = {
  "one_seed": [],
  "8_seeds": ["--num_seeds=8"],
  "8_seeds_one_by_one": ["--num_seeds=8", "--seed_batching=map"],
  "8_seeds_4_rates": ["--num_seeds=8", _RATES],
}


def measure() -> dict[str, Any]:
  """Measures commands, alternately, and a ring."""
  speeds: dict[str, list[float]] = {name: [] for name in _COMMANDS}
  for _ in range(2):
    for name, flags in _COMMANDS.items():
      speeds[name].append(_speed(flags))
  return {
    "updates_per_second_of_all_runs": {
      name: {"mean": statistics.mean(found), "max": max(found)}
      for name, found in speeds.items()
    }
    | {"target": "one_seed at least 5000, 8_seeds at least 12000"},
    "ring": _ring(),
  }


def _speed(flags):
  """Trains for 10,000 updates; returns updates per second over all runs."""
  flags = [*flags, "--num_updates=10000", "--eval_every=10000"]
  return commands.rates("ddpg", flags)["pendulum"]


def _ring(capacity=100_000, count=10_000):
  """Adds transitions of a pendulum one by one; draws batches of 64."""
  import jax
  import jax.numpy as jnp

  from benchmarks import timing
  from lilly.replay import ring

  zero = jnp.zeros(())
  item = (jnp.zeros(3), jnp.zeros(1), zero, zero, jnp.zeros(3))

  @jax.jit
  def add(start):
    def step(state, i):
      return ring.add(state, jax.tree.map(lambda x: x + i, item)), None

    return jax.lax.scan(step, start, jnp.arange(float(count)))[0].rows

  @jax.jit
  def sample(state):
    def step(carry, _):
      key, total = carry
      key, key_sample = jax.random.split(key)
      batch = ring.sample(key_sample, state, 64)
      return (key, total + sum(map(jnp.sum, batch))), None

    return jax.lax.scan(step, (jax.random.key(0), zero), length=count)[0][1]

  state = ring.init(item, capacity)
  full = ring.extend(
    state,
    jax.tree.map(lambda x: jnp.broadcast_to(x, (capacity, *x.shape)), item),
  )
  calls = {"adds": lambda: add(state), "samples_of_64": lambda: sample(full)}
  seconds = timing.compare(calls, rounds=7)["seconds"]
  return {
    f"{name}_per_second": {"median": count / s["median"]}
    for name, s in seconds.items()
  }
