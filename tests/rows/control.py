"""Conformance rows of losses, exploration and replay."""

import jax.numpy as jnp

from lilly.control import (
  exploration,
  imagination,
  kl_limited,
  linear_models,
  lqr,
  small_matrices,
)
from lilly.envs import environment
from lilly.losses import dpg, naf
from lilly.replay import ring
from tests.rows.row import Row, arrays, keyed, together

__all__ = ["ROWS"]


@together
def _ring(seed, dtype):
  items, more = arrays((4, 3), (2, 3))(seed, dtype)
  return ring.extend(ring.init(items[0], 5), items), more


@together
def _one_more(seed, dtype):
  state, more = _ring(seed, dtype)
  return state, more[0]


@together
def _few_more(seed, dtype):
  state, more = _ring(seed, dtype)
  return state, more[:1]


@together
def _to_sample(seed, dtype):
  state, _ = _ring(seed, dtype)
  return keyed()(seed, dtype)[0], state


def _sample(key, state, batch_size=6):
  return ring.sample(key, state, batch_size)


_REPLAY = {
  "free": frozenset({"state.rows.float32.0", "items.0"}),
  "any_rank": frozenset({"state.example"}),
  "without": {
    "integers_are_refused": "A ring has one array for each type of its example."
  },
}


@together
def _shaped(seed, dtype):
  key, numbers = keyed(6)(seed, dtype)
  return key, naf.triangle(numbers)


_MODEL = {
  "dynamics": lambda t, x, u: (
    jnp.sin(x) + u[0] * jnp.asarray([0.5, 1.0], x.dtype)
  ),
  "reward": lambda t, x, u: -jnp.sum(x**2) - jnp.sum(u**2),
}


def _expand(states, actions):
  return lqr.expand(states, actions, **_MODEL)


def _forward(gains, states, actions, **hyper):
  return lqr.forward(gains, states, actions, **_MODEL, **hyper)


def _plan(state, actions, *, num_iterations=1, **hyper):
  return lqr.plan(
    state, actions, **_MODEL, num_iterations=num_iterations, **hyper
  )


def _improve(expansion, previous, *, max_kl=0.5, **hyper):
  return kl_limited.improve(expansion, previous, max_kl=max_kl, **hyper)


@together
def _expansion(seed, dtype):
  return (_expand(*arrays((4, 2), (3, 1))(seed, dtype)),)


@together
def _controlled(seed, dtype):
  states, actions = arrays((4, 2), (3, 1))(seed, dtype)
  return lqr.backward(_expand(states, actions)), states, actions


@together
def _near(seed, dtype):
  k, gain, root = arrays((3, 1), (3, 1, 2), (3, 1, 1))(seed, dtype)
  previous = kl_limited.Controller(k, gain, root**2 + 0.5)
  return *_expansion(seed, dtype), previous


@together
def _apart(seed, dtype):
  expansion, previous = _near(seed, dtype)
  return expansion, previous._replace(feedforward=previous[0] + 1), previous


_ROLLOUTS = arrays((5, 2, 2), (5, 2, 1), (5, 2, 2))


@together
def _fitted(seed, dtype):
  return (
    linear_models.fit(*_ROLLOUTS(seed, dtype)),
    1,
    *arrays(2, 1)(seed, dtype),
  )


@together
def _to_draw(seed, dtype):
  return *keyed()(seed, dtype), *_fitted(seed, dtype)


@together
def _positive(seed, dtype):
  root, right = arrays((3, 3), 3)(seed, dtype)
  return root @ root.T + jnp.eye(3, dtype=dtype), right


@together
def _singular(seed, dtype):
  root = arrays((3, 2))(seed, dtype)[0]
  return (root @ root.T,)


def _imagine(key, state, *, length=3):
  def step(key, x, u):
    del key
    return x + u, environment.make_step(x + u, jnp.sum(u))

  return imagination.rollout(
    key, state, state, step=step, act=lambda key, x: -0.5 * x, length=length
  )


_INDEFINITE = dict.fromkeys(
  ("zeros", "equal"), "The matrix must be positive definite."
)


def _system_row(function):
  """A row of what solves A x = b, for a vector or a matrix b."""
  return Row(
    function,
    "function",
    _positive,
    dtypes=(jnp.float32,),
    any_rank=frozenset({"right"}),
    without=_INDEFINITE,
  )


ROWS = (
  Row(dpg.critic_loss, "loss", arrays((), (), (), ())),
  Row(
    dpg.actor_loss,
    "loss",
    arrays(3, 3),
    constants={"max_norm": (0.0, -1.0, jnp.inf)},
  ),
  Row(
    naf.triangle,
    "function",
    arrays(6),
    constants={"bound": (-1.0,)},
    without={"sizes": "There is a triangle of one number, too."},
  ),
  Row(naf.advantage, "function", arrays(3, 3, (3, 3))),
  Row(naf.loss, "loss", arrays((), (), (), (), ())),
  Row(
    naf.noise,
    "function",
    _shaped,
    dtypes=(jnp.float32,),
    constants={"scale": (-1.0, jnp.inf)},
    without={"zeros": "The diagonal of L must not have a zero."},
  ),
  Row(
    lqr.expand,
    "function",
    arrays((4, 2), (3, 1)),
    call=_expand,
    dtypes=(jnp.float32,),
    without={"sizes": "Numbers of states and actions are the dynamics'."},
  ),
  Row(
    lqr.backward,
    "function",
    _expansion,
    dtypes=(jnp.float32,),
    constants={"damping": (-1.0, jnp.inf), "least": (-1.0, jnp.inf)},
  ),
  Row(
    lqr.forward,
    "function",
    _controlled,
    call=_forward,
    dtypes=(jnp.float32,),
    constants={"step_size": (jnp.inf,), "limit": (-1.0, jnp.inf)},
  ),
  Row(
    lqr.plan,
    "function",
    arrays(2, (3, 1)),
    call=_plan,
    dtypes=(jnp.float32,),
    constants={"num_iterations": (0.0, -1.0), "limit": (-1.0, jnp.inf)},
    without={"sizes": "Numbers of states and actions are the dynamics'."},
  ),
  Row(
    kl_limited.improve,
    "function",
    _near,
    call=_improve,
    dtypes=(jnp.float32,),
    constants={"max_kl": (0.0, -1.0), "num_bisections": (0.0, -1.0)},
    without=dict.fromkeys(
      ("zeros", "equal"), "Covariances must be positive definite."
    ),
  ),
  Row(
    kl_limited.divergence,
    "function",
    _apart,
    dtypes=(jnp.float32,),
    without=dict.fromkeys(
      ("zeros", "equal"), "Covariances must be positive definite."
    ),
  ),
  Row(
    linear_models.fit,
    "function",
    _ROLLOUTS,
    dtypes=(jnp.float32,),
    constants={"ridge": (-1.0, jnp.inf)},
    free=frozenset({"actions.2"}),
  ),
  Row(
    linear_models.pooled_prior,
    "function",
    _ROLLOUTS,
    dtypes=(jnp.float32,),
    constants={"mean_count": (0.0, -1.0), "count": (0.0, -1.0)},
    free=frozenset({"actions.2"}),
  ),
  Row(linear_models.mean, "function", _fitted, dtypes=(jnp.float32,)),
  Row(
    linear_models.roots,
    "function",
    lambda *given: _fitted(*given)[:1],
    dtypes=(jnp.float32,),
    free=frozenset({"model.weights.2"}),
  ),
  Row(linear_models.sample, "function", _to_draw, dtypes=(jnp.float32,)),
  Row(
    small_matrices.cholesky,
    "function",
    lambda *given: _positive(*given)[:1],
    dtypes=(jnp.float32,),
    without=_INDEFINITE,
  ),
  Row(
    small_matrices.semidefinite_root,
    "function",
    lambda *given: _positive(*given)[:1],
    dtypes=(jnp.float32,),
    edges={"a singular matrix": _singular},
  ),
  Row(
    small_matrices.invert,
    "function",
    lambda *given: _positive(*given)[:1],
    dtypes=(jnp.float32,),
    without=_INDEFINITE,
  ),
  Row(
    small_matrices.pseudo_inverse,
    "function",
    arrays((3, 4)),
    constants={"rtol": (-1.0, 1.0)},
    free=frozenset({"matrix.0", "matrix.1"}),
  ),
  _system_row(small_matrices.solve),
  _system_row(small_matrices.solve_by_inverse),
  _system_row(small_matrices.solve_triangular),
  Row(
    imagination.rollout,
    "function",
    keyed(2),
    call=_imagine,
    dtypes=(jnp.float32,),
    constants={"length": (0.0, -1.0)},
    any_rank=frozenset({"state"}),
    free=frozenset({"state.0"}),
    without={"integers": "The type of a state is the model's."},
  ),
  Row(
    exploration.ornstein_uhlenbeck,
    "function",
    keyed(3),
    constants={
      "theta": (-1.0, jnp.inf),
      "sigma": (-1.0, jnp.inf),
      "dt": (0.0, -1.0, jnp.inf),
    },
    any_rank=frozenset({"noise"}),
    free=frozenset({"noise.0"}),
  ),
  Row(
    ring.init,
    "function",
    arrays((2, 3)),
    call=lambda example, capacity=4: (
      ring.contents(ring.init(example, capacity)) + example[None]
    ),
    free=frozenset({"example.0", "example.1"}),
    any_rank=frozenset({"example"}),
    constants={"capacity": (0, -1, 2.5)},
  ),
  Row(ring.add, "replay", _one_more, state=0, **_REPLAY),
  Row(
    ring.extend,
    "replay",
    _few_more,
    state=0,
    edges={"several": _ring},
    **_REPLAY,
  ),
  Row(ring.contents, "replay", lambda *given: _ring(*given)[:1], **_REPLAY),
  Row(
    ring.sample,
    "replay",
    _to_sample,
    call=_sample,
    constants={"batch_size": (-1, 2.5)},
    **_REPLAY,
  ),
)
