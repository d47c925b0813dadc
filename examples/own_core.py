"""An agent that remembers a cue with a memory of one's own, a slow average."""

import jax
import jax.numpy as jnp
import optax

from lilly.envs import cue_recall, episodes
from lilly.nets import recurrent
from lilly.nets import recurrent_learner as learner

ENV, BOTH = cue_recall.make(num_steps=3), [optax.adam(3e-3)] * 2
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

  h = NETS.actor.core.initial_state()
  return episodes.recorded(episodes.rollout_with_memory(key, ENV, act, h, 3))


def main(num_updates=1500):
  old, new = jax.random.split(jax.random.key(0), (2, 256))
  agent = learner.init(jax.random.key(1), NETS, jnp.zeros(1), *BOTH)
  seen = jax.vmap(play, (0, None, None))(old, agent.actor, 0.7)
  learn = lambda agent, key: learner.update(key, NETS, agent, seen, *BOTH)
  keys = jax.random.split(jax.random.key(2), num_updates)
  agent = jax.lax.scan(learn, agent, keys)[0]
  return -jax.vmap(play, (0, None, None))(new, agent.actor, 0.0).reward.mean()


if __name__ == "__main__":
  print("cost a step:", jax.jit(main)(), "; one that forgets: 1/9 or more")
