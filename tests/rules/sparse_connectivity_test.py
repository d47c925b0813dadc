"""Tests of sparse connectivity: what is absent stays exactly absent."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lilly.rules import sparse_connectivity


@hypothesis.settings(max_examples=10, deadline=None)
@hypothesis.given(st.sampled_from([(0, 3), (), (4, 5)]), st.floats(0.01, 1))
def test_mask_keeps_an_exact_number(shape, density):
  mask = np.asarray(
    sparse_connectivity.mask(jax.random.key(0), shape, density=density)
  )
  assert mask.shape == shape
  assert set(np.unique(mask)) <= {0.0, 1.0}
  assert mask.sum() == round(density * mask.size)


def test_every_entry_is_kept_equally_often():
  keys = jax.random.split(jax.random.key(1), 4000)

  def draw(key):
    return sparse_connectivity.mask(key, (2, 4), density=0.25)

  masks = np.asarray(jax.jit(jax.vmap(draw))(keys))
  spread = np.sqrt(0.25 * 0.75 / len(masks))
  assert np.abs(masks.mean(0) - 0.25).max() < 4 * spread


@pytest.mark.parametrize("density", [0.0, -0.5, 1.1])
def test_density_must_be_a_fraction(density):
  with pytest.raises(ValueError, match=f"density is {density}; .*"):
    sparse_connectivity.mask(jax.random.key(0), (2, 2), density=density)


def _params():
  rng = np.random.default_rng(0)
  return {
    "dense": {"w": rng.normal(size=(3, 4)).astype(np.float32)},
    "sparse": {
      "w": rng.normal(size=(4, 5)).astype(np.float32),
      "b": rng.normal(size=5).astype(np.float32),
    },
  }


def test_masked_entries_stay_zero_and_others_learn_as_without():
  params = _params()
  kept = np.random.default_rng(1).integers(0, 2, (4, 5))
  masks = {"dense": None, "sparse": {"w": jnp.asarray(kept), "b": None}}
  plain = optax.adamw(0.1, weight_decay=0.1)

  def loss(params):
    return sum(jnp.sum(jnp.sin(3 * leaf)) for leaf in jax.tree.leaves(params))

  def train(optimiser, params):
    def step(carry, _):
      params, state = carry
      updates, state = optimiser.update(jax.grad(loss)(params), state, params)
      params = optax.apply_updates(params, updates)
      return (params, state), params

    start = (params, optimiser.init(params))
    return jax.lax.scan(step, start, None, length=20)[1]

  masked = optax.chain(plain, sparse_connectivity.apply_masks(masks))
  history = jax.jit(lambda params: train(masked, params))(params)
  expected = jax.jit(lambda params: train(plain, params))(params)
  # From the first update on, though the parameters did not start at zero.
  assert not np.any(np.asarray(history["sparse"]["w"])[:, kept == 0])
  np.testing.assert_allclose(
    np.asarray(history["sparse"]["w"])[:, kept == 1],
    np.asarray(expected["sparse"]["w"])[:, kept == 1],
    rtol=1e-5,
    atol=1e-6,
  )
  for module, name in (("dense", "w"), ("sparse", "b")):
    np.testing.assert_allclose(
      history[module][name], expected[module][name], rtol=1e-5, atol=1e-6
    )


def test_masks_may_be_batched():
  def update(mask, params):
    transformation = sparse_connectivity.apply_masks({"w": mask})
    params = {"w": params}
    state = transformation.init(params)
    updates, _ = transformation.update(
      jax.tree.map(jnp.ones_like, params), state, params, unused=0
    )
    return optax.apply_updates(params, updates)["w"]

  masks = jnp.array([[1.0, 0.0], [0.0, 1.0]])
  new = jax.vmap(update)(masks, jnp.full((2, 2), 0.1))
  np.testing.assert_allclose(new, 1.1 * masks)


def test_parameters_are_needed():
  transformation = sparse_connectivity.apply_masks(jnp.ones(2))
  with pytest.raises(ValueError, match="params is None"):
    transformation.update(jnp.ones(2), optax.EmptyState())
  with pytest.raises(ValueError, match=r"updates has shape \[3\]; .* in masks"):
    transformation.update(jnp.ones(3), optax.EmptyState(), jnp.ones(2))
