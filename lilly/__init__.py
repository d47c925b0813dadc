"""Learning, memory and control as pure JAX functions."""

__version__ = "0.1.0"
