import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from instructedit_jax import parallel
from instructedit_jax.editing.prefix import PrefixCache
from instructedit_jax.editing.rows import rows_of
from instructedit_jax.editing.sequences import pack, score
from instructedit_jax.editors import metalearned
from instructedit_jax.editors.base import Request
from instructedit_jax.editors.trained import TrainedEditor, load_editor
from instructedit_jax.errors import UserError
from instructedit_jax.metric_writer import read_metrics
from instructedit_jax.models.decoder import Sequence
from instructedit_jax.models.language_model import load_model
from instructedit_jax.tasks.instructions import Instruction
from instructedit_jax.tasks.set_aside import hold_out
from instructedit_jax.training import losses, prefix_fill, step
from instructedit_jax.training.config import default, from_config
from instructedit_jax.training.data import Episodes, load_records
from instructedit_jax.training.loop import train
from tests import tiny_run as tiny


@pytest.fixture(scope="module")
def model():
  return tiny.model()


@pytest.fixture(scope="module")
def episodes(model):
  config = tiny.config()
  return Episodes(model, config, load_records(config))


def _first(episodes):
  return next(iter(episodes.batches(0)))


def test_batches_are_a_pure_function_of_the_step(episodes):
  from_two = next(iter(episodes.batches(2)))
  stream = iter(episodes.batches(0))
  third = [next(stream) for _ in range(3)][2]
  jax.tree.map(np.testing.assert_array_equal, from_two, third)


def test_every_episode_asks_the_bare_question(episodes, model):
  batch = _first(episodes)
  kept = batch.base.shape[1]
  for b, mask in enumerate(batch.edit.mask):
    target = list(batch.edit.labels[b][mask])
    asked = list(batch.query.labels[b, kept : kept + len(target)])
    assert asked == target


def test_weights_of_a_kind_add_up_to_one(episodes):
  batch = _first(episodes)
  kept = batch.base.shape[1]
  keep, ask = batch.weight[:, :kept], batch.weight[:, kept:]
  np.testing.assert_allclose(keep.sum(1), 1, rtol=1e-6)
  np.testing.assert_allclose((ask * ~batch.avoid).sum(1), 1, rtol=1e-6)
  avoided = (ask * batch.avoid).sum(1)
  assert set(np.round(avoided, 5)) <= {0.0, 1.0}


def test_an_unedited_model_keeps_everything():
  logits = jax.random.normal(jax.random.key(0), (2, 3, 7))
  loss, slope, agree = losses.keep_loss(logits, logits)
  np.testing.assert_allclose(loss, 0, atol=1e-6)
  np.testing.assert_allclose(slope, 0, atol=1e-6)
  assert agree.all()


def test_losses_equal_their_definitions():
  key = jax.random.key(1)
  base, post = jax.random.normal(key, (2, 2, 3, 7))
  p, q = jax.nn.softmax(base), jax.nn.softmax(post)
  loss, _, agree = losses.keep_loss(base, post)
  np.testing.assert_allclose(loss, (p * jnp.log(p / q)).sum(-1), rtol=1e-5)
  np.testing.assert_array_equal(agree, base.argmax(-1) == post.argmax(-1))
  labels = jnp.asarray([[1, 2, 3], [4, 5, 6]])
  avoid = jnp.asarray([[True, False, False], [False, False, True]])
  loss, _, hit = losses.edit_loss(post, labels, avoid)
  chance = jnp.take_along_axis(q, labels[..., None], -1)[..., 0]
  expected = -jnp.where(avoid, jnp.log(1 - chance), jnp.log(chance))
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  np.testing.assert_array_equal(hit, post.argmax(-1) == labels)


def test_slopes_of_the_losses_are_their_gradients():
  base, post = 3 * jax.random.normal(jax.random.key(2), (2, 4, 7))
  labels = jnp.asarray([1, 2, 3, 0])
  # The last is as good as certain, where the loss to avoid it is flat.
  post = post.at[3, 0].set(30.0)
  avoid = jnp.asarray([True, False, True, True])
  sides = {
    "keep": lambda post: losses.keep_loss(base, post),
    "edit": lambda post: losses.edit_loss(post, labels, avoid),
  }
  for name, side in sides.items():
    gradient = jax.grad(lambda x, side=side: side(x)[0].sum())(post)
    np.testing.assert_allclose(
      side(post)[1], gradient, rtol=1e-4, atol=1e-6, err_msg=name
    )


def _step(model, config):
  rule = step.optimizer(config.optimizer, config.steps)
  state = step.init_state(jax.random.key(0), config.editor, model.config, rule)
  run = step.make_train_step(
    model.graph, config.editor, config.loss, model.config, rule
  )
  return jax.jit(run), state


@pytest.mark.parametrize("method", list(metalearned.METHODS))
def test_sharded_step_equals_unsharded(model, method):
  config = tiny.config(method)
  batch = _first(Episodes(model, config, load_records(config)))
  run, state = _step(model, config)
  alone, numbers = run(state, model.params, batch)
  mesh = parallel.make_mesh(parallel.MeshConfig(), config.batch_size)
  assert mesh.size == 4
  place = NamedSharding(mesh, PartitionSpec("data"))
  whole = NamedSharding(mesh, PartitionSpec())
  shared, others = run(
    *jax.device_put((state, model.params), whole),
    jax.device_put(batch, place),
  )
  for name in numbers:
    np.testing.assert_allclose(
      numbers[name], others[name], rtol=2e-4, atol=1e-6, err_msg=name
    )
  # Adam's first step is the gradient's sign: equal up to sums near zero.
  same = jax.tree.map(
    lambda a, b: np.mean(np.isclose(a, b, rtol=1e-3, atol=1e-5)),
    alone.statistics,
    shared.statistics,
  )
  assert min(jax.tree.leaves(same), default=1.0) == 1.0


@pytest.mark.parametrize("method", list(metalearned.METHODS))
def test_a_step_returns_the_types_it_was_given(model, method):
  """Else its second call, with what the first returned, compiles again."""
  config = tiny.config(method)
  batch = _first(Episodes(model, config, load_records(config)))
  run, state = _step(model, config)

  def types(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
      jax.tree_util.keystr(at): (leaf.shape, leaf.dtype, leaf.weak_type)
      for at, leaf in leaves
    }

  given = jax.eval_shape(lambda state: state, state)
  returned, _ = jax.eval_shape(run, state, model.params, batch)
  assert types(returned) == types(given)


def _loss(model, prompt, target, edit=None):
  """Mean -log p of a target's tokens, computed from whole logits."""
  ids, start = model.text.encode_pair(prompt, target)
  tokens = jnp.asarray([ids])
  where = Sequence(jnp.arange(len(ids))[None], jnp.ones_like(tokens))
  logits = model.decoder()(tokens, where, edit and edit.tap())
  log_p = jax.nn.log_softmax(logits[0, start - 1 : -1])
  return -float(jnp.take_along_axis(log_p, tokens[0, start:, None], 1).mean())


@pytest.mark.parametrize("both_forms", [False, True])
@pytest.mark.parametrize("rounds", [1, 2])
@pytest.mark.parametrize("method", ["mend", "instructedit_views"])
def test_first_edits_already_descend(model, method, rounds, both_forms):
  """A small step of the untrained editor lowers the loss of all it was told."""
  config = dataclasses.replace(
    tiny.config(method).editor,
    rate=1e-2,
    rounds=rounds,
    both_forms=both_forms,
  )
  told = Instruction("zsre", "Answer it.")
  requests = [
    Request("The sky is", "green", told, "What?" if both_forms else None),
    Request("Two and two", "five", told),
  ]
  params, statistics = metalearned.init(jax.random.key(0), config, model.config)
  editor = TrainedEditor(
    config, params, statistics, model.fingerprint, model.config.suffix
  )
  edit = editor.propose_each(model, requests)
  for i, request in enumerate(requests):
    for prompt in config.views(told, request.prompt, request.other_form):
      before = _loss(model, prompt, request.target)
      assert _loss(model, prompt, request.target, edit[i]) < before


@pytest.mark.parametrize("more", [{"rounds": 2}, {"insist": 1}])
def test_a_second_round_takes_the_edited_models_factors(model, more):
  """Two rounds equal two edits, the second made on the merged model.

  The first leaves the answer unsaid, so that one is made in use, too.
  """
  config = dataclasses.replace(tiny.config("mend").editor, rounds=1, insist=0)
  params, statistics = metalearned.init(jax.random.key(0), config, model.config)
  request = [Request("The sky is", "green")]
  one = TrainedEditor(
    config, params, statistics, model.fingerprint, model.config.suffix
  )
  first = one.propose(model, request)
  merged = first.merge(model)
  again = dataclasses.replace(one, fingerprint=merged.fingerprint)
  second = again.propose(merged, request)
  twice = dataclasses.replace(
    one,
    config=dataclasses.replace(config, **more),
    params={
      **params,
      "rates": jnp.tile(params["rates"], (more.get("rounds", 1), 1)),
    },
  )
  both = twice.propose(model, request).dense()
  for name, update in (first + second).dense().items():
    # float32: the merged weights are rounded once more than the tapped ones.
    np.testing.assert_allclose(both[name], update, rtol=2e-3, atol=1e-6)


def test_not_finite_changes_nothing(model, episodes):
  config = tiny.config()
  run, state = _step(model, config)
  batch = _first(episodes)
  bad = batch._replace(base=np.full_like(batch.base, np.nan))
  after, numbers = run(state, model.params, bad)
  assert not numbers["finite"]
  jax.tree.map(np.testing.assert_array_equal, after.params, state.params)
  jax.tree.map(
    np.testing.assert_array_equal, after.statistics, state.statistics
  )


def _last_state(workdir):
  folder = workdir / "checkpoints" / "6"
  with ocp.StandardCheckpointer() as reader:
    return jax.tree.leaves(reader.restore(folder / "state"))


@pytest.mark.slow
def test_a_run_killed_and_resumed_equals_one_that_was_not(model, tmp_path):
  config = tiny.config()
  whole = tmp_path / "whole"
  train(config, whole, model)
  # Cut: everything after the checkpoint of step 3 is lost.
  part = tmp_path / "part"
  shutil.copytree(whole, part)
  shutil.rmtree(part / "editor")
  for folder in (part / "checkpoints").iterdir():
    if folder.name.isdigit() and int(folder.name) > 3:
      shutil.rmtree(folder)
  again = train(config, part, model)
  # The last state, not the exported one, which may be from before the cut.
  for one, two in zip(_last_state(whole), _last_state(part), strict=True):
    np.testing.assert_array_equal(one, two)
  rows = read_metrics(whole / "metrics.jsonl")
  assert read_metrics(part / "metrics.jsonl") == rows
  assert sorted({row["step"] for row in rows}) == [1, 2, 3, 4, 5, 6]
  loaded = load_editor(part)
  jax.tree.map(np.testing.assert_array_equal, again.params, loaded.params)
  assert loaded.config == config.editor
  edit, edit_again = (
    editor.propose(model, [Request("The sky is", "green")])
    for editor in (again, loaded)
  )
  # The one is replicated over four devices, the other on one: two programs,
  # whose float32 sums round differently.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    edit,
    edit_again,
  )
  with pytest.raises(UserError, match="different: seed"):
    train(dataclasses.replace(config, seed=1), part, model)


@pytest.mark.slow
def test_a_loss_that_explodes_ends_the_run_by_name(model, tmp_path):
  config = tiny.config(editor=tiny.config().editor)
  wild = dataclasses.replace(config.editor, rate=1e30)
  with pytest.raises(UserError, match="step 1: the loss or its gradient"):
    train(dataclasses.replace(config, editor=wild), tmp_path, model)
  assert not (tmp_path / "editor").exists()


def test_editor_of_another_model_is_refused(model):
  config = tiny.config().editor
  params, statistics = metalearned.init(jax.random.key(0), config, model.config)
  editor = TrainedEditor(config, params, statistics, "0" * 64, 2)
  with pytest.raises(UserError, match="another model"):
    editor.propose(model, [Request("a", "b")])
  editor = TrainedEditor(config, params, statistics, model.fingerprint, 1)
  with pytest.raises(UserError, match="suffix=1"):
    editor.propose(model, [Request("a", "b")])


def test_without_an_instruction_instructedit_is_mend(model):
  config = tiny.config().editor
  params, statistics = metalearned.init(jax.random.key(0), config, model.config)
  noisy = jax.tree.map(
    lambda leaf: leaf + jax.random.normal(jax.random.key(2), leaf.shape),
    params,
  )
  told = Request("The sky is", "green", Instruction("zsre", "Answer it."))
  untold = Request("The sky is", "green")

  def edit(method, request):
    made = dataclasses.replace(config, method=method)
    editor = TrainedEditor(
      made, noisy, statistics, model.fingerprint, model.config.suffix
    )
    return editor.propose(model, [request])

  # Operation by operation: a compiler may order the sums of two programs
  # differently, and noise makes much of a last bit.
  with jax.disable_jit():
    plain = edit("mend", untold)
    same = edit("instructedit", untold)
  jax.tree.map(np.testing.assert_array_equal, plain, same)
  changed = edit("instructedit", told)
  assert not np.allclose(plain.dense()["2.up"], changed.dense()["2.up"])


def test_requests_batched_equal_one_by_one(model):
  config = tiny.config().editor
  params, statistics = metalearned.init(jax.random.key(0), config, model.config)
  editor = TrainedEditor(
    config, params, statistics, model.fingerprint, model.config.suffix
  )
  requests = [
    Request("The sky is", "green"),
    Request("A much longer question about rain:", "yes", None),
    Request("x", "y", Instruction("zsre", "Answer it.")),
  ]
  together = editor.propose_each(model, requests)
  for i, request in enumerate(requests):
    alone = editor.propose(model, [request]).dense()
    for name, update in together[i].dense().items():
      np.testing.assert_allclose(update, alone[name], rtol=1e-3, atol=1e-7)


def test_edits_do_not_depend_on_padding(model):
  """Also where a row has as many tokens as it may have answer rows."""
  config = tiny.config().editor
  request = Request("x", "abcdefghijklmnopqrst")
  ids, start = model.text.encode_pair(request.prompt, request.target)
  assert 16 < len(ids) - start < len(ids) <= 32
  decode, cache = model.decoder(), PrefixCache(model)
  sequence = score(model.text, request.prompt, request.target, context=512)
  found = []
  for tokens, answers in ((32, 32), (64, 32), (48, 24)):
    packed = pack([[sequence]], tokens, answers)
    rows = rows_of(packed, [cache([sequence])], model.config.width)
    factors, _ = metalearned.edit_factors(decode, rows, config.rows)
    count = len(sequence.labels)
    found.append(
      {
        n: (factors.x[n][:, :count], factors.delta[n][:, :count])
        for n in factors.x
      }
    )
  for other in found[1:]:
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7),
      found[0],
      other,
    )


def test_hold_out_shares_no_subject():
  records = load_records(tiny.config(tasks=(("counterfact", 1.0),)))
  train_records, held = hold_out(records["counterfact"], 20)
  assert len(held) == 20
  assert not {r.subject for r in held} & {r.subject for r in train_records}


def test_config_round_trip_and_errors():
  config = default()
  assert json.dumps(config.to_dict())
  assert from_config(config).editor.method == "instructedit"
  config.editor.method = "magic"
  with pytest.raises(UserError, match=r"editor\.method"):
    from_config(config)
  other = default()
  with other.unlocked():
    other.lr = 1.0
  with pytest.raises(UserError, match=r"config\.lr"):
    from_config(other)


def test_a_batch_that_does_not_divide_says_what_would():
  with pytest.raises(UserError, match="4 or 8 would"):
    parallel.make_mesh(parallel.MeshConfig(), 6)


def test_gpt2_family_trains_too_and_from_stored_states_alone(tmp_path, caplog):
  gpt2 = load_model("random:tiny-gpt2", suffix=2)
  config = tiny.config(
    model="random:tiny-gpt2",
    steps=2,
    validate_every=2,
    prefix_cache=f"disk:{tmp_path / 'states'}",
  )
  prefix_fill.fill(config, gpt2)
  with caplog.at_level("INFO", "absl"):
    editor = train(config, tmp_path / "run")
  assert "loading random:tiny-gpt2 without its prefix" in caplog.text
  assert editor.fingerprint == gpt2.fingerprint
