"""Recurrent policy gradients: commands, and an update against a Python loop."""

from typing import Any

from benchmarks import commands

_ROUNDS, _UPDATES = 10, 40


def measure() -> dict[str, Any]:
  """Measures commands, and one update in two ways."""
  return {
    "of_all_runs": {
      "one_seed": _speeds("rdpg,rsvg0,feedforward"),
      "8_seeds": _speeds("rdpg", "--num_seeds=8"),
    },
    "update": _updates(),
  }


def _speeds(variants, *flags):
  """Times the pendulum: rounds of 2 episodes of 100 steps and 40 updates."""
  flags = [f"--variants={variants}", *flags, f"--num_updates={_ROUNDS}"]
  flags += [f"--eval_every={_ROUNDS}", "--num_starts=2"]
  found = commands.rates("recurrent_policy_gradients", flags)
  return {
    name: {
      "updates_per_second": _UPDATES * rate,
      "episodes_learnt_from_per_second": 16 * _UPDATES * rate,
      "new_episodes_per_second": 2 * rate,
    }
    for name, rate in found.items()
  }


def _updates():
  """Times an update on 16 episodes of 100 steps, compiled and in Python."""
  import jax
  import jax.numpy as jnp
  import optax

  from benchmarks import timing
  from lilly.learners import recurrent_dpg as learner
  from lilly.nets import recurrent, recurrent_actor_critic
  from lilly.replay import episodes

  steps = jnp.ones((16, 100))
  batch = episodes.Episode(
    observation=jax.random.normal(jax.random.key(0), (16, 101, 2)),
    action=jnp.zeros((16, 100, 1)),
    reward=steps,
    discount=steps,
    mask=steps,
  )
  optimiser = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(1e-3))
  nets = recurrent_actor_critic.networks(
    (2,), 1, lambda i, o: recurrent.lstm(i, o, hidden_size=32)
  )
  state = learner.init(
    jax.random.key(1), nets, jnp.zeros(2), optimiser, optimiser
  )

  def update(state):
    key = jax.random.key(2)
    return learner.update(key, nets, state, batch, optimiser, optimiser)

  def unrolled():
    with jax.disable_jit():
      return update(state)

  compiled = jax.jit(update)
  ours, theirs = compiled(state)[1], unrolled()[1]
  for name, value in ours.items():
    assert abs(value - theirs[name]) < 1e-3, name
  candidates = {"compiled": lambda: compiled(state), "python_loop": unrolled}
  seconds = timing.compare(candidates, rounds=3)["seconds"]
  one, loop = (seconds[name]["median"] for name in candidates)
  return {
    "seconds": seconds,
    "times_as_fast_as_the_python_loop": loop / one,
    "python_loop": "the same update, operation by operation",
  }
