"""Benchmarks of speed and size, one module per system.

`scripts/bench [--json PATH] [NAME...]` runs each module that defines

  def measure() -> dict

in a separate process, one after another, and prints one JSON object:

  {"machine": {"cpus", "platform", "python", "jax", "device"},
   "figures": {NAME: what measure() returned}}

A module whose `measure` raises has `{"error": sentence}` for its figures, the
others still run, and the exit code is 1. What `measure` returns must be
JSON-able: dicts, lists, strings, finite numbers (numpy's and jax's scalars
too). A figure's name ends in its unit: `updates_per_s`, `step_ms`,
`peak_bytes`; a ratio names both terms: `direct_to_backprop`. The output of a
module goes to standard error. `timing.compare` measures candidates against one
another in a way that survives a noisy machine: state ratios rather than
seconds.
"""
