"""Edit requests from plain values, from flags and from files.

A request file is JSON Lines, one request a line: {"prompt", "target"} and, if
wanted, "task" (whose usual instruction is then given; ConvSent's also names
"subject" and "sentiment") or "instruction", a description in one's own words;
and "other_form", the prompt asked otherwise.
"""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from instructedit_jax.editors.base import Request
from instructedit_jax.errors import UserError
from instructedit_jax.tasks.instructions import (
  LABEL,
  POOLS,
  TOPIC,
  Instruction,
)

CUSTOM = "custom"  # task name of an instruction in one's own words
SENTIMENTS = ("positive", "negative")
_FILE_FIELDS = (
  "prompt",
  "target",
  "task",
  "instruction",
  "subject",
  "sentiment",
  "other_form",
)

# What `as_requests` understands.
RequestLike = Request | Mapping[str, Any] | Sequence[Any]
_FIELDS = ("prompt", "target", "instruction", "other_form")


def as_requests(
  values: RequestLike | Sequence[RequestLike],
) -> list[Request]:
  """Requests from Requests, from dicts or from tuples.

  Args:
    values: each a `Request`, a dict with its fields, or a tuple (prompt,
      target) or (prompt, target, instruction); or one of them by itself.

  Raises:
    UserError: something else, or a field is missing or unknown.
  """
  if isinstance(values, Request | Mapping):
    return [_as_request(values)]
  if isinstance(values, tuple) and values and isinstance(values[0], str):
    return [_as_request(values)]
  return [_as_request(value) for value in values]


def _as_request(value: Any) -> Request:
  if isinstance(value, Request):
    return value
  if isinstance(value, Mapping):
    wrong = sorted(set(map(str, value)) - set(_FIELDS))
    missing = [name for name in _FIELDS[:2] if name not in value]
    if wrong or missing:
      what = f"lacks {missing[0]!r}" if missing else f"has {wrong[0]!r}"
      raise UserError(
        f"edit request {dict(value)!r} {what}; its fields are"
        f" {', '.join(_FIELDS)}, the last two optional"
      )
    return _made(dict(value))
  if (
    not isinstance(value, Sequence)
    or isinstance(value, str)
    or not 2 <= len(value) <= 3
  ):
    raise UserError(
      f"edit request {value!r}: give a Request, a dict with prompt and target,"
      " or a tuple (prompt, target) or (prompt, target, instruction)"
    )
  return _made(dict(zip(_FIELDS, value, strict=False)))


def _made(fields: dict[str, Any]) -> Request:
  instruction = fields.get("instruction")
  if not isinstance(instruction, Instruction | None):
    raise UserError(
      f"edit request {fields['prompt']!r}: its instruction {instruction!r} must"
      " be an Instruction(task, description) or None"
    )
  return Request(**fields)


def instruction_for(
  task: str | None = None,
  description: str | None = None,
  subject: str | None = None,
  sentiment: str | None = None,
) -> Instruction | None:
  """The instruction that a task's name or a description stands for.

  Args:
    task: one of the known tasks; gives its first description.
    description: one's own words, instead of the task's.
    subject, sentiment: fill the description's placeholders where it has any.

  Returns:
    None if neither a task nor a description is given.

  Raises:
    UserError: an unknown task, a placeholder that nothing fills, or something
      to fill in without an instruction.
  """
  if sentiment is not None and sentiment not in SENTIMENTS:
    raise UserError(
      f"sentiment {sentiment!r}: must be one of {', '.join(SENTIMENTS)}"
    )
  if description is None:
    if task is None:
      for field, value in (("subject", subject), ("sentiment", sentiment)):
        if value is not None:
          raise UserError(
            f"{field} {value!r}: fills in an instruction; give its task, or the"
            " instruction, as well"
          )
      return None
    if task not in POOLS:
      raise UserError(
        f"task {task!r}: none of {', '.join(POOLS)}; describe your own kind"
        " of edit with an instruction instead"
      )
    description = POOLS[task].seen[0]
  for place, field, value in (
    (LABEL, "sentiment", sentiment),
    (TOPIC, "subject", subject),
  ):
    if place in description:
      if not value:
        raise UserError(
          f"{field}: missing; the instruction {description!r} needs it for"
          f" {place}"
        )
      description = description.replace(place, value)
  return Instruction(task or CUSTOM, description)


def read_requests(path: str | os.PathLike[str]) -> list[Request]:
  """Reads a request file.

  Raises:
    UserError: names the file, the line and the field that is wrong.
  """
  source = pathlib.Path(path)
  try:
    lines = source.read_text(encoding="utf-8-sig").split("\n")
  except UnicodeDecodeError as error:
    raise UserError(f"{source}: not UTF-8 text (byte {error.start})") from None
  except OSError as error:
    raise UserError(f"{source}: cannot be read ({error.strerror})") from None
  found = []
  for number, line in enumerate(lines, 1):
    if line.strip():
      try:
        found.append(_from_line(line))
      except UserError as error:
        raise UserError(f"{source}, line {number}: {error}") from None
  if not found:
    raise UserError(
      f"{source}: holds no edit; write one a line, like"
      ' {"prompt": "The capital of France is", "target": "Lyon"}'
    )
  return found


def _from_line(line: str) -> Request:
  try:
    raw = json.loads(line)
  except json.JSONDecodeError as error:
    raise UserError(
      f"malformed JSON at column {error.colno}: {error.msg}"
    ) from None
  if not isinstance(raw, dict):
    raise UserError(f"must be a JSON object, got {type(raw).__name__}")
  for field, value in raw.items():
    if field not in _FILE_FIELDS:
      raise UserError(
        f"field {field!r} is unknown; there are {', '.join(_FILE_FIELDS)}"
      )
    if not isinstance(value, str) or not value.strip():
      raise UserError(f"field {field!r} must be a text that is not empty")
  for field in _FILE_FIELDS[:2]:
    if field not in raw:
      raise UserError(f"field {field!r} is missing")
  try:
    instruction = instruction_for(
      raw.get("task"),
      raw.get("instruction"),
      raw.get("subject"),
      raw.get("sentiment"),
    )
  except UserError as error:
    raise UserError(f"field {error}") from None
  return Request(
    raw["prompt"], raw["target"], instruction, raw.get("other_form")
  )
