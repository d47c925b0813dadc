"""Reacher: bring the tip of a planar arm onto a target.

An arm of n links in a horizontal plane, so that gravity has no effect. The
links' thickness and density, the motors' gain, the damping and the integration
are those of the DM Control suite: semi-implicit Euler, implicit in the damping.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lilly import checks
from lilly.control import small_matrices
from lilly.envs import (
  environment,
  episodes,
  rendering,
  rewards,
  rigid_bodies,
  wrappers,
)
from lilly.envs.environment import Environment

__all__ = [
  "State",
  "dynamics",
  "joints",
  "make",
  "mass_matrix",
  "measure_precision",
  "observe",
  "play_distances",
  "render",
  "reward",
]

_LENGTHS = (0.12, 0.12)
_RADIUS, _DENSITY = 0.01, 1000.0  # of the links
_TORQUE = 0.05  # at an action of 1
_TARGET_SIZE = 0.05

# Accelerators multiply matrices in lower precision by default.
_product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class State(NamedTuple):
  """State of the arm and its target."""

  angles: jax.Array  # [n] rad, relative to the previous link, not wrapped
  velocities: jax.Array  # [n] rad/s
  target: jax.Array  # [2] m


def joints(
  angles: jax.Array, *, lengths: Sequence[float] = _LENGTHS
) -> jax.Array:
  """Computes the positions of the links' ends.

  Args:
    angles: joint angles, [n].
    lengths: lengths of the n links.

  Returns:
    The ends of all links, the tip of the arm last, [n, 2].

  >>> joints(jnp.zeros(2), lengths=(3.0, 4.0)).tolist()
  [[3.0, 0.0], [7.0, 0.0]]
  """
  angles = checks.real("angles", angles, f"{len(lengths)}")
  directions = jnp.cumsum(angles)
  links = jnp.stack([jnp.cos(directions), jnp.sin(directions)], axis=1)
  return jnp.cumsum(jnp.asarray(lengths)[:, None] * links, axis=0)


def _links(lengths):
  """Computes the inertia coefficients of the links, with directions φ.

  Twice the kinetic energy is
  Σ_jk C_jk cos(φ_j - φ_k) φ'_j φ'_k + Σ_k I_k φ'_k².

  Returns:
    C [n, n] and I [n].
  """
  masses = [rigid_bodies.capsule_mass(l, _RADIUS, _DENSITY) for l in lengths]
  turns = [
    rigid_bodies.capsule_inertia(m, l, _RADIUS)
    for m, l in zip(masses, lengths, strict=True)
  ]
  # Row k: how far the middle of link k moves when link j turns.
  levers = np.tril(np.tile(lengths, (len(lengths), 1)))
  levers -= np.diag(lengths) / 2
  return levers.T @ np.diag(masses) @ levers, np.array(turns)


def mass_matrix(
  angles: jax.Array, *, lengths: Sequence[float] = _LENGTHS
) -> jax.Array:
  """Computes the joint-space mass matrix.

  The kinetic energy is q'ᵀ M(q) q' / 2.

  Args:
    angles: joint angles q, [n].
    lengths: lengths of the n links.

  Returns:
    M, [n, n], symmetric and positive definite.

  >>> M = mass_matrix(jnp.zeros(2))
  >>> bool((M == M.T).all()), bool(jnp.linalg.eigvalsh(M).min() > 0)
  (True, True)
  """
  angles = checks.real("angles", angles, f"{len(lengths)}")
  return _forces(angles, jnp.zeros_like(angles), lengths)[0]


def _forces(angles, velocities, lengths):
  """Computes the mass matrix and the centrifugal and Coriolis torques."""
  coupling, turns = _links(lengths)
  directions, speeds = jnp.cumsum(angles), jnp.cumsum(velocities)
  between = directions[:, None] - directions[None, :]
  mass = jnp.asarray(coupling) * jnp.cos(between) + jnp.diag(turns)
  swing = jnp.asarray(coupling) * jnp.sin(between)
  swing = _product(swing, jnp.square(speeds))
  # A joint turns its own link and all subsequent ones.
  follow = jnp.tril(jnp.ones_like(mass)).T
  return _product(_product(follow, mass), follow.T), _product(follow, swing)


def dynamics(
  state: State,
  torques: jax.Array,
  *,
  lengths: Sequence[float] = _LENGTHS,
  dt: float = 0.02,
  damping: float = 0.01,
) -> State:
  """Simulates one time step.

  (M + dt b 1) a = τ - h - b q',  q' <- q' + dt a,  q <- q + dt q',

  with the centrifugal and Coriolis torques h.

  Args:
    state: q, q' and the target.
    torques: joint torques τ, [n].
    lengths: lengths of the n links.
    dt: time step in seconds.
    damping: damping b of each joint.

  Returns:
    The next state; the target is unchanged.

  Raises:
    ValueError: dt is not positive, damping is negative, or one is not finite.

  Reference:
    Tassa et al., 2018 (arXiv 1801.00690), its `reacher.xml`; MuJoCo's "Euler"
    with damping implicit in the velocity.

  >>> still = State(jnp.zeros(2), jnp.zeros(2), jnp.zeros(2))
  >>> dynamics(still, jnp.zeros(2)).angles.tolist()
  [0.0, 0.0]
  """
  n = len(lengths)
  q = checks.real("state.angles", state.angles, f"{n}")
  v = checks.real("state.velocities", state.velocities, f"{n}")
  torques = checks.real("torques", torques, f"{n}")
  dt = checks.number("dt", dt, above=0)
  damping = checks.number("damping", damping, least=0)
  mass, swing = _forces(q, v, lengths)
  push = torques - swing - damping * v
  resistance = mass + dt * damping * jnp.eye(n)
  velocities = v + dt * small_matrices.solve(resistance, push)
  return State(q + dt * velocities, velocities, state.target)


def reward(
  state: State, action: jax.Array, *, lengths: Sequence[float] = _LENGTHS
) -> jax.Array:
  """Rewards a tip near the target and small actions.

  tolerance(|tip - target|) (4 + mean(1 - u²)) / 5; the tolerance is 1 where tip
  and target touch, and decays to 0.1 at one arm length from there.

  Args:
    state: state after the step.
    action: action u in [-1, 1], [n].
    lengths: lengths of the n links.

  Returns:
    The reward, [], from 0 to 1.

  Reference:
    Lillicrap et al., 2016 (arXiv 1509.02971), section 9.2, describes a smooth
    reward and a small cost of actions without numbers. The DM Control suite's
    reward is 1 where tip and target touch and 0 elsewhere.

  >>> on_target = State(jnp.zeros(2), jnp.zeros(2), jnp.array([0.2, 0.0]))
  >>> float(reward(on_target, jnp.zeros(2)))
  1.0
  """
  # A safe norm: its gradient is finite at zero distance.
  distance = optax.safe_norm(_to_target(state, lengths), 1e-6)
  near = rewards.tolerance(
    distance, upper=_TARGET_SIZE + _RADIUS, margin=sum(lengths)
  )
  return near * rewards.small_control(action)


def _to_target(state, lengths):
  return state.target - joints(state.angles, lengths=lengths)[-1]


def observe(state: State, *, lengths: Sequence[float] = _LENGTHS) -> jax.Array:
  """Observes cos q, sin q, the vector from tip to target, and q'.

  The DM Control suite observes q itself, which is unbounded.

  Args:
    state: q, q' and the target.
    lengths: lengths of the n links.

  Returns:
    The observation, [3 n + 2].

  >>> state = State(jnp.zeros(2), jnp.ones(2), jnp.array([0.24, 1.0]))
  >>> observe(state).tolist()
  [1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
  """
  angles, velocities, _ = state
  way = _to_target(state, lengths)
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles), way, velocities])


def make(
  *,
  lengths: Sequence[float] = _LENGTHS,
  target: Sequence[float] | None = None,
  start: Sequence[float] | None = None,
  num_steps: int | None = 1000,
  **constants: float,
) -> Environment:
  """Makes the task.

  Actions are in [-1, 1], scaled by 0.05 N m at each joint. Initial angles are
  uniform, initial velocities 0. Episodes do not terminate.

  Args:
    lengths: lengths of the links in m, starting at the shoulder.
    target: position of the target in m; None: drawn at a distance of 5/24 to
      20/24 of the arm's length.
    start: initial joint angles in rad; None: drawn uniformly.
    num_steps: time limit of an episode; None: no limit.
    **constants: keyword arguments of `dynamics`.

  Returns:
    The environment.

  Raises:
    ValueError: lengths, target, start, num_steps or a constant is invalid.

  Reference:
    Tassa et al., 2018 (arXiv 1801.00690), reacher; there the second link is
    shorter, carries a ball, and is limited to 160 degrees.

  >>> make(lengths=(0.1, 0.1, 0.1)).action_spec.shape
  (3,)
  """
  lengths = tuple(checks.number("lengths", length) for length in lengths)
  _check(lengths, target, start)
  n = len(lengths)
  move = functools.partial(dynamics, lengths=lengths, **constants)
  see = functools.partial(observe, lengths=lengths)
  # Refuses constants out of range now, not in the first step.
  form: Any = jax.ShapeDtypeStruct((n,), jnp.float32)
  jax.eval_shape(move, State(form, form, form), form)

  def reset(key):
    state = _start(key, lengths, target, start)
    return state, see(state)

  def cut(action):
    return jnp.clip(checks.real("action", action, f"{n}"), -1, 1)

  def reward_of(_, action, new):
    return reward(new, cut(action), lengths=lengths)

  def step(_, state, action):
    new = move(state, _TORQUE * cut(action))
    return new, environment.make_step(see(new), reward_of(state, action, new))

  high = [1.0] * 2 * n + [np.inf] * (2 + n)
  env = Environment(
    reset,
    step,
    environment.box(np.negative(high), high),
    environment.box([-1.0] * n, [1.0] * n),
    render=functools.partial(render, lengths=lengths),
    observe=see,
    reward=reward_of,
  )
  return wrappers.time_limit(env, num_steps)


def _check(lengths, target, start):
  if not lengths or min(lengths) <= 0:
    raise ValueError(
      f"lengths is {list(lengths)}; it must be one or more positive numbers."
    )
  for name, values in (("target", target), ("start", start)):
    for value in () if values is None else values:
      checks.number(name, value)
  if target is not None and len(target) != 2:
    raise ValueError(f"target is {list(target)}; it must be two numbers.")
  if start is not None and len(start) != len(lengths):
    raise ValueError(
      f"start is {list(start)}; it must be {len(lengths)} angles, one for each "
      "joint."
    )


def _start(key, lengths, target, start):
  """Makes a still arm, with random angles unless a start is given."""
  angle_key, target_key = jax.random.split(key)
  n = len(lengths)
  q = jax.random.uniform(angle_key, (n,), minval=-jnp.pi, maxval=jnp.pi)
  q = q if start is None else jnp.asarray(start, jnp.float32)
  return State(q, jnp.zeros(n), _place(target_key, target, sum(lengths)))


def _place(key, target, reach):
  """Returns the target of an episode, drawn at random if None."""
  if target is not None:
    return jnp.asarray(target, jnp.float32)
  low = jnp.array([5 / 24 * reach, -jnp.pi])
  high = jnp.array([20 / 24 * reach, jnp.pi])
  radius, angle = jax.random.uniform(key, (2,), minval=low, maxval=high)
  return radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)])


def play_distances(
  key: jax.Array,
  env: Environment,
  act: episodes.Policy,
  num_steps: int,
  num_starts: int,
) -> jax.Array:
  """Plays episodes and measures the distance between tip and target.

  Args:
    key: typed key; the same key gives the same starts.
    env: a reacher.
    act: maps a key and an observation to an action.
    num_steps: steps per episode, T.
    num_starts: number of episodes, N.

  Returns:
    The distances after each step, [N, T], in metres.

  >>> act = lambda key, observation: jnp.zeros(2)
  >>> play_distances(jax.random.key(0), make(), act, 4, num_starts=3).shape
  (3, 4)
  """
  (n,) = env.action_spec.shape
  to_target = slice(2 * n, 2 * n + 2)  # after the cosines and sines

  def play(key):
    *_, steps = episodes.rollout(key, env, act, num_steps)
    return jnp.linalg.norm(steps.observation[:, to_target], axis=1)

  return jax.vmap(play)(jax.random.split(key, num_starts))


def measure_precision(
  key: jax.Array,
  env: Environment,
  act: episodes.Policy,
  num_steps: int,
  num_starts: int,
) -> dict[str, jax.Array]:
  """Measures how accurately and steadily the tip is held at episode ends.

  Args:
    key: as in `play_distances`.
    env: as in `play_distances`.
    act: as in `play_distances`.
    num_steps: steps per episode, of which the last 20 are evaluated.
    num_starts: number of episodes.

  Returns:
    distance, the mean distance, and jitter, the mean over episodes of its
    standard deviation over steps, in metres, [] each.

  >>> act = lambda key, observation: jnp.zeros(2)
  >>> found = measure_precision(jax.random.key(0), make(), act, 4, 3)
  >>> float(found["jitter"])  # a still arm
  0.0
  """
  distances = play_distances(key, env, act, num_steps, num_starts)[:, -20:]
  return {
    "distance": jnp.mean(distances),
    "jitter": jnp.mean(jnp.std(distances, axis=1)),
  }


def render(
  state: State, size: int = 64, *, lengths: Sequence[float] = _LENGTHS
) -> jax.Array:
  """Renders target and arm.

  Args:
    state: q, q' and the target.
    size: height and width of the image, in pixels.
    lengths: lengths of the n links.

  Returns:
    [size, size, 3] uint8.

  >>> render(State(jnp.zeros(2), jnp.zeros(2), jnp.ones(2)), size=8).shape
  (8, 8, 3)
  """
  scene = rendering.canvas(size, 2.4 * sum(lengths))
  disc = rendering.circle(scene, state.target, _TARGET_SIZE)
  scene = rendering.paint(scene, disc, rendering.GREEN)
  start = jnp.zeros(2)
  for end in joints(state.angles, lengths=lengths):
    link = rendering.capsule(scene, start, end, _RADIUS)
    scene = rendering.paint(scene, link, rendering.ORANGE)
    knob = rendering.circle(scene, start, 1.5 * _RADIUS)
    scene = rendering.paint(scene, knob, rendering.BLACK)
    start = end
  tip = rendering.circle(scene, start, 1.5 * _RADIUS)
  return rendering.image(rendering.paint(scene, tip, rendering.BLUE))
