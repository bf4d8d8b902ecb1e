"""Rewordings: rules for the train relations; no prompt is broken."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instructedit_jax.tasks.augment import (
  CONTEXTS,
  other_form,
  paraphrases,
  rephrase,
  wordings,
)
from instructedit_jax.tasks.relations import WORDINGS
from instructedit_jax.tasks.splits import load_split


@pytest.mark.parametrize(
  ("cloze", "question"),
  [
    ("The gender of X is", "What is the gender of X?"),
    ("The date of birth of X is", "When was X born?"),
    ("The place of birth of X is", "Where was X born?"),
    ("The place of death of X is", "Where did X die?"),
    ("The occupation of X is", "What is the occupation of X?"),
    ("The name of the spouse of X is", "Who is the spouse of X?"),
    (
      "The name of the country which X is associated with is",
      "What is the name of the country which X is associated with?",
    ),
    ("The number of children X has is", "How many children does X have?"),
    ("X is followed by", "What is X followed by?"),
    # No rule of their own:
    ("The mother tongue of X is", "What is the mother tongue of X?"),
    ("The name of the boss of X is", "Who is the boss of X?"),
    ("The names of the rivers of X are", "What are the rivers of X?"),
    ("An emblem of X was the", "What was an emblem of X?"),
    ("The wall that X built is", "What is the wall that X built?"),
    ("X, the", None),
    ("", None),
  ],
)
def test_questions_come_first(cloze, question):
  asked = [wording for wording in wordings(cloze) if wording.endswith("?")]
  assert asked[:1] == [question] * (question is not None)
  assert wordings(cloze)[: len(asked)] == tuple(asked)


def test_questions_are_turned_back():
  assert "The capital city of X is" in wordings(
    "What is the capital city of X?"
  )
  assert "X was born in" in wordings("What is the place of birth of X?")


def test_a_name_is_led_up_to():
  """ "X's mother is" may go on "named", for names only, and back again."""
  assert "X's mother is named" in wordings("The name of the mother of X is")
  assert "X's boss is called" in wordings("The name of the boss of X is")
  for number in ("The number of children X has is", "The age of X is"):
    assert not [w for w in wordings(number) if w.endswith(("named", "called"))]
  for named in ("X's mother is known as", "The mother of X is called"):
    assert {"Who is the mother of X?", "X's mother is"} <= set(wordings(named))
  assert wordings("X is called") == ()


@pytest.mark.parametrize("cloze", list(WORDINGS))
def test_each_wording_of_a_relation_leads_to_the_others(cloze):
  known = {cloze, *WORDINGS[cloze]}
  for worded in known:
    found = wordings(worded.replace("{x}", "Ada"))
    # A wording may stand for two relations: "X wrote" for author and script.
    assert len(found) >= 3, worded
    asked = [wording.endswith("?") for wording in found[:-1]]
    assert asked == sorted(asked, reverse=True), "questions come first"


def test_a_wording_that_is_no_rules_own_is_known():
  found = wordings("X was born in")
  assert found[0] == "Where was X born?"
  assert found[-1] == "The place of birth of X is"
  assert "X was born in" not in found
  assert "X was born in" in wordings("Where was X born?")
  # Not who wrote "The screenplay of X".
  found = wordings("The screenplay of X was written by")
  assert found[0] == "Who is the screenwriter of X?"


@pytest.mark.parametrize(
  ("prompt", "other"),
  [
    ("The capital of X is", "What is the capital of X?"),
    ("X was born in", "Where was X born?"),
    ("What is the capital of X?", "X's capital is"),
    ("Where was X born?", "X was born in"),
    # No rule knows these.
    ("X lies north of", "X lies north of what?"),
    ("Why is X blue?", None),
    ("What do you think of X?", None),
  ],
)
def test_the_other_form_of_a_prompt(prompt, other):
  assert other_form(prompt) == other_form(f" {prompt} ") == other


def test_a_phrase_is_not_given_an_apostrophe():
  found = wordings("The gender of the founder of X is")
  assert found
  assert not [w for w in found if "'s" in w]
  assert "The founder of X is a person whose gender is" in found


def test_compounds_hold_together():
  found = wordings("The name of the country of origin of X is")
  assert "X's country of origin is" in found


def test_every_relation_has_both_kinds():
  for cloze, templates in WORDINGS.items():
    assert cloze.count("{x}") == 1
    assert all(t.count("{x}") == 1 for t in templates), cloze
    assert len(set(templates)) == len(templates) >= 3
    questions = [t.endswith("?") for t in templates]
    assert questions == sorted(questions, reverse=True), "questions come first"
    assert any(questions)
    assert not all(questions)


names = st.text(
  st.characters(categories=["Lu", "Ll", "Nd", "Zs", "Po"]), min_size=1
).map(str.strip).filter(bool)  # fmt: skip


@given(name=names, cloze=st.sampled_from([*WORDINGS, "{x}, the", "Why {x}?"]))
def test_variants_keep_the_subject(name, cloze):
  prompt = cloze.replace("{x}", name)
  variants = paraphrases(prompt, name)
  assert len(set(variants)) == len(variants) >= len(CONTEXTS)
  assert prompt not in variants
  for variant in variants:
    assert name in variant
    assert variant == variant.strip()
    assert "{" not in variant.replace(name, "")


@given(name=names, cloze=st.sampled_from([*WORDINGS, "{x}, the"]))
def test_the_other_form_keeps_the_subject(name, cloze):
  prompt = cloze.replace("{x}", name)
  found = other_form(prompt)
  assert found is not None
  assert name in found
  assert found != prompt


@given(
  seed=st.integers(0, 2**32),
  prompt=st.sampled_from(["The gender of X is", "X, the", "Who is X?"]),
)
def test_rephrase_differs_and_follows_its_generator(seed, prompt):
  found = rephrase(prompt, "X", np.random.default_rng(seed))
  assert found == rephrase(prompt, "X", np.random.default_rng(seed))
  assert found != prompt
  assert "X" in found
  assert "nq question" not in found


def test_rephrase_varies_in_kind():
  rng = np.random.default_rng(0)
  found = [rephrase("The gender of X is", "X", rng) for _ in range(300)]
  assert len(set(found)) > 40
  assert any(text.startswith("Q: ") for text in found)
  assert any(text.startswith(CONTEXTS) for text in found)
  assert any(text == "X's gender is" for text in found)


def test_real_train_prompts_are_covered(shared):
  prompts = []
  for task in ("counterfact", "wikirecent"):
    records, _ = load_split(shared / "data", task, "train")
    prompts += [record.prompt for record in records]
  covered = sum(len(wordings(prompt)) >= 2 for prompt in prompts)
  assert covered / len(prompts) == 1.0
  own = sum(len(wordings(prompt)) >= 4 for prompt in prompts)
  assert own / len(prompts) > 0.99


def test_real_rewordings_end_where_an_answer_can_follow(shared):
  records, _ = load_split(shared / "data", "counterfact", "train")
  for record in itertools.islice(records, 0, None, 7):
    for variant in paraphrases(record.prompt, record.subject):
      assert record.subject in variant
      assert not variant.endswith((".", ","))
