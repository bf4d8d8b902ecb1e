"""Strict numerics and four fake devices for every test."""

import atexit
import os
import shutil
import tempfile
from importlib import metadata

# All must precede the first jax import.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Programs of tests run once or twice on tiny arrays: most of the time goes into
# compiling them. Processes that tests start compile in the same way.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
# Nobody reads where in our files an operation of theirs is from.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
# Whoever needs a program first, a worker or a process that a test starts,
# compiles it for all of this run; nothing is left of it for the next.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  _compiled = tempfile.mkdtemp(prefix="instructedit-xla-")
  atexit.register(shutil.rmtree, _compiled, ignore_errors=True)
  os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
if metadata.version("jaxlib").startswith("0.10."):
  # These emitters take more than half of it, dividing small programs for many
  # threads a sixth. Later versions may have no other emitters, and refuse to
  # start when given a flag they do not know.
  _flags = os.environ.get("XLA_FLAGS", "")
  for _flag in (
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
  ):
    if _flag not in _flags:
      _flags = f"{_flags} {_flag}"
  os.environ["XLA_FLAGS"] = _flags

import gc
import pathlib

import jax
import pytest

# Traced programs are many small objects that stay: looking through them for
# garbage after every 700 new ones, as by default, takes a sixth of the time.
gc.set_threshold(20_000, 10, 10)

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
