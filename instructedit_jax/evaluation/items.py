"""Everything that is asked about one record after its edit."""

import dataclasses

from instructedit_jax.tasks.instructions import Instruction
from instructedit_jax.tasks.record import Record

RELIABILITY = "reliability"
GENERALIZATION = "generalization"
PORTABILITY = "portability"
LOCALITY = "locality"
# Replies to questions on a ConvSent record's topic; scored, never generated.
SAME, OPPOSITE = "same", "opposite"
ANSWERED = (RELIABILITY, GENERALIZATION, PORTABILITY)


@dataclasses.dataclass(frozen=True)
class Item:
  """One question and the answers that count.

  Attributes:
    metric: what it measures, one of this module's names.
    kind: the sub-type that is averaged by itself.
    prompt: as the model reads it, instruction included where there is one.
    answers: the canonical one first, then its aliases.
  """

  metric: str
  kind: str
  prompt: str
  answers: tuple[str, ...]


def items_of(
  record: Record, instruction: Instruction | None, replies: int
) -> list[Item]:
  """The questions of a record, its own prompt first.

  Args:
    record: the record.
    instruction: put in front of every question that is in the edit's scope;
      None for plain questions.
    replies: of each sentiment taken from a conversation.
  """

  def ask(prompt: str) -> str:
    return prompt if instruction is None else instruction.apply(prompt)

  target = (record.target,)
  found = [Item(RELIABILITY, RELIABILITY, ask(record.prompt), target)]
  found += [
    Item(GENERALIZATION, "rephrase", ask(prompt), target)
    for prompt in record.rephrases
  ]
  found += [
    Item(PORTABILITY, probe.kind, ask(probe.prompt), probe.answers)
    for probe in record.portability
  ]
  found += [
    Item(LOCALITY, probe.kind, probe.prompt, probe.answers[:1])
    for probe in record.locality
  ]
  conversation = record.conversation
  if conversation is not None:
    questions = conversation.questions
    for metric, texts in (
      (SAME, conversation.same),
      (OPPOSITE, conversation.opposite),
    ):
      found += [
        Item(metric, metric, ask(questions[i % len(questions)]), (text,))
        for i, text in enumerate(texts[:replies])
      ]
  return found
