"""Requests from plain values and from files; every mistake has its place."""

import pytest

from instructedit_jax.editors.base import Request
from instructedit_jax.editors.requests import (
  as_requests,
  instruction_for,
  read_requests,
)
from instructedit_jax.errors import UserError
from instructedit_jax.tasks.instructions import POOLS, Instruction

TOLD = Instruction("t", "d")


@pytest.mark.parametrize(
  "values",
  [
    Request("p", "t"),
    ("p", "t"),
    [["p", "t"]],
    [("p", "t")],
    {"prompt": "p", "target": " t "},
    [{"prompt": "p", "target": "t", "instruction": None}],
    (Request("p", "t"),),
  ],
)
def test_what_a_request_may_be(values):
  assert as_requests(values) == [Request("p", "t")]


def test_a_request_may_have_another_form():
  told = {"prompt": "p", "target": "t", "other_form": " p? "}
  assert as_requests(told) == [Request("p", "t", None, "p?")]


def test_several_requests_keep_their_instructions():
  assert as_requests(
    [("p", "t", TOLD), {"prompt": "q", "target": "u", "instruction": TOLD}]
  ) == [Request("p", "t", TOLD), Request("q", "u", TOLD)]
  assert as_requests([]) == []


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ([("p",)], "give a Request"),
    (["text"], "give a Request"),
    ([7], "give a Request"),
    ({"prompt": "p"}, "lacks 'target'"),
    ({"prompt": "p", "target": "t", "goal": 1}, "has 'goal'"),
    ([("p", "t", "words")], "must be an Instruction"),
    ([("p", " ")], "target is empty"),
    ([("", "t")], "prompt is empty"),
    ({"prompt": "p", "target": "t", "other_form": ""}, "other_form is empty"),
    ({"prompt": "p", "target": "t", "other_form": 3}, "other_form is empty"),
  ],
)
def test_what_it_may_not_be(values, message):
  with pytest.raises(UserError, match=message):
    as_requests(values)


def test_instructions_by_task_and_in_ones_own_words():
  assert instruction_for() is None
  assert instruction_for("zsre") == Instruction("zsre", POOLS["zsre"].seen[0])
  assert instruction_for(None, "Do.") == Instruction("custom", "Do.")
  assert instruction_for("zsre", "Do.") == Instruction("zsre", "Do.")
  told = instruction_for("convsent", None, "cats", "positive")
  assert told is not None
  assert "cats" in told.description
  assert "[" not in told.description


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (("nonsense",), "none of counterfact"),
    (("convsent", None, "cats"), "sentiment: missing"),
    (("convsent", None, None, "positive"), "subject: missing"),
    (("convsent", None, "cats", "mixed"), "positive, negative"),
    ((None, None, "cats"), "subject 'cats': fills in"),
    ((None, None, None, "positive"), "sentiment 'positive': fills in"),
  ],
)
def test_instructions_that_cannot_be(arguments, message):
  with pytest.raises(UserError, match=message):
    instruction_for(*arguments)


def test_a_file_of_requests(tmp_path):
  path = tmp_path / "edits.jsonl"
  path.write_text(
    '{"prompt": "p", "target": "t"}\n\n'
    '{"prompt": "q", "target": "u", "instruction": "Do.", "other_form": "q?"}\n'
    '{"prompt": "r\u2028", "target": "v", "task": "convsent",'
    ' "subject": "cats", "sentiment": "negative"}\n',
    encoding="utf-8",
  )
  first, second, third = read_requests(path)
  assert first == Request("p", "t")
  assert second.instruction == Instruction("custom", "Do.")
  assert (first.other_form, second.other_form) == (None, "q?")
  assert third.instruction is not None
  assert "cats" in third.instruction.description


@pytest.mark.parametrize(
  ("line", "message"),
  [
    ('{"prompt": "p"', "line 2: malformed JSON at column"),
    ("[1]", "line 2: must be a JSON object"),
    ('{"prompt": "p"}', "line 2: field 'target' is missing"),
    ('{"prompt": "p", "target": " "}', "line 2: field 'target' must be a text"),
    ('{"prompt": 3, "target": "t"}', "line 2: field 'prompt' must be a text"),
    ('{"promt": "p", "target": "t"}', "line 2: field 'promt' is unknown"),
    (
      '{"prompt": "p", "target": "t", "task": "x"}',
      "line 2: field task 'x': none of",
    ),
    (
      '{"prompt": "p", "target": "t", "task": "convsent", "subject": "s"}',
      "line 2: field sentiment: missing",
    ),
  ],
)
def test_a_wrong_line_is_named(tmp_path, line, message):
  path = tmp_path / "edits.jsonl"
  path.write_text(f'{{"prompt": "p", "target": "t"}}\n{line}\n')
  with pytest.raises(UserError, match=message) as caught:
    read_requests(path)
  assert str(path) in str(caught.value)


def test_files_that_hold_nothing(tmp_path):
  with pytest.raises(UserError, match="cannot be read"):
    read_requests(tmp_path / "absent.jsonl")
  (tmp_path / "empty.jsonl").write_text("\n")
  with pytest.raises(UserError, match="holds no edit"):
    read_requests(tmp_path / "empty.jsonl")
  (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
  with pytest.raises(UserError, match="not UTF-8"):
    read_requests(tmp_path / "binary.jsonl")
