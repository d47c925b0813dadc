"""Tests of lilly.nets.actor_critic."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lilly.nets import actor_critic, network

O, M, B = 17, 6, 5
NORM = {"decay_rate": 0.9, "eps": 1e-5}


def transformed(module, *args, **options):
  """Functions of one example: init(key, ...), apply(params, state, ...)."""

  def forward(*inputs, is_training=False):
    return module(*args, **options)(*inputs, is_training=is_training)

  return hk.transform_with_state(forward)


def made(network, *inputs):
  """Parameters and state, under the axis that batch norm needs."""

  def init(*inputs):
    return network.init(jax.random.key(0), *inputs)

  init = jax.vmap(init, out_axes=None, axis_name="batch")
  return jax.jit(init)(*(x[None] for x in inputs))


def batched(network, is_training=False):
  """Applies to a batch; the state comes back once."""

  def apply(params, state, *inputs):
    return network.apply(params, state, None, *inputs, is_training=is_training)

  def run(params, state, *inputs):
    axes = (None, None, *([0] * len(inputs)))
    return jax.vmap(apply, axes, (0, None), "batch")(params, state, *inputs)

  return jax.jit(run)


def count(params):
  return sum(x.size for x in jax.tree.leaves(params))


def test_published_numbers_of_parameters_and_ranges():
  observation, action = jnp.ones(O), jnp.zeros(M)
  actor = made(transformed(actor_critic.DeterministicPolicy, M), observation)[0]
  critic = made(
    transformed(actor_critic.LateActionCritic), observation, action
  )[0]
  assert (count(actor), count(critic)) == (129_306, 129_601)
  fan_ins = {"hidden_0": (O, O), "hidden_1": (400, 400 + M)}
  fan_ins["action"] = fan_ins["hidden_1"]
  for params, which in ((actor, 0), (critic, 1)):
    for path, layer in params.items():
      name = path.rsplit("/", maxsplit=1)[-1]
      bound = 3e-3
      if name != "output":
        bound = fan_ins[name][which] ** -0.5
      for x in layer.values():
        assert np.max(np.abs(x)) <= bound, path
        assert x.size < 50 or np.max(np.abs(x)) > 0.9 * bound, path


def test_actions_and_values_begin_near_zero():
  observations = jax.random.normal(jax.random.key(1), (B, O))
  policy = transformed(actor_critic.DeterministicPolicy, M)
  critic = transformed(actor_critic.LateActionCritic)
  actions, _ = batched(policy)(*made(policy, observations[0]), observations)
  values, _ = batched(critic)(
    *made(critic, observations[0], actions[0]), observations, actions
  )
  assert actions.shape == (B, M) and values.shape == (B,)
  assert np.max(np.abs(actions)) < 0.06 and np.max(np.abs(values)) < 0.06


def test_the_action_enters_at_the_second_layer():
  network = transformed(actor_critic.LateActionCritic, (8, 7))
  params, state = made(network, jnp.ones(3), jnp.ones(2))

  def slope(params):
    def value(action):
      return network.apply(params, state, None, jnp.ones(3), action)[0]

    return jax.grad(value)(jnp.ones(2))

  late = params["late_action_critic/action"]
  assert late["w"].shape == (2, 7)
  assert np.any(slope(params))
  late["w"] *= 0.0
  np.testing.assert_array_equal(slope(params), 0.0)


def naive(params, x, norms, action=None, action_layer=1):
  """A batch through the layers, normalised by what `norms` says, in numpy."""

  def normalised(x, name):
    if norms is None or f"norm_{name}" not in params:
      return x
    mean, variance = norms(name, x)
    scale, offset = (params[f"norm_{name}"][k] for k in ("scale", "offset"))
    return (x - mean) / np.sqrt(variance + NORM["eps"]) * scale + offset

  x = normalised(x, "input")
  for l in range(2):
    layer = params[f"hidden_{l}"]
    x = x @ layer["w"] + layer["b"]
    if action is not None and l == action_layer:
      x += action @ params["action"]["w"]
    x = normalised(x, str(l))
    x = np.maximum(x, 0)
  return x @ params["output"]["w"] + params["output"]["b"]


def named(params):
  return {
    path.rsplit("/", maxsplit=1)[-1]: jax.tree.map(np.asarray, layer)
    for path, layer in params.items()
  }


def by_batch(name, x):
  return x.mean(0), x.var(0)


@pytest.mark.parametrize("is_critic", [False, True])
def test_batch_norm_against_a_batched_oracle(is_critic):
  rng = np.random.default_rng(0)
  inputs = [rng.normal(1, 2, (B, 3)).astype(np.float32)]
  if is_critic:
    inputs.append(rng.normal(size=(B, 2)).astype(np.float32))
    network = transformed(
      actor_critic.LateActionCritic, (8, 7), batch_norm=NORM, output_bound=1.0
    )
  else:
    network = transformed(
      actor_critic.DeterministicPolicy,
      *(2, (8, 7)),
      batch_norm=NORM,
      output_bound=1.0,
    )
  params, state = made(network, *(x[0] for x in inputs))
  # Of the critic nothing is normalised that has seen the action.
  norms = {"norm_input", "norm_0", "norm_1"} - (
    {"norm_1"} if is_critic else set()
  )
  assert {n for n in named(params) if n.startswith("norm")} == norms
  found, state = batched(network, is_training=True)(params, state, *inputs)
  wanted = naive(named(params), inputs[0], by_batch, *inputs[1:])
  wanted = wanted[:, 0] if is_critic else np.tanh(wanted)
  np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-5)

  # One batch was seen: its moments, without bias, are the averages.
  (average,) = (
    averages["average"]
    for path, averages in state.items()
    if path.endswith("norm_input/~/mean_ema")
  )
  np.testing.assert_allclose(average.reshape(-1), inputs[0].mean(0), rtol=1e-5)
  # Acting, an output does not depend on the others of its batch.
  act = batched(network)
  together, _ = act(params, state, *inputs)
  alone, _ = act(params, state, *(x[:1] for x in inputs))
  np.testing.assert_allclose(together[:1], alone, rtol=1e-5)


def _by_averages(state):
  """The averages of each normalisation, for `naive`."""
  found = {}
  for path, values in state.items():
    module, _, kind = path.rpartition("/~/")
    name = module.rsplit("/", maxsplit=1)[-1].removeprefix("norm_")
    found[name, kind] = np.asarray(values["average"]).reshape(-1)
  return lambda name, x: (found[name, "mean_ema"], found[name, "var_ema"])


def test_one_observation_is_normalised_by_running_averages():
  """By its own moments it would be zero: one action for all observations."""
  rng = np.random.default_rng(0)
  batch, seen = (rng.normal(3, 2, (n, O)).astype(np.float32) for n in (64, B))
  options = {"batch_norm": NORM, "output_bound": 1.0}
  nets = actor_critic.Networks(
    network.from_haiku(
      transformed(actor_critic.DeterministicPolicy, 2, (8, 7), **options)
    ),
    network.from_haiku(
      transformed(actor_critic.LateActionCritic, (8, 7), **options)
    ),
  )
  policy, actions = network.init(jax.random.key(0), nets.policy, batch)
  critic, _ = network.init(jax.random.key(1), nets.critic, batch, actions)
  acted = np.stack([network.apply_one(nets.policy, policy, x) for x in seen])
  wanted = naive(named(policy.params), seen, _by_averages(policy.state))
  np.testing.assert_allclose(acted, np.tanh(wanted), rtol=1e-3, atol=1e-4)
  assert np.ptp(acted, axis=0).min() > 0.1
  values = np.stack(
    [
      network.apply_one(nets.critic, critic, x, u)
      for x, u in zip(seen, acted, strict=True)
    ]
  )
  wanted = naive(named(critic.params), seen, _by_averages(critic.state), acted)
  np.testing.assert_allclose(values, wanted[:, 0], rtol=1e-3, atol=1e-4)


def test_pixels_become_features():
  network = hk.transform(lambda x: actor_critic.PixelEncoder()(x))
  pixels = jnp.full((64, 64, 9), 255, jnp.uint8)
  shapes = jax.eval_shape(network.init, jax.random.key(0), pixels)
  assert count(shapes) == 9 * 9 * 32 + 2 * 9 * 32 * 32 + 3 * 32
  small = pixels[:8, :8]
  params = network.init(jax.random.key(0), small)
  features = network.apply(params, None, small)
  assert features.shape == (32,)
  # Bytes are scaled to [0, 1]: no layer is larger than its largest input.
  assert 0 < features.max() < 2


@pytest.mark.parametrize("shape", [(8, 8, 3), (7, 4, 2), (1, 1, 1)])
def test_pixels_are_convolved(shape):
  network = hk.transform(lambda x: actor_critic.PixelEncoder()(x))
  pixels = jax.random.randint(jax.random.key(1), shape, 0, 256, jnp.uint8)
  params = network.init(jax.random.key(0), pixels)
  found = network.apply(params, None, pixels)
  x = pixels[None] / 255
  for l in range(3):
    layer = params[f"pixel_encoder/conv_{l}"]
    kernel = layer["w"].reshape(3, 3, x.shape[-1], 32)
    x = jax.lax.conv_general_dilated(
      *(x, kernel, (2, 2), "SAME"), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = jax.nn.relu(x + layer["b"].reshape(1, 1, 1, -1))
  np.testing.assert_allclose(found, x.ravel(), rtol=1e-4, atol=1e-5)


def test_bad_sizes_are_refused():
  for make, message in (
    (lambda: actor_critic.DeterministicPolicy(0), "action_size is 0"),
    (lambda: actor_critic.DeterministicPolicy(1, (4, 0)), r"hidden_sizes\[1\]"),
    (lambda: actor_critic.LateActionCritic(()), "hidden_sizes is empty"),
    (lambda: actor_critic.LateActionCritic((4,)), "action_layer is 1"),
  ):
    with pytest.raises(ValueError, match=message):
      hk.transform(make).init(jax.random.key(0))
