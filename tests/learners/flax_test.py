"""A learner takes networks of another library: DDPG with flax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lilly.learners import ddpg
from lilly.nets import actor_critic
from lilly.nets.network import Network, Variables
from tests.learners.ddpg_test import M, batch_of

nn = pytest.importorskip("flax.linen", reason="flax is not installed")

SIZES = (5, 4)


def from_flax(module):
  """What it takes to use a flax module as a network."""

  def init(key, *inputs):
    params = module.init(key, *inputs, is_training=False)
    return params.pop("params"), params

  def apply(params, state, key, *inputs, is_training):
    given = {"params": params, **state}
    return module.apply(
      given, *inputs, is_training=is_training, mutable=["batch_stats"]
    )

  return Network(init, apply)


def norm(is_training, name):
  return nn.BatchNorm(
    use_running_average=not is_training,
    axis_name="batch",
    momentum=0.99,
    epsilon=1e-5,
    name=name,
  )


class Policy(nn.Module):
  @nn.compact
  def __call__(self, x, is_training):
    x = norm(is_training, "norm_input")(x)
    for l, size in enumerate(SIZES):
      x = nn.Dense(size, name=f"hidden_{l}")(x)
      x = nn.relu(norm(is_training, f"norm_{l}")(x))
    return jnp.tanh(nn.Dense(M, name="output")(x))


class Critic(nn.Module):
  @nn.compact
  def __call__(self, x, action, is_training):
    x = norm(is_training, "norm_input")(x)
    x = nn.Dense(SIZES[0], name="hidden_0")(x)
    x = nn.relu(norm(is_training, "norm_0")(x))
    x = nn.Dense(SIZES[1], name="hidden_1")(x)
    x = nn.relu(x + nn.Dense(SIZES[1], use_bias=False, name="action")(action))
    return nn.Dense(1, name="output")(x)[0]


_NAMES = {"w": "kernel", "b": "bias", "scale": "scale", "offset": "bias"}


def to_flax(variables):
  """Renames what a haiku network has learnt."""
  params, stats = {}, {}
  for path, layer in variables.params.items():
    name = path.rsplit("/", maxsplit=1)[-1]
    params[name] = {_NAMES[key]: value for key, value in layer.items()}
  for path, average in variables.state.items():
    name, _, kind = path.rsplit("/", maxsplit=2)
    stats.setdefault(name.rsplit("/", maxsplit=1)[-1], {})[
      kind.removesuffix("_ema")
    ] = average["average"]
  return Variables(params, {"batch_stats": stats})


def long_ago(state):
  """Haiku's averages are free of a bias towards 0, which flax's have: after
  many updates they are the same.
  """
  return {
    path: x | {"counter": jnp.int32(10**6), "hidden": x["average"]}
    for path, x in state.items()
  }


def test_ddpg_learns_with_flax_what_it_learns_with_haiku():
  haiku_nets = actor_critic.networks(M, SIZES, batch_norm={})
  flax_nets = actor_critic.Networks(from_flax(Policy()), from_flax(Critic()))
  optimiser = optax.sgd(0.1, momentum=0.9)
  batches = jax.tree.map(lambda *x: jnp.stack(x), *map(batch_of, range(8)))
  names = ("policy", "critic", "target_policy", "target_critic")

  def make(nets):
    observations = batch_of(9).observation
    return ddpg.init(
      jax.random.key(0), nets, observations, optimiser, optimiser
    )

  @jax.jit
  def start():
    state = make(haiku_nets)
    found = {}
    for name in names:
      variables = getattr(state, name)
      found[name] = variables._replace(state=long_ago(variables.state))
    return state._replace(**found)

  def train(nets, state):
    def step(state, batch):
      return ddpg.update(
        nets, state, batch, optimiser, optimiser, discount=0.9, tau=0.25
      )

    state, metrics = jax.lax.scan(step, state, batches)
    action = ddpg.act(nets, state.policy, batches.observation[0, 0])
    return state, metrics, action

  state = start()
  # A flax agent of its own, into which the other's numbers are copied.
  own = jax.jit(lambda: make(flax_nets))()
  copies = {name: to_flax(getattr(state, name)) for name in names}
  assert_same_form(own.policy, copies["policy"])
  assert_same_form(own.critic, copies["critic"])
  own = own._replace(**copies)

  wanted, wanted_metrics, wanted_action = jax.jit(
    lambda state: train(haiku_nets, state)
  )(state)
  found, metrics, action = jax.jit(lambda state: train(flax_nets, state))(own)
  close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5)
  jax.tree.map(close, metrics, wanted_metrics)
  close(action, wanted_action)
  for name in names:
    jax.tree.map(close, getattr(found, name), to_flax(getattr(wanted, name)))
    # Layers and running averages moved.
    before, after = copies[name], getattr(found, name)
    moved = jax.tree.map(lambda x, y: bool(np.any(x != y)), before, after)
    assert all(layer.get("kernel", True) for layer in moved.params.values())
    assert all(moved.state["batch_stats"]["norm_input"].values())


def assert_same_form(found, wanted):
  shapes = [jax.tree.map(jnp.shape, x) for x in (found, wanted)]
  assert shapes[0] == shapes[1]
