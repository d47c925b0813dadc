"""Train NAF in your own loop: no flags, no files, no driver."""

import jax
import optax

from lilly.envs import catalog, episodes, wrappers
from lilly.learners import interaction, naf
from lilly.nets import normalized_advantage
from lilly.replay import ring

ENV = catalog.make_normalized("pendulum")
ACTING = wrappers.auto_reset(ENV)
NET = normalized_advantage.network(action_size=1, hidden_sizes=(64, 64))
OPTIMISER = optax.adam(1e-3)


def step(carry, key):
  agent, stream, replay = carry
  keys = jax.random.split(key, 3)
  action = naf.outputs(NET, agent, stream.env.observation).mean
  noise, action = interaction.explore(keys[0], stream.noise, action)
  stream, replay = interaction.step(
    keys[1], stream, replay, ACTING, action, noise=noise, reward_scale=0.1
  )
  batch = ring.sample(keys[2], replay, 64)
  agent, metrics = naf.update(NET, agent, batch, OPTIMISER, tau=5e-3)
  return (agent, stream, replay), metrics


def main(key, num_steps=10_000):
  keys = jax.random.split(key, num_steps + 3)
  fill = {"capacity": 20_000, "num_steps": 200, "reward_scale": 0.1}
  stream, replay = interaction.fill(keys[0], ACTING, **fill)
  agent = naf.init(keys[1], NET, stream.env.observation[None], OPTIMISER)
  carry, _ = jax.lax.scan(step, (agent, stream, replay), keys[3:])
  return episodes.mean_return(keys[2], ENV, naf.greedy(NET, carry[0]), 20)


if __name__ == "__main__":
  print("greedy return:", jax.jit(main)(jax.random.key(0)))  # about -150
