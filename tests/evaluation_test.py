"""Evaluation of independent edits: whatever the batching, the same numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructedit_jax.editing.prefix import PrefixCache
from instructedit_jax.editing.sequences import score
from instructedit_jax.errors import UserError
from instructedit_jax.evaluation import (
  Baseline,
  Options,
  Results,
  evaluate,
  predictions,
)
from instructedit_jax.evaluation.items import LOCALITY
from instructedit_jax.models.decoder import Sequence
from instructedit_jax.tasks.instructions import Instruction
from tests import tiny

QUICK = Options(fluency_limit=0, resamples=50)


@pytest.fixture(scope="module")
def model():
  return tiny.model()


@pytest.fixture(scope="module")
def baseline(model):
  return Baseline(model)


@pytest.fixture(scope="module")
def editor(model):
  return tiny.editor(model)


@pytest.fixture(scope="module")
def records():
  return [tiny.record(0), tiny.record(1, "b c"), tiny.record(2, "g")]


@pytest.fixture(scope="module")
def bare(model, editor, records, baseline):
  return evaluate(model, editor, records, options=QUICK, baseline=baseline)


@dataclasses.dataclass
class Spy:
  """An editor that notes its requests, refuses some, and changes its edits."""

  inner: object
  factor: float = 1.0
  refused: str = "nothing"

  def __post_init__(self):
    self.requests = []

  name = "spy"

  def propose_each(self, model, requests, cache=None):
    if any(request.target == self.refused for request in requests):
      raise UserError(f"{self.refused} is refused")
    self.requests += requests
    return self.inner.propose_each(model, requests, cache).scale(self.factor)


def _numbers(results: Results) -> dict:
  return {
    (record.id, name): value
    for record in results.records
    for name, value in record.scores.items()
  }


def _texts(results: Results) -> list:
  fields = ("prompt", "before", "after", "free_before", "free_after")
  return [
    tuple(item.get(field) for field in fields)
    for record in results.records
    for item in record.items
  ]


def test_edits_show_in_every_way_of_asking_the_prompt(bare):
  for metric in ("em", "token", "free"):
    assert bare.value(f"reliability_{metric}") == 100.0
  for record in bare.records:
    item = record.reliability
    assert item["free_after"].split(" ", 1)[1].startswith(record.target)
    assert not item["free_before"].startswith(f" {record.target}")
    assert item["log_p_after"] > item["log_p_before"]


def test_exact_match_is_never_above_the_token_score(bare):
  for record in bare.records:
    for item in record.items:
      # Portability's exact match may be that of an alias.
      if len(item["answers"]) == 1:
        assert item["scores"]["em"] <= item["scores"]["token"]


def test_a_right_free_answer_is_right_under_teacher_forcing(bare):
  # Greedy decoding of the right prefix takes the path of teacher forcing.
  checked = 0
  for record in bare.records:
    for item in record.items:
      if item["metric"] != LOCALITY and item["scores"]["free"]:
        assert item["scores"]["em"] == 1.0
        checked += 1
  assert checked >= 3


def test_any_alias_will_do_for_portability(model, records, baseline, editor):
  edited = evaluate(
    model,
    editor,
    [
      dataclasses.replace(
        records[0],
        portability=(
          dataclasses.replace(
            records[0].portability[0],
            prompt=records[0].prompt,
            answers=("h", "a"),
          ),
        ),
      )
    ],
    options=QUICK,
    baseline=baseline,
  )
  assert edited.value("portability_em") == 100.0
  assert edited.value("portability_free") == 100.0
  assert edited.value("portability_token") == 0.0


def test_one_by_one_gives_the_same(model, editor, records, baseline, bare):
  single = dataclasses.replace(QUICK, batch=1)
  results = evaluate(model, editor, records, options=single, baseline=baseline)
  assert _texts(results) == _texts(bare)
  assert _numbers(results) == pytest.approx(_numbers(bare), abs=1e-4)


def test_several_rows_for_a_record_give_the_same(model, editor):
  sequences = [
    score(model.text, f"question {i} of many is", answer, context=1024)
    for i in range(12)
    for answer in ("a b", "c d e f g h " * 3)
  ]
  cache = PrefixCache(model)
  edit = editor.propose_each(model, [("S is", "a"), ("T is", "b")], cache)
  shapes = predictions._by_shape([sequences])
  assert sum(len(rows) for rows in shapes.values()) > 2
  together = predictions.predict(model, cache, [[], sequences], edit)
  assert together[0] == []
  for i, scored in enumerate(sequences):
    alone = predictions.predict(model, cache, [[scored]], edit[jnp.array([1])])
    for one, other in zip(alone[0][0], together[1][i], strict=True):
      np.testing.assert_allclose(one, other, atol=2e-5)


def test_what_the_base_model_says_is_found_once(model, editor, monkeypatch):
  """With whole distributions compared or not, known already or not."""
  sequences = [
    [score(model.text, "S is", answer, context=1024) for answer in "abc"],
    [score(model.text, "T is", "b c", context=1024)],
  ]
  compared = [[True, False, False], [False]]
  cache, known = PrefixCache(model), {}
  edit = editor.propose_each(model, [("S is", "a"), ("T is", "b")], cache)
  whole = predictions.predict(model, cache, sequences, edit)
  parts = predictions.predict(
    model, cache, sequences, edit, compared=compared, known=known
  )
  assert set(known) == {*sequences[0][1:], *sequences[1]}
  for row, other, flags in zip(whole, parts, compared, strict=True):
    for one, two, flag in zip(row, other, flags, strict=True):
      np.testing.assert_allclose(one[:-1], two[:-1], atol=2e-5)
      assert np.isfinite(one.divergence).all()
      assert np.isnan(two.divergence).all() != flag
  monkeypatch.setattr(predictions, "_unedited", None)
  again = predictions.predict(
    model, cache, sequences, edit, compared=compared, known=known
  )
  jax.tree.map(np.testing.assert_array_equal, parts, again)


def test_common_beginnings_are_read_once(model):
  """An instruction and a prompt, whatever answers follow."""
  start = "an instruction of some words in front of"
  texts = [f"{start} question {i}:" for i in range(3)]
  sequences = [
    score(model.text, text, answer, context=1024)
    for text in texts
    for answer in ("a", "b", "c d")
  ]
  ((_, rows),) = predictions._by_shape([sequences]).items()
  assert len(rows) == 1
  laid = {s.tokens[:i] for s in sequences for i in range(1, len(s.tokens) + 1)}
  assert len(rows[0].laid.tokens) == len(laid)
  assert len(laid) < sum(len(s.tokens) for s in sequences) / 3


def test_a_prediction_is_that_of_the_whole_model(model, editor):
  cache = PrefixCache(model)
  edit = editor.propose(model, [("S is", "a")], cache)
  scored = score(model.text, "What of S:", "b c", context=1024)
  found = predictions.predict(model, cache, [[scored]], edit)[0][0]
  tokens = jnp.array([scored.tokens])
  sequence = Sequence(
    jnp.arange(tokens.shape[1])[None], jnp.ones(tokens.shape, jnp.int32)
  )
  before, after = (
    jax.nn.log_softmax(model.decoder()(tokens, sequence, tap)[0, -2:])
    for tap in (None, edit.tap())
  )
  np.testing.assert_array_equal(found.labels, scored.labels)
  np.testing.assert_array_equal(found.after, after.argmax(-1))
  picked = (np.arange(2), np.array(scored.labels))
  np.testing.assert_allclose(found.log_before, before[picked], atol=1e-5)
  np.testing.assert_allclose(found.log_after, after[picked], atol=1e-5)
  kl = (jnp.exp(before) * (before - after)).sum(-1)
  np.testing.assert_allclose(found.divergence, kl, atol=1e-5)


def test_requests_do_not_depend_on_how_questions_are_asked(
  model, editor, records, baseline, bare
):
  spies = Spy(editor), Spy(editor)
  results = [
    evaluate(model, spy, records, query=query, options=QUICK, baseline=baseline)
    for spy, query in zip(spies, ("bare", "instructed"), strict=True)
  ]
  assert spies[0].requests == spies[1].requests
  assert spies[0].requests[0].instruction is not None
  assert _numbers(results[0]) == _numbers(bare)
  for plain, told in zip(*(r.records for r in results), strict=True):
    for one, other in zip(plain.items, told.items, strict=True):
      if one["metric"] == LOCALITY:
        assert one == other
      else:
        start = "Task: counterfact\nDescription: "
        assert other["prompt"].startswith(start)
        assert other["prompt"].endswith(f"\nInput: {one['prompt']}")
        assert not one["prompt"].startswith(start)


def test_the_unedited_model_keeps_everything(model, records, baseline):
  options = dataclasses.replace(QUICK, fluency_limit=1, fluency_tokens=6)
  for base in (None, "base"):
    results = evaluate(model, base, records, options=options, baseline=baseline)
    assert results.editor == "base"
    for metric in ("token", "em", "free"):
      assert results.value(f"locality_{metric}") == 100.0
    assert results.value("locality_kl") == 0.0
    assert results.value("reliability_em") == 0.0
    assert results.records[0].fluency_text is not None
    assert results.records[1].fluency_text is None


def test_an_empty_edit_is_no_edit(model, editor, records, baseline):
  base = evaluate(model, None, records, options=QUICK, baseline=baseline)
  empty = evaluate(
    model, Spy(editor, factor=0.0), records, options=QUICK, baseline=baseline
  )
  assert _numbers(empty) == pytest.approx(_numbers(base), abs=1e-5)


def test_conversations_are_scored_but_not_judged(model, editor, baseline):
  results = evaluate(
    model, editor, [tiny.opinion(0)], options=QUICK, baseline=baseline
  )
  scores = results.records[0].scores
  assert 0 < scores["edit_success"] < 100
  assert {"reliability_em", "reliability_token", "locality_kl"} <= set(scores)
  assert "reliability_free" not in scores
  assert "locality_free" in scores
  assert "portability_em" not in scores
  base = evaluate(
    model, None, [tiny.opinion(0)], options=QUICK, baseline=baseline
  )
  assert scores["edit_success"] > base.value("edit_success")


def test_fluency_and_free_answers_can_be_limited(
  model, editor, records, baseline
):
  options = dataclasses.replace(
    QUICK, free_limit=1, fluency_limit=2, fluency_tokens=6
  )
  results = evaluate(model, editor, records, options=options, baseline=baseline)
  rows = {row.metric: row for row in results.rows()}
  assert rows["reliability_free"].n == 1
  assert rows["fluency"].n == 2
  assert rows["reliability_em"].n == 3
  again = evaluate(model, editor, records, options=options, baseline=baseline)
  assert _numbers(results) == _numbers(again)


def test_a_record_that_fails_is_named_and_the_others_go_on(
  model, editor, records, baseline, bare
):
  long = dataclasses.replace(records[0], id="long", prompt="word " * 400)
  done = []
  results = evaluate(
    model,
    Spy(editor, refused="b c"),
    [long, *records],
    options=QUICK,
    baseline=baseline,
    progress=done.append,
  )
  assert [failed for failed, _ in results.failed] == ["long", records[1].id]
  assert "the model reads at most" in results.failed[0][1]
  assert "refused" in results.failed[1][1]
  assert [r.id for r in results.records] == [records[0].id, records[2].id]
  kept = {k: v for k, v in _numbers(bare).items() if k[0] != records[1].id}
  assert _numbers(results) == pytest.approx(kept, abs=1e-4)
  assert sum(done) == 4


def test_an_editor_that_fails_on_every_record_is_no_error(
  model, editor, records, baseline
):
  class Unable(Spy):
    def propose_each(self, model, requests, cache=None):
      raise UserError("all is refused")

  unable = Unable(editor)
  results = evaluate(model, unable, records, options=QUICK, baseline=baseline)
  assert [failed for failed, _ in results.failed] == [r.id for r in records]
  assert all("refused" in reason for _, reason in results.failed)
  assert results.records == results.rows() == []
  assert Results.from_dict(results.to_dict()) == results


def test_nothing_to_evaluate_is_an_error(model, editor, records, baseline):
  with pytest.raises(UserError, match="no record"):
    evaluate(model, editor, [], baseline=baseline)
  with pytest.raises(UserError, match="must be one of bare, instructed"):
    evaluate(model, editor, records, query="plain", baseline=baseline)
  with pytest.raises(UserError, match="load_editor"):
    evaluate(model, "runs/mine", records, baseline=baseline)
  with pytest.raises(UserError, match="need an instruction"):
    evaluate(
      model,
      editor,
      records,
      query="instructed",
      options=Options(instruction="none"),
      baseline=baseline,
    )
  with pytest.raises(UserError, match="batch=0"):
    Options(batch=0)


def test_an_editor_of_another_model_is_refused(records, editor):
  with pytest.raises(UserError, match="another model"):
    evaluate(tiny.model(seed=1), editor, records)


def test_an_instruction_of_ones_own(model, editor, baseline, records):
  mine = Instruction("mine", "Do as told.")
  spy = Spy(editor)
  options = dataclasses.replace(QUICK, instruction=mine, free=False)
  results = evaluate(
    model,
    spy,
    records[:1],
    query="instructed",
    options=options,
    baseline=baseline,
  )
  assert spy.requests[0].instruction == mine
  assert results.records[0].reliability["prompt"].startswith("Task: mine\n")
  assert results.records[0].instruction == "Do as told."


def test_results_survive_json(bare):
  assert Results.from_dict(bare.to_dict()) == bare
