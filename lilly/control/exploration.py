"""Exploration noise for deterministic policies."""

import jax
import jax.numpy as jnp

from lilly import checks

__all__ = ["ornstein_uhlenbeck"]


def ornstein_uhlenbeck(
  key: jax.Array,
  noise: jax.Array,
  *,
  theta: float | jax.Array = 0.15,
  sigma: float | jax.Array = 0.2,
  dt: float = 1.0,
  innovation: jax.Array | None = None,
) -> jax.Array:
  """Takes one step of an Ornstein-Uhlenbeck process, whose state is the noise.

  x <- x - θ x dt + σ √dt ε,  ε ~ N(0, I).

  With dt = 1 consecutive values have correlation 1 - θ and the stationary
  standard deviation is σ / √(1 - (1 - θ)²), 0.38 by default. With dt = 0.01, as
  in several implementations, the noise hardly changes during an episode: a
  different exploration strategy. The paper gives no dt.

  Args:
    key: typed PRNG key.
    noise: x, of any shape; zeros at the start of an episode. Whole numbers
      count as float32.
    theta: mean-reversion rate θ, non-negative.
    sigma: volatility σ, non-negative.
    dt: time step, positive.
    innovation: ε, such as `naf.noise`, shaped as noise, in which case key is
      not used; None samples from N(0, I).

  Returns:
    The next x; add it to the action, then clip the action.

  Raises:
    ValueError: if a constant is out of range, or innovation has another shape
      than noise.

  Reference:
    Uhlenbeck and Ornstein, 1930; Lillicrap et al., 2016 (arXiv 1509.02971),
    section 3 and supplement 7. `rlax.add_ornstein_uhlenbeck_noise` is the same
    with dt = 1, but returns only the noisy action, from which the noise cannot
    be recovered after clipping.

  >>> noise = jnp.zeros(2)
  >>> noise = ornstein_uhlenbeck(jax.random.key(0), noise)
  >>> noise.shape
  (2,)
  """
  key = checks.key("key", key)
  theta = checks.number("theta", theta, least=0)
  sigma = checks.number("sigma", sigma, least=0)
  dt = checks.number("dt", dt, above=0)
  sizes = {}
  noise = checks.real("noise", noise, "*S", sizes)
  if innovation is None:
    epsilon = jax.random.normal(key, noise.shape, noise.dtype)
  else:
    epsilon = checks.real("innovation", innovation, "*S", sizes)
  decay = jnp.asarray(1 - theta * dt, noise.dtype)
  scale = jnp.asarray(sigma * dt**0.5, noise.dtype)
  return decay * noise + scale * epsilon
