"""Networks that tell whether something was in a set.

A `SetMemory` writes a set and scores what is asked, alone. The Neural Bloom
Filter, a recurrent core and a Memory Network take each other's place.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from lilly.memory import addressing, neural_bloom, sphering
from lilly.nets import encoders
from lilly.nets.recurrent import Core, unroll

__all__ = ["READS", "SetMemory", "bloom", "encoder", "memory_network"]
__all__ += ["recurrent"]

READS = ("addressed", "summed")


class SetMemory(NamedTuple):
  """What remembers a set; functions of one set, `vmap` over sets."""

  # init(key, element [...]) -> parameters, which are learnt, and state, not
  init: Callable[..., tuple[Any, Any]]
  # write(parameters, state, elements [n, ...]) -> memory
  write: Callable[..., Any]
  # score(parameters, state, memory, element [...]) -> logit []
  score: Callable[..., jax.Array]
  # num_floats(n) -> how many numbers the memory of n elements is
  num_floats: Callable[[int], int]
  # observe(parameters, state, elements [n, ...]) -> state, after an update
  observe: Callable[..., Any]
  # address(parameters, state, element [...]) -> weights of slots [m], or []
  address: Callable[..., jax.Array]


def encoder(
  *, hidden_size: int = 128, output_size: int = 64, num_filters: int = 0
) -> Callable[[jax.Array], jax.Array]:
  """Makes what elements go through first.

  Args:
    hidden_size: units of the perceptron's hidden layer, leaky ReLUs.
    output_size: numbers that it returns, Z.
    num_filters: of convolutions, for images [H, W, C]; 0: a perceptron.

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
    encode: as from `encoder`.
    num_slots: m.
    word_size: W.
    query_size: D.
    hidden_size: units of each hidden layer.
    read_scale: times what is read: a constant, such as 1 / sqrt(n) of the
      largest sets; ours.
    read: "addressed", M times its weights; "summed", their sum, an ablation.
    is_detached: whether no gradient goes through the write: a control, by which
      words and addresses are learned for queries only.
    num_sparse: k of sparse addresses, whose keys are not learned; 0: dense.
    is_sphered: whether queries go through moving ZCA.
    sphering_decay: η.
    sphering_every: T, updates of moments for one of the projection.

  Returns:
    The memory.

  Raises:
    ValueError: a size or a rate is out of range, or there is no such read.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, sections 3 and 3.1.
  """
  sizes = {"num_slots": num_slots, "word_size": word_size}
  _check(**sizes, query_size=query_size, hidden_size=hidden_size)
  net = _Filter(
    _embedding(encode, query_size, word_size, hidden_size),
    *(_output(hidden_size), num_slots, word_size, query_size, num_sparse),
    *(read_scale, read, is_detached),
    sphering=(sphering_decay, sphering_every) if is_sphered else None,
  )
  _check_settings(net)
  of = lambda function: functools.partial(function, net)
  return SetMemory(
    *(of(_init), of(_write), of(_score), lambda n: num_slots * word_size),
    *(of(_observe), of(_address)),
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
  sphering: tuple[float, int] | None  # decay, and how seldom


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
  """One hidden layer and a layer normalisation, of one element."""
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
  num_read = net.word_size * (slots if net.read == "addressed" else 1)
  found = jnp.zeros(num_read)
  params["output"] = net.output.init(keys[1], found, word, z)
  addresses = neural_bloom.random_keys(keys[2], net.num_slots, net.query_size)
  state = {}
  (state if net.num_sparse else params)["keys"] = addresses
  if net.sphering:
    sphere = sphering.init(net.query_size)
    state |= {"sphere": sphere, "count": jnp.zeros((), jnp.int32)}
  return params, state


def _embedded(net, params, state, element):
  z, query, word = net.embed.apply(params["embed"], element)
  if net.sphering:
    query = sphering.apply(state["sphere"], query)
  return z, query, word


def _keys(net, params, state):
  return (state if net.num_sparse else params)["keys"]


def _found(net, params, state, query):
  """Slots and weights of sparse addresses, or just weights."""
  keys = _keys(net, params, state)
  if net.num_sparse:
    return neural_bloom.sparse_address(query, keys, count=net.num_sparse)
  return (neural_bloom.address(query, keys),)


def _write(net, params, state, elements):
  def one(element):
    _, query, word = _embedded(net, params, state, element)
    return *_found(net, params, state, query), word

  memory = neural_bloom.init(net.num_slots, net.word_size)
  *slots, weights, words = jax.vmap(one)(elements)
  if slots:
    memory = neural_bloom.sparse_write(memory, slots[0], weights, words)
  else:
    memory = neural_bloom.write(memory, weights, words)
  return jax.lax.stop_gradient(memory) if net.is_detached else memory


def _score(net, params, state, memory, element):
  z, query, word = _embedded(net, params, state, element)
  *slots, weights = _found(net, params, state, query)
  rows = memory[slots[0]] if slots else memory
  read = neural_bloom.read
  if net.read == "summed":
    read = lambda rows, weights: addressing.weighted_sum(weights, rows)
  found = net.read_scale * read(rows, weights)
  return net.output.apply(params["output"], found, word, z)


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


def _address(net, params, state, element):
  _, query, _ = _embedded(net, params, state, element)
  *slots, weights = _found(net, params, state, query)
  if not slots:
    return weights
  return jnp.zeros(net.num_slots).at[slots[0]].set(weights)


def _output(hidden_size):
  """Three layers with residual connections: a logit of what is given."""

  @hk.without_apply_rng
  @hk.transform
  def output(*given):
    x = jnp.concatenate([jnp.ravel(x) for x in given])
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
  """Makes a memory of a recurrent core, which sees the set as a sequence.

  Its last state, all of it, goes with the element to a network of three layers.

  Args:
    encode: as from `encoder`.
    make_core: of `lilly.nets.cores`, of the sizes of input and output.
    hidden_size: units of each layer of the network.

  Returns:
    The memory: all numbers of the core's state, whole ones too.

  Raises:
    ValueError: a size is not positive, or the core has no state.

  Reference:
    Rae, Bartunov and Lillicrap (2019), arXiv:1906.04304, section 5: their LSTM
    and DNC.
  """
  _check(hidden_size=hidden_size)
  embed = hk.without_apply_rng(hk.transform(encode))
  output = _output(hidden_size)
  floats = sum(x.size for x in jax.tree.leaves(make_core(1, 1).initial_state()))
  if not floats:
    raise ValueError("make_core makes a core without a state; give one with.")

  core_of = lambda z: make_core(z.shape[-1], 1)

  def init(key, element):
    keys = jax.random.split(key, 3)
    of_embed = embed.init(keys[0], element)
    z = embed.apply(of_embed, element)
    core = core_of(z)
    of_output = output.init(keys[2], _numbers(core.initial_state()), z)
    of_core = core.init(keys[1])
    return {"embed": of_embed, "core": of_core, "output": of_output}, {}

  def write(params, state, elements):
    z = jax.vmap(embed.apply, (None, 0))(params["embed"], elements)
    core = core_of(z)
    return unroll(core, params["core"], z, core.initial_state())[0]

  def score(params, state, memory, element):
    z = embed.apply(params["embed"], element)
    return output.apply(params["output"], _numbers(memory), z)

  return SetMemory(init, write, score, lambda n: floats, _keep, _nowhere)


def _numbers(tree):
  """All arrays in a row, as floats."""
  leaves = [jnp.ravel(x) for x in jax.tree.leaves(tree)]
  return jnp.concatenate([jnp.asarray(x, jnp.float32) for x in leaves])


def memory_network(
  encode: Callable[[jax.Array], jax.Array], *, word_size: int = 2
) -> SetMemory:
  """Makes a Memory Network: a word for each element, asked by its content.

  o = a max_i cos(q, w_i) + b: how familiar the most similar word is.

  Args:
    encode: as from `encoder`.
    word_size: W.

  Returns:
    The memory, which grows with the set.

  Raises:
    ValueError: if the size is not positive.

  Reference:
    Weston et al. (2015), arXiv:1410.3916, as in Rae, Bartunov and Lillicrap
    (2019), arXiv:1906.04304, section 5, where it is the largest content-based
    attention. Ours is of similarities before the softmax: by that, what has
    many like it in the set would be less familiar.
  """
  _check(word_size=word_size)

  @hk.without_apply_rng
  @hk.transform
  def embed(element):
    z = jax.nn.leaky_relu(encode(element))
    return tuple(hk.Linear(word_size, name=n)(z) for n in ("word", "query"))

  def init(key, element):
    scale = {"gain": jnp.array(1.0), "bias": jnp.array(0.0)}
    return {"embed": embed.init(key, element)} | scale, {}

  def write(params, state, elements):
    return jax.vmap(embed.apply, (None, 0))(params["embed"], elements)[0]

  def score(params, state, memory, element):
    _, query = embed.apply(params["embed"], element)
    similar = addressing.cosine_similarity(query, memory)
    # Of no word, as of one that is opposite.
    return params["gain"] * jnp.max(similar, initial=-1.0) + params["bias"]

  of_set = lambda n: n * word_size
  return SetMemory(init, write, score, of_set, _keep, _nowhere)


def _keep(params, state, elements):
  return state


def _nowhere(params, state, element):
  return jnp.zeros(0)


def _check(**sizes):
  for name, size in sizes.items():
    if size < 1:
      raise ValueError(f"{name} is {size}; it must be a positive integer.")
