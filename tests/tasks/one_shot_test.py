"""Tests of lilly.tasks.one_shot: episodes are read back from their inputs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.tasks import characters, one_shot

# Six characters; no two drawings are equal, turned or not.
_DRAWINGS = np.random.default_rng(0).integers(0, 256, (6, 5, 3, 3), np.uint8)
_CLASSES, _INSTANCES, _BATCH = 4, 3, 24
_WHICH = {
  np.rot90(_DRAWINGS[c, d], r).tobytes(): ((c, r), d)
  for c in range(6)
  for d in range(5)
  for r in range(4)
}
_encodings = pytest.mark.parametrize("encoding", ["one_hot", "letters"])


@functools.cache
def _drawn(encoding):
  draw = functools.partial(
    one_shot.episode,
    num_classes=_CLASSES,
    num_instances=_INSTANCES,
    label_encoding=encoding,
  )
  levels = jnp.arange(_BATCH) % _CLASSES + 1
  keys = jax.random.split(jax.random.key(0), _BATCH)
  sample = jax.jit(jax.vmap(draw, in_axes=(0, 0, None)))
  episodes = sample(keys, levels, jnp.asarray(_DRAWINGS))
  return np.asarray(levels), jax.tree.map(np.asarray, episodes)


def _read(inputs):
  """Says which class and which drawing of it each image is."""
  pixels = np.rint(255 * inputs[:, :9]).astype(np.uint8)
  return zip(*[_WHICH[p.tobytes()] for p in pixels], strict=True)


@_encodings
def test_an_episode_shows_each_class_equally_often_under_one_label(encoding):
  levels, episodes = _drawn(encoding)
  size = {"one_hot": _CLASSES, "letters": 25}[encoding]
  num_steps = _CLASSES * _INSTANCES
  assert episodes.inputs.shape == (_BATCH, num_steps, 9 + size)
  assert episodes.targets.shape == (_BATCH, num_steps, size)
  labels_of, alone, orders, turned = {}, set(), set(), set()
  for level, inputs, targets, mask in zip(levels, *episodes, strict=True):
    length = level * _INSTANCES
    assert mask.tolist() == [t < length for t in range(num_steps)]
    assert not inputs[length:].any() and not targets[length:].any()
    # The label comes one step after the drawing.
    assert not inputs[0, 9:].any()
    assert np.array_equal(inputs[1:length, 9:], targets[: length - 1])
    classes, drawings = map(list, _read(inputs[:length]))
    assert len(set(classes)) == level
    assert len(set(zip(classes, drawings, strict=True))) == length
    labels = [target.tobytes() for target in targets[:length]]
    assert len(set(zip(classes, labels, strict=True))) == level
    assert len(set(labels)) == level
    letters = targets[:length].reshape(length, -1, 5 if size == 25 else size)
    assert np.array_equal(letters.sum(-1), np.ones(letters.shape[:2]))
    for each, label in zip(classes, labels, strict=True):
      labels_of.setdefault(each, set()).add(label)
    turned |= {rotation for _, rotation in classes}
    if level == 1:
      alone.add(labels[0])
    if level == _CLASSES:
      orders.add(tuple(classes.index(each) for each in classes))
  # Labels and order are drawn anew for every episode.
  assert max(map(len, labels_of.values())) > 1 and len(alone) > 1
  assert len(orders) == _BATCH // _CLASSES
  assert turned == {0, 1, 2, 3}


@functools.cache
def _score(num_groups):
  """Accuracies of a batch; one more presentation than there is."""
  score = functools.partial(
    one_shot.accuracy_by_instance, num_instances=4, num_groups=num_groups
  )
  return jax.jit(jax.vmap(score))


def _by_instance(targets, mask, answers):
  """Counts right answers by presentation, in a loop."""
  right, count, seen = np.zeros(4), np.zeros(4), {}
  for t in np.flatnonzero(mask):
    label = targets[t].tobytes()
    k = seen[label] = seen.get(label, -1) + 1
    count[k] += 1
    right[k] += answers[t] == label
  return right / np.maximum(count, 1)


@_encodings
def test_accuracy_by_instance_equals_a_loop(encoding):
  _, episodes = _drawn(encoding)
  num_groups = {"one_hot": 1, "letters": 5}[encoding]
  noise = np.random.default_rng(1).normal(size=episodes.targets.shape)
  logits = (noise + 1.5 * episodes.targets).astype(np.float32)
  scores = _score(num_groups)(episodes, logits)
  expected = []
  for targets, mask, z in zip(*episodes[1:], logits, strict=True):
    z = z.reshape(len(z), num_groups, -1)
    answers = np.eye(z.shape[-1], dtype=np.float32)[z.argmax(-1)]
    answers = [answer.tobytes() for answer in answers]
    expected.append(_by_instance(targets, mask, answers))
  np.testing.assert_allclose(scores, expected, rtol=1e-6)
  assert 0 < np.mean(expected) < 1 and not np.any(scores[:, 3])


def test_what_is_not_scored_is_no_presentation():
  label = jax.nn.one_hot(jnp.array([0, 0, 1, 0]), 2)
  mask = jnp.array([False, True, True, True])
  episode = one_shot.Episode(label, label, mask)
  wrong_once = label.at[1].set(label[2])
  accuracy = one_shot.accuracy_by_instance(episode, wrong_once, num_instances=2)
  assert accuracy.tolist() == [0.5, 1.0]


def test_one_who_remembers_is_right_from_the_second_presentation_on():
  _, episodes = _drawn("one_hot")
  # Where nothing is known: anything but the truth.
  logits = 1 - episodes.targets
  for inputs, mask, z in zip(
    episodes.inputs, episodes.mask, logits, strict=True
  ):
    classes, _ = _read(inputs[mask])
    memory = {}
    for t, each in enumerate(classes):
      if t:
        memory[classes[t - 1]] = inputs[t, 9:]
      z[t] = memory.get(each, z[t])
  assert np.array_equal(
    _score(1)(episodes, logits), np.tile([0, 1, 1, 0], (_BATCH, 1))
  )


def test_the_generated_task(monkeypatch):
  def generate(key, *, image_size):
    ink = jnp.zeros((200, 20, image_size, image_size), jnp.uint8)
    number = jnp.arange(1, 201, dtype=jnp.uint8)[:, None]  # above, left
    return ink.at[:, :, 0, 0].set(number)

  monkeypatch.setattr(characters, "generate", generate)
  task = one_shot.task(num_classes=3, num_instances=2, image_size=4)
  assert [x.shape for x in task.data] == [(150, 20, 4, 4), (50, 20, 4, 4)]
  assert (task.num_inputs, task.num_outputs) == (19, 3)
  assert (task.num_steps, task.max_level) == (6, 3)
  with pytest.raises(
    ValueError, match="num_classes is 51; it must be at least 1"
  ):
    one_shot.task(num_classes=51)
  for draw, shown, is_turned in (
    (task.sample, range(1, 151), True),
    (task.test, range(151, 201), False),
  ):
    episode = jax.jit(draw)(jax.random.key(0), 3, task.data)
    assert episode.inputs.shape == (6, 19)
    pixels = np.rint(255 * np.asarray(episode.inputs[:, :16]))
    numbers = set(pixels.sum(1).astype(int).tolist())
    assert len(numbers) == 3 and numbers <= set(shown)
    assert np.any(pixels[:, 1:]) == is_turned
    logits = 9 * episode.targets
    assert task.loss(episode, logits) < 0.01
    assert task.error(episode, logits) == 0
    assert task.error(episode, -logits) == 1


def test_omniglot_is_split_by_its_authors(monkeypatch):
  def omniglot(split, data_dir, *, image_size):
    assert (data_dir, image_size) == ("somewhere", 20)
    return np.full((9, 20, 20, 20), {"train": 1, "test": 2}[split], np.uint8)

  monkeypatch.setattr(characters, "omniglot", omniglot)
  task = one_shot.task("omniglot", "somewhere", label_encoding="letters")
  assert [int(x.max()) for x in task.data] == [1, 2]
  assert task.num_inputs == 425 and task.num_outputs == 25
  zeros, ones = jnp.zeros((1, 25)), jnp.ones((1, 25))
  label = jax.nn.one_hot(jnp.arange(5), 5).reshape(1, 25)
  episode = one_shot.Episode(zeros, label, jnp.ones(1, bool))
  np.testing.assert_allclose(task.loss(episode, ones), 5 * np.log(5), rtol=1e-6)
  # One wrong letter is a wrong label.
  assert task.error(episode, label.at[0, 1].set(2)) == 1


@pytest.mark.parametrize(
  ("changed", "message"),
  [
    (
      {"num_classes": 25},
      "num_classes is 25; it must be at least 1 and at most 24",
    ),
    (
      {"num_classes": 0},
      "num_classes is 0; it must be at least 1 and at most 24",
    ),
    (
      {"num_instances": 6},
      "num_instances is 6; it must be at least 1 and at most 5",
    ),
    ({"num_rotations": 2}, "num_rotations is 2; it must be 1 or 4"),
    ({"label_encoding": "words"}, "label_encoding='words' is unknown; known"),
    ({"level": 5}, "level is 5; it must be at least 1 and at most 4"),
  ],
)
def test_bad_arguments_are_refused(changed, message):
  arguments = {"level": 1, "num_classes": 4, "num_instances": 3, **changed}
  with pytest.raises(ValueError, match=message):
    one_shot.episode(jax.random.key(0), drawings=_DRAWINGS, **arguments)


def test_labels_must_suffice():
  drawings = np.zeros((3126, 1, 1, 1), np.uint8)
  with pytest.raises(
    ValueError, match="num_classes is 3126; it must be at mos"
  ):
    one_shot.episode(
      jax.random.key(0),
      1,
      drawings,
      num_classes=3126,
      num_instances=1,
      label_encoding="letters",
    )


def test_groups_divide_the_outputs():
  _, episodes = _drawn("one_hot")
  episode = jax.tree.map(lambda x: x[0], episodes)
  with pytest.raises(ValueError, match="num_groups is 3; it must divide the 4"):
    one_shot.accuracy_by_instance(episode, episode.targets, num_groups=3)


def test_absent_data_says_what_to_do(tmp_path):
  with pytest.raises(FileNotFoundError, match="lacks"):
    one_shot.task("omniglot", tmp_path)
  with pytest.raises(ValueError, match="name='mnist' is unknown; known: gen"):
    one_shot.task("mnist")
