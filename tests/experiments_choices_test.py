"""Which instruction an editor gets, and what questions carry."""

import dataclasses

import pytest

from instructedit_jax.editors.base import Request
from instructedit_jax.errors import UserError
from instructedit_jax.evaluation import Options, natural
from instructedit_jax.evaluation.chunks import chunks_of
from instructedit_jax.evaluation.settings import Settings
from instructedit_jax.evaluation.untold import Untold
from instructedit_jax.models.language_model import load_model
from instructedit_jax.tasks.instructions import (
  POOLS,
  Instruction,
  InstructionPool,
)
from tests import tiny


def _of(choice, record, **changes):
  return Options(instruction=choice, **changes).instruction_of(record)


def test_choices_mean_what_they_say():
  record = tiny.record(0)
  pool = POOLS["counterfact"]
  right = _of("held_out:1", record)
  assert right == Instruction("counterfact", pool.held_out[1])
  assert _of("none", record) is None
  assert _of("name", record) == Instruction("counterfact", "")
  other = _of("other:2", record)
  assert other.task != "counterfact"
  assert other.description in POOLS[other.task].seen
  nonsense = _of("nonsense:1", record)
  assert nonsense.task not in POOLS
  words, real = nonsense.description.split(), right.description.split()
  assert len(words) == len(real)
  letters = [sum(map(len, text)) for text in (words, real)]
  assert abs(letters[0] - letters[1]) < 0.2 * letters[1]
  assert _of("nonsense:1", tiny.record(7)) == nonsense
  assert _of("nonsense:1", tiny.opinion(0)) != nonsense


def test_placeholders_of_another_task_are_filled():
  told = _of("other:0", dataclasses.replace(tiny.record(3), task="wikirecent"))
  assert told.task == "convsent"
  assert "[" not in told.description
  assert "S3" in told.description


def test_shuffled_instructions_are_of_many_tasks():
  found = [_of("shuffled:0", tiny.record(i)) for i in range(40)]
  assert {told.task for told in found} == set(POOLS)
  assert found == [_of("shuffled:0", tiny.record(i)) for i in range(40)]


def test_pools_of_a_file_are_used_and_stamped():
  pools = {"counterfact": InstructionPool("counterfact", ("Mine.",), ("Its.",))}
  options = Options(instruction="held_out:0", pools=pools)
  assert options.instruction_of(tiny.record(0)).description == "Its."
  stamps = [o.protocol()["pools_sha256"] for o in (options, Options())]
  assert stamps[0] != stamps[1]
  with pytest.raises(UserError, match="only one task"):
    _of("other:0", tiny.record(0), pools=pools)


def test_natural_sentences_name_no_task():
  told = _of("natural:1", tiny.record(0))
  assert told == Instruction("custom", natural.SENTENCES["counterfact"][1])
  said = _of("natural:0", tiny.opinion(0))
  assert "[" not in said.description
  assert tiny.opinion(0).conversation.wanted in said.description
  assert tiny.opinion(0).subject in said.description
  assert natural.SENTENCES.keys() == POOLS.keys()
  # No sentence is also a description, which some editor may have read.
  known = {text for pool in POOLS.values() for text in pool.seen}
  known |= {text for pool in POOLS.values() for text in pool.held_out}
  mine = [text for texts in natural.SENTENCES.values() for text in texts]
  assert len({*mine}) == len(mine)
  assert known.isdisjoint(mine)


def test_the_protocol_says_which_sentences(monkeypatch):
  stamps = [Options(instruction=f"natural:{k}").protocol() for k in (0, 1)]
  assert stamps[0]["instruction"] == "natural:0"
  digests = [stamp["sentences_sha256"] for stamp in stamps]
  assert digests[0] == digests[1]
  monkeypatch.setitem(natural.SENTENCES, "zsre", ("Other words.",))
  changed = Options(instruction="natural:0").protocol()
  assert changed["sentences_sha256"] != digests[0]
  assert "sentences_sha256" not in Options(instruction="seen:0").protocol()


@pytest.mark.parametrize("choice", ["natural", "natural:x", "natural:99"])
def test_sentences_that_do_not_exist_are_told(choice):
  with pytest.raises(UserError, match="natural:K"):
    _of(choice, tiny.record(0))


@pytest.mark.parametrize(
  "choice", ["nonsense", "other:x", "other:99", "what:0", "held_out:99"]
)
def test_unknown_choices_are_told(choice):
  with pytest.raises(UserError):
    _of(choice, tiny.record(0))


def test_an_untold_editor_ignores_the_instruction():
  model = tiny.model()
  editor = tiny.editor(model, "instructedit_text")
  told = Request("S is", "a", Instruction("t", "Do."))
  found = Untold(editor).propose_each(model, [told])
  bare = editor.propose_each(model, [Request("S is", "a")])
  for name, u in found.u.items():
    assert (u == bare.u[name]).all()


def test_a_run_can_leave_editors_untold(tmp_path):
  folder = tmp_path / "editor"
  tiny.editor(load_model("random:tiny-llama"), "instructedit_text").save(folder)
  loaded = {}
  records = []
  for told in (True, False):
    settings = Settings(
      (str(folder),),
      str(tmp_path / f"out{told}"),
      tasks=("counterfact",),
      limit=1,
      queries=("instructed",),
      told=told,
      options=Options(free=False, fluency_limit=0),
    )
    (chunk,) = chunks_of(settings, loaded)
    results = chunk.evaluate(settings.options, lambda count: None)
    records.append(results.records[0])
    assert ("told" in chunk.stamp["editor"]) != told
  assert len(loaded) == 1  # the second run used the first one's model
  assert records[0].instruction
  assert records[1].instruction == ""
  prompts = [[item["prompt"] for item in record.items] for record in records]
  assert prompts[0] == prompts[1]
  assert records[0].items != records[1].items
