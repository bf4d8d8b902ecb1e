"""Edits of every kind in files; of low-rank ones their factors alone."""

import os
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from instructedit_jax.editing.codebook import CodebookEdit
from instructedit_jax.editing.dense import DenseEdit
from instructedit_jax.editing.edits import Edit, LowRankEdit
from instructedit_jax.editing.side import SideEdit
from instructedit_jax.errors import UserError
from instructedit_jax.files import atomic_write
from instructedit_jax.models.language_model import LanguageModel
from instructedit_jax.models.layers import ACTIVATIONS

_FINGERPRINT, _KIND = "fingerprint", "kind"
# A file that names no kind holds a low-rank edit.
_LOW_RANK, _DENSE, _CODEBOOK, _SIDE = "", "dense", "codebook", "side"
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
  kind, parts = _taken_apart(path, edit)
  content: dict[str, Any] = {
    f"{part}/{name}": np.asarray(value, np.float32)
    for part, values in parts.items()
    for name, value in values.items()
  }
  content[_FINGERPRINT] = np.asarray(model.fingerprint)
  if kind != _LOW_RANK:
    content[_KIND] = np.asarray(kind)
  with atomic_write(path) as temporary, temporary.open("wb") as stream:
    np.savez(stream, **content)


def load_edit(path: str | os.PathLike[str], model: LanguageModel) -> Edit:
  """Reads what `save_edit` wrote.

  Raises:
    UserError: no such file, not an edit, one of another model, or one that
      changes matrices which are not editable in the model as it was loaded.
  """
  source = pathlib.Path(path)
  try:
    with np.load(source, allow_pickle=False) as archive:
      arrays = dict(archive)
    kind = str(arrays.pop(_KIND, _LOW_RANK))
    fingerprint = str(arrays.pop(_FINGERPRINT))
    parts: dict[str, dict[str, jax.Array]] = {}
    for key, value in arrays.items():
      part, _, name = key.partition("/")
      parts.setdefault(part, {})[name] = jnp.asarray(value)
    edit = _put_together(kind, parts)
  except FileNotFoundError:
    raise UserError(f"{source}: no such file") from None
  except (
    OSError,
    EOFError,  # what NumPy makes of an empty file
    ValueError,
    KeyError,
    TypeError,
    zipfile.BadZipFile,
  ):
    raise UserError(
      f"{source}: not an edit, or damaged; save it again"
    ) from None
  if fingerprint != model.fingerprint:
    raise UserError(
      f"{source}: this edit was made for another model than {model.name}"
      f" (fingerprint {fingerprint[:12]}…, not {model.fingerprint[:12]}…)"
    )
  try:
    model.require_editable(edit.matrices)
  except UserError as error:
    raise UserError(f"{source}: {error}") from None
  return edit


def _taken_apart(
  path: str | os.PathLike[str], edit: Edit
) -> tuple[str, dict[str, Mapping[str, jax.Array]]]:
  """An edit's kind, and its arrays by part and place."""
  match edit:
    case LowRankEdit():
      return _LOW_RANK, {"u": edit.u, "v": edit.v}
    case DenseEdit():
      return _DENSE, {"update": edit.update}
    case CodebookEdit():
      return _CODEBOOK, {
        part: {edit.name: getattr(edit, part)} for part in _ENTRIES
      }
    case SideEdit():
      place = f"{edit.block}.{edit.activation}"
      return _SIDE, {part: {place: getattr(edit, part)} for part in _SLOTS}
  raise UserError(f"{path}: a {type(edit).__name__} cannot be saved")


def _put_together(kind: str, parts: dict[str, dict[str, jax.Array]]) -> Edit:
  """The inverse; a KeyError, TypeError or ValueError for what is no edit."""
  if kind == _LOW_RANK:
    return LowRankEdit(**parts)
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
  raise ValueError(kind)
