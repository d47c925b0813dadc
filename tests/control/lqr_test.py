"""Tests of lilly.control.lqr against dense least squares, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from lilly.control import lqr
from tests.whole import each

lqr = each(lqr)

T, D, M = 6, 3, 2


@functools.cache
def system():
  """Time-varying dynamics x' = A x + B u + c and a concave reward of both."""
  rng = np.random.default_rng(0)
  a = rng.normal(size=(T, D, D)) / 2
  b, c = rng.normal(size=(T, D, M)), rng.normal(size=(T, D))
  root = rng.normal(size=(T + 1, D + M, D + M))
  h = -(root @ root.transpose(0, 2, 1)) - 0.5 * np.eye(D + M)
  g = rng.normal(size=(T + 1, D + M))
  return a, b, c, h, g


def functions():
  a, b, c, h, g = map(jnp.asarray, system())

  def reward(t, x, u):
    z = jnp.concatenate([x, u])
    return 0.5 * z @ h[t] @ z + g[t] @ z

  return {
    "dynamics": lambda t, x, u: a[t] @ x + b[t] @ u + c[t],
    "reward": reward,
    "final": lambda x: 0.5 * x @ h[T, :D, :D] @ x + g[T, :D] @ x,
  }


def dense_optimum(start):
  """Solves for all actions at once: the return is quadratic in them."""
  a, b, c, h, g = system()
  # Each state as a matrix of all actions, and an offset.
  matrix, offset = np.zeros((D, T * M)), np.array(start)
  hessian, slope = np.zeros((T * M, T * M)), np.zeros(T * M)
  for t in range(T + 1):
    pick = np.zeros((M, T * M))
    if t < T:
      pick[:, t * M : (t + 1) * M] = np.eye(M)
    z, z_0 = np.vstack([matrix, pick]), np.concatenate([offset, np.zeros(M)])
    h_t, g_t = np.array(h[t]), np.array(g[t])
    if t == T:
      h_t[D:], h_t[:, D:], g_t[D:] = 0, 0, 0
    hessian += z.T @ h_t @ z
    slope += z.T @ (h_t @ z_0 + g_t)
    if t < T:
      matrix, offset = a[t] @ matrix + b[t] @ pick, a[t] @ offset + c[t]
  return np.linalg.solve(-hessian, slope).reshape(T, M)


def nominal(seed=1):
  rng = np.random.default_rng(seed)
  actions = jnp.asarray(rng.normal(size=(T, M)))
  states = [jnp.asarray(rng.normal(size=D))]
  for t in range(T):
    states.append(functions()["dynamics"](t, states[-1], actions[t]))
  return jnp.stack(states), actions


@jax.jit
def total_of(states, actions):
  step, end = functions()["reward"], functions()["final"]
  rewards = [step(t, states[t], actions[t]) for t in range(T)]
  return sum(rewards) + end(states[T])


# Compiled as wholes: of what is done one by one, each operation is compiled.
@jax.jit
def expand(states, actions):
  return lqr.expand(states, actions, **functions())


@jax.jit
def forward(gains, states, actions):
  return lqr.forward(gains, states, actions, **functions())


backward = jax.jit(lqr.backward, static_argnames="least")
pytestmark = pytest.mark.usefixtures("float64")


def test_one_pass_solves_a_linear_quadratic_problem():
  states, actions = nominal()
  expansion = expand(states, actions)
  gains = backward(expansion)
  found = forward(gains, states, actions)
  np.testing.assert_allclose(found.actions, dense_optimum(states[0]), atol=1e-8)
  np.testing.assert_allclose(
    found.total, total_of(found.states, found.actions), rtol=1e-10
  )
  before = total_of(states, actions)
  np.testing.assert_allclose(gains.improvement, found.total - before, rtol=1e-8)
  np.testing.assert_array_equal(gains.damping, 0.0)
  # And from elsewhere the same gains are right too.
  moved = states.at[0].add(jnp.array([0.5, -1.0, 0.3]))
  gain = [f(gains) for f in (lambda g: g.feedforward, lambda g: g.feedback)]
  x, wanted = moved[0], dense_optimum(moved[0])
  for t in range(T):
    u = actions[t] + gain[0][t] + gain[1][t] @ (x - states[t])
    np.testing.assert_allclose(u, wanted[t], atol=1e-8)
    x = functions()["dynamics"](t, x, u)


def test_many_steps_of_one_system_are_riccatis():
  a, b = np.array([[1.0, 0.1], [0.0, 1.0]]), np.array([[0.0], [0.1]])
  cost, effort = np.diag([1.0, 0.1]), np.eye(1)

  def reward(t, x, u):
    return -(x @ cost @ x + u @ effort @ u)

  zeros = jnp.zeros((300, 1))
  expansion = lqr.expand(
    jnp.zeros((301, 2)),
    zeros,
    dynamics=lambda t, x, u: a @ x + b @ u,
    reward=reward,
  )
  value = scipy.linalg.solve_discrete_are(a, b, cost, effort)
  wanted = np.linalg.solve(effort + b.T @ value @ b, b.T @ value @ a)
  np.testing.assert_allclose(backward(expansion).feedback[0], -wanted)


def test_what_is_not_concave_is_damped_until_it_is():
  states, actions = nominal()
  expansion = expand(states, actions)
  upwards = expansion._replace(r_uu=-expansion.r_uu)
  gains = backward(upwards, least=1e-3)
  assert np.linalg.eigvalsh(gains.q_uu).max() <= -0.9e-3
  assert (np.asarray(gains.damping) > 0).any()
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(gains))
  # More damping makes smaller steps, and each is still a better one.
  sizes = []
  for damping in (0.0, 10.0, 1000.0):
    gains = backward(expansion, damping=damping)
    sizes.append(float(jnp.abs(gains.feedforward[-1]).max()))
    assert gains.improvement > 0
  assert sizes[0] > sizes[1] > sizes[2] > 0


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_one_action_is_as_one_beside_an_idle_one(sign):
  states, actions = nominal()
  two = expand(states, actions)
  two = two._replace(
    f_u=two.f_u.at[:, :, 1].set(0.0),
    r_u=two.r_u.at[:, 1].set(0.0),
    r_uu=jnp.tile(jnp.diag(jnp.array([-2.0 * sign, -1e3])), (T, 1, 1)),
    r_ux=two.r_ux.at[:, 1].set(0.0),
  )
  one = two._replace(
    f_u=two.f_u[:, :, :1],
    r_u=two.r_u[:, :1],
    r_uu=two.r_uu[:, :1, :1],
    r_ux=two.r_ux[:, :1],
  )
  found, wanted = backward(one), backward(two)
  assert (np.asarray(wanted.damping) > 0).any() == (sign < 0)
  np.testing.assert_allclose(found.damping, wanted.damping, atol=1e-9)
  np.testing.assert_allclose(found.improvement, wanted.improvement)
  for mine, theirs in zip(found[:3], wanted[:3], strict=True):
    cut = tuple(map(slice, mine.shape))
    np.testing.assert_allclose(mine, theirs[cut], rtol=1e-8)


def test_the_prediction_is_that_of_the_damped_gains():
  states, actions = nominal()
  expansion = expand(states, actions)
  gains = backward(expansion, damping=7.0)
  found = forward(gains, states, actions)
  change = found.total - total_of(states, actions)
  np.testing.assert_allclose(gains.improvement, change, rtol=1e-8)


def test_a_plan_swings_a_pendulum_up():
  def dynamics(t, x, u):
    del t
    velocity = x[1] + (15 * jnp.sin(x[0]) + 3 * u[0]) * 0.05
    return jnp.stack([x[0] + 0.05 * velocity, velocity])

  def reward(t, x, u):
    del t
    return jnp.cos(x[0]) - 0.05 * x[1] ** 2 - 0.001 * u[0] ** 2

  def planned():
    begin = 0.1 * jax.random.normal(jax.random.key(0), (100, 1))
    return lqr.plan(
      jnp.array([jnp.pi, 0.0]),
      begin,
      dynamics=dynamics,
      reward=reward,
      limit=6.0,
    )

  best, gains = jax.jit(planned)()
  assert np.abs(best.actions).max() <= 6.0
  assert np.cos(best.states[-20:, 0]).min() > 0.99
  assert gains.feedback.shape == (100, 1, 2)
  with pytest.raises(ValueError, match="num_iterations is 0"):
    lqr.plan(
      *(jnp.zeros(2), jnp.zeros((3, 1))),
      dynamics=dynamics,
      reward=reward,
      num_iterations=0,
    )


def test_there_is_one_state_more_than_actions():
  states, actions = nominal()
  states = jnp.asarray(states)
  for wrong in (states[:-1], states[:1], jnp.concatenate([states, states])):
    with pytest.raises(ValueError, match=r"^states has .* rows; .* actions"):
      lqr.expand(wrong, actions, **functions())
  gains = lqr.backward(lqr.expand(states, actions, **functions()))
  with pytest.raises(ValueError, match=r"^gains\.feedback has shape"):
    lqr.forward(
      gains._replace(feedback=gains.feedback[:1]),
      states,
      actions,
      **functions(),
    )
