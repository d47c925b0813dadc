"""The DM Control suite of MuJoCo Playground, simulated by MJX."""

from typing import Any

from lilly.envs import brax_environments, wrappers
from lilly.envs.environment import Environment

__all__ = ["make"]


def make(
  name: str, *, num_steps: int | None = 1000, **overrides: Any
) -> Environment:
  """Makes an environment of MuJoCo Playground.

  Compilation takes about a minute. Resets are expensive: use
  `wrappers.auto_reset(env, num_starts=...)`.

  Args:
    name: Playground's name: "CartpoleSwingup", "ReacherEasy", ...
    num_steps: time limit of an episode; None: no limit.
    **overrides: overrides of Playground's configuration. `impl` defaults to
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
      "Playground's environments need MuJoCo Playground (pip install "
      f"playground): {error}"
    ) from error
  overrides = {"impl": "jax", **overrides}
  engine = dm_control_suite.load(name, config_overrides=overrides)
  return wrappers.time_limit(brax_environments.adapt(engine), num_steps)
