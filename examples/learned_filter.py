"""Turn your own scores into a filter without false negatives: even numbers."""

import jax
import jax.numpy as jnp

from lilly.memory import bloom, learned_filters

RATE = 0.02  # of false positives: half for scores, half for the backup


def score(key, x):
  """Scores even numbers higher, mostly; any model would do."""
  return jnp.where(x % 2 == 0, 1.5, -1.5) + jax.random.normal(key, x.shape)


def main(size=1000, num_late=10, num_non_members=20_000):
  keys = jax.random.split(jax.random.key(0), 4)
  members = 2 * jax.random.permutation(keys[0], 5000)[: size + num_late]
  non_members = 2 * jnp.arange(2 * num_non_members) + 1
  scores, others = score(keys[1], members), score(keys[2], non_members)
  threshold = learned_filters.calibrate(others[:num_non_members], fpr=RATE / 2)
  # The backup has room for members that are missed, and for those to come.
  num_missed = learned_filters.find_missed(scores[:size], threshold).sum()
  room = int(num_missed) + num_late
  backup = learned_filters.init(keys[3], room, fpr=RATE / 2)
  for part in jnp.split(jnp.arange(len(members)), [size]):
    x = members[part], scores[part]
    backup = learned_filters.fill_backup(backup, *x, threshold)
  ask = jax.vmap(learned_filters.contains, (0, 0, None, None))
  is_wrong = ask(others, non_members, threshold, backup)[num_non_members:]
  return {
    "false negatives": int((~ask(scores, members, threshold, backup)).sum()),
    "rate of false positives": float(is_wrong.mean()),
    "bits": float(learned_filters.space(0, room, fpr=RATE)),
    "bits of a Bloom filter": float(bloom.space(len(members), RATE)),
  }


if __name__ == "__main__":
  print(main())
