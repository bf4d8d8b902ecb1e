"""Strict numerics and four fake devices for every test."""

import os
from importlib import metadata

# All must precede the first jax import.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Programs of tests run once or twice on tiny arrays: most of the time goes into
# compiling them. Processes that tests start compile in the same way.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
if metadata.version("jaxlib").startswith("0.10."):
  # These emitters take more than half of it. Later versions may have no others,
  # and refuse to start when given a flag they do not know.
  _flag = "--xla_cpu_use_fusion_emitters=false"
  _flags = os.environ.get("XLA_FLAGS", "")
  if _flag not in _flags:
    os.environ["XLA_FLAGS"] = f"{_flags} {_flag}"

import pathlib

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 4)

SHARED = pathlib.Path(
  os.environ.get(
    "INSTRUCTEDIT_SHARED",
    pathlib.Path(__file__).resolve().parents[2] / "shared",
  )
)


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
  """The folder of public data and reference arrays; skips where absent."""
  if not SHARED.is_dir():
    pytest.skip(f"no {SHARED}: set INSTRUCTEDIT_SHARED to its place")
  return SHARED
