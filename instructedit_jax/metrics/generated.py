"""Whether a freely generated text gives the wanted answer.

The rule: the generated text ends at the end-of-text token, at its first line
break or at the length limit. White space is collapsed. It gives an answer if it
begins with it, letter case included, and the answer is not continued inside a
word or a number: what follows is the end of the text or a character that is
neither a letter nor a digit; a mark such as "-", "'", "." or "," counts as
inside where a letter or digit follows it. So "Paris, in France" gives "Paris";
"Parish", "Paris-Nord" and, for "18", "18.5" do not. A full stop at the end of
the wanted answer may be missing.
"""

import re

RULE = (
  "greedy to end of text, line break or length limit; right if it begins with"
  " the answer, case-sensitive, not continued inside a word or number"
)
_INSIDE = re.compile(r"[^\W_]|[-.,:'’][^\W_]")


def normalise(text: str) -> str:
  """The first line, white space collapsed."""
  return " ".join(text.partition("\n")[0].split())


def gives(text: str, answer: str) -> bool:
  """Whether the generated `text` gives `answer`, by the module's rule."""
  said, wanted = normalise(text), " ".join(answer.split())
  wanted = wanted.removesuffix(".") or wanted
  if not said.startswith(wanted):
    return False
  return not _INSIDE.match(said[len(wanted) :])
