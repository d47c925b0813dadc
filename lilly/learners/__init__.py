"""Learners of one run as pure functions: init, act or predict, and update."""
