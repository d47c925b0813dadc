"""Filters: elements written and queried per second, by each memory of sets."""

from typing import Any

from benchmarks import timing

_SIZE, _NUM_BITS, _FPR = 1000, 64, 0.01


def measure() -> dict[str, Any]:
  """Measures writing and querying sets of a thousand elements."""
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
  insert, query = {}, {}
  for name, memory in memories.items():
    insert[name], query[name] = _make(memory, elements)
  empty = bloom.init(jax.random.key(1), *bloom.optimal_size(_SIZE, _FPR))
  insert_bloom = jax.jit(bloom.insert)
  query_bloom = jax.jit(jax.vmap(bloom.query, (None, 0)))
  filled = insert_bloom(empty, elements)
  insert["bloom"] = lambda: insert_bloom(empty, elements)
  query["bloom"] = lambda: query_bloom(filled, elements)
  assert bool(jnp.all(query_bloom(filled, elements)))
  return {"inserted": _measure(insert), "queried": _measure(query)}


def _make(memory, elements):
  """Makes a memory's write and read of all elements at once."""
  import jax

  given = memory.init(jax.random.key(2), elements[0])
  write = jax.jit(memory.write)
  read = jax.jit(jax.vmap(memory.read, (None, None, None, 0)))
  written = write(*given, elements)
  return (
    lambda: write(*given, elements),
    lambda: read(*given, written, elements),
  )


def _measure(candidates):
  seconds = timing.compare(candidates, rounds=5)["seconds"]
  rates = {name: _SIZE / x["median"] for name, x in seconds.items()}
  return {
    name: {
      "elements_per_second": rate,
      "times_bloom": rate / rates["bloom"],
    }
    for name, rate in rates.items()
  }
