"""Edits in files: their factors, never the matrices."""

import os
import pathlib
import zipfile
from typing import Any

import jax.numpy as jnp
import numpy as np

from instructedit_jax.editing.edits import LowRankEdit
from instructedit_jax.errors import UserError
from instructedit_jax.files import atomic_write
from instructedit_jax.models.language_model import LanguageModel

_FINGERPRINT = "fingerprint"


def save_edit(
  path: str | os.PathLike[str], edit: LowRankEdit, model: LanguageModel
) -> None:
  """Writes an edit as a NumPy archive with its model's fingerprint.

  Args:
    path: the file, usually NAME.npz.
    edit: one edit or a batch of them.
    model: the model it was made for.
  """
  arrays: dict[str, Any] = {_FINGERPRINT: np.asarray(model.fingerprint)}
  for side, factors in (("u", edit.u), ("v", edit.v)):
    for name, value in factors.items():
      arrays[f"{side}/{name}"] = np.asarray(value, np.float32)
  with atomic_write(path) as temporary, temporary.open("wb") as stream:
    np.savez(stream, **arrays)


def load_edit(
  path: str | os.PathLike[str], model: LanguageModel
) -> LowRankEdit:
  """Reads what `save_edit` wrote.

  Raises:
    UserError: no such file, not an edit, or one of another model.
  """
  source = pathlib.Path(path)
  try:
    with np.load(source, allow_pickle=False) as archive:
      arrays = dict(archive)
    fingerprint = str(arrays.pop(_FINGERPRINT))
    sides: dict[str, dict] = {"u": {}, "v": {}}
    for key, value in arrays.items():
      side, _, name = key.partition("/")
      sides[side][name] = jnp.asarray(value)
  except FileNotFoundError:
    raise UserError(f"{source}: no such file") from None
  except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
    raise UserError(
      f"{source}: not an edit, or damaged; save it again"
    ) from None
  if fingerprint != model.fingerprint:
    raise UserError(
      f"{source}: this edit was made for another model than {model.name}"
      f" (fingerprint {fingerprint[:12]}…, not {model.fingerprint[:12]}…)"
    )
  return LowRankEdit(**sides)
