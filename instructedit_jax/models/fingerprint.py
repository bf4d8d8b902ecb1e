"""A short name for the numbers in a model."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from instructedit_jax.errors import UserError
from instructedit_jax.models import weights
from instructedit_jax.models.config import DecoderConfig

_SAMPLES = 16


class Sample(NamedTuple):
  """What the digest looks at of one leaf.

  Attributes:
    shape: of the whole leaf.
    values: bfloat16 [16], or [blocks, 16] of stacked parameters; fewer where
      a parameter has fewer numbers.
  """

  shape: tuple[int, ...]
  values: np.ndarray


def fingerprint(
  config: DecoderConfig,
  params: nnx.State,
  absent: Mapping[str, Sample] | None = None,
) -> str:
  """A digest that tells one base model from another.

  It covers the config, every parameter's name and shape, and up to 16 numbers
  spread over each parameter, rounded to bfloat16. It does not depend on
  `suffix` (which only groups blocks) nor on the dtype the model is kept in. It
  is no proof against tampering: most numbers are not looked at.

  Args:
    config: the decoder's shape.
    params: its parameters.
    absent: by tree path, the samples of leaves that were not kept and are
      empty in `params`.

  Returns:
    64 hexadecimal digits (SHA-256).

  Raises:
    UserError: a leaf is empty and no sample of it is given.
  """
  samples = _samples(params)
  digest = hashlib.sha256()
  whole = dataclasses.replace(config, suffix=config.blocks)
  digest.update(repr(dataclasses.astuple(whole)).encode())
  entries = []
  for (key_path, leaf), values in zip(
    jax.tree_util.tree_flatten_with_path(params)[0],
    jax.tree_util.tree_leaves(samples),
    strict=True,
  ):
    whole_shape = leaf.shape
    if not leaf.size:
      name = weights.tree_path(key_path)
      if absent is None or name not in absent:
        raise UserError(
          f"{name}: the model was loaded without its prefix, so this cannot be"
          " done with it; load it with load_model(..., prefix=True)"
        )
      whole_shape, values = absent[name]
    paths = weights.leaf_paths(config, key_path)
    shape = whole_shape[1:] if weights.stacked(key_path) else whole_shape
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
  return _picked(leaf, weights.stacked(key_path)).astype(jnp.bfloat16)


def sample(path: str, leaf: Any) -> Sample:
  """The sample of one leaf by its tree path; numpy or jax array."""
  stacked = path.split(".")[0] == "prefix_blocks"
  picked = np.asarray(_picked(leaf, stacked))
  return Sample(tuple(leaf.shape), picked.astype(jnp.bfloat16))


def _picked(leaf: Any, stacked: bool) -> Any:
  shape = leaf.shape[1:] if stacked else leaf.shape
  size = int(np.prod(shape, dtype=np.int64))
  places = np.linspace(0, size - 1, min(size, _SAMPLES)).astype(np.int64)
  index = np.unravel_index(places, shape)
  return leaf[(slice(None), *index)] if stacked else leaf[index]
