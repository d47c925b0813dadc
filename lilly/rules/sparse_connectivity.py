"""Sparse connectivity: weights that are removed, and stay removed."""

import math

import chex
import jax
import jax.numpy as jnp
import optax
from jax.tree_util import keystr, tree_map_with_path

from lilly import checks

__all__ = ["apply_masks", "mask"]


def mask(
  key: jax.Array,
  shape: tuple[int, ...],
  *,
  density: float = 0.5,
  dtype: jax.typing.DTypeLike = jnp.float32,
) -> jax.Array:
  """Samples a mask that keeps a given fraction of the entries.

  Every set of round(density * size) entries is equally likely. For independent
  masks of weights and feedback use different keys.

  Args:
    key: typed PRNG key.
    shape: shape of the array to mask.
    density: fraction of the entries to keep, in (0, 1].
    dtype: data type of the mask.

  Returns:
    Ones at the kept entries, zeros elsewhere.

  Raises:
    ValueError: if density is not in (0, 1], or a size is negative.

  Reference:
    Lillicrap et al. (2014), arXiv:1411.0247: half of W and of B removed. The
    paper does not say how; an exact count, not independent draws, is ours.

  >>> mask(jax.random.key(0), (4, 5), density=0.25).sum().item()
  5.0
  """
  key = checks.key("key", key)
  shape = tuple(checks.whole_number("shape", size) for size in shape)
  density = float(checks.number("density", density, above=0, most=1))
  size = math.prod(shape)
  kept = jnp.arange(size) < round(density * size)
  return jax.random.permutation(key, kept).reshape(shape).astype(dtype)


def apply_masks(
  masks: chex.ArrayTree,
) -> optax.GradientTransformationExtraArgs:
  """Creates a transformation that keeps masked parameters at exactly zero.

  Place it last in a chain. Where the mask is 0 the update is -p, so that
  `optax.apply_updates` gives exactly 0 whatever came before (momentum, decay, a
  non-zero initial value); elsewhere the update is unchanged. It is stateless,
  so it can be created anew for every update, from masks that are part of a
  training state and batched by `vmap`.

  Args:
    masks: a tree like the parameters, of arrays of 0 and 1 in the parameters'
      shapes, or None for a parameter or a branch without a mask.

  Returns:
    A gradient transformation. Its update needs `params`.

  Raises:
    ValueError: by the update, if `params` is not given, or if an array has
      another shape than its mask.

  Reference:
    Lillicrap et al. (2014), arXiv:1411.0247, sparse connectivity: the mask is
    reapplied after every update.

  >>> optimiser = apply_masks(jnp.array([1.0, 0.0]))
  >>> params = jnp.array([2.0, 2.0])
  >>> optimiser.update(jnp.ones(2), optimiser.init(params), params)[0].tolist()
  [1.0, -2.0]
  """

  def update(updates, state, params=None, **extra_args):
    del extra_args
    if params is None:
      raise ValueError("params is None; apply_masks needs the parameters.")

    def apply(path, mask, updates, params):
      if mask is None:
        return updates
      mask = checks.array(f"masks{keystr(path)}", mask, "...")
      updates = _like_mask(f"updates{keystr(path)}", updates, mask)
      params = _like_mask(f"params{keystr(path)}", params, mask)
      # Not mask * (p + u) - p: that would round the kept entries' update.
      return jnp.where(mask != 0, updates, -params).astype(updates.dtype)

    updates = tree_map_with_path(
      apply, masks, updates, params, is_leaf=lambda mask: mask is None
    )
    return updates, state

  return optax.GradientTransformationExtraArgs(
    lambda params: optax.EmptyState(), update
  )


def _like_mask(name, x, mask):
  x = checks.real(name, x, "...")
  if x.shape != mask.shape:
    raise ValueError(
      f"{name} has shape {list(x.shape)}; it must be {list(mask.shape)}, as in "
      "masks (unbatched: vmap over further axes)."
    )
  return x
