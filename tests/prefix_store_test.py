"""Prefix states on disk: the same numbers, whatever happens to the files."""

import dataclasses
import os
import pathlib
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from instructedit_jax.editing import prefix_shards, prefix_store
from instructedit_jax.editing.prefix import PrefixCache, State
from instructedit_jax.editing.prefix_store import PrefixStore
from instructedit_jax.editing.sequences import Scored, score
from instructedit_jax.errors import UserError
from instructedit_jax.models.language_model import load_model
from instructedit_jax.parallel import make_mesh
from instructedit_jax.training import prefix_fill, programs
from instructedit_jax.training.data import Episodes, load_records
from tests import tiny_run as tiny

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def model():
  return tiny.model()


@pytest.fixture(scope="module")
def states(model):
  """Some sequences and their states."""
  texts = ["The sky is", "The sea is", "Who wrote it?", "x"]
  made = [score(model.text, t, "a b", context=512) for t in texts]
  # The same tokens with fewer of them scored are another entry.
  made.append(Scored(made[0].tokens, made[0].labels[1:]))
  return dict(zip(made, PrefixCache(model)(made), strict=True))


def _same(found: dict[Scored, State], wanted: dict[Scored, State]) -> None:
  assert found.keys() == wanted.keys()
  for sequence, state in wanted.items():
    np.testing.assert_array_equal(found[sequence].hidden, state.hidden)
    np.testing.assert_array_equal(found[sequence].final, state.final)


def _shards(folder: pathlib.Path) -> list[pathlib.Path]:
  return sorted(folder.glob(f"*{prefix_shards.SUFFIX}"))


def _filled(folder, model, states, parts: int = 1) -> PrefixStore:
  store = PrefixStore(folder, model)
  items = list(states.items())
  for i in range(parts):
    store.add(dict(items[i::parts]))
    store.flush()
  return store


def test_disk_equals_memory_before_and_after_writing(tmp_path, model, states):
  store = PrefixStore(tmp_path, model)
  store.add(states)
  _same(store.read(list(states)), states)
  store.flush()
  _same(store.read(list(states)), states)
  _same(PrefixStore(tmp_path, model).read(list(states)), states)
  assert store.nbytes == sum(path.stat().st_size for path in _shards(tmp_path))


def test_what_is_left_is_written_when_the_store_goes(tmp_path, model, states):
  store = PrefixStore(tmp_path, model)
  store.add(states)
  del store
  assert len(PrefixStore(tmp_path, model)) == len(states)


def test_bfloat16_states_lose_nothing(tmp_path):
  half = load_model("random:tiny-llama", suffix=2, dtype="bfloat16")
  sequence = score(half.text, "The sky is", "blue", context=512)
  states = {sequence: PrefixCache(half)([sequence])[0]}
  _filled(tmp_path, half, states)
  _same(PrefixStore(tmp_path, half).read([sequence]), states)


def test_a_second_run_computes_nothing(tmp_path, model, states):
  place = f"disk:{tmp_path}/store"
  first = prefix_store.open_cache(model, place, 1 << 30)
  first.warm(states)
  first.store.flush()
  second = prefix_store.open_cache(model, place, 1 << 30)
  found = second(list(states))
  assert (first.computed, second.computed) == (len(states), 0)
  _same(dict(zip(states, found, strict=True)), states)


def test_another_model_is_refused(tmp_path, model, states):
  _filled(tmp_path, model, states)
  for other in (
    load_model("random:tiny-llama", suffix=1),
    load_model("random:tiny-llama", suffix=2, dtype="bfloat16"),
    load_model("random:tiny-gpt2", suffix=2),
  ):
    with pytest.raises(UserError, match="another model or setting"):
      PrefixStore(tmp_path, other)
  # Nor does a shard that strayed in from another store get in.
  stray = tmp_path / "other"
  _filled(stray, other, {})
  _shards(tmp_path)[0].rename(stray / "a.array_record")
  with pytest.raises(UserError, match=r"a\.array_record: holds prefix states"):
    PrefixStore(stray, other)


def test_other_folders_are_refused(tmp_path, model):
  (tmp_path / "thesis.tex").touch()
  with pytest.raises(UserError, match=r"thesis\.tex"):
    PrefixStore(tmp_path, model)
  (tmp_path / "store.json").write_text("{")
  with pytest.raises(UserError, match=r"store\.json: not readable"):
    PrefixStore(tmp_path, model)


@pytest.mark.parametrize("where", ["end", "half", "all", "index", "first"])
def test_damaged_shards_are_named_and_made_again(
  tmp_path, model, states, where, caplog
):
  _filled(tmp_path, model, states, parts=2)
  path = _shards(tmp_path)[0]
  data = bytearray(path.read_bytes())
  if where in ("end", "half", "all"):
    data = data[
      : {"end": len(data) - 1, "half": len(data) // 2, "all": 0}[where]
    ]
  else:
    begin = data.index(b'{"format"') if where == "index" else 200
    data[begin + 3] ^= 255
  path.write_bytes(data)
  store = PrefixStore(tmp_path, model)
  cache = PrefixCache(model, store=store)
  with caplog.at_level("WARNING", "absl"):
    found = cache(list(states))
  for state, wanted in zip(found, states.values(), strict=True):
    # float32 sums in another order: the row is laid out anew.
    np.testing.assert_allclose(state.hidden, wanted.hidden, atol=2e-6)
  assert 0 < cache.computed < len(states)
  assert not path.exists()
  store.flush()
  assert len(PrefixStore(tmp_path, model).read(list(states))) == len(states)


def test_a_wrong_record_is_found_by_our_own_checksum(
  tmp_path, model, states, monkeypatch
):
  monkeypatch.setattr(prefix_shards, "check", lambda key, record: 1)
  _filled(tmp_path, model, states)
  monkeypatch.undo()
  assert not PrefixStore(tmp_path, model).read(list(states))
  assert not _shards(tmp_path)


def test_a_shard_deleted_meanwhile_is_missed_not_mourned(
  tmp_path, model, states
):
  store = _filled(tmp_path, model, states, parts=2)
  _shards(tmp_path)[1].unlink()
  found = store.read(list(states))
  assert 0 < len(found) < len(states)


def test_the_store_keeps_its_size(tmp_path, model, states):
  store = PrefixStore(tmp_path, model, max_bytes=1 << 20)
  for number in range(300):
    store.add(
      {Scored((number, *s.tokens[1:]), s.labels): v for s, v in states.items()}
    )
  assert 1 << 19 < store.nbytes <= 1 << 20
  assert "of at most" in store.stopped
  held = len(store)
  store.add(states)
  assert len(store) == held > 0


def test_a_full_disk_stops_the_storing_not_the_run(
  tmp_path, model, states, monkeypatch
):
  def refuse(folder, size):
    raise UserError(f"{folder}: the disk is full")

  monkeypatch.setattr(prefix_shards.files, "require_space", refuse)
  store = PrefixStore(tmp_path, model)
  store.add(states)
  store.flush()
  assert "disk is full" in store.stopped
  assert not _shards(tmp_path)


def test_two_writers_share_a_store(tmp_path, model, states):
  one, two = PrefixStore(tmp_path, model), PrefixStore(tmp_path, model)
  items = list(states.items())
  one.add(dict(items[:3]))
  two.add(dict(items[2:]))
  one.flush()
  two.flush()
  for store in (one, two, PrefixStore(tmp_path, model)):
    _same(store.read(list(states)), states)
  assert len(_shards(tmp_path)) == 2


_KILLED = """
import os, signal, sys, numpy as np
from instructedit_jax.editing.prefix import State
from instructedit_jax.editing.prefix_store import PrefixStore
from instructedit_jax.editing.sequences import Scored
from tests import tiny_run
store = PrefixStore(sys.argv[1], tiny_run.model(), shard_bytes=1000)
for i in range(20):
  state = State(np.full((1, 64), i, np.float32), np.zeros((0, 64), np.float32))
  store.add({Scored((i,), ()): state})
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_killed_writer_loses_at_most_its_last_shard(tmp_path, model):
  width = model.config.width
  code = _KILLED.replace("64", str(width))
  subprocess.run(
    [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=False
  )
  half_written = tmp_path / f".x{prefix_shards.SUFFIX}.abc"
  half_written.write_bytes(b"half")
  store = PrefixStore(tmp_path, model)
  assert half_written.exists()  # perhaps its writer is at work
  wanted = [Scored((i,), ()) for i in range(20)]
  found = store.read(wanted)
  assert 20 - 1000 // (4 * width) - 1 <= len(found) < 20
  for sequence, state in found.items():
    assert (state.hidden == sequence.tokens[0]).all()
  os.utime(half_written, (0, time.time() - 7200))
  PrefixStore(tmp_path, model)
  assert not half_written.exists()


@pytest.mark.parametrize(
  "where",
  [
    *("disc:x", "disk:", "ram"),
    *("disk:x?gb=much", "disk:x?gb=inf", "disk:x?gb=nan", "disk:x?gb=0"),
  ],
)
def test_unknown_places_are_named(model, where):
  with pytest.raises(UserError, match="none of off, memory, disk:PATH"):
    prefix_store.open_cache(model, where, 0)


@pytest.fixture(scope="module")
def filled(tmp_path_factory, model):
  """A run of two steps, and the store filled for it."""
  place = f"disk:{tmp_path_factory.mktemp('store')}"
  config = tiny.config(steps=2, prefix_cache=place)
  assert not prefix_fill.is_filled(config)
  prefix_fill.fill(config, model)
  return config


def test_a_filled_store_replaces_the_prefix(model, filled):
  assert prefix_fill.is_filled(filled)
  assert not prefix_fill.is_filled(dataclasses.replace(filled, steps=3))
  assert not prefix_fill.is_filled(dataclasses.replace(filled, seed=1))
  mesh = make_mesh(devices=jax.devices()[:1])
  assert programs.load(dataclasses.replace(filled, steps=3), mesh).whole
  bare = programs.load(filled, mesh)
  assert not bare.whole
  assert bare.fingerprint == model.fingerprint
  records = load_records(filled)
  stored = Episodes(bare, filled, records)
  plain = Episodes(
    model, dataclasses.replace(filled, prefix_cache="off"), records
  )
  pairs = [
    *zip(stored.batches(0), plain.batches(0), strict=True),
    *zip(stored.validation_batches(), plain.validation_batches(), strict=True),
  ]
  for one, two in pairs:
    # float32 sums in another order.
    np.testing.assert_allclose(one.query.hidden, two.query.hidden, atol=2e-6)
    np.testing.assert_allclose(one.edit.hidden, two.edit.hidden, atol=2e-6)
    np.testing.assert_allclose(one.base, two.base, atol=2e-5)
    np.testing.assert_array_equal(one.query.labels, two.query.labels)
  assert stored.cache.computed == 0 < plain.cache.computed


def test_a_store_filled_for_more_steps_stays_so(tmp_path, model):
  store, run = PrefixStore(tmp_path, model), {"seed": 0}
  for steps, held in ((5, 5), (2, 5), (7, 7)):
    store.mark_filled(run, steps)
    assert prefix_store.filled_steps(tmp_path, run) == held
  assert prefix_store.filled_steps(tmp_path, {"seed": 1}) == 0


def test_from_a_filled_store_a_resumed_run_reads_the_same_bits(model, filled):
  """Computed anew, states depend on their row's layout by a rounding."""
  records = load_records(filled)
  whole = list(Episodes(model, filled, records).batches(0))[1:]
  resumed = list(Episodes(model, filled, records).batches(1))
  assert len(resumed) == 1
  for one, two in zip(whole, resumed, strict=True):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
      np.testing.assert_array_equal(a, b)


def test_a_store_too_small_for_a_run_says_so(tmp_path, model):
  place = f"disk:{tmp_path}?gb=0.0001"
  config = tiny.config(steps=1, prefix_cache=place)
  with pytest.raises(UserError, match="not all prefix states could be stored"):
    prefix_fill.fill(config, model)
  assert not prefix_fill.is_filled(config)


def test_without_the_prefix_nothing_else_can_be_asked(tmp_path, model):
  bare = load_model("random:tiny-llama", suffix=2, prefix=False)
  unknown = score(bare.text, "Never seen", "before", context=512)
  with pytest.raises(UserError, match="1 of 1 sequences are not among"):
    PrefixCache(bare, store=PrefixStore(tmp_path, model))([unknown])
  with pytest.raises(UserError, match="without its frozen prefix"):
    bare.generate("Never seen")
