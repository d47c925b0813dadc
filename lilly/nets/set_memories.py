"""The interface of memories that store a set at once and answer queries.

Filters, Kanerva Machines, energy networks, attention and recurrent cores all
have this interface, so that they are interchangeable: see `filters`,
`kanerva_memories`, `energy_memory` and `pattern_memories`.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lilly.nets.recurrent import Core, unroll

__all__ = [
  "SetMemory",
  "from_core",
  "init_params",
  "num_floats",
  "recall",
  "to_vector",
]


def _keep_state(params, state, *items):
  return state


class SetMemory(NamedTuple):
  """A memory of one set; `vmap` over sets.

  An item is one array or several, and so is a query, depending on the memory.
  Three functions are required. The others are optional and None by default:
  only memories with slots have addresses, only memories read by descent have an
  energy.
  """

  # init(key, *item) -> params, which are learnt, and state, which is not; the
  # item is an example that determines the sizes of networks
  init: Callable[..., tuple[Any, Any]]
  # write(params, state, *items [n, ...]) -> content
  write: Callable[..., Any]
  # read(params, state, content, *query) -> answer; the content is unchanged
  read: Callable[..., Any]
  # sample(key, params, state, content, *query) -> answer at a random address;
  # None: reads are deterministic
  sample: Callable[..., Any] | None = None
  # write_with_kl(params, state, *items [n, ...]) -> content, and its KL
  # from the prior, in nats, []; None: the content is not a distribution
  write_with_kl: Callable[..., tuple[Any, jax.Array]] | None = None
  # energy(params, state, content, x) -> energy of x, []; None: there is none
  energy: Callable[..., jax.Array] | None = None
  # address(params, state, *query) -> weights over slots, [m]; None: no slots
  address: Callable[..., jax.Array] | None = None
  # observe(params, state, *items [n, ...]) -> state after an update on items
  observe: Callable[..., Any] = _keep_state
  # whether answers depend on the query
  is_addressed: bool = True


def recall(
  memory: SetMemory,
  params: Any,
  state: Any,
  items: jax.Array,
  queries: jax.Array,
) -> tuple[Any, Any]:
  """Writes a set of arrays, then reads several queries.

  Args:
    memory: any memory whose items and queries are single arrays.
    params: parameters of the memory.
    state: state of the memory.
    items: the set, [n, ...].
    queries: the queries, [m, ...].

  Returns:
    The content of the memory, and the answers, with a leading axis [m, ...].
  """
  content = memory.write(params, state, items)
  read = functools.partial(memory.read, params, state, content)
  return content, jax.vmap(read)(queries)


def init_params(memory: SetMemory, key: jax.Array, *item: jax.Array) -> Any:
  """Initialises the parameters of a memory without a state.

  For models that do not support a state and pass {} instead.

  Args:
    memory: any memory.
    key: typed key.
    *item: an example, as in `SetMemory.init`.

  Returns:
    The parameters.

  Raises:
    ValueError: the memory has a state.
  """
  params, state = memory.init(key, *item)
  if jax.tree.leaves(state):
    raise ValueError(
      "memory has a state beside its parameters, which this model does not "
      "support; give one without."
    )
  return params


def num_floats(memory: SetMemory, num_items: int, *item: jax.Array) -> int:
  """Counts the numbers that a memory stores for a set, including integers.

  Args:
    memory: any memory.
    num_items: number of items in the set, n.
    *item: an example, as in `SetMemory.init`.

  Returns:
    The size of the content; only shapes are evaluated.

  Raises:
    ValueError: as `SetMemory.write`.
  """

  def write():
    params, state = memory.init(jax.random.key(0), *item)
    items = [jnp.zeros((num_items, *x.shape), x.dtype) for x in item]
    return memory.write(params, state, *items)

  return sum(math.prod(x.shape) for x in jax.tree.leaves(jax.eval_shape(write)))


def from_core(
  make_core: Callable[[int, int], Core],
  item_size: int,
  answer_size: int,
  *,
  is_asked: bool = True,
  to_answer: Callable[[jax.Array], Any] = lambda output: output,
) -> SetMemory:
  """Makes a memory from a recurrent core, which reads the set as a sequence.

  Inputs are [item, 1] in a write and [query, 0, ..., 0] in a read, whose output
  is the answer. The state after a read is discarded: a read does not affect the
  next one. Without `is_asked`, inputs are the items alone, and the answer is
  the complete state, for a network of the caller.

  Args:
    make_core: maps input and output size to a core, such as
      `functools.partial(cores.make, name, ...)`.
    item_size: total size of an item's arrays.
    answer_size: size of the core's output.
    is_asked: whether the core itself answers queries.
    to_answer: function applied to the answer, a vector.

  Returns:
    The memory. Items and queries are one or several vectors, which are
    concatenated; its content is the core's state.

  Raises:
    ValueError: the core has no state.
  """
  core = make_core(item_size + is_asked, answer_size)
  if not jax.tree.leaves(jax.eval_shape(core.initial_state)):
    raise ValueError(
      "make_core makes a core without a state; give one with a state."
    )

  def write(params, state, *items):
    inputs = jnp.concatenate(items, axis=1)
    if is_asked:
      inputs = jnp.concatenate([inputs, jnp.ones((len(inputs), 1))], axis=1)
    return unroll(core, params, inputs, core.initial_state())[0]

  def read(params, state, content, *query):
    if not is_asked:
      return to_answer(to_vector(content))
    question = jnp.concatenate(query)
    padding = jnp.zeros(item_size + 1 - len(question))
    question = jnp.concatenate([question, padding])
    return to_answer(core.apply(params, question, content)[1])

  def init(key, *item):
    return core.init(key), {}

  return SetMemory(init, write, read, is_addressed=is_asked)


def to_vector(tree: Any) -> jax.Array:
  """Concatenates all arrays of a tree into one vector of floats.

  Args:
    tree: pytree of arrays, possibly integers.

  Returns:
    The vector.
  """
  leaves = [jnp.ravel(x) for x in jax.tree.leaves(tree)]
  return jnp.concatenate([jnp.asarray(x, jnp.float32) for x in leaves])
