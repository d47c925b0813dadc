"""The Dynamic Kanerva Machine: an autoencoder with a memory of codes.

The codes of an episode are written to a memory of `kanerva_memories`: the
Dynamic Kanerva Machine's, any recurrent core, or a list of the codes
themselves.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import haiku as hk
import jax
import jax.numpy as jnp

from lilly.losses import likelihoods
from lilly.memory import dynamic_kanerva
from lilly.nets import encoders, set_memories
from lilly.nets.set_memories import SetMemory

__all__ = ["Networks", "init", "loss", "networks", "recall", "write"]


class Networks(NamedTuple):
  """An autoencoder; functions of one example, parameters first."""

  init: Callable[..., Any]  # key, image -> parameters of both networks
  encode: Callable[..., jax.Array]  # image -> z, [C]
  decode: Callable[..., jax.Array]  # z -> parameters of p(x | z)
  likelihood: likelihoods.Likelihood  # p(x | z)


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
    code_size: size of a code, C.
    hidden_size: units of perceptrons' hidden layers.
    num_filters: filters of convolutional encoder and decoder; 0: perceptrons.
    likelihood: likelihood of pixels, p(x | z).

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


def init(
  key: jax.Array, nets: Networks, memory: SetMemory, image: jax.Array
) -> Any:
  """Initialises the parameters of networks and memory.

  Args:
    key: typed key.
    nets: networks from `networks`.
    memory: a memory of codes, from `kanerva_memories`.
    image: an example.

  Returns:
    The parameters.

  Raises:
    ValueError: the memory has a state in addition to its parameters.
  """
  keys = jax.random.split(key)
  return {
    "nets": nets.init(keys[0], image),
    "memory": set_memories.init_params(memory, keys[1]),
  }


def write(
  nets: Networks, memory: SetMemory, params: Any, images: jax.Array
) -> Any:
  """Writes an episode of images to the memory.

  Args:
    nets: networks from `networks`.
    memory: a memory of codes, from `kanerva_memories`.
    params: parameters from `init`.
    images: [T, ...]; their order matters.

  Returns:
    The memory's content.
  """
  codes = jax.vmap(nets.encode, (None, 0))(params["nets"], images)
  return memory.write(params["memory"], {}, codes)


def loss(
  key: jax.Array,
  nets: Networks,
  memory: SetMemory,
  params: Any,
  images: jax.Array,
  *,
  autoencodes: bool = True,
) -> tuple[jax.Array, dynamic_kanerva.LossTerms]:
  """Computes the training loss of the images of an episode.

  Args:
    key: typed key.
    nets: networks from `networks`.
    memory: a memory of codes, from `kanerva_memories`.
    params: parameters from `init`.
    images: [T, ...].
    autoencodes: whether to include the autoencoder term, by which encoder and
      decoder invert each other; False: the ablation.

  Returns:
    The loss, in nats per image; and its terms, including the bound with the KL
    of the memory.

  Reference:
    Wu et al. (2018), arXiv:1811.09556.
  """
  own = params["nets"]
  each = lambda f, *xs: jax.vmap(f, (None, *[0] * len(xs)))(own, *xs)
  codes = each(nets.encode, images)
  given = params["memory"], {}
  if memory.write_with_kl is None:
    content, kl_memory = memory.write(*given, codes), jnp.zeros(())
  else:
    content, kl_memory = memory.write_with_kl(*given, codes)

  def sample(key, code):
    if memory.sample is None:
      return memory.read(*given, content, code)
    return memory.sample(key, *given, content, code)

  keys = jax.random.split(key, len(codes))
  found = jax.vmap(sample)(keys, codes)
  score = jax.vmap(nets.likelihood.log_density)
  log_px = score(each(nets.decode, found.code), images)
  autoencoder = score(each(nets.decode, codes), images)
  total, terms = dynamic_kanerva.loss(log_px, found.kl, kl_memory, autoencoder)
  return total if autoencodes else -terms.bound, terms


def recall(
  nets: Networks,
  memory: SetMemory,
  params: Any,
  content: Any,
  image: jax.Array,
  *,
  num_reads: int = 10,
) -> tuple[jax.Array, jax.Array]:
  """Reads iteratively, towards a stored image: x <- d(read(e(x))).

  Args:
    nets: networks from `networks`.
    memory: a memory of codes, from `kanerva_memories`.
    params: parameters from `init`.
    content: content of the memory, from `write`; it does not change.
    image: the query.
    num_reads: number of reads, n.

  Returns:
    The images, the query first and then the most likely image after each read,
    [n + 1, ...]; and the Lyapunov value V = KL - ln p(x | read(e(x))) of each
    but the last, [n], which decreases over a Dynamic Kanerva Machine's reads.

  Reference:
    Wu et al. (2018), arXiv:1811.09556.
  """
  own = params["nets"]

  def step(x, _):
    code = nets.encode(own, x)
    found = memory.read(params["memory"], {}, content, code)
    numbers = nets.decode(own, found.code)
    log_px = nets.likelihood.log_density(numbers, x)
    following = nets.likelihood.mode(numbers)
    value = dynamic_kanerva.lyapunov(log_px, found.kl)
    return following, (following, value)

  _, (images, values) = jax.lax.scan(step, image, length=num_reads)
  return jnp.concatenate([image[None], images]), values
