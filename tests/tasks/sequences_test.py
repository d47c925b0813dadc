"""Tests of lilly.tasks.sequences: scores against naive loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.tasks import sequences
from tests.whole import each

sequences = each(sequences)

_MASK = np.array([False, True, False, True, True, False])


def _bit_episode():
  rng = np.random.default_rng(0)
  targets = rng.integers(0, 2, (6, 4)).astype(np.float32)
  logits = rng.normal(size=(6, 4)).astype(np.float32)
  episode = sequences.Episode(jnp.zeros((6, 3)), jnp.asarray(targets), _MASK)
  return episode, targets, logits


def _label_episode(num_groups):
  rng = np.random.default_rng(1)
  digits = rng.integers(0, 12 // num_groups, (6, num_groups))
  targets = np.eye(12 // num_groups, dtype=np.float32)[digits].reshape(6, 12)
  logits = 3 * rng.normal(size=(6, 12)).astype(np.float32) + 2 * targets
  episode = sequences.Episode(jnp.zeros((6, 3)), jnp.asarray(targets), _MASK)
  return episode, digits, logits


def test_scores_of_bits_equal_a_loop():
  episode, targets, logits = _bit_episode()
  nats = wrong = count = 0
  for t in np.flatnonzero(_MASK):
    for y, z in zip(targets[t], logits[t], strict=True):
      p = 1 / (1 + np.exp(-np.float64(z)))
      nats -= np.log(p if y else 1 - p)
      wrong += (p > 0.5) != (y == 1)
      count += 1
  assert 0 < wrong < count == 12
  close = functools.partial(np.testing.assert_allclose, rtol=1e-5)
  close(sequences.bit_loss(episode, logits), nats / count)
  close(sequences.bits_per_sequence(episode, logits), nats / np.log(2))
  close(sequences.bit_errors(episode, logits), wrong / count)


def test_guessing_costs_a_bit_for_each_bit():
  episode, _, _ = _bit_episode()
  cost = sequences.bits_per_sequence(episode, jnp.zeros((6, 4)))
  np.testing.assert_allclose(cost, 12, rtol=1e-6)


@pytest.mark.parametrize("num_groups", [1, 3])
def test_scores_of_labels_equal_a_loop(num_groups):
  episode, digits, logits = _label_episode(num_groups)
  nats = wrong = 0
  for t in np.flatnonzero(_MASK):
    is_wrong = False
    for digit, z in zip(
      digits[t], np.split(logits[t], num_groups), strict=True
    ):
      nats += np.log(np.exp(z.astype(np.float64)).sum()) - z[digit]
      is_wrong |= z.argmax() != digit
    wrong += is_wrong
  assert 0 < wrong < 3
  loss = sequences.label_loss(episode, logits, num_groups=num_groups)
  error = sequences.label_errors(episode, logits, num_groups=num_groups)
  np.testing.assert_allclose(loss, nats / 3, rtol=1e-5)
  np.testing.assert_allclose(error, wrong / 3, rtol=1e-6)


@pytest.mark.parametrize(
  "score",
  [
    sequences.bit_loss,
    sequences.bits_per_sequence,
    sequences.bit_errors,
    sequences.label_loss,
    sequences.label_errors,
  ],
)
@pytest.mark.parametrize("garbage", [1e9, np.nan, np.inf])
def test_what_is_not_scored_counts_nothing(score, garbage):
  episode, _, logits = _label_episode(1)
  spoilt = np.where(_MASK[:, None], logits, np.float32(garbage))
  assert score(episode, spoilt) == score(episode, logits)
  if score in (sequences.bit_loss, sequences.label_loss):
    gradient = jax.grad(score, argnums=1)(episode, spoilt)
    assert np.isfinite(gradient).all()
    assert np.array_equal(np.abs(gradient).max(1) > 0, _MASK)
  # While the scored steps do count.
  wrong = np.where(_MASK[:, None], -5 * (2 * episode.targets - 1), logits)
  assert score(episode, wrong) > score(episode, logits)


def test_nothing_scored_costs_nothing():
  episode, _, logits = _bit_episode()
  silent = episode._replace(mask=np.zeros(6, bool))
  assert sequences.bit_loss(silent, logits) == 0
  assert sequences.label_errors(silent, logits) == 0


@pytest.mark.parametrize("num_groups", [0, 5])
def test_groups_divide_the_outputs(num_groups):
  episode, _, logits = _label_episode(1)
  for score in (sequences.label_loss, sequences.label_errors):
    with pytest.raises(
      ValueError, match=f"num_groups is {num_groups}; it must"
    ):
      score(episode, logits, num_groups=num_groups)


def test_shapes_are_checked():
  episode, _, _ = _bit_episode()
  with pytest.raises(ValueError, match="logits has shape"):
    sequences.bit_loss(episode, jnp.zeros((6, 1)))
