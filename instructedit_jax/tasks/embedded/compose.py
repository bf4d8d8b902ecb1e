"""Facts and wordings put together into edit records of the fact tasks."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from instructedit_jax.tasks import drawing
from instructedit_jax.tasks.embedded.facts import Entity
from instructedit_jax.tasks.embedded.wordings import MANY, WORDINGS, Wording

Raw = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Edit:
  """A fact about to be changed: which one, and to what."""

  entity: Entity
  relation: str
  target: str

  @property
  def wording(self) -> Wording:
    """The sentences of the relation."""
    return WORDINGS[self.entity.kind, self.relation]

  def say(self, template: str) -> str:
    """A template about the subject, with {y} for the new answer."""
    return _capital(_fill(template, self.entity.said, self.target))


class Composer:
  """Makes records about some entities; all draws come from one generator."""

  def __init__(self, entities: Sequence[Entity], world: Sequence[Entity], rng):
    """`entities` are edited; answers may come from the whole `world`."""
    self.entities = entities
    self.rng: np.random.Generator = rng
    self._by_name = {(e.kind, e.name): e for e in world}
    self._values: dict[tuple[str, str], list[str]] = {}
    for entity in world:
      for relation, answers in entity.facts.items():
        values = self._values.setdefault((entity.kind, relation), [])
        values.append(answers[0])

  def false_edit(self, entity: Entity, relation: str) -> Edit:
    """The fact gets the answer of another entity of the same kind."""
    answers = entity.facts[relation]
    values = self._values[entity.kind, relation]
    choices = [v for v in dict.fromkeys(values) if v not in answers]
    return Edit(entity, relation, self._choice(choices))

  def counterfact(self, edit: Edit) -> Raw:
    """A record in KnowEdit's layout with a false target."""
    return {
      "subject": edit.entity.name,
      "prompt": edit.say(edit.wording.cloze),
      "target_new": edit.target,
      "ground_truth": edit.entity.facts[edit.relation][0],
      "rephrase": edit.say(self._choice(edit.wording.questions)),
      "locality": self._locality(edit),
      "portability": self._portability(edit),
    }

  def recent(self, entity: Entity, relation: str) -> Raw:
    """A record in KnowEdit's layout with a true target, told as news."""
    answers = entity.facts[relation]
    edit = Edit(entity, relation, answers[0])
    return {
      "subject": entity.name,
      "prompt": edit.say(edit.wording.recent),
      "target_new": edit.target,
      "rephrase": edit.say(edit.wording.recent_question),
      "locality": self._locality(edit),
      "portability": self._portability(edit, edit.wording.recent),
    }

  def zsre(self, edit: Edit) -> Raw:
    """A record in ZsRE's layout with a false target."""
    source, *others = edit.wording.questions
    question, answer = self._unrelated(edit)
    chained = self._two_steps(edit) or self._aliased(edit, source)
    return {
      "subject": edit.entity.name,
      "src": edit.say(source),
      "alt": edit.target,
      "rephrase": edit.say(self._choice(others)),
      "answers": [edit.entity.facts[edit.relation][0]],
      "loc": f"nq question: {question.lower().rstrip('?')}",
      "loc_ans": answer,
      "portability": {
        "New Question": chained["prompt"],
        "New Answer": chained["ground_truth"][0][0],
      },
    }

  def _locality(self, edit: Edit) -> Raw:
    """Other facts of the subject; other answers; the fact of another."""
    entity = edit.entity
    others = [r for r in entity.facts if r != edit.relation]
    # A city that changes country may change continent and clock with it.
    others = [r for r in others if not _follows(edit.relation, r)]
    picked = [others[i] for i in self.rng.permutation(len(others))[:2]]
    kinds = {
      "Relation_Specificity": [
        _probe(
          _fill(WORDINGS[entity.kind, r].cloze, entity.said), entity.facts[r]
        )
        for r in picked
      ]
    }
    rest = [a for a in entity.facts[edit.relation] if a != edit.target]
    if edit.relation in MANY and rest:
      kinds["Forgetfulness"] = [_probe(edit.say(MANY[edit.relation]), rest)]
    other = self._other(edit)
    kinds["Neighborhood"] = [
      _probe(_fill(edit.wording.cloze, other.said), other.facts[edit.relation])
    ]
    return {kind: probes for kind, probes in kinds.items() if probes}

  def _portability(self, edit: Edit, cloze: str = "") -> Raw:
    kinds = {
      "Subject_Aliasing": [self._aliased(edit, cloze or edit.wording.cloze)]
    }
    if chained := self._two_steps(edit):
      kinds["Reasoning"] = [chained]
    if edit.wording.back:
      kinds["Logical_Generalization"] = [
        _probe(edit.say(edit.wording.back), [edit.entity.name])
      ]
    return kinds

  def _aliased(self, edit: Edit, template: str) -> Raw:
    alias = edit.entity.alias
    if edit.relation in ("domain", "symbol"):
      # The alias would give the old answer away.
      alias = f"the {edit.entity.kind} called {edit.entity.name}"
    return _probe(_fill(template, alias, edit.target), [edit.target])

  def _two_steps(self, edit: Edit) -> Raw | None:
    """A fact of the new answer, asked through the subject."""
    wording = edit.wording
    middle = self._by_name.get((wording.leads_to, edit.target))
    if middle is None:
      return None
    relation = self._choice(
      [r for r in middle.facts if r not in MANY and r != "population"]
    )
    template = WORDINGS[middle.kind, relation].cloze
    return _probe(
      _fill(template, _fill(wording.noun, edit.entity.said)),
      middle.facts[relation],
    )

  def _unrelated(self, edit: Edit) -> tuple[str, str]:
    """A question on another kind of entity, and its answer."""
    others = [e for e in self.entities if e.kind != edit.entity.kind]
    entity = self._choice(others)
    relation = self._choice(list(entity.facts))
    question = self._choice(WORDINGS[entity.kind, relation].questions)
    return _fill(question, entity.said), entity.facts[relation][0]

  def _other(self, edit: Edit) -> Entity:
    return self._choice(
      [
        e
        for e in self.entities
        if e.kind == edit.entity.kind
        and e is not edit.entity
        and edit.relation in e.facts
      ]
    )

  def _choice(self, options: Sequence[Any]) -> Any:
    return drawing.one(self.rng, options)


def _follows(changed: str, relation: str) -> bool:
  """Whether a changed fact may drag another one along."""
  linked = {
    "country": ("continent", "timezone", "hemisphere"),
    "continent": ("country", "timezone", "hemisphere", "neighbour", "city"),
    "timezone": ("country", "continent"),
    "hemisphere": ("country", "continent", "timezone"),
    "capital": ("city",),
    "neighbour": ("continent",),
    "symbol": (),
    "number": ("symbol", "period", "block", "series"),
    "period": ("number", "block"),
    "block": ("series", "number"),
    "series": ("block", "number", "period"),
  }
  return relation in linked.get(changed, ())


def _fill(template: str, x: str, y: str = "") -> str:
  return template.replace("{x}", x).replace("{y}", y)


def _capital(text: str) -> str:
  return text[0].upper() + text[1:]


def _probe(prompt: str, answers: Sequence[str]) -> Raw:
  return {"prompt": prompt, "ground_truth": [list(answers)]}
