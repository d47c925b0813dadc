"""Images of both Kanerva Machines: stored, read, sampled and interpolated."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lilly.figures import curves, heatmaps
from lilly.figures import images as image_figures
from lilly.nets import dynamic_kanerva_model, kanerva_model
from lilly.tasks import image_episodes

__all__ = ["plot_machines", "plot_reads"]

_NUM_READS = 9


def plot_machines(
  models: Mapping[str, tuple[Any, Any, Any]],
  images: jax.Array,
  out_dir: pathlib.Path,
  *,
  is_binary: bool,
  noise_variance: float,
) -> None:
  """Plots an episode of images under each model: reads, samples, addresses.

  Writes NAME.png, a grid of images; NAME_addresses.png, if the model has
  addresses; and denoising.png, the error of damaged images over repeated reads.

  Args:
    models: name -> networks, memory and parameters of `kanerva_model`.
    images: an episode, [T, H, W, C].
    out_dir: directory for the PNGs.
    is_binary: whether pixels are 0 or 1, and flipping them is also plotted.
    noise_variance: variance of a code given the memory.
  """
  errors = {}
  for name, (nets, memory, params) in models.items():
    rows, weights, found = _read(
      nets, memory, params, images, is_binary, noise_variance
    )
    errors |= {f"{name}, {query}": row for query, row in found.items()}
    image_figures.plot_grid(rows, out_dir / f"{name}.png")
    if weights is not None:
      path = out_dir / f"{name}_addresses.png"
      heatmaps.plot_matrix(weights, path, ("memory row", "image"))
  if errors:
    curves.plot_lines(
      errors,
      out_dir / "denoising.png",
      ("read", "squared error per image"),
      x=np.arange(_NUM_READS + 1),
    )


def plot_reads(
  models: Mapping[str, tuple[Any, Any, Any]],
  images: jax.Array,
  queries: jax.Array,
  out_dir: pathlib.Path,
  *,
  num_reads: int,
) -> None:
  """Plots damaged images, read iteratively by Dynamic Kanerva Machines.

  Writes NAME.png, a grid of images after some reads, and falling.png, the
  Lyapunov value of each image over the reads.

  Args:
    models: name -> networks, memory and parameters of `dynamic_kanerva_model`.
    images: an episode, [T, H, W, C].
    queries: damaged images, with the shape of images.
    out_dir: directory for the PNGs.
    num_reads: number of reads, n.
  """
  shown = sorted({1, 2, 4, num_reads} & set(range(num_reads + 1)))
  values = {}
  for name, (nets, memory, params) in models.items():
    found, values[name] = jax.device_get(
      _iterate(nets, memory, params, images, queries, num_reads)
    )
    rows = {"stored": np.asarray(images), "query": np.asarray(queries)}
    rows |= {f"read {k}": found[:, k] for k in shown}
    image_figures.plot_grid(rows, out_dir / f"{name}.png")
  labels = "read", "value of an image (nats)"
  curves.plot_lines(values, out_dir / "falling.png", labels, from_zero=True)


def _iterate(nets, memory, params, images, queries, num_reads):
  """Returns the images after each read, [T, n + 1, ...], and values, [T, n]."""

  @jax.jit
  def read(images, queries):
    content = dynamic_kanerva_model.write(nets, memory, params, images)
    return jax.vmap(
      lambda query: dynamic_kanerva_model.recall(
        nets, memory, params, content, query, num_reads=num_reads
      )
    )(queries)

  return read(images, queries)


def _read(nets, memory, params, images, is_binary, noise_variance):
  """Returns rows of images, addresses or None, and errors [1, reads]."""
  keys = jax.random.split(jax.random.key(3), 4)

  @jax.jit
  def write(images):
    return kanerva_model.write(keys[0], nets, memory, params, images)

  state = write(images)
  model = nets, memory, params, state

  @jax.jit
  @jax.vmap
  def reread(image):
    return kanerva_model.reread(*model, image)

  @jax.jit
  @jax.vmap
  def generate(key):
    return kanerva_model.generate(key, *model, noise_variance=noise_variance)

  half = images.shape[1] // 2
  queries = {"occluded": image_episodes.occlude(keys[1], images, half)}
  if is_binary:
    queries["flipped"] = image_episodes.flip(keys[3], images, 0.15)
  errors = {}
  rows = {"stored": images, "read": reread(images)}
  for name, query in queries.items():
    reads = _repeat(reread, query)
    rows |= _rows(name, reads)
    squares = [jnp.sum(jnp.square(x - images)) / len(images) for x in reads]
    errors[name] = np.array(squares)[None]
  drawn = generate(jax.random.split(keys[2], len(images)))
  rows |= _rows("sampled", _repeat(reread, drawn))
  between, weights = _interpolate(model, images)
  rows["first to last"] = between
  return rows, weights, errors


def _repeat(reread, query):
  """Returns a query and its image after each read."""
  reads = [query]
  for _ in range(_NUM_READS):
    reads.append(reread(reads[-1]))
  return reads


def _rows(name, reads):
  read = {f"{name}, read {count}": reads[count] for count in (1, 3, 9)}
  return {name: reads[0]} | read


def _interpolate(model, images):
  """Returns images interpolated from first to last, and all addresses."""
  nets, memory, params, state = model
  own = params["nets"]

  @jax.jit
  @jax.vmap
  def address(image):
    return nets.address(own, nets.features(own, image))[0]

  y = address(images)

  @jax.jit
  @jax.vmap
  def imagine(part):
    at = y[0] + part * (y[-1] - y[0])
    return kanerva_model.imagine(nets, memory, params, state, at)

  between = imagine(jnp.linspace(0, 1, len(images)))
  if memory.address is None:
    return between, None

  @jax.jit
  @jax.vmap
  def weights(y):
    return memory.address(params["memory"], {}, nets.expand(own, y))

  return between, np.asarray(weights(y))
