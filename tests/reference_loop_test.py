"""The published recipe as a run, and the editor it leaves."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import reference as released
from instructedit_jax.checkpoints import CheckpointStore
from instructedit_jax.editors import reference
from instructedit_jax.editors.base import Request
from instructedit_jax.editors.hypernetwork import HypernetworkConfig
from instructedit_jax.editors.reference import Batch, ReferenceConfig
from instructedit_jax.editors.trained import load_editor
from instructedit_jax.errors import Stopped, UserError
from instructedit_jax.metric_writer import read_metrics
from instructedit_jax.models.language_model import load_model
from instructedit_jax.parallel.processes import StopRequest
from instructedit_jax.tasks.instructions import POOLS, Instruction
from instructedit_jax.training import reference_data, reference_loop
from instructedit_jax.training.reference_data import make_batch
from instructedit_jax.training.reference_loop import ReferenceRun
from tests import tiny

RECIPE = ReferenceConfig(HypernetworkConfig(rank=6), lr=1e-3)
INSTRUCTION = Instruction("counterfact", "A rare fact.")


def run(**changes) -> ReferenceRun:
  settings = ReferenceRun(
    model="random:tiny-llama",
    suffix=2,
    tasks=("counterfact", "convsent"),
    limits={"counterfact": 3, "convsent": 2},
    micro_steps=4,
    validation_records=2,
    validate_every=3,
    checkpoint_every=1,
    log_every=1,
    max_tokens=256,  # the tokens are bytes
    recipe=RECIPE,
  )
  return dataclasses.replace(settings, **changes)


@functools.cache
def model(name: str):
  """With a tokenizer in which, as in GPT-2's, a blank belongs to its word."""
  return load_model(f"random:{name}", suffix=2, tokenizer=tiny.tokenizer())


def examples(task: str, count: int = 2):
  return reference_data.load_examples(
    "embedded", [task], {task: count}, 0, pools=POOLS
  )


def trained_state(base, shapes) -> reference.State:
  """As after training: statistics of one edit, every parameter moved."""
  state = reference.init(jax.random.key(0), shapes, RECIPE)
  batch = request_batch(base, "The capital of France is", "b a")
  statistics, _ = jax.jit(
    lambda weights, batch: reference.episode(
      nnx.merge(base.graph, weights),
      state.params,
      state.statistics,
      shapes,
      RECIPE,
      batch,
    )
  )(base.params, batch)
  leaves, tree = jax.tree.flatten(state.params)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  moved = [
    leaf + 0.02 * jax.random.normal(key, leaf.shape)
    for leaf, key in zip(leaves, keys, strict=True)
  ]
  params = jax.tree.unflatten(tree, moved)
  return state._replace(params=params, statistics=statistics)


def request_batch(base, prompt: str, target: str) -> Batch:
  """One string, not padded, as the authors tokenise it."""
  tokens = jnp.asarray([base.text.encode(f"{prompt} {target}")])
  labels = jnp.asarray([base.text.encode(f" {target}")])
  ones = jnp.ones_like(tokens)
  return Batch(tokens, ones, labels, tokens, ones, jnp.ones_like(labels))


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "order", "method"),
  [
    ("tiny-llama", ("gate", "up", "down"), "instructedit_text"),
    ("tiny-llama", ("down", "up", "gate"), "mend"),
    ("tiny-gpt2", ("down", "up"), "instructedit_text"),
  ],
)
def test_the_exported_editor_makes_the_same_edit(name, order, method, tmp_path):
  base = model(name)
  config = run(order=order, method=method)
  shapes = reference_loop.listed_shapes(base.config, order)
  state = trained_state(base, shapes)
  request = Request("The sun is", "c d e", INSTRUCTION)
  reference_loop.exported(config, base, state).save(tmp_path / "editor")
  edit = load_editor(tmp_path).propose(base, [request]).dense()

  told = method == "instructedit_text"
  prompt = INSTRUCTION.apply(request.prompt) if told else request.prompt
  expected = jax.jit(
    lambda weights, batch: reference.make_edit(
      nnx.merge(base.graph, weights),
      state.params,
      state.statistics,
      shapes,
      RECIPE,
      batch,
    ).dense()
  )(base.params, request_batch(base, prompt, request.target))
  assert edit.keys() == expected.keys()
  for matrix, update in expected.items():
    scale = np.abs(update).max()
    assert scale > 0
    np.testing.assert_allclose(
      edit[matrix], update, atol=1e-4 * scale, err_msg=matrix
    )


def unpadded(batch: Batch) -> Batch:
  """The columns and rows the authors' loader would have made."""
  fill, loc_fill = int(batch.fill), int(batch.loc_fill)
  rows, kept = batch.mask.any(1), batch.loc_mask.any(1)
  columns = max(len(batch.tokens[0]) - 1 - fill, 1)
  answers = batch.answer_mask.any(0).sum()
  labels = batch.labels[rows]
  if batch.same is not None:
    columns = len(batch.tokens[0]) - fill
    labels = np.where(batch.mask[rows], batch.tokens[rows], -100)
  return Batch(
    tokens=batch.tokens[rows, fill:],
    mask=batch.mask[rows, fill:],
    labels=labels[:, -columns:],
    loc_tokens=batch.loc_tokens[kept, loc_fill:],
    loc_mask=batch.loc_mask[kept, loc_fill:],
    answer_mask=batch.answer_mask[kept, -answers:],
    same=None if batch.same is None else batch.same[rows],
  )


@pytest.mark.slow
@pytest.mark.parametrize("task", ["counterfact", "convsent"])
def test_rounding_shapes_up_changes_nothing(task):
  base = model("tiny-gpt2")  # learned positions: they would notice
  shapes = reference_loop.listed_shapes(base.config)
  state = reference.init(jax.random.key(0), shapes, RECIPE)
  padded = make_batch(base.text, examples(task)[0], 200)
  assert padded.fill
  assert padded.loc_fill
  found = []
  for batch in (padded, unpadded(padded)):
    statistics, report = jax.jit(
      lambda weights, batch: reference.episode(
        nnx.merge(base.graph, weights),
        state.params,
        state.statistics,
        shapes,
        RECIPE,
        batch,
      )
    )(base.params, jax.tree.map(jnp.asarray, batch))
    scalars = dict(report.scalars)
    del scalars["loc_acc"]  # counts padding
    found.append((scalars, statistics, report.edit.dense()))
  for a, b in zip(*(jax.tree.leaves(part) for part in found), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(a).max())


def test_a_record_keeps_what_was_drawn_for_it():
  first, again = examples("counterfact"), examples("counterfact")
  assert first == again
  example = first[0]
  assert len(example.edit) == 1
  assert example.edit[0].startswith("Task: counterfact\nDescription: ")
  assert example.edit[0].endswith(f" {example.target}")
  assert not any("Task:" in text for text, _ in example.kept)
  assert all(text.endswith(f" {answer}") for text, answer in example.kept)


def test_opinions_are_learned_without_an_instruction():
  first, second = examples("convsent")
  assert len(first.edit) == len(first.same) > 2
  assert len(set(first.same)) == 2
  assert not any("Task:" in text for text in first.edit)
  # What must stay is said about the next topic.
  replies = {text.split("</s>")[1] for text, _ in first.kept}
  assert replies == {text.split("</s>")[1] for text in second.edit}


def test_labels_meet_the_end_of_the_string():
  base = model("tiny-llama")
  example = examples("counterfact")[0]
  batch = make_batch(base.text, example, 512)
  real = batch.labels[0] != -100
  assert base.text.decode(batch.labels[0][real]) == f" {example.target}"
  np.testing.assert_array_equal(
    batch.tokens[0, 1:][real], batch.labels[0][real]
  )
  assert batch.labels.shape[1] == batch.tokens.shape[1] - 1


def test_epochs_are_shuffled_and_a_function_of_the_step():
  order = reference_data.Order(5, seed=1)
  seen = [order(step) for step in range(10)]
  assert sorted(seen[:5]) == sorted(seen[5:]) == list(range(5))
  assert reference_data.Order(5, seed=1)(7) == seen[7]


def test_records_with_nothing_to_keep_are_left_out(monkeypatch, caplog):
  bare = [tiny.record(i, locality=()) for i in range(3)]

  def load(records):
    monkeypatch.setattr(
      reference_data, "load_split", lambda *_: (records, "read")
    )
    return reference_data.load_examples("here", ["counterfact"], {}, 0)

  with caplog.at_level("INFO"):
    assert len(load([*bare, tiny.record(3)])) == 1
  assert "counterfact: 3 of 4 records have nothing to keep" in caplog.text
  with pytest.raises(UserError, match="no training record of task"):
    load(bare)


@pytest.mark.slow
def test_a_run_cut_off_and_resumed_equals_one_that_was_not(
  tmp_path, monkeypatch
):
  base = model("tiny-llama")
  # All three runs have the same programs: they are compiled once.
  shapes = reference_loop.listed_shapes(base.config)
  programs = reference_loop._programs(base.graph, shapes, RECIPE)
  monkeypatch.setattr(reference_loop, "_programs", lambda *_: programs)
  whole = reference_loop.train(run(), tmp_path / "whole", base)
  part = tmp_path / "part"
  save = CheckpointStore.save

  def checked(store, step, *rest):
    # A run that is killed after this goes on with the next step.
    assert read_metrics(part / "metrics.jsonl")[-1]["step"] == step
    return save(store, step, *rest)

  with monkeypatch.context() as asked:  # as SIGTERM does
    asked.setattr(CheckpointStore, "save", checked)
    asked.setattr(StopRequest, "asked", lambda self, step: step == 3)
    with pytest.raises(Stopped, match="stopped by request after micro-step"):
      reference_loop.train(run(), part, base)
  assert (part / "checkpoints" / "3").is_dir()
  again = reference_loop.train(run(), part, base)
  for field in ("params", "statistics"):
    jax.tree.map(
      np.testing.assert_array_equal,
      getattr(whole, field),
      getattr(again, field),
    )
  assert whole.details["step"] == 4
  assert (part / "curves.png").exists()
  # Two updates of Adam at the rate of everything else: lr_lr is dead.
  moved = np.abs(whole.params["rates"] + RECIPE.edit_lr)
  assert np.all((moved > 0) & (moved <= 2.01 * RECIPE.lr))
  rows = read_metrics(part / "metrics.jsonl")
  for name in (
    "edit_loss",
    "locality_kl",
    "token_accuracy",
    "locality_agreement",
  ):
    assert [r["step"] for r in rows if f"train/{name}" in r] == [1, 2, 3, 4]
    assert [r["step"] for r in rows if f"validation/{name}" in r] == [3, 4]
  with pytest.raises(UserError, match="different: seed"):
    reference_loop.train(run(seed=1), part, base)


def test_the_configuration_file_holds_the_released_values():
  for name in ("smollm2-135m", "gpt2-xl", "llama-2-7b"):
    config = released.get_config(name)
    assert config.trainer == "reference"
    assert reference_loop.from_config(config).recipe == ReferenceConfig()
  config = released.get_config()
  config.suffix = 0
  with config.unlocked():
    config.learning_rate = 1.0
  with pytest.raises(UserError, match="learning_rate"):
    reference_loop.from_config(config)


def test_an_order_of_another_family_is_refused():
  with pytest.raises(UserError, match="have up, down"):
    reference_loop.listed_shapes(
      model("tiny-gpt2").config, ("gate", "up", "down")
    )
