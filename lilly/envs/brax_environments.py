"""Brax's environments, and those of simulators with the same interface.

Brax's own wrappers are not used: they limit and reset episodes differently, and
hide the true last observation. Resets are expensive here: use
`wrappers.auto_reset(env, num_starts=...)`.
"""

import contextlib
from typing import Any

import jax
import numpy as np
from jax.tree_util import keystr

from lilly import checks
from lilly.envs import environment, wrappers
from lilly.envs.environment import Environment

__all__ = ["adapt", "make"]


def make(
  name: str,
  *,
  backend: str = "spring",
  num_steps: int | None = 1000,
  **options: Any,
) -> Environment:
  """Makes an environment of brax.

  Compiling its step takes from seconds to more than a minute. "generalized" is
  far too slow for large bodies on a CPU.

  Args:
    name: brax's name: "inverted_pendulum", "halfcheetah", ...
    backend: "spring", "positional", "generalized" or "mjx".
    num_steps: time limit of an episode; None: no limit.
    **options: further arguments of the environment's class.

  Returns:
    The environment; actions are in [-1, 1].

  Raises:
    ImportError: brax is not installed.
    ValueError: brax has no such environment or backend, or num_steps is not
      positive.

  Reference:
    Freeman et al., 2021 (arXiv 2106.13281).
  """
  try:
    # On import it prints which optional simulators are missing.
    with contextlib.redirect_stdout(None):
      from brax import envs
  except ImportError as error:
    raise ImportError(
      f"Brax's environments need brax (pip install brax): {error}"
    ) from error
  try:
    engine = envs.get_environment(name, backend=backend, **options)
  except KeyError as error:
    raise ValueError(
      f"name is {name!r}; brax has no such environment."
    ) from error
  return wrappers.time_limit(adapt(engine), num_steps)


def adapt(engine: Any) -> Environment:
  """Adapts an unwrapped environment with brax's interface.

  Args:
    engine: object with `action_size`, `reset(key)` and `step(state, action)`;
      both methods return a state with `obs`, `reward` and `done`.

  Returns:
    The environment; its states are the engine's, `done` is a termination, and
    actions are in [-1, 1].

  Raises:
    ValueError: there are no actions, or an observation is not one vector.
  """

  def start(key):
    # A raw key: some engines use a key twice, which typed keys forbid.
    return engine.reset(jax.random.key_data(key))

  first = jax.eval_shape(start, jax.random.key(0)).obs
  if not hasattr(first, "shape") or len(first.shape) != 1:
    raise ValueError(f"engine observes {first}; it must be one vector.")
  ones, unbounded = [1.0] * engine.action_size, [np.inf] * len(first)

  def reset(key):
    state = start(key)
    return state, state.obs

  def step(key, state, action):
    del key
    action = checks.real("action", action, f"{engine.action_size}")
    new = engine.step(state, action)
    made = environment.make_step(new.obs, new.reward, new.done)
    # Some rewards are Python numbers, which would change the state's types.
    new = jax.tree_util.tree_map_with_path(
      lambda path, x, old: checks.storable(
        f"state{keystr(path)}", x, old.dtype
      ),
      new,
      state,
    )
    return new, made

  return Environment(
    reset,
    step,
    observation_spec=environment.box(np.negative(unbounded), unbounded),
    action_spec=environment.box(np.negative(ones), ones),
  )
