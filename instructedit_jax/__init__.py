"""Knowledge editing of language models by instruction, in JAX.

    model = load_model("smollm2-135m")
    editor = load_editor("runs/quickstart")
    edit = editor.propose(model, ("The capital of France is", "Lyon"))
    model.generate("The capital of France is", edit=edit)
    edited = edit.merge(model)

Models are never changed: an edit is a small value that a model is run with,
or that makes a new model. `evaluate` measures how well an editor's edits work.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from instructedit_jax.editing.archive import load_edit, save_edit
  from instructedit_jax.editing.codebook import CodebookEdit
  from instructedit_jax.editing.dense import DenseEdit
  from instructedit_jax.editing.edits import LowRankEdit
  from instructedit_jax.editing.side import SideEdit
  from instructedit_jax.editors.base import Editor, Request
  from instructedit_jax.editors.catalogue import open_editor
  from instructedit_jax.editors.requests import read_requests
  from instructedit_jax.editors.trained import TrainedEditor, load_editor
  from instructedit_jax.errors import UserError
  from instructedit_jax.evaluation import Options, Results, evaluate
  from instructedit_jax.models.language_model import (
    LanguageModel,
    load_model,
    save_hf,
  )
  from instructedit_jax.tasks.instructions import Instruction
  from instructedit_jax.tasks.loading import load_records
  from instructedit_jax.tasks.record import Conversation, Probe, Record
  from instructedit_jax.tasks.splits import load_split

__version__ = "0.1.0"

# Loaded when first used: no one should wait for what they do not need. The
# entry point `evaluate.py` is a program, not to be imported: it would take the
# place of the function of that name.
_HOME = {
  "load_edit": "editing.archive",
  "save_edit": "editing.archive",
  "CodebookEdit": "editing.codebook",
  "DenseEdit": "editing.dense",
  "LowRankEdit": "editing.edits",
  "SideEdit": "editing.side",
  "Editor": "editors.base",
  "Request": "editors.base",
  "open_editor": "editors.catalogue",
  "read_requests": "editors.requests",
  "TrainedEditor": "editors.trained",
  "load_editor": "editors.trained",
  "UserError": "errors",
  "Options": "evaluation",
  "Results": "evaluation",
  "evaluate": "evaluation",
  "LanguageModel": "models.language_model",
  "load_model": "models.language_model",
  "save_hf": "models.language_model",
  "Instruction": "tasks.instructions",
  "load_records": "tasks.loading",
  "Conversation": "tasks.record",
  "Probe": "tasks.record",
  "Record": "tasks.record",
  "load_split": "tasks.splits",
}

__all__ = [
  "CodebookEdit",
  "Conversation",
  "DenseEdit",
  "Editor",
  "Instruction",
  "LanguageModel",
  "LowRankEdit",
  "Options",
  "Probe",
  "Record",
  "Request",
  "Results",
  "SideEdit",
  "TrainedEditor",
  "UserError",
  "evaluate",
  "load_edit",
  "load_editor",
  "load_model",
  "load_records",
  "load_split",
  "open_editor",
  "read_requests",
  "save_edit",
  "save_hf",
]


def __getattr__(name: str) -> Any:
  if name not in _HOME:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
  globals()[name] = value
  return value


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
