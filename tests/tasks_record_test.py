"""Records, their readers, and what they say about bad files."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instructedit_jax.errors import UserError
from instructedit_jax.tasks import fields
from instructedit_jax.tasks.loading import load_records
from instructedit_jax.tasks.record import Conversation, Probe, Record
from instructedit_jax.tasks.validation import ValidationReport

FACT = {
  "subject": "Ann",
  "prompt": "The gender of Ann is ",
  "target_new": " male",
  "ground_truth": "female",
}


def write(folder, content, name="data.json"):
  path = folder / name
  text = content if isinstance(content, str) else json.dumps(content)
  path.write_text(text, encoding="utf-8")
  return path


def with_truth(truth):
  probe = {"prompt": "The father of Ann is", "ground_truth": truth}
  return FACT | {"locality": {"Relation_Specificity": [probe]}}


def load_one(folder, raw, task="counterfact"):
  records, report = load_records(task, write(folder, [raw]), "train")
  return records[0], report


def fields_of(record):
  yield record.prompt
  yield record.target
  yield from record.rephrases
  for probe in record.locality + record.portability:
    yield from (probe.kind, probe.prompt, *probe.answers)


@pytest.mark.parametrize(
  ("truth", "answers"),
  [
    ("male", ("male",)),
    ([["male"]], ("male",)),
    ([["a", "b"], ["c"]], ("a", "b", "c")),
    (["a", "b", "a"], ("a", "b")),
    ([[], ["c "]], ("c",)),
    ([["", " ", None], "d"], ("d",)),
    (1998, ("1998",)),
    ("7", ("7",)),
  ],
)
def test_answers_of_every_form(tmp_path, truth, answers):
  record, _ = load_one(tmp_path, with_truth(truth))
  assert record.locality[0].answers == answers


@pytest.mark.parametrize("truth", ["", [], [[]], None, [["  "]]])
def test_probes_without_an_answer_are_dropped_and_reported(tmp_path, truth):
  record, report = load_one(tmp_path, with_truth(truth))
  assert record.locality == ()
  assert report.dropped_probes == {"no answer": 1}
  assert not report.clean
  assert "dropped probe: 1 x no answer" in str(report)
  assert json.loads(json.dumps(report.to_dict()))["dropped_probes"] == {
    "no answer": 1
  }


answer_trees = st.recursive(
  st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
  lambda inner: st.lists(inner, max_size=3),
  max_leaves=8,
)


def leaves(tree):
  if isinstance(tree, str):
    return [tree.strip()] if tree.strip() else []
  return [leaf for child in tree for leaf in leaves(child)]


@given(tree=answer_trees)
def test_answers_are_whole_texts_in_order(tree):
  place = fields.Place("f.json", 0, "zsre", "train")
  found = fields.answers(tree, "x", place)
  assert list(found) == list(dict.fromkeys(leaves(tree)))


texts = st.text(
  st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9
).filter(str.strip)
probe_lists = st.lists(
  st.builds(
    Probe, kind=texts, prompt=texts, answers=st.lists(texts, min_size=1)
  ).map(lambda probe: probe),
  max_size=2,
).map(tuple)
conversations = st.builds(
  Conversation,
  topic=texts,
  questions=st.lists(texts, min_size=1).map(tuple),
  positive=st.lists(texts, min_size=1).map(tuple),
  negative=st.lists(texts, min_size=1).map(tuple),
  wanted=st.sampled_from(["positive", "negative"]),
)
any_record = st.builds(
  Record,
  id=texts,
  task=texts,
  subject=texts,
  prompt=texts,
  target=texts,
  rephrases=st.lists(texts).map(tuple),
  locality=probe_lists,
  portability=probe_lists,
  conversation=st.none() | conversations,
)


@given(record=any_record)
def test_record_survives_json_and_is_stripped(record):
  raw = json.loads(json.dumps(record.to_dict()))
  assert Record.from_dict(raw) == record
  assert all(text == text.strip() and text for text in fields_of(record))


def test_a_bare_text_is_not_taken_for_a_tuple():
  with pytest.raises(UserError, match="tuple of texts"):
    Probe("kind", "prompt", "male")
  with pytest.raises(UserError, match="rephrases"):
    Record("1", "zsre", "s", "p", "t", rephrases="What?")


@pytest.mark.parametrize(
  "bad",
  [
    {"target": " "},
    {"prompt": ""},
    {"id": ""},
    {"target": 3},
    {"locality": ("p",)},
  ],
)
def test_record_refuses_bad_fields(bad):
  good = {"id": "1", "task": "t", "subject": "s", "prompt": "p", "target": "t"}
  with pytest.raises(UserError):
    Record(**(good | bad))


def test_conversation_sides():
  replies = {"positive": ("good",), "negative": ("bad",)}
  one = Conversation("x", ("q",), **replies, wanted="negative")
  assert (one.same, one.opposite) == (("bad",), ("good",))
  with pytest.raises(UserError, match="no positive reply"):
    Conversation("x", ("q",), (), ("bad",), "positive")
  with pytest.raises(UserError, match="wanted"):
    Conversation("x", ("q",), ("good",), ("bad",), "neutral")


@pytest.mark.parametrize("field", ["target_new", "prompt", "subject"])
def test_empty_fields_drop_the_record(tmp_path, field):
  path = write(tmp_path, [FACT | {field: " "}, FACT])
  records, report = load_records("counterfact", path, "train")
  assert [record.id for record in records] == ["counterfact/train/1"]
  assert sum(report.dropped_records.values()) == 1
  assert report.read == 2


def test_a_record_without_locality_stays_and_is_noted(tmp_path):
  record, report = load_one(tmp_path, FACT)
  assert record.locality == ()
  assert report.notes["no locality probe"] == 1
  assert report.clean


@pytest.mark.parametrize(
  ("content", "says"),
  [
    ("", "the file is empty"),
    ("  \n", "the file is empty"),
    ("[]", "list of records is empty"),
    ('[{"subject": ', "malformed JSON at line 1"),
    ("{}", "must be a JSON list"),
    ("[3]", "unknown layout"),
    ('[{"a": 1}]', "unknown layout with a"),
    ("version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    ("[" * 100_000, "nested too deeply"),
    ([FACT, "text"], "record 1: must be a dict"),
    ([FACT, {"prompt": "p", "subject": "s"}], "record 1, field 'target_new'"),
    ([{"subject": "s"}, FACT], "record 0, field 'prompt'"),
    ([FACT | {"prompt": ["p"]}], "record 0, field 'prompt': must be a text"),
    ([FACT | {"prompt": "\ud800"}], "broken character at position 0"),
    ([FACT | {"locality": []} | {"portability": [1]}], "'portability'"),
    ([FACT | {"locality": {"k": "text"}}], "'locality.k'"),
    ([FACT | {"locality": {"k": ["text"]}}], "'locality.k'"),
    ([FACT | {"locality": {"k": [{"prompt": "p"}]}}], "no 'ground_truth'"),
    ([with_truth({"a": 1})], "must be a text, got dict"),
    ([with_truth(True)], "must be a text, got bool"),
    ([FACT | {"target_new": ""}], "none of the 1 records is usable"),
  ],
)
def test_bad_files_say_where_and_what(tmp_path, content, says):
  path = write(tmp_path, content)
  with pytest.raises(UserError) as caught:
    load_records("counterfact", path, "train")
  assert says in str(caught.value)
  assert str(path) in str(caught.value)


def test_missing_and_unreadable_files(tmp_path):
  with pytest.raises(UserError, match="no such file"):
    load_records("zsre", tmp_path / "none.json", "train")
  with pytest.raises(UserError, match="cannot be read"):
    load_records("zsre", tmp_path, "train")
  (tmp_path / "latin.json").write_bytes(b'["caf\xe9"]')
  with pytest.raises(UserError, match="not UTF-8"):
    load_records("zsre", tmp_path / "latin.json", "train")


def test_a_byte_order_mark_does_no_harm(tmp_path):
  path = tmp_path / "bom.json"
  path.write_text(json.dumps([FACT]), encoding="utf-8-sig")
  assert len(load_records("counterfact", path, "train")[0]) == 1


def test_a_file_of_another_task_is_refused(tmp_path):
  raw = {"ent": "tea", "pos": ["I like tea."], "neg": []}
  path = write(tmp_path, [raw])
  with pytest.raises(UserError, match="ConvSent layout"):
    load_records("zsre", path, "train")


def test_transposed_probes_and_null_kinds(tmp_path):
  lists = {"prompt": ["p", "q"], "ground_truth": [["a"], "b"]}
  record, _ = load_one(tmp_path, FACT | {"locality": {"k": lists, "n": None}})
  assert record.locality == (Probe("k", "p", ("a",)), Probe("k", "q", ("b",)))
  lists["ground_truth"].pop()
  with pytest.raises(UserError, match="2 prompts but 1 answers"):
    load_one(tmp_path, FACT | {"locality": {"k": lists}})


def test_zsre_layout(tmp_path):
  raw = {
    "subject": "Ann",
    "src": "Where was Ann born?",
    "alt": "Rome",
    "rephrase": "In which place was Ann born?",
    "answers": ["Oslo"],
    "loc": "nq question: who sang it",
    "loc_ans": "Bob",
    "portability": {"New Question": "Which country?", "New Answer": "Italy"},
  }
  record, _ = load_one(tmp_path, raw, "zsre")
  assert (record.prompt, record.target) == ("Where was Ann born?", "Rome")
  assert record.rephrases == ("In which place was Ann born?",)
  assert record.ground_truth == ("Oslo",)
  assert record.locality == (Probe("nq", "nq question: who sang it", ("Bob",)),)
  assert record.portability == (
    Probe("Reasoning", "Which country?", ("Italy",)),
  )
  raw.pop("portability")
  record, report = load_one(tmp_path, raw | {"loc_ans": ""}, "zsre")
  assert record.locality == record.portability == ()
  assert report.dropped_probes == {"no answer": 1}


def test_flat_layout(tmp_path):
  raw = FACT | {
    "case_id": 3,
    "rephrase_prompt": "Ann is",
    "locality_prompt": "The gender of Bob is",
    "locality_ground_truth": "male",
  }
  record, _ = load_one(tmp_path, raw)
  assert record.rephrases == ("Ann is",)
  assert record.locality == (
    Probe("Neighborhood", "The gender of Bob is", ("male",)),
  )


def talk(topic, pos, neg):
  return {"ent": topic, "pos": pos, "neg": neg}


def test_convsent_layout(tmp_path):
  raws = [
    talk(f"topic {i}", ["Good it is, I say. "], [" Bad it is, I say."])
    for i in range(9)
  ]
  path = write(tmp_path, raws)
  records, _ = load_records("convsent", path, "train")
  again, _ = load_records("convsent", path, "train")
  assert records == again
  for record in records:
    talked = record.conversation
    assert record.target in talked.same
    assert len(talked.questions) == 13
    assert all(record.subject in question for question in talked.questions)
    assert record.prompt not in record.rephrases
    assert len(set(record.rephrases)) == 4
    assert len(record.locality) == 3
    assert all(record.subject not in p.prompt for p in record.locality)
  wanted = {record.conversation.wanted for record in records}
  assert wanted == {"positive", "negative"}
  none, _ = load_records("convsent", path, "train", other_topics=0)
  assert all(record.locality == () for record in none)


def test_convsent_takes_the_other_sentiment_or_drops(tmp_path):
  raws = [talk(f"t{i}", ["Fine."], []) for i in range(8)]
  raws += [talk("nothing", [" "], []), talk("", ["Fine."], [])]
  path = write(tmp_path, raws)
  records, report = load_records("convsent", path, "train")
  assert {r.conversation.wanted for r in records} == {"positive"}
  assert sum(report.dropped_records.values()) == 2
  assert report.notes["no negative reply, the other sentiment is wanted"] > 0
  with pytest.raises(UserError, match="field 'neg'"):
    load_one(tmp_path, {"ent": "x", "pos": [], "neg": "bad"}, "convsent")


def test_convsent_alone_has_no_other_topic(tmp_path):
  record, _ = load_one(tmp_path, talk("tea", ["Fine."], ["Bad."]), "convsent")
  assert record.locality == ()


def test_topics_with_braces_are_taken_literally(tmp_path):
  record, _ = load_one(tmp_path, talk("{topic} {0}", ["Ok."], []), "convsent")
  assert record.prompt == "What do you think of {topic} {0}?"


def test_report_keeps_few_examples():
  report = ValidationReport("t", "train", "f.json")
  for i in range(9):
    report.drop_record("empty target", f"record {i}")
  assert report.dropped_records["empty target"] == 9
  assert report.examples["empty target"] == ["record 0", "record 1", "record 2"]
