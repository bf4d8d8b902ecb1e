"""Instructions that say how far an edit reaches: said, trained, measured."""

import numpy as np
import pytest

from instructedit_jax.editing.sequences import Scored
from instructedit_jax.errors import UserError
from instructedit_jax.evaluation import Options
from instructedit_jax.experiments import scope
from instructedit_jax.tasks import scopes
from instructedit_jax.tasks.instructions import Instruction
from instructedit_jax.training.data import Episodes, load_records
from instructedit_jax.training.episodes import Episode, Kind
from instructedit_jax.training.scoped import ScopedMaker, narrowed
from tests import tiny, tiny_run

ALL = [
  text
  for by_split in scopes.SENTENCES.values()
  for texts in by_split.values()
  for text in texts
]


def test_no_sentence_is_there_twice():
  assert len({*ALL}) == len(ALL)
  counts = {
    split: {len(texts[split]) for texts in scopes.SENTENCES.values()}
    for split in ("seen", "held_out")
  }
  assert all(len(each) == 1 for each in counts.values())  # neither is likelier


def test_a_choice_may_state_a_scope():
  record = tiny.record(0)
  plain = Options(instruction="held_out:1").instruction_of(record)
  said = Options(instruction="held_out:1+verbatim:2").instruction_of(record)
  sentence = scopes.SENTENCES["verbatim"]["held_out"][2]
  assert said.description == f"{plain.description} {sentence}"
  assert said.task == plain.task
  name = Options(instruction="name+wide:0").instruction_of(record)
  assert name.description == scopes.SENTENCES["wide"]["held_out"][0]


@pytest.mark.parametrize(
  "choice", ["name+narrow:0", "name+wide", "name+wide:99", "none+wide:0"]
)
def test_scopes_that_do_not_exist_are_told(choice):
  with pytest.raises(UserError, match="scope"):
    Options(instruction=choice).instruction_of(tiny.record(0))


def test_the_protocol_says_which_scopes(monkeypatch):
  stamp = Options(instruction="name+wide:0").protocol()
  assert "scopes_sha256" not in Options(instruction="name").protocol()
  monkeypatch.setitem(scopes.SENTENCES, "wide", {"held_out": ("Other.",)})
  changed = Options(instruction="name+wide:0").protocol()
  assert changed["scopes_sha256"] != stamp["scopes_sha256"]


def _episode():
  edit = Scored((1, 2, 3, 4), (3, 4, 5))
  queries = (
    (Kind.EDIT, edit),
    (Kind.EDIT, Scored((7, 8, 3, 4), (3, 4, 5))),
    (Kind.AVOID, Scored((7, 8, 9), (9, 6))),
    (Kind.KEEP, Scored((5, 6), (7,))),
  )
  return Episode((edit,), Instruction("task", "Text."), True, queries)


def test_a_narrow_edit_keeps_all_other_wordings():
  episode = narrowed(_episode(), 2)
  assert episode.queries == (
    (Kind.EDIT, Scored((1, 2, 3, 4), (3, 4, 5))),
    (Kind.KEEP, Scored((7, 8, 3), (3, 4))),  # its last label is not scored
    (Kind.KEEP, Scored((7, 8, 9), (9, 6))),
    (Kind.KEEP, Scored((5, 6), (7,))),
  )


def test_half_of_what_is_said_is_narrow():
  config = tiny_run.config(tasks=(("counterfact", 1.0),))
  made = Episodes(tiny_run.model(), config, load_records(config))
  maker = ScopedMaker(made._maker._make, 1.0)
  rng = np.random.default_rng(0)
  narrow = {text: 0 for text in ALL}
  seen = {True: [], False: []}
  for _ in range(8):
    for record in made.validation:
      episode = maker(record, rng)
      said = episode.instruction.description
      (sentence,) = (text for text in ALL if said.endswith(" " + text))
      narrow[sentence] += 1
      edits = sum(kind is Kind.EDIT for kind, _ in episode.queries)
      verbatim = sentence in scopes.SENTENCES["verbatim"]["seen"]
      seen[verbatim].append(edits)
      # Unsaid it cannot be known: then the edit is as wide as ever.
      assert (edits == 1) == (verbatim and episode.told)
  for held_out in ("wide", "verbatim"):
    assert not any(narrow[t] for t in scopes.SENTENCES[held_out]["held_out"])
  assert seen[True]
  assert seen[False]


def test_no_share_no_scope():
  config = tiny_run.config(tasks=(("counterfact", 1.0),))
  made = Episodes(tiny_run.model(), config, load_records(config))
  rng = np.random.default_rng(0)
  for record in made.validation:
    said = made._maker(record, rng).instruction.description
    assert not any(said.endswith(text) for text in ALL)


def _record(before, after, em, reliability=100.0):
  item = {"metric": "generalization", "kind": "rephrase"}
  return {
    "items": [item | {"before": before, "after": after}],
    "scores": {"reliability_em": reliability, "generalization_em": em},
  }


def test_obedience_is_what_the_scope_asks_for():
  followed = _record("London", "Lyon", 100.0)
  kept = _record("London", "London", 0.0)
  for record, said, heeded, obeyed in (
    (followed, "wide", 100, 100),
    (followed, "verbatim", 0, 0),
    (kept, "wide", 0, 0),
    (kept, "verbatim", 100, 100),
    # Neither the new answer nor the old one.
    (_record("London", "Paris", 0.0), "verbatim", 100, 0),
    # An edit that did not take at all keeps everything, and obeys nothing.
    (_record("London", "London", 0.0, 0.0), "verbatim", 0, 0),
  ):
    scores = scope.scored(record, said)["scores"]
    assert (scores["heeded"], scores["obeyed"]) == (heeded, obeyed)
  assert "obeyed" not in scope.scored(followed, "unsaid")["scores"]
