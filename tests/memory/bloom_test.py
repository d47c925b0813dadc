"""Tests of Bloom filters: no false negatives, simulated rates, known sizes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.memory import bloom
from tests import haste, oracles
from tests.whole import whole

init = whole(bloom.init)
insert = jax.jit(bloom.insert)
query_all = jax.jit(jax.vmap(bloom.query, in_axes=(None, 0)))


def assert_close(actual, expected, **tolerance):
  np.testing.assert_allclose(actual, expected, **tolerance)


def empty(num_bits=640, num_hashes=5, seed=0):
  return init(jax.random.key(seed), num_bits, num_hashes)


def bits(state):
  """A filter's bits, one by one."""
  words = np.asarray(state.words)
  return ((words[:, None] >> np.arange(32)[None]) & 1).ravel().astype(bool)


def example(dtype, count, seed=0):
  rng = np.random.default_rng(seed)
  numbers = rng.normal(size=(count, 2, 20)) * 100
  if dtype == "bool":
    numbers = numbers > 0
  return jnp.asarray(numbers.astype("float32"), dtype)


@pytest.mark.parametrize(
  "dtype", ["float32", "bfloat16", "int8", "bool", "int64", "complex64"]
)
def test_what_was_inserted_is_always_found(dtype):
  with jax.enable_x64(dtype.endswith("64")):
    elements = example(dtype, 60)
    assert elements.dtype == dtype
    state = insert(empty(), elements[:20])
    assert query_all(state, elements[:20]).all()
    found = query_all(state, elements[20:])
    assert found.mean() < 0.1
    # Also after others, one by one, and far above what it was made for.
    state = insert(state, elements[20:])
    assert query_all(state, elements).all()
    crowded = insert(empty(40, 2), elements)
    assert query_all(crowded, elements).all()


def test_a_set_is_its_elements_one_by_one():
  elements = np.arange(30).reshape(15, 2)
  singles = np.stack([bits(insert(empty(), x[None])) for x in elements])
  assert (singles.sum(axis=1) <= 5).all()
  union = singles.any(axis=0)
  np.testing.assert_array_equal(bits(insert(empty(), elements)), union)
  # Whatever the order, however often, and when.
  state = insert(empty(), np.concatenate([elements[::-1]] * 3))
  np.testing.assert_array_equal(bits(state), union)
  state = insert(insert(empty(), elements[:9]), elements[3:])
  np.testing.assert_array_equal(bits(state), union)
  assert not union[640:].any()


def test_nothing_is_written_of_no_elements():
  state = insert(empty(), np.arange(4))
  for nothing in (
    insert(state, np.zeros((0,), np.int32)),
    insert(state, np.arange(10), where=np.zeros(10, bool)),
  ):
    np.testing.assert_array_equal(nothing.words, state.words)
  assert not query_all(empty(), np.arange(1000)).any()


def test_elements_can_be_left_out():
  elements, where = np.arange(20), np.arange(20) % 3 == 0
  found = insert(empty(), elements, where=where)
  expected = insert(empty(), elements[where])
  np.testing.assert_array_equal(found.words, expected.words)


def test_elements_are_the_same_if_their_numbers_are():
  zeros = np.float32([0.0, -0.0])
  nans = np.float32([np.nan, -np.nan])
  signs = jax.lax.complex(zeros, zeros[::-1])
  assert query_all(insert(empty(), signs[:1]), signs).all()
  turned = jnp.array([1 + 2j, 2 + 1j])
  found = query_all(insert(empty(), turned[:1]), turned)
  assert found.tolist() == [True, False]
  for same in (zeros, nans):
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
      given = same.astype(dtype)
      assert query_all(insert(empty(), given[:1]), given).all()
  # And differ if they stand at other places.
  elements = example("float32", 40)
  state = insert(empty(), elements)
  assert query_all(state, elements[:, :, ::-1]).mean() < 0.2
  assert query_all(state, elements[:, ::-1]).mean() < 0.2
  ones = np.eye(64)
  state = insert(empty(), ones[:32])
  assert query_all(state, ones[32:]).mean() < 0.2
  assert query_all(state, 2 * ones).mean() < 0.2


def test_words_that_end_in_zeros_differ():
  states = [insert(empty(), jnp.ones((1, n)).at[:, 1:].set(0)) for n in (1, 2)]
  assert (bits(states[0]) != bits(states[1])).any()


@pytest.mark.parametrize(
  ("num_bits", "num_hashes", "num_elements"),
  [(960, 7, 100), (300, 1, 30), (64, 3, 300)],
)
def test_rates_are_those_of_the_formula(num_bits, num_hashes, num_elements):
  elements = np.arange(3000, dtype=np.int32)

  def simulate(key):
    state = bloom.init(key, num_bits, num_hashes)
    state = bloom.insert(state, elements[:num_elements])
    found = jax.vmap(bloom.query, in_axes=(None, 0))(state, elements)
    return found[num_elements:].mean(), found[:num_elements].all()

  keys = jax.random.split(jax.random.key(0), 40)
  rates, is_found = jax.jit(jax.vmap(simulate))(keys)
  assert is_found.all()
  expected = bloom.false_positive_rate(num_bits, num_hashes, num_elements)
  error = rates.std() / np.sqrt(len(rates))
  assert abs(rates.mean() - expected) < 4 * error + 0.03 * expected
  assert error < 0.1 * expected


def test_rates_hold_of_elements_that_are_alike():
  numbers, count = np.arange(20_000, dtype=np.int32), 2000
  bits = (numbers[:, None] >> np.arange(16)) & 1
  families = [
    np.stack([numbers, 0 * numbers], 1),
    np.stack([65_536 * (numbers % 30_000), 65_536 * numbers], 1),
    np.stack([numbers % 100, numbers // 100], 1),
    np.stack([bits @ (1 << 2 * np.arange(16)), bits @ 3 ** np.arange(16)], 1),
    np.float32(numbers)[:, None].view(np.int32).repeat(2, 1),
  ]
  num_bits, num_hashes = bloom.optimal_size(count, 0.05)
  expected = bloom.false_positive_rate(num_bits, num_hashes, count)
  # In a run, and scattered.
  for stride in (1, 10):
    is_in = np.isin(numbers, stride * np.arange(count))
    found = []
    for seed, family in enumerate(families):
      family = jnp.asarray(family, jnp.int32)
      state = insert(empty(num_bits, num_hashes, seed), family[is_in])
      found.append(query_all(state, family[~is_in]).mean())
    # Of the non-members, and of the bits that are set.
    spread = np.sqrt(expected / (~is_in).sum() + (0.03 * expected) ** 2)
    assert np.abs(np.array(found) - expected).max() < 4.5 * spread


def test_many_elements_are_told_apart():
  # Of hashes that begin with 32 bits, 4 of these would be found.
  rng = np.random.default_rng(0)
  elements = jnp.asarray(rng.integers(0, 2**31, (2, 2**17, 3)), jnp.int32)
  state = insert(empty(2**27, 4), elements[0])
  assert not query_all(state, elements[1]).any()


def test_rates_at_the_ends():
  assert bloom.false_positive_rate(100, 3, 0) == 0
  assert bloom.false_positive_rate(1, 3, 0) == 0
  assert bloom.false_positive_rate(1, 3, 5) == 1
  assert_close(bloom.false_positive_rate(100, 1, 1), 0.01, rtol=1e-6)
  assert_close(bloom.false_positive_rate(64, 3, 10**6), 1.0)


def test_large_filters_and_low_rates():
  given = 2**31, 7, 400_000_000
  expected = (1 - np.exp(-given[1] * given[2] / given[0])) ** 7
  rate = bloom.false_positive_rate
  assert_close(rate(*given), expected, rtol=1e-5)
  half = jnp.array(2**30), jnp.array(7), jnp.array(400_000_000)
  expected = (1 - np.exp(-7 * 400_000_000 / 2**30)) ** 7
  assert_close(rate(*half), expected, rtol=1e-5)
  count = 3_000_000_000
  assert_close(bloom.least_space(count, 0.25), 2.0 * count, rtol=1e-6)
  assert_close(bloom.cuckoo_space(count, 0.25, load=1.0), 4.0 * count)
  assert_close(bloom.least_space(10, 2.0**-200), 2000.0)
  assert bloom.space(0, 2.0**-200) == 0


def test_filters_of_several_sizes_go_side_by_side():
  sizes, elements = jnp.array([50, 64, 97], jnp.uint32), jnp.arange(8)

  def fill(size):
    state = empty(97, 3)._replace(num_bits=size)
    return bloom.insert(state, elements)

  together = jax.jit(jax.vmap(fill))(sizes)
  for i, size in enumerate(sizes.tolist()):
    alone = insert(empty(size, 3), elements)
    number = len(alone.words)
    np.testing.assert_array_equal(together.words[i, :number], alone.words)
    assert not together.words[i, number:].any()


def test_a_filter_in_a_loop_is_not_copied():
  @functools.partial(jax.jit, donate_argnums=0)
  def fill(state, elements):
    step = lambda state, x: (bloom.insert(state, x[None]), None)
    return jax.lax.scan(step, state, elements)[0]

  for num_hashes in (1, 3):
    state = empty(32 * 5000, num_hashes)
    compiled = fill.lower(state, jnp.arange(9)).compile(haste.AS_USED)
    assert not oracles.copies_in_loops(compiled.as_text(), (5000,))


def test_a_filter_of_one_bit():
  state = empty(1, 2)
  assert not bloom.query(state, jnp.array(3))
  state = insert(state, jnp.array([3]))
  assert query_all(state, jnp.arange(5)).all()
  assert state.words.tolist() == [1]


def test_published_sizes():
  elements, rates = 5000, (0.05, 0.01, 0.001)
  for rate, of_bloom, of_cuckoo in zip(
    rates, (31.2, 47.9, 72.2), (33.1, 45.3, 62.6), strict=True
  ):
    found = bloom.space(elements, rate) / 1000
    assert_close(found, of_bloom, rtol=0.005)
    assert_close(bloom.cuckoo_space(elements, rate) / 1000, of_cuckoo, atol=0.1)
  per_element = [
    *((0.025, 7.678), (0.05, 6.235), (0.01, 9.585)),
    *((0.005, 11.028), (0.001, 14.378)),
  ]
  for rate, expected in per_element:
    assert_close(bloom.space(1, rate), expected, atol=1e-3)
  assert_close(bloom.least_space(7, 1 / 1024), 70.0)
  for space in (bloom.space, bloom.cuckoo_space, bloom.least_space):
    assert space(0, 0.01) == 0


@pytest.mark.parametrize("num_elements", [1, 7, 100, 5000])
@pytest.mark.parametrize("fpr", [0.999, 0.5, 0.05, 0.01, 1e-6])
def test_no_smaller_filter_keeps_the_rate(num_elements, fpr):
  def rate(num_bits, num_hashes):
    is_set = 1 - (1 - 1 / num_bits) ** (num_hashes * num_elements)
    return is_set**num_hashes

  num_bits, num_hashes = bloom.optimal_size(num_elements, fpr)
  assert rate(num_bits, num_hashes) <= fpr * (1 + 1e-9)
  smaller = num_bits - 1
  assert not smaller or min(rate(smaller, k) for k in range(1, 40)) > fpr
  if fpr <= 0.5:
    assert num_bits < 1.07 * bloom.space(num_elements, fpr) + 2


def test_a_filter_for_nothing():
  assert bloom.optimal_size(0, 0.01) == (1, 1)


def test_bad_arguments_are_refused():
  key = jax.random.key(0)
  init = functools.partial(bloom.init, key)
  for bad in (0, -1, 2**31 + 1):
    with pytest.raises(ValueError, match=f"num_bits is {bad}; it must be"):
      init(bad, 3)
  with pytest.raises(ValueError, match="num_hashes is 0"):
    init(32, 0)
  sizes = bloom.space, bloom.cuckoo_space, bloom.least_space, bloom.optimal_size
  for function in sizes:
    for bad in (0, 1, 0.0, 1.0, -0.1, 2.0, np.nan):
      with pytest.raises(ValueError, match=f"fpr is {bad}; it must be"):
        function(10, bad)
    with pytest.raises(ValueError, match="num_elements is -1"):
      function(-1, 0.1)
    with pytest.raises(ValueError, match="num_elements is -1"):
      function(np.int64(-1), 0.1)
    with pytest.raises(ValueError, match=r"fpr is 1\.5"):
      function(1, np.float32(1.5))
  with pytest.raises(ValueError, match=r"at most 2\*\*31 are allowed"):
    bloom.optimal_size(2**40, 0.01)
  for bad in (0.0, 1.5, np.nan):
    with pytest.raises(ValueError, match="load is"):
      bloom.cuckoo_space(10, 0.1, load=bad)
  with pytest.raises(ValueError, match="overhead is -1"):
    bloom.cuckoo_space(10, 0.1, overhead=-1)
  with pytest.raises(ValueError, match="elements is a scalar"):
    bloom.insert(empty(), jnp.array(3))
  with pytest.raises(ValueError, match=r"where has shape \[2\]; it must be"):
    bloom.insert(empty(), jnp.arange(3), where=jnp.ones(2, bool))
  with pytest.raises(ValueError, match="num_elements is 4611686018427387905"):
    bloom.optimal_size(2**62 + 1, 0.01)


def test_a_filter_from_a_file_is_a_filter():
  elements = np.arange(100)
  state = insert(empty(960, 7), elements[:50])
  loaded = bloom.State(*map(np.asarray, state))
  filled = bloom.insert(loaded, elements[50:])
  expected = insert(state, elements[50:])
  np.testing.assert_array_equal(filled.words, expected.words)
  assert bloom.query(loaded, elements[7])
