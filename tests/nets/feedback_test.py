"""Tests of the haiku layers: where feedback lives, and what goes back."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lilly.nets import feedback
from lilly.rules import sparse_connectivity
from tests import oracles

_SIZES = (6, 5, 2)
_X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
_RULES_WITH_STATE = ("fa", "dfa", "frsf", "mirror")


def _mlp(rule, sizes=_SIZES, **options):
  def forward(x, taps=None):
    return feedback.MLP(sizes, rule=rule, **options)(x, taps)

  return hk.transform_with_state(forward)


@functools.cache
def _initial(rule, **options):
  """Parameters and state as numpy arrays, from one seed for all rules."""
  # Not compiled as one: ten rules share the compilations of single draws.
  initial = _mlp(rule, **options).init(jax.random.key(0), _X)
  return jax.tree.map(np.asarray, initial)


@functools.cache
def _gradient(rule, **options):
  """A compiled (params, taps, x) -> gradient of a loss in all three."""
  net = _mlp(rule, **options)

  def loss(params, taps, x, state, seed):
    y, _ = net.apply(params, state, jax.random.key(seed), x, taps)
    return jnp.sum(jnp.cos(y))

  return jax.jit(jax.grad(loss, (0, 1, 2)))


def _gradients(rule, params, state, seed=0, **options):
  taps = [np.zeros((3, n), np.float32) for n in _SIZES[:-1]]
  grads = _gradient(rule, **options)(params, taps, _X, state, seed)
  return jax.tree.map(np.asarray, grads)


def _transposed(params, layers=(1, 2)):
  """State that makes feedback alignment backpropagation."""
  return {
    f"mlp/linear_{l}": {"feedback": params[f"mlp/linear_{l}"]["w"].T}
    for l in layers
  }


@pytest.mark.parametrize("rule", feedback.RULES)
def test_feedback_is_state_unless_it_is_trained(rule):
  params, state = _initial(rule)
  stored = {
    module: leaves["feedback"].shape
    for module, leaves in state.items()
    if "feedback" in leaves
  }
  trained = {m for m, leaves in params.items() if "feedback" in leaves}
  shapes = {"mlp/linear_1": (5, 6), "mlp/linear_2": (2, 5)}
  if rule == "dfa":
    assert state.keys() == {"mlp"}
    shapes = {name: leaf.shape for name, leaf in state["mlp"].items()}
    assert shapes == {"feedback_1": (2, 6), "feedback_2": (2, 5)}
  else:
    assert stored == (shapes if rule in _RULES_WITH_STATE else {})
  assert trained == (set(shapes) if rule == "kp" else set())
  # The first layer has none, and all rules start from the same weights.
  reference, _ = _initial("bp")
  assert params.keys() == reference.keys()
  for module, leaves in reference.items():
    for name, leaf in leaves.items():
      np.testing.assert_array_equal(params[module][name], leaf)


@pytest.mark.parametrize("rule", ["fa", "kp", "bp"])
def test_transposed_weights_give_backpropagation(rule):
  params, _ = _initial("bp")

  def plain(params, taps, x):
    h = x
    for l in range(3):
      layer = params[f"mlp/linear_{l}"]
      a = h @ layer["w"] + layer["b"][None]
      a = a + taps[l] if l < 2 else a
      h = jnp.tanh(a)
    return jnp.sum(jnp.cos(a))

  taps = [np.zeros((3, n), np.float32) for n in _SIZES[:-1]]
  expected = jax.jit(jax.grad(plain, (0, 1)))(params, taps, _X)
  state = _transposed(params) if rule == "fa" else {}
  own = params
  if rule == "kp":
    own = {
      module: {**leaves, **_transposed(params).get(module, {})}
      for module, leaves in params.items()
    }
  grads, signals, dx = _gradients(rule, own, state)
  for module, leaves in expected[0].items():
    for name, leaf in leaves.items():
      ours = grads[module][name]
      np.testing.assert_allclose(ours, leaf, rtol=1e-4, atol=1e-6)
      if rule == "kp" and name == "w" and module != "mlp/linear_0":
        np.testing.assert_array_equal(grads[module]["feedback"], ours.T)
  for ours, bp in zip(signals, expected[1], strict=True):
    np.testing.assert_allclose(ours, bp, rtol=1e-4, atol=1e-6)
  # Only backpropagation goes on to the input unless asked.
  assert np.any(dx) == (rule == "bp")


def test_taps_read_the_papers_signals():
  params, state = _initial("fa")
  _, signals, _ = _gradients("fa", params, state)
  W, b, B = (
    [tree[f"mlp/linear_{l}"][name].T for l in layers]
    for tree, name, layers in (
      (params, "w", (0, 1, 2)),
      (params, "b", (0, 1, 2)),
      (state, "feedback", (1, 2)),
    )
  )
  for n, x in enumerate(_X):
    # The loss Σ cos(y) has dL/dy = -sin(y): the target that gives it is y + e.
    y = W[2] @ np.tanh(W[1] @ np.tanh(W[0] @ x + b[0]) + b[1]) + b[2]
    _, deltas = oracles.feedback_alignment_step(x, y + np.sin(y), W, b, B)
    for signal, delta in zip(signals, deltas, strict=False):
      np.testing.assert_allclose(signal[n], -delta, rtol=1e-4, atol=1e-6)
  assert [t.shape for t in feedback.taps(_X, _SIZES)] == [(3, 6), (3, 5)]
  with pytest.raises(AssertionError):
    _gradient("fa")(params, [np.zeros((3, 6), np.float32)], _X, state, 0)


def test_direct_feedback_with_one_hidden_layer_is_feedback_alignment():
  def signals(rule, state):
    net = _mlp(rule, sizes=(5, 2))

    @jax.jit
    def gradient(params, state):
      def loss(params):
        return jnp.sum(jnp.cos(net.apply(params, state, None, _X)[0]))

      return jax.grad(loss)(params)

    return gradient(params, state)

  net = _mlp("fa", sizes=(5, 2))
  params, state = net.init(jax.random.key(0), _X)
  matrix = state["mlp/linear_1"]["feedback"]
  sequential = signals("fa", state)
  direct = signals("dfa", {"mlp": {"feedback_1": matrix}})
  assert np.any(sequential["mlp/linear_0"]["w"])
  jax.tree.map(np.testing.assert_array_equal, direct, sequential)


def test_output_only_leaves_the_layers_below_at_exactly_zero():
  params, state = _initial("output_only")
  grads, signals, dx = _gradients("output_only", params, state)
  assert np.any(grads["mlp/linear_2"]["w"])
  assert not any(map(np.any, (*signals, dx)))
  for l in (0, 1):
    assert not any(map(np.any, grads[f"mlp/linear_{l}"].values()))


@pytest.mark.parametrize(
  ("rule", "matrix"),
  [
    ("usf", lambda w, stored: 0.5 * np.sign(w).T),
    ("frsf", lambda w, stored: np.abs(stored) * np.sign(w).T),
    ("pbp", lambda w, stored: np.linalg.pinv(w)),
    ("dfa", None),
  ],
)
def test_rule_is_another_matrix_for_feedback_alignment(rule, matrix):
  options = {"feedback_scale": 0.5} if rule == "usf" else {}
  params, state = _initial(rule, **options)
  _, (below, above), _ = _gradients(rule, params, state, **options)
  if matrix is None:
    # δ_1 goes through B_1 from the output, not from the layer above.
    stored = state["mlp"]["feedback_2"], state["mlp"]["feedback_1"]
    error = (above / _slope(params, 1)) @ np.linalg.pinv(stored[0])
    expected = error @ stored[1] * _slope(params, 0)
  else:
    equivalent = {
      module: {
        "feedback": np.float32(
          matrix(params[module]["w"], state.get(module, {}).get("feedback"))
        )
      }
      for module in ("mlp/linear_1", "mlp/linear_2")
    }
    _, (expected, _), _ = _gradients("fa", params, equivalent)
  np.testing.assert_allclose(below, expected, rtol=1e-3, atol=1e-5)
  assert np.any(below)


def _slope(params, layer):
  """f' of a tanh layer at _X, the biases being zero."""
  h = _X
  for l in range(layer + 1):
    h = np.tanh(h @ params[f"mlp/linear_{l}"]["w"])
  return 1 - h**2


def test_batchwise_sizes_come_from_the_key_of_the_call_only():
  params, state = _initial("brsf")
  first, again, other = (
    _gradients("brsf", params, state, seed)[1][0] for seed in (1, 1, 2)
  )
  np.testing.assert_array_equal(first, again)
  assert np.any(first != other)


def test_feedback_survives_adamw_bit_by_bit():
  net = _mlp("fa")
  optimiser = optax.adamw(0.01, weight_decay=0.1)
  params, state = _initial("fa")

  def loss(params, state):
    y, state = net.apply(params, state, None, _X)
    return jnp.sum(jnp.square(y - 1)), state

  def step(carry, _):
    params, state, optimiser_state = carry
    grads, state = jax.grad(loss, has_aux=True)(params, state)
    updates, optimiser_state = optimiser.update(grads, optimiser_state, params)
    params = optax.apply_updates(params, updates)
    return (params, state, optimiser_state), None

  @jax.jit
  def train(params, state):
    start = (params, state, optimiser.init(params))
    return jax.lax.scan(step, start, None, length=100)[0]

  trained, after, _ = train(params, state)
  jax.tree.map(np.testing.assert_array_equal, after, state)
  assert loss(trained, state)[0] < 0.1 * loss(params, state)[0]


def test_input_feedback_on_demand():
  params, state = _initial("fa", input_feedback=True)
  _, (signal, _), dx = _gradients("fa", params, state, input_feedback=True)
  matrix = state["mlp/linear_0"]["feedback"]
  np.testing.assert_allclose(dx, signal @ matrix, rtol=1e-4, atol=1e-6)
  assert np.any(dx)
  assert not np.any(_gradients("fa", *_initial("fa"))[2])


def test_direct_feedback_to_the_input_on_demand():
  params, state = _initial("dfa", input_feedback=True)
  assert state["mlp"]["feedback_0"].shape == (2, 4)
  _, _, dx = _gradients("dfa", params, state, input_feedback=True)
  assert np.any(dx)
  assert not np.any(_gradients("dfa", *_initial("dfa"))[2])


@pytest.mark.parametrize("rule", ["fa", "kp", "dfa", "mirror"])
def test_sparse_entries_stay_exactly_zero(rule):
  net = _mlp(rule, density=0.5)
  params, state = _initial(rule, density=0.5)
  masks = feedback.masks(params, state)
  assert masks["mlp/linear_0"] == {"w": None, "b": None}
  # The drift stands for an optimiser that moves entries without a gradient.
  drift = optax.stateless(lambda grads, _: jax.tree.map(lambda g: g + 1, grads))
  masked = optax.chain(
    drift, optax.sgd(0.01), sparse_connectivity.apply_masks(masks)
  )

  def loss(params):
    return jnp.sum(jnp.square(net.apply(params, state, None, _X)[0] - 1))

  @jax.jit
  def step(params):
    state = masked.init(params)
    updates, _ = masked.update(jax.grad(loss)(params), state, params)
    return optax.apply_updates(params, updates)

  trained = jax.tree.map(np.asarray, step(step(params)))
  for module in ("mlp/linear_1", "mlp/linear_2"):
    mask = state[module]["mask"]
    assert mask.sum() == mask.size / 2
    for weights in (params[module]["w"], trained[module]["w"]):
      np.testing.assert_array_equal(weights != 0, mask == 1)
    if rule == "kp":
      np.testing.assert_array_equal(
        trained[module]["feedback"] != 0, mask.T == 1
      )
    if rule == "mirror":
      np.testing.assert_array_equal(state[module]["feedback"] != 0, mask.T == 1)
    if rule == "fa":
      own = state[module]["feedback"] != 0
      assert own.sum() == own.size / 2
      assert np.any(own != (mask.T == 1))
  if rule == "dfa":
    assert (state["mlp"]["feedback_2"] == 0).sum() == 5
  assert np.all(trained["mlp/linear_0"]["w"] != 0)


@pytest.mark.parametrize("rule", ["fa", "kp"])
def test_absent_weights_carry_nothing_whatever_is_stored(rule):
  params, state = _initial(rule, density=0.5)
  masks = feedback.masks(params, state)
  filled = {
    module: {
      name: leaf if mask is None else np.where(mask, leaf, np.float32(9))
      for (name, leaf), mask in zip(
        leaves.items(), masks[module].values(), strict=True
      )
    }
    for module, leaves in params.items()
  }
  assert np.any(filled["mlp/linear_1"]["w"] == 9)
  ours = _gradients(rule, filled, state, density=0.5)
  expected = _gradients(rule, params, state, density=0.5)
  for actual, desired in zip(
    jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_array_equal(actual, desired)


def test_every_seed_has_a_feedback_of_its_own():
  net = hk.transform_with_state(
    lambda x: feedback.Linear(2, rule="fa", w_init=jnp.ones)(x)
  )
  keys = jax.random.split(jax.random.key(0), 3)
  alone = [net.init(key, _X) for key in jax.random.clone(keys)]
  alone = jax.tree.map(lambda *leaves: np.stack(leaves), *alone)
  together = jax.vmap(net.init, in_axes=(0, None))(keys, _X)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-6), together, alone
  )
  matrices = np.asarray(together[1]["linear"]["feedback"])
  assert matrices.shape == (3, 2, 4)
  assert len(np.unique(matrices)) == matrices.size
  assert np.abs(matrices).max() <= 0.5


def test_mirror_turns_every_stored_feedback():
  params, state = _initial("mirror", density=0.5)

  @jax.jit
  def mirror(params, state):
    def step(state, key):
      return feedback.mirror(key, params, state, batch_size=64), None

    keys = jax.random.split(jax.random.key(1), 100)
    return jax.lax.scan(step, state, keys)[0]

  mirrored = jax.tree.map(np.asarray, mirror(params, state))
  for module in ("mlp/linear_1", "mlp/linear_2"):
    w, matrix = params[module]["w"], mirrored[module]["feedback"].T
    cosine = np.vdot(w, matrix) / np.linalg.norm(w) / np.linalg.norm(matrix)
    assert cosine > np.cos(np.radians(15))
    mask = state[module]["mask"]
    assert not np.any(matrix[mask == 0])
    np.testing.assert_array_equal(mirrored[module]["mask"], mask)
    np.testing.assert_array_equal(
      mirrored[module]["mask"], state[module]["mask"]
    )


@pytest.mark.parametrize("rule", ["bp", "fa", "kp"])
def test_convolution(rule):
  images = np.random.default_rng(1).normal(size=(2, 5, 5, 2)).astype(np.float32)
  geometry = {"stride": 2, "padding": "VALID", "feature_group_count": 2}

  def forward(x):
    return feedback.Conv2D(4, 3, rule=rule, **geometry)(x)

  net = hk.transform_with_state(forward)
  params, state = net.init(jax.random.key(0), images)
  kernel = params["conv2d"]["w"]
  assert kernel.shape == (3, 3, 1, 4)
  assert params["conv2d"]["b"].shape == (4,)
  home = params if rule == "kp" else state
  if rule in ("fa", "kp"):
    assert home["conv2d"]["feedback"].shape == kernel.shape
  plain = hk.without_apply_rng(
    hk.transform(lambda x: hk.Conv2D(4, 3, name="conv2d", **geometry)(x))
  )

  @jax.jit
  def both(params, state, x):
    def ours(params, x):
      return jnp.sum(jnp.sin(net.apply(params, state, None, x)[0]))

    def theirs(params, x):
      return jnp.sum(jnp.sin(plain.apply(params, x)))

    return [jax.value_and_grad(f, (0, 1))(params, x) for f in (ours, theirs)]

  (value, (grads, dx)), (plain_value, (bp, bp_dx)) = both(params, state, images)
  np.testing.assert_allclose(value, plain_value, rtol=1e-5)
  for name in ("w", "b"):
    np.testing.assert_allclose(
      grads["conv2d"][name], bp["conv2d"][name], rtol=1e-4, atol=1e-5
    )
  same = np.allclose(dx, bp_dx, rtol=1e-4, atol=1e-5)
  assert same == (rule == "bp")
  assert np.any(dx)


@pytest.mark.parametrize(
  ("layer", "rule"),
  [
    (lambda rule: feedback.Linear(2, rule=rule), "dfa"),
    (lambda rule: feedback.Conv2D(2, 3, rule=rule), "pbp"),
    (lambda rule: feedback.Conv2D(2, 3, rule=rule), "mirror"),
    (lambda rule: feedback.MLP([2], rule=rule), "hebb"),
  ],
)
def test_rules_that_a_layer_lacks_are_refused(layer, rule):
  def forward():
    with pytest.raises(ValueError, match=f"rule is '{rule}'; .*one of"):
      layer(rule)
    return jnp.zeros(())

  hk.transform(forward).init(None)
