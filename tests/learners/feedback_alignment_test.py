"""Tests of lilly.learners.feedback_alignment."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lilly.learners import feedback_alignment
from lilly.nets import feedback
from lilly.tasks import supervised

SIZES = [5, 4, 3]
BETA = 0.5
RATES = {"learning_rate": 0.1, "hidden_rate": 2.0, "weight_decay": 0.01}


@functools.cache
def make(rule):
  """Returns the model, its parameters and state, and a batch of two."""
  model = feedback_alignment.Model(rule, SIZES)
  network = feedback_alignment.make_network(model, omega=0.5, beta=BETA)
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(2, 6)), jnp.float32)
  target = jnp.asarray(rng.uniform(size=(2, 3)), jnp.float32)
  init = jax.jit(network.init)
  return model, *init(jax.random.key(0), x), x, target


def gradient(key, model, params, state, x, target):
  return feedback_alignment.gradient(
    key, model, params, state, x, target, beta=BETA
  )


def plain_loss(params, x, target):
  """|e|² / 2 of a sigmoid network, mean over the batch, by hand."""
  h = x
  for l in range(3):
    layer = params[f"mlp/linear_{l}"]
    h = jax.nn.sigmoid(h @ layer["w"] + layer["b"][None])
  return jnp.mean(0.5 * jnp.sum((target - h) ** 2, axis=-1))


PLAIN = jax.jit(jax.value_and_grad(plain_loss))


def test_bp_is_autodiff_of_the_plain_network():
  model, params, state, x, target = make("bp")
  loss, grads = jax.jit(
    lambda key, params: gradient(key, model, params, state, x, target)
  )(jax.random.key(3), params)
  expected, plain = PLAIN(params, x, target)
  np.testing.assert_allclose(loss, expected, rtol=1e-6)
  chex.assert_trees_all_close(grads, plain, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("rule", feedback_alignment.RULES)
def test_every_rule_gives_a_gradient_of_the_parameters_form(rule):
  model, params, state, x, target = make(rule)
  loss, grads = jax.eval_shape(
    lambda key: gradient(key, model, params, state, x, target),
    jax.random.key(3),
  )
  assert loss.shape == ()
  chex.assert_trees_all_equal_shapes_and_dtypes(grads, params)


def test_the_size_of_sign_feedback_is_beta():
  """Each layer that the signal crosses multiplies it by beta."""
  model, params, state, x, target = make("usf")

  @jax.jit
  def grads(beta):
    return feedback_alignment.gradient(
      jax.random.key(3), model, params, state, x, target, beta=beta
    )[1]

  small, large = grads(0.5), grads(1.0)
  for l, ratio in enumerate((4.0, 2.0, 1.0)):
    layer = f"mlp/linear_{l}"
    np.testing.assert_allclose(
      large[layer]["w"], ratio * small[layer]["w"], rtol=1e-4
    )


def test_all_rules_start_from_the_same_weights():
  _, expected, *_ = make("bp")
  for rule in feedback_alignment.RULES:
    _, params, *_ = make(rule)
    for layer, leaves in expected.items():
      if rule != "fa_sparse" or layer == "mlp/linear_0":
        chex.assert_trees_all_equal(params[layer]["w"], leaves["w"])


def test_node_perturbation_is_unbiased_and_leaves_the_output_layer_exact():
  model, params, state, x, target = make("node")
  x, target = x[:1], target[:1]
  keys = jax.random.split(jax.random.key(3), 2000)
  draws = jax.jit(
    jax.vmap(lambda key: gradient(key, model, params, state, x, target)[1])
  )(keys)
  _, expected = PLAIN(params, x, target)
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
  model, params, state, x, target = make("bp")
  # Biases that are not 0 would show that they decay.
  params = {
    layer: leaves | {"b": leaves["b"] + 0.3} for layer, leaves in params.items()
  }
  _, grads = PLAIN(params, x, target)
  optimiser = feedback_alignment.make_optimiser(model, params, state, **RATES)
  updates, _ = jax.jit(optimiser.update)(grads, optimiser.init(params), params)
  new = optax.apply_updates(params, updates)
  for l, rate in enumerate((0.2, 0.2, 0.1)):
    old, g = params[f"mlp/linear_{l}"], grads[f"mlp/linear_{l}"]
    found = new[f"mlp/linear_{l}"]
    chex.assert_trees_all_close(found["w"], 0.99 * old["w"] - rate * g["w"])
    chex.assert_trees_all_close(found["b"], old["b"] - rate * g["b"])


def train(rule, steps=5):
  model, params, state, x, target = make(rule)
  optimiser = feedback_alignment.make_optimiser(model, params, state, **RATES)
  opt_state = optimiser.init(params)
  start = params

  @jax.jit
  def update(key, params, opt_state):
    _, grads = gradient(key, model, params, state, x, target)
    updates, opt_state = optimiser.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  for i in range(steps):
    params, opt_state = update(jax.random.key(i), params, opt_state)
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


def angles(model, params, state, x, target, *, seed=0, beta=BETA):
  return jax.jit(
    lambda key, params, state: feedback_alignment.angles(
      key, model, params, state, x, target, beta=beta
    )
  )(jax.random.key(seed), params, state)


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


def test_an_angle_is_between_the_signals_that_go_back():
  """The last hidden layer's, in NumPy."""
  model, params, state, x, target = make("fa")
  found = angles(model, params, state, x, target)
  sigmoid = lambda a: 1 / (1 + np.exp(-a))
  h = np.asarray(x, np.float64)
  params, state, target = jax.device_get((params, state, target))
  for l in range(2):
    layer = params[f"mlp/linear_{l}"]
    h = sigmoid(h @ layer["w"] + layer["b"])
  w = params["mlp/linear_2"]["w"]
  y = sigmoid(h @ w + params["mlp/linear_2"]["b"])
  error = (y - target) * y * (1 - y)
  matrix = state["mlp/linear_2"]["feedback"]
  one, other = (error @ m * h * (1 - h) for m in (matrix, w.T))
  lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
  expected = np.degrees(np.arccos(np.sum(one * other, axis=1) / lengths))
  np.testing.assert_allclose(found["angle_bp_2"], expected.mean(), rtol=1e-4)


def test_feedback_that_is_the_transpose_has_no_angle():
  model, params, state, x, target = make("fa")
  state = {
    layer: {"feedback": 3 * params[layer]["w"].T}
    for layer in ("mlp/linear_1", "mlp/linear_2")
  }
  found = angles(model, params, state, x, target)
  for l in (1, 2):
    np.testing.assert_allclose(found[f"angle_bp_{l}"], 0.0, atol=0.1)
    np.testing.assert_allclose(found[f"matrix_angle_{l}"], 0.0, atol=0.1)
    np.testing.assert_allclose(found[f"norm_ratio_{l}"], 3.0, rtol=1e-5)


HYPER = {
  "learning_rate": jnp.float32(0.1),
  "omega": jnp.float32(0.4),
  "beta": jnp.float32(0.7),
  "noise_std": jnp.float32(0.3),
  "mirror_rate": jnp.float32(0.05),
}


def optimiser_of(model):
  def optimiser(params, state, hyper):
    return feedback_alignment.make_optimiser(
      model, params, state, learning_rate=hyper["learning_rate"]
    )

  return optimiser


def learn(rule, task, updates=1, batch_size=3):
  """Returns the model, the state at first and the one after some updates."""
  model = feedback_alignment.Model(rule, [*SIZES[:-1], task.num_outputs])
  learner = feedback_alignment.make(
    model, task, optimiser=optimiser_of(model), batch_size=batch_size
  )
  start = jax.jit(learner.init)(jax.random.key(0), HYPER, task.data)
  state, metrics = start, {}
  update = jax.jit(learner.update)
  for _ in range(updates):
    state, metrics = update(state, task.data)
  return model, start, state, metrics


TEACHER = supervised.teacher([6, 3])


def test_an_update_is_a_step_down_the_loss_of_a_batch():
  _, start, state, metrics = learn("bp", TEACHER)
  key, key_data, _ = jax.random.split(jax.random.clone(start.key), 3)
  x, target = TEACHER.sample(key_data, start.instance, (), 3)
  loss, grads = PLAIN(start.params, x, target)
  np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
  chex.assert_trees_all_close(
    state.params,
    jax.tree.map(lambda w, g: w - 0.1 * g, start.params, grads),
    rtol=1e-5,
    atol=1e-7,
  )
  assert jnp.array_equal(
    jax.random.key_data(state.key), jax.random.key_data(key)
  )
  chex.assert_trees_all_equal(state.instance, start.instance)
  chex.assert_trees_all_equal(state.hyper, HYPER)


@pytest.mark.parametrize("rule", ["usf", "node"])
def test_an_update_uses_the_runs_hyper_parameters(rule):
  model, start, state, _ = learn(rule, TEACHER)
  _, key_data, key_rule = jax.random.split(jax.random.clone(start.key), 3)
  x, target = TEACHER.sample(key_data, start.instance, (), 3)
  _, grads = jax.jit(
    lambda key, params: feedback_alignment.gradient(
      key, model, params, start.state, x, target, beta=0.7, noise_std=0.3
    )
  )(key_rule, start.params)
  chex.assert_trees_all_close(
    state.params,
    jax.tree.map(lambda w, g: w - 0.1 * g, start.params, grads),
    rtol=1e-4,
    atol=1e-6,
  )


def test_weights_and_feedback_are_drawn_from_the_hyper_parameters():
  _, start, _, _ = learn("fa", TEACHER, updates=0)
  for bound, tree, name in (
    (0.4, start.params, "w"),
    (0.7, start.state, "feedback"),
  ):
    leaves = [x[name] for x in tree.values() if name in x]
    largest = max(float(jnp.abs(x).max()) for x in leaves)
    assert 0.8 * bound < largest <= bound


@pytest.mark.parametrize("rule", ["fa_sparse", "kp", "node", "mirror"])
def test_the_state_keeps_its_types_and_only_a_mirror_moves_its_feedback(rule):
  _, start, state, _ = learn(rule, TEACHER, updates=2)
  types = [jax.tree.map(jax.typeof, tree) for tree in (start, state)]
  assert types[0] == types[1]
  same = jax.tree.map(
    np.array_equal, *jax.device_get((start.state, state.state))
  )
  assert all(jax.tree.leaves(same)) == (rule != "mirror")
  moved = jax.tree.map(
    lambda old, new: (old != new).any(),
    *jax.device_get((start.params, state.params)),
  )
  assert all(jax.tree.leaves(moved))


def test_the_mirror_sees_the_weights_after_the_step():
  _, start, state, _ = learn("mirror", TEACHER)
  _, _, key_rule = jax.random.split(jax.random.clone(start.key), 3)
  expected = feedback.mirror(
    key_rule,
    state.params,
    start.state,
    noise_std=1.0,
    learning_rate=0.05,
    decay=0.05,
  )
  chex.assert_trees_all_close(state.state, expected, rtol=1e-5)


def evaluate(model, task, *states):
  """Evaluates each state with the driver's key, made anew."""
  one = jax.jit(
    lambda key, state, data: feedback_alignment.evaluate(
      key, state, model, task, data
    )
  )
  return [one(jax.random.key(1), state, task.data) for state in states]


def test_evaluation_is_of_the_tasks_test_examples():
  """Targets of one class that the network always names, or never."""
  rng = np.random.default_rng(0)
  images = rng.integers(0, 255, (8, 6), np.uint8)
  train, test = np.zeros(8, np.int32), np.full(8, 2, np.int32)
  train[:4] = 2
  task = supervised.images("digits")._replace(
    num_inputs=6, data=[(images, train), (images, test)]
  )
  model, _, state, _ = learn("fa", task, updates=0)
  states = []
  for label in (2, 1):
    bias = np.full(10, -50.0, np.float32)
    bias[label] = 50.0
    last = {"w": np.zeros((4, 10), np.float32), "b": bias}
    params = state.params | {"mlp/linear_2": last}
    states.append(state._replace(params=params))
  right, wrong = evaluate(model, task, *states)
  assert right["error"] == 0 and wrong["error"] == 100
  np.testing.assert_allclose(right["nse"], 0.0, atol=1e-6)
  np.testing.assert_allclose(wrong["nse"], 2.0, atol=1e-6)


@pytest.mark.parametrize("rule", ["node", "output_only", "brsf"])
def test_evaluation_measures_angles_of_rules_that_have_a_signal(rule):
  model, _, state, _ = learn(rule, TEACHER, updates=0)
  found, again = evaluate(model, TEACHER, state, state)
  assert found == again and "error" not in found
  assert ("angle_bp_1" in found) == (rule == "brsf")
  x, target = TEACHER.test(state.instance, ())
  if rule == "brsf":
    # Of the first 200 examples, with the run's feedback.
    expected = angles(
      model,
      state.params,
      state.state,
      x[:200],
      target[:200],
      seed=1,
      beta=0.7,
    )
    np.testing.assert_allclose(
      found["angle_bp_2"], expected["angle_bp_2"], rtol=1e-4
    )


def test_what_cannot_be_learnt_from_is_refused():
  model = feedback_alignment.Model("hebb", SIZES)
  optimiser = optimiser_of(model)
  with pytest.raises(ValueError, match="rule is 'hebb'"):
    feedback_alignment.make(model, TEACHER, optimiser=optimiser)
  model = model._replace(rule="fa")
  with pytest.raises(ValueError, match="batch_size is 0"):
    feedback_alignment.make(model, TEACHER, optimiser=optimiser, batch_size=0)
