"""Edits a model and shows what it says before and after.

python -m instructedit_jax.edit --editor=runs/quickstart \
  --prompt="The capital of France is" --target=Lyon --task=counterfact \
  --other_form="Which city is the capital of France?" \
  --ask="The capital of Italy is"
python -m instructedit_jax.edit --editor=runs/quickstart --edits=edits.jsonl \
  --export=edited-model

python -m instructedit_jax.edit --editor=ft_m --model=smollm2-135m \
  --prompt="The capital of France is" --target=Lyon

--other_form asks the same as a question (or, if the prompt is one, begins a
sentence); trained editors make one by rule where it is not given. Each line of
--edits is {"prompt": ..., "target": ...} and, if wanted, "task", "instruction"
or "other_form"; several edits are made together. --save keeps the edit, a
small file; --export writes the edited model in transformers' layout.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from instructedit_jax import app
from instructedit_jax.editing.archive import save_edit
from instructedit_jax.editing.edits import Edit
from instructedit_jax.editors.base import Request
from instructedit_jax.editors.catalogue import (
  METHODS,
  UsableEditor,
  open_editor,
)
from instructedit_jax.editors.requests import instruction_for, read_requests
from instructedit_jax.errors import UserError
from instructedit_jax.models.language_model import (
  LanguageModel,
  load_model,
  save_hf,
)


@dataclasses.dataclass(frozen=True)
class Settings:
  """What one run of the command does; see the options of the same names."""

  editor: str
  model: str | None = None
  dtype: str | None = None
  prompt: str | None = None
  target: str | None = None
  other_form: str | None = None
  task: str | None = None
  instruction: str | None = None
  subject: str | None = None
  sentiment: str | None = None
  edits: str | None = None
  ask: Sequence[str] = ()
  tokens: int = 24
  save: str | None = None
  export: str | None = None


# What belongs to --prompt and --target.
_OF_ONE = ("other_form", "task", "instruction", "subject", "sentiment")


def run(settings: Settings) -> None:
  """Edits, shows and, if wanted, exports.

  Raises:
    UserError: options that contradict each other, or an edit that the model or
      the editor cannot take.
  """
  if not settings.editor:
    raise UserError("--editor=FOLDER is missing: which editor, or method?")
  requests = _requests(settings)
  if settings.export and pathlib.Path(settings.export).exists():
    raise UserError(
      f"--export={settings.export}: exists already; name a new one"
    )
  editor = open_editor(settings.editor)
  model = _model(editor, settings)
  edit = editor.propose(model, requests)
  # First of all: some kinds of edit have no weights.
  edited = edit.merge(model) if settings.export else None
  _show(model, edit, requests, settings)
  if settings.save:
    save_edit(settings.save, edit, model)
    print(f"\nThe edit is in {settings.save}")
  if edited is not None and settings.export:
    save_hf(edited, settings.export)
    print(f"\nThe edited model is in {settings.export}/")


def _show(
  model: LanguageModel,
  edit: Edit,
  requests: Sequence[Request],
  settings: Settings,
) -> None:
  prompts = list(dict.fromkeys([*(r.prompt for r in requests), *settings.ask]))
  targets = {request.prompt: request.target for request in requests}
  before, after = (
    model.generate(
      prompts, edit=e, max_new_tokens=settings.tokens, stop=("\n",)
    )
    for e in (None, edit)
  )
  for prompt, old, new in zip(prompts, before, after, strict=True):
    print(prompt)
    print(f"  before: {' '.join(old.split())}")
    print(f"  after:  {' '.join(new.split())}")
    if prompt in targets:
      print(f"  target: {targets[prompt]}")


def _requests(settings: Settings) -> list[Request]:
  given = read_requests(settings.edits) if settings.edits else []
  prompt, target = settings.prompt, settings.target
  if (prompt is None) != (target is None):
    raise UserError("--prompt and --target belong together: give both")
  if prompt is not None and target is not None:
    instruction = instruction_for(
      settings.task, settings.instruction, settings.subject, settings.sentiment
    )
    given.append(Request(prompt, target, instruction, settings.other_form))
  else:
    for name in _OF_ONE:
      if getattr(settings, name) is not None:
        raise UserError(
          f"--{name} belongs to --prompt and --target; in a file of edits each"
          f' line has its own "{name}"'
        )
  if not given:
    raise UserError("nothing to edit: give --prompt and --target, or --edits")
  return given


def _model(editor: UsableEditor, settings: Settings) -> LanguageModel:
  """Raises a UserError unless the editor belongs to the model."""
  spec = settings.model or editor.details.get("model")
  if spec is None:
    raise UserError(
      f"{settings.editor}: the editor does not name its model; give --model"
    )
  trained = editor.details.get("config") or {}
  dtype = settings.dtype or trained.get("dtype") or "float32"
  model = load_model(spec, suffix=editor.suffix, dtype=dtype)
  editor.check(model)
  return model


def _define_flags() -> None:
  """Only where this is the program: other commands have such flags too."""
  flags.DEFINE_string(
    "editor",
    "",
    "Folder of a trained editor, perhaps with :enough=LOSS or :insist=ROUNDS,"
    f" or a method: {', '.join(METHODS)}.",
  )
  flags.DEFINE_string(
    "model", None, "Base model; by default the one that the editor names."
  )
  flags.DEFINE_enum(
    "dtype",
    None,
    ["float32", "bfloat16"],
    "Of the model's weights; default as trained.",
  )
  flags.DEFINE_string("prompt", None, "What is asked.")
  flags.DEFINE_string("target", None, "What it shall answer.")
  flags.DEFINE_string(
    "other_form", None, "The prompt asked otherwise; by rule if not given."
  )
  flags.DEFINE_string("task", None, "Kind of edit: gives an instruction.")
  flags.DEFINE_string("instruction", None, "Kind of edit, in your own words.")
  flags.DEFINE_string("subject", None, "What a ConvSent edit is about.")
  flags.DEFINE_string("sentiment", None, "ConvSent: positive or negative.")
  flags.DEFINE_string("edits", None, "A file of edits, one a line.")
  flags.DEFINE_multi_string("ask", [], "Another prompt to show.")
  flags.DEFINE_integer("tokens", 24, "Length of an answer at most.")
  flags.DEFINE_string("save", None, "File for the edit alone, .npz.")
  flags.DEFINE_string("export", None, "Folder for the edited model.")


def main(argv: Sequence[str]) -> None:
  """Edits as the options say."""
  del argv
  names = [field.name for field in dataclasses.fields(Settings)]
  given: dict[str, Any] = {name: flags.FLAGS[name].value for name in names}
  run(Settings(**given))


if __name__ == "__main__":
  _define_flags()
  app.run(main)
