"""Which file of a folder holds a task's split."""

import os
import pathlib

from absl import logging

from instructedit_jax.errors import UserError
from instructedit_jax.tasks.loading import load_records
from instructedit_jax.tasks.record import CONVSENT, TASKS, Record
from instructedit_jax.tasks.validation import ValidationReport

EMBEDDED, HUB = "embedded", "hub"
_EMBEDDED_DIR = pathlib.Path(__file__).parent / "embedded"

# (task, split) -> file names, the preferred one first. They are those of
# KnowEdit's files under their usual names and under the hub's, and our own.
FILES: dict[tuple[str, str], tuple[str, ...]] = {
  ("counterfact", "train"): (
    "wiki_counterfact_train.json",
    "*train_cf.json",
    "counterfact_train.json",
    "counterfact-train.json",
  ),
  ("counterfact", "val"): ("counterfact-val.json",),
  ("counterfact", "test"): (
    "wiki_counterfact_test.json",
    "*test_cf.json",
    "counterfact_test.json",
    "counterfact-edit.json",
  ),
  ("wikirecent", "train"): (
    "wiki_recent_train.json",
    "*recent_train.json",
  ),
  ("wikirecent", "test"): ("wiki_recent_test.json", "*recent_test.json"),
  # The train file of ConvSent is large and often absent; its validation file
  # shares no entity with the test file and stands in for it.
  ("convsent", "train"): (
    "convsent_train.json",
    "*blender_train.json",
    "convsent_val.json",
    "*blender_val.json",
  ),
  ("convsent", "val"): ("convsent_val.json", "*blender_val.json"),
  ("convsent", "test"): ("convsent_test.json", "*blender_test.json"),
  ("zsre", "train"): (
    "zsre_mend_train_1k.json",
    "zsre_mend_train*.json",
    "zsre_train.json",
    "*ZsRE-train*.json",
  ),
  ("zsre", "test"): (
    "zsre_mend_eval_portability_gpt4.json",
    "zsre_mend_eval*.json",
    "zsre_test.json",
    "*ZsRE-test*.json",
  ),
}
# Deep enough for a hub snapshot, shallow enough not to walk a home folder.
_DEPTH = 3


def load_split(
  data: str | os.PathLike[str], task: str, split: str
) -> tuple[list[Record], ValidationReport]:
  """Loads one split of one task.

  Args:
    data: a folder with the files, at most three folders deep; or one file;
      or "embedded", the small data that comes with the package; or "hub",
      zjunlp/KnowEdit from the Hugging Face hub.
    task: one of `record.TASKS`, or a name of your own, whose file is then
      `<task>_<split>.json`.
    split: "train" or "test"; "val" where there is one.

  Raises:
    UserError: no such folder or file, or `load_records` refuses the file.
  """
  path = find_file(data, task, split)
  stands_in = (task, split) == (CONVSENT, "val") and path != pathlib.Path(data)
  if stands_in and path == find_file(data, task, "train"):
    logging.warning(
      "%s: is the training file, too, for want of another; editors trained on"
      " this folder have seen these records",
      path,
    )
  return load_records(task, path, split)


def find_file(
  data: str | os.PathLike[str], task: str, split: str
) -> pathlib.Path:
  """The file `load_split` reads.

  Raises:
    UserError: there is none, or there are two and neither is preferred.
  """
  if data == EMBEDDED:
    folder = _EMBEDDED_DIR
  elif data == HUB:
    # Imported late: the downloader is an optional dependency.
    from instructedit_jax.tasks import hub

    folder = hub.snapshot()
  else:
    folder = pathlib.Path(data).expanduser()
  if folder.is_file():
    return folder
  if not folder.is_dir():
    raise UserError(
      f"{folder}: no such folder. --data takes a folder, a file, 'embedded'"
      " or 'hub'."
    )
  names = FILES.get((task, split), (f"{task}_{split}.json",))
  for name in names:
    found = _find(folder, name)
    if len(found) > 1:
      listed = ", ".join(str(path) for path in found)
      raise UserError(
        f"{folder}: several files could be {task}/{split}: {listed}. Give"
        " their folder or the file itself."
      )
    if found:
      return found[0]
  hint = "" if task in TASKS else f" Known tasks: {', '.join(TASKS)}."
  raise UserError(
    f"{folder}: no file for task {task!r}, split {split!r}. Looked for"
    f" {', '.join(names)}.{hint}"
  )


def _find(folder: pathlib.Path, name: str) -> list[pathlib.Path]:
  """The files of that name in the uppermost level that has any."""
  for depth in range(_DEPTH + 1):
    found = [
      path
      for path in folder.glob("*/" * depth + name)
      if path.is_file()
      and not any(
        part.startswith(".") for part in path.relative_to(folder).parts
      )
    ]
    if found:
      return sorted(found)
  return []
