"""Rule-based rewordings of prompts, to train edits that survive a rephrase.

All rules work on the prompt alone; none looks at the answer. A wording is a
question ("Where was X born?") or a cloze ("X was born in"), and the answer
follows either after a blank.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from instructedit_jax.tasks import drawing
from instructedit_jax.tasks.relations import COMPOUND, PERSONS, WORDINGS

# Neutral sentences that may precede a prompt: no names, no facts.
CONTEXTS = (
  "Here is something worth knowing.",
  "The following came up in a conversation yesterday.",
  "Let us turn to the next point.",
  "I was reading about this the other day.",
  "This is a note from my files.",
  "To sum up what we know so far.",
  "One more thing before we go on.",
  "Some of this may be new to you.",
)
# What may stand after an answer: again no names, no facts.
CONTINUATIONS = (
  ". This is",
  ". It is",
  ", and",
  ", which",
  ". In",
  ". The",
  ". What",
  "\n\nThe",
  " (",
  ". That is all",
)
_ASIDES = (
  "Please answer: {question}",
  "Here is a short question. {question}",
  "Quick question: {question}",
  "Someone asked me this: {question}",
)
_DIALOGUES = (
  "Q: {question} A:",
  "Question: {question} Answer:",
  "{question} The answer is",
)


def _pattern(cloze: str) -> re.Pattern[str]:
  before, after = cloze.split("{x}")
  return re.compile(f"{re.escape(before)}(?P<x>.+){re.escape(after)}$", re.I)


def _table(
  entries: Iterable[tuple[str, tuple[str, ...]]],
) -> tuple[tuple[re.Pattern[str], tuple[str, ...]], ...]:
  """Longest fixed text first: the most specific relation wins."""
  ordered = sorted(entries, key=lambda item: len(item[0]), reverse=True)
  return tuple((_pattern(text), templates) for text, templates in ordered)


_RELATIONS = _table(WORDINGS.items())
# Any of a relation's wordings leads to the others, questions first.
_WORDED = _table(
  (worded, (*(t for t in templates if t != worded), cloze))
  for cloze, templates in WORDINGS.items()
  for worded in templates
)
# "The (name of the) R of X is", perhaps with a word that leads to the answer.
_GENERIC = re.compile(
  r"(?P<article>The|A|An) (?:(?P<name>names?) of the )?(?P<noun>.+)"
  r" (?P<verb>is|are|was|were)(?: (?:a|an|the|about|in|on|at|number))?$"
)
_OF = re.compile(rf"(?P<role>{COMPOUND}|(?:(?! of ).)+) of (?P<x>.+)$")
_HEADS = ("head of state", "head of government")  # who, as of any person
# A question that is such a cloze turned round.
_TURNED = re.compile(
  r"(?:What|Who|Which) (?P<verb>is|are|was|were) (?P<noun>the .+ of .+)\?$"
)
# What leads up to a name: "X's mother is named".
_NAMING = ("called", "named", "known as")
_NAMED = re.compile(
  rf"(?P<cloze>.+ (?:is|are|was|were)) (?:{'|'.join(_NAMING)})$"
)
_CLAUSE = re.compile(r" (?:which|that|who|whom|where) ")


def wordings(prompt: str) -> tuple[str, ...]:
  """Other wordings of a prompt, questions first, without the prompt itself.

  Known relations have several of their own, from whichever of them the prompt
  has; any other "The R of X is", or the question "What is the R of X?", gets
  the generic ones; a prompt of another shape gets none. Where a name is asked
  for, "X's mother is" may go on "called", "named" or "known as", too.
  """
  prompt = prompt.strip()
  turned, named = _TURNED.match(prompt), _NAMED.match(prompt)
  plain = named["cloze"] if named else prompt
  cloze = f"{_capital(turned['noun'])} {turned['verb']}" if turned else plain
  found = (
    _filled(_RELATIONS, cloze) or _generic(cloze) or _filled(_WORDED, plain)
  )
  if named and not found:
    return ()  # "Bob is" is not "Bob is called"
  found.append(cloze)
  return _distinct([*found, *_naming(found, bool(named))], prompt)


def other_form(prompt: str) -> str | None:
  """The same asked in the other way: a question of a cloze, or a cloze.

  A cloze has always one, if need be "... what?"; of a question, an opinion's
  for instance, there may be no cloze: None.
  """
  prompt = prompt.strip()
  asks = prompt.endswith("?")
  for wording in wordings(prompt):
    if wording.endswith("?") != asks:
      return wording
  return None if asks else f"{prompt} what?"


def _filled(
  table: Sequence[tuple[re.Pattern[str], Sequence[str]]], prompt: str
) -> list[str]:
  """The wordings of a table, if the prompt is in it."""
  for pattern, templates in table:
    match = pattern.match(prompt)
    if match:
      return [
        _fill(template, match["x"])
        for template in templates
        # "the founder of X's gender" would be read as the gender of X.
        if not (match["x"].startswith("the ") and "{x}'s" in template)
      ]
  return []


def _fill(template: str, holder: str) -> str:
  # Only a phrase is capitalised; a name such as "iPhone" is left as it is.
  if template.startswith("{x}") and holder.startswith("the "):
    holder = _capital(holder)
  return template.replace("{x}", holder)


def paraphrases(prompt: str, subject: str) -> tuple[str, ...]:
  """Every variant the rules can make of a prompt, always in the same order.

  Wordings first, then these questions in a dialogue or after an aside, then
  the prompt after a neutral sentence. Variants that lost the subject, which
  the prompt had, are left out.
  """
  prompt = prompt.strip()
  plain = wordings(prompt)
  variants = (
    list(plain) + list(_questions(prompt, plain)) + list(_placed(prompt))
  )
  return _distinct(
    [v for v in variants if subject in v or subject not in prompt], prompt
  )


def rephrase(prompt: str, subject: str, rng: np.random.Generator) -> str:
  """One variant at random; the kind of variant is drawn first.

  Half are other wordings, the rest questions in a dialogue or a prompt or
  wording after a neutral sentence. Never fails: every prompt can at least
  follow a sentence.
  """
  prompt = prompt.strip()
  plain = [w for w in wordings(prompt) if subject in w or subject not in prompt]
  kind = rng.random()
  if plain and kind < 0.5:
    return drawing.one(rng, plain)
  asked = list(_questions(prompt, plain))
  if asked and kind < 0.75:
    return drawing.one(rng, asked)
  return drawing.one(rng, list(_placed(drawing.one(rng, [prompt, *plain]))))


def continuation(rng: np.random.Generator) -> str:
  """The beginning of some text after an answer."""
  return drawing.one(rng, CONTINUATIONS)


def _questions(
  prompt: str, plain: list[str] | tuple[str, ...]
) -> Iterator[str]:
  """Questions in a dialogue or after an aside."""
  for question in (prompt, *plain):
    if question.endswith("?"):
      for template in _DIALOGUES + _ASIDES:
        yield template.replace("{question}", question)


def _placed(prompt: str) -> Iterator[str]:
  """A prompt after a neutral sentence."""
  return (f"{context} {prompt}" for context in CONTEXTS)


def _generic(prompt: str) -> list[str]:
  """Wordings of any "The R of X is" and "The R which X ... is"."""
  match = _GENERIC.match(prompt)
  if not match:
    return []
  noun, verb = match["noun"], match["verb"]
  article = "the" if match["name"] else match["article"].lower()
  head = _CLAUSE.split(noun)[0]
  relation = _OF.match(head)
  role = relation["role"] if relation else head
  word = "Who" if role.split()[-1] in PERSONS or role in _HEADS else "What"
  found = [f"{word} {verb} {article} {noun}?"]
  if match["name"]:
    names = match["name"]
    found.append(f"What {verb} the {names} of the {noun}?")
  found.append(f"Can you tell me {word.lower()} {article} {noun} {verb}?")
  if relation and not _CLAUSE.search(noun):
    holder = relation["x"]
    if not holder.startswith("the "):
      found.append(f"{word} {verb} {holder}'s {role}?")
      found.append(f"{holder}'s {role} {verb}")
  found.append(f"As far as is known, {article} {noun} {verb}")
  return found


def _naming(found: Sequence[str], named: bool) -> list[str]:
  """The plainest cloze of a name, with a verb of naming behind it."""
  if not named and not any(w.startswith("The name") for w in found):
    return []
  for wording in found:
    if wording.endswith((" is", " are")) and not wording.startswith("The name"):
      return [f"{wording} {verb}" for verb in _NAMING]
  return []


def _capital(text: str) -> str:
  return text[0].upper() + text[1:]


def _distinct(variants: list[str], prompt: str) -> tuple[str, ...]:
  return tuple(v for v in dict.fromkeys(variants) if v and v != prompt)
