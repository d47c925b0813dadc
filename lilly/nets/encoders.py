"""Encoders of images to codes, and decoders of codes to images.

Haiku modules for one image, to be called inside `hk.transform`. Encoders return
num_outputs numbers: a code, or the concatenated mean and scale of one. Decoders
return an image of logits or of means. They are interchangeable.
"""

from collections.abc import Callable, Sequence

import chex
import haiku as hk
import jax
import jax.numpy as jnp

from lilly.nets import convolutions

__all__ = [
  "ConvolutionalDecoder",
  "ConvolutionalEncoder",
  "PerceptronDecoder",
  "PerceptronEncoder",
  "pair",
]

_NUM_BLOCKS = 3


def _check(**sizes):
  for name, size in sizes.items():
    if size < 1:
      raise ValueError(f"{name} is {size}; it must be a positive integer.")


def _check_shape(shape):
  if len(shape) != 3 or min(shape) < 1:
    raise ValueError(
      f"shape is {shape}; it must be three positive integers: rows, columns "
      "and channels."
    )


def _mlp(hidden_sizes, num_outputs):
  """ReLU layers, then a linear one."""
  for l, size in enumerate(hidden_sizes):
    _check(**{f"hidden_sizes[{l}]": size})
  return hk.nets.MLP([*hidden_sizes, num_outputs], name="layers")


class PerceptronEncoder(hk.Module):
  """ReLU layers, then a linear one, on flattened pixels."""

  def __init__(
    self,
    num_outputs: int,
    hidden_sizes: Sequence[int] = (128,),
    name: str | None = None,
  ):
    """Makes the module.

    Args:
      num_outputs: size of the output.
      hidden_sizes: units of each ReLU layer.
      name: name of the module.

    Raises:
      ValueError: a size is not positive.
    """
    super().__init__(name)
    _check(num_outputs=num_outputs)
    self._layers = _mlp(hidden_sizes, num_outputs)

  def __call__(self, image: jax.Array) -> jax.Array:
    """Maps an image, floats [H, W, C], to [num_outputs]."""
    chex.assert_rank(image, 3)
    chex.assert_type(image, float)
    return self._layers(image.reshape(-1))


class PerceptronDecoder(hk.Module):
  """ReLU layers, then a linear one, to the pixels of an image."""

  def __init__(
    self,
    shape: tuple[int, int, int],
    hidden_sizes: Sequence[int] = (128,),
    name: str | None = None,
  ):
    """Makes the module.

    Args:
      shape: shape of the image, H, W, C.
      hidden_sizes: units of each ReLU layer.
      name: name of the module.

    Raises:
      ValueError: a size is not positive.
    """
    super().__init__(name)
    _check_shape(shape)
    rows, columns, channels = self._shape = shape
    self._layers = _mlp(hidden_sizes, rows * columns * channels)

  def __call__(self, code: jax.Array) -> jax.Array:
    """Maps a code, [D], to an image of logits or means, [H, W, C]."""
    chex.assert_rank(code, 1)
    return self._layers(code).reshape(self._shape)


class _Convolution(hk.Module):
  """A kernel, initialised as in `hk.Conv2D`, and a bias."""

  def __init__(self, num_outputs: int, size: int, name: str):
    super().__init__(name)
    self._num_outputs, self._size = num_outputs, size

  def _parameters(self, x, inputs_per_output):
    shape = (self._size, self._size, x.shape[-1], self._num_outputs)
    init = hk.initializers.TruncatedNormal(inputs_per_output**-0.5)
    w = hk.get_parameter("w", shape, x.dtype, init)
    b = hk.get_parameter("b", shape[-1:], x.dtype, jnp.zeros)
    return w, b.reshape(1, 1, -1)

  def __call__(self, x, stride=1):
    w, b = self._parameters(x, self._size**2 * x.shape[-1])
    return convolutions.convolve(x, w, stride) + b


class _Transposed(_Convolution):
  """A transposed convolution, which doubles height and width."""

  def __call__(self, x, shape):
    # Each output depends on 2 x 2 of the 4 x 4 weights of an input.
    w, b = self._parameters(x, 4 * x.shape[-1])
    return convolutions.transposed(x, w, shape) + b


def _residual(x, l):
  """A basic residual block: two convolutions and an identity skip."""
  h = x
  for i in range(2):
    layer = _Convolution(x.shape[-1], 3, f"block_{l}_{i}")
    h = layer(jax.nn.relu(h))
  return x + h


class ConvolutionalEncoder(hk.Module):
  """Three downsamplings, each with a residual block; flattened, linear.

  Downsampling is a 4 x 4 convolution of stride 2; a block has two of 3 x 3.

  Reference:
    Wu et al., 2018 (arXiv 1804.01756), 16 filters for Omniglot (unconfirmed).
    The positions of the ReLUs are not known: here before each layer except
    downsampling, whose outputs start the residual sums.
  """

  def __init__(
    self, num_outputs: int, num_filters: int = 16, name: str | None = None
  ):
    """Makes the module.

    Args:
      num_outputs: size of the output.
      num_filters: channels between the layers.
      name: name of the module.

    Raises:
      ValueError: a size is not positive.
    """
    super().__init__(name)
    _check(num_outputs=num_outputs, num_filters=num_filters)
    self._num_outputs, self._num_filters = num_outputs, num_filters

  def __call__(self, image: jax.Array) -> jax.Array:
    """Maps an image of any size, floats [H, W, C], to [num_outputs]."""
    chex.assert_rank(image, 3)
    chex.assert_type(image, float)
    x = image
    for l in range(_NUM_BLOCKS):
      x = _Convolution(self._num_filters, 4, f"halving_{l}")(x, stride=2)
      x = _residual(x, l)
    return hk.Linear(self._num_outputs, name="output")(jax.nn.relu(x).ravel())


class ConvolutionalDecoder(hk.Module):
  """Mirrors `ConvolutionalEncoder`: linear, then blocks and upsamplings.

  Upsampling is a 4 x 4 transposed convolution of stride 2. Odd numbers of rows
  or columns are those of the encoder.

  Reference:
    Wu et al., 2018 (arXiv 1804.01756; unconfirmed).
  """

  def __init__(
    self,
    shape: tuple[int, int, int],
    num_filters: int = 16,
    name: str | None = None,
  ):
    """Makes the module.

    Args:
      shape: shape of the image, H, W, C; any size.
      num_filters: channels between the layers.
      name: name of the module.

    Raises:
      ValueError: a size is not positive.
    """
    super().__init__(name)
    _check_shape(shape)
    _check(num_filters=num_filters)
    self._shape, self._num_filters = shape, num_filters

  def __call__(self, code: jax.Array) -> jax.Array:
    """Maps a code, [D], to an image of logits or means, [H, W, C]."""
    chex.assert_rank(code, 1)
    rows, columns, channels = self._shape
    sizes = [
      (-(-rows // 2**l), -(-columns // 2**l)) for l in range(_NUM_BLOCKS + 1)
    ]
    smallest = (*sizes[-1], self._num_filters)
    flat = smallest[0] * smallest[1] * smallest[2]
    x = hk.Linear(flat, name="input")(code).reshape(smallest)
    for l in reversed(range(_NUM_BLOCKS)):
      x = _residual(x, l)
      outputs = self._num_filters if l else channels
      doubling = _Transposed(outputs, 4, f"doubling_{l}")
      x = doubling(jax.nn.relu(x), sizes[l])
    return x


def pair(
  shape: tuple[int, int, int],
  num_outputs: int,
  *,
  num_numbers: int = 1,
  hidden_size: int = 128,
  num_filters: int = 0,
) -> tuple[Callable[..., jax.Array], Callable[..., jax.Array]]:
  """Makes an encoder, and a decoder that mirrors it.

  Args:
    shape: shape of images, H, W, C.
    num_outputs: size of the encoder's output.
    num_numbers: outputs of the decoder per channel of a pixel.
    hidden_size: units of the perceptrons' hidden layer.
    num_filters: filters of the convolutions; 0: both are perceptrons.

  Returns:
    The encoder and the decoder.

  Raises:
    ValueError: a size is out of range.
  """
  decoded = (*shape[:2], shape[2] * num_numbers)
  if num_filters:
    return (
      ConvolutionalEncoder(num_outputs, num_filters, name="encoder"),
      ConvolutionalDecoder(decoded, num_filters, name="decoder"),
    )
  return (
    PerceptronEncoder(num_outputs, (hidden_size,), name="encoder"),
    PerceptronDecoder(decoded, (hidden_size,), name="decoder"),
  )
