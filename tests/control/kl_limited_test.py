"""Tests of lilly.control.kl_limited against moments, samples and an optimiser.

In float64.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from lilly.control import kl_limited, lqr

T, D, M = 4, 3, 2


pytestmark = pytest.mark.usefixtures("float64")


def covariances(rng, *shape):
  root = rng.normal(size=(*shape, shape[-1]))
  return root @ root.swapaxes(-1, -2) / shape[-1] + 0.2 * np.eye(shape[-1])


@functools.cache
def problem(num_steps=T, d=D, m=M):
  """An expansion, a controller, covariances of the dynamics and the start."""
  rng = np.random.default_rng(0)
  n = (num_steps,)
  second = -covariances(rng, num_steps, d + m)
  expansion = lqr.Expansion(
    f_x=rng.normal(size=(*n, d, d)) / 2,
    f_u=rng.normal(size=(*n, d, m)),
    r_x=rng.normal(size=(*n, d)),
    r_u=rng.normal(size=(*n, m)),
    r_xx=second[:, :d, :d],
    r_uu=second[:, d:, d:],
    r_ux=second[:, d:, :d],
    v_x=rng.normal(size=d),
    v_xx=-covariances(rng, d),
  )
  previous = kl_limited.Controller(
    rng.normal(size=(*n, m)) / 2,
    rng.normal(size=(*n, m, d)) / 2,
    covariances(rng, num_steps, m) / 2,
  )
  return expansion, previous, 0.3 * covariances(rng, *n, d), covariances(rng, d)


def given(num_steps=T, d=D, m=M):
  """The problem as arguments."""
  with jax.enable_x64(True):
    found = jax.tree.map(jnp.asarray, problem(num_steps, d, m))
  expansion, previous, noise, start = found
  return (expansion, previous), {"noise": noise, "start_covariance": start}


def judged(expansion, controller, previous, noise, start):
  """Expected return, and divergence of each step: a loop over moments.

  Of z = [x; u] together, and with the textbook's formulas.
  """
  e = jax.tree.map(np.asarray, expansion)
  (k, gain, sigma), old = map(tuple, (controller, previous))
  d, m = e.f_u.shape[1:]
  mean, cov, total, kls = np.zeros(d), start, 0.0, []
  for t in range(len(k)):
    lift = np.vstack([np.eye(d), gain[t]])
    z = np.concatenate([mean, k[t] + gain[t] @ mean])
    c = lift @ cov @ lift.T
    c[d:, d:] += sigma[t]
    second = np.block([[e.r_xx[t], e.r_ux[t].T], [e.r_ux[t], e.r_uu[t]]])
    total += np.concatenate([e.r_x[t], e.r_u[t]]) @ z
    total += 0.5 * (z @ second @ z + np.trace(second @ c))
    # E of a quadratic form of u - (the old mean of u), a linear map of z.
    off = np.hstack([-old[1][t], np.eye(m)])
    gap, around = off @ z - old[0][t], off @ c @ off.T
    p = np.linalg.inv(old[2][t])
    logs = [np.linalg.slogdet(s[t])[1] for s in (old[2], sigma)]
    kl = gap @ p @ gap + np.trace(p @ around) - m + logs[0] - logs[1]
    kls.append(0.5 * kl)
    f = np.hstack([e.f_x[t], e.f_u[t]])
    mean, cov = f @ z, f @ c @ f.T + noise[t]
  total += e.v_x @ mean + 0.5 * (mean @ e.v_xx @ mean + np.trace(e.v_xx @ cov))
  return total, np.array(kls)


@functools.cache
def compiled(max_kl):
  return jax.jit(functools.partial(kl_limited.improve, max_kl=max_kl))


divergence = jax.jit(kl_limited.divergence)
backward = jax.jit(lqr.backward)


def limited(max_kl, arguments, options):
  return compiled(max_kl)(*arguments, **options)


def test_the_divergence_is_that_of_moments():
  (expansion, previous), options = given()
  other = kl_limited.Controller(
    previous.feedforward + 0.3, -previous.feedback, 2.0 * previous.covariance
  )
  found = divergence(expansion, other, previous, **options)
  wanted = judged(expansion, other, previous, *problem()[2:])[1]
  np.testing.assert_allclose(found, wanted, rtol=1e-10)
  same = divergence(expansion, other, other, **options)
  np.testing.assert_allclose(same, 0.0, atol=1e-12)
  # Neither noise nor a spread start: what the arguments are without.
  nothing = np.zeros((T, D, D)), np.zeros((D, D))
  wanted = judged(expansion, other, previous, *nothing)[1]
  found = divergence(expansion, other, previous)
  np.testing.assert_allclose(found, wanted, rtol=1e-10)


def test_the_divergence_is_that_of_samples():
  (expansion, previous), options = given()
  controller = limited(1.0, (expansion, previous), options).controller
  found = divergence(expansion, controller, previous, **options)
  controller, previous = jax.tree.map(np.asarray, (controller, previous))
  e, _, noise, start = problem()
  rng, n = np.random.default_rng(1), 40_000

  def log_density(pi, t, x, u):
    gap = u - pi[0][t] - x @ pi[1][t].T
    p = np.linalg.inv(pi[2][t])
    squares = np.einsum("ni,ij,nj->n", gap, p, gap)
    return 0.5 * (np.linalg.slogdet(p)[1] - squares)

  x = rng.multivariate_normal(np.zeros(D), start, n)
  for t in range(T):
    middle = controller[0][t] + x @ controller[1][t].T
    u = middle + rng.multivariate_normal(np.zeros(M), controller[2][t], n)
    ratios = [log_density(pi, t, x, u) for pi in (controller, previous)]
    ratio = ratios[0] - ratios[1]
    error = ratio.std() / n**0.5
    assert abs(ratio.mean() - found[t]) < 4 * error < 0.1
    x = x @ e.f_x[t].T + u @ e.f_u[t].T
    x += rng.multivariate_normal(np.zeros(D), noise[t], n)


def test_the_divergence_is_the_limit_and_more_of_it_is_better():
  arguments, options = given()
  (expansion, previous), rest = arguments, problem()[2:]
  totals = [judged(expansion, previous, previous, *rest)[0]]
  etas, apart = [], []
  for max_kl in (1e-6, 0.1, 1.0, 10.0):
    found = limited(max_kl, arguments, options)
    np.testing.assert_allclose(found.kl, max_kl, rtol=1e-4)
    assert found.kl <= max_kl * (1 + 1e-9)
    total, kls = judged(expansion, found.controller, previous, *rest)
    np.testing.assert_allclose(kls.sum(), found.kl, rtol=1e-6)
    totals.append(total)
    etas.append(float(found.eta))
    gaps = jax.tree.map(np.subtract, found.controller, previous)
    apart.append(max(np.abs(gap).max() for gap in gaps))
  assert (np.diff(totals) > 0).all()
  assert (np.diff(etas) < 0).all()
  assert (np.diff(apart) > 0).all()
  assert apart[0] < 3e-3
  # A limit that does not bind: η is the least, and the gains are the best.
  free = limited(1e3, arguments, options)
  np.testing.assert_allclose(free.eta, 1e-8, rtol=1e-6)
  assert free.kl < 1e3
  best = backward(expansion)
  for found, wanted in zip(free.controller[:2], best[:2], strict=True):
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_one_step_is_the_old_controller_times_the_exponential_of_q():
  arguments, options = given(1)
  expansion, previous, *_ = problem(1)
  found = limited(0.5, arguments, options)
  # new(u|x) ~ old(u|x) exp(Q(x, u) / η), a product of Gaussians.
  f_x, f_u, _, r_u, _, r_uu, r_ux = (leaf[0] for leaf in expansion[:7])
  q_uu = r_uu + f_u.T @ expansion.v_xx @ f_u
  q_u = r_u + f_u.T @ expansion.v_x
  q_ux = r_ux + f_u.T @ expansion.v_xx @ f_x
  k, gain, sigma = (leaf[0] for leaf in previous)
  p, eta = np.linalg.inv(sigma), float(found.eta)
  new = np.linalg.inv(p - q_uu / eta)
  np.testing.assert_allclose(found.controller.covariance[0], new)
  wanted = new @ (p @ k + q_u / eta)
  np.testing.assert_allclose(found.controller.feedforward[0], wanted)
  wanted = new @ (p @ gain + q_ux / eta)
  np.testing.assert_allclose(found.controller.feedback[0], wanted)


@pytest.mark.parametrize("is_indefinite", [False, True])
def test_an_optimiser_finds_nothing_better(is_indefinite):
  (expansion, previous), options = given(2, 1, 1)
  rest = problem(2, 1, 1)[2:]
  if is_indefinite:  # The reward grows with u², without an end.
    expansion = expansion._replace(r_uu=jnp.abs(expansion.r_uu))
    assert backward(expansion).damping.max() > 0
  found = limited(0.7, (expansion, previous), options)
  np.testing.assert_allclose(found.kl, 0.7, rtol=1e-4)
  total = judged(expansion, found.controller, previous, *rest)[0]
  old = jax.tree.map(np.asarray, previous)

  def judge(numbers):
    k, gain, log_sigma = numbers.reshape(3, 2)
    new = k[:, None], gain[:, None, None], np.exp(log_sigma)[:, None, None]
    return judged(expansion, new, old, *rest)

  start = [np.ravel(old[0]), np.ravel(old[1]), np.log(np.ravel(old[2]))]
  best = scipy.optimize.minimize(
    lambda numbers: -judge(numbers)[0],
    np.concatenate(start),
    method="SLSQP",
    constraints={"type": "ineq", "fun": lambda x: 0.7 - judge(x)[1].sum()},
    options={"maxiter": 300, "ftol": 1e-12},
  )
  assert best.success
  np.testing.assert_allclose(total, -best.fun, rtol=1e-5)
  mine = [np.ravel(leaf) for leaf in found.controller]
  mine[2] = np.log(mine[2])
  np.testing.assert_allclose(np.concatenate(mine), best.x, atol=1e-3)


def test_what_has_no_maximum_is_limited_too():
  (expansion, previous), options = given()
  upwards = expansion._replace(r_uu=-3 * expansion.r_uu)
  assert backward(upwards).damping.max() > 0
  last = judged(upwards, previous, previous, *problem()[2:])[0]
  for max_kl in (0.1, 100.0):
    found = limited(max_kl, (upwards, previous), options)
    np.testing.assert_allclose(found.kl, max_kl, rtol=1e-4)
    assert np.linalg.eigvalsh(found.controller.covariance).min() > 0
    total = judged(upwards, found.controller, previous, *problem()[2:])[0]
    assert total > last
    last = total


def test_single_precision_is_enough():
  arguments, options = jax.tree.map(jnp.float32, given())
  found = limited(0.1, arguments, options)
  assert found.kl.dtype == jnp.float32
  np.testing.assert_allclose(found.kl, 0.1, rtol=1e-3)
  double = limited(0.1, *given())
  for a, b in zip(found.controller, double.controller, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-3)


def test_what_is_no_limit_is_refused():
  arguments, options = given()
  for max_kl in (0.0, -1.0, float("nan")):
    with pytest.raises(ValueError, match="max_kl is"):
      kl_limited.improve(*arguments, max_kl=max_kl, **options)
  with pytest.raises(ValueError, match="num_bisections is 0"):
    kl_limited.improve(*arguments, max_kl=1.0, num_bisections=0)


def test_covariances_of_other_shapes_are_refused():
  arguments, _ = given()
  for name, shape in (
    ("noise", (1, D, D)),
    ("noise", (D, D)),
    ("start_covariance", (T, D, D)),
    ("start_covariance", (1, D)),
  ):
    with pytest.raises(ValueError, match=f"{name} has shape"):
      kl_limited.improve(*arguments, max_kl=1.0, **{name: jnp.ones(shape)})
