"""Trains the Kanerva Machine by gradient ascent on its bound."""

from typing import Any

import jax

from lilly.learners import descent
from lilly.nets import kanerva_model

__all__ = ["init", "make_loss"]


def init(key: jax.Array, nets: Any, memory: Any, image: jax.Array) -> Any:
  """Initialises the parameters; there is no network state.

  Args:
    key: typed key.
    nets: networks from `kanerva_model.networks`.
    memory: a memory from `kanerva_memories`.
    image: an example, with the task's shape.

  Returns:
    Parameters, and (), as `descent.make` takes them.
  """
  return kanerva_model.init(key, nets, memory, image), ()


def make_loss(
  nets: Any,
  memory: Any,
  *,
  noise_variance: float = 1.0,
  address_noise: float = 0.0,
  expected: bool = False,
  one_draw: bool = False,
) -> descent.Loss:
  """Makes the loss of an episode of images: minus the bound.

  Args:
    nets: networks from `kanerva_model.networks`.
    memory: a memory from `kanerva_memories`.
    noise_variance: see `kanerva_model.bound`.
    address_noise: see `kanerva_model.bound`.
    expected: see `kanerva_model.bound`.
    one_draw: see `kanerva_model.bound`.

  Returns:
    Maps key, parameters, () and images [T, ...] to the loss, in nats per image,
    and its terms: nats, nll (minus the log-likelihood), kl_address, kl_code.

  Reference:
    Wu et al. (2018), arXiv:1804.01756, section 3.
  """

  def loss(key, params, state, images):
    del state
    value, terms = kanerva_model.bound(
      key,
      nets,
      memory,
      params,
      images,
      noise_variance=noise_variance,
      address_noise=address_noise,
      expected=expected,
      one_draw=one_draw,
    )
    return -value, {
      "nats": -value,
      "nll": -terms.log_likelihood,
      "kl_address": terms.kl_address,
      "kl_code": terms.kl_code,
    }

  return loss
