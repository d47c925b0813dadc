"""Tests of addressing: naive loops, closed forms, finite gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.memory import addressing


def _naive_cosine(q, words, epsilon):
  result = np.zeros(len(words))
  for i, m in enumerate(words):
    dot = q_square = m_square = 0.0
    for a, b in zip(q, m, strict=True):
      dot, q_square, m_square = dot + a * b, q_square + a * a, m_square + b * b
    result[i] = dot / np.sqrt((q_square + epsilon) * (m_square + epsilon))
  return result


def _naive_distance(q, words, epsilon):
  result = np.zeros(len(words))
  for i, m in enumerate(words):
    result[i] = -np.sqrt(sum((a - b) ** 2 for a, b in zip(q, m, strict=True)))
  return -np.sqrt(result**2 + epsilon)


def _float64(function, *arrays):
  """Calls the compiled function with arrays in float64."""
  with jax.enable_x64(True):
    return jax.tree.map(np.asarray, jax.jit(function)(*arrays))


_SIMILARITIES = {
  addressing.cosine_similarity: _naive_cosine,
  addressing.euclidean_similarity: _naive_distance,
}
_similarities = pytest.mark.parametrize(
  "similarity", _SIMILARITIES, ids=lambda f: f.__name__
)


@_similarities
@pytest.mark.parametrize(("size", "epsilon"), [(0, 0.5), (1, 0.5), (5, 1e-6)])
def test_similarity_equals_a_loop(similarity, size, epsilon):
  rng = np.random.default_rng(size)
  q, words = rng.normal(size=3), rng.normal(size=(size, 3))
  actual = _float64(functools.partial(similarity, epsilon=epsilon), q, words)
  expected = _SIMILARITIES[similarity](q, words, epsilon)
  np.testing.assert_allclose(actual, expected, rtol=1e-12)


def test_cosine_of_small_words_is_near_zero():
  # Of the size of a memory's first filling: epsilon silences them.
  q, words = np.ones(4), np.full((3, 4), 1e-6)
  cosines = _float64(addressing.cosine_similarity, q, words)
  np.testing.assert_allclose(cosines, 2e-3, rtol=1e-3)


@_similarities
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gradients_at_zero_words_and_queries_are_finite(similarity, dtype):
  @jax.jit
  @functools.partial(jax.grad, argnums=(0, 1, 2))
  def grads(q, words, strength):
    return addressing.content_weights(
      q, words, strength, similarity=similarity
    )[0]

  words = np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]], dtype)
  for query in (0.0, 1.0):
    for grad in grads(np.full(3, query, dtype), words, np.array(2.0, dtype)):
      assert grad.dtype == dtype
      assert np.isfinite(grad).all()


@_similarities
def test_content_weights_equal_a_loop(similarity):
  rng = np.random.default_rng(1)
  q, words, strength = rng.normal(size=3), rng.normal(size=(4, 3)), 1.7
  scores = np.exp(strength * _SIMILARITIES[similarity](q, words, 1e-6))
  actual = _float64(
    functools.partial(addressing.content_weights, similarity=similarity),
    *(q, words, strength),
  )
  np.testing.assert_allclose(actual, scores / scores.sum(), rtol=1e-12)


def _weights_and_grads(q, words, where=None):
  def loss(q, words, strength):
    weights = addressing.content_weights(q, words, strength, where=where)
    return weights @ jnp.arange(1.0, 1.0 + words.shape[0]), weights

  grads, weights = jax.grad(loss, (0, 1, 2), has_aux=True)(q, words, 1.5)
  return weights, grads


def test_words_that_take_no_part_are_as_if_absent():
  rng = np.random.default_rng(2)
  q, words = rng.normal(size=3), rng.normal(size=(5, 3))
  words[2:] = np.array([[np.nan], [np.inf], [1e30]])
  where = np.array([True, True, False, False, False])
  weights, (dq, dwords, dstrength) = _float64(
    _weights_and_grads, q, words, where
  )
  expected, expected_grads = _float64(_weights_and_grads, q, words[:2])
  np.testing.assert_allclose(weights[:2], expected, rtol=1e-12)
  np.testing.assert_array_equal(weights[2:], 0)
  np.testing.assert_array_equal(dwords[2:], 0)
  actual_grads = dq, dwords[:2], dstrength
  for actual, wanted in zip(actual_grads, expected_grads, strict=True):
    np.testing.assert_allclose(actual, wanted, rtol=1e-9)
  assert np.abs(dq).min() > 0


def test_where_no_word_takes_part_all_weigh_zero():
  q, words, where = np.ones(3), np.ones((5, 3)), np.zeros(5, bool)
  weights, grads = _float64(_weights_and_grads, q, words, where)
  np.testing.assert_array_equal(weights, 0)
  for grad in grads:
    np.testing.assert_array_equal(grad, 0)


@_similarities
def test_a_query_that_is_not_finite_gives_nan(similarity):
  call = functools.partial(addressing.content_weights, similarity=similarity)
  for bad in (np.nan, np.inf, -np.inf):
    weights = _float64(call, np.array([1, bad, 0]), np.eye(3), 1.0)
    assert np.isnan(weights).all()


def test_large_strengths_do_not_overflow():
  weights = _float64(addressing.content_weights, np.eye(3)[1], np.eye(3), 1e6)
  np.testing.assert_array_equal(weights, [0, 1, 0])


@_similarities
def test_bfloat16_is_summed_in_float32(similarity):
  rng = np.random.default_rng(3)
  shapes = (300,), (4, 300), ()
  arrays = [np.array(10 * rng.normal(size=s), jnp.bfloat16) for s in shapes]

  @jax.jit
  def calls(q, words, strength):
    return (
      similarity(q, words),
      addressing.content_weights(q, words, strength, similarity=similarity),
      addressing.weighted_sum(q, words.T),
    )

  wide = calls(*(a.astype(np.float32) for a in arrays))
  for actual, expected in zip(calls(*arrays), wide, strict=True):
    expected = np.asarray(expected).astype(jnp.bfloat16)
    np.testing.assert_array_equal(actual, expected)


def test_weighted_sum_equals_a_loop():
  rng = np.random.default_rng(4)
  w, words = rng.normal(size=4), rng.normal(size=(4, 3))
  expected = sum(w[i] * words[i] for i in range(4))
  actual = _float64(addressing.weighted_sum, w, words)
  np.testing.assert_allclose(actual, expected, rtol=1e-12)


def test_interpolation_mixes():
  content, previous = np.array([0.5, 0.5]), np.array([0.0, 1.0])
  actual = _float64(addressing.interpolate, content, previous, 0.25)
  np.testing.assert_allclose(actual, [0.125, 0.875])


@pytest.mark.parametrize(("size", "reach"), [(1, 0), (1, 1), (5, 1), (4, 3)])
def test_shift_equals_a_loop(size, reach):
  rng = np.random.default_rng(size)
  w, kernel = rng.normal(size=size), rng.normal(size=2 * reach + 1)
  expected = np.zeros(size)
  for i in range(size):
    for k in range(-reach, reach + 1):
      expected[i] += kernel[k + reach] * w[(i - k) % size]
  actual = _float64(addressing.shift, w, kernel)
  np.testing.assert_allclose(actual, expected, rtol=1e-12)


_sharpen = jax.jit(addressing.sharpen)


@pytest.mark.parametrize("exponent", [1.0, 2.5])
def test_sharpening_equals_a_loop(exponent):
  w = np.array([0.5, 0.0, 0.2, 0.3])
  powers = [x**exponent for x in w]
  expected = [power / sum(powers) for power in powers]
  actual = _float64(addressing.sharpen, w, exponent)
  np.testing.assert_allclose(actual, expected, rtol=1e-12)


def test_sharpening_knows_no_scale():
  # The powers of these weights are below the smallest float32.
  actual = _sharpen(np.array([2e-6, 1e-6, 1e-6, 1e-6], np.float32), 10.0)
  expected = np.array([1024, 1, 1, 1]) / 1027
  np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gradients_of_sharpening_at_zero_are_finite(dtype):
  jacobians = jax.jit(jax.jacobian(addressing.sharpen, (0, 1)))
  for weights in ([0.0, 0.5, 0.5], [0.0, 0.0, 0.0]):
    for exponent in (1.0, 1.5):
      w, power = np.array(weights, dtype), np.array(exponent, dtype)
      np.testing.assert_array_equal(_sharpen(w, power), w)
      for jacobian in jacobians(w, power):
        assert jacobian.dtype == dtype
        assert np.isfinite(jacobian).all()


def test_sharpening_has_the_slope_of_finite_differences():
  # The scale that is taken out must not leave a trace in the gradient.
  inputs = np.array([0.6, 0.3, 0.2, 1.7])

  def loss(inputs):
    return addressing.sharpen(inputs[:3], inputs[3]) @ jnp.arange(3.0)

  def slopes(inputs):
    steps = 1e-6 * jnp.eye(4)
    ends = [jax.vmap(loss)(inputs[None] + s) for s in (steps, -steps)]
    return jax.grad(loss)(inputs), (ends[0] - ends[1]) / 2e-6

  grad, expected = _float64(slopes, inputs)
  np.testing.assert_allclose(grad, expected, rtol=1e-6)


def test_bad_arguments_are_refused():
  q, words = jnp.ones(2), jnp.ones((3, 2))
  for similarity in _SIMILARITIES:
    for epsilon in (0.0, -1.0, float("nan")):
      with pytest.raises(ValueError, match="epsilon is"):
        similarity(q, words, epsilon=epsilon)
    with pytest.raises(ValueError):
      similarity(jnp.ones(3), words)
  with pytest.raises(ValueError, match="kernel has length 2"):
    addressing.shift(jnp.ones(3), jnp.ones(2))
  with pytest.raises(ValueError):
    addressing.content_weights(q, words, jnp.ones(3))
  with pytest.raises(ValueError):
    addressing.content_weights(q, words, jnp.array(1.0), where=words > 0)
  with pytest.raises(ValueError):
    addressing.interpolate(jnp.ones(3), jnp.ones(2), jnp.array(0.5))
