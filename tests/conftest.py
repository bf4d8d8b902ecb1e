"""Strict numerics and four fake devices for every test."""

import os

# Both must precede the first jax import.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

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
