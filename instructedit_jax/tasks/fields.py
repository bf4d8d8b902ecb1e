"""Reading one field of one raw JSON record, with errors that say where."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from instructedit_jax.errors import UserError
from instructedit_jax.tasks.record import Probe
from instructedit_jax.tasks.validation import ValidationReport

Raw = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Place:
  """A record's position in its file, for ids and for error messages."""

  file: str
  index: int
  task: str
  split: str

  @property
  def id(self) -> str:
    """The record's id; depends on the position, not on what was dropped."""
    return f"{self.task}/{self.split}/{self.index}"

  def error(self, field: str, problem: str) -> UserError:
    """A UserError that names the file, the record and the field."""
    return UserError(
      f"{self.file}, record {self.index}, field {field!r}: {problem}"
    )


def text(raw: Raw, field: str, place: Place) -> str:
  """The stripped text of a field; empty if the text is blank or null.

  Raises:
    UserError: the field is missing or not a text.
  """
  if field not in raw:
    raise place.error(
      field,
      f"is missing; the record has {', '.join(sorted(raw)) or 'no field'}."
      " Add it or remove the record.",
    )
  return _leaf(raw[field], field, place)


def answers(value: Any, field: str, place: Place) -> tuple[str, ...]:
  """All names of an answer, canonical name first, without repetitions.

  `value` is a text, a number, or lists of these nested to any depth, as in
  [["Soviet Union", "USSR"], ["Russia"]]; blanks and nulls are left out.

  Raises:
    UserError: there is something else in it.
  """
  found: dict[str, None] = {}

  def walk(node: Any) -> None:
    if isinstance(node, list | tuple):
      for child in node:
        walk(child)
    elif name := _leaf(node, field, place):
      found.setdefault(name)

  walk(value)
  return tuple(found)


def probes(
  raw: Raw, field: str, place: Place, report: ValidationReport
) -> tuple[Probe, ...]:
  """The probes of {kind: [{prompt, ground_truth}, ...]}, kinds in order.

  The field may be absent or null, and so may any kind. A kind may also be one
  dict of two parallel lists. Probes without a prompt or an answer are dropped
  and reported.

  Raises:
    UserError: the layout is none of these.
  """
  kinds = raw.get(field) or {}
  if not isinstance(kinds, Mapping):
    raise place.error(
      field, f"must be a dict of lists by kind, got {type(kinds).__name__}."
    )
  kept = []
  for kind, items in kinds.items():
    for number, item in enumerate(_items(items, f"{field}.{kind}", place)):
      where = f"{field}.{kind}[{number}]"
      prompt = text(item, "prompt", place)
      if "ground_truth" not in item:
        raise place.error(where, "has no 'ground_truth'. Add it or remove it.")
      names = answers(item["ground_truth"], where, place)
      if not prompt:
        report.drop_probe("empty prompt", f"{place.id} {where}")
      elif not names:
        report.drop_probe("no answer", f"{place.id} {where} {prompt!r}")
      else:
        kept.append(Probe(kind, prompt, names))
  return tuple(kept)


def _items(items: Any, field: str, place: Place) -> Iterator[Raw]:
  if items is None:
    return
  if isinstance(items, Mapping):
    items = _transposed(items, field, place)
  if not isinstance(items, list):
    raise place.error(
      field, f"must be a list of dicts, got {type(items).__name__}."
    )
  for item in items:
    if not isinstance(item, Mapping):
      raise place.error(
        field,
        "must hold dicts with 'prompt' and 'ground_truth', got"
        f" {type(item).__name__}.",
      )
    yield item


def _transposed(items: Raw, field: str, place: Place) -> list[Raw]:
  """A dict of lists, or a lone probe, as a list of dicts."""
  prompts, truths = items.get("prompt"), items.get("ground_truth")
  if isinstance(prompts, str):
    return [items]
  if not isinstance(prompts, list) or not isinstance(truths, list):
    raise place.error(field, "needs both lists 'prompt' and 'ground_truth'.")
  if len(prompts) != len(truths):
    raise place.error(
      field, f"has {len(prompts)} prompts but {len(truths)} answers."
    )
  pairs = zip(prompts, truths, strict=True)
  return [{"prompt": p, "ground_truth": t} for p, t in pairs]


def _leaf(value: Any, field: str, place: Place) -> str:
  if value is None:
    return ""
  if isinstance(value, int | float) and not isinstance(value, bool):
    return str(value)
  if not isinstance(value, str):
    raise place.error(field, f"must be a text, got {type(value).__name__}.")
  try:
    value.encode("utf-8")
  except UnicodeEncodeError as error:
    # JSON may spell half of a surrogate pair, which no tokenizer accepts.
    raise place.error(
      field, f"holds a broken character at position {error.start}."
    ) from None
  return value.strip()
