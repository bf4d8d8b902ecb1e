"""Protocol stamps: which numbers may stand beside each other."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# What says where and with what a number was computed, not how.
_CIRCUMSTANCES = ("versions.", "device")
# What differs between the runs of one editor, or between its own cells.
_OWN = ("editor.sha256", "options.seed", "query")
# Number of editable blocks: belongs to an editor as much as to the model.
_SUFFIX = "model.suffix"


def flat(value: Any, prefix: str = "") -> dict[str, str]:
  """Nested dicts as {"a.b": text}; equal texts mean equal values."""
  if isinstance(value, Mapping):
    found: dict[str, str] = {}
    for key, inner in value.items():
      found |= flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return found
  text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
  return {prefix: text}


def signature(stamp: Mapping[str, Any]) -> dict[str, str]:
  """What runs of one editor have in common: all but seed, numbers and data."""
  return {
    key: value
    for key, value in flat(stamp).items()
    if key not in _OWN and not key.startswith((*_CIRCUMSTANCES, "data."))
  }


def identity(stamp: Mapping[str, Any]) -> tuple[str, str]:
  """What tells the runs of one editor apart: its numbers and the seed."""
  found = flat(stamp)
  return found.get("editor.sha256", ""), found.get("options.seed", "")


def data_of(stamp: Mapping[str, Any]) -> dict[str, str]:
  """Which records were used."""
  return flat(stamp.get("data", {}), "data")


def differing(signatures: Sequence[Mapping[str, str]]) -> list[str]:
  """Fields that are not the same everywhere."""
  keys = dict.fromkeys(key for each in signatures for key in each)
  return [k for k in keys if len({each.get(k) for each in signatures}) > 1]


def compare(
  stamps: Iterable[tuple[str, str, Mapping[str, Any]]],
) -> tuple[list[str], list[str]]:
  """Sentences on differences between the stamps of one report.

  Args:
    stamps: (folder, task, stamp) of everything that is shown.

  Returns:
    warnings, where numbers are not comparable; and notes, where versions or
    devices differ, which should not matter.
  """
  seen: dict[str, dict[str, list[str]]] = {}
  for folder, task, stamp in stamps:
    for key, value in flat(stamp).items():
      if key in _OWN or key.startswith("editor"):
        continue
      name = key
      if key.startswith("data."):
        name = f"{key} of {task}"
      folders = seen.setdefault(name, {}).setdefault(value, [])
      if folder not in folders:
        folders.append(folder)
  warnings: list[str] = []
  notes: list[str] = []
  for key, values in seen.items():
    if len(values) < 2:
      continue
    listed = "; ".join(
      f"{_short(value)} in {', '.join(folders)}"
      for value, folders in values.items()
    )
    small = key == _SUFFIX or key.startswith(_CIRCUMSTANCES)
    (notes if small else warnings).append(f"{key} differs: {listed}.")
  return warnings, notes


def _short(text: str) -> str:
  return text if len(text) <= 40 else text[:12] + "…"
