"""Networks that classify whether an element is in a set.

Each is a `set_memories.SetMemory`: it writes the elements of a set and reads
the logit of a query, one element. The Neural Bloom Filter, recurrent cores and
a Memory Network are interchangeable.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from lilly.memory import addressing, neural_bloom, sphering
from lilly.nets import encoders, set_memories
from lilly.nets.recurrent import Core
from lilly.nets.set_memories import SetMemory

__all__ = ["READS", "bloom", "encoder", "memory_network", "recurrent"]

READS = ("addressed", "summed")


def encoder(
  *, hidden_size: int = 128, output_size: int = 64, num_filters: int = 0
) -> Callable[[jax.Array], jax.Array]:
  """Makes the encoder of elements.

  Args:
    hidden_size: units of the perceptron's hidden layer, leaky ReLUs.
    output_size: output size, Z.
    num_filters: filters of the convolutions, for images [H, W, C]; 0: a
      perceptron.

  Returns:
    A function of one element, to be called inside `hk.transform`: z, [Z].

  Raises:
    ValueError: a size is out of range.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, appendix C: three
    convolutions of 64 filters; ours have residual blocks between them.
  """
  sizes = {"hidden_size": hidden_size, "output_size": output_size}
  _check(**sizes)
  if num_filters < 0:
    raise ValueError(f"num_filters is {num_filters}; it must not be negative.")

  def encode(element):
    if num_filters:
      image = encoders.ConvolutionalEncoder(output_size, num_filters)
      return image(element)
    layers = hk.nets.MLP(
      [hidden_size, output_size], activation=jax.nn.leaky_relu, name="encoder"
    )
    return layers(element.ravel())

  return encode


def bloom(
  encode: Callable[[jax.Array], jax.Array],
  *,
  num_slots: int = 8,
  word_size: int = 4,
  query_size: int = 32,
  hidden_size: int = 128,
  read_scale: float = 1.0,
  read: str = "addressed",
  is_detached: bool = False,
  num_sparse: int = 0,
  is_sphered: bool = False,
  sphering_decay: float = 0.95,
  sphering_every: int = 1,
) -> SetMemory:
  """Makes a Neural Bloom Filter.

  Args:
    encode: encoder of an element, from `encoder`.
    num_slots: memory slots, m.
    word_size: size of a memory word, W.
    query_size: size of a query vector, D.
    hidden_size: units of each hidden layer.
    read_scale: constant factor of the values read, such as 1 / sqrt(n) for the
      largest sets; ours.
    read: "addressed": M times the address; "summed": its sum over slots, an
      ablation.
    is_detached: whether gradients through the write are stopped: a control, in
      which words and addresses are learnt from queries only.
    num_sparse: slots of a sparse address, k, with fixed random keys; 0: dense
      addresses.
    is_sphered: whether queries are whitened by a moving ZCA transform.
    sphering_decay: decay rate of the transform's covariance, η.
    sphering_every: updates of the covariance per update of the transform, T.

  Returns:
    The memory; its content is M, [m, W].

  Raises:
    ValueError: a size or a rate is out of range, or `read` is unknown.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, sections 3 and 3.1.
  """
  _check(
    num_slots=num_slots,
    word_size=word_size,
    query_size=query_size,
    hidden_size=hidden_size,
  )
  net = _Filter(
    embed=_embedding(encode, query_size, word_size, hidden_size),
    output=_output(hidden_size),
    num_slots=num_slots,
    word_size=word_size,
    query_size=query_size,
    num_sparse=num_sparse,
    read_scale=read_scale,
    read=read,
    is_detached=is_detached,
    sphering=(sphering_decay, sphering_every) if is_sphered else None,
  )
  _check_settings(net)
  return SetMemory(
    init=functools.partial(_init, net),
    write=functools.partial(_write, net),
    read=functools.partial(_read, net),
    address=functools.partial(_address, net),
    observe=functools.partial(_observe, net),
  )


class _Filter(NamedTuple):
  """Networks and settings of a Neural Bloom Filter."""

  embed: hk.Transformed  # element -> z, query, word
  output: hk.Transformed  # r, word, z -> logit
  num_slots: int
  word_size: int
  query_size: int
  num_sparse: int
  read_scale: float
  read: str
  is_detached: bool
  sphering: tuple[float, int] | None  # η, and T


def _check_settings(net):
  if net.read not in READS:
    raise ValueError(f"read is {net.read!r}; it must be one of {READS}.")
  if not 0 <= net.num_sparse <= net.num_slots:
    raise ValueError(
      f"num_sparse is {net.num_sparse}; it must be from 0 to {net.num_slots}."
    )
  if not 0 < net.read_scale < math.inf:
    raise ValueError(
      f"read_scale is {net.read_scale}; it must be positive, and finite."
    )
  if net.sphering:
    decay, every = net.sphering
    _check(sphering_every=every)
    if not 0 <= decay <= 1:
      raise ValueError(f"sphering_decay is {decay}; it must be from 0 to 1.")


def _embedding(encode, query_size, word_size, hidden_size):
  @hk.without_apply_rng
  @hk.transform
  def embed(element):
    z = encode(element)
    query = _head(z, query_size, hidden_size, "query")
    return z, query, _head(z, word_size, hidden_size, "word")

  return embed


def _head(z, size, hidden_size, name):
  """One hidden layer with layer normalisation, for one element."""
  layers = hk.nets.MLP(
    [hidden_size, size], activation=jax.nn.leaky_relu, name=f"{name}_layers"
  )
  norm = hk.LayerNorm(-1, True, True, name=f"{name}_norm")
  return norm(layers(jax.nn.leaky_relu(z)))


def _init(net, key, element):
  keys = jax.random.split(key, 3)
  params = {"embed": net.embed.init(keys[0], element)}
  z, _, word = net.embed.apply(params["embed"], element)
  slots = net.num_sparse or net.num_slots
  read_size = net.word_size * (slots if net.read == "addressed" else 1)
  params["output"] = net.output.init(keys[1], jnp.zeros(read_size), word, z)
  addresses = neural_bloom.random_keys(keys[2], net.num_slots, net.query_size)
  state = {}
  if net.num_sparse:
    state["keys"] = addresses
  else:
    params["keys"] = addresses
  if net.sphering:
    state["sphere"] = sphering.init(net.query_size)
    state["count"] = jnp.zeros((), jnp.int32)
  return params, state


def _embed(net, params, state, element):
  z, query, word = net.embed.apply(params["embed"], element)
  if net.sphering:
    query = sphering.apply(state["sphere"], query)
  return z, query, word


def _find(net, params, state, query) -> tuple[Any, Any]:
  """Computes slots and weights of an address; slots are None if dense."""
  if not net.num_sparse:
    return None, neural_bloom.address(query, params["keys"])
  return neural_bloom.sparse_address(query, state["keys"], count=net.num_sparse)


def _write(net, params, state, elements):
  def address_and_word(element):
    _, query, word = _embed(net, params, state, element)
    return *_find(net, params, state, query), word

  memory = neural_bloom.init(net.num_slots, net.word_size)
  slots, weights, words = jax.vmap(address_and_word)(elements)
  if slots is None:
    memory = neural_bloom.write(memory, weights, words)
  else:
    memory = neural_bloom.sparse_write(memory, slots, weights, words)
  return jax.lax.stop_gradient(memory) if net.is_detached else memory


def _read(net, params, state, memory, element):
  z, query, word = _embed(net, params, state, element)
  slots, weights = _find(net, params, state, query)
  rows = memory if slots is None else jnp.asarray(memory)[slots]
  if net.read == "summed":
    r = addressing.weighted_sum(weights, rows)
  else:
    r = neural_bloom.read(rows, weights)
  return net.output.apply(params["output"], net.read_scale * r, word, z)


def _address(net, params, state, element):
  _, query, _ = _embed(net, params, state, element)
  slots, weights = _find(net, params, state, query)
  if slots is None:
    return weights
  return jnp.zeros(net.num_slots).at[slots].set(weights)


def _observe(net, params, state, elements):
  if not net.sphering:
    return state
  decay, every = net.sphering
  embed = jax.vmap(net.embed.apply, (None, 0))
  _, queries, _ = embed(params["embed"], elements)
  sphere = sphering.update(state["sphere"], queries)
  count = state["count"] + 1
  new = sphering.refresh(sphere, decay=decay, every=every)
  is_due = count % every == 0
  sphere = jax.tree.map(lambda x, y: jnp.where(is_due, x, y), new, sphere)
  return {**state, "sphere": sphere, "count": count}


def _output(hidden_size):
  """Three layers with residual connections, from arrays to a logit."""

  @hk.without_apply_rng
  @hk.transform
  def output(*arrays):
    x = jnp.concatenate([jnp.ravel(x) for x in arrays])
    h = hk.Linear(hidden_size, name="layer_0")(x)
    for l in (1, 2):
      h += hk.Linear(hidden_size, name=f"layer_{l}")(jax.nn.leaky_relu(h))
    return hk.Linear(1, name="logit")(jax.nn.leaky_relu(h))[0]

  return output


def recurrent(
  encode: Callable[[jax.Array], jax.Array],
  make_core: Callable[[int, int], Core],
  *,
  hidden_size: int = 128,
) -> SetMemory:
  """Makes a memory from a recurrent core, which reads the set as a sequence.

  The complete last state and the element are the input of a three-layer
  network.

  Args:
    encode: encoder of an element, from `encoder`.
    make_core: maps input and output size to a core.
    hidden_size: units of each layer of that network.

  Returns:
    The memory; its content is the core's state.

  Raises:
    ValueError: a size is not positive, or the core has no state.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, section 5: their LSTM
    and DNC.
  """
  _check(hidden_size=hidden_size)
  embed = hk.without_apply_rng(hk.transform(encode))
  output = _output(hidden_size)
  set_memories.from_core(make_core, 1, 1)  # raises its errors early

  def memory_of(z):
    return set_memories.from_core(make_core, z.shape[-1], 1, is_asked=False)

  def init(key, element):
    keys = jax.random.split(key, 3)
    embed_params = embed.init(keys[0], element)
    z = embed.apply(embed_params, element)
    memory = memory_of(z)
    core_params, _ = memory.init(keys[1])
    content = memory.write(core_params, {}, z[None][:0])  # of an empty set
    numbers = memory.read(core_params, {}, content)
    output_params = output.init(keys[2], numbers, z)
    return {
      "embed": embed_params,
      "core": core_params,
      "output": output_params,
    }, {}

  def write(params, state, elements):
    z = jax.vmap(embed.apply, (None, 0))(params["embed"], elements)
    return memory_of(z).write(params["core"], {}, z)

  def read(params, state, content, element):
    z = embed.apply(params["embed"], element)
    numbers = memory_of(z).read(params["core"], {}, content)
    return output.apply(params["output"], numbers, z)

  return SetMemory(init, write, read)


def memory_network(
  encode: Callable[[jax.Array], jax.Array], *, word_size: int = 2
) -> SetMemory:
  """Makes a Memory Network: one word per element, compared with the query.

  o = a max_i cos(q, w_i) + b: how familiar the most similar word is.

  Args:
    encode: encoder of an element, from `encoder`.
    word_size: size of a memory word, W.

  Returns:
    The memory, which grows with the set; its content is the words, [n, W].

  Raises:
    ValueError: if the size is not positive.

  Reference:
    Weston et al. (2015), arXiv:1410.3916, as in Rae, Bartunov and Lillicrap
    (2019), arXiv:1906.04304, section 5, where it is the largest content-based
    attention weight. Ours uses the similarities before the softmax: after it,
    an element with many similar ones in the set would be less familiar.
  """
  _check(word_size=word_size)

  @hk.without_apply_rng
  @hk.transform
  def embed(element):
    z = jax.nn.leaky_relu(encode(element))
    return tuple(hk.Linear(word_size, name=n)(z) for n in ("word", "query"))

  def init(key, element):
    scale = {"gain": jnp.ones(()), "bias": jnp.zeros(())}
    return {"embed": embed.init(key, element)} | scale, {}

  def write(params, state, elements):
    return jax.vmap(embed.apply, (None, 0))(params["embed"], elements)[0]

  def read(params, state, words, element):
    _, query = embed.apply(params["embed"], element)
    similar = addressing.cosine_similarity(query, words)
    # An empty set has the similarity of an opposite word.
    return params["gain"] * jnp.max(similar, initial=-1.0) + params["bias"]

  return SetMemory(init, write, read)


def _check(**sizes):
  for name, size in sizes.items():
    if size < 1:
      raise ValueError(f"{name} is {size}; it must be a positive integer.")
