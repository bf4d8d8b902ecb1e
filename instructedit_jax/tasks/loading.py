"""Records from a file, whatever its layout; the fields tell which one it is."""

import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from instructedit_jax.errors import UserError
from instructedit_jax.tasks import convsent, fields, knowedit, zsre
from instructedit_jax.tasks.record import (
  CONVSENT,
  COUNTERFACT,
  TASKS,
  WIKIRECENT,
  ZSRE,
  Record,
)
from instructedit_jax.tasks.validation import ValidationReport

Reader = Callable[[fields.Raw, fields.Place, ValidationReport], Record | None]


class _Form(NamedTuple):
  name: str
  needs: frozenset[str]
  read: Reader
  tasks: tuple[str, ...]


# Ordered: the first form all of whose fields are there is taken.
_FORMS = (
  _Form("ConvSent", convsent.FIELDS, convsent.read_convsent, (CONVSENT,)),
  _Form("ZsRE", zsre.FIELDS, zsre.read_zsre, (ZSRE,)),
  _Form("flat CounterFact", knowedit.FLAT_FIELDS, knowedit.read_flat,
        (COUNTERFACT,)),
  _Form("KnowEdit", knowedit.KNOWEDIT_FIELDS, knowedit.read_knowedit,
        (COUNTERFACT, WIKIRECENT, ZSRE)),
)  # fmt: skip


def load_records(
  task: str,
  path: str | os.PathLike[str],
  split: str,
  *,
  other_topics: int = 3,
) -> tuple[list[Record], ValidationReport]:
  """Reads a JSON file of edit records in any of the known layouts.

  Args:
    task: one of `record.TASKS`, or a name of your own.
    path: the file, a JSON list of dicts in UTF-8.
    split: what to call the part of the data, "train", "test", ...
    other_topics: ConvSent only: locality probes each record gets from the
      records after it.

  Returns:
    The records in file order, and what was dropped from them and why. Empty
    targets, prompts and answers are dropped and reported.

  Raises:
    UserError: no such file, not JSON, not a list, an unknown layout, a record
      that lacks a field or has the wrong type in it, or nothing is left.
  """
  source = pathlib.Path(path)
  raws = _read_json(source)
  form = _form_of(raws, source)
  if task in TASKS and task not in form.tasks:
    raise UserError(
      f"{source}: this is a file in the {form.name} layout, which task"
      f" {task!r} cannot use. It suits {', '.join(form.tasks)}."
    )
  report = ValidationReport(task, split, source.name, read=len(raws))
  records = []
  for index, raw in enumerate(raws):
    place = fields.Place(source.name, index, task, split)
    try:
      record = form.read(_dict(raw, place), place, report)
    except UserError as error:
      # Only the file's name is kept in records; an error needs its folder.
      raise UserError(f"{source.parent}{os.sep}{error}") from None
    if record is not None:
      records.append(record)
  if not records:
    raise UserError(
      f"{source}: none of the {len(raws)} records is usable."
      f" {dict(report.dropped_records)}"
    )
  if form.read is convsent.read_convsent:
    records = convsent.with_other_topics(records, other_topics)
  report.tally(records)
  return records, report


def _read_json(source: pathlib.Path) -> list[Any]:
  try:
    content = source.read_text(encoding="utf-8-sig")
  except FileNotFoundError:
    raise UserError(f"{source}: no such file. Check --data.") from None
  except UnicodeDecodeError as error:
    raise UserError(
      f"{source}: not UTF-8 text (byte {error.start}). Is it compressed or"
      " in another encoding?"
    ) from None
  except OSError as error:
    raise UserError(f"{source}: cannot be read ({error.strerror}).") from None
  if not content.strip():
    raise UserError(f"{source}: the file is empty. Was it fully downloaded?")
  if content.startswith("version https://git-lfs"):
    raise UserError(
      f"{source}: only a Git LFS pointer, not the data. Run `git lfs pull`."
    )
  try:
    raws = json.loads(content)
  except json.JSONDecodeError as error:
    raise UserError(
      f"{source}: malformed JSON at line {error.lineno}, column"
      f" {error.colno}: {error.msg}. Was it fully downloaded?"
    ) from None
  except RecursionError:
    raise UserError(f"{source}: JSON nested too deeply.") from None
  if not isinstance(raws, list):
    raise UserError(
      f"{source}: must be a JSON list of records, got a {type(raws).__name__}."
    )
  if not raws:
    raise UserError(f"{source}: the list of records is empty.")
  return raws


def _form_of(raws: list[Any], source: pathlib.Path) -> _Form:
  """The layout of the first record that has one.

  Not simply of the first record: that one may be the malformed one, and then
  the error should name its missing field.
  """
  for raw in raws:
    if isinstance(raw, Mapping):
      for form in _FORMS:
        if form.needs <= raw.keys():
          return form
  known = "; ".join(f"{f.name}: {', '.join(sorted(f.needs))}" for f in _FORMS)
  first = raws[0]
  have = ", ".join(sorted(first)) if isinstance(first, Mapping) else repr(first)
  raise UserError(
    f"{source}, record 0: unknown layout with {have[:200] or 'no fields'}."
    f" Known layouts and the fields they need: {known}."
  )


def _dict(raw: Any, place: fields.Place) -> fields.Raw:
  if not isinstance(raw, Mapping):
    raise UserError(
      f"{place.file}, record {place.index}: must be a dict, got"
      f" {type(raw).__name__}."
    )
  return raw
