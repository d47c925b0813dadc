"""Tasks: experience as pure functions of a key."""
