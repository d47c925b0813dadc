"""Tests of lilly.nets.encoders."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.nets import encoders

_FORM = ("NHWC", "HWIO", "NHWC")


def transformed(module, *args, **options):
  return hk.transform(lambda x: module(*args, **options)(x))


def shapes(network, x):
  """Shapes of parameters by layer, and of the output; computes nothing."""
  params = jax.eval_shape(network.init, jax.random.key(0), x)
  y = jax.eval_shape(network.apply, params, None, x)
  return named(jax.tree.map(lambda p: p.shape, params)), y.shape


def named(params):
  return {path.split("/", 2)[-1]: layer for path, layer in params.items()}


def convolved(layer, x, stride=1):
  y = jax.lax.conv_general_dilated(
    *(x[None], layer["w"], (stride, stride), "SAME"), dimension_numbers=_FORM
  )
  return y[0] + layer["b"][None, None]


def doubled(layer, x, shape):
  y = jax.lax.conv_transpose(
    *(x[None], layer["w"][::-1, ::-1], (2, 2), "SAME"), dimension_numbers=_FORM
  )
  return y[0, : shape[0], : shape[1]] + layer["b"][None, None]


def residual(params, x, l):
  h = convolved(params[f"block_{l}_0"], jax.nn.relu(x))
  return x + convolved(params[f"block_{l}_1"], jax.nn.relu(h))


def apply(network, params, x):
  """Parameters with biases that are seen, by layer, and the output."""
  rng = np.random.default_rng(1)
  params = jax.tree.map(
    lambda p: rng.normal(size=p.shape).astype(p.dtype) if p.ndim == 1 else p,
    params,
  )
  return named(params), jax.jit(network.apply)(params, None, x)


def assert_spread(params, inputs):
  """Compares with the spread of what an output sums."""
  for name, count in inputs.items():
    w = np.asarray(params[name]["w"])
    np.testing.assert_allclose(w.std() * np.sqrt(count), 1, rtol=0.15)
    assert not np.any(params[name]["b"])


def test_the_encoder_against_xlas_convolutions():
  x = np.random.default_rng(0).normal(size=(7, 6, 2)).astype(np.float32)
  network = transformed(encoders.ConvolutionalEncoder, 5, num_filters=8)
  params = jax.jit(network.init)(jax.random.key(0), x)
  assert_spread(
    named(params), {"halving_1": 128, "block_0_0": 72, "block_2_1": 72}
  )
  params, found = apply(network, params, x)

  @jax.jit
  def oracle(params, x):
    for l in range(3):
      x = residual(params, convolved(params[f"halving_{l}"], x, 2), l)
    x = jax.nn.relu(x).reshape(-1)
    return x @ params["output"]["w"] + params["output"]["b"]

  np.testing.assert_allclose(found, oracle(params, x), rtol=1e-4, atol=1e-4)


def test_the_decoder_against_xlas_convolutions():
  code = np.random.default_rng(0).normal(size=5).astype(np.float32)
  network = transformed(encoders.ConvolutionalDecoder, (7, 6, 8), num_filters=8)
  params = jax.jit(network.init)(jax.random.key(0), code)
  # An output of a doubling sees a quarter of the 4 x 4 places.
  assert_spread(
    named(params), {"doubling_0": 32, "doubling_2": 32, "block_1_1": 72}
  )
  params, found = apply(network, params, code)

  @jax.jit
  def oracle(params, code):
    x = code @ params["input"]["w"] + params["input"]["b"]
    x = x.reshape(1, 1, 8)
    for l, shape in ((2, (2, 2)), (1, (4, 3)), (0, (7, 6))):
      x = jax.nn.relu(residual(params, x, l))
      x = doubled(params[f"doubling_{l}"], x, shape)
    return x

  np.testing.assert_allclose(found, oracle(params, code), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
  ("shape", "smallest"),
  [
    ((28, 28, 1), 4 * 4),
    ((32, 32, 3), 4 * 4),
    ((8, 8, 1), 1),
    ((9, 5, 2), 2 * 1),
    ((1, 1, 1), 1),
  ],
)
def test_any_size_of_image_goes_to_a_code_and_back(shape, smallest):
  encoder = transformed(encoders.ConvolutionalEncoder, 10)
  params, code = shapes(encoder, jnp.zeros(shape))
  assert code == (10,)
  assert params["halving_0"] == {"w": (4, 4, shape[-1], 16), "b": (16,)}
  for l in range(3):
    for i in range(2):
      assert params[f"block_{l}_{i}"] == {"w": (3, 3, 16, 16), "b": (16,)}
  assert params["output"]["w"] == (smallest * 16, 10)
  decoder = transformed(encoders.ConvolutionalDecoder, shape)
  params, image = shapes(decoder, jnp.zeros(10))
  assert image == shape
  assert params["input"]["w"] == (10, smallest * 16)
  assert params["doubling_0"] == {
    "w": (4, 4, 16, shape[-1]),
    "b": (shape[-1],),
  }
  assert params["doubling_2"]["w"] == (4, 4, 16, 16) and len(params) == 10


def test_perceptrons_are_relu_layers_then_a_linear_one():
  rng = np.random.default_rng(0)
  image = rng.normal(size=(3, 2, 2)).astype(np.float32)
  encoder = transformed(encoders.PerceptronEncoder, 4, (6, 5))
  decoder = transformed(encoders.PerceptronDecoder, (3, 2, 2), (5, 6))
  for network, x in ((encoder, image), (decoder, image.ravel()[:4])):
    sizes = jax.eval_shape(network.init, jax.random.key(0), x)
    params = jax.tree.map(lambda p: rng.normal(size=p.shape), sizes)
    params, found = apply(network, params, x)
    h = np.ravel(x)
    for l in range(3):
      h = np.maximum(h, 0) if l else h
      layer = params[f"layers/~/linear_{l}"]
      h = h @ layer["w"] + layer["b"]
    np.testing.assert_allclose(found.ravel(), h, rtol=1e-4, atol=1e-5)
    assert found.shape == ((4,) if network is encoder else (3, 2, 2))


@pytest.mark.parametrize(
  "module", [encoders.PerceptronEncoder, encoders.ConvolutionalEncoder]
)
def test_bytes_are_refused(module):
  network = transformed(module, 4)
  with pytest.raises(AssertionError):
    jax.eval_shape(
      network.init, jax.random.key(0), jnp.zeros((8, 8, 1), jnp.uint8)
    )


@pytest.mark.parametrize(
  ("module", "args", "message"),
  [
    (encoders.PerceptronEncoder, (0,), "num_outputs is 0; it must"),
    (encoders.PerceptronEncoder, (1, (3, 0)), r"hidden_sizes\[1\] is 0; it"),
    (encoders.PerceptronDecoder, ((8, 8),), "must be three positive integers"),
    (encoders.PerceptronDecoder, ((8, 8, 1), (-1,)), r"hidden_sizes\[0\] is"),
    (encoders.ConvolutionalEncoder, (0,), "num_outputs is 0; it must"),
    (encoders.ConvolutionalEncoder, (1, 0), "num_filters is 0; it must"),
    (encoders.ConvolutionalDecoder, ((8, 0, 1),), "must be three positive"),
    (encoders.ConvolutionalDecoder, ((8, 8, 1), 0), "num_filters is 0; it"),
  ],
)
def test_bad_sizes_are_refused(module, args, message):
  network = transformed(module, *args)
  with pytest.raises(ValueError, match=message):
    network.init(jax.random.key(0), jnp.zeros(3))
