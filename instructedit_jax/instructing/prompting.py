"""What the writer is asked, and how its answer is read."""

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from instructedit_jax.instructing.endpoint import beginning
from instructedit_jax.instructing.writers import MalformedReply, Message
from instructedit_jax.tasks.instructions import LABEL, TOPIC
from instructedit_jax.tasks.record import CONVSENT, Record

_SYSTEM = (
  "You write task descriptions for a system that edits what a language model"
  " knows. A description is one sentence that tells what kind of change is"
  " made, how such prompts are asked, and what must stay as it was. It suits"
  " every record of the task and names no particular one."
)
_FIRST = """\
Task: {task}
Examples of its records, prompt => wanted answer:
{examples}

Write {count} different descriptions of this task. Vary wording, length and
point of view.{rules}
Answer with JSON alone: {{"descriptions": ["...", "..."]}}"""
_NEXT = """\
Task: {task}
Examples of its records, prompt => wanted answer:
{examples}

These descriptions were tried. The score, 0 to 100, is the harmonic mean of
how often the edit succeeds, how often it carries over to other wordings, and
how much else stays unchanged.
{scored}

Work out what the better ones have in common. Then write {count} new
descriptions that should score higher. Repeat none of the above.{rules}
Answer with JSON alone: {{"descriptions": ["...", "..."]}}"""
_RULE = " Each has at most {longest} characters and no line break."
_CONVERSATION = (
  f" Each contains {LABEL}, which stands for the wanted sentiment (positive or"
  f" negative), and {TOPIC}, which stands for the topic; write both just so."
)
_SHORTEST, LONGEST = 12, 240
_TRIED = 8  # best and worst ones that are shown
_SHOWN = 160  # characters of an example
_PLACE = re.compile(r"\[[^\]]*\]")
_ITEM = re.compile(r"^\s*(?:\d+\s*[.):]|[-*•])\s+(.*\S)\s*$")


def digest(text: str) -> str:
  """SHA-256, as in the provenance."""
  return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def templates_digest() -> str:
  """Which wording of the prompts wrote a pool."""
  whole = (_SYSTEM, _FIRST, _NEXT, _RULE, _CONVERSATION)
  return digest("\n".join(whole))


def messages(
  task: str,
  examples: Sequence[Record],
  count: int,
  tried: Sequence[tuple[str, float]] = (),
) -> list[Message]:
  """The conversation that asks for descriptions.

  Args:
    task: its name.
    examples: records to show.
    count: how many descriptions are wanted.
    tried: descriptions with their scores, best first.
  """
  rules = _RULE.format(longest=LONGEST)
  if task == CONVSENT:
    rules += _CONVERSATION
  fields: dict[str, Any] = {
    "task": task,
    "examples": "\n".join(map(_example, examples)),
    "count": count,
    "rules": rules,
  }
  text = _FIRST
  if tried:
    text = _NEXT
    kept = list(tried)
    if len(kept) > 2 * _TRIED:
      kept = [*kept[:_TRIED], *kept[-_TRIED:]]
    fields["scored"] = "\n".join(
      f"{score:5.1f}  {description}" for description, score in kept
    )
  return [Message("system", _SYSTEM), Message("user", text.format(**fields))]


def _example(record: Record) -> str:
  def short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"

  line = f"- {short(record.prompt)} => {short(record.target)}"
  if record.conversation is not None:
    line += f" ({LABEL} = {record.conversation.wanted},"
    line += f" {TOPIC} = {short(record.subject)})"
  return line


def parse(text: str) -> list[str]:
  """The descriptions in an answer: JSON, or else a list.

  Raises:
    MalformedReply: neither is there, or it is empty.
  """
  found = _from_json(text)
  if found is None:
    matches = (_ITEM.match(line) for line in text.splitlines())
    found = [match[1] for match in matches if match]
  found = [item.strip().strip('"“”') for item in found if item.strip()]
  if not found:
    raise MalformedReply(beginning(text))
  return found


def _from_json(text: str) -> list[str] | None:
  """The first list of texts, perhaps under "descriptions", among any prose."""
  decoder = json.JSONDecoder()
  for match in re.finditer(r"[\[{]", text):
    try:
      value, _ = decoder.raw_decode(text, match.start())
    except (ValueError, RecursionError):
      continue
    if isinstance(value, Mapping):
      value = value.get("descriptions")
    if isinstance(value, list):
      items = [
        item.get("description") if isinstance(item, Mapping) else item
        for item in value
      ]
      texts = [item for item in items if isinstance(item, str)]
      if texts:
        return texts
  return None


def usable(
  task: str, descriptions: Sequence[str], known: Collection[str]
) -> tuple[list[str], dict[str, int]]:
  """Those that can be used, each once; and why how many others cannot.

  Args:
    task: its name.
    descriptions: candidates.
    known: `plain` forms of those there are already.
  """
  kept, dropped = [], dict.fromkeys(("duplicate", "length", "placeholder"), 0)
  seen = set(known)
  for text in (" ".join(text.split()) for text in descriptions):
    places = set(_PLACE.findall(text))
    wanted = {LABEL, TOPIC} if task == CONVSENT else set()
    if not _SHORTEST <= len(text) <= LONGEST:
      dropped["length"] += 1
    elif places != wanted:
      dropped["placeholder"] += 1
    elif plain(text) in seen:
      dropped["duplicate"] += 1
    else:
      seen.add(plain(text))
      kept.append(text)
  return kept, {reason: n for reason, n in dropped.items() if n}


def plain(text: str) -> str:
  """Letters and digits alone; equal forms are one description."""
  return " ".join(re.findall(r"\w+", text.casefold()))
