"""The PyTorch peers compute what we compute, and the programs run."""

import dataclasses
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from flax import nnx

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from benchmarks import (  # noqa: E402
  convergence,
  conversations,
  editing,
  evaluation,
  gpu,
  memory,
  points,
  process,
  rows,
  scaling,
  steps,
  timing,
  training,
)
from benchmarks.peer import language_model, network, texts  # noqa: E402
from benchmarks.peer.batched import Batched  # noqa: E402
from benchmarks.peer.published import Published, Text  # noqa: E402
from instructedit_jax.editing.sequences import Scored  # noqa: E402
from instructedit_jax.editors import metalearned, reference  # noqa: E402
from instructedit_jax.editors.hypernetwork import (  # noqa: E402
  HypernetworkConfig,
)
from instructedit_jax.editors.metalearned import EditorConfig  # noqa: E402
from instructedit_jax.errors import UserError  # noqa: E402
from instructedit_jax.models.language_model import load_model  # noqa: E402
from instructedit_jax.tasks.splits import load_split  # noqa: E402
from instructedit_jax.training import reference_data  # noqa: E402
from instructedit_jax.training import step as step_lib  # noqa: E402
from instructedit_jax.training.batches import (  # noqa: E402
  Batcher,
  BatchShape,
  fitting,
)
from instructedit_jax.training.episodes import Episode, Kind  # noqa: E402
from instructedit_jax.training.losses import LossConfig  # noqa: E402
from tests import tiny  # noqa: E402

# Both sides work in float32 and add in another order: differences are those of
# a few dozen roundings (6e-8 each) of numbers near the largest of an array.
CLOSE = 2e-5


@pytest.fixture(scope="module")
def base():
  return load_model("random:tiny-llama", suffix=2, tokenizer=tiny.tokenizer())


@pytest.fixture(scope="module")
def peer(base):
  loaded = language_model.load(base)
  torch.set_num_threads(1)
  return loaded


def moved(tree, key: int = 0):
  """As after training: every number moved, so nothing is zero by design."""
  leaves, structure = jax.tree.flatten(tree)
  rng = np.random.default_rng(key)
  return jax.tree.unflatten(
    structure,
    [
      leaf + 0.05 * jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype)
      for leaf in leaves
    ],
  )


def close(ours, theirs, tolerance: float = CLOSE):
  ours = np.asarray(ours)
  if isinstance(theirs, torch.Tensor):
    theirs = theirs.detach().numpy()
  scale = max(float(np.abs(ours).max()), 1e-3)
  np.testing.assert_allclose(theirs, ours, atol=tolerance * scale, rtol=0)


def test_the_peer_is_the_same_model(base, peer):
  tokens = np.arange(24).reshape(2, 12) % 200
  from instructedit_jax.models.decoder import Sequence

  places = jnp.broadcast_to(jnp.arange(12)[None], (2, 12))
  ours = base.decoder()(
    jnp.asarray(tokens), Sequence(places, jnp.ones((2, 12), jnp.int32))
  )
  with torch.no_grad():
    theirs = peer.head(peer.hidden(torch.tensor(tokens)))
  close(ours, theirs)


FACT = reference_data.Example(
  ("S1 is a b",), "a b", (("T1 is c", "c"), ("It is long, T2 is d e", "d e"))
)
OPINIONS = reference_data.Example(
  ("What? a b", "And? a long c", "What? d e"),
  "",
  (("Why? f", ""), ("How is that? g h", "")),
  (True, False, False),
)


@pytest.mark.parametrize("example", [FACT, OPINIONS], ids=["fact", "opinions"])
def test_the_published_step_is_the_released_one(base, peer, example):
  config = reference.ReferenceConfig(HypernetworkConfig(rank=6), edit_lr=1e-2)
  shapes = metalearned.shapes(base.config)
  state = reference.init(jax.random.key(0), shapes, config)
  state = state._replace(params=moved(state.params))
  batch = reference_data.make_batch(base.text, example, 64)
  published = Published(peer, config, state)
  theirs = published.losses(Text.of(batch))
  theirs["l_total"].backward()

  @jax.jit
  def ours(weights, state, batch):
    decoder = nnx.merge(base.graph, weights)
    return reference.episode(
      decoder, state.params, state.statistics, shapes, config, batch
    )

  statistics, report = ours(base.params, state, batch)
  for name in ("l_edit", "l_loc", "l_total"):
    close(report.scalars[name], theirs[name])
  for key, sides in statistics.items():
    for side, moments in sides.items():
      close(moments.mean, published.statistics[key][side].mean)
      close(moments.square, published.statistics[key][side].square)
  found = network.flat(published.params)
  for path, leaf in network.flat(report.gradients).items():
    # Squares of whitened rows: a few more roundings than the losses.
    close(leaf, found[path].grad, 10 * CLOSE)
  # Nothing is left behind that would slow other programs down.
  assert not any(p.requires_grad for p in peer.lm.parameters())


def episodes() -> list[Episode]:
  """Two, with answers of different lengths, and something to avoid."""

  def scored(start: int, length: int, labels: int) -> Scored:
    tokens = tuple(range(start, start + length))
    return Scored(tokens, tuple(range(start + 40, start + 40 + labels)))

  return [
    Episode(
      (scored(10 + i, 6 + i, 2 + i),),
      None,  # type: ignore[arg-type]
      told=i == 0,
      queries=(
        (Kind.EDIT, scored(20 + i, 7, 2)),
        (Kind.KEEP, scored(30, 5 + i, 1 + i)),
        (Kind.AVOID, scored(50, 8, 3)),
        (Kind.KEEP, scored(70 + i, 6, 2)),
      ),
    )
    for i in range(2)
  ]


DEFAULT = EditorConfig(
  network=HypernetworkConfig(
    rank=8, v_scale="width", statistics_per="matrix", last_clamp=False
  ),
  rate=0.05,
)
PUBLISHED = dataclasses.replace(steps.published_editor(6), rate=0.02)


@pytest.mark.parametrize(
  "config", [DEFAULT, PUBLISHED], ids=["default", "published"]
)
def test_the_batched_peer_trains_as_we_do(base, peer, config):
  shape = BatchShape(
    edit_tokens=12,
    edit_rows=4,
    query_tokens=40,
    keep_positions=6,
    edit_positions=8,
  )
  optimizer = step_lib.OptimizerConfig(clip=1e9)
  rule = step_lib.optimizer(optimizer, 10)
  state = step_lib.init_state(jax.random.key(0), config, base.config, rule)
  state = dataclasses.replace(state, params=moved(state.params))
  made, loss = episodes(), LossConfig()
  told = [Scored((5, 6, 7), ()), Scored((8, 9), ())]
  from instructedit_jax.editing.prefix import PrefixCache

  batch = Batcher(PrefixCache(base), shape, base.config.width)(made, told)
  step = step_lib.make_train_step(base.graph, config, loss, base.config, rule)
  new, metrics = jax.jit(step)(state, base.params, batch)
  chosen = [fitting(episode, shape) for episode in made]
  theirs = Batched(
    peer, config, state.params, state.statistics, loss, optimizer
  )
  given = texts.training_step(made, told, chosen)
  losses = theirs.losses(given)
  losses["loss"].backward()
  for name in ("loss", "edit_loss", "locality_kl"):
    # Differences of log-probabilities of about 6 nats, each good to 1e-6.
    assert abs(float(metrics[name]) - losses[name].item()) < 1e-5
  # Adam's first moment is a tenth of the first gradient.
  held = {
    jax.tree_util.keystr(path).partition(".mu")[2]: leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(new.optimizer)
    if ".mu" in jax.tree_util.keystr(path)
  }
  for path, leaf in jax.tree_util.tree_leaves_with_path(theirs.params):
    name = jax.tree_util.keystr(path)
    # One number's gradient is a sum of many, of both signs: against float64
    # ours err by up to 1.9e-4 of the largest there, PyTorch's by 1.0e-4.
    roundings = 50 if leaf.ndim == 0 or name == "['rates']" else 10
    first = held[name]
    close(first * 10, leaf.grad, roundings * CLOSE)


def test_times_are_taken_in_turns():
  order: list[str] = []
  programs = {name: lambda name=name: order.append(name) for name in "ab"}
  times = timing.side_by_side(programs, 2, {"a": 3.0})
  assert order == ["a", "b", "a", "b", "b", "a"]
  assert len(times["a"].walls) == 2
  assert times["a"].work == 3.0


def test_rows_are_written_and_shown(tmp_path, capsys):
  ours = timing.Times(8.0, [1.0, 2.0, 3.0], [1.0, 1.0, 1.0])
  theirs = timing.Times(1.0, [1.0, 1.0, 1.0], [1.0, 1.0, 1.0])
  made = [
    rows.rate("training", ours, theirs, "episodes/s", rank=4),
    rows.latency("edit", 10.0, 40.0),
    rows.rate("alone", ours, None, "episodes/s"),
  ]
  rows.finish(made, str(tmp_path / "out.json"))
  held = json.loads((tmp_path / "out.json").read_text())
  assert [row["ratio"] for row in held] == [4.0, 4.0, None]
  assert held[0]["config"]["rank"] == 4
  assert set(held[0]) == {"name", "ours", "peer", "ratio", "unit", "config"}
  assert "4.0x" in capsys.readouterr().out
  shown = rows.markdown(rows.read(tmp_path / "out.json"))
  assert "| training | 4 (" in shown
  assert "| edit | 10 | 40 | 4.0x | ms |" in shown
  (tmp_path / "other.json").write_text('[{"a": 1}]')
  for name in ("other.json", "missing.json"):
    with pytest.raises(UserError, match=name):
      rows.read(tmp_path / name)


@pytest.fixture
def small():
  """The commands' flags, as for the smallest run there is."""
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  with flagsaver.flagsaver(
    quick=True,
    model="random:tiny-llama",
    suffix=2,
    batch=2,
    rank=6,
    words=5.0,
    repeats=1,
  ):
    yield


def check(found, count: int):
  """As many rows, all with numbers that make sense."""
  assert len(found) == count
  for row in found:
    assert np.isfinite(row.ours), row
    assert row.ours > 0, row
    assert row.peer is None or row.ratio == pytest.approx(
      row.ours / row.peer if row.unit.endswith("/s") else row.peer / row.ours
    )


@pytest.mark.slow
def test_training_is_timed(base, peer, small):
  found = training.speed(base, peer, ["counterfact"])
  check(found, 13)
  default = [r for r in found if "default" in r.name and "batched" in r.name]
  assert default[0].config["query_tokens"] > 0


@pytest.mark.slow
def test_opinions_are_timed(base, peer, small, monkeypatch):
  # In bytes a topic's replies are thousands of tokens.
  shape = BatchShape(12, 4, 40, 6, 8)
  monkeypatch.setattr(conversations, "whole_shape", lambda _: shape)
  found = conversations.measure(base, peer)
  check(found, 3)
  assert found[1].config["shape"]["edit_rows"] == 4


def test_a_topics_shape_has_room_for_every_token(base):
  batch = reference_data.make_batch(base.text, OPINIONS, 64)
  side = types.SimpleNamespace(texts=[Text.of(batch)])
  shape = conversations.whole_shape(side)
  assert shape.edit_tokens == int(batch.mask.sum())
  assert shape.query_tokens == shape.edit_tokens + int(batch.loc_mask.sum())
  # All but the first token of each of the three strings.
  assert shape.edit_rows == shape.edit_tokens - 3


@pytest.mark.slow
def test_the_released_measure_is_followed(base, peer, small):
  found = convergence.measure(base, peer, ["counterfact"], 2)
  check(found, 2)
  for row in found:
    assert not row.config["reached"]
    assert "NOT reached" in row.name
    first, last = row.config["history"]
    assert (first["step"], last["step"]) == (0, 2)
    assert 0 <= last["locality"] <= 1
    # Nearly uniform: an untrained model of 272 tokens.
    assert 3 < first["edit_loss"] < 8


def test_peaks_become_rows(small):
  found = memory._rows({kind: {"peak": 2.0**30} for kind in memory._KINDS})
  check(found, 4)
  # The kernel counts threads' pages a little late.
  assert process.status("VmHWM") > 0.9 * process.status("VmRSS") > 0


@pytest.mark.slow
def test_evaluation_agrees_and_is_timed(base, peer, small):
  records = load_split("embedded", "zsre", "test")[0][:2]
  found = evaluation.measure(base, peer, "zsre", records)
  check(found, 4)
  assert found[0].config["agreement"] > 0.99


@pytest.mark.slow
def test_editing_is_timed(base, peer, small, monkeypatch):
  # Each request may have a shape of its own, which every program compiles.
  monkeypatch.setattr(editing, "_WARM", 0)
  records = load_split("embedded", "counterfact", "test")[0][:1]
  check(editing.latencies(base, peer, records, 1), 8)
  check(editing.generation(base, peer, records[0]), 3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["train", "compile", "propose", "apply"])
def test_points_run(kind):
  point = points.Point(
    kind, "random:tiny-llama", 4, batch=4, tokens=48, rank=4, rows=3, edits=2
  )
  found = points.run(point, 1)
  if kind == "compile":
    assert found["devices"] == 4
    assert found["flops"] > 0
    # Each device has a share of the gradient, and all must have the sum.
    assert found["collectives"]["all-reduce"]["sent"] > 0
  else:
    assert len(found["walls"]) == 1
    assert found["work"] > 0


def test_scaling_says_what_it_would_run(small):
  made = dict(scaling.wanted())
  assert made["scaling, 8 fake devices (shared cores)"].devices == 8
  paper = made["on paper, 256 devices, 8 episodes each"]
  assert (paper.kind, paper.batch) == ("compile", 2048)
  result = {"sent_bytes": 45e9, "product_flops": 65e12}
  *_, share = scaling._rows("t", paper, result)
  assert share.ours == pytest.approx(0.5)


@pytest.mark.slow
def test_the_gpu_benchmark_runs_without_one(small, tmp_path):
  with (
    flagsaver.flagsaver(
      cpu=True,
      shapes=["tiny-gpt2"],
      batches=["2"],
      out=str(tmp_path / "gpu.json"),
    ),
  ):
    gpu.main([])
  found = {row.name: row for row in rows.read(tmp_path / "gpu.json")}
  trained = found["tiny-gpt2, rank 256, batch 2, training, prefix states there"]
  anew = "tiny-gpt2, rank 256, batch 2, training, prefix states made anew (sum)"
  assert trained.peer > 0
  assert found[anew].ours < trained.ours
  share = found["tiny-gpt2, rank 256, batch 2, share of the bfloat16 peak"]
  assert 0 < share.ours < 2
  assert "tiny-gpt2, rank 256, batch 2: optimizer" in found


def test_without_a_gpu_it_says_so():
  if jax.default_backend() == "gpu":
    pytest.skip("there is one")
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  with pytest.raises(UserError, match="no GPU"):
    gpu.main([])
