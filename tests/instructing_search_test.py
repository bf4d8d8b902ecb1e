"""The search for descriptions: limits, resuming, malformed answers."""

import json
import re

import pytest

from instructedit_jax.errors import UserError
from instructedit_jax.instructing import prompting
from instructedit_jax.instructing import state as states
from instructedit_jax.instructing.endpoint import Endpoint, EndpointConfig
from instructedit_jax.instructing.scoring import Score
from instructedit_jax.instructing.search import Settings, search, split
from instructedit_jax.instructing.writers import MalformedReply
from instructedit_jax.tasks.instructions import (
  LABEL,
  TOPIC,
  InstructionPool,
  load_pools,
)
from tests import tiny
from tests.chat_server import KEY, descriptions, raw, says, serve

RECORDS = {"counterfact": [tiny.record(n) for n in range(6)]}


class Lengths:
  """Longer descriptions are better; notes what it was asked."""

  name = "lengths"

  def __init__(self, fail_after: int = 10**9):
    self.asked: list[tuple[str, tuple[str, ...]]] = []
    self._left = fail_after

  def score(self, task, description, records) -> Score:
    if self._left == 0:
      raise KeyboardInterrupt
    self._left -= 1
    self.asked.append((description, tuple(r.id for r in records)))
    return Score(float(len(description)), 0.0, {"length": 1.0})


def _texts(number: int, count: int = 4) -> list[str]:
  """Descriptions that get longer from round to round."""
  return [f"description {'x' * (number * 10 + i)}." for i in range(count)]


def _writer(answers, **changes) -> Endpoint:
  values = {"key": KEY, "retries": 1, "timeout": 5.0} | changes
  config = EndpointConfig(answers.url, "writer", **values)
  return Endpoint(config, sleep=lambda seconds: None)


def _settings(tmp_path, **changes) -> Settings:
  values = {"count": 4, "keep": 2, "held_out": 1, "rounds": 3, "patience": 1}
  return Settings(tmp_path / "pools" / "p.json", **values | changes)


def _user_text(asked) -> str:
  return asked[1]["messages"][1]["content"]


def test_scores_are_fed_back_until_nothing_is_gained(tmp_path):
  script = [descriptions(*_texts(n)) for n in (0, 1, 0)]
  script.append(descriptions("a short one.", "one more here."))
  with serve(*script) as answers:
    scorer = Lengths()
    made = search(
      _settings(tmp_path, rounds=9), _writer(answers), scorer, RECORDS
    )
  first, second, third, *_ = map(_user_text, answers.asked)
  assert "were tried" not in first
  assert "S0 is => a" in first
  for text in _texts(0):
    assert re.search(rf" {len(text)}\.0  {re.escape(text)}", second)
  assert third.index(_texts(1)[3]) < third.index(_texts(0)[0])
  # The third answer holds only old ones and is asked for again.
  assert len(answers.asked) == 4
  told = made["provenance"]["tasks"]["counterfact"]
  assert told["done"] == "no gain for 1 rounds"
  assert [r["written"] for r in told["rounds"]] == [4, 4, 2]
  best = [r["best"] for r in told["rounds"]]
  assert best[0] < best[1] == best[2]
  lists = made["tasks"]["counterfact"]
  assert sorted(lists["train"] + lists["held_out"]) == _texts(1)[1:]
  assert (len(lists["train"]), len(lists["held_out"])) == (2, 1)


def test_the_writer_hears_of_one_half_only(tmp_path):
  halves = split("t", RECORDS["counterfact"])
  assert [len(half) for half in halves] == [3, 3]

  class Halves(Lengths):
    def score(self, task, description, records):
      super().score(task, description, records)
      return Score(11.0 if list(records) == halves[0] else 77.0)

  with serve(descriptions(*_texts(0)), descriptions(*_texts(1))) as answers:
    search(_settings(tmp_path), _writer(answers), Halves(), RECORDS)
  assert " 11.0  " in _user_text(answers.asked[1])
  assert "77" not in _user_text(answers.asked[1])
  # Examples come from the half whose scores it hears as well.
  for record in halves[1]:
    assert record.prompt not in _user_text(answers.asked[0])


def test_the_pool_file_is_read_by_the_trainers(tmp_path):
  with serve(
    descriptions(*_texts(1), prompt_tokens=100, completion_tokens=50)
  ) as answers:
    settings = _settings(
      tmp_path, rounds=1, prompt_price=1.0, reply_price=2.0, max_cost=5.0
    )
    made = search(settings, _writer(answers), Lengths(), RECORDS)
  pool = load_pools(settings.out)["counterfact"]
  assert len(pool.seen) == 2
  assert len(pool.held_out) == 1
  assert json.loads(settings.out.read_text()) == made
  told = made["provenance"]
  assert told["writer"] == f"writer at {answers.url}"
  assert told["scorer"] == "lengths"
  assert (told["prompt_tokens"], told["reply_tokens"]) == (100, 50)
  assert told["cost"] == pytest.approx(200e-6)
  assert told["calls"] == 1
  assert not told["tokens_estimated"]
  assert len(told["prompts_sha256"]) == 64
  assert len(told["records_sha256"]["counterfact"]) == 64
  (round_,) = told["tasks"]["counterfact"]["rounds"]
  assert len(round_["prompt_sha256"]) == len(round_["reply_sha256"]) == 64
  kept = told["tasks"]["counterfact"]["descriptions"]
  assert sorted(d["split"] for d in kept) == ["", "held_out", "train", "train"]
  assert kept[0]["held_out"]["parts"] == {"length": 1.0}


def test_an_interrupted_search_repeats_nothing(tmp_path):
  script = [descriptions(*_texts(n)) for n in range(3)]
  settings = _settings(tmp_path)
  with serve(*script) as answers:
    whole = search(
      _settings(tmp_path / "whole"), _writer(answers), Lengths(), RECORDS
    )
  asked = []
  with serve(*script) as answers:
    writer = _writer(answers)
    for fail_after in (3, 5, 1, 100):
      scorer = Lengths(fail_after)
      try:
        made = search(settings, writer, scorer, RECORDS)
      except KeyboardInterrupt:
        assert not settings.out.exists()
        assert settings.state_path.exists()
      asked += scorer.asked
  assert len(answers.asked) == 3
  # What was half scored is scored again; nothing else is.
  assert len(set(asked)) == 3 * 4 * 2
  assert len(asked) <= 3 * 4 * 2 + 3
  assert made["tasks"] == whole["tasks"]
  assert made["version"] == whole["version"]


def test_other_settings_need_another_place(tmp_path):
  with serve(descriptions(*_texts(0))) as answers:
    writer = _writer(answers)
    search(_settings(tmp_path, rounds=1), writer, Lengths(), RECORDS)
    with pytest.raises(UserError, match="of a search with keep=2, not 3"):
      search(_settings(tmp_path, keep=3), writer, Lengths(), RECORDS)
    _settings(tmp_path).state_path.write_text("{")
    with pytest.raises(UserError, match="not a readable state"):
      search(_settings(tmp_path), writer, Lengths(), RECORDS)
    _settings(tmp_path).state_path.unlink()
    with pytest.raises(UserError, match="exists already"):
      search(_settings(tmp_path), writer, Lengths(), RECORDS)


def test_limits_keep_what_there_is_and_can_be_raised(tmp_path):
  script = [raw(b"", 500), *(descriptions(*_texts(n)) for n in range(3))]
  with serve(*script) as answers:
    writer = _writer(answers)
    made = search(_settings(tmp_path, max_calls=2), writer, Lengths(), RECORDS)
    assert "limit of 2 calls" in made["provenance"]["stopped"]
    assert len(answers.asked) == made["provenance"]["calls"] == 2
    assert made["tasks"]["counterfact"]["train"]
    more = search(_settings(tmp_path), writer, Lengths(), RECORDS)
    assert more["provenance"]["stopped"] == ""
    assert len(answers.asked) == more["provenance"]["calls"] == 4
    assert more["version"] != made["version"]


def test_the_cost_limit_is_never_passed(tmp_path):
  cost = 1000 * 10 / 1e6  # of each answer
  script = [
    descriptions(*_texts(n), prompt_tokens=0, completion_tokens=1000)
    for n in range(3)
  ]
  with serve(*script) as answers:
    made = search(
      _settings(
        tmp_path, max_cost=2.5 * cost, reply_price=10.0, reply_tokens=1000
      ),
      _writer(answers),
      Lengths(),
      RECORDS,
    )
  assert len(answers.asked) == 2
  assert made["provenance"]["cost"] == pytest.approx(2 * cost)
  assert "cost limit" in made["provenance"]["stopped"]
  with serve(descriptions("never asked for")) as answers:
    with pytest.raises(UserError, match="Raise the limit"):
      search(
        _settings(tmp_path / "b", max_cost=cost / 2, reply_price=10.0),
        _writer(answers),
        Lengths(),
        RECORDS,
      )
    assert answers.asked == []


@pytest.mark.parametrize(
  ("answer", "message"),
  [
    (raw(b"<html>"), "malformed, it begins '<html>'"),
    (says("I would rather not."), "it begins 'I would rather not.'"),
    (says('{"descriptions": []}'), "it begins"),
    (says('{"descriptions": "many"}'), "it begins"),
    (says("[1, 2]"), "it begins"),
    (descriptions("short", "also"), "2 by length"),
    (descriptions("About [TOPIC], be nice."), "1 by placeholder"),
    (says(f"my key is {KEY}"), r"begins 'my key is \[key\]'"),
  ],
)
def test_answers_that_cannot_be_used_are_retried_then_named(
  tmp_path, answer, message
):
  settings = _settings(tmp_path, rounds=1)
  with serve(answer) as answers:
    with pytest.raises(UserError, match=message) as caught:
      search(settings, _writer(answers), Lengths(), RECORDS)
    assert len(answers.asked) == settings.tries
    assert KEY not in str(caught.value)
    assert states.calls(settings.state_path) == 3
    # A better one goes on from there.
    answers.queue[:] = [descriptions(*_texts(0))]
    made = search(settings, _writer(answers), Lengths(), RECORDS)
  assert made["provenance"]["calls"] == 4
  for path in tmp_path.rglob("*"):
    assert path.is_dir() or KEY not in path.read_text()


def test_a_writer_without_new_ideas_is_done(tmp_path):
  with serve(descriptions(*_texts(0), _texts(0)[0].upper())) as answers:
    made = search(
      _settings(tmp_path, patience=5), _writer(answers), Lengths(), RECORDS
    )
  told = made["provenance"]["tasks"]["counterfact"]
  assert told["done"] == "the writer had nothing new"
  assert told["rounds"][0]["dropped"] == {"duplicate": 1}
  assert len(answers.asked) == 1 + 3


def test_given_descriptions_compete_and_equal_scores_are_told(tmp_path, caplog):
  start = {"counterfact": InstructionPool("counterfact", ("y" * 200,))}

  class Same(Lengths):
    def score(self, task, description, records):
      return Score(50.0)

  with serve(descriptions(*_texts(0))) as answers:
    writer = _writer(answers)
    made = search(
      _settings(tmp_path, rounds=1), writer, Lengths(), RECORDS, start
    )
    assert "y" * 200 in json.dumps(made["tasks"])
    assert f"200.0  {'y' * 200}" in _user_text(answers.asked[0])
    search(_settings(tmp_path / "b", rounds=1), writer, Same(), RECORDS)
  assert "all descriptions score alike" in caplog.text


def test_halves_need_two_subjects():
  with pytest.raises(UserError, match="1 records of 1 subjects"):
    split("t", [tiny.record(1)])
  same = [tiny.record(1), tiny.record(1), tiny.record(2), tiny.record(3)]
  first, second = split("t", same)
  assert {r.subject for r in first} & {r.subject for r in second} == set()


@pytest.mark.parametrize(
  "text",
  [
    '{"descriptions": ["one", "two"]}',
    '["one", "two"]',
    'Sure!\n```json\n{"descriptions": ["one", " two "]}\n```\nGood luck.',
    '{"descriptions": [{"description": "one"}, {"description": "two"}]}',
    "1. one\n2) two",
    'Here they are:\n- "one"\n* two\n',
    'As in [1]: {"descriptions": ["one", "two"]}',
    '<think>maybe []</think>{"descriptions": ["one", "two"]}',
  ],
)
def test_lists_are_found_in_prose(text):
  assert prompting.parse(text) == ["one", "two"]


@pytest.mark.parametrize("text", ["", "no", "{}", "[]", "[[[[", '{"a": [1]}'])
def test_no_list_is_malformed(text):
  with pytest.raises(MalformedReply):
    prompting.parse(text)


def test_conversations_need_both_placeholders():
  both = f"Be {LABEL} about {TOPIC} only."
  kept, dropped = prompting.usable(
    "convsent", [both, f"Be nice about {TOPIC} only.", both.upper()], ()
  )
  assert kept == [both]
  assert dropped == {"duplicate": 1, "placeholder": 1} or dropped == {
    "placeholder": 1,
    "duplicate": 1,
  }
  (_, user) = prompting.messages("convsent", [tiny.opinion(1)], 3)
  assert LABEL in user.content
  assert "positive" in user.content


@pytest.mark.parametrize(
  "changes",
  [
    *({"count": 0}, {"keep": 0}, {"seed": -1}),
    *({"max_cost": 1.0}, {"max_cost": -1.0}),
  ],
)
def test_bad_settings_are_told(changes):
  with pytest.raises(UserError):
    Settings("p.json", **changes)
