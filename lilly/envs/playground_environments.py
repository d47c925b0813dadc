"""The DM suite of MuJoCo Playground, by MuJoCo's simulator in JAX."""

from typing import Any

from lilly.envs import brax_environments, wrappers
from lilly.envs.environment import Environment

__all__ = ["make"]


def make(
  name: str, *, num_steps: int | None = 1000, **overrides: Any
) -> Environment:
  """Makes an environment of MuJoCo Playground.

  Compiles for about a minute. Resets are dear: use
  `wrappers.auto_reset(env, num_starts=...)`.

  Args:
    name: as Playground has it: "CartpoleSwingup", "ReacherEasy", ...
    num_steps: of an episode; None: only the world ends it.
    **overrides: of Playground's configuration of the environment. `impl` is
      "jax", which runs anywhere; Playground's own default is slow on a CPU.

  Returns:
    The environment; actions are in [-1, 1].

  Raises:
    ImportError: Playground is not installed.
    ValueError: Playground has no such environment, or num_steps is not
      positive.

  Reference:
    Zakka et al., 2025 (arXiv 2502.08844); Tassa et al., 2018 (arXiv
    1801.00690).
  """
  try:
    from mujoco_playground import dm_control_suite
  except ImportError as error:
    raise ImportError(
      "Playground's environments need MuJoCo Playground, pip install "
      f'"lilly[playground]": {error}'
    ) from error
  overrides = {"impl": "jax", **overrides}
  engine = dm_control_suite.load(name, config_overrides=overrides)
  return wrappers.time_limit(brax_environments.adapt(engine), num_steps)
