"""KnowledgeEditor: its networks, its equation, its training and its use."""

import dataclasses
import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from instructedit_jax.editing.dense import DenseEdit
from instructedit_jax.editing.prefix import PrefixCache
from instructedit_jax.editing.rows import rows_of
from instructedit_jax.editing.sequences import pack, score
from instructedit_jax.editors import gating, ke, metalearned
from instructedit_jax.editors.base import Request
from instructedit_jax.editors.gating import GatingConfig
from instructedit_jax.editors.metalearned import Condition, EditorConfig
from instructedit_jax.editors.trained import TrainedEditor, load_editor
from instructedit_jax.editors.training_free import target_loss
from instructedit_jax.errors import UserError
from instructedit_jax.evaluation import Options
from instructedit_jax.evaluation.run import run
from instructedit_jax.evaluation.settings import Settings
from instructedit_jax.metric_writer import read_metrics
from instructedit_jax.models.language_model import load_model
from instructedit_jax.training.loop import train
from tests import tiny, tiny_run

REQUESTS = [
  Request("S1 is", "a"),
  Request("Where is S22?", "b c d"),
  Request("What of it:", "e f"),
]
SMALL = GatingConfig(units=4, code=8, hidden=6)
CONFIG = EditorConfig("ke", rows="all", gates=SMALL)


@functools.cache
def make(family="tiny-llama"):
  return tiny.model(family)


def parameters(model, noise=0.0):
  params, _ = ke.init(jax.random.key(0), CONFIG, model.config)
  leaves, structure = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  drawn = [
    leaf + noise * jax.random.normal(key, leaf.shape)
    for key, leaf in zip(keys, leaves, strict=True)
  ]
  return jax.tree.unflatten(structure, drawn)


def editor(model, params) -> TrainedEditor:
  return TrainedEditor(
    CONFIG,
    params,
    {},
    model.fingerprint,
    model.config.suffix,
    {"model": model.name},
  )


def inputs(model, tokens=32, answers=8):
  """Rows and tokens of the requests."""
  texts = [
    [score(model.text, r.prompt, r.target, context=model.config.context)]
    for r in REQUESTS
  ]
  packed = pack(texts, tokens, answers)
  cache = PrefixCache(model)
  rows = rows_of(packed, [cache(row) for row in texts], model.config.width)
  return rows, Condition(np.zeros(3), np.zeros(3, bool), packed.tokens)


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def softmax(x):
  chance = np.exp(x - x.max())
  return chance / chance.sum()


def layer(params, x):
  """Weight normalisation: columns of given length."""
  column = np.asarray(params["direction"], np.float64)
  column = column / np.sqrt((column**2).sum(0)) * np.asarray(params["length"])
  return x @ column + np.asarray(params["bias"])


def test_the_lstm_is_that_of_pytorch():
  torch = pytest.importorskip("torch")
  params = gating.init(jax.random.key(0), 5, {"0.up": (3, 4)}, SMALL)
  theirs = torch.nn.LSTM(5, 4, bidirectional=True, batch_first=True)
  state = {}
  for way, suffix in (("forward", ""), ("backward", "_reverse")):
    ours = {k: torch.tensor(np.asarray(v)) for k, v in params[way].items()}
    state[f"weight_ih_l0{suffix}"] = ours["inputs"].T
    state[f"weight_hh_l0{suffix}"] = ours["states"].T
    state[f"bias_ih_l0{suffix}"] = ours["bias"]
    state[f"bias_hh_l0{suffix}"] = torch.zeros(16)
  theirs.load_state_dict(state)
  text = np.asarray(jax.random.normal(jax.random.key(1), (7, 5)))
  with torch.no_grad():
    _, (last, _) = theirs(torch.tensor(text)[None])
  # Gaps anywhere, and whatever stands in them, do not matter.
  gapped = np.full((1, 12, 5), 7.0, np.float32)
  places = [0, 1, 4, 5, 6, 9, 10]
  gapped[0, places] = text
  mask = np.zeros((1, 12), bool)
  mask[0, places] = True
  for way, wanted in zip(("forward", "backward"), last, strict=True):
    found = gating.last_state(params[way], gapped, mask, way == "backward")
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_gates_are_those_of_numpy():
  shapes = {"0.up": (3, 4), "0.down": (4, 3)}
  params = gating.init(jax.random.key(0), 5, shapes, SMALL)
  params = jax.tree.map(lambda leaf: leaf + 0.3, params)
  text = jax.random.normal(jax.random.key(1), (2, 6, 5))
  mask = np.ones((2, 6), bool)
  code = np.asarray(gating.summary(params, text, mask), np.float64)
  found = gating.apply(params, shapes, text, mask)
  for name, (n, m) in shapes.items():
    layers = params["networks"][name]
    for row in range(2):
      out = layer(layers["last"], np.tanh(layer(layers["first"], code[row])))
      wanted = gating.Gates(
        out[:n],
        softmax(out[2 * n : 2 * n + m]),
        out[n : 2 * n],
        softmax(out[2 * n + m : -1]),
        sigmoid(out[-1]),
      )
      for ours, theirs in zip(found[name], wanted, strict=True):
        np.testing.assert_allclose(ours[row], theirs, rtol=1e-4, atol=1e-6)


def test_the_text_is_old_new_and_prompt():
  model = make()
  params, (rows, told) = parameters(model), inputs(model)
  old = np.full(rows.labels.shape, 5)
  text, mask = ke.read(params, model.decoder(), rows, old, told.tokens)
  table = np.asarray(model.params["embedding"][...])
  first, second = params["marks"]
  for row, request in enumerate(REQUESTS):
    ids, start = model.text.encode_pair(request.prompt, request.target)
    wanted = [
      *([table[5]] * (len(ids) - start)),
      first,
      *table[ids[start:]],
      second,
      *table[ids[:start]],
    ]
    np.testing.assert_allclose(text[row][mask[row]], np.stack(wanted))


@pytest.mark.parametrize("family", ["tiny-gpt2", "tiny-llama"])
def test_the_edit_is_the_gated_gradient(family):
  model = make(family)
  params, (rows, told) = parameters(model, 0.5), inputs(model)

  @jax.jit
  def proposed():
    decode = model.decoder()
    seen, losses = ke.look(decode, rows, CONFIG)
    edit = ke.propose(params, {}, CONFIG, decode, rows, seen, told)
    text, mask = ke.read(params, decode, rows, seen.old, told.tokens)
    shapes = metalearned.shapes(model.config)
    gates = gating.apply(params["gates"], shapes, text, mask)
    return edit.dense(), gates, seen.old, losses

  @jax.jit
  @jax.grad
  def slopes(update):
    return target_loss(model.decoder(), rows, DenseEdit(update).tap()).sum()

  shapes = metalearned.shapes(model.config)
  start = {name: jnp.zeros((3, *shape)) for name, shape in shapes.items()}
  gradient = slopes(start)
  found, gates, old, losses = proposed()
  for name, (_, m) in shapes.items():
    for row in range(3):
      gate = [np.asarray(part[row], np.float64) for part in gates[name]]
      within, out, own_in, own_out, strength = gate
      slope = np.asarray(gradient[name][row], np.float64)
      gated = slope * np.outer(within, out) + np.outer(own_in, own_out)
      np.testing.assert_allclose(
        found[name][row], m * strength * gated, rtol=1e-3, atol=1e-5
      )
  for row, got in enumerate(tiny.after(model, REQUESTS, None)):
    count = len(got.labels)
    np.testing.assert_array_equal(old[row, :count], got.before)
    np.testing.assert_allclose(losses[row], -got.log_before.mean(), rtol=1e-4)


def test_an_untrained_editor_changes_nothing_at_all():
  model = make()
  edit = editor(model, parameters(model)).propose_each(model, REQUESTS)
  pairs = zip(
    tiny.after(model, REQUESTS, edit),
    tiny.after(model, REQUESTS, None),
    strict=True,
  )
  for got, base in pairs:
    # Two programs, with and without an edit: they may round differently.
    np.testing.assert_allclose(got.log_after, base.log_after, rtol=1e-6)


def _loss(model, rows, told):
  """Of the edited model, given the editor's parameters."""
  seen, _ = jax.jit(lambda: ke.look(model.decoder(), rows, CONFIG))()

  def loss(params):
    decode = model.decoder()
    edit = ke.propose(params, {}, CONFIG, decode, rows, seen, told)
    return target_loss(decode, rows, edit.tap()).mean()

  return loss


def test_the_gradient_is_that_of_finite_differences():
  model = make()
  at, way = parameters(model, 0.3), parameters(model, 0.1)
  loss = _loss(model, *inputs(model))

  @jax.jit
  def along(step):
    return loss(jax.tree.map(lambda a, b: a + step * b, at, way))

  @jax.jit
  def slope():
    return optax.tree.vdot(jax.grad(loss)(at), way)

  numeric = (along(3e-3) - along(-3e-3)) / 6e-3
  np.testing.assert_allclose(slope(), numeric, rtol=0.02, atol=1e-3)


def test_trained_on_requests_it_makes_them():
  model = make()
  loss, params = _loss(model, *inputs(model)), parameters(model)
  # Two and a half times as fast, rounding decides where it ends.
  rule = optax.adam(0.02)

  @jax.jit
  def fit(params):
    def step(state, _):
      params, memory = state
      value, slope = jax.value_and_grad(loss)(params)
      change, memory = rule.update(slope, memory)
      return (optax.apply_updates(params, change), memory), value

    # Until the loss no longer falls: half way, rounding decides an answer.
    return jax.lax.scan(step, (params, rule.init(params)), length=600)

  (params, _), values = fit(params)
  assert values[-1] < values[0]
  made = editor(model, params)
  edit = made.propose_each(model, REQUESTS)
  for got in tiny.after(model, REQUESTS, edit):
    np.testing.assert_array_equal(got.after, got.labels)
    assert got.log_after.mean() > got.log_before.mean() + 0.1
  for i, request in enumerate(REQUESTS):
    alone = made.propose(model, [request]).dense()
    for name, update in edit[i].dense().items():
      np.testing.assert_allclose(update, alone[name], rtol=2e-3, atol=1e-5)


def test_a_model_without_embeddings_is_refused():
  model = load_model("random:tiny-llama", suffix=2)
  bare = load_model("random:tiny-llama", suffix=2, prefix=False)
  rows, told = inputs(model)
  params = parameters(model)
  with pytest.raises(UserError, match="prefix=True"):
    ke.read(params, bare.decoder(), rows, rows.labels, told.tokens)


@pytest.mark.parametrize("field", ["units", "code", "hidden", "scale"])
def test_a_wrong_size_is_named(field):
  with pytest.raises(UserError, match=rf"editor\.gates\.{field}"):
    GatingConfig(**{field: -1})


@pytest.mark.slow
def test_it_trains_resumes_and_is_evaluated(tmp_path):
  model = tiny_run.model()
  config = tiny_run.config("ke", steps=4, validate_every=2)
  config = dataclasses.replace(
    config, editor=dataclasses.replace(config.editor, gates=SMALL)
  )
  whole = train(config, tmp_path / "whole", model)
  assert whole.statistics == {}
  before, _ = ke.init(jax.random.key(config.seed), CONFIG, model.config)
  assert optax.tree.norm(optax.tree.sub(whole.params, before)) > 0
  # Cut: everything after the checkpoint of step 2 is lost.
  part = tmp_path / "part"
  shutil.copytree(tmp_path / "whole", part)
  for folder in (part / "checkpoints").iterdir():
    if folder.name.isdigit() and int(folder.name) > 2:
      shutil.rmtree(folder)
  shutil.rmtree(part / "editor")
  again = train(config, part, model)
  jax.tree.map(np.testing.assert_array_equal, whole.params, again.params)
  rows = read_metrics(tmp_path / "whole" / "metrics.jsonl")
  assert read_metrics(part / "metrics.jsonl") == rows
  assert {row["step"] for row in rows} == {1, 2, 3, 4}
  loaded = load_editor(part)
  assert loaded.config == config.editor
  assert loaded.statistics == {}
  jax.tree.map(np.testing.assert_array_equal, whole.params, loaded.params)
  (results,) = run(
    Settings(
      editors=(str(part),),
      out=str(tmp_path / "out"),
      tasks=("counterfact",),
      limit=2,
      queries=("bare",),
      options=Options(free=False, fluency_limit=0, resamples=5),
    )
  )
  assert results.editor == "ke"
  assert len(results.records) == 2
