"""A Kanerva memory in one's own model: it sees points, and knows a sine."""

import haiku as hk
import jax
import jax.numpy as jnp
import optax

from lilly.memory import kanerva

NUM_SEEN, NOISE = 8, 0.01  # points that are written; the variance of values
PLACES = hk.without_apply_rng(
  hk.transform(lambda x: hk.nets.MLP([64, 64, 16])(x))
)
OPTIMISER = optax.adam(3e-3)


def wave(key):  # 24 points of a sine of any height and phase
  keys = jax.random.split(key, 3)
  x = jax.random.uniform(keys[0], (24, 1), minval=-3.0, maxval=3.0)
  height = jax.random.uniform(keys[1], minval=0.5, maxval=2.0)
  return x, height * jnp.sin(x + jax.random.uniform(keys[2]) * 2 * jnp.pi)


def surprise(params, x, y):  # -ln p of what was not seen; squared errors
  weights = jax.vmap(lambda x: PLACES.apply(params["places"], x))(x)
  memory = kanerva.prior(params["mean"], params["log_variance"])
  seen = weights[:NUM_SEEN], y[:NUM_SEEN]
  memory = kanerva.write(memory, *seen, noise_variance=NOISE)
  mean, variance = jax.vmap(kanerva.read, (None, 0))(memory, weights[NUM_SEEN:])
  errors, variance = jnp.square(y[NUM_SEEN:] - mean)[:, 0], variance + NOISE
  return jnp.mean(errors / variance + jnp.log(variance)) / 2, errors.mean()


def main(num_updates=500):
  batch = lambda key: jax.vmap(wave)(jax.random.split(key, 16))
  losses = lambda p, data: jax.vmap(surprise, (None, 0, 0))(p, *data)
  slope = jax.grad(lambda p, key: losses(p, batch(key))[0].mean())

  def update(carry, key):
    step, moments = OPTIMISER.update(slope(carry[0], key), carry[1])
    return (optax.apply_updates(carry[0], step), moments), None

  keys = jax.random.split(jax.random.key(0), num_updates)
  params = {"places": PLACES.init(keys[0], jnp.zeros(1))}
  params |= {"mean": jnp.zeros((16, 1)), "log_variance": jnp.zeros(16)}
  (params, _), _ = jax.lax.scan(update, (params, OPTIMISER.init(params)), keys)
  return losses(params, batch(jax.random.key(1)))[1].mean()


if __name__ == "__main__":
  print("squared error:", jax.jit(main)(), "; of always 0: about 0.9")
