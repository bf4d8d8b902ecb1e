"""Which records a run trains on, and which it is validated on."""

import dataclasses
import json

import numpy as np
import pytest

from instructedit_jax.errors import UserError
from instructedit_jax.tasks.record import Probe
from instructedit_jax.training.data import Episodes, in_turn, load_records
from tests import tiny, tiny_run


@pytest.fixture(scope="module")
def model():
  return tiny_run.model()


def _made(model, config):
  return Episodes(model, config, load_records(config))


def _own(model, records, **changes):
  """Episodes of records of one task."""
  task = records[0].task
  config = tiny_run.config(tasks=((task, 1.0),), **changes)
  return Episodes(model, config, {task: records})


def _edit_tokens(made):
  """Of every record, several times: descriptions are drawn."""
  rng = np.random.default_rng(0)
  (records,) = made.mixture.records.values()
  return [
    sum(len(view.tokens) for view in made._maker(record, rng).edit)
    for record in records
    for _ in range(8)
  ]


def test_a_task_without_weight_is_left_out(model):
  tasks = (("convsent", 0.0), ("counterfact", 1.0))
  made = _made(model, tiny_run.config(tasks=tasks))
  assert made.mixture.records.keys() == {"counterfact"}
  assert {record.task for record in made.validation} == {"counterfact"}


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_weights_that_are_none_are_refused(weight):
  with pytest.raises(UserError, match=r"config\.tasks\.zsre"):
    tiny_run.config(tasks=(("counterfact", 1.0), ("zsre", weight)))


def test_some_task_needs_a_weight():
  with pytest.raises(UserError, match="at least one task"):
    tiny_run.config(tasks=(("zsre", 0.0),))


def test_too_few_validation_records_are_told_before_training(model):
  with pytest.raises(UserError, match="12 records are held out over all tasks"):
    _made(model, tiny_run.config(batch_size=16))


def test_every_task_is_in_every_validation_batch(model):
  made = _made(model, tiny_run.config(batch_size=3))
  tasks = [record.task for record in made.validation]
  assert len(tasks) == 12
  for start in range(0, 12, 3):
    assert len(set(tasks[start : start + 3])) == 3


def test_groups_of_different_sizes_are_spread_evenly():
  many = [tiny.record(i) for i in range(8)]
  few = [tiny.opinion(i) for i in range(4)]
  mixed = in_turn([many, few])
  assert sorted(r.id for r in mixed) == sorted(r.id for r in many + few)
  for start in range(0, 12, 3):
    tasks = [record.task for record in mixed[start : start + 3]]
    assert sorted(tasks) == ["convsent", "counterfact", "counterfact"]
  assert in_turn([many, []]) == many


@pytest.mark.parametrize(("scoped", "most"), [(0.0, 80), (1.0, 137)])
def test_every_description_of_the_pool_fits(model, tmp_path, scoped, most):
  path = tmp_path / "pools.json"
  texts = ["x" * 30, f"About [TOPIC], {'x' * 20}.", "Short."]
  path.write_text(json.dumps({"tasks": {"counterfact": {"train": texts}}}))
  # One of them with a long name of its own, at the front: it is trained on.
  long = tiny.record(0, subject="S" * 50, prompt=f"{'S' * 50} is")
  records = [long, *(tiny.record(i) for i in range(1, 25))]

  def made(edit_tokens):
    config = tiny_run.config("instructedit_text")
    return _own(
      model,
      records,
      editor=config.editor,
      episode=dataclasses.replace(config.episode, scoped=scoped),
      shape=dataclasses.replace(config.shape, edit_tokens=edit_tokens),
      instructions=str(path),
    )

  # Tokens are bytes: there is room for all but the long record, and no more.
  found = made(most)
  (kept,) = found.mixture.records.values()
  assert long not in kept
  assert len(kept) == 20
  assert most - 5 < max(_edit_tokens(found)) <= most
  with pytest.raises(UserError, match="no record fits"):
    made(most - 10)


def test_texts_too_long_for_the_model_are_left_out(model):
  endless = "x " * 600
  asked = Probe("Neighborhood", f"{endless} is", ("b",))
  records = [tiny.record(i, locality=(asked,)) for i in range(24)]
  records[0] = tiny.record(0, prompt=endless)
  records[1] = tiny.record(1, rephrases=(endless,))
  made = _own(model, records)
  (kept,) = made.mixture.records.values()
  assert records[0] not in kept
  assert records[1] in kept
  rng = np.random.default_rng(0)
  for record in kept:
    for _ in range(8):
      queries = made._maker(record, rng).queries
      assert model.text.decode(queries[0][1].tokens).startswith(record.prompt)
      assert all(len(query.tokens) <= 512 for _, query in queries)


def test_a_task_without_instructions_is_told_before_training(model):
  records = [tiny.record(i, task="mine") for i in range(20)]
  with pytest.raises(UserError, match=r"--config\.instructions=FILE"):
    _own(model, records)
