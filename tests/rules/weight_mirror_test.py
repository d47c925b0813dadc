"""Tests of the weight mirror: moments by Monte Carlo, fixed point, norm."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.rules import weight_mirror

_W = np.array([[1.0, -2.0], [0.5, 0.3], [-1.5, 0.0]], np.float32)

# Learning rate and decay 1: the result is the correlation itself.
_correlation = functools.partial(
  weight_mirror.update,
  w=_W,
  feedback=np.full((2, 3), 1e3, np.float32),
  learning_rate=1.0,
  decay=1.0,
)


def _draws(activation, noise_std, batches=100, batch_size=1000):
  """Means of independent batches, 1e5 samples in all."""
  update = functools.partial(
    _correlation,
    noise_std=noise_std,
    activation=activation,
    batch_size=batch_size,
  )
  keys = jax.random.split(jax.random.key(0), batches)
  return np.asarray(jax.jit(jax.vmap(lambda key: update(key)))(keys))


def _assert_mean(draws, expected):
  error = draws.std(0, ddof=1) / np.sqrt(len(draws))
  assert np.all(np.abs(draws.mean(0) - expected) < 3 * error)
  # Sharp enough to tell: 3 standard errors are small against the effect.
  assert np.all(error < 0.01 * np.abs(expected).max())


def test_correlation_is_the_weights_times_the_noise_variance():
  _assert_mean(_draws(None, noise_std=0.5), 0.25 * _W.T)


def test_correlation_through_an_activation_has_its_mean_slope():
  # Bussgang: σ² E[f'(a)] wᵀ, with a ~ N(0, σ² |w_o|²), by quadrature.
  nodes, weights = np.polynomial.hermite_e.hermegauss(80)
  weights = weights / weights.sum()
  spread = 0.5 * np.linalg.norm(_W, axis=0)
  sigmoid = 1 / (1 + np.exp(-np.outer(spread, nodes)))
  slope = (sigmoid * (1 - sigmoid)) @ weights
  _assert_mean(
    _draws(jax.nn.sigmoid, noise_std=0.5), 0.25 * slope[:, None] * _W.T
  )


@pytest.mark.parametrize(
  "activation", [jax.nn.sigmoid, jnp.cos, lambda y: jnp.tanh(y) + 100.0]
)
def test_the_activation_at_zero_is_subtracted(activation):
  key, batch_size = jax.random.key(5), 16
  noise = jax.random.normal(jax.random.clone(key), (batch_size, 3))
  x = 0.5 * np.asarray(noise, np.float64)
  correlation = _correlation(
    key, activation=activation, noise_std=0.5, batch_size=batch_size
  )
  f = lambda y: np.asarray(activation(jnp.asarray(y, jnp.float32)), np.float64)
  # Without f(0), or with another constant, a small batch's mean differs: by
  # 100 / √16 standard deviations of x at the last activation.
  expected = sum(np.outer(f(row @ _W) - f(0.0), row) for row in x) / batch_size
  np.testing.assert_allclose(correlation, expected, atol=2e-5)
  assert np.abs(f(0.0) * x.mean(0)).max() > 0.02


def test_a_constant_added_to_the_activation_changes_nothing():
  draws = [
    _draws(lambda y, c=c: jax.nn.relu(y) + c, 0.5, batches=4)
    for c in (0.0, 8.0)
  ]
  np.testing.assert_allclose(*draws, atol=1e-5)


def test_mirroring_finds_the_weights():
  rng = np.random.default_rng(3)
  w = rng.normal(size=(8, 5)).astype(np.float32)
  feedback = rng.normal(size=(5, 8)).astype(np.float32)

  @jax.jit
  def mirror(feedback, keys):
    def step(feedback, key):
      return weight_mirror.update(key, w, feedback), None

    return jax.lax.scan(step, feedback, keys)[0]

  mirrored = mirror(feedback, jax.random.split(jax.random.key(1), 200))
  mirrored = np.asarray(mirrored).T

  def cosine(a, b):
    return np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)

  assert cosine(w, feedback.T) < np.cos(np.radians(60))
  assert cosine(w, mirrored) > np.cos(np.radians(10))
  assert 0.9 < np.linalg.norm(mirrored) / np.linalg.norm(w) < 1.1


def test_decay_rate_and_norm_enter_as_written():
  feedback = np.full((2, 3), 10.0, np.float32)

  @jax.jit
  def update(learning_rate, decay, max_norm):
    return weight_mirror.update(
      jax.random.key(2),
      _W,
      feedback,
      learning_rate=learning_rate,
      decay=decay,
      batch_size=4,
      max_norm=max_norm,
    )

  correlation = np.asarray(update(1.0, 1.0, np.inf))
  new = np.asarray(update(0.5, 0.25, np.inf))
  np.testing.assert_allclose(
    new, 0.75 * feedback + 0.5 * correlation, rtol=1e-5
  )
  held = update(0.5, 0.25, 3.0)
  np.testing.assert_allclose(held, new * 3 / np.linalg.norm(new), rtol=1e-5)
  np.testing.assert_array_equal(update(0.5, 0.25, 1e4), new)


def test_no_gradient_goes_to_the_weights():
  def total(w):
    return weight_mirror.update(jax.random.key(4), w, _W.T, batch_size=2).sum()

  assert not np.any(jax.jit(jax.grad(total))(_W))


def test_the_gradient_of_a_bounded_norm_is_finite_at_zeros():
  def total(feedback):
    return weight_mirror.update(
      jax.random.key(4), np.zeros_like(_W), feedback, batch_size=2, max_norm=0.5
    ).sum()

  grad = jax.jit(jax.grad(total))(np.zeros_like(_W.T))
  np.testing.assert_allclose(grad, 0.95, rtol=1e-6)


@pytest.mark.parametrize(
  "hyper",
  [
    {"noise_std": 0.0},
    {"learning_rate": -0.1},
    {"decay": 1.5},
    {"decay": -0.1},
    {"batch_size": 0},
    {"max_norm": 0.0},
  ],
  ids=str,
)
def test_hyper_parameters_outside_their_range_are_refused(hyper):
  ((name, value),) = hyper.items()
  with pytest.raises(ValueError, match=f"{name} is {value}; it must be"):
    weight_mirror.update(jax.random.key(0), _W, _W.T, **hyper)
