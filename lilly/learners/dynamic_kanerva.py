"""Trains the Dynamic Kanerva Machine, and measures its retrieval."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lilly.learners import descent
from lilly.nets import dynamic_kanerva_model as model
from lilly.nets.set_memories import SetMemory

__all__ = ["init", "make_loss", "measure", "measure_recall"]


def init(
  key: jax.Array, nets: model.Networks, memory: SetMemory, image: jax.Array
) -> Any:
  """Initialises the parameters; there is no network state.

  Args:
    key: typed key.
    nets: networks from `dynamic_kanerva_model.networks`.
    memory: a memory of codes, from `kanerva_memories`.
    image: an example, with the task's shape.

  Returns:
    Parameters, and (), as `descent.make` takes them.
  """
  return model.init(key, nets, memory, image), ()


def make_loss(
  nets: model.Networks, memory: SetMemory, *, autoencodes: bool = True
) -> descent.Loss:
  """Makes the loss of an episode of images.

  Args:
    nets: networks from `dynamic_kanerva_model.networks`.
    memory: a memory of codes, from `kanerva_memories`.
    autoencodes: see `dynamic_kanerva_model.loss`.

  Returns:
    Maps key, parameters, () and images [T, ...] to the loss, in nats per image,
    and its terms: nats (minus the bound), nll, kl_weights, kl_memory,
    autoencoder.

  Reference:
    Wu et al. (2018), arXiv:1811.09556.
  """

  def loss(key, params, state, images):
    del state
    total, terms = model.loss(
      key, nets, memory, params, images, autoencodes=autoencodes
    )
    return total, {
      "nats": -terms.bound,
      "nll": -terms.log_likelihood,
      "kl_weights": terms.kl_weights,
      "kl_memory": terms.kl_memory,
      "autoencoder": -terms.autoencoder,
    }

  return loss


def measure(
  key: jax.Array,
  loss: descent.Loss,
  params: Any,
  draw: Callable[[jax.Array], jax.Array],
  *,
  num_episodes: int,
  damage: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
  recall: Callable[[jax.Array, jax.Array], dict[str, jax.Array]] | None = None,
) -> dict[str, jax.Array]:
  """Measures the loss's terms, and retrieval, on test episodes.

  Args:
    key: typed key; the same key draws the same episodes.
    loss: loss from `make_loss`.
    params: parameters of networks and memory.
    draw: maps a key to an episode of images, [T, ...].
    num_episodes: number of test episodes, E.
    damage: maps a key and an episode to queries, [T, ...].
    recall: maps episodes and queries, [E, T, ...], to metrics, such as
      `measure_recall`; None: retrieval is not measured.

  Returns:
    The means of the loss's terms, and the metrics of `recall`.
  """
  keys = jax.random.split(key, (num_episodes, 3))

  def one(keys):
    images = draw(keys[0])
    metrics = loss(keys[1], params, (), images)[1]
    if damage is None:
      return metrics, ()
    return metrics, (images, damage(keys[2], images))

  metrics, episodes = jax.lax.map(one, keys)
  found = jax.tree.map(jnp.mean, metrics)
  return found | (recall(*episodes) if recall is not None else {})


def measure_recall(
  nets: model.Networks,
  memory: SetMemory,
  params: Any,
  images: jax.Array,
  queries: jax.Array,
  *,
  num_reads: int = 10,
) -> dict[str, jax.Array]:
  """Measures the distance of queries and reads from the stored images.

  Distances are sums of squared errors over an image: for binary images, wrong
  pixels. The control reads from another episode's memory.

  Args:
    nets: networks from `dynamic_kanerva_model.networks`.
    memory: a memory of codes, from `kanerva_memories`.
    params: parameters from `init`.
    images: episodes, [E, T, H, W, C].
    queries: damaged images, with the shape of images.
    num_reads: number of reads, n.

  Returns:
    Means: query, wrong (after one read), wrong_in_the_end (after n),
    last_change (of the last read), control; and falling: the fraction of images
    whose Lyapunov value did not rise, minimum over reads.

  Reference:
    Wu et al. (2018), arXiv:1811.09556.
  """

  def distance(x, y):
    return jnp.sum(jnp.square(x - y), (-3, -2, -1)).mean()

  def one(images, queries, others):
    content, other = (
      model.write(nets, memory, params, x) for x in (images, others)
    )

    def recall(content, num_reads):
      return jax.vmap(
        lambda x: model.recall(
          nets, memory, params, content, x, num_reads=num_reads
        )
      )(queries)

    reads, values = recall(content, num_reads)
    control, _ = recall(other, 1)
    falls = jnp.diff(values, axis=1) <= 1e-3
    return {
      "query": distance(queries, images),
      "wrong": distance(reads[:, 1], images),
      "wrong_in_the_end": distance(reads[:, -1], images),
      "last_change": distance(reads[:, -1], reads[:, -2]),
      "control": distance(control[:, 1], images),
      "falling": falls.mean(0),
    }

  episodes = images, queries, jnp.roll(images, 1, 0)
  found = jax.lax.map(lambda x: one(*x), episodes)
  means = jax.tree.map(lambda x: jnp.mean(x, axis=0), found)
  return means | {"falling": jnp.min(means["falling"], initial=1.0)}
