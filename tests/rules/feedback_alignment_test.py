"""Tests of feedback alignment against backpropagation, NumPy and theory."""

import functools

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.rules import feedback_alignment as fa
from tests import oracles


@pytest.fixture(name="x64")
def _x64():
  with jax.enable_x64(True):
    yield


def _normal(seed, *shapes):
  rng = np.random.default_rng(seed)
  return [rng.normal(size=shape) for shape in shapes]


@pytest.mark.parametrize("leading", [(), (4,), (2, 3)])
def test_transposed_weights_give_backpropagation(x64, leading):
  x, u, v, w, target = _normal(
    0, (*leading, 5), (5, 4), (4, 6), (6, 3), (*leading, 3)
  )

  def loss(layer, args):
    x, u, v, w = args
    h = jnp.tanh(layer(jnp.tanh(layer(x, u)), v))
    return jnp.sum(jnp.square(layer(h, w) - target)) / 2

  def ours(x, w):
    return fa.linear(x, w, w.T)

  grad = jax.jit(jax.grad(loss, 1), static_argnums=0)
  bp, ours = grad(jnp.matmul, (x, u, v, w)), grad(ours, (x, u, v, w))
  chex.assert_trees_all_close(ours, bp, rtol=0, atol=1e-12)


_GEOMETRIES = [
  {"stride": 1, "padding": "SAME"},
  {"stride": 2, "padding": "SAME"},
  {"stride": (2, 1), "padding": "VALID"},
  {"stride": 1, "padding": "VALID", "rhs_dilation": 2},
  {"stride": 2, "padding": "SAME", "rhs_dilation": (1, 2), "groups": 2},
  {"stride": 1, "padding": [(0, 2), (1, 0)], "groups": 2},
]


def _pair(n):
  return (n, n) if isinstance(n, int) else n


def _plain_conv(x, w, stride, padding, rhs_dilation=1, groups=1):
  return jax.lax.conv_general_dilated(
    x,
    w,
    _pair(stride),
    padding,
    rhs_dilation=_pair(rhs_dilation),
    feature_group_count=groups,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


@pytest.mark.parametrize("geometry", _GEOMETRIES, ids=str)
def test_convolution_goes_back_through_the_feedback_kernel(x64, geometry):
  groups = geometry.get("groups", 1)
  shape = (3, 3, 4 // groups, 2)
  x, w, feedback = map(jnp.asarray, _normal(1, (2, 7, 6, 4), shape, shape))
  plain = functools.partial(_plain_conv, **geometry)
  rest = {k: v for k, v in geometry.items() if k != "groups"}
  ours = functools.partial(fa.conv, feature_group_count=groups, **rest)

  @jax.jit
  def signals(x, w, feedback):
    y, pullback = jax.vjp(plain, x, w)
    g = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
    expected = jax.vjp(plain, x, feedback)[1](g)[0], pullback(g)[1]
    value, pullback = jax.vjp(ours, x, w, feedback)
    return (value, *pullback(g)), (y, *expected, jnp.zeros_like(w))

  # The second feedback is the kernel itself: backpropagation.
  for matrix in (feedback, w):
    actual, expected = signals(x, w, matrix)
    chex.assert_trees_all_close(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("leading", [(0,), (2, 3)])
def test_convolution_takes_any_leading_axes(leading):
  x, w = (
    a.astype(np.float32) for a in _normal(3, (*leading, 4, 5, 2), (3, 3, 2, 3))
  )
  one = jax.jit(functools.partial(fa.conv, w=w, feedback=w, padding="VALID"))
  y = one(x)
  assert y.shape == (*leading, 2, 3, 3)
  for index in np.ndindex(leading):
    np.testing.assert_allclose(y[index], one(x[index]), rtol=1e-5, atol=1e-5)


def test_no_feedback_stops_everything_below():
  x, u, w = (a.astype(np.float32) for a in _normal(4, (6, 5), (5, 4), (4, 3)))

  def loss(x, u, w, feedback):
    h = jnp.tanh(fa.linear(x, u, u.T))
    return jnp.sum(jnp.square(fa.linear(h, w, feedback)))

  grad = jax.jit(jax.grad(loss, (0, 1, 2)))
  grads = [grad(x, u, w, b) for b in (w.T, 0 * w.T)]
  assert np.any(grads[0][1])
  assert not np.any(grads[1][0])
  assert not np.any(grads[1][1])
  np.testing.assert_array_equal(grads[0][2], grads[1][2])


@pytest.mark.parametrize("hidden", ["tanh", "sigmoid"])
@pytest.mark.parametrize("output", ["linear", "sigmoid"])
def test_gradients_are_the_papers_four_steps(x64, hidden, output):
  sizes = (4, 6, 5, 3)
  x, target = _normal(5, (4,), (3,))
  W = _normal(6, *zip(sizes[1:], sizes[:-1], strict=True))
  b = _normal(7, *[(n,) for n in sizes[1:]])
  B = _normal(8, (6, 5), (5, 3))
  dW, db = oracles.feedback_alignment_step(x, target, W, b, B, hidden, output)
  functions = {
    "linear": lambda a: a,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
  }

  def loss(weights, biases):
    h = functions[hidden](x @ weights[0] + biases[0])
    h = functions[hidden](fa.linear(h, weights[1], B[0].T) + biases[1])
    y = functions[output](fa.linear(h, weights[2], B[1].T) + biases[2])
    return jnp.sum(jnp.square(target - y)) / 2

  weights = [jnp.asarray(W_l.T) for W_l in W]
  ours = jax.jit(jax.grad(loss, (0, 1)))(
    weights, [jnp.asarray(b_l) for b_l in b]
  )
  expected = ([-dW_l.T for dW_l in dW], [-db_l for db_l in db])
  chex.assert_trees_all_close(ours, expected, rtol=0, atol=1e-12)


def _loss(params, feedback, x, target):
  """Half the squared error of a linear network with one hidden layer."""
  u, w = params
  feedback = w.T if feedback is None else feedback
  return jnp.sum(jnp.square(target - fa.linear(x @ u, w, feedback))) / 2


@functools.partial(jax.jit, static_argnames="freeze_output")
def _train(params, feedback, xs, targets, learning_rate, freeze_output=False):
  """Trains on one example after another; returns every step's parameters."""

  def step(params, example):
    grads = jax.grad(_loss)(params, feedback, *example)
    rates = (learning_rate, 0.0 if freeze_output else learning_rate)
    new = tuple(
      p - rate * g for p, rate, g in zip(params, rates, grads, strict=True)
    )
    return new, params

  return jax.lax.scan(step, params, (xs, targets))


def _linear_task(seed, steps):
  rng = np.random.default_rng(seed)
  xs = rng.normal(size=(steps, 30))
  target_map = rng.uniform(-1, 1, (30, 10))
  params = (
    rng.uniform(-0.01, 0.01, (30, 20)),
    rng.uniform(-0.01, 0.01, (20, 10)),
  )
  feedback = rng.uniform(-0.5, 0.5, (10, 20))
  return params, feedback, xs, xs @ target_map


def test_conserves_the_discrete_identity(x64):
  learning_rate, steps = 1e-3, 300
  params, feedback, xs, targets = _linear_task(0, steps)
  last, history = jax.tree.map(
    np.asarray, _train(params, feedback, xs, targets, learning_rate)
  )
  B = np.asarray(feedback).T

  def conserved(params):
    W0, W = (np.asarray(p).T for p in params)
    return B @ W + W.T @ B.T - W0 @ W0.T

  drift = np.zeros((20, 20))
  for t in range(steps):
    W0, W = (np.asarray(p[t]).T for p in history)
    x, target = np.asarray(xs[t]), np.asarray(targets[t])
    E = np.outer(target - W @ W0 @ x, x)
    drift -= learning_rate**2 * B @ E @ E.T @ B.T
  moved = conserved(last) - conserved(params)
  assert np.abs(moved).max() > 0.1
  np.testing.assert_allclose(moved, drift, rtol=0, atol=1e-10)


def test_lyapunov_function_never_rises(x64):
  rng = np.random.default_rng(1)
  feedback, target_map = (
    rng.uniform(-0.5, 0.5, (10, 20)),
    rng.normal(size=(30, 10)),
  )
  # All unit vectors at once: inputs with the identity as covariance.
  xs = np.broadcast_to(np.eye(30), (4000, 30, 30))
  targets = np.broadcast_to(target_map, (4000, 30, 10))
  params = (np.zeros((30, 20)), np.zeros((20, 10)))
  _, (u, w) = _train(params, feedback, xs, targets, 1e-3)
  errors = target_map[None] - np.asarray(u[::20]) @ np.asarray(w[::20])
  lyapunov = np.sum(np.square(errors @ feedback), (1, 2))
  assert np.all(np.diff(lyapunov) <= 0)
  assert np.linalg.norm(errors[-1]) < 0.05 * np.linalg.norm(target_map)


def test_zero_weights_learn_and_backpropagation_does_not(x64):
  params, feedback, xs, targets = _linear_task(3, 300)
  zeros = jax.tree.map(np.zeros_like, params)
  learned, _ = _train(zeros, feedback, xs, targets, 1e-3)
  stuck, _ = _train(zeros, None, xs, targets, 1e-3)
  errors = targets - xs @ np.asarray(learned[0]) @ np.asarray(learned[1])
  assert np.sum(np.square(errors)) < 0.8 * np.sum(np.square(targets))
  assert not any(np.any(p) for p in stuck)


def test_feedback_aligns_only_while_the_output_layer_trains():
  params, feedback, xs, targets = jax.tree.map(
    np.float32, _linear_task(4, 1500)
  )

  def mean_angle(freeze_output):
    last, _ = _train(params, feedback, xs, targets, 1e-3, freeze_output)
    u, w = map(np.asarray, last)
    errors = targets[:50] - xs[:50] @ u @ w
    a, b = errors @ feedback, errors @ w.T
    cosines = np.sum(a * b, 1) / np.sqrt(np.sum(a * a, 1) * np.sum(b * b, 1))
    return np.degrees(np.arccos(cosines)).mean()

  assert mean_angle(freeze_output=False) < 45
  assert 70 < mean_angle(freeze_output=True) < 110


def test_learning_rate_multiplies_a_sum_over_outputs(x64):
  # Two examples, one step: dW0 = Σ_n x_n (e_n B)ᵀ in closed form, no means.
  xs, u, w, feedback, targets = _normal(
    9, (2, 3), (3, 4), (4, 2), (2, 4), (2, 2)
  )
  grads = jax.jit(jax.grad(_loss))((u, w), feedback, xs, targets)
  errors = np.asarray(targets - xs @ u @ w)
  expected_u = sum(-np.outer(xs[n], errors[n] @ feedback) for n in range(2))
  expected_w = sum(-np.outer(xs[n] @ u, errors[n]) for n in range(2))
  chex.assert_trees_all_close(grads, (expected_u, expected_w), atol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_gradients_keep_each_arguments_type(dtype):
  x, w, feedback = jnp.ones((2, 3)), jnp.ones((3, 4), dtype), jnp.ones((4, 3))

  def loss(*args):
    return fa.linear(*args).astype(jnp.float32).sum()

  grads = jax.eval_shape(jax.grad(loss, (0, 1, 2)), x, w, feedback)
  chex.assert_trees_all_equal_shapes_and_dtypes(grads, (x, w, feedback))
  assert jax.eval_shape(fa.linear, x.astype(dtype), w, w.T).dtype == dtype


def test_vmap_over_everything_is_a_loop():
  x, w, feedback = (
    np.float32(a) for a in _normal(10, (3, 2, 4), (3, 4, 5), (3, 5, 4))
  )

  def loss(*args):
    return jnp.sum(jnp.tanh(fa.linear(*args)))

  grad = jax.jit(jax.grad(loss, (0, 1)))
  together = jax.jit(jax.vmap(grad))(x, w, feedback)
  loop = [grad(x[i], w[i], feedback[i]) for i in range(3)]
  loop = jax.tree.map(lambda *rows: np.stack(rows), *loop)
  chex.assert_trees_all_close(together, loop, rtol=1e-5, atol=1e-6)


@hypothesis.settings(max_examples=8, deadline=None)
@hypothesis.given(
  st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.integers(0, 2)
)
def test_sizes_may_be_zero_or_one(batch, inputs, outputs, rank):
  x = np.ones((batch,) * rank + (inputs,), np.float32)
  w = np.ones((inputs, outputs), np.float32)
  feedback = np.full((outputs, inputs), 2, np.float32)
  grad = jax.grad(lambda *args: fa.linear(*args).sum(), (0, 1))
  dx, dw = jax.jit(grad)(x, w, feedback)
  np.testing.assert_array_equal(dx, np.full(x.shape, 2.0 * outputs))
  np.testing.assert_array_equal(dw, np.full(w.shape, float(batch**rank)))


def test_wrong_shapes_are_refused():
  x, w = jnp.ones(3), jnp.ones((3, 2))
  with pytest.raises(ValueError, match=r"feedback has shape \[3, 2\]; it must"):
    fa.linear(x, w, w)
  with pytest.raises(ValueError, match="in = 2, as in x"):
    fa.linear(jnp.ones(2), w, w.T)
  kernel = jnp.ones((3, 3, 2, 4))
  with pytest.raises(ValueError, match="feedback has shape"):
    fa.conv(jnp.ones((5, 5, 2)), kernel, kernel.swapaxes(2, 3))
  with pytest.raises(ValueError, match="for x with 3 channels in 1 groups"):
    fa.conv(jnp.ones((5, 5, 3)), kernel, kernel)
  with pytest.raises(ValueError, match="for x with 6 channels in 3 groups"):
    fa.conv(jnp.ones((5, 5, 6)), kernel, kernel, feature_group_count=3)
  for hyper in ({"stride": 0}, {"stride": (1, 0)}, {"rhs_dilation": -1}):
    with pytest.raises(ValueError, match=f"{next(iter(hyper))} is "):
      fa.conv(jnp.ones((5, 5, 2)), kernel, kernel, **hyper)


def test_forward_mode_is_refused():
  x, w = jnp.ones(3), jnp.ones((3, 2))
  with pytest.raises(TypeError):
    jax.jvp(lambda x: fa.linear(x, w, w.T), (x,), (x,))
