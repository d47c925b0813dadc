"""The Dynamic Kanerva Machine: an autoencoder whose codes go through a memory.

`Memory` says what the codes of an episode are written to: the Dynamic Kanerva
Machine's, any recurrent core with a memory, or a list of the codes themselves.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import haiku as hk
import jax
import jax.numpy as jnp

from lilly.losses import likelihoods
from lilly.memory import addressing, dynamic_kanerva, kanerva
from lilly.nets import encoders
from lilly.nets.recurrent import Core

__all__ = [
  "Memory",
  "Networks",
  "Reading",
  "core_memory",
  "dynamic_memory",
  "init",
  "list_memory",
  "loss",
  "networks",
  "recall",
  "written",
]


class Networks(NamedTuple):
  """An autoencoder; functions of one example, parameters first."""

  init: Callable[..., Any]  # key, image -> parameters of both
  encode: Callable[..., jax.Array]  # image -> z, [C]
  decode: Callable[..., jax.Array]  # z -> parameters of p(x | z)
  likelihood: likelihoods.Likelihood  # p(x | z)


class Reading(NamedTuple):
  """What a memory makes of a code."""

  code: jax.Array  # [C]
  kl: jax.Array  # of the address, in nats, []; 0 where there is none


class Memory(NamedTuple):
  """What codes go through; functions of one episode."""

  # init(key) -> parameters
  init: Callable[[jax.Array], Any]
  # write(parameters, codes [T, C]) -> state, and KL of the memory, []
  write: Callable[[Any, jax.Array], tuple[Any, jax.Array]]
  # read(parameters, state, code [C]) -> Reading, at the mean address
  read: Callable[[Any, Any, jax.Array], Reading]
  # sample(key, parameters, state, code [C]) -> Reading, at one that is drawn
  sample: Callable[[jax.Array, Any, Any, jax.Array], Reading]


def networks(
  image_shape: tuple[int, int, int],
  *,
  code_size: int = 100,
  hidden_size: int = 128,
  num_filters: int = 0,
  likelihood: likelihoods.Likelihood = likelihoods.BERNOULLI,
) -> Networks:
  """Makes an encoder and a decoder.

  Args:
    image_shape: height, width and channels.
    code_size: numbers in a code, C.
    hidden_size: units of perceptrons' hidden layers.
    num_filters: of convolutional encoder and decoder; 0: both are perceptrons.
    likelihood: of pixels.

  Returns:
    The networks.

  Raises:
    ValueError: a size is not positive, when called.

  Reference:
    Wu et al. (2018), arXiv:1811.09556; 16 filters for Omniglot are not
    confirmed.
  """

  def build():
    encoder, decoder = encoders.pair(
      image_shape,
      code_size,
      num_numbers=likelihood.num_numbers,
      hidden_size=hidden_size,
      num_filters=num_filters,
    )
    return lambda image: decoder(encoder(image)), (encoder, decoder)

  made = hk.without_apply_rng(hk.multi_transform(build))
  encode, decode = cast(Any, made.apply)
  return Networks(made.init, encode, decode, likelihood)


def dynamic_memory(
  num_rows: int,
  code_size: int,
  *,
  noise_variance: float = 1.0,
  num_iterations: int = 1,
  method: dynamic_kanerva.Method = "ridge",
) -> Memory:
  """Makes the Dynamic Kanerva Machine's memory, with a learned prior.

  Args:
    num_rows: K, less than C: C rows give back any query, whatever was written.
    code_size: C.
    noise_variance: σ² of codes.
    num_iterations: how often the address of an item is found as it is written.
    method: as of `dynamic_kanerva.address`.

  Returns:
    The memory.

  Raises:
    ValueError: a size is not positive; a method is unknown, when called.

  Reference:
    Wu et al. (2018), arXiv:1811.09556, begun as the authors' released module.
  """
  given = {"noise_variance": noise_variance, "method": method}
  _check(num_rows=num_rows, code_size=code_size)

  def init(key):
    shape = num_rows, code_size
    return {
      "mean": jax.random.truncated_normal(key, -2.0, 2.0, shape),
      "log_variance": jnp.zeros(()),
      "log_weight_stddev": jnp.full((), math.log(0.3)),
    }

  def write(params, codes):
    prior = kanerva.prior(params["mean"], params["log_variance"])
    state, _ = dynamic_kanerva.write(
      prior, codes, num_iterations=num_iterations, **given
    )
    return state, kanerva.kl(state, prior)

  def of(params, reading):
    stddev = jnp.exp(params["log_weight_stddev"])
    kl = dynamic_kanerva.weight_kl(reading.weights, weight_stddev=stddev)
    return Reading(reading.code, kl)

  def read(params, state, code):
    return of(params, dynamic_kanerva.read(state, code, **given))

  def sample(key, params, state, code):
    stddev = jnp.exp(params["log_weight_stddev"])
    reading = dynamic_kanerva.sample_read(
      key, state, code, weight_stddev=stddev, **given
    )
    return of(params, reading)

  return Memory(init, write, read, sample)


def core_memory(core: Core) -> Memory:
  """Makes a memory of a recurrent core: it is shown codes, then asked.

  Inputs are [z, 1] where it is written and [z, 0] where it is read. A read does
  not change what the next one sees, and nothing is drawn.

  Args:
    core: from C + 1 numbers to C.

  Returns:
    The memory.

  Reference:
    Wu et al. (2018), arXiv:1811.09556, compare with a DNC; how it was wired is
    not confirmed.
  """

  def write(params, codes):
    seen = jnp.concatenate([codes, jnp.ones((len(codes), 1))], axis=1)
    step = lambda state, x: core.apply(params, x, state)
    state, _ = jax.lax.scan(step, core.initial_state(), seen)
    return state, jnp.zeros(())

  def read(params, state, code):
    _, found = core.apply(params, jnp.append(code, 0.0), state)
    return Reading(found, jnp.zeros(()))

  return Memory(core.init, write, read, _undrawn(read))


def list_memory(num_codes: int) -> Memory:
  """Makes a memory that keeps codes as they are, and finds the nearest.

  Args:
    num_codes: how many are kept, the last ones.

  Returns:
    The memory, without parameters; trained, it leaves an autoencoder.

  Raises:
    ValueError: num_codes is not positive.
  """
  _check(num_codes=num_codes)

  def write(params, codes):
    return codes[-num_codes:], jnp.zeros(())

  def read(params, codes, code):
    nearest = jnp.argmax(addressing.cosine_similarity(code, codes))
    return Reading(codes[nearest], jnp.zeros(()))

  return Memory(lambda key: (), write, read, _undrawn(read))


def _check(**sizes):
  for name, size in sizes.items():
    if size < 1:
      raise ValueError(f"{name} is {size}; it must be at least 1.")


def _undrawn(read):
  return lambda key, params, state, code: read(params, state, code)


def init(
  key: jax.Array, nets: Networks, memory: Memory, image: jax.Array
) -> Any:
  """Draws the parameters of nets and memory.

  Args:
    key: typed key.
    nets: as from `networks`.
    memory: one of those here.
    image: one.

  Returns:
    The parameters.
  """
  keys = jax.random.split(key)
  return {"nets": nets.init(keys[0], image), "memory": memory.init(keys[1])}


def written(
  nets: Networks, memory: Memory, params: Any, images: jax.Array
) -> Any:
  """Writes an episode.

  Args:
    nets: as from `networks`.
    memory: one of those here.
    params: as from `init`.
    images: [T, ...]; their order matters.

  Returns:
    The memory's state.
  """
  codes = jax.vmap(nets.encode, (None, 0))(params["nets"], images)
  return memory.write(params["memory"], codes)[0]


def loss(
  key: jax.Array,
  nets: Networks,
  memory: Memory,
  params: Any,
  images: jax.Array,
  *,
  autoencodes: bool = True,
) -> tuple[jax.Array, dynamic_kanerva.LossTerms]:
  """Sums what is made small in training on the images of an episode.

  Args:
    key: typed key.
    nets: as from `networks`.
    memory: one of those here.
    params: as from `init`.
    images: [T, ...].
    autoencodes: False: without the term that makes encoder and decoder each
      other's inverse, the ablation.

  Returns:
    The loss, in nats for an image; and its terms. The bound, in which the
    memory's divergence is, stands among them.

  Reference:
    Wu et al. (2018), arXiv:1811.09556.
  """
  own = params["nets"]
  each = lambda f, *xs: jax.vmap(f, (None, *[0] * len(xs)))(own, *xs)
  codes = each(nets.encode, images)
  state, kl_memory = memory.write(params["memory"], codes)
  sample = lambda key, code: memory.sample(key, params["memory"], state, code)
  keys = jax.random.split(key, len(codes))
  found = jax.vmap(sample)(keys, codes)
  score = jax.vmap(nets.likelihood.log_density)
  log_px = score(each(nets.decode, found.code), images)
  autoencoder = score(each(nets.decode, codes), images)
  given = log_px, found.kl, kl_memory, autoencoder
  total, terms = dynamic_kanerva.loss(*given)
  return total if autoencodes else -terms.bound, terms


def recall(
  nets: Networks,
  memory: Memory,
  params: Any,
  state: Any,
  image: jax.Array,
  *,
  num_reads: int = 10,
) -> tuple[jax.Array, jax.Array]:
  """Reads an image again and again, towards one stored: x <- d(read(e(x))).

  Args:
    nets: as from `networks`.
    memory: one of those here.
    params: as from `init`.
    state: of the memory, as from `written`; it stays as it is.
    image: a query.
    num_reads: n.

  Returns:
    The images, each the likeliest at what was read of the one before, the query
    first, [n + 1, ...]; and the value V = KL - ln p(x | read(e(x))) of each but
    the last, [n], which falls along a Dynamic Kanerva Machine's reads.

  Reference:
    Wu et al. (2018), arXiv:1811.09556.
  """
  own = params["nets"]

  def step(x, _):
    found = memory.read(params["memory"], state, nets.encode(own, x))
    numbers = nets.decode(own, found.code)
    log_px = nets.likelihood.log_density(numbers, x)
    following = nets.likelihood.likeliest(numbers)
    value = dynamic_kanerva.lyapunov(log_px, found.kl)
    return following, (following, value)

  _, (images, values) = jax.lax.scan(step, image, length=num_reads)
  return jnp.concatenate([image[None], images]), values
