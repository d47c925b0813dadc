"""Tests of lilly.tasks.membership: what is in a set, and what is not."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.tasks import image_episodes, membership
from tests.whole import whole

NUM_DRAWS = 2000


def draws(function, *args, **options):
  keys = jax.random.split(jax.random.key(0), NUM_DRAWS)
  of_one = lambda key: function(key, *args, **options)
  return jax.tree.map(np.asarray, jax.jit(jax.vmap(of_one))(keys))


def assert_even(values, p):
  """Each mean over draws lies within five standard deviations of p."""
  spread = np.sqrt(p * (1 - p) / len(values))
  assert np.abs(values.mean(axis=0) - p).max() <= 5 * spread


def shared(members, non_members):
  """How many non-members equal a member, element by element."""
  flat = [np.reshape(x, (len(x), -1)) for x in (members, non_members)]
  return (flat[0][:, None] == flat[1][None]).all(axis=2).sum()


def test_half_of_the_queries_are_members_exactly():
  episode = membership.Episode(jnp.arange(5.0), jnp.arange(10.0, 13))
  queries, labels = draws(membership.draw_queries, episode, 5)
  np.testing.assert_array_equal(labels[0], [True, True, True, False, False])
  np.testing.assert_array_equal(queries[:, 3:], np.tile([10.0, 11], (2000, 1)))
  for member in range(5):
    assert_even(queries[:, :3] == member, 0.2)
  # With replacement, and independent of each other.
  assert_even(queries[:, 0] == queries[:, 1], 0.2)


def test_queries_that_cannot_be_drawn():
  episode = membership.Episode(jnp.zeros(3), jnp.zeros(2))
  with pytest.raises(ValueError, match="with 2 non-members; give 3"):
    membership.draw_queries(jax.random.key(0), episode, 6)
  with pytest.raises(
    ValueError, match="num_queries is 0; it must be at least 1"
  ):
    membership.draw_queries(jax.random.key(0), episode, 0)
  assert len(membership.draw_queries(jax.random.key(0), episode, 1)[0]) == 1
  nothing = membership.Episode(jnp.zeros((0, 4)), jnp.zeros((2, 4)))
  with pytest.raises(ValueError, match="episode has 0 members; give 1 or more"):
    membership.draw_queries(jax.random.key(0), nothing, 2)


def test_noisy_classes_are_flipped_prototypes():
  prototypes = jnp.asarray(np.eye(3).repeat(20, axis=1))
  found = draws(membership.draw_noisy_class, prototypes, 4, 5, flip=0.15)
  assert found.members.dtype == np.float32

  def classes(x):
    wrong = np.abs(x[:, :, None] - np.asarray(prototypes)).mean(axis=3)
    assert_even(wrong.min(axis=2).ravel(), 0.15)
    return wrong.argmin(axis=2)

  members, non_members = classes(found.members), classes(found.non_members)
  assert (members == members[:, :1]).all()
  assert (non_members != members[:, :1]).all()
  for number in range(3):
    assert_even(members[:, 0] == number, 1 / 3)
    assert_even(non_members == number, 1 / 3)
  # Non-members are of any other class, not all of the same one.
  assert_even(non_members[:, 0] == non_members[:, 1], 0.5)
  with pytest.raises(ValueError, match="prototypes has 1 classes; give 2"):
    membership.draw_noisy_class(jax.random.key(0), prototypes[:1], 4, 5)


def numbered(counts):
  """Images of classes so large; each has its number for its pixel."""
  images = np.arange(sum(counts), dtype=np.uint8)[:, None, None, None]
  labels = np.repeat(np.arange(len(counts)), counts)
  starts = np.append(0, np.cumsum(counts))
  return image_episodes.Part(*map(jnp.asarray, (images, labels, starts)))


def test_classes_of_images_are_drawn_without_replacement():
  part = numbered([3, 4, 2])
  found = draws(membership.draw_same_class, part, 2, 3)
  members, non_members = (
    np.rint(x[..., 0, 0, 0] * 255).astype(int) for x in found
  )
  labels = np.asarray(part.labels)
  assert (labels[members] == labels[members[:, :1]]).all()
  assert (members[:, 0] != members[:, 1]).all()
  assert (labels[non_members] != labels[members[:, :1]]).all()
  for number, count in enumerate((3, 4, 2)):
    of_class = labels[members[:, 0]] == number
    assert_even(of_class, 1 / 3)
    for item in np.flatnonzero(labels == number):
      assert_even(members[of_class, 0] == item, 1 / count)
    for item in np.flatnonzero(labels != number):
      assert_even(non_members[of_class].ravel() == item, 1 / (9 - count))


def test_members_are_drawn_one_after_another_by_their_weights():
  members, non_members = draws(membership.draw_weighted, 4, 2, 2, decay=0.5)
  every = np.sort(np.concatenate([members, non_members], axis=1), axis=1)
  np.testing.assert_array_equal(every, np.tile(np.arange(4), (NUM_DRAWS, 1)))
  weights = 0.5 ** np.arange(4) / np.sum(0.5 ** np.arange(4))
  for first, second in itertools.permutations(range(4), 2):
    p = weights[first] * weights[second] / (1 - weights[first])
    assert_even((members == [first, second]).all(axis=1), p)
  members, non_members = draws(membership.draw_weighted, 5, 2, 1)
  for x in (members[:, 0], members[:, 1], non_members[:, 0]):
    for number in range(5):
      assert_even(x == number, 0.2)


def test_non_members_are_even_whatever_their_place():
  members, non_members = draws(membership.draw_weighted, 4, 1, 1, decay=0.5)
  for number in range(4):
    of_number = members[:, 0] == number
    for other in set(range(4)) - {number}:
      assert_even(non_members[of_number, 0] == other, 1 / 3)


def test_what_cannot_be_drawn():
  key = jax.random.key(0)
  with pytest.raises(ValueError, match="of 5 elements has no 3 members and 3"):
    membership.draw_weighted(key, 5, 3, 3)
  for bad in (0.0, 1.1, float("nan")):
    with pytest.raises(ValueError, match="decay is"):
      membership.draw_weighted(key, 5, 1, 1, decay=bad)
  with pytest.raises(
    ValueError, match="of 3 elements has no non-members beside"
  ):
    membership.draw_range(key, 3, 3, 1)


def test_runs_of_keys_begin_anywhere_and_non_members_are_outside():
  members, non_members = draws(membership.draw_range, 6, 3, 2)
  assert (np.diff(members, axis=1) == 1).all()
  for first in range(4):
    begun = members[:, 0] == first
    assert_even(begun, 0.25)
    for other in set(range(6)) - set(range(first, first + 3)):
      assert_even(non_members[begun].ravel() == other, 1 / 3)


def test_words_are_sorted_different_and_of_unequal_letters():
  words = membership.make_sorted_keys(jax.random.key(0), 500, 5)
  assert words.shape == (500, 5) and words.dtype == np.uint8
  listed = words.tolist()
  assert listed == sorted(listed) and len(set(map(tuple, listed))) == 500
  share = np.sort(np.bincount(words.ravel(), minlength=26))[::-1] / 2500
  expected = 1 / np.arange(1, 27)
  expected /= expected.sum()
  assert abs(share[0] - expected[0]) < 0.05 and share[-1] < 0.02
  # Chosen from all of the alphabet, not its beginning.
  assert words[0, 0] < 5 and words[-1, 0] > 20
  with pytest.raises(ValueError, match="length is 1; it is too small for"):
    membership.make_sorted_keys(jax.random.key(0), 27, 1)


KINDS_AND_NAMES = [
  *itertools.product(membership.KINDS[:3], ("bits", "digits")),
  ("ranges", "bits"),
]


@pytest.mark.parametrize(("kind", "name"), KINDS_AND_NAMES)
def test_tasks_of_every_kind(kind, name):
  task = membership.task(kind, name, universe=60, num_bits=32)
  universes = []
  for draw in (task.sample, task.test):
    found = jax.jit(draw, static_argnums=(2, 3))(
      jax.random.key(1), task.data, 10, 20
    )
    assert found.members.shape == (10, *task.shape)
    assert found.non_members.shape == (20, *task.shape)
    assert found.members.dtype == jnp.float32
    assert not shared(*found)
    # None comes twice, so that a set of 10 has 10 elements.
    assert shared(found.members, found.members) == 10
    values = set(np.unique(np.concatenate(found)))
    assert values == {0.0, 1.0}
    universes.append(np.concatenate(found))
  if kind in ("uniform", "ranges"):  # tests are of other elements
    assert not shared(*universes)
    for part, universe in zip(task.data, universes, strict=True):
      of_part = np.asarray(part)
      if kind == "ranges":
        of_part = np.eye(26)[of_part]
      assert shared(universe[:10], of_part / of_part.max()) == 10
  if kind == "ranges":
    letters = universes[0][:10].argmax(axis=2).tolist()
    assert letters == sorted(letters)
    np.testing.assert_array_equal(universes[0].sum(axis=2), 1)
    # Words to test on lie between those to train on.
    words = np.stack(task.data).swapaxes(0, 1).reshape(-1, 8).tolist()
    assert words == sorted(words)


def test_a_bit_in_seven_is_flipped():
  task = membership.task("classes", "bits")
  found = whole(task.sample)(jax.random.key(0), task.data, 400, 1).members
  wrong = np.abs(found[None] - np.asarray(task.data)[:, None]).mean(axis=(1, 2))
  assert abs(wrong.min() - 0.15) < 0.012


@pytest.mark.parametrize("num_bits", [32, 64])
def test_no_non_member_of_a_large_class_is_a_member(num_bits):
  task = membership.task("classes", "bits", num_bits=num_bits)

  @jax.jit
  @jax.vmap
  def count(key):
    found = task.sample(key, task.data, 200, 800)
    same = (found.members[:, None] == found.non_members[None]).all(axis=2)
    return same.sum()

  assert count(jax.random.split(jax.random.key(0), 10)).sum() == 0


def test_nonuniform_tasks_are_tested_on_what_is_frequent_in_training():
  task = membership.task("nonuniform", "bits", universe=3000, num_bits=24)
  often = np.asarray(task.data[0][:1000])
  for draw in (task.sample, task.test):
    found = whole(draw)(jax.random.key(2), task.data, 200, 20)
    assert 110 <= shared(found.members, often) <= 155  # 2/3, by 0.999^i
    assert shared(found.non_members, often) <= 14  # a third


def test_frequent_images_are_of_any_class():
  task = membership.task("nonuniform", "digits")
  images = image_episodes.task("digits").data[0]
  flat = np.asarray(images.images).reshape(len(images.labels), -1)
  label = {x.tobytes(): y for x, y in zip(flat, images.labels, strict=True)}
  first = np.asarray(task.data[0][:30]).reshape(30, -1)
  assert len({int(label[x.tobytes()]) for x in first}) > 5


def test_images_that_come_again_are_dropped():
  images = np.zeros((6, 1, 4, 1), np.uint8)
  images[[1, 3, 4], 0, 0] = 255  # 0, 2 and 5 are alike, and these three
  images[4, 0, 1] = 255
  labels = np.array([7, 7, 8, 8, 8, 9])
  part = image_episodes.Part(images, labels, np.array([0, 2, 5, 6]))
  found = membership._distinct(part)
  np.testing.assert_array_equal(found.images, images[[0, 1, 4]])
  np.testing.assert_array_equal(found.labels, [7, 7, 8])
  np.testing.assert_array_equal(found.starts, [0, 2, 3])


def test_tasks_that_there_are_not():
  with pytest.raises(ValueError, match="kind='other' is unknown; known: cl"):
    membership.task("other")
  with pytest.raises(ValueError, match="name='cifar10' is unknown"):
    membership.task("classes", "cifar10")  # not of 0 and 1
  for kind, name, least in (
    *(("uniform", "universe", 2), ("uniform", "num_bits", 1)),
    *(("ranges", "num_letters", 1), ("classes", "num_bits", 32)),
  ):
    text = f"{name} is {least - 1}; it must be at least {least}"
    with pytest.raises(ValueError, match=text):
      membership.task(kind, **{name: least - 1})
  with pytest.raises(ValueError, match="name is 'digits'; elements of ranges"):
    membership.task("ranges", "digits")
  with pytest.raises(ValueError, match="num_bits is 3; it is too small for"):
    membership.task("uniform", num_bits=3)
  task = membership.task("classes", "digits")
  with pytest.raises(ValueError, match="smallest class has 28 images, not 29"):
    task.test(jax.random.key(0), task.data, 29, 1)
