"""Tests of addressing: naive loops, closed forms, finite gradients."""

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


_SIMILARITIES = {
  addressing.cosine_similarity: _naive_cosine,
  addressing.euclidean_similarity: _naive_distance,
}
_similarities = pytest.mark.parametrize(
  "similarity", _SIMILARITIES, ids=lambda f: f.__name__
)


@_similarities
@pytest.mark.parametrize("size", [0, 1, 5])
@pytest.mark.parametrize("epsilon", [1e-6, 0.5])
def test_similarity_equals_a_loop(similarity, size, epsilon):
  rng = np.random.default_rng(size)
  q, words = rng.normal(size=3), rng.normal(size=(size, 3))
  with jax.enable_x64(True):
    actual = similarity(jnp.asarray(q), jnp.asarray(words), epsilon=epsilon)
  expected = _SIMILARITIES[similarity](q, words, epsilon)
  np.testing.assert_allclose(actual, expected, rtol=1e-12)


def test_cosine_of_small_words_is_near_zero():
  # Of the size of a memory's first filling: epsilon silences them.
  q, words = jnp.ones(4), jnp.full((3, 4), 1e-6)
  cosines = addressing.cosine_similarity(q, words)
  np.testing.assert_allclose(cosines, 2e-3, rtol=1e-3)


@_similarities
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("query", [0.0, 1.0])
def test_gradients_at_zero_words_and_queries_are_finite(
  similarity, dtype, query
):
  q = jnp.full(3, query, dtype)
  words = jnp.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]], dtype)

  def weights(q, words, strength):
    return addressing.content_weights(
      q, words, strength, similarity=similarity
    )[0]

  grads = jax.grad(weights, (0, 1, 2))(q, words, jnp.asarray(2.0, dtype))
  for grad in grads:
    assert grad.dtype == dtype
    assert np.isfinite(grad).all()


@_similarities
def test_content_weights_equal_a_loop(similarity):
  rng = np.random.default_rng(1)
  q, words, strength = rng.normal(size=3), rng.normal(size=(4, 3)), 1.7
  scores = np.exp(strength * _SIMILARITIES[similarity](q, words, 1e-6))
  with jax.enable_x64(True):
    actual = addressing.content_weights(
      jnp.asarray(q),
      jnp.asarray(words),
      jnp.asarray(strength),
      similarity=similarity,
    )
  np.testing.assert_allclose(actual, scores / scores.sum(), rtol=1e-12)


def _masked(q, words, where):
  def loss(q, words, strength):
    weights = addressing.content_weights(q, words, strength, where=where)
    return weights @ jnp.arange(1.0, 1.0 + words.shape[0]), weights

  (_, weights), grads = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(
    q, words, jnp.asarray(1.5)
  )
  return weights, grads


@pytest.mark.parametrize("garbage", [np.nan, np.inf, 1e30])
def test_words_that_take_no_part_are_as_if_absent(garbage):
  rng = np.random.default_rng(2)
  q, words = rng.normal(size=3), rng.normal(size=(4, 3))
  words[2:] = garbage
  where = jnp.array([True, True, False, False])
  with jax.enable_x64(True):
    weights, (dq, dwords, dstrength) = _masked(jnp.asarray(q), words, where)
    expected, expected_grads = _masked(jnp.asarray(q), words[:2], None)
  np.testing.assert_allclose(weights[:2], expected, rtol=1e-12)
  np.testing.assert_array_equal(weights[2:], 0)
  np.testing.assert_array_equal(dwords[2:], 0)
  actual_grads = dq, dwords[:2], dstrength
  for actual, wanted in zip(actual_grads, expected_grads, strict=True):
    np.testing.assert_allclose(actual, wanted, rtol=1e-9)
  assert np.abs(dq).min() > 0


def test_where_no_word_takes_part_all_weigh_zero():
  words = jnp.arange(6.0).reshape(2, 3)
  weights, grads = _masked(jnp.ones(3), words, jnp.zeros(2, bool))
  np.testing.assert_array_equal(weights, 0)
  for grad in grads:
    np.testing.assert_array_equal(grad, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_query_that_is_not_finite_gives_nan(bad):
  q, words = jnp.array([1.0, bad]), jnp.ones((3, 2))
  weights = addressing.content_weights(q, words, jnp.array(1.0))
  assert np.isnan(weights).all()


def test_large_strengths_do_not_overflow():
  words = jnp.eye(3)
  weights = addressing.content_weights(words[1], words, jnp.array(1e6))
  np.testing.assert_array_equal(weights, [0, 1, 0])


def test_bfloat16_is_summed_in_float32():
  # Summed in bfloat16, the norms of 1000 ones would stop at 256.
  q, words = jnp.ones(1000, jnp.bfloat16), jnp.ones((2, 1000), jnp.bfloat16)
  np.testing.assert_array_equal(addressing.cosine_similarity(q, words), 1)
  words = words.at[0].set(1.01)
  strength = jnp.asarray(100, jnp.bfloat16)
  for similarity in _SIMILARITIES:
    actual = addressing.content_weights(
      q, words, strength, similarity=similarity
    )
    expected = addressing.content_weights(
      *(jnp.asarray(x, jnp.float32) for x in (q, words, strength)),
      similarity=similarity,
    )
    np.testing.assert_array_equal(actual, expected.astype(jnp.bfloat16))


def test_interpolation_mixes():
  content, previous = jnp.array([0.5, 0.5]), jnp.array([0.0, 1.0])
  actual = addressing.interpolate(content, previous, jnp.array(0.25))
  np.testing.assert_allclose(actual, [0.125, 0.875])


@pytest.mark.parametrize(("size", "reach"), [(1, 0), (1, 1), (5, 1), (4, 3)])
def test_shift_equals_a_loop(size, reach):
  rng = np.random.default_rng(size)
  w, kernel = rng.normal(size=size), rng.normal(size=2 * reach + 1)
  expected = np.zeros(size)
  for i in range(size):
    for k in range(-reach, reach + 1):
      expected[i] += kernel[k + reach] * w[(i - k) % size]
  with jax.enable_x64(True):
    actual = addressing.shift(jnp.asarray(w), jnp.asarray(kernel))
  np.testing.assert_allclose(actual, expected, rtol=1e-12)


@pytest.mark.parametrize("exponent", [1.0, 2.5])
def test_sharpening_equals_a_loop(exponent):
  w = np.array([0.5, 0.0, 0.2, 0.3])
  powers = [x**exponent for x in w]
  expected = [power / sum(powers) for power in powers]
  with jax.enable_x64(True):
    actual = addressing.sharpen(jnp.asarray(w), jnp.asarray(exponent))
  np.testing.assert_allclose(actual, expected, rtol=1e-12)


def test_sharpening_knows_no_scale():
  # The powers of these weights are below the smallest float32.
  w = jnp.full(4, 1e-6).at[0].set(2e-6)
  actual = addressing.sharpen(w, jnp.array(10.0))
  expected = np.array([1024, 1, 1, 1]) / 1027
  np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("weights", [[0.0, 0.5, 0.5], [0.0, 0.0, 0.0]])
@pytest.mark.parametrize("exponent", [1.0, 1.5])
def test_gradients_of_sharpening_at_zero_are_finite(dtype, weights, exponent):
  w, exponent = jnp.asarray(weights, dtype), jnp.asarray(exponent, dtype)
  result = addressing.sharpen(w, exponent)
  np.testing.assert_array_equal(result, w)
  for jacobian in jax.jacobian(addressing.sharpen, (0, 1))(w, exponent):
    assert jacobian.dtype == dtype
    assert np.isfinite(jacobian).all()


def test_sharpening_has_the_slope_of_finite_differences():
  # The scale that is taken out must not leave a trace in the gradient.
  w, exponent, step = np.array([0.6, 0.3, 0.2]), 1.7, 1e-6

  def loss(w, exponent):
    return addressing.sharpen(w, exponent) @ jnp.arange(3.0)

  with jax.enable_x64(True):
    exponent = jnp.asarray(exponent)
    dw, dexponent = jax.grad(loss, (0, 1))(jnp.asarray(w), exponent)
    for i in range(3):
      ends = [
        loss(jnp.asarray(w).at[i].add(s), exponent) for s in (step, -step)
      ]
      slope = (ends[0] - ends[1]) / (2 * step)
      np.testing.assert_allclose(dw[i], slope, rtol=1e-6)
    ends = [loss(jnp.asarray(w), exponent + s) for s in (step, -step)]
    slope = (ends[0] - ends[1]) / (2 * step)
  np.testing.assert_allclose(dexponent, slope, rtol=1e-6)


def test_bad_arguments_are_refused():
  q, words = jnp.ones(2), jnp.ones((3, 2))
  for similarity in _SIMILARITIES:
    for epsilon in (0.0, -1.0, float("nan")):
      with pytest.raises(ValueError, match="epsilon is"):
        similarity(q, words, epsilon=epsilon)
    with pytest.raises(AssertionError):
      similarity(jnp.ones(3), words)
  with pytest.raises(ValueError, match="kernel has length 2"):
    addressing.shift(jnp.ones(3), jnp.ones(2))
  with pytest.raises(AssertionError):
    addressing.content_weights(q, words, jnp.ones(3))
  with pytest.raises(AssertionError):
    addressing.content_weights(q, words, jnp.array(1.0), where=words > 0)
  with pytest.raises(AssertionError):
    addressing.interpolate(jnp.ones(3), jnp.ones(2), jnp.array(0.5))
