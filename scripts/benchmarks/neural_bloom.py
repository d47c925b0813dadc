"""Filters: elements written and asked a second, by each memory of sets."""

from typing import Any

from benchmarks import timing

_SIZE, _NUM_BITS, _FPR = 1000, 64, 0.01


def measure() -> dict[str, Any]:
  """Measures insertion and questions of sets of a thousand elements."""
  import jax
  import jax.numpy as jnp

  from lilly.memory import bloom
  from lilly.nets import filters, recurrent

  elements = jax.random.bernoulli(jax.random.key(0), 0.5, (_SIZE, _NUM_BITS))
  elements = elements.astype(jnp.float32)
  encode = filters.encoder()
  lstm = lambda i, o: recurrent.lstm(i, o, hidden_size=16)
  memories = {
    "neural_bloom": filters.bloom(encode),
    "sparse_of_4": filters.bloom(encode, num_sparse=4),
    "lstm": filters.recurrent(encode, lstm),
    "memory_network": filters.memory_network(encode),
  }
  insert, ask = {}, {}
  for name, memory in memories.items():
    insert[name], ask[name] = _of(memory, elements)
  empty = bloom.init(jax.random.key(1), *bloom.optimal_size(_SIZE, _FPR))
  of_bloom = jax.jit(bloom.insert)
  query = jax.jit(jax.vmap(bloom.query, (None, 0)))
  filled = of_bloom(empty, elements)
  insert["bloom"] = lambda: of_bloom(empty, elements)
  ask["bloom"] = lambda: query(filled, elements)
  assert bool(jnp.all(query(filled, elements)))
  return {"inserted": _rates(insert), "asked": _rates(ask)}


def _of(memory, elements):
  """A memory's two functions, of all elements at once."""
  import jax

  given = memory.init(jax.random.key(2), elements[0])
  write = jax.jit(memory.write)
  read = jax.jit(jax.vmap(memory.read, (None, None, None, 0)))
  written = write(*given, elements)
  return (
    lambda: write(*given, elements),
    lambda: read(*given, written, elements),
  )


def _rates(candidates):
  seconds = timing.compare(candidates, rounds=5)["seconds"]
  rates = {name: _SIZE / x["median"] for name, x in seconds.items()}
  return {
    name: {
      "elements_per_second": rate,
      "times_bloom": rate / rates["bloom"],
    }
    for name, rate in rates.items()
  }
