"""Package metadata of lilly; tool settings live in pyproject.toml."""

import pathlib
import re

import setuptools

_ROOT = pathlib.Path(__file__).parent
_VERSION = re.search(
  r'__version__ = "(.+)"', (_ROOT / "lilly" / "__init__.py").read_text()
).group(1)

# What every module of the library needs, and nothing else.
_CORE = [
  "absl-py>=2.1",
  "chex>=0.1.90",
  "dm-haiku>=0.0.16",
  "jax>=0.10",
  "numpy>=2",
  "optax>=0.2.5",
  "rlax>=0.1.8",
]

# What the experiment scripts and lilly.training import, inside functions.
_EXPERIMENTS = [
  "brax>=0.14",
  "etils>=1.9",
  "importlib_resources",  # tfds needs it to prepare data, and omits it
  "matplotlib>=3.9",
  "Pillow>=11",
  "scikit-learn>=1.5",
  "tensorflow-datasets>=4.9.9",
]

setuptools.setup(
  # On the package index `lilly` is another project.
  name="lilly-jax",
  version=_VERSION,
  description="Learning, memory and control as pure JAX functions.",
  long_description=(_ROOT / "README.md").read_text(encoding="utf-8"),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  author="The lilly authors",
  python_requires=">=3.11,<3.14",
  packages=setuptools.find_packages(include=["lilly", "lilly.*"]),
  package_data={"lilly": ["py.typed"]},
  install_requires=_CORE,
  extras_require={
    "experiments": _EXPERIMENTS,
    "atari": ["ale-py>=0.11", "gymnasium>=1.0"],
    "playground": ["playground>=0.2"],
    "cuda": ["jax[cuda13]>=0.10"],
    "test": [
      *_EXPERIMENTS,
      "hypothesis>=6.100",
      "pyright[nodejs]>=1.1.400",
      "pytest>=8",
      "pytest-xdist>=3.6",
      "ruff>=0.12",
      "setuptools>=77",
      "wheel",
    ],
    "docs": ["myst-parser", "sphinx>=8", "furo"],
  },
  classifiers=[
    "Development Status :: 3 - Alpha",
    "Intended Audience :: Science/Research",
    "Programming Language :: Python :: 3.11",
    "Programming Language :: Python :: 3.12",
    "Programming Language :: Python :: 3.13",
    "Topic :: Scientific/Engineering :: Artificial Intelligence",
  ],
)
