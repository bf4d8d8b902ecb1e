"""Editors by name: those that need no training, and folders of trained ones.

A name may carry other hyperparameters than the defaults, as in
"ft_m:steps=50:rate=1e-3"; suffix=N loads the model with N editable blocks. A
folder may carry how a trained editor is used, as in "runs/multi:enough=0.005"
or "runs/multi:insist=0".
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from instructedit_jax.editors import fine_tuning
from instructedit_jax.editors.base import Editor
from instructedit_jax.editors.calinet import Calinet, CalinetConfig
from instructedit_jax.editors.fine_tuning import FineTuning, FineTuningConfig
from instructedit_jax.editors.grace import Grace, GraceConfig
from instructedit_jax.editors.trained import TrainedEditor, load_editor
from instructedit_jax.editors.training_free import Common
from instructedit_jax.editors.ultraedit import UltraEdit, UltraEditConfig
from instructedit_jax.errors import UserError
from instructedit_jax.models.language_model import LanguageModel

T = TypeVar("T")


class UsableEditor(Editor, Protocol):
  """An editor that also says which model it wants."""

  @property
  def suffix(self) -> int:
    """Editable blocks that the model must be loaded with."""

  @property
  def details(self) -> Mapping[str, Any]:
    """ "model", "data" and so on, where the editor belongs to some."""

  def check(self, model: LanguageModel) -> None:
    """Raises a UserError unless this editor can edit `model`."""


# name -> (defaults, how to make one of them)
METHODS: dict[str, tuple[Common, Callable[[Any, str], UsableEditor]]] = {
  "ft_l": (
    FineTuningConfig(objective=fine_tuning.PROMPT_LAST, steps=25),
    FineTuning,
  ),
  "ft_m": (FineTuningConfig(), FineTuning),
  "grace": (GraceConfig(), Grace),
  "ultraedit": (UltraEditConfig(), UltraEdit),
  "calinet": (CalinetConfig(), Calinet),
}


def open_editor(spec: str) -> UsableEditor:
  """The editor that a name or a folder stands for.

  Args:
    spec: one of METHODS, perhaps with ":option=value"s; or the folder of a
      trained editor or of its training run, perhaps with ":enough=LOSS" and
      ":insist=ROUNDS".

  Raises:
    UserError: no such name and no such folder, an option that the method does
      not have or that makes no sense, or a folder that holds no editor.
  """
  name, *options = spec.split(":")
  if name in METHODS:
    defaults, make = METHODS[name]
    fields = dataclasses.asdict(defaults)
    replaced = functools.partial(dataclasses.replace, defaults)
    return make(_with(name, fields, options, replaced), spec)
  if pathlib.Path(spec).exists():
    return load_editor(spec)
  folder, options = spec, []
  # A folder's name may have colons of its own.
  while ":" in folder and not pathlib.Path(folder).is_dir():
    folder, _, option = folder.rpartition(":")
    options.insert(0, option)
  if not folder or not pathlib.Path(folder).is_dir():
    raise UserError(
      f"editor {spec!r}: no such folder, and no method of that name. Give the"
      f" folder of a trained editor, or one of {', '.join(METHODS)}; an"
      " evaluation also takes base, the unedited model"
    )
  return _trained(folder, options)


# Options of a trained editor that are about its use alone.
_IN_USE = ("insist", "enough")


def _trained(folder: str, options: Sequence[str]) -> TrainedEditor:
  """A trained editor, with another way of using it."""
  editor = load_editor(folder)
  fields = {name: getattr(editor.config, name) for name in _IN_USE}
  return _with(folder, fields, options, editor.using)


def _with(
  name: str,
  fields: Mapping[str, Any],
  options: Sequence[str],
  replaced: Callable[..., T],
) -> T:
  """`replaced` with the values that "option=value" texts give to `fields`."""
  changes = _changes(name, fields, options)
  try:
    return replaced(**changes)
  except UserError as error:
    raise UserError(f"editor {name}: {error}") from None


def _changes(
  name: str, fields: Mapping[str, Any], options: Sequence[str]
) -> dict[str, Any]:
  """The values that "option=value" texts give to some of `fields`."""
  changes = {}
  for option in options:
    key, equals, text = option.partition("=")
    if not equals or key not in fields:
      raise UserError(
        f"editor {name}: no option {option!r}; write option=value with one of"
        f" {', '.join(fields)}"
      )
    changes[key] = _value(name, key, text, fields[key])
  return changes


# Options whose default is None, and so does not tell their type.
_TYPES: dict[str, type] = {"block": int, "bound": float}


def _value(name: str, key: str, text: str, default: Any) -> Any:
  wanted = _TYPES.get(key, type(default))
  try:
    return wanted(text)
  except ValueError:
    raise UserError(
      f"editor {name}: {key}={text!r} is not of type {wanted.__name__}"
    ) from None
