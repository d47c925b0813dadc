"""Convolutions of one image, as matrix products of its patches.

Equal to XLA's convolutions, whose gradients on CPU take four times as long
inside a scan, and under a `vmap` over weights. Elsewhere XLA's take half the
time.
"""

import chex
import jax
import jax.numpy as jnp

__all__ = ["convolve", "patches", "transposed"]


def patches(x: jax.Array, size: int, stride: int = 1) -> jax.Array:
  """Extracts the size x size patch around each position.

  Zero-padded as by `padding="SAME"`: an odd row or column of padding is added
  below or to the right.

  Args:
    x: image, [H, W, C].
    size: size of the window, along both axes.
    stride: stride of the window, in rows and in columns.

  Returns:
    [ceil(H / stride), ceil(W / stride), size² C]: rows of the window first,
    then its columns, then channels.

  >>> patches(jnp.arange(1.0, 4)[None, :, None], 3)[0, :, 3:6].tolist()
  [[0.0, 1.0, 2.0], [1.0, 2.0, 3.0], [2.0, 3.0, 0.0]]
  """
  chex.assert_rank(x, 3)
  # One axis after the other takes 2 size slices instead of size².
  for axis in (1, 0):
    places = -(-x.shape[axis] // stride)
    last = stride * (places - 1) + 1
    needed = max(last + size - 1 - x.shape[axis], 0)
    pads = [(0, 0)] * 3
    pads[axis] = (needed // 2, needed - needed // 2)
    x = _slices(jnp.pad(x, pads), size, last, stride, axis)
  return x


def _slices(x, size, length, stride, axis):
  """Concatenates, as channels, slices that start at 0, 1, ... size - 1."""
  slices = [
    jax.lax.slice_in_dim(x, i, i + length, stride, axis) for i in range(size)
  ]
  return jnp.concatenate(slices, axis=-1)


def convolve(x: jax.Array, w: jax.Array, stride: int = 1) -> jax.Array:
  """Convolves an image, padded as by `padding="SAME"`.

  y[i, j] = Σ_{a, b} x[stride i + a - top, stride j + b - left] w[a, b]

  Args:
    x: image, [H, W, C].
    w: kernel, [k, k, C, O].
    stride: stride of the window.

  Returns:
    [ceil(H / stride), ceil(W / stride), O].

  >>> convolve(jnp.ones((4, 4, 1)), jnp.ones((4, 4, 1, 1)), 2)[..., 0].tolist()
  [[9.0, 9.0], [9.0, 9.0]]
  """
  chex.assert_shape(w, (w.shape[0], w.shape[0], x.shape[-1], None))
  return patches(x, len(w), stride) @ w.reshape(-1, w.shape[-1])


def transposed(x: jax.Array, w: jax.Array, shape: tuple[int, int]) -> jax.Array:
  """Upsamples an image by a transposed convolution of stride 2.

  The transpose (gradient) of `convolve(., w', 2)` on images of `shape`, where
  w' is the kernel with its channels exchanged.

  Args:
    x: image, [h, w, C].
    w: kernel, [4, 4, C, O].
    shape: rows and columns of the result, H and W: 2h or 2h - 1, 2w or 2w - 1.

  Returns:
    [H, W, O].

  >>> transposed(jnp.ones((1, 2, 1)), jnp.ones((4, 4, 1, 1)), (2, 4))[
  ...   ..., 0
  ... ].tolist()
  [[1.0, 2.0, 2.0, 1.0], [1.0, 2.0, 2.0, 1.0]]
  """
  chex.assert_shape(x, (-(-shape[0] // 2), -(-shape[1] // 2), None))
  rows, columns, channels = x.shape
  chex.assert_shape(w, (4, 4, channels, None))
  # Before cropping, y[2i + a] = x[i] w[a] + x[i - 1] w[a + 2] along each
  # axis: windows of two, and a matrix that computes both values of a.
  x = jnp.pad(x, [(1, 1), (1, 1), (0, 0)])
  for axis in (1, 0):
    x = _slices(x, 2, x.shape[axis] - 1, 1, axis)
  outputs = w.shape[-1]
  w = w.reshape(2, 2, 2, 2, channels, outputs)[::-1, :, ::-1]
  w = w.transpose(0, 2, 4, 1, 3, 5).reshape(4 * channels, 4 * outputs)
  y = (x @ w).reshape(rows + 1, columns + 1, 2, 2, outputs)
  y = y.transpose(0, 2, 1, 3, 4).reshape(2 * rows + 2, 2 * columns + 2, outputs)
  return y[1 : 1 + shape[0], 1 : 1 + shape[1]]
