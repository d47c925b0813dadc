"""Tests of lilly.nets.feedback_learner."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lilly.nets import feedback_learner

SIZES = [5, 4, 3]
HYPER = {
  "learning_rate": 0.1,
  "hidden_rate": 2.0,
  "omega": 0.5,
  "beta": 0.5,
  "weight_decay": 0.01,
  "noise_std": 1e-2,
}


@functools.cache
def make(rule):
  """Returns the learner, its parameters and state, and a batch of two."""
  learner = feedback_learner.Learner(rule, SIZES)
  network = feedback_learner.network(learner, HYPER)
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(2, 6)), jnp.float32)
  target = jnp.asarray(rng.uniform(size=(2, 3)), jnp.float32)
  init = jax.jit(network.init)
  return learner, *init(jax.random.key(0), x), x, target


def plain_loss(params, x, target):
  """|e|² / 2 of a sigmoid network, mean over the batch, by hand."""
  h = x
  for l in range(3):
    layer = params[f"mlp/linear_{l}"]
    h = jax.nn.sigmoid(h @ layer["w"] + layer["b"][None])
  return jnp.mean(0.5 * jnp.sum((target - h) ** 2, axis=-1))


def test_bp_is_autodiff_of_the_plain_network():
  learner, params, state, x, target = make("bp")
  loss, grads = feedback_learner.gradient(
    jax.random.key(3), learner, params, state, HYPER, x, target
  )
  expected, plain = jax.value_and_grad(plain_loss)(params, x, target)
  np.testing.assert_allclose(loss, expected, rtol=1e-6)
  chex.assert_trees_all_close(grads, plain, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("rule", feedback_learner.RULES)
def test_every_rule_gives_a_gradient_of_the_parameters_form(rule):
  learner, params, state, x, target = make(rule)
  loss, grads = jax.eval_shape(
    lambda key: feedback_learner.gradient(
      key, learner, params, state, HYPER, x, target
    ),
    jax.random.key(3),
  )
  assert loss.shape == ()
  chex.assert_trees_all_equal_shapes_and_dtypes(grads, params)


def test_all_rules_start_from_the_same_weights():
  _, expected, *_ = make("bp")
  for rule in feedback_learner.RULES:
    _, params, *_ = make(rule)
    for layer, leaves in expected.items():
      if rule != "fa_sparse" or layer == "mlp/linear_0":
        chex.assert_trees_all_equal(params[layer]["w"], leaves["w"])


def test_node_perturbation_is_unbiased_and_leaves_the_output_layer_exact():
  learner, params, state, x, target = make("node")
  x, target = x[:1], target[:1]
  keys = jax.random.split(jax.random.key(3), 2000)
  draws = jax.jit(
    jax.vmap(
      lambda key: feedback_learner.gradient(
        key, learner, params, state, HYPER, x, target
      )[1]
    )
  )(keys)
  expected = jax.grad(plain_loss)(params, x, target)
  last = "mlp/linear_2"
  chex.assert_trees_all_close(
    jax.tree.map(lambda d: d[0], draws[last]), expected[last], rtol=1e-4
  )
  for l in range(2):
    drawn = np.asarray(draws[f"mlp/linear_{l}"]["w"], np.float64)
    error = drawn.mean(0) - np.asarray(expected[f"mlp/linear_{l}"]["w"])
    standard = drawn.std(0) / np.sqrt(len(drawn))
    assert (np.abs(error) < 4.5 * standard + 1e-5).all()


def test_update_is_decay_and_rate_as_written():
  """Two examples, one step, closed form."""
  learner, params, state, x, target = make("bp")
  grads = jax.grad(plain_loss)(params, x, target)
  optimiser = feedback_learner.optimiser(learner, params, state, HYPER)
  updates, _ = optimiser.update(grads, optimiser.init(params), params)
  new = optax.apply_updates(params, updates)
  for l, rate in enumerate((0.2, 0.2, 0.1)):
    old, g = params[f"mlp/linear_{l}"], grads[f"mlp/linear_{l}"]
    found = new[f"mlp/linear_{l}"]
    chex.assert_trees_all_close(found["w"], 0.99 * old["w"] - rate * g["w"])
    chex.assert_trees_all_close(found["b"], old["b"] - rate * g["b"])


def train(rule, steps=5):
  learner, params, state, x, target = make(rule)
  optimiser = feedback_learner.optimiser(learner, params, state, HYPER)
  moments = optimiser.init(params)
  start = params

  @jax.jit
  def update(key, params, moments):
    _, grads = feedback_learner.gradient(
      key, learner, params, state, HYPER, x, target
    )
    updates, moments = optimiser.update(grads, moments, params)
    return optax.apply_updates(params, updates), moments

  for i in range(steps):
    params, moments = update(jax.random.key(i), params, moments)
  return start, params, state


def test_kolen_pollack_shrinks_the_gap_by_the_decay_alone():
  start, params, _ = train("kp")
  for l in (1, 2):
    before, after = start[f"mlp/linear_{l}"], params[f"mlp/linear_{l}"]
    gap = before["w"] - before["feedback"].T
    chex.assert_trees_all_close(
      after["w"] - after["feedback"].T, 0.99**5 * gap, rtol=1e-4, atol=1e-6
    )


def test_sparse_entries_stay_exactly_zero_and_the_first_layer_is_dense():
  start, params, state = train("fa_sparse")
  assert jnp.all(params["mlp/linear_0"]["w"] != 0)
  for l in (1, 2):
    before = start[f"mlp/linear_{l}"]["w"] == 0
    assert jnp.array_equal(params[f"mlp/linear_{l}"]["w"] == 0, before)
    size, zeros = before.size, int(before.sum())
    assert 0 < zeros < size
    assert jnp.any(state[f"mlp/linear_{l}"]["feedback"] == 0)


def angles(learner, params, state, x, target):
  return jax.jit(
    lambda params, state: feedback_learner.angles(
      learner, params, state, HYPER, x, target
    )
  )(params, state)


@pytest.mark.parametrize(
  ("rule", "reference", "expected"),
  [("bp", "bp", 0.0), ("output_only", "bp", 90.0), ("pbp", "pbp", 0.0)],
)
def test_angles_of_the_reference_rules(rule, reference, expected):
  found = angles(*make(rule))
  for l in (1, 2):
    angle = found[f"angle_{reference}_{l}"]
    np.testing.assert_allclose(angle, expected, atol=1e-2)
  assert abs(found["angle_bp_1"] - found["angle_pbp_1"]) > 1 or rule[0] == "o"


def test_feedback_that_is_the_transpose_has_no_angle():
  learner, params, state, x, target = make("fa")
  state = {
    layer: {"feedback": 3 * params[layer]["w"].T}
    for layer in ("mlp/linear_1", "mlp/linear_2")
  }
  found = angles(learner, params, state, x, target)
  for l in (1, 2):
    np.testing.assert_allclose(found[f"angle_bp_{l}"], 0.0, atol=0.1)
    np.testing.assert_allclose(found[f"matrix_angle_{l}"], 0.0, atol=0.1)
    np.testing.assert_allclose(found[f"norm_ratio_{l}"], 3.0, rtol=1e-5)
