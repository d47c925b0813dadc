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


def _imagine(key, state):
  def step(key, x, u):
    del key
    return x + u, environment.make_step(x + u, jnp.sum(u))

  return imagination.rollout(
    key, state, state, step=step, act=lambda key, x: -0.5 * x, length=3
  )


ROWS = (
  Row(dpg.critic_loss, "loss", arrays((), (), (), ())),
  Row(dpg.actor_loss, "loss", arrays(3, 3)),
  Row(naf.triangle, "function", arrays(6)),
  Row(naf.advantage, "function", arrays(3, 3, (3, 3))),
  Row(naf.loss, "loss", arrays((), (), (), (), ())),
  Row(naf.noise, "function", _shaped, dtypes=(jnp.float32,)),
  *(
    Row(function, "function", inputs, call=call, dtypes=(jnp.float32,))
    for function, inputs, call in (
      (lqr.expand, arrays((4, 2), (3, 1)), _expand),
      (lqr.backward, _expansion, None),
      (lqr.forward, _controlled, lambda *given: lqr.forward(*given, **_MODEL)),
      (
        lqr.plan,
        arrays(2, (3, 1)),
        lambda *given: lqr.plan(*given, **_MODEL, num_iterations=1),
      ),
      (
        kl_limited.improve,
        _near,
        lambda *given: kl_limited.improve(*given, max_kl=0.5),
      ),
      (kl_limited.divergence, _apart, None),
      (linear_models.fit, _ROLLOUTS, None),
      (linear_models.pooled_prior, _ROLLOUTS, None),
      (linear_models.mean, _fitted, None),
      (linear_models.roots, lambda *given: _fitted(*given)[:1], None),
      (linear_models.sample, _to_draw, None),
    )
  ),
  Row(
    small_matrices.cholesky,
    "function",
    lambda *given: _positive(*given)[:1],
    dtypes=(jnp.float32,),
  ),
  Row(
    small_matrices.semidefinite_root,
    "function",
    lambda *given: _positive(*given)[:1],
    dtypes=(jnp.float32,),
  ),
  Row(
    small_matrices.invert,
    "function",
    lambda *given: _positive(*given)[:1],
    dtypes=(jnp.float32,),
  ),
  Row(small_matrices.pseudo_inverse, "function", arrays((3, 4))),
  Row(small_matrices.solve, "function", _positive, dtypes=(jnp.float32,)),
  Row(
    small_matrices.solve_by_inverse,
    "function",
    _positive,
    dtypes=(jnp.float32,),
  ),
  Row(
    small_matrices.solve_triangular,
    "function",
    _positive,
    dtypes=(jnp.float32,),
  ),
  Row(
    imagination.rollout,
    "function",
    keyed(2),
    call=_imagine,
    dtypes=(jnp.float32,),
  ),
  Row(exploration.ornstein_uhlenbeck, "function", keyed(3)),
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
