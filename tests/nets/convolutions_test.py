"""Tests of lilly.nets.convolutions, against XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.nets import convolutions

_FORM = ("NHWC", "HWIO", "NHWC")


def xla_convolve(x, w, stride):
  y = jax.lax.conv_general_dilated(
    x[None], w, (stride, stride), "SAME", dimension_numbers=_FORM
  )
  return y[0]


def xla_transposed(x, w, shape):
  # Theirs turns the kernel; of odd sizes it makes a row more than there was.
  y = jax.lax.conv_transpose(
    x[None], w[::-1, ::-1], (2, 2), "SAME", dimension_numbers=_FORM
  )
  return y[0, : shape[0], : shape[1]]


def assert_equal(functions, inputs, y_shape, dtype="float64"):
  """Compares values of two functions, and gradients of a product with them."""
  rng = np.random.default_rng(0)
  *inputs, cotangent = (rng.normal(size=s) for s in (*inputs, y_shape))

  @jax.jit
  def call(inputs, cotangent):
    pulled = [jax.vjp(function, *inputs) for function in functions]
    return [(y, *pull(cotangent)) for y, pull in pulled]

  with jax.enable_x64(dtype == "float64"):
    inputs, cotangent = jax.tree.map(
      lambda a: jnp.asarray(a, dtype), (inputs, cotangent)
    )
    found, expected = call(inputs, cotangent)
  assert found[0].shape == y_shape
  tolerance = {"float32": 1e-5, "float64": 1e-10}[dtype]
  for a, b in zip(found, expected, strict=True):
    assert a.dtype == dtype
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize(
  ("shape", "size", "stride", "y_shape", "dtype"),
  [
    ((8, 6, 2), 4, 2, (4, 3), "float32"),
    ((7, 4, 3), 4, 2, (4, 2), "float64"),
    ((6, 5, 2), 3, 1, (6, 5), "float64"),
    ((1, 2, 1), 4, 2, (1, 1), "float64"),
    ((7, 3, 2), 1, 2, (4, 2), "float64"),
  ],
)
def test_a_convolution_is_xlas(shape, size, stride, y_shape, dtype):
  assert_equal(
    (
      lambda x, w: convolutions.convolve(x, w, stride),
      lambda x, w: xla_convolve(x, w, stride),
    ),
    inputs=(shape, (size, size, shape[-1], 3)),
    y_shape=(*y_shape, 3),
    dtype=dtype,
  )


@pytest.mark.parametrize(
  ("shape", "dtype"),
  [((8, 6), "float32"), ((7, 4), "float64"), ((1, 2), "float64")],
)
def test_a_transposed_convolution_is_xlas(shape, dtype):
  small = tuple(-(-n // 2) for n in shape)
  assert_equal(
    (
      lambda x, w: convolutions.transposed(x, w, shape),
      lambda x, w: xla_transposed(x, w, shape),
    ),
    inputs=((*small, 3), (4, 4, 3, 2)),
    y_shape=(*shape, 2),
    dtype=dtype,
  )


def test_it_is_the_transpose():
  rng = np.random.default_rng(0)
  w, x = rng.normal(size=(4, 4, 2, 3)), rng.normal(size=(7, 8, 2))
  y = rng.normal(size=(4, 4, 3))

  @jax.jit
  def products(x, y, w):
    back = convolutions.transposed(y, jnp.swapaxes(w, 2, 3), (7, 8))
    return jnp.vdot(convolutions.convolve(x, w, 2), y), jnp.vdot(x, back)

  np.testing.assert_allclose(*products(x, y, w), rtol=1e-5)


def test_the_middle_of_every_window_is_its_place():
  x = np.arange(30.0).reshape(5, 6, 1)
  rows = np.asarray(jax.jit(lambda x: convolutions.patches(x, 3))(x))
  assert rows.shape == (5, 6, 9)
  assert np.array_equal(rows[..., 4:5], x)
  assert rows[0, 0].tolist() == [0, 0, 0, 0, 0, 1, 0, 6, 7]


def test_shapes_that_do_not_fit_are_refused():
  x, w = jnp.ones((4, 4, 2)), jnp.ones((4, 4, 3, 1))
  with pytest.raises(AssertionError):
    convolutions.convolve(x, w)
  with pytest.raises(AssertionError):
    convolutions.transposed(x, w[:, :, :2], (9, 8))
