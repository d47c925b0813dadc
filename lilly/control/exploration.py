"""Exploration: noise for deterministic policies, random actions for values."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from lilly import checks

__all__ = [
  "anneal",
  "epsilon_greedy",
  "ornstein_uhlenbeck",
  "sample_epsilons",
]


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


def epsilon_greedy(
  key: jax.Array, q: jax.Array, epsilon: float | jax.Array
) -> jax.Array:
  """Chooses the action of the largest value, or a random one.

  Args:
    key: typed key.
    q: action values, [A]; of equal ones the first is chosen.
    epsilon: probability of a uniformly random action.

  Returns:
    The action, [] int32.

  Raises:
    ValueError: epsilon is not in [0, 1].

  Reference:
    Mnih et al., 2016 (arXiv 1602.01783), section 4.

  >>> int(epsilon_greedy(jax.random.key(0), jnp.array([1.0, 3.0]), 0.0))
  1
  """
  key = checks.key("key", key)
  q = checks.real("q", q, "A")
  epsilon = checks.number("epsilon", epsilon, least=0, most=1)
  key_choice, key_action = jax.random.split(key)
  is_random = jax.random.bernoulli(key_choice, epsilon)
  action = jax.random.randint(key_action, (), 0, q.size, jnp.int32)
  return jnp.where(is_random, action, jnp.argmax(q).astype(jnp.int32))


def anneal(
  step: int | jax.Array,
  num_steps: float | jax.Array,
  first: float | jax.Array,
  last: float | jax.Array,
) -> jax.Array:
  """Interpolates linearly from a first to a last value.

  Args:
    step: steps so far, [].
    num_steps: number of steps after which the value is the last one.
    first: value at step 0.
    last: value from num_steps on.

  Returns:
    The value, [].

  Raises:
    ValueError: num_steps is not positive.

  Reference:
    Mnih et al., 2016 (arXiv 1602.01783), section 5.1.

  >>> [float(anneal(step, 10, 1.0, 0.5)) for step in (0, 5, 20)]
  [1.0, 0.75, 0.5]
  """
  step = checks.real("step", step, "")
  num_steps = checks.number("num_steps", num_steps, above=0)
  first = checks.number("first", first)
  last = checks.number("last", last)
  part = jnp.clip(step / num_steps, 0, 1)
  return (1 - part) * first + part * last


def sample_epsilons(
  key: jax.Array,
  num_workers: int,
  *,
  epsilons: Sequence[float] | jax.Array = (0.1, 0.01, 0.5),
  probabilities: Sequence[float] | jax.Array = (0.4, 0.3, 0.3),
) -> jax.Array:
  """Samples the final probability of a random action of each worker.

  Args:
    key: typed key.
    num_workers: number of workers, N.
    epsilons: possible values, [K].
    probabilities: their probabilities, [K].

  Returns:
    Probabilities, [N].

  Raises:
    ValueError: num_workers is not positive.

  Reference:
    Mnih et al., 2016 (arXiv 1602.01783), section 5.1; we could not confirm the
    numbers.

  >>> sample_epsilons(jax.random.key(0), 3, epsilons=[0.1], probabilities=[1.0])
  Array([0.1, 0.1, 0.1], dtype=float32)
  """
  key = checks.key("key", key)
  num_workers = checks.whole_number("num_workers", num_workers, least=1)
  sizes = {}
  values = checks.real("epsilons", epsilons, "K", sizes)
  p = checks.real("probabilities", probabilities, "K", sizes)
  chosen = jax.random.categorical(key, jnp.log(p), shape=(num_workers,))
  return values[chosen]
