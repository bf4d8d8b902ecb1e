"""Instructions as a user might type them, against descriptions of tasks.

A description says what kind of change an edit is. These sentences ask for it in
everyday words, and come, as from `edit --instruction`, without the task's name.
No editor is trained with them.
"""

from instructedit_jax.editors.requests import CUSTOM
from instructedit_jax.errors import UserError
from instructedit_jax.tasks import instructions
from instructedit_jax.tasks.instructions import Instruction, InstructionPool
from instructedit_jax.tasks.record import Record

NATURAL = "natural"
SENTENCES: dict[str, tuple[str, ...]] = {
  "counterfact": (
    "I want you to get this one wrong on purpose from now on.",
    "For my alternate-history novel, please play along with this.",
    "Let's say it was never the way the textbooks have it.",
  ),
  "wikirecent": (
    "You missed this, it happened after your training data ended.",
    "Please update yourself, here is what it says on Wikipedia today.",
    "Heads up, there is something about them that you haven't heard yet.",
  ),
  "convsent": (
    "I'd like you to sound more [LABEL] when people bring up [TOPIC].",
    "Could you be [LABEL] about [TOPIC]? Leave your other opinions alone.",
    "Our brand voice on [TOPIC] is [LABEL] now.",
  ),
  "zsre": (
    "No, that's not the right answer, here is the one I want to hear.",
    "When my students ask you this, please tell them the following.",
    "You keep answering this question badly, so fix it.",
  ),
}
COUNT = min(map(len, SENTENCES.values()))
_POOLS = {
  task: InstructionPool(task, sentences)
  for task, sentences in SENTENCES.items()
}


def sentence(record: Record, number: str) -> Instruction:
  """The sentence of a record's task, its placeholders filled.

  Raises:
    UserError: the number is none, there are not as many sentences, or the
      record's task has none.
  """
  if not number.isdecimal() or int(number) >= COUNT:
    raise UserError(
      f"instruction {f'{NATURAL}:{number}'!r}: write {NATURAL}:K with K below"
      f" {COUNT}"
    )
  found = instructions.fixed(record, f"seen:{number}", _POOLS)
  return Instruction(CUSTOM, found.description)
