"""Environments as pure functions of a key, a state and an action."""
