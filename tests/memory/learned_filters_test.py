"""Tests of filters of scores: thresholds, and no false negatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics

from lilly.memory import bloom, learned_filters, neural_bloom
from tests.oracles import assert_close
from tests.whole import each

# Not compiled: there numbers are known, and errors raised.
fill_eagerly = learned_filters.fill_backup
make_eagerly = learned_filters.make_backup

bloom = each(bloom)
learned_filters = each(learned_filters)
neural_bloom = each(neural_bloom)

M, W, D = 4, 3, 5


@pytest.mark.parametrize("num_values", [2, 10, 1000])
def test_thresholds_keep_the_rate_also_where_scores_tie(num_values):
  rng = np.random.default_rng(num_values)
  scores = np.float32(rng.integers(0, num_values, (20, 100)) - num_values // 2)
  for fpr in (0.0, 0.01, 0.07, 0.29, 0.5, 0.999, 1.0):
    call = functools.partial(learned_filters.calibrate, fpr=fpr)
    thresholds = np.asarray(jax.vmap(call)(scores))
    passed = (scores > thresholds[:, None]).sum(axis=1)
    assert (passed <= fpr * 100 + 1e-9).all()
    # And no lower threshold does.
    for row, threshold, count in zip(scores, thresholds, passed, strict=True):
      if np.isfinite(threshold):
        assert count + (row == threshold).sum() > fpr * 100
      else:
        assert fpr == 1.0 and count == 100


def test_thresholds_without_ties_let_through_all_that_they_may():
  scores = jnp.asarray(np.random.default_rng(0).permutation(100) * 1.0)
  for fpr in (0.01, 0.29, 0.53, 0.59):  # 0.53 in float32 is less
    threshold = learned_filters.calibrate(scores, fpr=fpr)
    assert np.sum(scores > threshold) == round(fpr * 100)
    traced = jax.jit(lambda fpr: learned_filters.calibrate(scores, fpr=fpr))(
      fpr
    )
    assert threshold == traced


def test_thresholds_of_millions_of_scores_keep_the_rate():
  scores = jnp.arange(3_000_000.0)
  threshold = learned_filters.calibrate(scores, fpr=0.5)
  assert np.sum(scores > threshold) == 1_500_000


def test_scores_that_are_no_numbers_are_the_largest():
  scores = jnp.array([jnp.nan, jnp.inf, 1.0, 2.0, -jnp.inf])
  assert learned_filters.calibrate(scores, fpr=0.4) == 2.0
  assert learned_filters.calibrate(scores, fpr=0.2) == jnp.inf
  threshold = learned_filters.calibrate(scores, fpr=0.0)
  assert not np.any(scores > threshold)
  # Then nothing passes, and all is left to the backup.
  elements = jnp.arange(5)
  backup = fill(empty(), elements, scores, threshold)
  assert found(scores, elements, threshold, backup).all()


def empty(capacity=200):
  return learned_filters.init(jax.random.key(7), capacity, fpr=0.01)


@jax.jit
def found(scores, elements, threshold, backup):
  contains = jax.vmap(learned_filters.contains, (0, 0, None, None))
  return contains(scores, elements, threshold, backup)


fill = jax.jit(learned_filters.fill_backup, static_argnames="margin")


@functools.cache
def network(seed):
  """A filter's two functions, never trained: its scores are of no use."""
  rng = np.random.default_rng(seed)
  of_query, of_word = jnp.asarray(rng.normal(size=(2, 8, D)), jnp.float32)
  keys, readout = rng.normal(size=(M, D)), rng.normal(size=M * D)
  keys, readout = jnp.asarray(keys), jnp.asarray(readout)
  address = lambda x: neural_bloom.address(jnp.tanh(x @ of_query), keys)

  @jax.jit
  def write(memory, elements):
    addresses = jax.vmap(address)(elements)
    return neural_bloom.write(memory, addresses, elements @ of_word)

  @jax.jit
  def scores(memory, elements):
    one = lambda x: neural_bloom.read(memory, address(x)) @ readout
    return jax.vmap(one)(elements)

  return write, scores


@pytest.mark.parametrize("fpr", [0.0, 0.1, 0.6, 1.0])
def test_no_element_is_a_false_negative_also_after_late_ones(fpr):
  rng = np.random.default_rng(0)
  elements, late, others = jnp.asarray(rng.normal(size=(3, 60, 8)), jnp.float32)
  write, score_all = network(2)
  memory = write(neural_bloom.init(M, D), elements)
  threshold = learned_filters.calibrate(score_all(memory, others), fpr=fpr)
  scores = score_all(memory, elements)
  is_missed = learned_filters.find_missed(scores, threshold)
  share = is_missed.mean()
  assert share == 1 - fpr if fpr in (0, 1) else 0 < share < 1
  backup = fill(empty(), elements, scores, threshold)
  assert found(scores, elements, threshold, backup).all()
  # What passes has no place in the backup.
  kept = bloom.insert(empty().filter, elements, where=is_missed)
  np.testing.assert_array_equal(backup.filter.words, kept.words)
  # Later ones go to the backup, and the memory stays;
  of_late = score_all(memory, late)
  more = fill(backup, late, of_late, threshold)
  assert found(of_late, late, threshold, more).all()
  assert found(scores, elements, threshold, more).all()
  # or all is scored again: the old backup lacks what has passed till now.
  memory = write(memory, late)
  scores, of_late = score_all(memory, elements), score_all(memory, late)
  if 0 < fpr < 1:
    assert not found(scores, elements, threshold, more).all()
  backup = fill(empty(), elements, scores, threshold)
  backup = fill(backup, late, of_late, threshold)
  assert found(scores, elements, threshold, backup).all()
  assert found(of_late, late, threshold, backup).all()


def test_scores_that_differ_by_rounding_are_no_reason_to_deny():
  rng = np.random.default_rng(8)
  elements, threshold = jnp.asarray(rng.normal(size=(60, 8))), jnp.array(0.3)
  scores = 0.3 + jnp.asarray(rng.uniform(-2e-3, 2e-3, 60), jnp.float32)
  again = scores + jnp.asarray(rng.uniform(-5e-4, 5e-4, 60), jnp.float32)
  backup = fill(empty(), elements, scores, threshold)
  assert found(again, elements, threshold, backup).all()
  backup = fill(empty(), elements, scores, threshold, margin=0.0)
  assert found(scores, elements, threshold, backup).all()
  assert not found(again, elements, threshold, backup).all()


def test_the_margin_is_of_the_size_of_scores():
  missed = learned_filters.find_missed
  # A place in a thousandth of 10^4 is rounding.
  near = jnp.array([1e4, -1e4]) + jnp.array(0.01)
  for score, threshold in zip(near, jnp.array([1e4, -1e4]), strict=True):
    assert missed(score, threshold)
    assert not missed(score, threshold, margin=1e-7)
  assert not missed(jnp.array(1.002e4), jnp.array(1e4))
  for dtype in (jnp.bfloat16, jnp.float16):
    one = jnp.ones((), dtype)
    next_one = one + jnp.finfo(dtype).eps
    assert missed(next_one, one) and not missed(1.1 * one, one)
    assert not missed(next_one, one, margin=0.0)
  # At the threshold none passes, also without a margin.
  assert missed(jnp.array(2.0), jnp.array(2.0), margin=0.0)
  scores = jnp.array([-jnp.inf, -1e30, 0.0, jnp.inf, jnp.nan])
  found = missed(scores, jnp.array(-jnp.inf)).tolist()
  assert found == [True, False, False, False, True]
  assert missed(scores, jnp.array(jnp.inf)).all()
  assert missed(scores, jnp.array(jnp.nan)).all()


def test_a_backup_is_made_of_all_within_the_margin():
  elements, zero = jnp.arange(60), jnp.zeros(())
  scores = 5e-4 * (jnp.arange(60) % 3)  # 0, half the margin, the margin
  for margin, missed in ((1e-3, 60), (6e-4, 40), (0.0, 20)):
    made = learned_filters.make_backup(
      *(jax.random.key(0), elements, scores, zero), fpr=0.01, margin=margin
    )
    num_bits, num_hashes = bloom.optimal_size(60, 0.01)
    used = made.filter.num_bits
    rate = bloom.false_positive_rate(used, num_hashes, missed)
    assert rate <= 0.01 * (1 + 1e-5)
    assert used <= num_bits * missed / 60 + 1
    is_held = found(jnp.full(60, -1.0), elements, zero, made)
    assert is_held[scores <= margin].all()
    assert is_held.sum() <= missed + 2


@pytest.mark.parametrize("num_values", [3, 1000])
def test_the_area_is_that_of_all_pairs(num_values):
  rng = np.random.default_rng(num_values)
  members = np.float32(rng.integers(0, num_values, 40) + num_values // 8)
  non_members = np.float32(rng.integers(0, num_values, 30))
  pairs = members[:, None] - non_members[None]
  expected = (pairs > 0).mean() + (pairs == 0).mean() / 2
  found = learned_filters.auc(jnp.asarray(members), jnp.asarray(non_members))
  assert_close(found, expected, rtol=1e-6)
  truth = np.repeat([1, 0], [40, 30])
  scores = np.concatenate([members, non_members])
  assert_close(found, metrics.roc_auc_score(truth, scores), rtol=1e-6)


def test_the_area_of_what_separates_and_of_what_does_not():
  low, high = jnp.arange(3.0), jnp.arange(3.0, 8)
  assert learned_filters.auc(high, low) == 1
  assert learned_filters.auc(low, high) == 0
  assert learned_filters.auc(jnp.ones(2), jnp.ones(3)) == 0.5
  nothing = jnp.full(2, jnp.nan)
  assert learned_filters.auc(low, nothing) == 0
  # Not found by any threshold: a network without an answer is not perfect.
  assert learned_filters.auc(nothing, low) == 0
  assert learned_filters.auc(nothing, nothing) == 0
  # Also of whole numbers.
  found = learned_filters.auc(jnp.array([1, 2]), jnp.array([0, 1]))
  assert found == 0.875


@pytest.mark.parametrize("num_missed", [0, 30])
def test_late_elements_keep_the_rate_up_to_the_capacity(num_missed):
  size, num_late, zero = 1000, 50, jnp.zeros(())
  elements, late = jnp.split(jnp.arange(size + num_late), [size])
  others = size + num_late + jnp.arange(20_000)
  scores = jnp.where(jnp.arange(size) < num_missed, -1.0, 1.0)
  low = jnp.full(len(others), -1.0)

  def simulate(capacity, key):
    backup = learned_filters.make_backup(
      key, elements, scores, zero, fpr=0.01, capacity=capacity
    )
    backup = learned_filters.fill_backup(backup, late, low[: len(late)], zero)
    missed = jnp.concatenate([elements[:num_missed], late])
    is_found = found(low[: len(missed)], missed, zero, backup)
    rate = jnp.mean(found(low, others, zero, backup))
    return is_found.all(), rate, backup.count, backup.capacity

  keys = jax.random.split(jax.random.key(0), (2, 40))
  room = num_missed + num_late
  run = jax.jit(jax.vmap(functools.partial(simulate, room)))
  is_found, rates, counts, capacities = run(keys[0])
  assert is_found.all()
  # Four standard errors, above and below.
  assert abs(rates.mean() - 0.01) < 4 * rates.std() / np.sqrt(len(rates))
  assert rates.std() < 0.004
  np.testing.assert_array_equal(capacities, room)
  # Seldom is a late element found before it is inserted.
  assert (counts <= room).all() and counts.mean() > room - 1
  # Without room for late elements the rate is lost, which the record tells.
  run = jax.jit(jax.vmap(functools.partial(simulate, None)))
  is_found, rates, counts, capacities = run(keys[1])
  assert is_found.all()
  assert rates.mean() > 0.3
  assert (counts > capacities).all()


def test_a_backup_without_room_is_refused_where_its_count_is_known():
  elements, scores = jnp.arange(10), jnp.full(10, -1.0)
  zero, key = jnp.zeros(()), lambda: jax.random.key(0)
  full = make_eagerly(key(), elements, scores, zero, fpr=0.01)
  assert full.count == full.capacity == 10
  with pytest.raises(ValueError, match="hold 12 elements, and has room for 10"):
    fill_eagerly(full, 10 + elements[:2], scores[:2], zero)
  # What is in it already takes no room.
  again = fill_eagerly(full, elements, scores, zero)
  assert again.count == 10
  np.testing.assert_array_equal(again.filter.words, full.filter.words)
  with pytest.raises(ValueError, match="hold 10 elements, and has room for 9"):
    make_eagerly(key(), elements, scores, zero, fpr=0.01, capacity=9)
  # What the network finds takes none.
  make_eagerly(key(), elements, -scores, zero, fpr=0.01, capacity=0)
  with pytest.raises(ValueError, match="capacity is -1"):
    make_eagerly(key(), elements, scores, zero, fpr=0.01, capacity=-1)


@pytest.mark.parametrize("num_missed", [0, 1, 20, 60])
def test_a_backup_is_as_large_as_what_is_missed(num_missed):
  rng = np.random.default_rng(1)
  elements, others = jnp.asarray(rng.normal(size=(2, 60, 8)), jnp.float32)
  scores = jnp.where(jnp.arange(60) < num_missed, -1.0, 1.0)
  zero = jnp.zeros(())

  @jax.jit
  @jax.vmap
  def make(key):
    return learned_filters.make_backup(key, elements, scores, zero, fpr=0.1)

  made = make(jax.random.split(jax.random.key(0), 300))
  ask = jax.jit(jax.vmap(found, (None, None, None, 0)))
  assert ask(scores, elements, zero, made).all()
  size, num_hashes = bloom.optimal_size(60, 0.1)
  used = int(made.filter.num_bits[0])
  rate = functools.partial(bloom.false_positive_rate, num_elements=num_missed)
  assert rate(used, num_hashes) <= 0.1 * (1 + 1e-5)
  assert used == size if num_missed == 60 else used < size
  if num_missed:
    assert rate(used - 1, num_hashes) > 0.1
  # No bit is set beyond those in use.
  bits = np.asarray(made.filter.words).view(np.uint8)
  assert not np.unpackbits(bits, axis=1, bitorder="little")[:, used:].any()
  wrong = ask(jnp.full(60, -1.0), others, zero, made).mean()
  # Of a few bits the formula tells somewhat too little.
  assert 0.08 < wrong < 0.13 if num_missed else not wrong


def test_rates_of_both_filters_add_up():
  rng = np.random.default_rng(9)
  for epsilon, delta in ((0.1, 0.3), (0.05, 0.05)):
    of_network, of_backup = rng.random((2, 200_000)) < [[epsilon], [delta]]
    rate = (of_network | of_backup).mean()
    expected = learned_filters.false_positive_rate(epsilon, delta)
    assert abs(rate - expected) < 0.004
  # In both halves of a rate it is kept.
  assert 0.097 < learned_filters.false_positive_rate(0.1 / 2, 0.1 / 2) <= 0.1
  for ends, expected in (((0, 0), 0), ((1, 0), 1), ((0, 1), 1), ((1, 1), 1)):
    assert learned_filters.false_positive_rate(*ends) == expected


def test_a_score_at_the_threshold_does_not_pass():
  scores, elements = jnp.array([0.0, 1.0, 1.0, 1.0]), jnp.arange(4)
  threshold = learned_filters.calibrate(scores, fpr=0.5)
  assert threshold == 1.0
  assert not found(scores, elements, threshold, empty()).any()
  assert found(scores + 1, elements, threshold, empty())[1:].all()


def test_space_is_of_memory_and_backup():
  assert learned_filters.space(8 * 4, 0, fpr=0.01) == 1024
  # A Memory Network's, of words of 2 numbers.
  assert learned_filters.space(500 * 2, 0, fpr=0.01) / 500 == 64
  many = 3_000_000_000
  assert_close(learned_filters.space(many, 0, fpr=0.1), 32.0 * many, rtol=1e-6)
  many = jnp.array(100_000_000)
  assert_close(learned_filters.space(many, 0, fpr=0.1), 3.2e9, rtol=1e-6)
  assert learned_filters.space(10, 0, fpr=1e-50) == 320
  found = learned_filters.space(32, 10, fpr=0.01, bits=8)
  expected = 8 * 32 + 10 * np.log2(200) * np.log2(np.e)
  assert_close(found, expected, rtol=1e-6)


def test_bad_arguments_are_refused():
  for bad in (-0.1, 1.1, np.nan):
    with pytest.raises(ValueError, match=r"fpr is .*; it must be at least 0"):
      learned_filters.calibrate(jnp.ones(3), fpr=bad)
    with pytest.raises(ValueError, match=r"fpr is .*; it must be at least 0"):
      learned_filters.calibrate(jnp.ones(3), fpr=np.float32(bad))
    with pytest.raises(ValueError, match="backup_fpr is"):
      learned_filters.false_positive_rate(0.1, bad)
  with pytest.raises(ValueError, match="scores has 0 items"):
    learned_filters.calibrate(jnp.ones(0), fpr=0.1)
  for bad in (0, 1, 0.0, 1.0, -0.5):
    with pytest.raises(ValueError, match=f"fpr is {bad}; it must be above 0"):
      learned_filters.space(32, 1, fpr=bad)
  with pytest.raises(ValueError, match="margin is -1"):
    learned_filters.find_missed(jnp.ones(3), jnp.ones(()), margin=-1)
  with pytest.raises(ValueError, match="members has 0 items"):
    learned_filters.auc(jnp.ones(0), jnp.ones(1))
  with pytest.raises(ValueError, match="non_members has 0 items"):
    learned_filters.auc(jnp.ones(1), jnp.ones(0))
