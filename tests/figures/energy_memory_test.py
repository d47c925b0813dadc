"""Tests of lilly.figures.energy_memory, with memories known by heart."""

import jax.numpy as jnp

from lilly.figures import curves, energy_memory
from lilly.nets import set_memories
from lilly.tasks import patterns

# Keeps the first pattern; reads half of the way to it, then all of it.
MEMORY = set_memories.SetMemory(
  init=lambda key, x: (3.0, {}),
  write=lambda params, state, stored: stored[0],
  read=lambda params, state, kept, x: jnp.stack([(kept + x) / 2, kept]),
  energy=lambda params, state, kept, x: params * jnp.sum(jnp.abs(kept - x)),
)


def test_reads_are_drawn_and_energies_where_there_are_any(
  tmp_path, monkeypatch
):
  task = patterns.make_binary_task(num_bits=6, num_redrawn=4)
  bare = MEMORY._replace(energy=None)
  drawn = []
  plot_lines = curves.plot_lines

  def keep(values, path, labels, *, x):
    drawn.append((values, x.tolist()))
    plot_lines(values, path, labels, x=x)

  monkeypatch.setattr(curves, "plot_lines", keep)
  energy_memory.plot_reads({"bare": (bare, 3.0)}, task, 3, tmp_path)
  assert [path.name for path in tmp_path.iterdir()] == ["bare.png"]
  both = {"bare": bare, "ebmm-2": MEMORY}
  both = {name: (memory, 3.0) for name, memory in both.items()}
  energy_memory.plot_reads(both, task, 3, tmp_path)
  assert (tmp_path / "ebmm-2.png").exists()
  assert (tmp_path / "energy.png").exists()
  ((values, x),) = drawn
  assert list(values) == ["ebmm-2"] and x == [0, 1, 2]
  # From the query half of the way, then all of it: to 0 from the first.
  assert values["ebmm-2"].shape == (3, 3) and (values["ebmm-2"] <= 0).all()
