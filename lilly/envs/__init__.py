"""Environments: experience as pure functions of a key, a state, an action."""
