"""Tests of lilly.tasks.supervised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.tasks import supervised


def test_a_linear_teacher_is_a_matrix():
  task = supervised.teacher([30, 10])
  (w,) = task.init(jax.random.key(0))
  x, y = task.sample(jax.random.key(1), [w], (), 2000)
  np.testing.assert_allclose(y, x @ w, rtol=1e-5)
  assert float(jnp.abs(w).max()) <= 1.0 and w.shape == (30, 10)
  # White inputs, as the theory asks for: within 5 standard errors.
  covariance = np.asarray(x.T @ x / len(x))
  assert np.abs(covariance - np.eye(30)).max() < 5 * np.sqrt(2 / len(x))


def test_a_deep_teacher_is_tanh_inside_and_linear_outside():
  task = supervised.teacher([4, 3, 2], scale=2.0)
  weights = task.init(jax.random.key(0))
  x, y = task.sample(jax.random.key(1), weights, (), 7)
  hidden = np.tanh(np.asarray(x) @ np.asarray(weights[0]))
  np.testing.assert_allclose(y, hidden @ np.asarray(weights[1]), rtol=1e-5)
  assert float(jnp.abs(weights[0]).max()) > 1.0


def test_test_examples_are_always_the_same_and_not_the_training_ones():
  task = supervised.teacher([4, 2])
  weights = task.init(jax.random.key(3))
  first, again = task.test(weights, ()), task.test(weights, ())
  assert jnp.array_equal(first[0], again[0]) and first[0].shape == (1000, 4)
  x, _ = task.sample(jax.random.key(3), weights, (), 1000)
  assert not jnp.array_equal(x, first[0])


@pytest.mark.parametrize("sizes", [[], [3], [3, 0], [-1, 2]])
def test_sizes_are_checked(sizes):
  with pytest.raises(ValueError, match="at least two positive"):
    supervised.teacher(sizes)


def test_images_are_pixels_and_one_hot_classes():
  task = supervised.images("digits")
  x, y = jax.jit(task.sample, static_argnums=3)(
    jax.random.key(0), (), task.data, 50
  )
  assert x.shape == (50, task.num_inputs) == (50, 64)
  assert float(x.min()) == 0.0 and float(x.max()) == 1.0
  assert jnp.array_equal(y.sum(-1), jnp.ones(50)) and y.shape == (50, 10)
  # Each example is an image of the data set, with its own label.
  pixels, labels = task.data[0]
  row = int(np.flatnonzero((pixels == np.rint(x[0] * 255)).all(1))[0])
  assert int(y[0].argmax()) == labels[row]
  assert len(task.test((), task.data)[0]) == 360


def test_held_out_images_are_not_trained_on():
  whole = supervised.images("digits")
  held_out = supervised.images("digits", held_out=True)
  (x, labels), (test_x, test_labels) = held_out.data
  assert len(labels) + len(test_labels) == len(whole.data[0][1])
  assert np.array_equal(np.concatenate([x, test_x]), whole.data[0][0])
  assert len(test_labels) == 240
