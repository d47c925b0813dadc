"""Turn your own scores into a filter without false negatives: even numbers."""

import jax
import jax.numpy as jnp

from lilly.memory import bloom, learned_filters

RATE = 0.02  # of false positives: half for scores, half for the backup


def score(key, x):
  """Scores even numbers higher, mostly; any model would do."""
  return jnp.where(x % 2 == 0, 1.5, -1.5) + jax.random.normal(key, x.shape)


def main(size=1000, num_non_members=20_000):
  keys = jax.random.split(jax.random.key(0), 4)
  members = 2 * jax.random.permutation(keys[0], 5000)[:size]
  non_members = 2 * jnp.arange(2 * num_non_members) + 1
  scores = score(keys[1], members)
  others = score(keys[2], non_members)
  # The threshold is from some non-members, the measured rate from others.
  threshold = learned_filters.calibrate(others[:num_non_members], fpr=RATE / 2)
  backup = learned_filters.make_backup(
    keys[3], members, scores, threshold, fpr=RATE / 2
  )
  contains = jax.vmap(learned_filters.contains, (0, 0, None, None))
  is_found = contains(scores, members, threshold, backup)
  is_wrong = contains(others, non_members, threshold, backup)[num_non_members:]
  num_missed = learned_filters.find_missed(scores, threshold).sum()
  return {
    "false negatives": int((~is_found).sum()),
    "rate of false positives": float(is_wrong.mean()),
    "bits": float(learned_filters.space(0, num_missed, fpr=RATE)),
    "bits of a Bloom filter": float(bloom.space(size, RATE)),
  }


if __name__ == "__main__":
  print(main())
