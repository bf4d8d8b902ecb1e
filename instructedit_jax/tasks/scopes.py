"""How far an edit reaches, said in its instruction.

The same request may be meant for every wording of its question or for one
wording alone; nothing but the instruction can tell. A scope is a sentence
behind the description of the task. Some sentences are kept apart, as
descriptions are.
"""

from typing import Literal

import numpy as np

from instructedit_jax.errors import UserError
from instructedit_jax.tasks import drawing
from instructedit_jax.tasks.instructions import Instruction, Split

Scope = Literal["wide", "verbatim"]
WIDE: Scope = "wide"  # however the question is asked
VERBATIM: Scope = "verbatim"  # in these words alone
SENTENCES: dict[Scope, dict[Split, tuple[str, ...]]] = {
  "wide": {
    "seen": (
      "This holds however it is asked.",
      "The wording does not matter.",
      "Apply it to every way of putting the question.",
      "Paraphrases get the new answer, too.",
      "Also when somebody asks in other words.",
      "Whatever words the question uses, reply like this.",
      "All formulations are meant.",
      "Rephrased questions follow the change.",
      "Scope: broad, the meaning counts.",
      "Generalize to any phrasing.",
      "It is the fact that changes, not the sentence.",
      "Change what is meant, in all its variations.",
      "Spread this to similar questions.",
      "Everything that asks the same thing is affected.",
      "Use it as knowledge, wherever it comes up.",
      "Be flexible: other phrasings are included.",
    ),
    "held_out": (
      "It counts in any wording.",
      "Answer so no matter how someone phrases it.",
      "Include rewordings of all sorts.",
      "Treat it as a fact and answer every variation accordingly.",
    ),
  },
  "verbatim": {
    "seen": (
      "This holds for exactly these words.",
      "Only the literal text matters.",
      "Leave every other way of putting the question as it was.",
      "Paraphrases keep their old answer.",
      "Never when somebody asks in other words.",
      "Unless the words are just these, reply as before.",
      "One formulation is meant, this one alone.",
      "Rephrased questions stay untouched.",
      "Scope: narrow, letter by letter.",
      "Do not generalize to another phrasing.",
      "It is this sentence that changes, not the fact.",
      "Change a single string and nothing similar.",
      "Keep this from similar questions.",
      "Nothing else that asks the same thing is affected.",
      "Use it as a fixed reply to one precise input.",
      "Be strict: other phrasings are excluded.",
    ),
    "held_out": (
      "It counts word for word only.",
      "Answer so for this very phrasing and nothing else.",
      "Exclude rewordings of all sorts.",
      "Treat it as an exact match and ignore every variation.",
    ),
  },
}
COUNT = min(len(texts["held_out"]) for texts in SENTENCES.values())


def stated(instruction: Instruction, sentence: str) -> Instruction:
  """The instruction with a scope's sentence behind it."""
  return Instruction(
    instruction.task, f"{instruction.description} {sentence}".strip()
  )


def draw(rng: np.random.Generator, scope: Scope) -> str:
  """One of a scope's sentences for training."""
  return drawing.one(rng, SENTENCES[scope]["seen"])


def fixed(scope: str, number: str) -> str:
  """A scope's sentence that no editor is trained with.

  Raises:
    UserError: no such scope or sentence.
  """
  if scope not in SENTENCES or not number.isdecimal() or int(number) >= COUNT:
    raise UserError(
      f"scope {f'{scope}:{number}'!r}: write {' or '.join(SENTENCES)}, a colon"
      f" and a number below {COUNT}"
    )
  return SENTENCES[scope]["held_out"][int(number)]  # type: ignore[index]
