"""Out-of-scope prompts beside an edit, made up from other records.

A record names few things that must not change. But to keep a model's answer
nobody has to know the right one, so any prompt will do: another fact about the
same subject (the hard case), the same fact about another subject.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from instructedit_jax.tasks import drawing
from instructedit_jax.tasks.record import Record

_PLACE = "{subject}"


@dataclasses.dataclass(frozen=True)
class Relation:
  """A cloze with the subject left out, and answers it was seen with."""

  template: str
  answers: tuple[str, ...]


class Neighbours:
  """Draws prompts near a record's, with an answer each to read on with.

  Args:
    records: give the relations, from their prompts and their locality probes.
  """

  def __init__(self, records: Iterable[Record]):
    answers: dict[str, list[str]] = {}
    subjects: dict[str, list[tuple[str, str]]] = {}
    for record in records:
      if record.conversation is not None:
        continue
      pairs = [(record.prompt, record.target)]
      pairs += [(probe.prompt, probe.answers[0]) for probe in record.locality]
      for prompt, answer in pairs:
        # An answer inside the prompt ("which is not ...") belongs to it alone.
        if record.subject in prompt and answer not in prompt:
          template = prompt.replace(record.subject, _PLACE)
          if record.target not in template:
            answers.setdefault(template, []).append(answer)
            pair = (record.subject, answer)
            subjects.setdefault(template, []).append(pair)
    # Seen once, a template is as likely a whole sentence as a relation.
    self.relations: Sequence[Relation] = [
      Relation(template, tuple(found))
      for template, found in answers.items()
      if len(found) > 1
    ]
    self._subjects = subjects
    self._everyone = [pair for pairs in subjects.values() for pair in pairs]
    counts = np.asarray([len(r.answers) for r in self.relations], np.float64)
    # As often as in the data: most subjects are people, and so are most facts.
    self._chances = counts / counts.sum() if len(counts) else counts

  def same_subject(
    self, record: Record, rng: np.random.Generator
  ) -> tuple[str, str] | None:
    """Another relation of the record's subject, and a possible answer."""
    if not self.relations or record.conversation is not None:
      return None
    own = record.prompt.replace(record.subject, _PLACE)
    index = rng.choice(len(self.relations), p=self._chances)
    relation = self.relations[int(index)]
    if relation.template == own:
      return None
    answer = drawing.one(rng, relation.answers)
    return relation.template.replace(_PLACE, record.subject), answer

  def same_relation(
    self, record: Record, rng: np.random.Generator
  ) -> tuple[str, str] | None:
    """The record's question about another subject, and a possible answer."""
    if record.conversation is not None or record.subject not in record.prompt:
      return None
    template = record.prompt.replace(record.subject, _PLACE)
    pairs = self._subjects.get(template, ())
    pairs = [pair for pair in pairs if pair[0] != record.subject]
    # A relation seen once is asked about anyone: an edit must not answer.
    pairs = pairs or self._everyone
    if not pairs:
      return None
    subject, answer = drawing.one(rng, pairs)
    if subject == record.subject:
      return None
    return template.replace(_PLACE, subject), answer

  def excepted(
    self, record: Record, rng: np.random.Generator
  ) -> tuple[str, str] | None:
    """The record's own question with the new answer ruled out."""
    before, blank, verb = record.prompt.rpartition(" ")
    if record.conversation or verb not in ("is", "are", "was", "were"):
      return None
    asked = f"{before}, which is not {record.target},{blank}{verb}"
    if record.ground_truth:
      return asked, record.ground_truth[0]
    if not self._everyone:
      return None
    return asked, drawing.one(rng, self._everyone)[1]
