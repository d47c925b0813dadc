"""Simulators that tests hold the library's dynamics against."""

import numpy as np
import pytest

__all__ = ["mujoco_trajectory"]


def mujoco_trajectory(model, position, velocity, controls):
  """Simulates a model of MuJoCo.

  Args:
    model: XML.
    position: of the joints at first.
    velocity: of the joints at first.
    controls: of the motors, [T, m].

  Returns:
    Positions and velocities after each step, [T, n] each.
  """
  mujoco = pytest.importorskip("mujoco", reason="MuJoCo comes with brax.")
  compiled = mujoco.MjModel.from_xml_string(model)
  data = mujoco.MjData(compiled)
  data.qpos[:], data.qvel[:] = position, velocity
  found = []
  for control in controls:
    data.ctrl[:] = control
    mujoco.mj_step(compiled, data)
    found.append((data.qpos.copy(), data.qvel.copy()))
  return tuple(map(np.array, zip(*found, strict=True)))
