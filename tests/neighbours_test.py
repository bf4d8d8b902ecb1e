import numpy as np
import pytest

from instructedit_jax.tasks.neighbours import Neighbours
from instructedit_jax.tasks.record import Probe, Record


def _record(subject, prompt, target, truth=(), locality=()):
  return Record(
    id=f"{subject}/{prompt}",
    task="counterfact",
    subject=subject,
    prompt=prompt.replace("{}", subject),
    target=target,
    ground_truth=truth,
    locality=tuple(
      Probe("Relation_Specificity", question.replace("{}", subject), (answer,))
      for question, answer in locality
    ),
  )


CAPITAL, RIVER = "The capital of {} is", "The longest river of {} is"


@pytest.fixture
def records():
  return [
    _record("France", CAPITAL, "Lyon", ("Paris",), [(RIVER, "Loire")]),
    _record("Italy", CAPITAL, "Milan", (), [(RIVER, "Po")]),
    _record("Mars", "The moons of {} are", "three"),
  ]


def _draws(draw, record, count=40):
  rng = np.random.default_rng(0)
  return {draw(record, rng) for _ in range(count)}


def test_same_subject_asks_another_relation(records):
  found = _draws(Neighbours(records).same_subject, records[0])
  asked = {pair[0] for pair in found if pair}
  assert asked == {"The longest river of France is"}


def test_same_relation_asks_another_subject(records):
  found = _draws(Neighbours(records).same_relation, records[0])
  assert found == {("The capital of Italy is", "Milan")}


def test_a_relation_seen_once_is_asked_about_anyone(records):
  found = _draws(Neighbours(records).same_relation, records[2])
  asked = {pair[0] for pair in found if pair}
  assert asked == {"The moons of France are", "The moons of Italy are"}


def test_an_exception_rules_the_new_answer_out(records):
  neighbours = Neighbours(records)
  asked = "The capital of France, which is not Lyon, is"
  assert _draws(neighbours.excepted, records[0]) == {(asked, "Paris")}
  # Without a known truth any answer will do to read on with.
  found = _draws(neighbours.excepted, records[1])
  assert {pair[0] for pair in found} == {
    "The capital of Italy, which is not Milan, is"
  }
