"""Edits a model and shows what it says before and after.

python -m instructedit_jax.edit --editor=runs/quickstart \
  --prompt="The capital of France is" --target=Lyon --task=counterfact \
  --ask="The capital of Italy is"
python -m instructedit_jax.edit --editor=runs/quickstart --edits=edits.jsonl \
  --export=edited-model

python -m instructedit_jax.edit --editor=ft_m --model=smollm2-135m \
  --prompt="The capital of France is" --target=Lyon

Each line of --edits is {"prompt": ..., "target": ...} and, if wanted, "task"
or "instruction"; several edits are made together. --save keeps the edit, a
small file; --export writes the edited model in transformers' layout.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from instructedit_jax import app
from instructedit_jax.editing.archive import save_edit
from instructedit_jax.editing.edits import Edit
from instructedit_jax.editors.base import Request
from instructedit_jax.editors.catalogue import UsableEditor, open_editor
from instructedit_jax.editors.requests import instruction_for, read_requests
from instructedit_jax.errors import UserError
from instructedit_jax.models.language_model import (
  LanguageModel,
  load_model,
  save_hf,
)

_EDITOR = flags.DEFINE_string(
  "editor",
  "",
  "Folder of a trained editor, or a method: ft_l, ft_m, grace, ultraedit.",
)
_MODEL = flags.DEFINE_string(
  "model", None, "Base model; by default the one that the editor names."
)
_PROMPT = flags.DEFINE_string("prompt", None, "What is asked.")
_TARGET = flags.DEFINE_string("target", None, "What it shall answer.")
_TASK = flags.DEFINE_string("task", None, "Kind of edit: gives an instruction.")
_INSTRUCTION = flags.DEFINE_string(
  "instruction", None, "Kind of edit, in your own words."
)
_SUBJECT = flags.DEFINE_string(
  "subject", None, "What a ConvSent edit is about."
)
_SENTIMENT = flags.DEFINE_string(
  "sentiment", None, "ConvSent: positive or negative."
)
_EDITS = flags.DEFINE_string("edits", None, "A file of edits, one a line.")
_ASK = flags.DEFINE_multi_string("ask", [], "Another prompt to show.")
_TOKENS = flags.DEFINE_integer("tokens", 24, "Length of an answer at most.")
_SAVE = flags.DEFINE_string("save", None, "File for the edit alone, .npz.")
_EXPORT = flags.DEFINE_string("export", None, "Folder for the edited model.")


def main(argv: Sequence[str]) -> None:
  """Edits, shows and, if wanted, exports."""
  del argv
  if not _EDITOR.value:
    raise UserError("--editor=FOLDER is missing: which editor, or method?")
  requests = _requests()
  if _EXPORT.value and pathlib.Path(_EXPORT.value).exists():
    raise UserError(f"--export={_EXPORT.value}: exists already; name a new one")
  editor = open_editor(_EDITOR.value)
  model = _model(editor)
  edit = editor.propose(model, requests)
  # First of all: some kinds of edit have no weights.
  edited = _merged(edit, model) if _EXPORT.value else None
  prompts = list(dict.fromkeys([*(r.prompt for r in requests), *_ASK.value]))
  targets = {request.prompt: request.target for request in requests}
  before, after = (
    model.generate(prompts, edit=e, max_new_tokens=_TOKENS.value, stop=("\n",))
    for e in (None, edit)
  )
  for prompt, old, new in zip(prompts, before, after, strict=True):
    print(prompt)
    print(f"  before: {' '.join(old.split())}")
    print(f"  after:  {' '.join(new.split())}")
    if prompt in targets:
      print(f"  target: {targets[prompt]}")
  if _SAVE.value:
    save_edit(_SAVE.value, edit, model)
    print(f"\nThe edit is in {_SAVE.value}")
  if edited is not None and _EXPORT.value:
    save_hf(edited, _EXPORT.value)
    print(f"\nThe edited model is in {_EXPORT.value}/")


def _requests() -> list[Request]:
  given = read_requests(_EDITS.value) if _EDITS.value else []
  prompt, target = _PROMPT.value, _TARGET.value
  if (prompt is None) != (target is None):
    raise UserError("--prompt and --target belong together: give both")
  if prompt is not None and target is not None:
    instruction = instruction_for(
      _TASK.value, _INSTRUCTION.value, _SUBJECT.value, _SENTIMENT.value
    )
    given.append(Request(prompt, target, instruction))
  if not given:
    raise UserError("nothing to edit: give --prompt and --target, or --edits")
  return given


def _merged(edit: Edit, model: LanguageModel) -> LanguageModel:
  merge = getattr(edit, "merge", None)
  if merge is None:
    raise UserError(f"a {type(edit).__name__} cannot be merged into weights")
  return merge(model)


def _model(editor: UsableEditor) -> LanguageModel:
  """Raises a UserError unless the editor belongs to the model."""
  spec = _MODEL.value or editor.details.get("model")
  if spec is None:
    raise UserError(
      f"{_EDITOR.value}: the editor does not name its model; give --model"
    )
  model = load_model(spec, suffix=editor.suffix)
  editor.check(model)
  return model


if __name__ == "__main__":
  app.run(main)
