"""Learning rules: backward passes, gradient transformations, updates."""
