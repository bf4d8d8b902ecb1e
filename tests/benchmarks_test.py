"""The PyTorch peers compute what we compute, and the programs run."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from benchmarks import rows, timing  # noqa: E402
from benchmarks.peer import language_model, network, texts  # noqa: E402
from benchmarks.peer.batched import Batched  # noqa: E402
from benchmarks.peer.published import Published, Text  # noqa: E402
from instructedit_jax.editing.sequences import Scored  # noqa: E402
from instructedit_jax.editors import metalearned, reference  # noqa: E402
from instructedit_jax.editors.hypernetwork import (  # noqa: E402
  HypernetworkConfig,
)
from instructedit_jax.editors.metalearned import EditorConfig  # noqa: E402
from instructedit_jax.models.language_model import load_model  # noqa: E402
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
  torch.set_num_threads(1)
  return language_model.load(base)


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


def test_the_published_step_is_the_released_one(base, peer):
  config = reference.ReferenceConfig(HypernetworkConfig(rank=6), edit_lr=1e-2)
  shapes = metalearned.shapes(base.config)
  state = reference.init(jax.random.key(0), shapes, config)
  state = state._replace(params=moved(state.params))
  example = reference_data.Example(
    ("S1 is a b",), "a b", (("T1 is c", "c"), ("It is long, T2 is d e", "d e"))
  )
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
  for module in peer.matrices.values():
    module.weight.requires_grad_(False)


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


def test_the_batched_peer_trains_as_we_do(base, peer):
  shape = BatchShape(
    edit_tokens=12,
    edit_rows=4,
    query_tokens=40,
    keep_positions=6,
    edit_positions=8,
  )
  network_ = HypernetworkConfig(
    rank=8, v_scale="width", statistics_per="matrix", last_clamp=False
  )
  config = EditorConfig(network=network_, rate=0.05)
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
    jax.tree_util.keystr(path): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(new.optimizer)
  }
  for path, leaf in jax.tree_util.tree_leaves_with_path(theirs.params):
    name = jax.tree_util.keystr(path)
    (key,) = [k for k in held if ".mu" in k and k.endswith(name)]
    close(held[key] * 10, leaf.grad, 10 * CLOSE)


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
