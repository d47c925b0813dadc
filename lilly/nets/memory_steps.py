"""One step of each memory, driven by random numbers instead of a controller.

What a memory costs is measured on it alone, with every slot in use: the words
are random and an index holds all of them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lilly.memory import (
  dense_access,
  differentiable_neural_computer,
  nearest_neighbors,
  sparse_access,
  sparse_neural_computer,
)

__all__ = ["MEMORIES", "MemoryStep", "make"]

MEMORIES = ("ntm", "dam", "dnc", "sam_exact", "sam_lsh", "sdnc")
_FILED_AT_ONCE = 64


class MemoryStep(NamedTuple):
  """A memory as a step of a scan."""

  # init(key, num_steps) -> state, for gradients over num_steps
  init: Callable[[jax.Array, int], Any]
  # inputs(key, num_steps) -> interface, leaves [num_steps, ...]
  inputs: Callable[[jax.Array, int], Any]
  # step(state, interface) -> (state, reads [H, W])
  step: Callable[[Any, Any], tuple[Any, jax.Array]]
  # detach(state) -> state, at the start of a segment
  detach: Callable[[Any], Any] = jax.lax.stop_gradient


def make(
  name: str,
  num_slots: int,
  *,
  num_heads: int = 1,
  num_reads: int = 4,
  word_size: int = 32,
) -> MemoryStep:
  """Makes the step of a memory.

  Args:
    name: one of `MEMORIES`; sdnc searches by LSH, as sam_lsh does.
    num_slots: N.
    num_heads: H, each of which reads and writes; of a DNC only reads.
    num_reads: K, words a sparse head reads.
    word_size: W.

  Returns:
    The step: a write, then a read.

  Raises:
    ValueError: the name is unknown.

  Reference:
    Rae et al. (2016), arXiv:1610.09027, figure 1 and supplement E.

  >>> memory = make("dam", 16, word_size=4)
  >>> interface = memory.inputs(jax.random.key(0), 5)
  >>> state = memory.init(jax.random.key(1), 5)
  >>> jax.lax.scan(memory.step, state, interface)[1].shape
  (5, 1, 4)
  """
  if name not in MEMORIES:
    raise ValueError(f"name={name!r} is unknown; known: {', '.join(MEMORIES)}.")
  if name == "ntm":
    return _ntm(num_slots, num_heads, word_size)
  if name == "dam":
    return _dam(num_slots, num_heads, word_size)
  if name == "dnc":
    return _dnc(num_slots, num_heads, word_size)
  return _sparse(name, num_slots, num_heads, num_reads, word_size)


def _normal(key, shapes, num_steps):
  """Random numbers of each shape, the steps first."""
  return {
    name: jax.random.normal(jax.random.fold_in(key, i), (num_steps, *shape))
    for i, (name, shape) in enumerate(shapes.items())
  }


def _access_shapes(num_heads, word_size):
  """What a head of DAM or SAM is told."""
  each = (num_heads,)
  words = (num_heads, word_size)
  return {"query": words, "word": words, "write_gate": each, "gate": each}


def _write_then_read(memory, state, x):
  gates = (jax.nn.sigmoid(x["write_gate"]), jax.nn.sigmoid(x["gate"]))
  state = memory.write(state, x["word"], *gates)
  return memory.read(state, x["query"], jnp.full_like(x["gate"], 5.0))


def _dam(num_slots, num_heads, word_size):
  shapes = _access_shapes(num_heads, word_size)

  def init(key, num_steps):
    del num_steps
    state = dense_access.init(num_slots, word_size, num_heads=num_heads)
    return state._replace(memory=jax.random.normal(key, state.memory.shape))

  return MemoryStep(
    init=init,
    inputs=lambda key, num_steps: _normal(key, shapes, num_steps),
    step=lambda state, x: _write_then_read(dense_access, state, x),
  )


def _ntm(num_slots, num_heads, word_size):
  each, words = (num_heads,), (num_heads, word_size)
  head = {"query": words, "strength": each, "gate": each}
  head |= {"kernel": (num_heads, 3), "exponent": each}
  shapes = {f"write_{name}": shape for name, shape in head.items()}
  shapes |= {f"read_{name}": shape for name, shape in head.items()}
  shapes |= {"erase": words, "word": words}

  def address(x, prefix):
    return dense_access.NtmAddress(
      query=x[f"{prefix}_query"],
      strength=1 + jax.nn.softplus(x[f"{prefix}_strength"]),
      gate=jax.nn.sigmoid(x[f"{prefix}_gate"]),
      kernel=jax.nn.softmax(x[f"{prefix}_kernel"]),
      exponent=1 + jax.nn.softplus(x[f"{prefix}_exponent"]),
    )

  def init(key, num_steps):
    del num_steps
    state = dense_access.ntm_init(num_slots, word_size, num_heads=num_heads)
    return state._replace(memory=jax.random.normal(key, state.memory.shape))

  def step(state, x):
    erase = jax.nn.sigmoid(x["erase"])
    state = dense_access.ntm_write(state, address(x, "write"), erase, x["word"])
    return dense_access.ntm_read(state, address(x, "read"))

  return MemoryStep(
    init=init,
    inputs=lambda key, num_steps: _normal(key, shapes, num_steps),
    step=step,
  )


def _dnc(num_slots, num_heads, word_size):
  words, word, each = (num_heads, word_size), (word_size,), (num_heads,)
  shapes = {"keys": words, "strengths": each, "modes": (num_heads, 3)}
  shapes |= {"key": word, "strength": (), "erase": word, "word": word}
  shapes |= {"free_gates": each, "allocation_gate": (), "write_gate": ()}

  def init(key, num_steps):
    del num_steps
    state = differentiable_neural_computer.init(
      num_slots, word_size, num_reads=num_heads
    )
    return state._replace(memory=jax.random.normal(key, state.memory.shape))

  def step(state, x):
    gate = {
      name: jax.nn.sigmoid(x[name])
      for name in ("erase", "free_gates", "allocation_gate", "write_gate")
    }
    write = differentiable_neural_computer.WriteInterface(
      key=x["key"],
      strength=1 + jax.nn.softplus(x["strength"]),
      word=x["word"],
      **gate,
    )
    read = differentiable_neural_computer.ReadInterface(
      keys=x["keys"],
      strengths=1 + jax.nn.softplus(x["strengths"]),
      modes=jax.nn.softmax(x["modes"]),
    )
    state = differentiable_neural_computer.write(state, write)
    return differentiable_neural_computer.read(state, read)

  return MemoryStep(
    init=init,
    inputs=lambda key, num_steps: _normal(key, shapes, num_steps),
    step=step,
  )


def _sparse(name, num_slots, num_heads, num_reads, word_size):
  shapes = _access_shapes(num_heads, word_size)
  if name == "sdnc":
    shapes |= {"modes": (num_heads, 3)}

  def init(key, num_steps):
    keys = jax.random.split(key)
    words = jax.random.normal(keys[0], (num_slots, word_size))
    index = None
    if name != "sam_exact":
      index = _filled(
        nearest_neighbors.init(keys[1], num_slots, word_size), words
      )
    state = sparse_access.init(
      num_slots,
      word_size,
      num_heads=num_heads,
      num_reads=num_reads,
      index=index,
      gradient_rows=num_steps * num_heads * (num_reads + 1),
    )
    state = state._replace(words=state.words._replace(words=words))
    if name != "sdnc":
      return state
    return sparse_neural_computer.init(state)

  def step(state, x):
    if name != "sdnc":
      return _write_then_read(sparse_access, state, x)
    gates = (jax.nn.sigmoid(x["write_gate"]), jax.nn.sigmoid(x["gate"]))
    state = sparse_neural_computer.write(state, x["word"], *gates)
    strength = jnp.full_like(x["gate"], 5.0)
    modes = jax.nn.softmax(x["modes"])
    return sparse_neural_computer.read(state, x["query"], strength, modes)

  return MemoryStep(
    init=init,
    inputs=lambda key, num_steps: _normal(key, shapes, num_steps),
    step=step,
    detach=(sparse_neural_computer if name == "sdnc" else sparse_access).detach,
  )


def _filled(index, words):
  """Files all words, few at a time: it takes the square of their number."""
  num_slots = len(words)
  slots = jnp.arange(num_slots + -num_slots % _FILED_AT_ONCE)

  def file(index, slots):
    rows = words.at[slots].get(mode="fill", fill_value=0)
    return nearest_neighbors.insert(index, slots, rows), None

  return jax.lax.scan(file, index, slots.reshape(-1, _FILED_AT_ONCE))[0]
