"""Writing an edit into the weights, as a new model."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from instructedit_jax.errors import UserError
from instructedit_jax.models import weights
from instructedit_jax.models.fingerprint import fingerprint
from instructedit_jax.models.language_model import LanguageModel


def merge(
  model: LanguageModel, updates: Mapping[str, jax.Array]
) -> LanguageModel:
  """A model whose editable matrices have `updates` added to them.

  The given model is not changed; all other parameters are shared with it.

  Args:
    model: the base.
    updates: name -> [n, m], e.g. "27.down"; in the editable blocks only.

  Returns:
    the new model, with a fingerprint of its own.

  Raises:
    UserError: an update of another shape or of a matrix the model lacks.
  """
  model.require_editable(updates)
  for name, update in updates.items():
    if update.shape != model.config.matrix_shape(name):
      raise UserError(
        f"{model.name}: the edit's update of {name} has shape {update.shape},"
        f" the matrix {model.config.matrix_shape(name)}"
      )
  kernels = {_kernel(name): update for name, update in updates.items()}

  def add(key_path: Any, leaf: jax.Array) -> jax.Array:
    paths = weights.leaf_paths(model.config, key_path)
    update = kernels.get(paths[0]) if len(paths) == 1 else None
    if update is None:
      return leaf
    # Added in the wider of the two types, rounded once.
    wide = jnp.promote_types(leaf.dtype, update.dtype)
    return (leaf.astype(wide) + update.astype(wide)).astype(leaf.dtype)

  params = jax.tree_util.tree_map_with_path(add, model.params)
  return dataclasses.replace(
    model,
    name=f"{model.name} (edited)",
    params=params,
    fingerprint=fingerprint(model.config, params),
  )


def _kernel(name: str) -> str:
  """Path of an editable matrix: "27.down" is "blocks.27.mlp.down.kernel"."""
  block, _, matrix = name.partition(".")
  return f"blocks.{block}.mlp.{matrix}.kernel"
