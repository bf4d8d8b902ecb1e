"""An evaluation cut into pieces that are finished, kept and reused whole."""

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

from absl import logging

from instructedit_jax.editors.catalogue import UsableEditor, open_editor
from instructedit_jax.editors.trained import TrainedEditor
from instructedit_jax.editors.training_free import TrainingFree
from instructedit_jax.errors import UserError
from instructedit_jax.evaluation import protocol
from instructedit_jax.evaluation.baseline import Baseline
from instructedit_jax.evaluation.independent import BASE, evaluate
from instructedit_jax.evaluation.kept import Kept
from instructedit_jax.evaluation.options import Options
from instructedit_jax.evaluation.results import Results
from instructedit_jax.evaluation.settings import Settings
from instructedit_jax.evaluation.untold import Untold
from instructedit_jax.files import atomic_write
from instructedit_jax.models.language_model import load_model
from instructedit_jax.tasks.record import TASKS, Record
from instructedit_jax.tasks.splits import EMBEDDED, find_file, load_split


@dataclasses.dataclass(frozen=True)
class Chunk:
  """One task under one editor and one query style.

  Attributes:
    task, label, query: label is the editor's name in tables.
    editor: shared by the query styles; None for the unedited model.
    told: whether the editor gets the instruction.
    baseline: holds the model.
    records: of the task.
    path: where its results are kept.
    stamp: its protocol, plain values.
  """

  task: str
  label: str
  query: str
  editor: Kept | None
  told: bool
  baseline: Baseline
  records: list[Record]
  path: pathlib.Path
  stamp: dict[str, Any]

  def load(self) -> Results | None:
    """Results of an earlier run, if they were measured in the same way."""
    try:
      held = json.loads(self.path.read_text(encoding="utf-8"))
      if held["protocol"] == json.loads(json.dumps(self.stamp)):
        return Results.from_dict(held["results"])
    except (OSError, ValueError, KeyError, TypeError):
      pass  # absent or damaged: it is made again
    return None

  def evaluate(
    self, options: Options, progress: Callable[[int], Any]
  ) -> Results:
    """Computes the results and keeps them."""
    results = evaluate(
      self.baseline.model,
      self.editor,
      self.records,
      query=self.query,
      options=options,
      baseline=self.baseline,
      progress=progress,
    )
    results.editor = self.label
    if self.editor is not None and not self.told:
      results.records = [
        dataclasses.replace(record, instruction="")
        for record in results.records
      ]
    write_json(
      self.path, {"protocol": self.stamp, "results": results.to_dict()}
    )
    for record, reason in results.failed:
      logging.warning("%s failed: %s", record, reason)
    return results


def chunks_of(
  settings: Settings, loaded: dict[Any, Baseline] | None = None
) -> list[Chunk]:
  """All there is to do, task by task.

  Args:
    settings: what is asked for.
    loaded: models in use by what was asked of them, taken from here and added;
      for several evaluations in a row.

  Raises:
    UserError: an editor, the data or the model cannot be read, or they do not
      belong together.
  """
  editors = _editors(settings.editors)
  if not settings.told:
    editors = {n: e and Untold(e) for n, e in editors.items()}
  details = [dict(e.details) for e in editors.values() if e is not None]
  first = next((held for held in details if held), {})
  data = settings.data or first.get("data") or EMBEDDED
  tasks = settings.tasks or TASKS
  # Before the model, which takes longer than to find a misspelt name.
  records = {
    task: load_split(data, task, settings.split)[0][: settings.limit]
    for task in dict.fromkeys(tasks)
  }
  sources = {task: find_file(data, task, settings.split) for task in records}
  loaded = {} if loaded is None else loaded
  baselines = _baselines(settings, editors, details, loaded)
  stamps = {name: _stamp(e) for name, e in editors.items()}
  found = []
  for task, mine in records.items():
    for label, editor in editors.items():
      baseline = baselines[label]
      kept = None
      if editor is not None:
        kept = Kept(editor, len(settings.queries))
      for query in settings.queries:
        parts = {
          "model": protocol.model_stamp(baseline.model),
          "editor": stamps[label],
          "data": protocol.data_stamp(sources[task], settings.split, mine),
        }
        path = pathlib.Path(settings.out) / "chunks"
        path /= _file_name(f"{task}.{label}.{query}.json")
        stamp = protocol.stamp(settings.options, query, parts)
        found.append(
          Chunk(
            *(task, label, query, kept, settings.told, baseline, mine),
            *(path, stamp),
          )
        )
  return found


def write_json(path: str | os.PathLike[str], value: Any) -> None:
  """Writes a JSON file, whole or not at all."""
  with atomic_write(path) as temporary:
    text = json.dumps(value, indent=1, ensure_ascii=False)
    temporary.write_text(text + "\n", encoding="utf-8")


def _stamp(editor: UsableEditor | None) -> dict[str, Any] | None:
  """Which editor, and all that its edits depend on."""
  if isinstance(editor, Untold):
    return {**(_stamp(editor.inner) or {}), "told": False}
  if isinstance(editor, TrainingFree):
    config = dataclasses.asdict(editor.config)
    return {"method": editor.name, "config": config}
  assert editor is None or isinstance(editor, TrainedEditor)
  return protocol.editor_stamp(editor)


def _editors(specs: Sequence[str]) -> dict[str, UsableEditor | None]:
  """Editors by their names in tables: the method, with the folder if needed."""
  loaded = {
    spec: None if spec == BASE else open_editor(spec)
    for spec in dict.fromkeys(specs)
  }
  names = [BASE if e is None else e.name for e in loaded.values()]
  return {
    name if names.count(name) == 1 else f"{name} ({spec})": editor
    for name, (spec, editor) in zip(names, loaded.items(), strict=True)
  }


def _baselines(
  settings: Settings,
  editors: dict[str, UsableEditor | None],
  details: Sequence[dict[str, Any]],
  loaded: dict[Any, Baseline],
) -> dict[str, Baseline]:
  """The base model for each editor; loaded once for each suffix."""
  named = list(dict.fromkeys(d["model"] for d in details if "model" in d))
  if settings.model is None and len(named) != 1:
    raise UserError(
      f"the editors name {len(named)} models ({', '.join(named) or 'none'});"
      " say which one with --model, or evaluate them apart"
    )
  spec = settings.model or named[0]
  first = next((held for held in details if held), {})
  config = first.get("config") or {}
  dtype = settings.dtype or config.get("dtype") or "float32"
  suffixes = {label: e.suffix for label, e in editors.items() if e is not None}
  # The unedited model is the same whatever its suffix.
  shared = next(iter(suffixes.values()), None)
  found = {}
  for label, editor in editors.items():
    suffix = suffixes.get(label, shared)
    key = (spec, dtype, suffix)
    if suffix is None:
      alike = [held for held in loaded if held[:2] == key[:2]]
      key = alike[0] if alike else key
    if key not in loaded:
      model = (
        load_model(spec, dtype=dtype)
        if suffix is None
        else load_model(spec, dtype=dtype, suffix=suffix)
      )
      loaded[key] = Baseline(model)
    found[label] = loaded[key]
    if editor is not None:
      editor.check(found[label].model)
  return found


def _file_name(text: str) -> str:
  """A name that every file system takes."""
  return re.sub(r"[^\w.-]+", "_", text)
