"""Evaluation folders, read with an eye for what may be wrong with them."""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from instructedit_jax.errors import UserError

RECORDS, PROTOCOL, SUMMARY = "records.jsonl", "protocol.json", "summary.json"
_TEXTS = ("editor", "query", "id", "task", "prompt", "target")
_ITEM_TEXTS = ("metric", "kind", "prompt", "before", "after")


@dataclasses.dataclass(frozen=True)
class Folder:
  """One finished evaluation.

  Attributes:
    path: where it lies.
    name: what the report calls it; unique within the report.
    command: how it was made, "" if unknown.
    chunks: of protocol.json: task, editor, query, failed and protocol.
    records: lines of records.jsonl; scores that are no numbers are None.
  """

  path: pathlib.Path
  name: str
  command: str
  chunks: list[dict[str, Any]]
  records: list[dict[str, Any]]


def read_folders(paths: Sequence[str | os.PathLike[str]]) -> list[Folder]:
  """Reads every folder, each once.

  Raises:
    UserError: no folder, one is no finished evaluation, or a file is damaged.
  """
  if not paths:
    raise UserError(
      "name a folder with results of instructedit_jax.evaluate, for example"
      " python -m instructedit_jax.report results --out=report"
    )
  unique = list(dict.fromkeys(pathlib.Path(path).resolve() for path in paths))
  names = _names(unique)
  return [_read(path, names[path]) for path in unique]


def _names(paths: Sequence[pathlib.Path]) -> dict[pathlib.Path, str]:
  """The fewest last parts of each path that tell all apart."""
  for depth in range(1, max(len(path.parts) for path in paths) + 1):
    names = {path: "/".join(path.parts[-depth:]) for path in paths}
    if len(set(names.values())) == len(paths):
      return names
  return {path: str(path) for path in paths}


def _read(path: pathlib.Path, name: str) -> Folder:
  if not path.is_dir():
    raise UserError(f"{path}: no such folder of results.")
  for file in (RECORDS, PROTOCOL, SUMMARY):
    if not (path / file).is_file():
      raise UserError(
        f"{path}: has no {file}. Give the --out folder of a finished"
        " instructedit_jax.evaluate; the same command finishes one that was"
        " cut off."
      )
  protocol = _protocol(path / PROTOCOL)
  known = {(c["task"], c["editor"], c["query"]) for c in protocol["chunks"]}
  records = []
  source = path / RECORDS
  for number, line in enumerate(_text(source).split("\n"), 1):
    if not line.strip():
      continue
    place = f"{source}, line {number}"
    record = _record(place, line)
    key = (record["task"], record["editor"], record["query"])
    if key not in known:
      raise UserError(
        f"{place}: {PROTOCOL} knows nothing of {' / '.join(key)}; the two"
        " files are of different evaluations. Evaluate again."
      )
    records.append(record)
  if not records:
    raise UserError(f"{source}: holds no record. Evaluate again.")
  command = protocol.get("command")
  return Folder(
    path,
    name,
    command if isinstance(command, str) else "",
    protocol["chunks"],
    records,
  )


def _text(path: pathlib.Path) -> str:
  try:
    return path.read_text(encoding="utf-8")
  except UnicodeDecodeError as error:
    raise UserError(f"{path}: not UTF-8 text (byte {error.start}).") from None
  except OSError as error:
    raise UserError(f"{path}: cannot be read ({error.strerror}).") from None


def _protocol(path: pathlib.Path) -> dict[str, Any]:
  try:
    raw = json.loads(_text(path))
  except (json.JSONDecodeError, RecursionError) as error:
    raise UserError(f"{path}: malformed JSON ({error}).") from None
  chunks = raw.get("chunks") if isinstance(raw, dict) else None
  if not isinstance(chunks, list) or not chunks:
    raise UserError(f"{path}: needs 'chunks', a list of what was evaluated.")
  for number, chunk in enumerate(chunks):
    place = f"{path}, chunk {number}"
    _need(place, chunk, ("task", "editor", "query"), str)
    _need(place, chunk, ("protocol",), dict)
  return raw


def _record(place: str, line: str) -> dict[str, Any]:
  try:
    raw = json.loads(line)
  except (json.JSONDecodeError, RecursionError) as error:
    raise UserError(f"{place}: malformed JSON ({error}).") from None
  _need(place, raw, _TEXTS, str)
  _need(place, raw, ("scores",), dict)
  _need(place, raw, ("items",), list)
  raw["scores"] = _numbers(f"{place}, field 'scores'", raw["scores"])
  for number, item in enumerate(raw["items"]):
    where = f"{place}, item {number}"
    _need(where, item, _ITEM_TEXTS, str)
    _need(where, item, ("answers",), list)
    _need(where, item, ("scores",), dict)
    item["scores"] = _numbers(f"{where}, field 'scores'", item["scores"])
  return raw


def _need(place: str, raw: Any, fields: Iterable[str], kind: type) -> None:
  if not isinstance(raw, dict):
    raise UserError(f"{place}: must be a JSON object, not {raw!r:.60}.")
  for field in fields:
    if not isinstance(raw.get(field), kind):
      found = repr(raw[field])[:60] if field in raw else "nothing"
      raise UserError(
        f"{place}, field {field!r}: must be a {kind.__name__}, found {found}."
      )


def _numbers(place: str, raw: Mapping[str, Any]) -> dict[str, float | None]:
  for name, value in raw.items():
    if value is not None and (
      isinstance(value, bool) or not isinstance(value, int | float)
    ):
      raise UserError(f"{place}: {name!r} must be a number, not {value!r:.60}.")
  return {
    name: float(value) if value is not None and math.isfinite(value) else None
    for name, value in raw.items()
  }
