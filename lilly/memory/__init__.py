"""Memory modules: pure functions that write to and read from a state."""
