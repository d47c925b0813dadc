"""RDPG whose recurrent core is your own, a moving average, recalls a cue."""

import jax
import jax.numpy as jnp
import optax

from lilly.envs import cue_recall
from lilly.learners import recurrent_dpg
from lilly.nets import recurrent, recurrent_actor_critic

ENV, BOTH = cue_recall.make(num_steps=3), [optax.adam(3e-3)] * 2
CORE = lambda num_inputs, num_outputs: recurrent.Core(
  init=lambda key: jax.random.normal(key, (num_outputs, num_inputs)) / 4,
  initial_state=lambda: jnp.zeros(num_outputs),
  apply=lambda weights, x, h: ((h + weights @ x) / 2,) * 2,
)
NETS = recurrent_actor_critic.networks((1,), 1, CORE)


def main(num_updates=1500):
  play = lambda key, actor, **options: recurrent_dpg.collect(
    key, ENV, NETS, actor, num_episodes=256, num_steps=3, **options
  )
  keys = jax.random.split(jax.random.key(0), 4)
  agent = recurrent_dpg.init(keys[0], NETS, jnp.zeros(1), *BOTH)
  batch = play(keys[1], agent.actor, theta=1.0, sigma=0.7)
  learn = lambda agent, key: recurrent_dpg.update(
    key, NETS, agent, batch, *BOTH
  )
  agent, _ = jax.lax.scan(learn, agent, jax.random.split(keys[2], num_updates))
  return -play(keys[3], agent.actor, is_greedy=True).reward.mean()


if __name__ == "__main__":
  print("cost per step:", jax.jit(main)(), "; without memory 1/9 or more")
