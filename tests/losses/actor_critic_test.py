"""Tests of returns and losses of asynchronous methods, against loops."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

from lilly.losses import actor_critic

_T, _ACTIONS = 9, 3
_END, _CUT = 2, 5  # a termination, and a truncation


def _segment(seed=0, ends=True):
  rng = np.random.default_rng(seed)
  segment = {
    "v_tm1": rng.normal(size=_T),
    "v_t": rng.normal(size=_T),
    "r_t": rng.normal(size=_T),
    "discount_t": np.full(_T, 0.9),
    "is_truncated_t": np.zeros(_T, bool),
    "rho_tm1": rng.uniform(0.2, 2.0, size=_T),
  }
  if ends:
    segment["discount_t"][_END] = 0.0
    segment["is_truncated_t"][_CUT] = True
  return segment


def _returns(segment):
  names = ("r_t", "discount_t", "v_t", "is_truncated_t")
  return actor_critic.n_step_returns(*(segment[name] for name in names))


def _rows(segment, start, stop):
  return {name: x[start:stop] for name, x in segment.items()}


def test_returns_equal_a_loop():
  segment = _segment()
  following, expected = segment["v_t"][-1], np.zeros(_T)
  for i in reversed(range(_T)):
    if segment["is_truncated_t"][i]:
      following = segment["v_t"][i]
    following = segment["r_t"][i] + segment["discount_t"][i] * following
    expected[i] = following
  np.testing.assert_allclose(_returns(segment), expected, rtol=1e-5)


def test_the_first_step_has_the_longest_return():
  """Not a fixed number of steps: k to the segment's end, then k - 1, ..."""
  segment = _segment(ends=False)
  powers = 0.9 ** np.arange(_T + 1)
  numbers = np.append(segment["r_t"], segment["v_t"][-1])
  for i in range(_T):
    expected = np.sum(powers[: _T + 1 - i] * numbers[i:])
    np.testing.assert_allclose(_returns(segment)[i], expected, rtol=1e-5)


def _unrolls(segment):
  """The three episodes of a segment."""
  bounds = (0, _END + 1, _CUT + 1, _T)
  pairs = itertools.pairwise(bounds)
  return [_rows(segment, start, stop) for start, stop in pairs]


def test_returns_of_a_segment_are_those_of_its_episodes():
  segment = _segment()
  # The end of a segment bootstraps as a truncation does.
  parts = [
    _returns(part | {"is_truncated_t": np.zeros(len(part["r_t"]), bool)})
    for part in _unrolls(segment)
  ]
  np.testing.assert_allclose(
    _returns(segment), np.concatenate(parts), rtol=1e-6
  )


def _vtrace_loop(segment, *, lambda_=1.0, clip=1.0, clip_advantage=1.0):
  """Targets and advantages by the recursion, in float64."""
  v, rho = segment["v_tm1"], segment["rho_tm1"]
  targets, advantages = np.zeros(_T), np.zeros(_T)
  for i in reversed(range(_T)):
    is_last = i == _T - 1 or segment["is_truncated_t"][i]
    r, discount, v_t = (segment[n][i] for n in ("r_t", "discount_t", "v_t"))
    carried = 0.0 if is_last else targets[i + 1] - v[i + 1]
    delta = min(clip, rho[i]) * (r + discount * v_t - v[i])
    targets[i] = v[i] + delta + discount * lambda_ * min(1.0, rho[i]) * carried
    following = v_t
    if not is_last:
      following = lambda_ * targets[i + 1] + (1 - lambda_) * v[i + 1]
    advantages[i] = min(clip_advantage, rho[i]) * (
      r + discount * following - v[i]
    )
  return targets, advantages


@pytest.mark.parametrize(
  "options",
  [
    {},
    {"lambda_": 0.7},
    {"clip_rho": 0.5, "clip_advantage_rho": 1.5},
    {"clip_rho": np.inf, "clip_advantage_rho": np.inf},
  ],
)
def test_vtrace_equals_a_loop(options):
  segment = _segment()
  found = actor_critic.vtrace(**segment, **options)
  targets, advantages = _vtrace_loop(
    segment,
    lambda_=options.get("lambda_", 1.0),
    clip=options.get("clip_rho", 1.0),
    clip_advantage=options.get("clip_advantage_rho", 1.0),
  )
  np.testing.assert_allclose(found.target_tm1, targets, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(
    found.advantage_tm1, advantages, rtol=1e-5, atol=1e-6
  )


def test_vtrace_of_a_segment_is_that_of_its_episodes():
  segment = _segment()
  whole = actor_critic.vtrace(**segment)
  parts = []
  for part in _unrolls(segment):
    never = np.zeros(len(part["r_t"]), bool)
    parts.append(actor_critic.vtrace(**part | {"is_truncated_t": never}))
  for actual, *expected in zip(whole, *parts, strict=True):
    np.testing.assert_allclose(actual, np.concatenate(expected), rtol=1e-6)


def test_without_a_truncation_vtrace_is_rlaxs():
  """Within an episode the next row holds the value of what followed."""
  segment = {
    name: jnp.asarray(x, jnp.bool_ if x.dtype == bool else jnp.float32)
    for name, x in _segment(ends=False).items()
  }
  segment["v_t"] = jnp.append(segment["v_tm1"][1:], segment["v_t"][-1])
  never = segment.pop("is_truncated_t")
  expected = rlax.vtrace_td_error_and_advantage(**segment)
  found = actor_critic.vtrace(**segment, is_truncated_t=never)
  errors = found.target_tm1 - segment["v_tm1"]
  np.testing.assert_allclose(errors, expected.errors, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(
    found.advantage_tm1, expected.pg_advantage, rtol=1e-5, atol=1e-6
  )


def test_on_policy_vtrace_targets_are_n_step_returns():
  segment = _segment()
  segment["rho_tm1"] = np.ones(_T)
  # Within an episode; at its ends the rows differ.
  is_within = ~(segment["is_truncated_t"] | (segment["discount_t"] == 0))
  following = np.append(segment["v_tm1"][1:], segment["v_t"][-1])
  segment["v_t"] = np.where(is_within, following, segment["v_t"])
  found = actor_critic.vtrace(**segment)
  np.testing.assert_allclose(found.target_tm1, _returns(segment), rtol=1e-5)


def _choices(seed=0):
  rng = np.random.default_rng(seed)
  logits = jnp.asarray(rng.normal(size=(_T, _ACTIONS)), jnp.float32)
  values = jnp.asarray(rng.normal(size=_T), jnp.float32)
  actions = jnp.asarray(rng.integers(_ACTIONS, size=_T))
  return logits, values, actions, jnp.asarray(rng.normal(size=_T), jnp.float32)


def test_a3c_loss_is_the_sum_of_its_steps():
  logits, values, actions, returns = _choices()
  expected = 0.0
  for i in range(_T):
    p = np.exp(np.asarray(logits[i], np.float64))
    p /= p.sum()
    error = float(returns[i] - values[i])
    entropy = -np.sum(p * np.log(p))
    expected += -np.log(p[int(actions[i])]) * error
    expected += 0.5 * error**2 - 0.01 * entropy
  actual = actor_critic.a3c_loss(logits, values, actions, returns)
  np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_a3c_gradient_is_the_papers():
  """∇ log π(a|s) A + β ∇H for the policy, c ∂(R - V)² for the value."""
  logits, values, actions, returns = _choices()
  loss = lambda x, v: actor_critic.a3c_loss(
    x, v, actions, returns, value_cost=0.25, entropy_cost=0.1
  )
  of_logits, of_values = jax.grad(loss, (0, 1))(logits, values)
  errors = returns - values
  np.testing.assert_allclose(of_values, -0.5 * errors, rtol=1e-5)
  p = jax.nn.softmax(logits)
  chosen = jax.nn.one_hot(actions, _ACTIONS)
  entropy = -jnp.sum(p * jnp.log(p), axis=1, keepdims=True)
  expected = -(chosen - p) * errors[:, None]
  expected += 0.1 * p * (jnp.log(p) + entropy)
  np.testing.assert_allclose(of_logits, expected, rtol=1e-4, atol=1e-6)


def test_returns_and_advantages_are_constants():
  logits, values, actions, returns = _choices()

  def of_returns(x):
    return actor_critic.a3c_loss(logits, values, actions, x, advantage_tm1=x)

  assert not jax.grad(of_returns)(returns).any()
  segment = {
    name: jnp.asarray(x, jnp.bool_ if x.dtype == bool else jnp.float32)
    for name, x in _segment().items()
  }
  for function in (_returns, lambda s: actor_critic.vtrace(**s).target_tm1):
    slope = jax.grad(lambda v, f=function: f(segment | {"v_t": v}).sum())
    assert not slope(segment["v_t"]).any()


def test_own_advantages_take_the_place_of_errors():
  logits, values, actions, returns = _choices()
  errors = returns - values
  plain = actor_critic.a3c_loss(logits, values, actions, returns)
  same = actor_critic.a3c_loss(
    logits, values, actions, returns, advantage_tm1=errors
  )
  np.testing.assert_allclose(same, plain, rtol=1e-6)
  twice = actor_critic.a3c_loss(
    logits, values, actions, returns, advantage_tm1=2 * errors
  )
  chosen = jax.nn.log_softmax(logits)[jnp.arange(_T), actions]
  np.testing.assert_allclose(
    twice - plain, -jnp.sum(chosen * errors), rtol=1e-4
  )


def test_gaussian_density_integrates_to_one():
  mean, variance = jnp.array([0.3]), jnp.array(0.7)
  x = jnp.linspace(-8.0, 8.0, 4001)
  density = jnp.exp(
    jax.vmap(lambda a: actor_critic.gaussian_log_prob(mean, variance, a[None]))(
      x
    )
  )
  np.testing.assert_allclose(jnp.trapezoid(density, x), 1.0, rtol=1e-4)


def test_gaussian_a3c_loss_is_the_sum_of_its_steps():
  rng = np.random.default_rng(0)
  mean, actions = rng.normal(size=(2, _T, 2))
  variance, values, returns = rng.uniform(0.5, 2.0, size=(3, _T))
  expected = 0.0
  for i in range(_T):
    error = returns[i] - values[i]
    squares = np.sum((actions[i] - mean[i]) ** 2) / variance[i]
    log_prob = -0.5 * (2 * np.log(2 * np.pi * variance[i]) + squares)
    entropy = 0.5 * (np.log(2 * np.pi * variance[i]) + 1)
    expected += -log_prob * error + 0.5 * error**2 - 0.3 * entropy
  actual = actor_critic.gaussian_a3c_loss(
    mean, variance, values, actions, returns, entropy_cost=0.3
  )
  np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_targets_of_q_learning_and_sarsa_equal_a_loop():
  rng = np.random.default_rng(0)
  segment = _segment()
  q_t, a_t = rng.normal(size=(_T, _ACTIONS)), rng.integers(_ACTIONS, size=_T)
  r, discount = segment["r_t"], segment["discount_t"]
  largest = [r[i] + discount[i] * max(q_t[i]) for i in range(_T)]
  actual = actor_critic.q_targets(r, discount, q_t)
  np.testing.assert_allclose(actual, largest, rtol=1e-5)
  executed = [r[i] + discount[i] * q_t[i][a_t[i]] for i in range(_T)]
  actual = actor_critic.sarsa_targets(r, discount, q_t, a_t)
  np.testing.assert_allclose(actual, executed, rtol=1e-5)
  assert (np.abs(np.subtract(largest, executed)) > 1e-3).any()


def test_value_loss_is_a_sum_over_executed_actions():
  q, _, actions, targets = _choices()
  loss = lambda q: actor_critic.value_loss(q, actions, targets)
  errors = targets - q[jnp.arange(_T), actions]
  np.testing.assert_allclose(loss(q), jnp.sum(errors**2), rtol=1e-5)
  chosen = jax.nn.one_hot(actions, _ACTIONS)
  expected = -2 * chosen * errors[:, None]
  np.testing.assert_allclose(jax.grad(loss)(q), expected, rtol=1e-5)
