"""Tests of lilly.replay.episodes against a loop, and in a ring."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.replay import episodes, ring
from tests.whole import each

ring = each(ring)

T = 5


def recorded(end, by_time):
  rng = np.random.default_rng(end)
  discount, truncated = np.ones(T), np.zeros(T, bool)
  if end < T:
    truncated[end], discount[end] = by_time, float(by_time)
  # Ends after the first one mean nothing.
  discount[end + 2 :] = 0.0
  shapes = (T + 1, 2), (T, 1), (T,)
  steps = [rng.normal(size=shape) for shape in shapes]
  return tuple(map(jnp.asarray, (*steps, discount, truncated)))


@pytest.mark.parametrize("end", [0, 2, T - 1, T])
@pytest.mark.parametrize("by_time", [False, True])
def test_what_follows_an_end_is_cut(end, by_time):
  seen, done, rewards, discounts, truncated = recorded(end, by_time)
  found = episodes.mask_after_end(seen, done, rewards, discounts, truncated)
  length = min(end + 1, T)
  np.testing.assert_array_equal(found.mask, np.arange(T) < length)
  for cut, whole in zip(found[1:4], (done, rewards, discounts), strict=True):
    np.testing.assert_array_equal(cut[:length], whole[:length])
    np.testing.assert_array_equal(cut[length:], 0.0)
  # What the last step led to is kept: a target may need it.
  np.testing.assert_array_equal(
    found.observation[: length + 1], seen[: length + 1]
  )
  np.testing.assert_array_equal(found.observation[length + 1 :], 0.0)


def test_pictures_keep_their_type():
  _, *rest = recorded(2, by_time=False)
  pixels = jnp.full((T + 1, 4, 4, 3), 7, jnp.uint8)
  found = episodes.mask_after_end(pixels, *rest)
  assert found.observation.dtype == jnp.uint8
  assert found.observation[3].min() == 7
  assert found.observation[4].max() == 0


def test_a_ring_gives_back_whole_episodes():
  all_of_them = [
    episodes.mask_after_end(*recorded(end, by_time=False)) for end in range(3)
  ]
  stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *all_of_them)
  kept = ring.extend(ring.init(all_of_them[0], 4), stacked)
  drawn = ring.sample(jax.random.key(0), kept, 50)
  lengths = np.asarray(drawn.mask.sum(axis=1), int).tolist()
  assert set(lengths) == {1, 2, 3}
  for i, length in enumerate(lengths):
    wanted = all_of_them[length - 1]
    for mine, theirs in zip(drawn, wanted, strict=True):
      np.testing.assert_allclose(mine[i], theirs, rtol=1e-6)


def test_shapes_must_fit():
  seen, *rest = recorded(1, by_time=False)
  with pytest.raises(ValueError, match=r"observation has shape \[5, 2\]; it"):
    episodes.mask_after_end(seen[1:], *rest)
  with pytest.raises(ValueError, match="observation has shape"):
    episodes.mask_after_end(jnp.zeros(()), *rest)
