"""Memories: what is written and read, as pure functions of a state."""
