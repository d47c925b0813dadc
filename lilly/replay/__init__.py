"""Replay: memories of experience, as pure functions of a state."""
