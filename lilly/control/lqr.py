"""Linear-quadratic control: iterative LQG (iLQG) trajectory optimisation.

Maximises the undiscounted return over T steps. Around a trajectory the dynamics
are linearised and the reward is expanded to second order; `backward` computes
the optimal controller of this model, `forward` rolls it out. All functions
raise ValueError for arguments of another shape than stated; whole numbers count
as float32.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lilly import checks
from lilly.control import small_matrices

__all__ = [
  "SHAPES",
  "Expansion",
  "Gains",
  "Trajectory",
  "backward",
  "expand",
  "forward",
  "plan",
]

# dynamics(t, x, u) -> the next x; reward(t, x, u) -> []; final(x) -> []
Dynamics = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
Reward = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
Final = Callable[[jax.Array], jax.Array]


class Expansion(NamedTuple):
  """First-order dynamics and second-order rewards around a trajectory."""

  f_x: jax.Array  # [T, d, d]
  f_u: jax.Array  # [T, d, m]
  r_x: jax.Array  # [T, d]
  r_u: jax.Array  # [T, m]
  r_xx: jax.Array  # [T, d, d]
  r_uu: jax.Array  # [T, m, m]
  r_ux: jax.Array  # [T, m, d]
  v_x: jax.Array  # [d], gradient of the final reward
  v_xx: jax.Array  # [d, d]


# of an expansion's fields, in the notation of `lilly.checks`
SHAPES = {
  "f_x": "T d d",
  "f_u": "T d m",
  "r_x": "T d",
  "r_u": "T m",
  "r_xx": "T d d",
  "r_uu": "T m m",
  "r_ux": "T m d",
  "v_x": "d",
  "v_xx": "d d",
}


class Gains(NamedTuple):
  """A controller u = û + k + K (x - x̂), with diagnostics."""

  feedforward: jax.Array  # k, [T, m]
  feedback: jax.Array  # K, [T, m, d]
  q_uu: jax.Array  # [T, m, m], damped: negative definite
  damping: jax.Array  # [T], subtracted from the diagonal of Q_uu
  improvement: jax.Array  # [], predicted improvement of the return


class Trajectory(NamedTuple):
  """States, actions and return of one episode."""

  states: jax.Array  # [T + 1, d]
  actions: jax.Array  # [T, m]
  total: jax.Array  # [], the return


def expand(
  states: jax.Array,
  actions: jax.Array,
  *,
  dynamics: Dynamics,
  reward: Reward,
  final: Final | None = None,
) -> Expansion:
  """Expands dynamics and reward around a trajectory, by differentiation.

  Args:
    states: x̂, [T + 1, d].
    actions: û, [T, m].
    dynamics: f(t, x, u), t an int32 scalar.
    reward: r(t, x, u).
    final: reward of the last state; None: none.

  Returns:
    The expansion.

  Reference:
    Tassa et al., 2012; Gu et al., 2016 (arXiv 1603.00748), section 5.1. Second
    derivatives of the dynamics are ignored.

  >>> found = expand(
  ...   jnp.zeros((3, 1)),
  ...   jnp.zeros((2, 1)),
  ...   dynamics=lambda t, x, u: 2 * x + u,
  ...   reward=lambda t, x, u: -jnp.sum(u**2),
  ... )
  >>> found.f_x.ravel().tolist(), found.r_uu.ravel().tolist()
  ([2.0, 2.0], [-2.0, -2.0])
  """
  states, actions = _checked_trajectory(states, actions, {})
  times = jnp.arange(len(actions))

  def at(t, x, u):
    f_x, f_u = jax.jacfwd(dynamics, (1, 2))(t, x, u)
    r_x, r_u = jax.grad(reward, (1, 2))(t, x, u)
    (r_xx, _), (r_ux, r_uu) = jax.hessian(reward, (1, 2))(t, x, u)
    return f_x, f_u, r_x, r_u, r_xx, r_uu, r_ux

  last = states[-1]
  of_end = final or (lambda x: 0 * jnp.sum(x))
  v_x, v_xx = jax.grad(of_end)(last), jax.hessian(of_end)(last)
  return Expansion(*jax.vmap(at)(times, states[:-1], actions), v_x, v_xx)


def _checked_trajectory(states, actions, sizes):
  states = checks.real("states", states, "S d", sizes)
  actions = checks.real("actions", actions, "T m", sizes)
  if len(states) != len(actions) + 1:
    raise ValueError(
      f"states has {len(states)} rows; it must have one more than actions, "
      f"{len(actions) + 1}."
    )
  return states, actions


def backward(
  expansion: Expansion, *, damping: float | jax.Array = 0.0, least: float = 1e-6
) -> Gains:
  """Computes the optimal controller of the expansion, backwards in time.

  Q_uu = r_uu + f_uᵀ V_xx f_u,  k = -Q_uu⁻¹ Q_u,  K = -Q_uu⁻¹ Q_ux,
  V_xx = Q_xx - Q_uxᵀ Q_uu⁻¹ Q_ux,  V_x = Q_x - Q_uxᵀ Q_uu⁻¹ Q_u.

  λ I is subtracted from Q_uu to compute the gains; V is the exact value of
  these gains. If Q_uu is not negative definite, λ is at least twice its largest
  eigenvalue.

  Args:
    expansion: as from `expand`; leading axes T.
    damping: λ, non-negative; larger values make smaller steps.
    least: Q_uu is left undamped if its eigenvalues are all below -least;
      non-negative.

  Returns:
    The gains. Time is O(T (d + m)³).

  Raises:
    ValueError: if damping or least is negative.

  Reference:
    Tassa et al., 2012; Gu et al., 2016 (arXiv 1603.00748), section 5.1.

  >>> one, zero = jnp.ones((1, 1, 1)), jnp.zeros((1, 1))
  >>> expansion = Expansion(
  ...   *(one, one, zero, zero, -one, -one, 0 * one), zero[0], -one[0]
  ... )
  >>> round(float(backward(expansion).feedback[0, 0, 0]), 3)
  -0.5
  """
  damping = checks.number("damping", damping, least=0)
  least = checks.number("least", least, least=0)
  sizes = {}
  fields = {
    name: checks.real(
      f"expansion.{name}", getattr(expansion, name), shape, sizes
    )
    for name, shape in SHAPES.items()
  }
  *steps, v_x, v_xx = expansion._replace(**fields)

  def step(carry, at):
    v_x, v_xx, total = carry
    f_x, f_u, r_x, r_u, r_xx, r_uu, r_ux = at
    q_x, q_u = r_x + f_x.T @ v_x, r_u + f_u.T @ v_x
    q_xx = r_xx + f_x.T @ v_xx @ f_x
    q_uu = _symmetric(r_uu + f_u.T @ v_xx @ f_u)
    q_ux = r_ux + f_u.T @ v_xx @ f_x
    # Flip the sign of the largest curvature: a nearly flat maximum would give
    # unbounded steps.
    needed = _damping_needed(q_uu, least)
    taken = jnp.maximum(jnp.asarray(damping, q_uu.dtype), needed)
    damped = q_uu - taken * jnp.eye(len(q_uu), dtype=q_uu.dtype)
    right = jnp.concatenate([q_u[:, None], q_ux], axis=1)
    both = small_matrices.solve(-damped, right)
    k, gain = both[:, 0], both[:, 1:]
    # These hold for any gains, not only those of an undamped Q_uu.
    total += k @ q_u + 0.5 * k @ q_uu @ k
    v_x = q_x + gain.T @ (q_u + q_uu @ k) + q_ux.T @ k
    v_xx = q_xx + gain.T @ q_uu @ gain + gain.T @ q_ux + q_ux.T @ gain
    return (v_x, _symmetric(v_xx), total), (k, gain, damped, taken)

  start = (v_x, v_xx, jnp.zeros((), v_x.dtype))
  (_, _, total), found = jax.lax.scan(step, start, tuple(steps), reverse=True)
  return Gains(*found, total)


def forward(
  gains: Gains,
  states: jax.Array,
  actions: jax.Array,
  *,
  dynamics: Dynamics,
  reward: Reward,
  final: Final | None = None,
  step_size: float | jax.Array = 1.0,
  limit: float | None = None,
) -> Trajectory:
  """Rolls out a controller: u = û + α k + K (x - x̂).

  Args:
    gains: as from `backward`.
    states: x̂, [T + 1, d]; the rollout starts at the first.
    actions: û, [T, m].
    dynamics: f(t, x, u).
    reward: r(t, x, u).
    final: reward of the last state; None: none.
    step_size: α, factor of the feedforward term.
    limit: actions are clipped to ±limit; None: no clipping.

  Returns:
    The trajectory.

  Raises:
    ValueError: if step_size is not finite, or limit is negative.

  Reference:
    Tassa et al., 2012; Gu et al., 2016 (arXiv 1603.00748), section 5.1.

  >>> zeros, matrices = jnp.zeros((2, 1)), jnp.zeros((2, 1, 1))
  >>> gains = Gains(1.0 + zeros, matrices, matrices, jnp.zeros(2), 0.0)
  >>> found = forward(
  ...   gains,
  ...   jnp.zeros((3, 1)),
  ...   zeros,
  ...   dynamics=lambda t, x, u: x + u,
  ...   reward=lambda t, x, u: -jnp.sum(u**2),
  ... )
  >>> found.states.ravel().tolist(), float(found.total)
  ([0.0, 1.0, 2.0], -2.0)
  """
  sizes = {}
  states, actions = _checked_trajectory(states, actions, sizes)
  gains = Gains(
    checks.real("gains.feedforward", gains.feedforward, "T m", sizes),
    checks.real("gains.feedback", gains.feedback, "T m d", sizes),
    checks.real("gains.q_uu", gains.q_uu, "T m m", sizes),
    checks.real("gains.damping", gains.damping, "T", sizes),
    checks.real("gains.improvement", gains.improvement, "", sizes),
  )
  step_size = checks.number("step_size", step_size)
  limit = _checked_limit(limit)
  times = jnp.arange(len(actions))

  def step(carry, at):
    x, total = carry
    t, x_hat, u_hat, k, gain = at
    u = u_hat + step_size * k + gain @ (x - x_hat)
    u = u if limit is None else jnp.clip(u, -limit, limit)
    return (dynamics(t, x, u), total + reward(t, x, u)), (x, u)

  start = (states[0], jnp.zeros((), states.dtype))
  controller = (gains.feedforward, gains.feedback)
  per_step = (times, states[:-1], actions, *controller)
  (last, total), (xs, us) = jax.lax.scan(step, start, per_step)
  total = total if final is None else total + final(last)
  return Trajectory(jnp.concatenate([xs, last[None]]), us, total)


def _checked_limit(limit):
  return limit if limit is None else checks.number("limit", limit, least=0)


def plan(
  state: jax.Array,
  actions: jax.Array,
  *,
  dynamics: Dynamics,
  reward: Reward,
  final: Final | None = None,
  num_iterations: int = 100,
  limit: float | None = None,
) -> tuple[Trajectory, Gains]:
  """Optimises a sequence of actions by iterative LQG.

  Each iteration evaluates eleven step sizes, 1 to 2⁻¹⁰, in parallel and takes
  the best. If none improves the return, damping is multiplied by 10, otherwise
  divided by 10.

  Args:
    state: initial state, [d].
    actions: initial actions, [T, m].
    dynamics: f(t, x, u).
    reward: r(t, x, u).
    final: reward of the last state; None: none.
    num_iterations: number of iterations.
    limit: see `forward`; the backward pass ignores it.

  Returns:
    The best trajectory, and the gains around it.

  Raises:
    ValueError: if num_iterations is not positive, or limit is negative.

  Reference:
    Tassa et al., 2012, with a simplified line search and damping schedule.

  >>> best, _ = plan(
  ...   *(jnp.ones(1), jnp.zeros((3, 1))),
  ...   dynamics=lambda t, x, u: x + u,
  ...   reward=lambda t, x, u: -jnp.sum(x**2) - 0.001 * jnp.sum(u**2),
  ...   num_iterations=5,
  ... )
  >>> best.states.shape, round(float(best.states[1, 0]), 2)
  ((4, 1), 0.0)
  """
  num_iterations = checks.whole_number(
    "num_iterations", num_iterations, least=1
  )
  limit = _checked_limit(limit)
  state = checks.real("state", state, "d")
  actions = checks.real("actions", actions, "T m")
  functions = {"dynamics": dynamics, "reward": reward, "final": final}
  states = jnp.zeros((len(actions) + 1, len(state)), state.dtype)
  states = states.at[0].set(state)
  feedback = jnp.zeros((*actions.shape, len(state)), state.dtype)
  still = Gains(
    feedforward=0 * actions,
    feedback=feedback,
    q_uu=jnp.zeros((*actions.shape, actions.shape[1]), state.dtype),
    damping=jnp.zeros(len(actions), state.dtype),
    improvement=jnp.zeros((), state.dtype),
  )
  best = forward(still, states, actions, limit=limit, **functions)

  def improve(carry, _):
    best, damping = carry
    return _improved(best, damping, functions, limit), None

  start = best, jnp.asarray(1e-3, state.dtype)
  (best, damping), _ = jax.lax.scan(improve, start, length=num_iterations)
  return best, _gains(best, damping, functions)


def _gains(best, damping, functions):
  around = expand(best.states, best.actions, **functions)
  return backward(around, damping=damping)


def _improved(best, damping, functions, limit):
  """Runs one iteration; returns the better trajectory and the next damping."""
  gains = _gains(best, damping, functions)

  def follow(step_size):
    options = functions | {"step_size": step_size, "limit": limit}
    return forward(gains, best.states, best.actions, **options)

  tried = jax.vmap(follow)(0.5 ** jnp.arange(11, dtype=best.states.dtype))
  # Exclude trajectories that diverged.
  totals = jnp.where(jnp.isfinite(tried.total), tried.total, -jnp.inf)
  index = jnp.argmax(totals)
  is_better = totals[index] > best.total
  best = jax.tree.map(
    lambda new, old: jnp.where(is_better, new[index], old), tried, best
  )
  shrunk = jnp.maximum(damping / 10, 1e-6)
  grown = jnp.minimum(damping * 10, 1e6)
  return best, jnp.where(is_better, shrunk, grown)


def _symmetric(x):
  return 0.5 * (x + x.T)


def _damping_needed(q_uu, least):
  """0 if all eigenvalues are below -least, else twice a bound of them."""
  eye = jnp.eye(len(q_uu), dtype=q_uu.dtype)
  pivots = jnp.diagonal(small_matrices.cholesky(-q_uu - least * eye))
  # Gershgorin's bound of the largest eigenvalue: the right end of the discs.
  diagonal = jnp.diagonal(q_uu)
  beside = jnp.abs(q_uu).sum(1) - jnp.abs(diagonal)
  highest = jnp.max(diagonal + beside)
  return jnp.where(jnp.all(pivots > 0), 0, highest + jnp.abs(highest) + least)
