"""The embedded data: complete, split by subject, and made by its generator."""

import importlib.metadata
import json
import warnings

import pytest

from instructedit_jax.tasks.embedded import facts, generate, opinions
from instructedit_jax.tasks.embedded.wordings import MANY, WORDINGS
from instructedit_jax.tasks.record import TASKS
from instructedit_jax.tasks.splits import load_split

FACT_TASKS = [task for task in TASKS if task != "convsent"]


@pytest.fixture(scope="module")
def loaded():
  return {
    (task, split): load_split("embedded", task, split)
    for task in TASKS
    for split in generate.SIZES
  }


def test_everything_is_kept(loaded):
  for (_, split), (records, report) in loaded.items():
    assert len(records) == generate.SIZES[split]
    assert report.clean, str(report)
    assert not report.notes, str(report)


def test_files_are_small():
  sizes = [path.stat().st_size for path in generate.FOLDER.glob("*.json")]
  assert len(sizes) == 8
  assert sum(sizes) < 2.5e6


@pytest.mark.parametrize("task", TASKS)
def test_no_subject_is_in_both_splits(loaded, task):
  subjects = {
    split: {record.subject for record in loaded[task, split][0]}
    for split in generate.SIZES
  }
  assert not subjects["train"] & subjects["test"]


def test_fact_records_are_complete(loaded):
  for task in FACT_TASKS:
    for split in generate.SIZES:
      for record in loaded[task, split][0]:
        assert record.rephrases
        assert record.locality
        assert record.portability
        assert record.prompt not in record.rephrases
        assert record.subject in record.rephrases[0]
        assert record.target not in ("", *record.ground_truth)
        assert "{" not in json.dumps(record.to_dict())[1:].replace('{"', "")


def test_locality_does_not_contradict_the_edit(loaded):
  for split in generate.SIZES:
    for record in loaded["counterfact", split][0]:
      kinds = {probe.kind for probe in record.locality}
      assert "Neighborhood" in kinds
      for probe in record.locality:
        assert probe.prompt != record.prompt
        if probe.kind == "Forgetfulness":
          assert record.target in probe.prompt
          assert record.target not in probe.answers


def test_kinds_are_all_there(loaded):
  report = loaded["counterfact", "train"][1]
  assert set(report.locality) == {
    "Relation_Specificity",
    "Forgetfulness",
    "Neighborhood",
  }
  assert set(report.portability) == {
    "Subject_Aliasing",
    "Reasoning",
    "Logical_Generalization",
  }
  prompts = {
    record.prompt.replace(record.subject, "X")
    for record in loaded["counterfact", "train"][0]
  }
  assert len(prompts) > 15


def test_zsre_looks_like_zsre(loaded):
  for record in loaded["zsre", "test"][0]:
    assert record.prompt.endswith("?")
    (probe,) = record.locality
    assert probe.prompt.startswith("nq question: ")
    assert probe.prompt == probe.prompt.lower()
    assert record.subject.lower() not in probe.prompt


def test_opinions_vary(loaded):
  records = loaded["convsent", "train"][0]
  replies = [
    reply
    for record in records
    for reply in record.conversation.positive + record.conversation.negative
  ]
  assert len(replies) == 2 * opinions.REPLIES * len(records)
  assert len(set(replies)) > 0.8 * len(replies)
  assert not [reply for reply in replies if set("[]|{}") & set(reply)]
  wanted = [record.conversation.wanted for record in records]
  assert 0.4 < wanted.count("positive") / len(wanted) < 0.6


def test_topics_are_distinct():
  topics = [t for names in opinions.topics().values() for t in names]
  assert len(set(topics)) == len(topics)


def test_wordings_name_the_subject():
  for wording in WORDINGS.values():
    sentences = [wording.cloze, *wording.questions, wording.noun]
    sentences += [wording.recent, wording.recent_question]
    assert all(s.count("{x}") == 1 for s in sentences if s)
    assert all(q.endswith("?") for q in wording.questions)
    assert bool(wording.recent) == bool(wording.recent_question)
    assert bool(wording.noun) == bool(wording.leads_to)
  for template in MANY.values():
    assert template.count("{x}") == template.count("{y}") == 1


@pytest.mark.slow
def test_the_generator_makes_these_very_files():
  for package, version in facts.VERSIONS.items():
    try:
      found = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      pytest.skip(f"{package} {version} is not installed")
    if found != version:
      pytest.skip(f"{package} is {found}, the data was made with {version}")
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # those of the fact packages
    built = generate.build()
  for name, records in built.items():
    text = (generate.FOLDER / name).read_text(encoding="utf-8")
    assert json.loads(text) == records, name
