"""A Kanerva memory in a custom model: regress a sine from 8 points."""

import haiku as hk
import jax
import jax.numpy as jnp
import optax

from lilly.memory import kanerva

OPTIMISER, NOISE = optax.adam(3e-3), 0.01
NET = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([64, 16])(x)))


def surprise(params, key):  # -2 ln p of 16 held-out points; errors
  x, y = jax.random.uniform(key, (2, 25, 1), minval=-1.0)
  x, y = 3 * x[1:], 2 * x[:1] * jnp.sin(3 * x[1:] + 3 * y[:1])
  w = jax.vmap(NET.apply, (None, 0))(params["net"], x)
  memory = kanerva.prior(params["mean"], params["log_variance"])
  memory = kanerva.write(memory, w[:8], y[:8], noise_variance=NOISE)
  mean, variance = jax.vmap(kanerva.read, (None, 0))(memory, w[8:])
  errors, variance = jnp.square(y[8:] - mean)[:, 0], variance + NOISE
  return jnp.stack([errors / variance + jnp.log(variance), errors]).mean(1)


def update(carry, keys):
  mean = lambda p: tuple(jax.vmap(surprise, (None, 0))(p, keys).mean(0))
  grads, error = jax.grad(mean, has_aux=True)(carry[0])
  step, moments = OPTIMISER.update(grads, carry[1])
  return (optax.apply_updates(carry[0], step), moments), error


def main(num_updates=500):
  keys = jax.random.split(jax.random.key(0), (num_updates, 16))
  params = {"net": NET.init(jax.random.key(1), jnp.zeros(1))}
  params |= {"mean": jnp.zeros((16, 1)), "log_variance": jnp.zeros(16)}
  return jax.lax.scan(update, (params, OPTIMISER.init(params)), keys)[1][-9:]


if __name__ == "__main__":
  print("squared errors (predicting 0: about 0.67):", jax.jit(main)())
