"""Which results belong to one editor, and which are several runs of it.

A run is an editor's numbers with a seed. Results whose protocol agrees in all
but these are runs of one editor and are summed up together; results that
disagree get names of their own. The same run met twice counts once.
"""

import dataclasses
import fnmatch
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from instructedit_jax.reports import protocols
from instructedit_jax.reports.folders import Folder

Place = tuple[str, str]  # task and query style
_SUFFIX = 48  # characters that may tell two editors of one name apart


@dataclasses.dataclass
class Run:
  """One run of an editor.

  Attributes:
    editor: the editor's name in the report.
    folders: where its results come from.
    label: its name in those folders.
    origins, stamps, records, failed: by task and query style; an origin is
      one of the folders.
    seed: of its training, where it is known.
  """

  editor: str
  folders: list[str]
  label: str
  origins: dict[Place, str] = dataclasses.field(default_factory=dict)
  stamps: dict[Place, dict[str, Any]] = dataclasses.field(default_factory=dict)
  records: dict[Place, list[dict[str, Any]]] = dataclasses.field(
    default_factory=dict
  )
  failed: dict[Place, list[dict[str, Any]]] = dataclasses.field(
    default_factory=dict
  )
  seed: int | None = None

  @property
  def unedited(self) -> bool:
    """Whether it is the base model as it is."""
    return all(stamp.get("editor") is None for stamp in self.stamps.values())

  @property
  def identity(self) -> tuple[str, str]:
    """The editor's digest and the seed."""
    return protocols.identity(next(iter(self.stamps.values())))


@dataclasses.dataclass
class _Group:
  """Runs of one editor, all of one protocol."""

  name: str
  signature: dict[str, str]
  data: dict[str, dict[str, str]]
  runs: list[Run]


def runs_of(
  folders: Sequence[Folder],
  rename: Mapping[str, str] | None = None,
  separate: bool = False,
  names: Mapping[pathlib.Path, str] | None = None,
) -> tuple[list[Run], list[str]]:
  """The runs of all folders, in the order in which editors first appear.

  Args:
    folders: evaluations.
    rename: pattern of an editor's name in its folder -> name in the report;
      "*" stands for any text. Editors given one name are runs of it if their
      protocols agree.
    separate: keep the folders apart instead of joining runs.
    names: folder -> name of all its editors, whatever `rename` says.

  Returns:
    runs, and notes on what was left out or kept apart.
  """
  groups: list[_Group] = []
  notes: list[str] = []
  for folder in folders:
    whole = (names or {}).get(folder.path)
    for run in _of_folder(folder, {"*": whole} if whole else rename or {}):
      if separate and len(folders) > 1:
        run.editor = f"{run.editor} ({folder.name})"
      _place(run, groups, notes)
  for name in dict.fromkeys(group.name for group in groups):
    alike = [group for group in groups if group.name == name]
    if len(alike) > 1:
      _tell_apart(alike, notes)
  order = {
    name: i for i, name in enumerate(dict.fromkeys(g.name for g in groups))
  }
  groups.sort(key=lambda group: order[group.name])
  return [run for group in groups for run in group.runs], notes


def _of_folder(folder: Folder, rename: Mapping[str, str]) -> list[Run]:
  runs: dict[str, Run] = {}
  for chunk in folder.chunks:
    label, place = chunk["editor"], (chunk["task"], chunk["query"])
    name = next(
      (new for old, new in rename.items() if fnmatch.fnmatchcase(label, old)),
      label,
    )
    run = runs.setdefault(label, Run(name, [folder.name], label))
    run.origins[place] = folder.name
    run.stamps[place] = chunk["protocol"]
    run.records[place] = []
    run.failed[place] = chunk.get("failed") or []
  for record in folder.records:
    place = (record["task"], record["query"])
    runs[record["editor"]].records[place].append(record)
  return list(runs.values())


def _place(run: Run, groups: list[_Group], notes: list[str]) -> None:
  """Puts a run where it belongs; the same one met again is merged."""
  signature = protocols.signature(next(iter(run.stamps.values())))
  data = {task: protocols.data_of(s) for (task, _), s in run.stamps.items()}
  for group in groups:
    if (
      group.name != run.editor
      or group.signature != signature
      or any(group.data.get(task, of) != of for task, of in data.items())
    ):
      continue
    group.data |= data
    for known in group.runs:
      if known.identity == run.identity:
        _merge(known, run, notes)
        return
    group.runs.append(run)
    return
  groups.append(_Group(run.editor, signature, data, [run]))


def _merge(known: Run, run: Run, notes: list[str]) -> None:
  twice = [place for place in run.stamps if place in known.stamps]
  if twice:
    notes.append(
      f"{run.folders[0]}: {run.label} on"
      f" {', '.join(' / '.join(place) for place in twice)} is the run that"
      f" {known.folders[0]} already has; it counts once."
    )
  for place, stamp in run.stamps.items():
    if place not in twice:
      known.origins[place] = run.origins[place]
      known.stamps[place] = stamp
      known.records[place] = run.records[place]
      known.failed[place] = run.failed[place]
  known.folders += [f for f in run.folders if f not in known.folders]


def _tell_apart(alike: Sequence[_Group], notes: list[str]) -> None:
  """Names groups by what differs, or by their folders if that is long."""
  fields = protocols.differing([group.signature for group in alike])
  name = alike[0].name
  suffixes = [
    ", ".join(
      f"{field.rpartition('.')[2]}={group.signature.get(field, 'none')}"
      for field in fields
    )
    for group in alike
  ]
  if len(set(suffixes)) < len(alike) or max(map(len, suffixes)) > _SUFFIX:
    suffixes = [
      " + ".join(dict.fromkeys(f for run in group.runs for f in run.folders))
      for group in alike
    ]
  if len(set(suffixes)) < len(alike):
    suffixes = [str(number) for number in range(1, len(alike) + 1)]
  for group, suffix in zip(alike, suffixes, strict=True):
    group.name = f"{name} [{suffix}]"
    for run in group.runs:
      run.editor = group.name
  what = ", ".join(fields) if fields else "the records"
  notes.append(
    f"{name} was measured in {len(alike)} ways that differ in {what}; they"
    " are shown apart."
  )
