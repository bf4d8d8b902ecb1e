"""A short name for the numbers in a model."""

import dataclasses
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from instructedit_jax.models import weights
from instructedit_jax.models.config import DecoderConfig

_SAMPLES = 16


def fingerprint(config: DecoderConfig, params: nnx.State) -> str:
  """A digest that tells one base model from another.

  It covers the config, every parameter's name and shape, and up to 16 numbers
  spread over each parameter, rounded to bfloat16. It does not depend on
  `suffix` (which only groups blocks) nor on the dtype the model is kept in. It
  is no proof against tampering: most numbers are not looked at.

  Returns:
    64 hexadecimal digits (SHA-256).
  """
  samples = _samples(params)
  digest = hashlib.sha256()
  whole = dataclasses.replace(config, suffix=config.blocks)
  digest.update(repr(dataclasses.astuple(whole)).encode())
  parts = []
  for key_path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
    stacked = weights.stacked(key_path)
    parts.append(
      (
        weights.leaf_paths(config, key_path),
        leaf.shape[1:] if stacked else leaf.shape,
      )
    )
  entries = []
  for (paths, shape), values in zip(
    parts, jax.tree_util.tree_leaves(samples), strict=True
  ):
    rows = np.asarray(values).reshape(len(paths), -1)
    for path, row in zip(paths, rows, strict=True):
      entries.append((path, f"{path} {tuple(shape)} ".encode(), row.tobytes()))
  for _, label, numbers in sorted(entries):
    digest.update(label)
    digest.update(numbers)
  return digest.hexdigest()


@jax.jit
def _samples(params: nnx.State) -> nnx.State:
  return jax.tree_util.tree_map_with_path(_sample, params)


def _sample(key_path: Any, leaf: jax.Array) -> jax.Array:
  """Numbers at fixed places of a parameter (of each one in a stack)."""
  stacked = weights.stacked(key_path)
  shape = leaf.shape[1:] if stacked else leaf.shape
  size = int(np.prod(shape, dtype=np.int64))
  places = np.linspace(0, size - 1, min(size, _SAMPLES)).astype(np.int64)
  index = np.unravel_index(places, shape)
  value = leaf[(slice(None), *index)] if stacked else leaf[index]
  return value.astype(jnp.bfloat16)
