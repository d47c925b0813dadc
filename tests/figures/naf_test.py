"""Tests of lilly.figures.naf: what is measured for them."""

import jax
import jax.numpy as jnp
import numpy as np

from lilly.envs import reacher
from lilly.figures import naf as figures
from lilly.learners import agents, imagination
from lilly.nets.normalized_advantage import Outputs


def test_distances_are_means_over_episodes_in_centimetres(tmp_path):
  world = imagination.make_world(reacher.make(num_steps=None), 4)

  def outputs(state, observation):
    return Outputs(jnp.zeros(()), jnp.full(2, state), None)

  agent = agents.Agent(lambda *_: None, outputs, lambda *_: None, lambda x: x)
  blank = imagination.State(*[()] * len(imagination.State._fields))
  pushes = jnp.array([0.0, 0.5])
  found = figures.measure_distances(
    agent, blank._replace(agent=pushes), world, 3
  )
  for row, push in zip(found, pushes, strict=True):
    distances = jax.jit(
      lambda push: reacher.play_distances(
        jax.random.key(1),
        world.limited,
        lambda key, observation: jnp.full(2, push),
        4,
        3,
      )
    )(push)
    np.testing.assert_allclose(row, 100 * distances.mean(0), rtol=1e-4)
  assert np.abs(found[0] - found[1]).max() > 1e-3
  figures.plot_distances({"naf": found}, tmp_path / "jitter.png")
  assert (tmp_path / "jitter.png").stat().st_size > 3000


def test_nothing_is_drawn_of_nothing(tmp_path):
  figures.plot_distances({}, tmp_path / "jitter.png")
  figures.plot_imagined({}, tmp_path / "imagined.png")
  assert not list(tmp_path.iterdir())
