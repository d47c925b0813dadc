"""Memories as used by a controller: unconstrained inputs in, words out.

A step is a write followed by a read. Inputs are the outputs of a linear layer,
transformed here to the ranges that the equations require:

  gates, erasures    sigmoid; for DAM, SAM and SDNC
    write gates α            sigmoid(x + 1)
    interpolation gates γ    sigmoid(x - 3)
  strengths β        1 + softplus
  NTM's exponents γ  1 + softplus
  shifts, modes      softmax
  queries, words     unchanged

The shifts of α and γ make an untrained network write each word to a separate
slot, and not overwrite the words it reads. The papers do not state their
initial values. Steps raise ValueError for inputs of another shape than the
interface states.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lilly import checks
from lilly.memory import (
  dense_access,
  differentiable_neural_computer,
  nearest_neighbors,
  sparse_access,
  sparse_neural_computer,
)

__all__ = ["Memory", "dam", "dnc", "ntm", "sam", "sdnc"]


class Memory(NamedTuple):
  """The interface of a memory to its controller."""

  # init() -> state
  init: Callable[[], Any]
  # name -> shape of the controller's unconstrained outputs for a step
  interface: Mapping[str, tuple[int, ...]]
  # step(state, **interface) -> (state, reads)
  step: Callable[..., tuple[Any, jax.Array]]
  # shape of the reads
  reads: tuple[int, ...]
  # detach(state) -> state: ends a segment of truncated backpropagation
  detach: Callable[[Any], Any] = jax.lax.stop_gradient
  # accesses(state) -> weights of the last write and of the last read, summed
  # over heads, [N] each; None: not shown in figures
  accesses: Callable[[Any], tuple[jax.Array, jax.Array]] | None = None
  # fill(key, state) -> state with a standard normal word in every slot;
  # required by benchmarks
  fill: Callable[[jax.Array, Any], Any] | None = None


def ntm(
  *,
  num_slots: int = 64,
  word_size: int = 32,
  num_heads: int = 4,
  fill: float = 1e-6,
) -> Memory:
  """Makes a Neural Turing Machine's memory.

  Args:
    num_slots: number of words, N.
    word_size: size of a word, W.
    num_heads: number of read heads and of write heads, H.
    fill: initial value of the words.

  Returns:
    The memory. Heads shift by -1 to 1 slots and start at slot 0; this start is
    not learnt and not from the paper.

  Raises:
    ValueError: if a size is not positive.

  Reference:
    Graves, Wayne and Danihelka (2014), arXiv:1410.5401.
  """
  head = {"query": (word_size,), "strength": (), "gate": ()}
  head |= {"kernel": (3,), "exponent": ()}
  of_word = {"erase": (word_size,), "word": (word_size,)}
  shapes = {f"write_{name}": shape for name, shape in head.items()} | of_word
  shapes |= {f"read_{name}": shape for name, shape in head.items()}

  def address(numbers, prefix):
    return dense_access.NtmAddress(
      query=numbers[f"{prefix}_query"],
      strength=_above_one(numbers[f"{prefix}_strength"]),
      gate=jax.nn.sigmoid(numbers[f"{prefix}_gate"]),
      kernel=jax.nn.softmax(numbers[f"{prefix}_kernel"]),
      exponent=_above_one(numbers[f"{prefix}_exponent"]),
    )

  def step(state, *, erase, word, **numbers):
    state = dense_access.ntm_write(
      state, address(numbers, "write"), jax.nn.sigmoid(erase), word
    )
    return dense_access.ntm_read(state, address(numbers, "read"))

  def init():
    return dense_access.ntm_init(
      num_slots, word_size, num_heads=num_heads, fill=fill
    )

  _check(init)
  shapes = _each(num_heads, shapes)
  return Memory(
    init,
    shapes,
    _checked(step, shapes),
    reads=(num_heads, word_size),
    accesses=_dense_accesses,
    fill=_dense_fill,
  )


def dam(
  *,
  num_slots: int = 64,
  word_size: int = 32,
  num_heads: int = 4,
  usage_discount: float = 0.99,
  fill: float = 1e-6,
) -> Memory:
  """Makes a Dense Access Memory.

  Args:
    num_slots: number of words, N.
    word_size: size of a word, W.
    num_heads: number of heads, each of which reads and writes, H.
    usage_discount: decay of the usage, λ.
    fill: initial value of the words.

  Returns:
    The memory.

  Raises:
    ValueError: if a size is not positive, there are fewer slots than heads, or
      `usage_discount` is not in [0, 1].

  Reference:
    Rae et al. (2016), arXiv:1610.09027, section 3.
  """

  step = _access_step(dense_access, {}, {"usage_discount": usage_discount})

  def init():
    return dense_access.init(
      num_slots, word_size, num_heads=num_heads, fill=fill
    )

  shapes = _each(num_heads, _access(word_size))
  _check(
    lambda: step(init(), **{name: jnp.zeros(s) for name, s in shapes.items()})
  )
  return Memory(
    init,
    shapes,
    _checked(step, shapes),
    reads=(num_heads, word_size),
    accesses=_dense_accesses,
    fill=_dense_fill,
  )


def dnc(
  *,
  num_slots: int = 64,
  word_size: int = 32,
  num_heads: int = 4,
  fill: float = 1e-6,
) -> Memory:
  """Makes a Differentiable Neural Computer's memory.

  Args:
    num_slots: number of words, N.
    word_size: size of a word, W.
    num_heads: number of read heads, R; there is one write head.
    fill: initial value of the words.

  Returns:
    The memory.

  Raises:
    ValueError: if a size is not positive.

  Reference:
    Graves et al. (2016), Nature 538:471.
  """
  # The state's heads are read heads.
  num_heads = checks.whole_number("num_heads", num_heads, least=1)
  shapes = _each(
    num_heads,
    {"read_keys": (word_size,), "read_strengths": (), "read_modes": (3,)},
  )
  shapes |= dict.fromkeys(("write_key", "erase", "word"), (word_size,))
  shapes |= {"write_strength": (), "free_gates": (num_heads,)}
  shapes |= {"allocation_gate": (), "write_gate": ()}

  def step(state, *, read_keys, read_strengths, read_modes, **write):
    state = differentiable_neural_computer.write(state, _dnc_write(**write))
    return differentiable_neural_computer.read(
      state,
      differentiable_neural_computer.ReadInterface(
        keys=read_keys,
        strengths=_above_one(read_strengths),
        modes=jax.nn.softmax(read_modes),
      ),
    )

  def init():
    return differentiable_neural_computer.init(
      num_slots, word_size, num_reads=num_heads, fill=fill
    )

  _check(init)
  return Memory(
    init,
    shapes,
    _checked(step, shapes),
    reads=(num_heads, word_size),
    accesses=_dense_accesses,
    fill=_dense_fill,
  )


def _dnc_write(*, write_key, write_strength, word, **gates):
  return differentiable_neural_computer.WriteInterface(
    key=write_key,
    strength=_above_one(write_strength),
    word=word,
    **jax.tree.map(jax.nn.sigmoid, gates),
  )


def sam(
  *,
  num_slots: int = 1024,
  word_size: int = 32,
  num_heads: int = 4,
  num_reads: int = 4,
  delta: float = 0.005,
  gradient_rows: int | None = None,
  make_index: Callable[[], nearest_neighbors.Index] | None = None,
  fill: float = 1e-6,
) -> Memory:
  """Makes a Sparse Access Memory.

  Args:
    num_slots: number of words, N; up to 2 million in the paper.
    word_size: size of a word, W.
    num_heads: number of heads, each of which reads and writes, H.
    num_reads: words read per head, K.
    delta: weight above which a slot counts as accessed, δ.
    gradient_rows: as in `sparse_access.init`.
    make_index: makes an empty index of N slots; None: exact search.
    fill: initial value of the words.

  Returns:
    The memory.

  Raises:
    ValueError: as `sparse_access.init`, or delta is not in [0, 1).

  Reference:
    Rae et al. (2016), arXiv:1610.09027, section 3. A patent exists on this
    family of memories (US 11,151,443).
  """

  def init():
    return sparse_access.init(
      num_slots,
      word_size,
      num_heads=num_heads,
      num_reads=num_reads,
      index=None if make_index is None else make_index(),
      gradient_rows=gradient_rows,
      fill=fill,
    )

  delta = checks.number("delta", delta, least=0, below=1)
  _check(init)
  shapes = _each(num_heads, _access(word_size))
  step = _access_step(sparse_access, {"delta": delta}, {"delta": delta})
  return Memory(
    init,
    shapes,
    _checked(step, shapes),
    reads=(num_heads, word_size),
    detach=sparse_access.detach,
    accesses=_sparse_accesses,
    fill=_sparse_fill,
  )


def sdnc(
  *,
  word_size: int = 32,
  num_heads: int = 4,
  num_links: int = 8,
  delta: float = 0.005,
  **sparse: Any,
) -> Memory:
  """Makes a Sparse Differentiable Neural Computer's memory.

  Args:
    word_size: size of a word, W.
    num_heads: number of heads, each of which reads and writes, H.
    num_links: links kept per slot, K_L.
    delta: weight above which a slot counts as accessed, δ.
    **sparse: the other keywords of `sam`.

  Returns:
    The memory.

  Raises:
    ValueError: as `sparse_access.init`, or if `num_links` is not positive.

  Reference:
    Rae et al. (2016), arXiv:1610.09027, supplement D.
  """
  base = sam(word_size=word_size, num_heads=num_heads, delta=delta, **sparse)

  def init():
    return sparse_neural_computer.init(base.init(), num_links=num_links)

  def fill(key, state):
    return state._replace(memory=_sparse_fill(key, state.memory))

  _check(init)
  shapes = dict(base.interface) | {"modes": (num_heads, 3)}
  step = _access_step(
    sparse_neural_computer, {"delta": delta}, {"delta": delta}
  )
  return base._replace(
    init=init,
    interface=shapes,
    step=_checked(step, shapes),
    detach=sparse_neural_computer.detach,
    accesses=lambda state: _sparse_accesses(state.memory),
    fill=fill,
  )


def _above_one(x):
  return 1 + jax.nn.softplus(x)


def _access(word_size):
  """The inputs of a head of DAM and of SAM."""
  return {
    "query": (word_size,),
    "strength": (),
    "word": (word_size,),
    "write_gate": (),
    "interpolation_gate": (),
  }


def _access_step(system, for_write, for_read):
  """Makes the step of DAM, SAM or SDNC."""

  def step(state, *, query, strength, word, **more):
    state = system.write(
      state,
      word,
      jax.nn.sigmoid(more["write_gate"] + 1),
      jax.nn.sigmoid(more["interpolation_gate"] - 3),
      **for_write,
    )
    modes = [jax.nn.softmax(more["modes"])] if "modes" in more else []
    return system.read(state, query, _above_one(strength), *modes, **for_read)

  return step


def _checked(step, shapes):
  """Makes a step that checks the shapes of its inputs."""

  def checked(state, **inputs):
    for name, shape in shapes.items():
      sizes = " ".join(map(str, shape))
      inputs[name] = checks.real(name, inputs[name], sizes)
    return step(state, **inputs)

  return checked


def _dense_accesses(state):
  # The DNC has one write head, without an axis.
  write_weights = jnp.atleast_2d(state.write_weights)
  return write_weights.sum(axis=0), state.read_weights.sum(axis=0)


def _dense_fill(key, state):
  return state._replace(memory=jax.random.normal(key, state.memory.shape))


def _sparse_accesses(state):
  zeros = jnp.zeros(len(state.words.words))

  def spread(address):
    return zeros.at[address.slots].add(address.weights, mode="drop")

  return spread(state.writes), spread(state.reads)


def _sparse_fill(key, state):
  """Fills the words, and inserts them into the index if there is one."""
  words = jax.random.normal(key, state.words.words.shape)
  state = state._replace(words=state.words._replace(words=words))
  if state.index is None:
    return state
  return state._replace(index=nearest_neighbors.file(state.index, words))


def _each(num_heads, shapes):
  return {name: (num_heads, *shape) for name, shape in shapes.items()}


def _check(function):
  """Raises the function's errors early, without computing anything."""
  jax.eval_shape(function)
