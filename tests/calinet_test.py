"""CaliNet: what its slots compute, how they are trained, and that they edit."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructedit_jax.editing.archive import load_edit, save_edit
from instructedit_jax.editing.side import SideEdit
from instructedit_jax.editors import calinet
from instructedit_jax.editors.base import Request
from instructedit_jax.editors.calinet import Calinet, CalinetConfig
from instructedit_jax.editors.catalogue import open_editor
from instructedit_jax.editors.training_free import read_rows
from instructedit_jax.errors import UserError
from instructedit_jax.evaluation import Options
from instructedit_jax.evaluation.run import run
from instructedit_jax.evaluation.settings import Settings
from instructedit_jax.tasks.instructions import Instruction
from tests import tiny

REQUESTS = [
  Request("S1 is", "a"),
  Request("Where is S22?", "b c d"),
  Request("What of it:", "e f"),
]
FAMILIES = pytest.mark.parametrize("family", ["tiny-gpt2", "tiny-llama"])


@functools.cache
def make(family="tiny-llama"):
  return tiny.model(family)


def editor(**changes) -> Calinet:
  quick = {"slots": 16, "rate": 0.05, "steps": 100, "stop": 1e-2}
  return Calinet(CalinetConfig(**quick | changes))


def noise(edit: SideEdit, seed: int) -> SideEdit:
  keys = jax.random.split(jax.random.key(seed))
  values = (edit.keys, edit.values)
  drawn = (
    0.3 * jax.random.normal(key, leaf.shape)
    for key, leaf in zip(keys, values, strict=True)
  )
  return SideEdit(edit.block, edit.activation, *drawn)


def silu(x):
  return x / (1 + np.exp(-x))


def gelu_new(x):
  inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
  return 0.5 * x * (1 + np.tanh(inner))


@pytest.mark.parametrize(
  ("family", "active"), [("tiny-gpt2", gelu_new), ("tiny-llama", silu)]
)
def test_slots_read_what_the_mlp_reads_and_add_to_what_it_gives(family, active):
  model = make(family)
  block = model.config.blocks - 2  # tokens of the last are gathered
  empty = calinet.start(CalinetConfig(block=block, slots=5), model.config, 4)
  edit = noise(empty, 0)
  _, rows = read_rows(model, REQUESTS, CalinetConfig(), None)

  @jax.jit
  def run():
    seen, tap = {}, edit.tap()

    def watch(name, x, y):
      seen[name] = x, y, tap(name, x, y)
      return seen[name][2]

    model.decoder().suffix(rows.hidden, rows.sequence, watch)
    return seen

  seen = run()
  read = np.asarray(seen[f"{block}.up"][0], np.float64)
  added = np.asarray(seen[f"{block}.down"][2] - seen[f"{block}.down"][1])
  for row in range(4):
    keys, values = np.asarray(edit.keys[row]), np.asarray(edit.values[row])
    np.testing.assert_allclose(
      added[row], active(read[row] @ keys) @ values, rtol=1e-3, atol=1e-4
    )
  for name, (_, given, changed) in seen.items():
    if name != f"{block}.down":
      np.testing.assert_array_equal(given, changed)


def test_the_gradient_is_that_of_finite_differences():
  model = make()
  _, rows = read_rows(model, REQUESTS, CalinetConfig(), None)
  empty = calinet.start(CalinetConfig(slots=4), model.config, 4)
  at, way = noise(empty, 1), noise(empty, 2)

  @jax.jit
  def losses(step):
    moved = jax.tree.map(lambda a, b: a + step * b, at, way)
    return calinet.losses(model.decoder(), rows, moved)

  slope = jax.jit(
    jax.grad(lambda edit: calinet.losses(model.decoder(), rows, edit).sum())
  )(at)
  along = jax.tree.map(lambda a, b: (a * b).sum((1, 2)), slope, way)
  np.testing.assert_allclose(
    along.keys + along.values,
    (losses(0.01) - losses(-0.01)) / 0.02,
    rtol=0.01,
    atol=2e-3,
  )


@FAMILIES
def test_what_lies_before_the_slots_is_taken_as_it_is(family):
  """Losses from the last block on are those of the whole suffix."""
  model = make(family)
  _, rows = read_rows(model, REQUESTS, CalinetConfig(), None)
  edit = noise(calinet.start(CalinetConfig(slots=4), model.config, 4), 1)

  @jax.jit
  def both(rows):
    decode = model.decoder()
    front = decode.approach(rows.hidden, rows.sequence, at=rows.at)
    return (
      calinet.losses(decode, rows, edit),
      calinet.losses(decode, rows, edit, front),
    )

  whole, from_there = both(rows)
  assert whole[:3].all()
  np.testing.assert_allclose(whole, from_there, rtol=1e-6)


def test_untrained_slots_change_nothing():
  model = make()
  edit = editor(steps=0).propose_each(model, REQUESTS)
  assert edit.keys.any()
  pairs = zip(
    tiny.after(model, REQUESTS, edit),
    tiny.after(model, REQUESTS, None),
    strict=True,
  )
  for got, base in pairs:
    # Two programs, with and without an edit: they may round differently.
    np.testing.assert_allclose(got.log_after, base.log_after, rtol=1e-6)
    assert not got.divergence.any() or got.divergence.max() < 1e-6


@FAMILIES
def test_edits_take_and_do_not_touch_each_other(family):
  model = make(family)
  edit = editor().propose_each(model, REQUESTS)
  assert edit.batched
  for got in tiny.after(model, REQUESTS, edit):
    np.testing.assert_array_equal(got.after, got.labels)
  alone = editor().propose_each(model, REQUESTS[1:2])
  # Adam amplifies rounding; what it means is the same.
  for one, many in zip(
    jax.tree.leaves(alone), jax.tree.leaves(edit), strict=True
  ):
    gap = np.abs(one[0] - many[1])
    assert gap.max() < 0.02 * np.abs(one).max()


def test_several_requests_share_one_network():
  model = tiny.decided()
  edit = editor(slots=32).propose(model, REQUESTS)
  assert edit.keys.shape == (model.config.width, 32)
  for got in tiny.after(model, REQUESTS, edit):
    np.testing.assert_array_equal(got.after, got.labels)
    assert got.log_after.mean() > -0.1
  # Adam's first step is the sign of the mean gradient; keys have none yet.
  step = editor(steps=1).propose(model, REQUESTS)
  first = calinet.start(editor().config, model.config, 1)
  np.testing.assert_allclose(step.keys, first.keys[0], rtol=1e-5)
  _, rows = read_rows(model, REQUESTS, CalinetConfig(), None)
  slope = jax.jit(
    jax.grad(lambda edit: calinet.losses(model.decoder(), rows, edit).sum())
  )(first[0])
  clear = np.abs(slope.values) > 1e-5
  assert clear.mean() > 0.5
  np.testing.assert_allclose(
    step.values[clear], -0.05 * np.sign(slope.values)[clear], rtol=0.01
  )


def test_algebra():
  model = make()
  both = noise(calinet.start(CalinetConfig(slots=3), model.config, 2), 3)
  x = jax.random.normal(jax.random.key(4), (2, 5, model.config.width))
  zero = jnp.zeros_like(x)

  def added(edit):
    tap = edit.tap()
    tap(f"{edit.block}.up", x, zero)
    return tap(f"{edit.block}.down", zero, zero)

  close = functools.partial(np.testing.assert_allclose, atol=1e-5)
  close(added(both - both), zero)
  close(added(both.scale(2.0)), 2 * added(both))
  close(added(both + both), 2 * added(both))
  close(added(both.combined()), added(both[0]) + added(both[1]))
  close(added(both[1])[1], added(both)[1])
  with pytest.raises(UserError, match="cannot be merged"):
    both[0].merge(model)
  with pytest.raises(ValueError, match="different blocks"):
    _ = both + both[0]


def test_edits_survive_a_file(tmp_path):
  model = make()
  many = noise(calinet.start(CalinetConfig(slots=3), model.config, 2), 5)
  for edit in (many, many[1]):
    save_edit(tmp_path / "edit.npz", edit, model)
    held = load_edit(tmp_path / "edit.npz", model)
    assert isinstance(held, SideEdit)
    assert (held.block, held.activation) == (edit.block, edit.activation)
    jax.tree.map(np.testing.assert_array_equal, held, edit)
  assert model.generate("S1 is", edit=held, max_new_tokens=3) != (
    model.generate("S1 is", max_new_tokens=3)
  )


def test_options():
  made = open_editor("calinet:paraphrases=2:view=instructed:block=2:slots=8")
  assert isinstance(made, Calinet)
  told = Instruction("zsre", "Answer it.")
  asked = Request("The capital of France is", "Lyon", told)
  prompts = made.config.prompts(asked)
  assert prompts[0] == told.apply(asked.prompt)
  assert len(set(prompts)) == 3
  assert all(p.startswith("Task: zsre") for p in prompts)
  assert CalinetConfig().prompts(asked) == [asked.prompt]
  with pytest.raises(UserError, match="editor calinet: slots=0"):
    open_editor("calinet:slots=0")
  with pytest.raises(UserError, match="only the last"):
    open_editor("calinet:block=0").propose(make(), REQUESTS)


def test_paraphrases_are_trained_on():
  model = tiny.decided()
  asked = [Request("The capital of S is", "a")]
  (other,) = CalinetConfig(paraphrases=1).prompts(asked[0])[1:]
  edit = editor(paraphrases=1).propose(model, asked)
  for got in tiny.after(model, [*asked, Request(other, "a")], edit):
    assert got.log_after.mean() > -0.1


def test_an_evaluation_from_end_to_end(tmp_path):
  works, fails = "calinet:slots=8:steps=40:rate=0.05", "calinet:rate=inf"
  results, none = run(
    Settings(
      editors=(works, fails),
      out=str(tmp_path),
      model="random:tiny-llama",
      tasks=("counterfact",),
      data="embedded",
      limit=2,
      queries=("bare",),
      options=Options(free=False, fluency_limit=0, resamples=5),
    )
  )
  assert len(results.records) == 2
  assert results.value("reliability_token") > 50
  # A method that fails on every record is told of, and does not end the run.
  assert (none.editor, none.records) == (fails, [])
  assert [id_ for id_, _ in none.failed] == [r.id for r in results.records]
  chunks = json.loads((tmp_path / "protocol.json").read_text())["chunks"]
  assert ["overflow" in c["failed"][0]["reason"] for c in chunks[1:]] == [True]
  assert (tmp_path / "summary.json").exists()


def test_an_evaluation_without_any_result_says_why(tmp_path):
  settings = Settings(
    editors=("calinet:rate=inf:slots=8:steps=40",),
    out=str(tmp_path),
    model="random:tiny-llama",
    tasks=("counterfact",),
    data="embedded",
    limit=1,
    queries=("bare",),
    options=Options(free=False, fluency_limit=0, resamples=5),
  )
  with pytest.raises(UserError, match=r"no record.*overflow"):
    run(settings)
  assert (tmp_path / "protocol.json").exists()
