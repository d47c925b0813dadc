"""Tests of lilly.figures.patterns, with a memory known by heart."""

import jax.numpy as jnp
import numpy as np
import pytest

from lilly.figures import patterns as pattern_figures
from lilly.nets import energy_memory, pattern_memories
from lilly.tasks import patterns


def by_heart(params, stored, queries):
  """Reads half of the way to the pattern, then all of it."""
  reads = jnp.stack([(stored + queries) / 2, stored], axis=1)
  energy = lambda theta, x: theta * jnp.sum(x)
  return energy_memory.Recall(params, energy, reads)


MEMORY = pattern_memories.PatternMemory(lambda key, x: 3.0, by_heart)


@pytest.mark.parametrize(("count", "shown"), [(3, 3), (20, 16)])
def test_a_set_is_shown_as_it_is_read(count, shown):
  task = patterns.binary_task(num_bits=6, num_redrawn=4)
  rows, energies = pattern_figures.recall_examples(MEMORY, 3.0, task, count)
  assert list(rows) == ["stored", "query", "read 1", "read 2"]
  assert {x.shape for x in rows.values()} == {(shown, 2, 3)}
  stored, query, first, second = rows.values()
  np.testing.assert_array_equal(second, stored)
  np.testing.assert_allclose(first, (stored + query) / 2)
  assert (stored != query).any()
  assert energies.shape == (count, 3)
  sums = np.stack([x.sum((1, 2)) for x in (query, first, second)], axis=1)
  np.testing.assert_allclose(
    energies[:shown], 3 * (sums - sums[:, :1]), atol=1e-5
  )


def test_images_stay_images():
  task = patterns.image_task("digits", block_size=4)
  rows, _ = pattern_figures.recall_examples(MEMORY, 3.0, task, 2)
  assert {x.shape for x in rows.values()} == {(2, 8, 8, 1)}
  # At most the block of 4 x 4 is another.
  assert 0 < (rows["query"] != rows["stored"]).sum() <= 2 * 16
