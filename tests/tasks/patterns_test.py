"""Tests of lilly.tasks.patterns: how often what is drawn, and where."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.tasks import image_episodes, patterns
from tests.whole import whole

NUM_DRAWS = 2000


def drawn(function, *args, **options):
  keys = jax.random.split(jax.random.key(0), NUM_DRAWS)
  of_one = lambda key: function(key, *args, **options)
  return jax.tree.map(np.asarray, jax.jit(jax.vmap(of_one))(keys))


def assert_even(values, p=0.5):
  """Each mean over draws lies within five standard deviations of p."""
  spread = np.sqrt(p * (1 - p) / NUM_DRAWS)
  assert np.abs(values.mean(axis=0) - p).max() <= 5 * spread


def test_bits_are_even_and_independent():
  found = drawn(patterns.draw_bits, num_bits=6)
  assert found.dtype == np.float32 and set(found.ravel()) == {0.0, 1.0}
  assert_even(found)
  assert_even(found[:, :-1] == found[:, 1:])


@pytest.mark.parametrize("count", [0, 3, 8])
def test_so_many_bits_are_drawn_anew_and_half_of_them_change(count):
  pattern = jnp.array([0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0]).reshape(2, 4)
  query, is_damaged = drawn(patterns.redraw_bits, pattern, count)
  assert (is_damaged.sum((1, 2)) == count).all()
  assert set(query.ravel()) == {0.0, 1.0}
  is_changed = query != np.asarray(pattern)
  assert not (is_changed & ~is_damaged).any()
  # Flipping instead of drawing would change all of them: p = count / 8.
  assert_even(is_changed, count / 16)
  assert_even(is_damaged, count / 8)


def test_changes_do_not_depend_on_the_place():
  query, is_damaged = drawn(patterns.redraw_bits, jnp.zeros(4), 2)
  together = is_damaged[:, 0] & is_damaged[:, 1]
  both = query[together][:, :2]
  for outcome in range(4):
    share = (both @ [2, 1] == outcome).mean()
    assert abs(share - 0.25) < 5 * np.sqrt(3 / 16 / len(both))


@pytest.mark.parametrize("fill", patterns.FILLS)
def test_a_block_is_replaced_and_nothing_else(fill):
  image = jnp.linspace(0.1, 0.9, 40).reshape(4, 5, 2)
  query, is_damaged = drawn(patterns.replace_block, image, 3, fill=fill)
  assert (is_damaged.sum((1, 2, 3)) == 18).all()
  # All channels of a place, and places side by side.
  assert (is_damaged[..., 0] == is_damaged[..., 1]).all()
  assert (is_damaged.any((2, 3)).sum(1) == 3).all()
  kept = np.broadcast_to(np.asarray(image), query.shape)
  np.testing.assert_array_equal(query[~is_damaged], kept[~is_damaged])
  new = query[is_damaged]
  if fill == "hidden":
    assert (new == 0).all()
  else:
    assert (len(np.unique(new)) == 2) == (fill == "bits")
    assert new.min() < 0.01 and new.max() > 0.99
    assert abs(new.mean() - 0.5) < 0.02
    assert abs(new.std() - (0.5 if fill == "bits" else 12**-0.5)) < 0.02
    # Each pixel and channel is drawn for itself.
    one = new.reshape(NUM_DRAWS, 18)
    assert np.abs(np.corrcoef(one[:, 0], one[:, 1])[0, 1]) < 0.12


def test_tasks_are_sets_and_their_damage():
  keys = jax.random.split(jax.random.key(0), 3)
  bits = patterns.make_binary_task(num_bits=6, num_redrawn=2)
  digits = patterns.make_image_task("digits", block_size=3, fill="hidden")
  for task, shape, damaged in ((bits, (6,), 2), (digits, (8, 8, 1), 9)):
    key, key_test, key_damage = jax.random.clone(keys)
    found = whole(task.sample)(key, task.data, 4)
    assert task.shape == shape and found.shape == (4, *shape)
    assert (found != whole(task.test)(key_test, task.data, 4)).any()
    assert task.is_binary and len({x.tobytes() for x in np.asarray(found)}) > 1
    query = whole(task.damage)(key_damage, found[0])
    assert query.is_damaged.sum() == damaged
  assert (query.pattern[query.is_damaged] == 0).all()


def test_images_are_those_of_the_data_set(monkeypatch):
  """To train on are others than to test on, and colours are no bits."""
  of = lambda value: lambda key, data, count: jnp.full((count, 4, 4, 3), value)
  given = image_episodes.Task((4, 4, 3), False, of(0.25), of(0.5), ("a", "b"))
  monkeypatch.setattr(image_episodes, "task", lambda name, data_dir: given)
  task = patterns.make_image_task("cifar10", block_size=2)
  assert not task.is_binary
  assert task.shape == (4, 4, 3) and task.data == ("a", "b")
  assert (task.sample(None, (), 2) == 0.25).all()
  assert (task.test(None, (), 2) == 0.5).all()


def test_distance_counts_bits_or_adds_squares():
  x, pattern = jnp.array([0.75, 0.5, 0.0]), jnp.array([0.25, 1.0, 0.5])
  task = patterns.make_binary_task(num_bits=3, num_redrawn=1)
  assert patterns.measure_distance(task, x, pattern) == 2
  colours = task._replace(is_binary=False)
  shape = 1, 1, 3
  found = patterns.measure_distance(
    colours, x.reshape(shape), pattern.reshape(shape)
  )
  assert found.shape == () and found == 0.75
  with pytest.raises(ValueError, match="pattern has shape"):
    patterns.measure_distance(task, x[None], pattern)


def test_bits_as_an_image_are_as_square_as_may_be():
  for size, shape in ((128, (8, 16)), (7, (1, 7)), (36, (6, 6))):
    assert patterns.to_image(jnp.zeros((2, size))).shape == (2, *shape)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (
      lambda key: patterns.draw_bits(key, 0),
      "num_bits is 0; it must be at least 1",
    ),
    (
      lambda key: patterns.redraw_bits(key, jnp.zeros(4), 5),
      "count is 5; it must be at least 0 and at most 4",
    ),
    (
      lambda key: patterns.redraw_bits(key, jnp.zeros(4), -1),
      "count is -1; it must be at least 0 and at most 4",
    ),
    (
      lambda key: patterns.make_binary_task(num_bits=4, num_redrawn=5),
      "num_redrawn is 5; it must be at least 0 and at most 4",
    ),
    (
      lambda key: patterns.make_image_task("digits", block_size=9),
      "block_size is 9; it must be at least 1 and at most 8",
    ),
    (
      lambda key: patterns.replace_block(key, jnp.zeros((4, 4, 1)), 5),
      "size is 5; it must be at least 1 and at most 4",
    ),
    (
      lambda key: patterns.replace_block(
        key, jnp.zeros((4, 4, 1)), 2, fill="ink"
      ),
      "fill is 'ink'; it must be one of",
    ),
  ],
)
def test_bad_arguments_are_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call(jax.random.key(0))
