"""Sequence tasks: episodes, tasks, losses and errors.

A task is a record of functions and sizes, so that a recurrent learner written
for one runs on all. Everything is unbatched and has a fixed shape; `mask` marks
the scored steps, and outputs at other steps do not change any score. Arguments
of another shape than stated are a ValueError; whole numbers count as float32.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lilly import checks

__all__ = [
  "Episode",
  "Task",
  "bit_errors",
  "bit_loss",
  "bits_per_sequence",
  "clip_level",
  "label_errors",
  "label_loss",
]


class Episode(NamedTuple):
  """One sequence; all entries are zero after its end."""

  inputs: jax.Array  # [T, D] float32
  targets: jax.Array  # [T, O] float32: bits, or one-hot labels
  mask: jax.Array  # [T] bool, the scored steps


class Task(NamedTuple):
  """A source of episodes, and the sizes of a network for them."""

  num_inputs: int  # D
  num_outputs: int  # O
  num_steps: int  # T
  max_level: int  # the hardest level
  # sample(key, level, data) -> Episode; level [] int32, 1..max_level
  sample: Callable[..., Episode]
  # test(key, level, data) -> Episode, of held-out data if there is any
  test: Callable[..., Episode]
  # loss(episode, logits [T, O]) -> [], the training loss
  loss: Callable[[Episode, jax.Array], jax.Array]
  # error(episode, logits [T, O]) -> [], the fraction that is wrong, 0..1
  error: Callable[[Episode, jax.Array], jax.Array]
  # arrays of the data set, () if there is none
  data: Any = ()


def clip_level(level: int | jax.Array, max_level: int) -> jax.Array:
  """Validates a static level, and clips one that may be traced.

  Args:
    level: a number is validated, a JAX array is clipped, [] int32.
    max_level: the hardest level.

  Returns:
    The level, [] int32, from 1 to max_level.

  Raises:
    ValueError: a number is out of range, or no whole number.

  >>> int(clip_level(jnp.asarray(9), 5))
  5
  """
  if isinstance(level, jax.Array):
    level = checks.integers("level", level, "")
  else:
    level = checks.whole_number("level", level, least=1, most=max_level)
  return jnp.clip(level, 1, max_level)


def _scored_sum(x: jax.Array, mask: jax.Array) -> jax.Array:
  """Sums x [T, ...] over the scored steps."""
  return jnp.sum(x, where=mask.reshape(mask.shape + (1,) * (x.ndim - 1)))


def _checked(
  episode: Episode, logits: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns targets, logits and mask.

  Unscored logits are set to 0, so that a NaN there does not reach the gradient.
  """
  sizes = {}
  targets = checks.real("episode.targets", episode.targets, "T O", sizes)
  logits = checks.real("logits", logits, "T O", sizes)
  mask = checks.mask("episode.mask", episode.mask, "T", sizes)
  return targets, jnp.where(mask[:, None], logits, 0), mask


def _num_scored(mask: jax.Array, per_step: int = 1) -> jax.Array:
  return per_step * jnp.maximum(mask.sum(), 1)


def bit_loss(episode: Episode, logits: jax.Array) -> jax.Array:
  """Averages the sigmoid cross-entropy over the scored bits.

  L = - 1/(O n) Σ_t∈mask Σ_o y log σ(z) + (1 - y) log(1 - σ(z)), n = |mask|.

  A mean over a batch weights episodes equally, whatever their lengths.

  Args:
    episode: the episode; targets are bits.
    logits: network outputs z, [T, O].

  Returns:
    The loss in nats, []; 0 if no step is scored.

  Reference:
    Graves, Wayne and Danihelka, 2014 (arXiv 1410.5401), section 4.

  >>> bits = jnp.ones((2, 3))
  >>> episode = Episode(bits, bits, jnp.array([True, False]))
  >>> round(float(bit_loss(episode, jnp.zeros((2, 3)))), 4)
  0.6931
  """
  targets, z, mask = _checked(episode, logits)
  nats = optax.sigmoid_binary_cross_entropy(z, targets)
  return _scored_sum(nats, mask) / _num_scored(mask, z.shape[-1])


def bits_per_sequence(episode: Episode, logits: jax.Array) -> jax.Array:
  """Sums the sigmoid cross-entropy over the scored bits, in bits.

  Uniform guessing costs one bit per scored bit.

  Args:
    episode: the episode; targets are bits.
    logits: network outputs, [T, O].

  Returns:
    The cost of the sequence in bits, [].

  Reference:
    Graves, Wayne and Danihelka, 2014 (arXiv 1410.5401), section 4: "cost per
    sequence (bits)".
  """
  _, z, mask = _checked(episode, logits)
  nats = bit_loss(episode, logits) * _num_scored(mask, z.shape[-1])
  return nats / math.log(2)


def bit_errors(episode: Episode, logits: jax.Array) -> jax.Array:
  """Computes the fraction of the scored bits that is wrong.

  A positive logit predicts 1.

  Args:
    episode: the episode; targets are bits.
    logits: network outputs, [T, O].

  Returns:
    The mean bit error, [], from 0 to 1; guessing gives 1/2.
  """
  targets, z, mask = _checked(episode, logits)
  wrong = (z > 0) != (targets > 0.5)
  return _scored_sum(wrong, mask) / _num_scored(mask, z.shape[-1])


def _groups(x: jax.Array, num_groups: int) -> jax.Array:
  """[T, O] -> [T, num_groups, O / num_groups]."""
  num_groups = checks.whole_number("num_groups", num_groups, least=-math.inf)
  if num_groups < 1 or x.shape[-1] % num_groups:
    raise ValueError(
      f"num_groups is {num_groups}; it must divide the {x.shape[-1]} outputs."
    )
  return x.reshape(x.shape[0], num_groups, -1)


def label_loss(
  episode: Episode, logits: jax.Array, *, num_groups: int = 1
) -> jax.Array:
  """Averages the softmax cross-entropy over the scored steps.

  L = - 1/n Σ_t∈mask Σ_g Σ_o y log softmax(z_g), n = |mask|.

  Args:
    episode: the episode; targets are one-hot in each group.
    logits: network outputs z, [T, O].
    num_groups: symbols per label; each has O / num_groups values.

  Returns:
    The loss in nats, []; 0 if no step is scored.

  Raises:
    ValueError: num_groups does not divide O.

  Reference:
    Santoro et al., 2016 (arXiv 1605.06065), equation 10 (one-hot labels) and
    section 4.1 (labels of five letters).

  >>> label = jax.nn.one_hot(jnp.array([2, 0]), 4)
  >>> episode = Episode(label, label, jnp.array([True, False]))
  >>> round(float(label_loss(episode, jnp.zeros((2, 4)))), 4)
  1.3863
  """
  targets, z, mask = _checked(episode, logits)
  z, targets = _groups(z, num_groups), _groups(targets, num_groups)
  nats = optax.softmax_cross_entropy(z, targets)
  return _scored_sum(nats, mask) / _num_scored(mask)


def label_errors(
  episode: Episode, logits: jax.Array, *, num_groups: int = 1
) -> jax.Array:
  """Computes the fraction of the scored steps with a wrong label.

  Args:
    episode: the episode; targets are one-hot in each group.
    logits: network outputs, [T, O].
    num_groups: symbols per label; all must be correct.

  Returns:
    The error, [], from 0 to 1.

  Raises:
    ValueError: num_groups does not divide O.
  """
  targets, z, mask = _checked(episode, logits)
  labels = _groups(targets, num_groups).argmax(-1)
  wrong = (_groups(z, num_groups).argmax(-1) != labels).any(-1)
  return _scored_sum(wrong, mask) / _num_scored(mask)
