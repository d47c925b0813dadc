"""Experiment scripts, one for each paper."""
