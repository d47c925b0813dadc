"""NAF and DDPG; the full algorithm 2; a pass of iLQG against NumPy."""

from typing import Any

import numpy as np

from benchmarks import commands

_STEPS = 200
_DT, _MAX_SPEED = 0.05, 8.0  # of the pendulum


def measure() -> dict[str, Any]:
  """Measures commands, and one pass of iLQG."""
  return {
    "updates_per_second_of_all_runs": {
      "one_seed": _speeds("naf,ddpg"),
      "8_seeds": _speeds("naf,ddpg", "--num_seeds=8"),
    },
    "real_steps_per_second_of_8_seeds": {
      "11_updates_a_step": _speeds(
        "more_updates,true_model,linear_model",
        "--fixed_start",
        "--num_seeds=8",
        num_rounds=3,
      )
    },
    "ilqg_pass_of_200_steps": _passes(),
  }


def _speeds(variants, *flags, num_rounds=10):
  """Measures real steps per second, with their updates, on the pendulum."""
  flags = [f"--variants={variants}", *flags, f"--num_updates={num_rounds}"]
  flags += [f"--eval_every={num_rounds}", "--num_starts=2"]
  found = commands.rates("naf", flags)
  # A round of five episodes has 1,000 steps.
  return {
    name.removeprefix("pendulum_"): 1000 * rate for name, rate in found.items()
  }


def _passes():
  import jax

  from benchmarks import timing

  states, actions = _nominal()
  one_pass = _make_pass()
  compiled = jax.jit(one_pass)
  # As in a batch of seeds; all equal, so that the results are equal too.
  many = [np.broadcast_to(x, (64, *x.shape)).copy() for x in (states, actions)]
  batched = jax.jit(jax.vmap(one_pass))
  wanted = _pass_in_numpy(states, actions)
  for found in (compiled(states, actions), [x[5] for x in batched(*many)]):
    for ours, theirs in zip(found, wanted, strict=True):
      np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
  candidates = {
    "compiled": lambda: compiled(states, actions),
    "numpy_loop": lambda: _pass_in_numpy(states, actions),
    "compiled_64_at_once": lambda: batched(*many),
  }
  seconds = timing.compare(candidates, rounds=21)["seconds"]
  one, loop, all_64 = (seconds[name]["median"] for name in candidates)
  return {
    "seconds": seconds,
    "times_as_fast_as_the_numpy_loop": {
      "one": loop / one,
      "each_of_64_at_once": 64 * loop / all_64,
    },
    "target": "one at least 50",
    "numpy_loop": "the same equations, derivatives by hand",
  }


def _nominal():
  """Makes a small swing from hanging, far from the speed limit."""
  rng = np.random.default_rng(0)
  actions = rng.normal(size=(_STEPS, 1)).astype(np.float32)
  states = [np.array([np.pi, 0.0], np.float32)]
  for u in actions:
    states.append(_move(states[-1], u))
  return np.stack(states), actions


def _make_pass():
  """Makes a pass of lilly: (states, actions) -> (k, K, states, actions)."""
  import jax.numpy as jnp

  from lilly.control import lqr
  from lilly.envs import pendulum

  functions = {
    "dynamics": lambda t, x, u: jnp.stack(
      pendulum.dynamics(pendulum.State(*x), u[0])
    ),
    "reward": lambda t, x, u: -pendulum.cost(pendulum.State(*x), u[0]),
  }

  def one_pass(states, actions):
    gains = lqr.backward(lqr.expand(states, actions, **functions))
    found = lqr.forward(gains, states, actions, **functions)
    return gains.feedforward, gains.feedback, found.states, found.actions

  return one_pass


def _move(x, u):
  angle, speed = x
  speed = speed + (15 * np.sin(angle) + 3 * u[0]) * _DT
  speed = min(max(speed, -_MAX_SPEED), _MAX_SPEED)
  return np.array([angle + _DT * speed, speed], np.float32)


def _derivatives(x, u):
  """Returns f_x, f_u, r_x, r_u of one step; second derivatives are constant."""
  angle, speed = x
  after = speed + (15 * np.sin(angle) + 3 * u[0]) * _DT
  free = float(abs(after) < _MAX_SPEED)
  row = free * np.array([15 * _DT * np.cos(angle), 1.0], np.float32)
  f_x = np.stack([np.array([1.0, 0.0], np.float32) + _DT * row, row])
  f_u = free * np.array([[3 * _DT * _DT], [3 * _DT]], np.float32)
  wrapped = (angle + np.pi) % (2 * np.pi) - np.pi
  r_x = np.array([-2 * wrapped, -0.2 * speed], np.float32)
  return f_x, f_u, r_x, -0.002 * u


def _pass_in_numpy(states, actions):
  """Computes the same as `one_pass`, by the textbook's recursion."""
  r_xx = np.diag([-2.0, -0.2]).astype(np.float32)
  r_uu = np.array([[-0.002]], np.float32)
  v_x, v_xx = np.zeros(2, np.float32), np.zeros((2, 2), np.float32)
  ks, gains = [], []
  for x, u in zip(states[-2::-1], actions[::-1], strict=True):
    f_x, f_u, r_x, r_u = _derivatives(x, u)
    q_x, q_u = r_x + f_x.T @ v_x, r_u + f_u.T @ v_x
    q_xx, q_ux = r_xx + f_x.T @ v_xx @ f_x, f_u.T @ v_xx @ f_x
    q_uu = r_uu + f_u.T @ v_xx @ f_u
    inverse = np.linalg.inv(q_uu)
    k, gain = -inverse @ q_u, -inverse @ q_ux
    v_x, v_xx = q_x + q_ux.T @ k, q_xx + q_ux.T @ gain
    ks.append(k)
    gains.append(gain)
  ks, gains = np.stack(ks[::-1]), np.stack(gains[::-1])
  followed, us = [states[0]], []
  for x_hat, u_hat, k, gain in zip(
    states[:-1], actions, ks, gains, strict=True
  ):
    us.append(u_hat + k + gain @ (followed[-1] - x_hat))
    followed.append(_move(followed[-1], us[-1]))
  return ks, gains, np.stack(followed), np.stack(us)
