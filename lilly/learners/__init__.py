"""Learners: init, act or predict, and update of one run as pure functions."""
