"""Tests of lilly.figures.patterns, with a memory known by heart."""

import jax.numpy as jnp
import numpy as np
import pytest

from lilly.figures import patterns as pattern_figures
from lilly.nets import set_memories
from lilly.tasks import patterns

# Keeps the first pattern; reads half of the way to it, then all of it.
MEMORY = set_memories.SetMemory(
  init=lambda key, x: (3.0, {}),
  write=lambda params, state, stored: stored[0],
  read=lambda params, state, kept, x: jnp.stack([(kept + x) / 2, kept]),
  energy=lambda params, state, kept, x: params * jnp.sum((1 + kept) * x),
)


@pytest.mark.parametrize(("count", "shown"), [(3, 3), (20, 16)])
def test_a_set_is_shown_as_it_is_read(count, shown):
  task = patterns.make_binary_task(num_bits=6, num_redrawn=4)
  rows, energies = pattern_figures.recall_examples(MEMORY, 3.0, task, count)
  assert list(rows) == ["stored", "query", "read 1", "read 2"]
  assert {x.shape for x in rows.values()} == {(shown, 2, 3)}
  stored, query, first, second = rows.values()
  kept = stored[:1]
  np.testing.assert_array_equal(second, np.broadcast_to(kept, stored.shape))
  np.testing.assert_allclose(first, (kept + query) / 2)
  assert (stored != query).any()
  assert energies.shape == (count, 3)
  sums = [((1 + kept) * x).sum((1, 2)) for x in (query, first, second)]
  sums = np.stack(sums, axis=1)
  np.testing.assert_allclose(
    energies[:shown], 3 * (sums - sums[:, :1]), atol=1e-5
  )
  still = MEMORY._replace(energy=None)
  _, energies = pattern_figures.recall_examples(still, 3.0, task, count)
  assert energies.shape == (count, 3) and not energies.any()


def test_images_stay_images():
  task = patterns.make_image_task("digits", block_size=4)
  rows, _ = pattern_figures.recall_examples(MEMORY, 3.0, task, 2)
  assert {x.shape for x in rows.values()} == {(2, 8, 8, 1)}
  # At most the block of 4 x 4 is another.
  assert 0 < (rows["query"] != rows["stored"]).sum() <= 2 * 16
