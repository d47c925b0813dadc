"""Tests of temporal links against dense matrices in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.memory import temporal_links
from tests import haste, oracles

_NUM_SLOTS = 6


def _heaviest(row, count):
  """Keeps the largest entries; of equal ones those that come first."""
  kept = np.zeros_like(row)
  order = np.argsort(-row, kind="stable")[:count]
  kept[order] = row[order]
  return kept


def _dense_step(N, P, p, w, num_links):
  """Supplementary D with loops; truncated as `update` says."""
  size = len(p)
  N_t, P_t = np.zeros_like(N), np.zeros_like(P)
  for i in range(size):
    for j in range(size):
      N_t[i, j] = (1 - w[i]) * N[i, j] + w[i] * p[j]
      P_t[i, j] = (1 - w[j]) * P[i, j] + w[j] * p[i]
  p_t = (1 - sum(w)) * p + w
  N_t = np.stack([_heaviest(row, num_links) for row in N_t])
  P_t = np.where(N_t.T > 0, P_t, 0)
  P_t = np.stack([_heaviest(row, num_links) for row in P_t])
  return N_t, P_t, _heaviest(p_t, num_links)


def _dense_run(slots, weights, num_links):
  N, P = np.zeros((2, _NUM_SLOTS, _NUM_SLOTS))
  p, history = np.zeros(_NUM_SLOTS), []
  for written, w in zip(slots, weights, strict=True):
    w_t = np.zeros(_NUM_SLOTS)
    np.add.at(w_t, written, w)
    N, P, p = _dense_step(N, P, p, w_t, num_links)
    history.append((N, P, p))
  return [np.stack(x) for x in zip(*history, strict=True)]


@functools.cache
def _run(num_links):
  """Scans `update` and `follow` from an empty state."""

  def step(state, inputs):
    slots, weights, read_slots, read_weights = inputs
    state = temporal_links.update(state, slots, weights)
    followed = temporal_links.follow(state, read_slots, read_weights)
    return state, (state, followed)

  def run(slots, weights, read_slots, read_weights):
    state = temporal_links.init(
      _NUM_SLOTS, num_links=num_links, dtype=weights.dtype
    )
    inputs = (slots, weights, read_slots, read_weights)
    return jax.lax.scan(step, state, inputs)[1]

  return jax.jit(run)


def _writes(kind, steps=40):
  """Write weights of 3 entries a step, whose sum is at most 1."""
  rng = np.random.default_rng(0)
  slots = rng.integers(0, _NUM_SLOTS, (steps, 3))
  weights = rng.dirichlet(np.ones(4) / 2, steps)[:, :3]
  weights[7], weights[11] = 0, [0, 1, 0]
  if kind == "dyadic":  # few writes: weights stay exact, and many are equal
    choices = [[0.5, 0.5, 0], [0.25, 0.25, 0.25], [0, 1, 0], [0.5, 0, 0.25]]
    weights = np.array(choices)[rng.integers(0, 4, steps)]
    weights[12:] = 0
  return slots, weights


def _sparse_run(num_links, slots, weights):
  rng = np.random.default_rng(1)
  reads = rng.integers(0, _NUM_SLOTS, (len(slots), 2))
  read_weights = rng.uniform(size=reads.shape)
  with jax.enable_x64(True):
    states, followed = _run(num_links)(slots, weights, reads, read_weights)
  states, followed = jax.tree.map(np.asarray, (states, followed))
  return states, followed, reads, read_weights


def _densify(slots, weights):
  """Sums sparse vectors [..., L] up into [..., N]; free entries add nothing."""
  dense = np.zeros((*slots.shape[:-1], _NUM_SLOTS + 1))
  for index in np.ndindex(slots.shape):
    dense[(*index[:-1], slots[index])] += weights[index]
  assert not dense[..., -1].any()
  return dense[..., :-1]


def _dense_states(states):
  return (
    _densify(states.predecessor_slots, states.predecessor_weights),
    _densify(states.successor_slots, states.successor_weights),
    _densify(states.precedence_slots, states.precedence_weights),
  )


@pytest.mark.parametrize("kind", ["random", "dyadic"])
@pytest.mark.parametrize("num_links", [1, 3, _NUM_SLOTS])
def test_equals_the_dense_recursion(num_links, kind):
  slots, weights = _writes(kind)
  states, *_ = _sparse_run(num_links, slots, weights)
  expected = _dense_run(slots, weights, num_links)
  for actual, dense in zip(_dense_states(states), expected, strict=True):
    np.testing.assert_allclose(actual, dense, rtol=1e-9, atol=1e-15)
    assert dense.any()
  N, P, p = expected
  if num_links == _NUM_SLOTS:
    np.testing.assert_allclose(N, P.swapaxes(1, 2), rtol=1e-9, atol=1e-15)
  else:  # the recursion was indeed cut short, and in N and P apart
    full = _dense_run(slots, weights, _NUM_SLOTS)
    for cut, whole in zip(expected, full, strict=True):
      assert np.any((cut == 0) & (whole > 0))
    assert np.any((P == 0) & (N.swapaxes(1, 2) > 0))
  assert np.all(p.sum(axis=1) <= 1 + 1e-12)


def test_entries_stand_in_order_and_free_ones_last():
  states, *_ = _sparse_run(3, *_writes("dyadic"))
  kinds = ("successor", "predecessor", "precedence")
  for kind in kinds:
    slots = getattr(states, f"{kind}_slots").reshape(-1, 3)
    weights = getattr(states, f"{kind}_weights").reshape(-1, 3)
    assert np.array_equal(slots == _NUM_SLOTS, weights == 0)
    for row, heavy in zip(slots, weights, strict=True):
      order = sorted(range(3), key=lambda k: (-heavy[k], row[k]))
      assert order == [0, 1, 2]
    assert (weights[:, 0] == weights[:, 1])[weights[:, 1] > 0].any()


@pytest.mark.parametrize("num_links", [3, _NUM_SLOTS])
def test_following_multiplies_by_the_matrices(num_links):
  states, followed, reads, read_weights = _sparse_run(
    num_links, *_writes("random")
  )
  forward, backward = (_densify(*pair) for pair in followed)
  assert followed[0][0].shape == (40, 2 * num_links)
  N, P, _ = _dense_states(states)
  for t, (slots, weights) in enumerate(zip(reads, read_weights, strict=True)):
    w = np.zeros(_NUM_SLOTS)
    np.add.at(w, slots, weights)
    # With all links these are N w and P w.
    np.testing.assert_allclose(forward[t], P[t].T @ w, atol=1e-12)
    np.testing.assert_allclose(backward[t], N[t].T @ w, atol=1e-12)
    if num_links == _NUM_SLOTS:
      np.testing.assert_allclose(forward[t], N[t] @ w, atol=1e-12)
      np.testing.assert_allclose(backward[t], P[t] @ w, atol=1e-12)


@jax.jit
def _update(state, slots, weights):
  return temporal_links.update(state, slots, weights)


_follow = jax.jit(temporal_links.follow)


def _write(state, slots, weights):
  """Updates with four entries, so that all tests share one program."""
  padding = [0] * (4 - len(slots))
  return _update(
    state,
    np.array([*slots, *padding], np.int32),
    np.array([*weights, *padding], np.float32),
  )


def _written(slots, weights):
  """Links after two fixed writes and this one."""
  state = temporal_links.init(_NUM_SLOTS, num_links=3)
  state = _write(state, [0, 3], [0.5, 0.25])
  state = _write(state, [2, 0], [0.5, 0.125])
  return _write(state, slots, weights)


def test_float32_follows_float64():
  state = temporal_links.init(_NUM_SLOTS, num_links=3)
  slots, weights = _writes("random")
  history = []
  for write in zip(slots, weights, strict=True):
    state = _write(state, *write)
    history.append(_dense_states(jax.tree.map(np.asarray, state)))
  assert state.successor_weights.dtype == jnp.float32
  expected = _dense_run(slots, weights, 3)
  for actual, dense in zip(zip(*history, strict=True), expected, strict=True):
    np.testing.assert_allclose(actual, dense, atol=1e-5)


def _assert_same(state, other):
  for actual, expected in zip(state, other, strict=True):
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_equal_slots_are_summed_and_the_absent_ignored():
  expected = _written([4, 2, 0, 0], [0.5, 0.25, 0, 0])
  assert expected.predecessor_weights[4].sum() > 0.1
  _assert_same(_written([2, 4, 2, 4], [0.125, 0.125, 0.125, 0.375]), expected)
  _assert_same(
    _written([_NUM_SLOTS, 2, -1, 4], [0.9, 0.25, 0.9, 0.5]), expected
  )
  _assert_same(_written([-1, 10**9], [1, 1]), _written([1, 3], [0, 0]))


@pytest.mark.parametrize("weight", [-0.5, np.nan, np.inf])
def test_a_write_that_is_no_weight_is_ignored(weight):
  expected = _written([4, 2, 0], [0.5, 0.25, 0])
  _assert_same(_written([4, 2, 0], [0.5, 0.25, weight]), expected)


def test_weights_above_one_in_all_are_scaled_down():
  expected = _written([4, 2, 0], [0.5, 0.25, 0.25])
  _assert_same(_written([4, 2, 0], [1.0, 0.5, 0.5]), expected)
  _assert_same(_written([4, 4, 2, 0], [1.0, 1.0, 1.0, 1.0]), expected)
  assert expected.precedence_weights.sum() == 1
  outside = _written([4, 2, -1], [0.5, 0.5, 7])
  _assert_same(outside, _written([4, 2, 1], [0.5, 0.5, 0]))


def test_a_slot_that_is_absent_has_no_links():
  state, ones = _written([1, 5], [0.75, 0.25]), np.ones(3, np.float32)
  outside = np.array([-1, _NUM_SLOTS, 2**31 - 1])
  for slots, weights in _follow(state, outside, ones):
    assert np.all(slots == _NUM_SLOTS) and not np.any(weights)
  (slots, _), _ = _follow(state, np.array([2, 0, 0]), ones)
  assert np.any(slots == 1)


def test_no_gradient_goes_through_the_links():
  state = temporal_links.init(_NUM_SLOTS, num_links=3)
  state = _write(state, [0, 3], [0.5, 0.25])

  def loss(links, write_weights, read_weights):
    new = temporal_links.update(
      state._replace(**links), np.array([2, 3]), write_weights
    )
    pairs = temporal_links.follow(new, np.array([3, 2]), read_weights)
    old = temporal_links.follow(
      state._replace(**links), np.array([3]), np.ones(1)
    )
    return sum(jnp.sum(weights) for _, weights in (*pairs, *old)) + sum(
      jnp.sum(getattr(new, name)) for name in links
    )

  links = {
    name: value
    for name, value in state._asdict().items()
    if name.endswith("weights")
  }
  write_weights, read_weights = np.float32([0.5, 0.25]), np.float32([0.3, 0.6])
  grads = jax.jit(jax.grad(loss, (0, 1, 2)))(links, write_weights, read_weights)
  for leaf in jax.tree.leaves(grads[:2]):
    np.testing.assert_array_equal(leaf, 0)
  # p = (.5, .25), N(2, .) = .5 p, N(3, .) = .25 p; nothing follows 2, and
  # after 3 come 2 by .5 * .25 and 3 by .25 * .25.
  np.testing.assert_allclose(grads[2], [0.25 * 0.75 + 0.1875, 0.5 * 0.75])


def _scan(state, slots, weights):
  def step(state, inputs):
    state = temporal_links.update(state, *inputs)
    forward, backward = temporal_links.follow(state, *inputs)
    return state, (forward[1], backward[1])

  return jax.lax.scan(step, state, (slots, weights))


def _gradient(state, slots, weights):
  def loss(weights):
    state_t, weights = _scan(state, slots, weights)
    return sum(map(jnp.sum, weights)), state_t

  return jax.value_and_grad(loss, has_aux=True)(weights)


@pytest.mark.parametrize(
  ("function", "batch"), [(_scan, ()), (_gradient, (2, 3))]
)
def test_a_step_copies_no_links(function, batch):
  num_slots, steps = 64, 100
  state = jax.eval_shape(lambda: temporal_links.init(num_slots, num_links=8))
  inputs = [
    state,
    jax.ShapeDtypeStruct((steps, 5), jnp.int32),
    jax.ShapeDtypeStruct((steps, 5), jnp.float32),
  ]
  inputs = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((*batch, *x.shape), x.dtype), inputs
  )
  for _ in batch:
    function = jax.vmap(function)
  lowered = jax.jit(function).lower(*inputs)
  text = lowered.compile(haste.AS_USED).as_text()
  assert not oracles.copies_in_loops(text, (*batch, num_slots, 8))


@jax.jit
def _strongest(slots, weights, cotangent):
  def keep(weights):
    slots_out, kept = temporal_links.strongest(
      slots, weights, 4, num_slots=_NUM_SLOTS
    )
    return kept, slots_out

  kept, pullback, slots_out = jax.vjp(keep, weights, has_aux=True)
  return slots_out, kept, pullback(cotangent)[0]


@pytest.mark.parametrize("total", [0.75, 3.0])
def test_the_strongest_of_a_mixture_are_kept(total):
  # Slot 4 has 3/8 by three entries, 1 and 2 have 1/8, and 0 and 5 1/16.
  slots = np.array([2, 4, 0, -1, 4, 5, 4, _NUM_SLOTS, 1, 3], np.int32)
  weights = np.array([2, 1, 1, 9, 2, 1, 3, 9, 2, 0], np.float32) / 16
  scale = total / 0.75
  cotangent = np.array([1, 2, 4, 8], np.float32)
  kept_slots, kept, gradient = _strongest(slots, weights * scale, cotangent)
  assert kept_slots.tolist() == [4, 1, 2, 0]
  expected = np.array([6, 2, 2, 1]) / 16 * scale
  passed = {4: 1.0, 1: 2.0, 2: 4.0, 0: 8.0}
  if total > 1:  # quotient rule
    mean = expected @ cotangent / expected.sum()
    passed = {k: (v - mean) / expected.sum() for k, v in passed.items()}
    expected = expected / expected.sum()
  np.testing.assert_allclose(kept, expected, rtol=1e-6)
  np.testing.assert_allclose(
    gradient, [passed.get(slot, 0) for slot in slots], rtol=1e-5
  )


def test_fewer_than_asked_for_leave_room_and_what_is_no_number_stays():
  slots = np.array([2] * 5 + [0] * 4 + [5], np.int32)
  weights, cotangent = np.full(10, 0.0625, np.float32), np.ones(4, np.float32)
  weights[9] = 0
  kept_slots, kept, _ = _strongest(slots, weights, cotangent)
  assert kept_slots.tolist() == [2, 0, _NUM_SLOTS, _NUM_SLOTS]
  assert kept.tolist() == [0.3125, 0.25, 0, 0]
  weights[3] = np.nan
  assert np.isnan(_strongest(slots, weights, cotangent)[1]).any()


@pytest.mark.parametrize("count", [0, 3])
def test_no_more_can_be_kept_than_there_are(count):
  with pytest.raises(ValueError, match=f"count is {count}; .* least 1 .* 2"):
    temporal_links.strongest(np.arange(2), np.ones(2), count, num_slots=5)


@pytest.mark.parametrize("name", ["num_slots", "num_links"])
def test_sizes_must_be_positive(name):
  sizes = {"num_slots": 3, "num_links": 2, name: 0}
  with pytest.raises(ValueError, match=f"{name} is 0; .* at least 1"):
    temporal_links.init(sizes["num_slots"], num_links=sizes["num_links"])


def test_there_are_no_more_links_than_slots():
  with pytest.raises(ValueError, match=r"num_links is 4; .* num_slots, 3"):
    temporal_links.init(3, num_links=4)


def test_one_slot_links_to_itself():
  state = temporal_links.init(1, num_links=1)
  for weight in (0.5, 0.5):
    state = _write(state, [0], [weight])
  np.testing.assert_allclose(state.predecessor_weights, [[0.25]])
  np.testing.assert_allclose(state.successor_weights, [[0.25]])
  np.testing.assert_allclose(state.precedence_weights, [0.75])
