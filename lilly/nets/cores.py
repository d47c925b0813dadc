"""Recurrent cores: networks with and without a memory, in one form.

`CORES` has them by name. All take (input_size, output_size, *, hidden_size).
"""

from collections.abc import Callable

from lilly.nets.recurrent import Core, gru, lstm, unroll

__all__ = ["CORES", "Core", "gru", "lstm", "unroll"]

# Name, as in --core -> function that makes the core.
CORES: dict[str, Callable[..., Core]] = {"lstm": lstm, "gru": gru}
