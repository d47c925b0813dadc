"""The record of memories that a set is written to at once, and that are asked.

Filters, Kanerva Machines, energies, attention and recurrent cores all take this
form, so that each can stand in another's place: `filters`, `kanerva_memories`,
`energy_memory`, `pattern_memories` make them.
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

  An item is one array or several, and so is a query; which, each memory says.
  Three functions make a memory. The others have defaults, which say that there
  is no such thing: an address is a matter of memories with slots, an energy of
  memories that are read by descent.
  """

  # init(key, *item) -> params, which are learned, and state, which is not; the
  # item is an example, for the sizes of networks that see items
  init: Callable[..., tuple[Any, Any]]
  # write(params, state, *items [n, ...]) -> content
  write: Callable[..., Any]
  # read(params, state, content, *query) -> answer; the content stays as it is
  read: Callable[..., Any]
  # sample(key, params, state, content, *query) -> answer at a random address;
  # None: reading has nothing random
  sample: Callable[..., Any] | None = None
  # write_with_kl(params, state, *items [n, ...]) -> content, and its KL
  # from the prior, in nats, []; None: the content is no distribution
  write_with_kl: Callable[..., tuple[Any, jax.Array]] | None = None
  # energy(params, state, content, x) -> energy of x, []; None: there is none
  energy: Callable[..., jax.Array] | None = None
  # address(params, state, *query) -> weights of slots, [m]; None: no slots
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
  """Writes a set of arrays, and reads each of several queries.

  Args:
    memory: any memory whose items and queries are one array each.
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
  """Draws the parameters of a memory that has no state beside them.

  For models that have no place for a state; they give {} where one is wanted.

  Args:
    memory: any memory.
    key: typed key.
    *item: an example, as of `SetMemory.init`.

  Returns:
    The parameters.

  Raises:
    ValueError: the memory has a state.
  """
  params, state = memory.init(key, *item)
  if jax.tree.leaves(state):
    raise ValueError(
      "memory has a state beside its parameters, for which this model has no "
      "place; give one without."
    )
  return params


def num_floats(memory: SetMemory, num_items: int, *item: jax.Array) -> int:
  """Counts the numbers that a memory holds of a set, integers among them.

  Args:
    memory: any memory.
    num_items: items in the set, n.
    *item: an example, as of `SetMemory.init`.

  Returns:
    The numbers in the content. Nothing is computed.

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
  """Makes a memory of a recurrent core, which sees the set as a sequence.

  Inputs are [item, 1] in a write and [query, 0, ..., 0] in a read, whose output
  is the answer. The state after a read is dropped: a read does not change the
  next one. If the core is not asked, inputs are the items alone, and the answer
  is all of its state, for a network of the caller's.

  Args:
    make_core: makes a core of the sizes of input and output; as
      `functools.partial(cores.make, name, ...)`.
    item_size: numbers in an item, of all its arrays.
    answer_size: numbers in the core's output.
    is_asked: whether the core itself answers.
    to_answer: what becomes of the answer, a vector.

  Returns:
    The memory. Items and queries are vectors, one or several, which are put
    together; its content is the core's state.

  Raises:
    ValueError: the core has no state.
  """
  core = make_core(item_size + is_asked, answer_size)
  if not jax.tree.leaves(jax.eval_shape(core.initial_state)):
    raise ValueError("make_core makes a core without a state; give one with.")

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
  """Puts all numbers of a tree into one vector of floats.

  Args:
    tree: arrays, integers among them.

  Returns:
    The vector.
  """
  leaves = [jnp.ravel(x) for x in jax.tree.leaves(tree)]
  return jnp.concatenate([jnp.asarray(x, jnp.float32) for x in leaves])
