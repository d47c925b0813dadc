"""Masses and moments of inertia of the bodies of arms and poles."""

import math

__all__ = ["capsule_inertia", "capsule_mass"]


def capsule_mass(length: float, radius: float, density: float) -> float:
  """Computes the mass of a capsule: a cylinder with half a ball at each end.

  m = ρ π r² (l + 4 r / 3).

  Args:
    length: length l of the cylinder.
    radius: radius r of cylinder and balls.
    density: density ρ.

  Returns:
    The mass.

  >>> round(capsule_mass(0.0, 1.0, 0.75), 5), round(capsule_mass(1.0, 3.0, 0.0))
  (3.14159, 0)
  """
  return density * math.pi * radius**2 * (length + 4 / 3 * radius)


def capsule_inertia(mass: float, length: float, radius: float) -> float:
  """Computes a capsule's moment of inertia about an axis across its middle.

  Args:
    mass: mass of the capsule.
    length: length l of the cylinder.
    radius: radius r of cylinder and balls.

  Returns:
    The moment of inertia.

  >>> capsule_inertia(12.0, 1.0, 0.0), round(capsule_inertia(5.0, 0.0, 1.0), 6)
  (1.0, 2.0)
  """
  cylinder = mass * length / (length + 4 / 3 * radius)
  balls = mass - cylinder
  # Half a ball's centre of mass lies 3 r / 8 beyond the end of the cylinder.
  return cylinder * (length**2 / 12 + radius**2 / 4) + balls * (
    0.4 * radius**2 + length**2 / 4 + 3 / 8 * length * radius
  )
