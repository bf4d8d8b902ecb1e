"""From folders to files."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from instructedit_jax.errors import UserError
from instructedit_jax.files import atomic_write
from instructedit_jax.reports import protocols, tables, written
from instructedit_jax.reports.aggregate import Number, numbers
from instructedit_jax.reports.browsing import encoded, packed
from instructedit_jax.reports.folders import Folder, read_folders
from instructedit_jax.reports.page import page
from instructedit_jax.reports.runs import Run, runs_of

TITLE = "Knowledge edits"
FILES = ("report.html", "report.md", "report.tex", "report.csv")
_PNG = b"\x89PNG\r\n\x1a\n"
_PICTURE_BYTES = 4 << 20


@dataclasses.dataclass(frozen=True)
class Settings:
  """What a report is made of.

  Attributes:
    folders: of `instructedit_jax.evaluate`.
    out: folder of the report's files.
    title: of the report.
    rename: pattern of an editor's name -> its name in the report.
    names: folder -> name of all editors in it; before `rename`.
    separate: whether folders are kept apart instead of joined as runs.
    pictures: PNG files to show besides those that lie in the folders.
    command: how the report is made; only noted.
  """

  folders: Sequence[str | os.PathLike[str]]
  out: str | os.PathLike[str]
  title: str = TITLE
  rename: Mapping[str, str] = dataclasses.field(default_factory=dict)
  names: Mapping[pathlib.Path, str] = dataclasses.field(default_factory=dict)
  separate: bool = False
  pictures: Sequence[str | os.PathLike[str]] = ()
  command: str = ""


@dataclasses.dataclass(frozen=True)
class Report:
  """What was written, and what a reader must know of it."""

  files: list[pathlib.Path]
  numbers: list[Number]
  tables: list[tables.Table]
  warnings: list[str]
  notes: list[str]


def build(settings: Settings) -> Report:
  """Reads the folders and writes report.html, .md, .tex and .csv.

  Raises:
    UserError: a folder or picture cannot be read, or OUT not be written.
  """
  folders = read_folders(settings.folders)
  names = {path.resolve(): name for path, name in settings.names.items()}
  runs, notes = runs_of(folders, settings.rename, settings.separate, names)
  warnings, small = protocols.compare(
    (run.origins[place], place[0], stamp)
    for run in runs
    for place, stamp in run.stamps.items()
  )
  notes = [*_joined(runs), *notes, *small, *_failures(runs)]
  pictures = _pictures(folders, settings.pictures, notes)
  found = numbers(runs)
  made = tables.tables(found, {run.editor for run in runs if run.unedited})
  stamp = _stamp(folders, runs, settings.command)
  texts = {
    "report.html": page(
      title=settings.title,
      tables=made,
      numbers=found,
      warnings=warnings,
      notes=notes,
      stamp=stamp,
      protocol={
        f.name: {"command": f.command, "chunks": f.chunks} for f in folders
      },
      pictures=pictures,
      records=encoded(packed(runs)),
    ),
    "report.md": written.markdown(made, settings.title, warnings, notes, stamp),
    "report.tex": written.latex(made, settings.command),
    "report.csv": written.comma_separated(made),
  }
  out = pathlib.Path(settings.out)
  for name in FILES:
    with atomic_write(out / name) as path:
      # Data may hold halves of characters, which no file can.
      path.write_bytes(texts[name].encode("utf-8", "replace"))
  return Report([out / f for f in FILES], found, made, warnings, notes)


def _joined(runs: Sequence[Run]) -> list[str]:
  notes = []
  for editor in dict.fromkeys(run.editor for run in runs):
    mine = [run for run in runs if run.editor == editor]
    if len(mine) > 1:
      listed = "; ".join(f"{r.label} in {' + '.join(r.folders)}" for r in mine)
      notes.append(
        f"{editor} is the mean of {len(mine)} runs ({listed}); its intervals"
        " are over records and runs."
      )
  return notes


def _failures(runs: Sequence[Run]) -> list[str]:
  notes = []
  for editor in dict.fromkeys(run.editor for run in runs):
    count = sum(
      len(each)
      for run in runs
      if run.editor == editor
      for each in run.failed.values()
    )
    if count:
      notes.append(
        f"{editor}: {count} evaluations of records failed; they are listed"
        " under Records and count in no mean."
      )
  return notes


def _stamp(
  folders: Sequence[Folder], runs: Sequence[Run], command: str
) -> list[tuple[str, str]]:
  """The protocol in short: each field's values with the folders they are of."""
  found: dict[str, list[str]] = {}

  def note(name: str, value: Any) -> None:
    text = value if isinstance(value, str) else json.dumps(value)
    if text not in found.setdefault(name, []):
      found[name].append(text)

  for run in runs:
    for (task, _), stamp in run.stamps.items():
      model = stamp.get("model") or {}
      note("model", f"{model.get('name')} ({model.get('dtype')})")
      note("model fingerprint", str(model.get("fingerprint"))[:16])
      data = stamp.get("data") or {}
      note(
        f"records of {task}",
        f"{data.get('records')} of {data.get('file')}, split"
        f" {data.get('split')}, sha256 {str(data.get('sha256'))[:16]}",
      )
      for name, value in (stamp.get("options") or {}).items():
        note(name.replace("_", " "), value)
      note("device", stamp.get("device"))
      note("versions", stamp.get("versions"))
  for folder in folders:
    note(f"command of {folder.name}", folder.command or "unknown")
  if command:
    note("command of this report", command)
  return [(name, " | ".join(values)) for name, values in found.items()]


def _pictures(
  folders: Sequence[Folder],
  others: Sequence[str | os.PathLike[str]],
  notes: list[str],
) -> dict[str, bytes]:
  """PNG files by caption."""
  found = {}
  for folder in folders:
    for path in sorted(folder.path.glob("*.png")):
      data = path.read_bytes()
      if data.startswith(_PNG) and len(data) <= _PICTURE_BYTES:
        found[f"{folder.name}/{path.name}"] = data
      else:
        notes.append(
          f"{path.name} in {folder.name} was left out: too large,"
          " or no PNG picture."
        )
  for other in others:
    path = pathlib.Path(other)
    try:
      data = path.read_bytes()
    except OSError as error:
      raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    if not data.startswith(_PNG):
      raise UserError(f"{path}: is no PNG picture. Convert it first.")
    found[path.name if path.name not in found else str(path)] = data
  return found
