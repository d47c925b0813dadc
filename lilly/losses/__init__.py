"""Losses of one transition or one episode; `vmap` over a batch."""
