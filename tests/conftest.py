"""Settings of every test session: strict JAX, two virtual devices."""

import chex

from tests import haste

# Before JAX starts a backend: otherwise the multi-device tests find one device.
chex.set_n_cpu_devices(2)
haste.hurry()

import jax  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)
