"""Node perturbation: gradients from noise and a scalar, no feedback path."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import chex
import jax
import jax.numpy as jnp
import optax
from jax.tree_util import keystr, tree_map_with_path

from lilly import checks

__all__ = ["estimate", "gradient"]


def estimate(
  key: jax.Array,
  loss: Callable[[chex.ArrayTree], jax.Array],
  taps: chex.ArrayTree,
  *,
  noise_std: jax.typing.ArrayLike = 1e-2,
) -> chex.ArrayTree:
  """Estimates the gradient of `loss` with respect to taps, by one perturbation.

  ξ ~ N(0, I),  estimate = (loss(taps + σ ξ) - loss(taps)) ξ / σ.

  The estimate is unbiased for a quadratic loss and has bias O(σ²) otherwise;
  its variance grows with the number of taps. To obtain gradients of parameters,
  use it as the cotangent of the tapped signals. In float32 a σ below about 1e-3
  loses the difference to rounding.

  Args:
    key: typed PRNG key.
    loss: maps taps to a scalar, for one example; `vmap` over examples, with a
      key each.
    taps: signals to perturb, usually zeros added to hidden pre-activations.
    noise_std: σ, positive; a traced value is not checked.

  Returns:
    The estimate, shaped as `taps`.

  Raises:
    ValueError: if noise_std is not positive, or the loss no scalar.

  Reference:
    Lillicrap et al. (2014), arXiv:1411.0247, the reinforcement baseline of
    figure 1. The noise scale is not published.

  >>> loss = lambda taps: jnp.sum(jnp.square(taps - 1.0))
  >>> estimate(jax.random.key(0), loss, jnp.zeros(5)).shape
  (5,)
  """
  key = checks.key("key", key)
  noise_std = checks.number("noise_std", noise_std, above=0)
  taps = tree_map_with_path(
    lambda path, tap: checks.real(f"taps{keystr(path)}", tap, "..."), taps
  )
  noise = optax.tree.random_like(key, taps, jax.random.normal)
  shifted = jax.tree.map(
    lambda tap, xi: tap + jnp.asarray(noise_std, xi.dtype) * xi, taps, noise
  )
  difference = checks.real("loss", loss(shifted) - loss(taps), "")
  slope = difference / noise_std
  return jax.tree.map(lambda xi: slope.astype(xi.dtype) * xi, noise)


def gradient(
  key: jax.Array,
  signals: Callable[[Any, Sequence[jax.Array]], Sequence[jax.Array]],
  loss: Callable[[jax.Array], jax.Array],
  params: Any,
  taps: Sequence[jax.Array],
  *,
  noise_std: jax.typing.ArrayLike = 1e-2,
) -> tuple[jax.Array, Any]:
  """Computes the loss of one example and its gradient by node perturbation.

  The output layer is trained on its exact error, as under all rules here;
  hidden layer l on the estimate of dL/da_l: ΔW_l = -η estimate_l h_{l-1}ᵀ.

  Args:
    key: typed PRNG key.
    signals: maps parameters and taps to the pre-activations of all layers, the
      output layer last, with no gradient from a layer to the one below:
      `lilly.nets.feedback.MLP.pre_activations` under the rule "output_only".
    loss: maps the last pre-activation to a scalar.
    params: floating-point parameters.
    taps: zeros, shaped as the hidden pre-activations.
    noise_std: σ, see `estimate`.

  Returns:
    The loss, and the gradient with the structure of `params`.

  Raises:
    ValueError: if noise_std is not positive.

  Reference:
    Lillicrap et al. (2014), arXiv:1411.0247, the reinforcement baseline of
    figure 1.

  >>> below = jax.lax.stop_gradient
  >>> signals = lambda w, taps: [w + taps[0], below(w + taps[0])]
  >>> taps = [jnp.zeros(2)]
  >>> gradient(jax.random.key(0), signals, jnp.sum, jnp.ones(2), taps)[0].item()
  2.0
  """
  estimates: Any = estimate(
    key,
    lambda taps: loss(signals(params, cast(Any, taps))[-1]),
    taps,
    noise_std=noise_std,
  )
  values, pull = jax.vjp(lambda params: signals(params, taps), params)
  value, delta = jax.value_and_grad(loss)(values[-1])
  return value, pull([*estimates, delta])[0]
