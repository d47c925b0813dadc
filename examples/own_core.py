"""An agent that remembers a cue with a memory of one's own, a slow average."""

import jax
import jax.numpy as jnp
import optax

from lilly.envs import cue_recall, episodes
from lilly.nets import recurrent
from lilly.nets import recurrent_learner as learner

ENV, OPTIMISERS = cue_recall.make(num_steps=3), [optax.adam(3e-3)] * 2
CORE = lambda num_inputs, num_outputs: recurrent.Core(
  init=lambda key: jax.random.normal(key, (num_outputs, num_inputs)) / 4,
  initial_state=lambda: jnp.zeros(num_outputs),
  apply=lambda weights, x, h: ((h + weights @ x) / 2,) * 2,
)
NETS = learner.networks((1,), 1, CORE)


def play(key, actor, scale):  # with noise in actions, of this scale
  def act(key, memory, seen, before):
    memory, action = learner.act(NETS, actor, memory, seen, before)
    return memory, action + scale * jax.random.normal(key, (1,))

  empty = NETS.actor.core.initial_state()
  played = episodes.rollout_with_memory(key, ENV, act, empty, 3)
  return episodes.recorded(played)


def main(num_updates=1500):
  keys = jax.random.split(jax.random.key(0), 256)
  agent = learner.init(jax.random.key(1), NETS, jnp.zeros(1), *OPTIMISERS)
  seen = jax.vmap(play, (0, None, None))(keys, agent.actor, 0.7)
  learn = lambda _, x: learner.update(keys[0], NETS, x, seen, *OPTIMISERS)[0]
  agent = jax.lax.fori_loop(0, num_updates, learn, agent)
  return -jax.vmap(play, (0, None, None))(keys, agent.actor, 0.0).reward.mean()


if __name__ == "__main__":
  print("cost a step:", jax.jit(main)(), "; one that forgets: 1/9 or more")
