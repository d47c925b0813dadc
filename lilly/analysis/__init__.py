"""Measurements of networks and learning signals."""
