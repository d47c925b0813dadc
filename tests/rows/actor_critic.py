"""Conformance rows of asynchronous methods: losses, V-trace, exploration."""

import jax
import jax.numpy as jnp
import numpy as np

from lilly.control import exploration
from lilly.losses import actor_critic
from tests.rows.row import Row, arrays

__all__ = ["ROWS"]

_T, _ACTIONS, _SIZE = 4, 3, 2


def _segment(rng, dtype):
  return {
    "v_tm1": jnp.asarray(rng.normal(size=_T), dtype),
    "v_t": jnp.asarray(rng.normal(size=_T), dtype),
    "r_t": jnp.asarray(rng.normal(size=_T), dtype),
    "discount_t": jnp.asarray([0.9, 0.0, 0.9, 0.9], dtype),
    "is_truncated_t": jnp.array([False, False, True, False]),
    "rho_tm1": jnp.asarray(rng.uniform(0.2, 2.0, size=_T), dtype),
  }


def _made(*names):
  """Makes inputs of a segment, in the order of names."""

  def make_inputs(seed, dtype):
    rng = np.random.default_rng(seed)
    shapes = {
      "q_t": (_T, _ACTIONS),
      "logits_tm1": (_T, _ACTIONS),
      "target_tm1": (_T,),
      "mean_tm1": (_T, _SIZE),
      "a_tm1": (_T, _SIZE),
    }
    inputs = _segment(rng, dtype)
    for name, shape in shapes.items():
      inputs[name] = jnp.asarray(rng.normal(size=shape), dtype)
    inputs["actions"] = jnp.asarray(rng.integers(_ACTIONS, size=_T))
    inputs["variance_tm1"] = jnp.asarray(rng.uniform(0.5, 2.0, _T), dtype)
    return tuple(inputs[name] for name in names)

  return make_inputs


def _numbers(*values):
  return lambda seed, dtype: tuple(jnp.asarray(x, dtype) for x in values)


def _greedy_inputs(seed, dtype):
  q, epsilon = arrays(_ACTIONS)(seed, dtype)[0], jnp.asarray(0.3, dtype)
  return jax.random.key(seed), q, epsilon


def _sampled(key, **hyper):
  return exploration.sample_epsilons(key, 3, **hyper)


_COSTS = {"value_cost": (-1.0,), "entropy_cost": (-0.1,)}
_VARIANCE = {"zeros": "A variance of 0 has no density."}
_EQUAL = {"equal": "A variance is positive."}

ROWS: tuple[Row, ...] = (
  Row(
    actor_critic.n_step_returns,
    "function",
    _made("r_t", "discount_t", "v_t", "is_truncated_t"),
  ),
  Row(
    actor_critic.q_targets,
    "function",
    _made("r_t", "discount_t", "q_t"),
    free=frozenset({"q_t.1"}),
  ),
  Row(
    actor_critic.sarsa_targets,
    "function",
    _made("r_t", "discount_t", "q_t", "actions"),
    free=frozenset({"q_t.1"}),
  ),
  Row(
    actor_critic.value_loss,
    "function",
    _made("q_t", "actions", "target_tm1"),
    free=frozenset({"q_tm1.1"}),
  ),
  Row(
    actor_critic.a3c_loss,
    "function",
    _made("logits_tm1", "v_tm1", "actions", "target_tm1"),
    free=frozenset({"logits_tm1.1"}),
    constants=_COSTS,
  ),
  Row(
    actor_critic.gaussian_log_prob,
    "function",
    lambda seed, dtype: (
      *arrays(_SIZE)(seed, dtype),
      jnp.asarray(0.5, dtype),
      *arrays(_SIZE)(seed + 2, dtype),
    ),
    without=_VARIANCE,
  ),
  Row(
    actor_critic.gaussian_a3c_loss,
    "function",
    _made("mean_tm1", "variance_tm1", "v_tm1", "a_tm1", "target_tm1"),
    free=frozenset(),
    without=_EQUAL | _VARIANCE,
    constants=_COSTS,
  ),
  Row(
    actor_critic.vtrace,
    "function",
    _made("v_tm1", "v_t", "r_t", "discount_t", "is_truncated_t", "rho_tm1"),
    constants={
      "lambda_": (-0.1, 1.5),
      "clip_rho": (-1.0,),
      "clip_advantage_rho": (-1.0,),
    },
  ),
  Row(
    exploration.epsilon_greedy,
    "random",
    _greedy_inputs,
    free=frozenset({"q.0"}),
    without={"gradient": "An action is an integer."},
  ),
  Row(
    exploration.anneal,
    "function",
    _numbers(3.0, 10.0, 1.0, 0.1),
    edges={"the first step": _numbers(0.0, 10.0, 1.0, 0.1)},
    without={"zeros": "A number of steps is positive."},
  ),
  Row(
    exploration.sample_epsilons,
    "random",
    lambda seed, dtype: (jax.random.key(seed),),
    call=_sampled,
    dtypes=(jnp.float32,),
    without={"gradient": "It takes no arrays but the key."},
  ),
)
