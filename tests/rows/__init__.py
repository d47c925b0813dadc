"""Rows of the conformance suite, by subject."""
