"""Haiku modules and recurrent cores that wrap the pure functions."""
