"""Tests of lilly.learners.dynamic_kanerva, with a memory that is known."""

import jax
import jax.numpy as jnp

from lilly.learners import dynamic_kanerva as learner
from lilly.nets import dynamic_kanerva_model
from lilly.tasks import image_episodes


def test_recall_by_hand(monkeypatch):
  """A memory that gives back, of its own episode, all but one pixel."""
  task = image_episodes.task("digits")
  images = task.test(jax.random.key(0), task.data, 8).reshape(2, 4, 8, 8, 1)
  queries = 1 - images

  def write(nets, memory, params, images):
    return images

  def recall(nets, memory, params, content, query, *, num_reads):
    # What is nearest to the query's opposite; then, one pixel from it.
    distance = jnp.sum(jnp.abs(content + query[None] - 1), (1, 2, 3))
    stored = content[jnp.argmin(distance)]
    near = stored.at[0, 0, 0].set(1 - stored[0, 0, 0])
    seen = [query, near, stored, stored][: num_reads + 1]
    value = jnp.array([4.0, 3.0, 3.5, 1.0])[: num_reads + 1]
    return jnp.stack(seen), value

  monkeypatch.setattr(dynamic_kanerva_model, "write", write)
  monkeypatch.setattr(dynamic_kanerva_model, "recall", recall)
  found = learner.measure_recall(None, None, {}, images, queries, num_reads=3)
  assert found["query"] == 64 and found["wrong"] == 1
  assert found["wrong_in_the_end"] == found["last_change"] == 0
  assert found["control"] > 5  # the other episode has other digits
  assert found["falling"] == 0  # the second read raised every value


def test_measures_are_of_damaged_test_episodes():
  def loss(key, params, state, images):
    return 0.0, {"nats": params * images.mean()}

  found = learner.measure(
    jax.random.key(0),
    loss,
    jnp.array(2.0),
    lambda key: jnp.full((3, 2), 5.0),
    num_episodes=4,
    damage=lambda key, images: images + 1,
    recall=lambda images, queries: {
      "query": jnp.mean(queries - images),
      "count": len(images),
    },
  )
  assert found == {"nats": 10.0, "query": 1.0, "count": 4}
  without = learner.measure(
    jax.random.key(0),
    loss,
    jnp.array(2.0),
    lambda key: jnp.ones((3, 2)),
    num_episodes=2,
  )
  assert without == {"nats": 2.0}
