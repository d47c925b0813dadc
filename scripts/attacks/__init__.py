"""Faults that `scripts/faults` tries, by kind.

Each module has a function `cases(plan)`, which tries one kind and yields a
`Case` for each attempt.
"""
