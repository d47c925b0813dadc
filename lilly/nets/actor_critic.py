"""Networks of deterministic policies and of their critics.

`networks` makes DDPG's. Its haiku modules map one example, inside
`hk.transform_with_state`. With `batch_norm` they must be called under
`vmap(axis_name="batch")`, also for acting: a single example is a batch of one.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import chex
import haiku as hk
import jax
import jax.numpy as jnp

from lilly import checks
from lilly.nets import convolutions, network
from lilly.nets.network import Network

__all__ = [
  "DeterministicPolicy",
  "LateActionCritic",
  "Networks",
  "NormalizedAdvantage",
  "PixelEncoder",
  "networks",
]

_AXIS = "batch"


class Networks(NamedTuple):
  """A policy and its critic, each a function of one example."""

  policy: Network  # observation -> action in (-1, 1) [m]
  critic: Network  # observation, action -> Q []


def networks(
  action_size: int,
  hidden_sizes: Sequence[int] = (400, 300),
  *,
  pixels: bool = False,
  batch_norm: dict[str, Any] | None = None,
) -> Networks:
  """Makes the networks of DDPG.

  Args:
    action_size: action dimension, m.
    hidden_sizes: units of the dense layers; with pixels the paper has 200, 200.
    pixels: whether observations are images; then policy and critic have
      separate convolutions, and actions enter at the first dense layer.
    batch_norm: as in `DeterministicPolicy`.

  Returns:
    The networks.

  Raises:
    ValueError: when initialised, if a size is not positive.

  Reference:
    Lillicrap et al., 2016 (arXiv 1509.02971), supplement 7.
  """
  output_bound = 3e-4 if pixels else 3e-3

  def encode(observation):
    return PixelEncoder()(observation) if pixels else observation

  def policy(observation, is_training=False):
    module = DeterministicPolicy(
      action_size,
      hidden_sizes,
      batch_norm=batch_norm,
      output_bound=output_bound,
    )
    return module(encode(observation), is_training)

  def critic(observation, action, is_training=False):
    module = LateActionCritic(
      hidden_sizes,
      batch_norm=batch_norm,
      output_bound=output_bound,
      action_layer=0 if pixels else 1,
    )
    return module(encode(observation), action, is_training)

  return Networks(
    network.from_haiku(hk.transform_with_state(policy)),
    network.from_haiku(hk.transform_with_state(critic)),
  )


def _linear(
  num_inputs: int, size: int, name: str, with_bias: bool = True
) -> hk.Linear:
  """A linear layer, weights and biases from U[-1/√f, 1/√f], f inputs."""
  bound = num_inputs**-0.5
  uniform = hk.initializers.RandomUniform(-bound, bound)
  return hk.Linear(size, with_bias, w_init=uniform, b_init=uniform, name=name)


def _output(size: int, bound: float) -> hk.Linear:
  uniform = hk.initializers.RandomUniform(-bound, bound)
  return hk.Linear(size, w_init=uniform, b_init=uniform, name="output")


def _normalized(x, is_training, options, name):
  """Batch normalisation, unless the options are None."""
  if options is None:
    return x
  settings: dict[str, Any] = {"decay_rate": 0.99, "eps": 1e-5} | options
  module = hk.BatchNorm(
    create_scale=True,
    create_offset=True,
    cross_replica_axis=_AXIS,
    name=name,
    **settings,
  )
  return module(x, is_training or hk.running_init())  # init creates averages


def _check(**sizes):
  for name, size in sizes.items():
    checks.whole_number(name, size, least=1)


class _Perceptron(hk.Module):
  """ReLU layers and a linear one; normalises its input and before each ReLU."""

  def __init__(self, num_outputs, hidden_sizes, batch_norm, bound, name):
    super().__init__(name)
    self._num_outputs, self._hidden_sizes = num_outputs, hidden_sizes
    self._batch_norm, self._bound = batch_norm, bound

  def __call__(self, x, is_training):
    x = _normalized(x, is_training, self._batch_norm, "norm_input")
    for l, size in enumerate(self._hidden_sizes):
      x = _linear(len(x), size, f"hidden_{l}")(x)
      x = _normalized(x, is_training, self._batch_norm, f"norm_{l}")
      x = jax.nn.relu(x)
    return _output(self._num_outputs, self._bound)(x)


class DeterministicPolicy(hk.Module):
  """Maps an observation to an action: ReLU layers, then tanh.

  Optional batch normalisation applies to the observation and to each layer
  before its ReLU.

  Reference:
    Lillicrap et al., 2016 (arXiv 1509.02971), supplement 7. The position of the
    normalisation, its decay and epsilon are not stated (unconfirmed).
  """

  def __init__(
    self,
    action_size: int,
    hidden_sizes: Sequence[int] = (400, 300),
    *,
    batch_norm: dict[str, Any] | None = None,
    output_bound: float = 3e-3,
    name: str | None = None,
  ):
    """Makes the module.

    Args:
      action_size: action dimension, m.
      hidden_sizes: units of each layer.
      batch_norm: None for no batch normalisation, else a dict of keywords of
        `hk.BatchNorm`: `decay_rate` (0.99) and `eps` (1e-5).
      output_bound: bound of the last layer's initial weights; 3e-4 for pixels.
      name: name of the module.

    Raises:
      ValueError: a size is not positive.
    """
    super().__init__(name)
    _check(action_size=action_size, **_named(hidden_sizes))
    self._layers = _Perceptron(
      action_size, hidden_sizes, batch_norm, output_bound, "layers"
    )

  def __call__(
    self, observation: jax.Array, is_training: bool = False
  ) -> jax.Array:
    """Returns the action in (-1, 1), [m], for an observation, [o]."""
    chex.assert_rank(observation, 1)
    return jnp.tanh(self._layers(observation, is_training))


class NormalizedAdvantage(hk.Module):
  """V(x), μ(x) and the entries of L(x), by three separate networks.

  Optional batch normalisation is as in `DeterministicPolicy`.

  Reference:
    Gu et al., 2016 (arXiv 1603.00748), sections 4 and 6: two layers of 200
    units for each output. The initialisation is not stated (unconfirmed); as in
    Lillicrap et al., 2016, so that P is initially near the identity.
  """

  def __init__(
    self,
    action_size: int,
    hidden_sizes: Sequence[int] = (200, 200),
    *,
    batch_norm: dict[str, Any] | None = None,
    output_bound: float = 3e-3,
    name: str | None = None,
  ):
    """Makes the module.

    Args:
      action_size: action dimension, m.
      hidden_sizes: units of each layer of each network.
      batch_norm: as in `DeterministicPolicy`.
      output_bound: bound of the last layers' initial weights.
      name: name of the module.

    Raises:
      ValueError: a size is not positive.
    """
    super().__init__(name)
    _check(action_size=action_size, **_named(hidden_sizes))
    sizes = {
      "value": 1,
      "mean": action_size,
      "triangle": action_size * (action_size + 1) // 2,
    }
    self._layers = [
      _Perceptron(size, hidden_sizes, batch_norm, output_bound, name)
      for name, size in sizes.items()
    ]

  def __call__(
    self, observation: jax.Array, is_training: bool = False
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns V [], μ in (-1, 1) [m], and l [m (m + 1) / 2]."""
    chex.assert_rank(observation, 1)
    value, mean, numbers = (
      layers(observation, is_training) for layers in self._layers
    )
    return value[0], jnp.tanh(mean), numbers


class LateActionCritic(hk.Module):
  """Q of an observation and an action, which enters at the second layer.

  Optional batch normalisation applies to the observation and to the first
  layer, the layers before the action enters.

  Reference:
    Lillicrap et al., 2016 (arXiv 1509.02971), supplement 7.
  """

  def __init__(
    self,
    hidden_sizes: Sequence[int] = (400, 300),
    *,
    batch_norm: dict[str, Any] | None = None,
    output_bound: float = 3e-3,
    action_layer: int = 1,
    name: str | None = None,
  ):
    """Makes the module.

    Args:
      hidden_sizes: units of each layer.
      batch_norm: as in `DeterministicPolicy`.
      output_bound: bound of the last layer's initial weights; 3e-4 for pixels.
      action_layer: index of the layer where the action enters: 1, the second;
        with pixels 0.
      name: name of the module.

    Raises:
      ValueError: a size is not positive, or there is no such layer.
    """
    super().__init__(name)
    _check(**_named(hidden_sizes))
    if not 0 <= action_layer < len(hidden_sizes):
      raise ValueError(
        f"action_layer is {action_layer}; there are {len(hidden_sizes)} layers."
      )
    self._hidden_sizes, self._action_layer = hidden_sizes, action_layer
    self._batch_norm, self._output_bound = batch_norm, output_bound

  def __call__(
    self, observation: jax.Array, action: jax.Array, is_training: bool = False
  ) -> jax.Array:
    """Returns Q(s, a), [], for an observation [o] and an action [m]."""
    chex.assert_rank([observation, action], 1)
    x = _normalized(observation, is_training, self._batch_norm, "norm_input")
    for l, size in enumerate(self._hidden_sizes):
      if l == self._action_layer:
        # A separate matrix: dQ/da needs no gradient of the rest.
        num_inputs = len(x) + len(action)
        x = _linear(num_inputs, size, f"hidden_{l}")(x)
        x += _linear(num_inputs, size, "action", with_bias=False)(action)
      else:
        x = _linear(len(x), size, f"hidden_{l}")(x)
      if l < self._action_layer:
        x = _normalized(x, is_training, self._batch_norm, f"norm_{l}")
      x = jax.nn.relu(x)
    return _output(1, self._output_bound)(x)[0]


class PixelEncoder(hk.Module):
  """Three convolutions with ReLU and without pooling, flattened.

  Reference:
    Lillicrap et al., 2016 (arXiv 1509.02971), supplement 7: 32 filters each.
    Kernels and strides are not given (unconfirmed); 3 x 3 and 2 give about
    470,000 parameters with two layers of 200, where the paper has 430,000.
  """

  def __call__(self, pixels: jax.Array) -> jax.Array:
    """Returns features of an image, uint8 [height, width, channels]."""
    chex.assert_rank(pixels, 3)
    x = pixels.astype(jnp.float32) / 255
    for l in range(3):
      x = convolutions.patches(x, size=3, stride=2)
      x = jax.nn.relu(_linear(x.shape[-1], 32, f"conv_{l}")(x))
    return x.reshape(-1)


def _named(sizes):
  if not sizes:
    raise ValueError("hidden_sizes is empty; give at least one layer.")
  return {f"hidden_sizes[{i}]": size for i, size in enumerate(sizes)}
