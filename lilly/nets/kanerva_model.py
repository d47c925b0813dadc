"""The Kanerva Machine: a generative model of episodes, with a memory.

The memory of an episode is the prior of its codes: `kanerva_memories` has the
Kanerva Machine's memory and alternatives.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import haiku as hk
import jax
import jax.numpy as jnp

from lilly.losses import likelihoods
from lilly.memory import kanerva_bounds
from lilly.nets import encoders, set_memories
from lilly.nets.set_memories import SetMemory

__all__ = [
  "Networks",
  "bound",
  "generate",
  "imagine",
  "init",
  "networks",
  "reread",
  "write",
]


class Networks(NamedTuple):
  """Functions of one example; all but `init` take the parameters first."""

  init: Callable[..., Any]  # key, image -> parameters of all networks
  features: Callable[..., jax.Array]  # image -> e, [F]
  address: Callable[..., Any]  # e -> mean and deviation of y, [S] each
  code: Callable[..., Any]  # e -> those of z when writing, [C] each
  reading: Callable[..., Any]  # e, mean of p(z | y, M) -> those of z
  expand: Callable[..., jax.Array]  # y -> b, [S]
  decode: Callable[..., Any]  # z -> parameters of p(x | z)
  likelihood: likelihoods.Likelihood  # p(x | z)
  address_size: int  # S


def networks(
  image_shape: tuple[int, int, int],
  *,
  code_size: int = 100,
  address_size: int = 50,
  num_features: int = 64,
  hidden_size: int = 128,
  num_filters: int = 0,
  likelihood: likelihoods.Likelihood = likelihoods.BERNOULLI,
) -> Networks:
  """Makes the encoder, the decoder and the networks between them.

  Args:
    image_shape: height, width and channels.
    code_size: size of a code, C.
    address_size: size of a latent address, S.
    num_features: output size of the encoder, F.
    hidden_size: units of each hidden layer.
    num_filters: filters of convolutional encoder and decoder; 0: perceptrons.
    likelihood: likelihood of pixels, p(x | z).

  Returns:
    The networks.

  Raises:
    ValueError: a size is not positive; for encoder and decoder, when called.

  Reference:
    Wu et al. (2018), arXiv:1804.01756, section 3. Sizes are not confirmed.
  """
  sizes = {"code_size": code_size, "address_size": address_size}
  for name, size in sizes.items():
    if size < 1:
      raise ValueError(f"{name} is {size}; it must be at least 1.")

  def build():
    encoder, decoder = encoders.pair(
      image_shape,
      num_features,
      num_numbers=likelihood.num_numbers,
      hidden_size=hidden_size,
      num_filters=num_filters,
    )
    return _built(encoder, decoder, hidden_size, code_size, address_size)

  made = hk.without_apply_rng(hk.multi_transform(build))
  features, address, code, reading, expand, decode = cast(Any, made.apply)
  functions = features, address, code, reading, expand, decode
  return Networks(made.init, *functions, likelihood, address_size)


def _built(encoder, decoder, hidden_size, code_size, address_size):
  """For `hk.multi_transform`: the initialiser and the functions."""
  to_address = hk.nets.MLP([hidden_size, 2 * address_size], name="address")
  to_code = hk.nets.MLP([hidden_size, 2 * code_size], name="code")
  to_reading = hk.nets.MLP([hidden_size, 2 * code_size], name="reading")
  expand = hk.nets.MLP([hidden_size, address_size], name="expand")
  features = lambda image: jax.nn.relu(encoder(image))
  address = lambda e: _normal(to_address(e))
  code = lambda e: _normal(to_code(e))

  def reading(e, prior):
    return _normal(to_reading(jnp.concatenate([e, prior])))

  def start(image):
    e = features(image)
    z, _ = reading(e, code(e)[0])
    return expand(address(e)[0]), decoder(z)

  return start, (features, address, code, reading, expand, decoder)


def _normal(numbers):
  """Mean and standard deviation."""
  mean, scale = jnp.split(numbers, 2)
  return mean, jnp.exp(scale)


def init(
  key: jax.Array, nets: Networks, memory: SetMemory, image: jax.Array
) -> Any:
  """Initialises the parameters of networks and memory.

  Args:
    key: typed key.
    nets: networks from `networks`.
    memory: a memory from `kanerva_memories`.
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
  key: jax.Array,
  nets: Networks,
  memory: SetMemory,
  params: Any,
  images: jax.Array,
) -> Any:
  """Writes an episode, with sampled addresses and codes.

  Codes depend on the images only: for a Kanerva Machine the order of the items
  does not matter.

  Args:
    key: typed key.
    nets: networks from `networks`.
    memory: a memory from `kanerva_memories`.
    params: parameters from `init`.
    images: [T, ...].

  Returns:
    The memory's content.
  """
  own = params["nets"]
  e = jax.vmap(nets.features, (None, 0))(own, images)
  q_y = jax.vmap(nets.address, (None, 0))(own, e)
  q_z = jax.vmap(nets.code, (None, 0))(own, e)
  to_y, to_z = _noise(key, q_y, q_z)
  return _write_codes(
    nets, memory, params, _drawn(q_y, to_y), _drawn(q_z, to_z)
  )


def _noise(key, *normals):
  """Draws noise for each in one call, as every call takes long to compile."""
  sizes = [mean.shape[1] for mean, _ in normals]
  noise = jax.random.normal(key, (len(normals[0][0]), sum(sizes)))
  ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
  return jnp.split(noise, ends, axis=1)


def _drawn(normal, noise):
  mean, scale = normal
  return mean + scale * noise


def _write_codes(nets, memory, params, y, z):
  b = jax.vmap(nets.expand, (None, 0))(params["nets"], y)
  return memory.write(params["memory"], {}, b, z)


def bound(
  key: jax.Array,
  nets: Networks,
  memory: SetMemory,
  params: Any,
  images: jax.Array,
  *,
  noise_variance: float = 1.0,
  address_noise: float = 0.0,
  expected: bool = False,
  one_draw: bool = False,
) -> tuple[jax.Array, kanerva_bounds.ConditionalTerms]:
  """Bounds ln p(x | M) of the images of an episode, after writing them.

  Args:
    key: typed key.
    nets: networks from `networks`.
    memory: a memory from `kanerva_memories`.
    params: parameters from `init`.
    images: [T, ...].
    noise_variance: variance of a code, σ².
    address_noise: standard deviation of the noise added to the images from
      which addresses are inferred.
    expected: whether the KL of a code is taken in expectation over the memory
      instead of at its mean.
    one_draw: whether items are read at the same sample of y at which they were
      written. The result is then not a bound: the noise of y identifies items
      at no cost.

  Returns:
    The bound, in nats per image, [], to be maximised; and its terms.

  Reference:
    Wu et al. (2018), arXiv:1804.01756, section 3.
  """
  own = params["nets"]
  each = lambda f, *xs: jax.vmap(f, (None, *[0] * len(xs)))(own, *xs)
  e = e_noisy = each(nets.features, images)
  if address_noise:
    key, key_image = jax.random.split(key)
    seen = images + address_noise * jax.random.normal(key_image, images.shape)
    e_noisy = each(nets.features, seen)
  q_y, q_code = each(nets.address, e_noisy), each(nets.code, e)
  to_y, to_code, to_read_y, to_z = _noise(key, q_y, q_code, q_y, q_code)
  y, z = _drawn(q_y, to_y), _drawn(q_code, to_code)
  content = _write_codes(nets, memory, params, y, z)

  b = each(nets.expand, y if one_draw else _drawn(q_y, to_read_y))
  read = lambda b: memory.read(params["memory"], {}, content, b)
  found = jax.vmap(read)(b)
  prior, variance = found.code, found.variance
  q_z = each(nets.reading, e, prior)
  numbers = each(nets.decode, _drawn(q_z, to_z))

  def of_code(q_z, prior, variance):
    mean, scale = q_z
    given = {"noise_variance": noise_variance, "read_variance": variance}
    return kanerva_bounds.code_kl(mean, scale, prior, **given)

  kl_code = jax.vmap(of_code)(q_z, prior, variance * expected)
  kl_address = jax.vmap(_from_standard)(q_y)
  kl_address *= memory.is_addressed
  log_px = jax.vmap(nets.likelihood.log_density)(numbers, images)
  return kanerva_bounds.conditional_bound(log_px, kl_address, kl_code)


def _from_standard(normal):
  """KL(N(mean, diag scale²) || N(0, I))."""
  mean, scale = normal
  zero = jnp.zeros_like(mean)
  return kanerva_bounds.code_kl(mean, scale, zero, noise_variance=1.0)


def generate(
  key: jax.Array,
  nets: Networks,
  memory: SetMemory,
  params: Any,
  content: Any,
  *,
  noise_variance: float = 1.0,
) -> jax.Array:
  """Samples an image like the written ones: y, then z, then x.

  Args:
    key: typed key.
    nets: networks from `networks`.
    memory: a memory from `kanerva_memories`.
    params: parameters from `init`.
    content: content of the memory, from `write`.
    noise_variance: variance of a code, σ².

  Returns:
    The mean of p(x | z), an image; `reread` moves it towards stored images.

  Reference:
    Wu et al. (2018), arXiv:1804.01756, section 3.4, generation.
  """
  key_y, key_z = jax.random.split(key)
  y = jax.random.normal(key_y, (nets.address_size,))
  b = nets.expand(params["nets"], y)
  mean = memory.read(params["memory"], {}, content, b).code
  z = mean + jnp.sqrt(noise_variance) * jax.random.normal(key_z, mean.shape)
  return nets.likelihood.mean(nets.decode(params["nets"], z))


def imagine(
  nets: Networks, memory: SetMemory, params: Any, content: Any, y: jax.Array
) -> jax.Array:
  """Decodes the image at a latent address, without noise.

  Args:
    nets: networks from `networks`.
    memory: a memory from `kanerva_memories`.
    params: parameters from `init`.
    content: content of the memory, from `write`.
    y: the address, [S]; addresses between those of two images interpolate.

  Returns:
    The mean of p(x | z) at the mean of p(z | y, M), an image.

  Reference:
    Wu et al. (2018), arXiv:1804.01756, interpolations.
  """
  b = nets.expand(params["nets"], y)
  z = memory.read(params["memory"], {}, content, b).code
  return nets.likelihood.mean(nets.decode(params["nets"], z))


def reread(
  nets: Networks, memory: SetMemory, params: Any, content: Any, image: jax.Array
) -> jax.Array:
  """Reads an image from the memory; repeated reads denoise it.

  Args:
    nets: networks from `networks`.
    memory: a memory from `kanerva_memories`.
    params: parameters from `init`.
    content: content of the memory, from `write`.
    image: the query.

  Returns:
    The most likely image at the means of q(y | x) and q(z | x, y, M).

  Reference:
    Wu et al. (2018), arXiv:1804.01756, section 3.4, iterative reading;
    convergence is not stated.
  """
  own = params["nets"]
  e = nets.features(own, image)
  b = nets.expand(own, nets.address(own, e)[0])
  prior = memory.read(params["memory"], {}, content, b).code
  z = nets.reading(own, e, prior)[0]
  return nets.likelihood.mode(nets.decode(own, z))
