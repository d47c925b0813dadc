"""Energy networks over patterns, with a writable part.

For use with `lilly.memory.energy`: a few layers, named memory, are written to;
the others are static, and learnt. All functions are smooth, as gradients of
gradients are taken, and there is no batch normalisation, which would mix the
patterns of a set. A gated recurrent layer makes both the energy and its
gradient, which performs the reads, deep.

| network | patterns | writable weights |
| --- | --- | --- |
| `gated` | [D] | (D + 1) dynamic_size |
| `residual` | [H, W, C] | (code_size + 1) dynamic_size |
| `convolutional` | [H, W, C] | 2 (9 bottleneck + 1) dynamic_size |
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from lilly import checks
from lilly.nets import convolutions

__all__ = [
  "NETWORKS",
  "EnergyNetwork",
  "convolutional",
  "count_written",
  "gated",
  "make",
  "residual",
  "split",
]

NETWORKS = ("gated", "residual", "convolutional")


class EnergyNetwork(NamedTuple):
  """Functions of one pattern."""

  # init(key, x) -> all parameters; see `split`
  init: Callable[[jax.Array, jax.Array], Any]
  # energy(static, written, x) -> E, []; bind static for `memory.energy`
  energy: Callable[[Any, Any, jax.Array], jax.Array]


def split(params: Any) -> tuple[Any, Any]:
  """Splits parameters into written and static ones.

  Args:
    params: parameters of a network, by layer.

  Returns:
    The written parameters, θ̄ of `memory.energy`, and the static ones.

  Reference:
    Bartunov et al. (2020), arXiv:1910.02720, appendix B: layers named memory.

  >>> written, static = split({"memory": {"w": 1}, "gate": {"w": 2}})
  >>> written, static
  ({'memory': {'w': 1}}, {'gate': {'w': 2}})
  """
  is_memory = lambda layer, *_: layer.split("/")[-1].startswith("memory")
  return hk.data_structures.partition(is_memory, params)


def count_written(network: EnergyNetwork, shape: Sequence[int]) -> int:
  """Counts the writable weights, the size of a memory.

  Args:
    network: an energy network.
    shape: shape of a pattern.

  Returns:
    The number of writable weights.

  Reference:
    Bartunov et al. (2020), arXiv:1910.02720, section 4: the unit of size.

  >>> count_written(gated(hidden_size=8, dynamic_size=3, num_hops=1), (4,))
  15
  """
  init = lambda: network.init(jax.random.key(0), jnp.zeros(shape))
  written, _ = split(jax.eval_shape(init))
  return sum(leaf.size for leaf in jax.tree.leaves(written))


def _network(build):
  made = hk.without_apply_rng(hk.transform(build))

  def energy(static, written, x):
    return made.apply(hk.data_structures.merge(static, written), x)

  return EnergyNetwork(made.init, energy)


def _check(**sizes):
  for name, size in sizes.items():
    if size < 1:
      raise ValueError(f"{name} is {size}; it must be a positive integer.")


def _check_channels(channels):
  _check(**{f"channels[{l}]": size for l, size in enumerate(channels)})


def _check_dynamic(dynamic_size, name, size):
  if not 1 <= dynamic_size < size:
    raise ValueError(
      f"dynamic_size is {dynamic_size}; it must be from 1 to {size - 1}, less "
      f"than {name}."
    )


def _linear(size, name):
  """A linear layer, initialised as in He et al. (2015)."""
  init = hk.initializers.VarianceScaling(2.0, "fan_in", "truncated_normal")
  return hk.Linear(size, w_init=init, name=name)


def _convolve(x, size, name, *, window=3, stride=1):
  """A zero-padded convolution."""
  return _linear(size, name)(convolutions.patches(x, window, stride))


def gated(
  *, hidden_size: int = 1024, dynamic_size: int = 63, num_hops: int = 5
) -> EnergyNetwork:
  """Makes the gated recurrent energy of binary patterns.

  s = 0; then, num_hops times, z = [x; s], c = tanh([memory(x); static(z)]), u =
  σ(gate(z)), s = u c + (1 - u) s; E is linear in the last s.

  Args:
    hidden_size: size of s.
    dynamic_size: outputs of the memory layer; the other entries of c are
      static.
    num_hops: number of updates of s.

  Returns:
    The network; the memory layer has (D + 1) dynamic_size weights.

  Raises:
    ValueError: if a size is not positive, or no entry of c is static.

  Reference:
    Bartunov et al. (2020), arXiv:1910.02720, appendix B.

  >>> network = gated(hidden_size=8, dynamic_size=3, num_hops=2)
  >>> params = network.init(jax.random.key(0), jnp.zeros(4))
  >>> split(params)[0]["memory"]["w"].shape
  (4, 3)
  """
  _check(num_hops=num_hops)
  _check_dynamic(dynamic_size, "hidden_size", hidden_size)

  def build(x):
    x = checks.real("x", x, "D")
    remembered = _linear(dynamic_size, "memory")(x)
    static = _linear(hidden_size - dynamic_size, "static")
    gate = _linear(hidden_size, "gate")

    s = jnp.zeros(hidden_size, x.dtype)
    for _ in range(num_hops):  # on CPU a scan takes twice as long
      z = jnp.concatenate([x, s])
      c = jnp.tanh(jnp.concatenate([remembered, static(z)]))
      u = jax.nn.sigmoid(gate(z))
      s = u * c + (1 - u) * s
    return _linear(1, "energy")(s)[0]

  return _network(build)


def _residual_blocks(x, channels):
  """Residual blocks, each of which halves rows and columns."""
  for l, size in enumerate(channels):
    h = jnp.tanh(_convolve(x, size, f"block_{l}_0", stride=2))
    h = jnp.tanh(_convolve(h, size, f"block_{l}_1"))
    x = h + _convolve(x, size, f"shortcut_{l}", window=1, stride=2)
  return x


def _norm(x, name):
  """Layer normalisation over a whole pattern.

  Normalised over channels alone, blank places of an image would be scaled by
  1 / sqrt(1e-5), and gradients by as much again for each derivative.
  """
  axes = tuple(range(x.ndim))
  return hk.LayerNorm(axes, True, True, param_axis=-1, name=name)


def _written_block(h, width, dynamic_size, l, stride):
  """A convolution with a writable part."""
  remembered = _convolve(h, dynamic_size, f"memory_{l}", stride=stride)
  static = _convolve(h, width - dynamic_size, f"static_{l}", stride=stride)
  both = jnp.concatenate([remembered, static], axis=-1)
  return jnp.tanh(_norm(both, f"bottleneck_norm_{l}")(both))


def _hops(x, size, num_hops, neighbours=lambda z: z):
  """s = 0; c = tanh(LayerNorm(candidate([x; s]))), s = u s + (1 - u) c."""
  candidate, gate = (_linear(size, name) for name in ("candidate", "gate"))
  norm = _norm(x, "candidate_norm")
  s = jnp.zeros((*x.shape[:-1], size), x.dtype)
  for _ in range(num_hops):
    z = neighbours(jnp.concatenate([x, s], axis=-1))
    c = jnp.tanh(norm(candidate(z)))
    u = jax.nn.sigmoid(gate(z))
    s = u * s + (1 - u) * c
  return s


def _energy(s, size):
  h = jnp.tanh(_linear(size, "last")(s.ravel()))
  return _linear(1, "energy")(h)[0]


def residual(
  *,
  channels: Sequence[int] = (32, 64, 96),
  code_size: int = 256,
  hidden_size: int = 512,
  dynamic_size: int = 32,
  num_hops: int = 3,
  last_size: int = 1024,
) -> EnergyNetwork:
  """Makes the energy of images whose memory is a fully connected layer.

  Residual blocks, a linear layer with layer normalisation, then
  tanh([memory(x); static(x)]) and gated hops; a hidden layer and a linear one.

  Args:
    channels: channels of the residual blocks, each of which halves rows and
      columns; empty: flattened pixels.
    code_size: inputs of the memory layer.
    hidden_size: size of s, and of the hops' input.
    dynamic_size: outputs of the memory layer.
    num_hops: number of updates of s.
    last_size: units of the hidden layer before the energy.

  Returns:
    The network; the memory layer has (code_size + 1) dynamic_size weights.

  Raises:
    ValueError: as `gated`.

  Reference:
    Bartunov et al. (2020), arXiv:1910.02720, appendix B: s = u s + (1 - u) c
    here, unlike in `gated`. The layers of a residual block are not confirmed.

  >>> network = residual(channels=(), code_size=6, dynamic_size=2)
  >>> given = jax.random.key(0), jnp.zeros((4, 4, 1))
  >>> params = jax.eval_shape(network.init, *given)
  >>> split(params)[0]["memory"]["w"].shape
  (6, 2)
  """
  _check(num_hops=num_hops, code_size=code_size, last_size=last_size)
  _check_channels(channels)
  _check_dynamic(dynamic_size, "hidden_size", hidden_size)

  def build(image):
    image = checks.real("image", image, "H W C")
    x = _residual_blocks(image, channels).ravel()
    x = _linear(code_size, "code")(x)
    x = _norm(x, "code_norm")(x)
    remembered = _linear(dynamic_size, "memory")(x)
    static = _linear(hidden_size - dynamic_size, "static")(x)
    x = jnp.tanh(jnp.concatenate([remembered, static]))
    return _energy(_hops(x, hidden_size, num_hops), last_size)

  return _network(build)


def convolutional(
  *,
  channels: Sequence[int] = (32, 64),
  width: int = 128,
  bottleneck: int = 64,
  dynamic_size: int = 4,
  num_hops: int = 3,
  last_size: int = 1024,
) -> EnergyNetwork:
  """Makes the energy of images whose memory is in convolutions.

  Residual blocks, then two bottlenecks, the second of which halves the image:
  1 x 1, and 3 x 3 with a writable part, tanh(LayerNorm([memory(h);
  static(h)])), plus a linear skip connection. Gated hops with kernels of 3 x 3;
  a hidden layer and a linear one.

  Args:
    channels: channels of the residual blocks, each of which halves rows and
      columns.
    width: channels of the bottlenecks' outputs and of s.
    bottleneck: input channels of the memory layers.
    dynamic_size: channels of each of the two memory layers.
    num_hops: number of updates of s.
    last_size: units of the hidden layer before the energy.

  Returns:
    The network; the memory layers have 2 (9 bottleneck + 1) dynamic_size
    weights.

  Raises:
    ValueError: as `gated`.

  Reference:
    Bartunov et al. (2020), arXiv:1910.02720, appendix B. The layers of a block,
    and the axes of normalisation (here the whole image), are not confirmed.

  >>> network = convolutional(channels=(2,), bottleneck=3, dynamic_size=2)
  >>> given = jax.random.key(0), jnp.zeros((4, 4, 1))
  >>> params = jax.eval_shape(network.init, *given)
  >>> [layer["w"].shape for layer in split(params)[0].values()]
  [(27, 2), (27, 2)]
  """
  _check(num_hops=num_hops, bottleneck=bottleneck, last_size=last_size)
  _check_channels(channels)
  _check_dynamic(dynamic_size, "width", width)

  def build(image):
    image = checks.real("image", image, "H W C")
    x = _residual_blocks(image, channels)
    for l, stride in enumerate((1, 2)):
      h = jnp.tanh(_convolve(x, bottleneck, f"narrow_{l}", window=1))
      h = _written_block(h, width, dynamic_size, l, stride)
      x = h + _convolve(x, width, f"around_{l}", window=1, stride=stride)
    s = _hops(x, width, num_hops, lambda z: convolutions.patches(z, 3))
    return _energy(s, last_size)

  return _network(build)


def make(
  kind: str,
  *,
  hidden_size: int,
  dynamic_size: int,
  num_hops: int,
  num_filters: int = 0,
) -> EnergyNetwork:
  """Makes a network of any size with the paper's proportions.

  Args:
    kind: one of `NETWORKS`; gated flattens images.
    hidden_size: size of s if it is a vector; the last hidden layer has twice as
      many units and a code half as many, as in the paper.
    dynamic_size: as in the networks.
    num_hops: as in the networks.
    num_filters: channels of the first residual block; the others have
      multiples.

  Returns:
    The network.

  Raises:
    ValueError: as the networks, or if there is no such kind.

  Reference:
    Bartunov et al. (2020), arXiv:1910.02720, appendix B: 32 filters.
  """
  sizes = {"dynamic_size": dynamic_size, "num_hops": num_hops}
  f, last_size = num_filters, 2 * hidden_size
  if kind == "gated":
    init, energy = gated(hidden_size=hidden_size, **sizes)
    return EnergyNetwork(
      lambda key, x: init(key, x.ravel()),
      lambda static, written, x: energy(static, written, x.ravel()),
    )
  if kind == "residual":
    sizes |= {"code_size": hidden_size // 2, "hidden_size": hidden_size}
    channels = (f, 2 * f, 3 * f) if f else ()
    return residual(channels=channels, last_size=last_size, **sizes)
  if kind == "convolutional":
    _check(num_filters=f)
    sizes |= {"width": 4 * f, "bottleneck": 2 * f, "last_size": last_size}
    return convolutional(channels=(f, 2 * f), **sizes)
  raise ValueError(f"kind is {kind!r}; it must be one of {NETWORKS}.")
