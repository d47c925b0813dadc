"""Replay buffers of experience, as pure functions of a state."""
