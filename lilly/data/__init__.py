"""Data sets as numpy arrays."""
