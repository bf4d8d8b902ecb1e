"""Edits of every kind in files; low-rank ones as `editing.storage` has them."""

import os
import pathlib
import zipfile
from typing import Any

import jax.numpy as jnp
import numpy as np

from instructedit_jax.editing import storage
from instructedit_jax.editing.codebook import CodebookEdit
from instructedit_jax.editing.dense import DenseEdit
from instructedit_jax.editing.edits import Edit, LowRankEdit
from instructedit_jax.editing.side import SideEdit
from instructedit_jax.errors import UserError
from instructedit_jax.files import atomic_write
from instructedit_jax.models.language_model import LanguageModel
from instructedit_jax.models.layers import ACTIVATIONS

_FINGERPRINT, _KIND = "fingerprint", "kind"
_DENSE, _CODEBOOK, _SIDE = "dense", "codebook", "side"
_ENTRIES, _SLOTS = ("keys", "values", "radii"), ("keys", "values")


def save_edit(
  path: str | os.PathLike[str], edit: Edit, model: LanguageModel
) -> None:
  """Writes an edit as a NumPy archive with its model's fingerprint.

  Args:
    path: the file, usually NAME.npz.
    edit: one edit or a batch of them, of any kind.
    model: the model it was made for.

  Raises:
    UserError: no kind of edit that can be stored.
  """
  if isinstance(edit, LowRankEdit):
    storage.save_edit(path, edit, model)
    return
  if isinstance(edit, DenseEdit):
    kind = _DENSE
    arrays = {f"update/{name}": value for name, value in edit.update.items()}
  elif isinstance(edit, CodebookEdit):
    kind = _CODEBOOK
    arrays = {f"{part}/{edit.name}": getattr(edit, part) for part in _ENTRIES}
  elif isinstance(edit, SideEdit):
    kind = _SIDE
    place = f"{edit.block}.{edit.activation}"
    arrays = {f"{part}/{place}": getattr(edit, part) for part in _SLOTS}
  else:
    raise UserError(f"{path}: a {type(edit).__name__} cannot be saved")
  content: dict[str, Any] = {
    name: np.asarray(value, np.float32) for name, value in arrays.items()
  }
  content[_FINGERPRINT] = np.asarray(model.fingerprint)
  content[_KIND] = np.asarray(kind)
  with atomic_write(path) as temporary, temporary.open("wb") as stream:
    np.savez(stream, **content)


def load_edit(path: str | os.PathLike[str], model: LanguageModel) -> Edit:
  """Reads what `save_edit` wrote.

  Raises:
    UserError: no such file, not an edit, or one of another model.
  """
  source = pathlib.Path(path)
  try:
    with np.load(source, allow_pickle=False) as archive:
      arrays = dict(archive) if _KIND in archive else None
  except (OSError, ValueError, TypeError, zipfile.BadZipFile):
    arrays = None  # absent or damaged: the other reader says so
  if arrays is None:
    return storage.load_edit(source, model)
  kind = str(arrays.pop(_KIND))
  fingerprint = str(arrays.pop(_FINGERPRINT, ""))
  if fingerprint != model.fingerprint:
    raise UserError(
      f"{source}: this edit was made for another model than {model.name}"
      f" (fingerprint {fingerprint[:12]}…, not {model.fingerprint[:12]}…)"
    )
  parts: dict[str, dict] = {}
  for key, value in arrays.items():
    part, _, name = key.partition("/")
    parts.setdefault(part, {})[name] = jnp.asarray(value)
  try:
    if kind == _DENSE:
      return DenseEdit(**parts)
    if kind == _CODEBOOK:
      (name,) = parts["keys"]
      return CodebookEdit(name, *(parts[part][name] for part in _ENTRIES))
    if kind == _SIDE:
      (place,) = parts["keys"]
      block, _, activation = place.partition(".")
      _ = ACTIVATIONS[activation]
      slots = (parts[part][place] for part in _SLOTS)
      return SideEdit(int(block), activation, *slots)
  except (KeyError, TypeError, ValueError):
    pass
  raise UserError(f"{source}: not an edit, or damaged; save it again")
