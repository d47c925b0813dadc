"""Networks of normalised advantage functions: V(x), μ(x) and L(x)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import haiku as hk
import jax

from lilly.losses import naf
from lilly.nets import actor_critic
from lilly.nets import network as network_lib
from lilly.nets.network import Network

__all__ = ["Outputs", "network"]


class Outputs(NamedTuple):
  """Outputs for one observation: Q(x, u) = V + A(u; μ, L)."""

  value: jax.Array  # V, []
  mean: jax.Array  # μ, [m]: the greedy action
  factor: jax.Array | None  # L, [m, m]; the curvature is P = L Lᵀ


def network(
  action_size: int,
  hidden_sizes: Sequence[int] = (200, 200),
  *,
  batch_norm: dict[str, Any] | None = None,
) -> Network:
  """Makes the paper's three networks, as one function of an observation.

  Args:
    action_size: action dimension, m.
    hidden_sizes: units of each layer of each network.
    batch_norm: as in `actor_critic.NormalizedAdvantage`.

  Returns:
    The network: observation -> `Outputs`.

  Raises:
    ValueError: when initialised, if a size is not positive.

  Reference:
    Gu et al., 2016 (arXiv 1603.00748), section 6.
  """

  def outputs(observation, is_training=False):
    three = actor_critic.NormalizedAdvantage(
      action_size, hidden_sizes, batch_norm=batch_norm
    )
    value, mean, numbers = three(observation, is_training)
    return Outputs(value, mean, naf.triangle(numbers))

  return network_lib.from_haiku(hk.transform_with_state(outputs))
