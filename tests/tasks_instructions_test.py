"""Instructions, their pools and their placeholders."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from instructedit_jax.errors import UserError
from instructedit_jax.tasks.instructions import (
  LABEL,
  POOLS,
  TOPIC,
  Instruction,
  InstructionPool,
  draw,
  fixed,
  load_pools,
)
from instructedit_jax.tasks.record import TASKS, Conversation, Record

TALK = Conversation("tea {0}", ("q",), ("good",), ("bad",), "negative")


def record(task="zsre"):
  return Record(
    id="1",
    task=task,
    subject="tea {0}",
    prompt="What is {task}?",
    target="t",
    conversation=TALK if task == "convsent" else None,
  )


def test_three_lines():
  instruction = Instruction("my task", "free {text}")
  assert instruction.apply("Who?") == (
    "Task: my task\nDescription: free {text}\nInput: Who?"
  )
  assert (
    instruction.prefix() == "Task: my task\nDescription: free {text}\nInput: "
  )


@pytest.mark.parametrize("prompt", ["", "What is {task}?", "a\nb", "{prompt}"])
def test_prefix_and_prompt_make_the_instructed_prompt(prompt):
  instruction = Instruction("t", "{prompt} {description}")
  assert instruction.apply(prompt) == instruction.prefix() + prompt


def test_an_instruction_has_one_line_a_field():
  with pytest.raises(UserError, match="one line"):
    Instruction("t", "a\nb")
  with pytest.raises(UserError, match="task is empty"):
    Instruction(" ", "a")


def test_own_pools():
  assert set(POOLS) == set(TASKS)
  for pool in POOLS.values():
    assert (len(pool.seen), len(pool.held_out)) == (24, 5)
  everything = [d for p in POOLS.values() for d in p.seen + p.held_out]
  assert len(set(everything)) == len(everything)
  for description in everything:
    assert description == description.strip()
    assert "\n" not in description
  for description in POOLS["convsent"].seen + POOLS["convsent"].held_out:
    assert LABEL in description
    assert TOPIC in description


def test_own_pools_copy_no_published_sentence(shared):
  pools = load_pools(
    shared / "data/instructions/instructedit_instructions.json"
  )
  assert set(pools) == set(TASKS)
  for task, pool in pools.items():
    assert (len(pool.seen), len(pool.held_out)) == (9, 1)
    ours = POOLS[task].seen + POOLS[task].held_out
    theirs = pool.seen + pool.held_out
    for mine, other in itertools.product(ours, theirs):
      words, others = set(mine.lower().split()), set(other.lower().split())
      assert len(words & others) < 0.6 * len(words | others)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("split", ["seen", "held_out"])
def test_draw_reaches_all_and_fills(task, split):
  rng = np.random.default_rng(0)
  drawn = {draw(rng, record(task), split).description for _ in range(300)}
  assert len(drawn) == len(POOLS[task].of(split))
  for description in drawn:
    assert LABEL not in description
    assert TOPIC not in description
    if task == "convsent":
      assert "negative" in description
      assert "tea {0}" in description


def test_draw_follows_its_generator():
  first = [draw(np.random.default_rng(s), record()) for s in range(9)]
  again = [draw(np.random.default_rng(s), record()) for s in range(9)]
  assert first == again


def test_a_topic_is_not_searched_for_placeholders():
  odd = Record(
    id="1",
    task="convsent",
    subject="[LABEL]",
    prompt="p",
    target="t",
    conversation=dataclasses.replace(TALK, topic="[LABEL]"),
  )
  assert "[LABEL]" in fixed(odd).description


def test_fixed():
  pool = POOLS["zsre"]
  assert fixed(record()).description == pool.seen[0]
  assert fixed(record(), 28).description == pool.held_out[4]
  assert fixed(record(), "seen:8").description == pool.seen[8]
  assert fixed(record(), "held_out:1").description == pool.held_out[1]


@pytest.mark.parametrize(
  "which", [29, -1, "seen:24", "held_out:5", "seen", "seen:x", "test:0", ""]
)
def test_fixed_refuses_what_is_not_there(which):
  with pytest.raises(UserError):
    fixed(record(), which)


def test_missing_pools_and_sentiments():
  with pytest.raises(UserError, match="No instructions for task 'mine'"):
    draw(np.random.default_rng(0), record("mine"))
  plain = Record("1", "convsent", "s", "p", "t")
  with pytest.raises(UserError, match="no conversation"):
    fixed(plain)
  lonely = {"zsre": InstructionPool("zsre", ("one",))}
  with pytest.raises(UserError, match="no held_out"):
    draw(np.random.default_rng(0), record(), "held_out", lonely)
  with pytest.raises(UserError, match="must be 'seen' or 'held_out'"):
    POOLS["zsre"].of("train")


def test_pools_are_disjoint_and_not_empty():
  with pytest.raises(UserError, match="both seen and held out"):
    InstructionPool("t", ("a",), ("a",))
  with pytest.raises(UserError, match="is empty"):
    InstructionPool("t", ())


@pytest.mark.parametrize(
  "content",
  [
    "",
    "[]",
    "{}",
    '{"tasks": []}',
    '{"tasks": {"zsre": ["a"]}}',
    '{"tasks": {"zsre": {"train": "a"}}}',
    '{"tasks": {"zsre": {"train": [1]}}}',
    '{"tasks": {"zsre": {"train": []}}}',
  ],
)
def test_bad_pool_files(tmp_path, content):
  path = tmp_path / "pools.json"
  path.write_text(content)
  with pytest.raises(UserError):
    load_pools(path)


def test_pool_files(tmp_path):
  path = tmp_path / "pools.json"
  with pytest.raises(UserError, match="not a readable"):
    load_pools(path)
  path.write_text(json.dumps({"tasks": {"mine": {"train": ["a"]}}}))
  assert load_pools(path) == {"mine": InstructionPool("mine", ("a",))}
  for lists, message in (
    ({"train": ["a\nb"]}, "must be one line"),
    ({"train": ["a"], "held_out": ["b\rc"]}, "must be one line"),
    ({"train": []}, "is empty"),
  ):
    path.write_text(json.dumps({"tasks": {"mine": lists}}))
    with pytest.raises(UserError, match=message) as error:
      load_pools(path)
    assert str(path) in str(error.value)
