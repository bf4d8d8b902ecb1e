"""Checkpoints: exact, whole or not at all, and free to move between devices."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import typing
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from instructedit_jax import files
from instructedit_jax.checkpoints import (
  CheckpointStore,
  load_editor_arrays,
  save_editor,
)
from instructedit_jax.errors import UserError


class Moments(typing.NamedTuple):
  mean: jax.Array
  count: jax.Array


def _state(seed: int = 0) -> dict[str, typing.Any]:
  key = jax.random.key(seed)
  params = {
    "blocks": [
      {"up": jax.random.normal(key, (8, 4)), "down": jnp.ones((4,))},
      {"up": jnp.full((8, 4), jnp.nan), "down": jnp.zeros((0, 4))},
    ],
    "half": jnp.arange(6, dtype=jnp.bfloat16) / 3,
  }
  return {
    "params": params,
    "statistics": Moments(jnp.full((3,), -0.0), jnp.uint32(2**32 - 1)),
    "optimizer": optax.adam(1e-3).init(params),
    "key": jax.random.split(key, 3),
    "key_data": jax.random.key_data(key),
    "rbg": jax.random.key(seed, impl="rbg"),
    "rows": np.arange(5, dtype=np.int64),
    "step": 7,
  }


def _bits(leaf) -> tuple[str, bytes]:
  if jnp.issubdtype(jnp.asarray(leaf).dtype, jax.dtypes.prng_key):
    return str(leaf.dtype), np.asarray(jax.random.key_data(leaf)).tobytes()
  return str(np.asarray(leaf).dtype), np.asarray(leaf).tobytes()


def _assert_same(one, two) -> None:
  assert jax.tree.structure(one) == jax.tree.structure(two)
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
    assert _bits(a) == _bits(b)


def _abstract(tree):
  return jax.tree.map(
    lambda x: (
      jax.ShapeDtypeStruct(x.shape, x.dtype) if isinstance(x, jax.Array) else x
    ),
    tree,
  )


def test_restores_every_bit_structure_and_the_data(tmp_path):
  state, data = _state(), {"epoch": 3, "seen": [1, 2.5, None], "name": "é"}
  with CheckpointStore(tmp_path) as store:
    assert store.latest_step() is None
    assert store.save(10, state, data, {"loss": 0.5})
  with CheckpointStore(tmp_path) as store:
    assert store.latest_step() == 10
    restored, again = store.restore(_abstract(state))
  _assert_same(state, restored)
  assert again == data
  assert isinstance(restored["rows"], np.ndarray)
  assert not restored["params"]["half"].committed


def test_later_updates_in_place_do_not_reach_the_saved_step(tmp_path):
  step = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
  with CheckpointStore(tmp_path) as store:
    x = jnp.arange(1_000_000, dtype=jnp.float32)
    expected = np.array(x)
    store.save(1, {"x": x}, {})
    for _ in range(5):
      x = step(x)
    x.block_until_ready()
    restored, _ = store.restore({"x": x})
  np.testing.assert_array_equal(restored["x"], expected)


@pytest.mark.parametrize("save_devices", [1, 4])
@pytest.mark.parametrize("load_devices", [1, 2, 4])
def test_restores_on_another_number_of_devices(
  tmp_path, save_devices, load_devices
):
  def place(count, spec):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:count]), ("data",))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))

  values = np.arange(32, dtype=np.float32).reshape(8, 4)
  old = jax.device_put(values, place(save_devices, ("data",)))
  keys = jax.device_put(
    jax.random.split(jax.random.key(1), 4), place(save_devices, ())
  )
  new = place(load_devices, (None, "data"))
  keys_new = place(load_devices, ("data",))
  with CheckpointStore(tmp_path) as store:
    store.save(1, {"w": old, "keys": keys}, {})
    restored, _ = store.restore(
      {
        "w": jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=new),
        "keys": jax.ShapeDtypeStruct((4,), keys.dtype, sharding=keys_new),
      }
    )
  assert restored["w"].sharding == new
  assert restored["keys"].sharding == keys_new
  np.testing.assert_array_equal(restored["w"], values)
  _assert_same(keys, restored["keys"])


def test_the_best_step_outlives_the_latest_ones(tmp_path):
  losses = {1: 3.0, 2: 0.5, 3: float("nan"), 4: 2.0, 5: None, 6: 1.0}
  with CheckpointStore(tmp_path, keep=2) as store:
    assert store.best_step() is None
    for step, loss in losses.items():
      metrics = None if loss is None else {"loss": loss, "other": 1.0}
      store.save(step, {"x": jnp.float32(step)}, {"step": step}, metrics)
    store.wait()
    kept = sorted(int(p.name) for p in tmp_path.iterdir())
  assert kept == [2, 5, 6]
  with CheckpointStore(tmp_path, keep=2) as store:  # known after a restart
    assert (store.best_step(), store.latest_step()) == (2, 6)
    store.save(7, {"x": jnp.float32(7)}, {"step": 7}, {"loss": 0.5})
    assert store.best_step() == 7  # of equals the later one
    state, data = store.restore({"x": jnp.float32(0)}, step=7)
  assert (float(state["x"]), data) == (7.0, {"step": 7})


def test_best_may_mean_highest(tmp_path):
  with CheckpointStore(tmp_path, 1, "accuracy", "max") as store:
    for step, value in enumerate([0.1, 0.9, float("inf"), 0.2]):
      store.save(step, {"x": jnp.ones(2)}, {}, {"accuracy": value})
    assert store.best_step() == 1


def test_no_finite_metric_means_no_best_step(tmp_path):
  with CheckpointStore(tmp_path) as store:
    store.save(1, {"x": jnp.ones(2)}, {}, {"loss": float("nan")})
    assert store.best_step() is None


def test_a_step_is_written_once_and_time_runs_forward(tmp_path):
  with CheckpointStore(tmp_path) as store:
    assert store.save(5, {"x": jnp.ones(2)}, {})
    assert not store.save(5, {"x": jnp.zeros(2)}, {})
    with pytest.raises(UserError, match="holds step 5 already, so step 4"):
      store.save(4, {"x": jnp.ones(2)}, {})
    state, _ = store.restore({"x": jnp.zeros(2)}, "latest")
  np.testing.assert_array_equal(state["x"], np.ones(2))


def test_unknown_and_empty_steps_are_named(tmp_path):
  with CheckpointStore(tmp_path) as store:
    with pytest.raises(UserError, match="no readable checkpoint"):
      store.restore({"x": jnp.ones(2)})
    store.save(5, {"x": jnp.ones(2)}, {})
    with pytest.raises(UserError, match=r"step 6; there are \[5\]"):
      store.restore({"x": jnp.ones(2)}, step=6)


def test_another_configuration_is_told_from_damage(tmp_path):
  with CheckpointStore(tmp_path) as store:
    store.save(1, {"x": jnp.ones(2), "y": jnp.ones(3)}, {})
    with pytest.raises(UserError) as error:
      store.restore({"x": jnp.ones((2, 2)), "z": jnp.ones(1)})
    assert (tmp_path / "1").is_dir()
  message = str(error.value)
  assert "x is float32[2], not float32[2,2]" in message
  assert "y is not in this configuration" in message
  assert "z was not saved" in message


def _truncate(folder: pathlib.Path) -> None:
  for path in folder.rglob("*"):
    if path.is_file() and path.parent.name == "d":
      os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [_truncate, shutil.rmtree])
def test_a_damaged_step_gives_way_to_the_one_before(tmp_path, damage):
  abstract = {"x": jnp.zeros(5000)}
  random = np.random.default_rng(0)
  values = {s: random.normal(size=5000).astype(np.float32) for s in (1, 2)}
  with CheckpointStore(tmp_path) as store:
    for step, value in values.items():
      store.save(step, {"x": value}, {"step": step})
    store.wait()
    damage(tmp_path / "2" / "state")
  with CheckpointStore(tmp_path) as store:
    with pytest.raises(UserError, match="2: damaged or incomplete"):
      store.restore(abstract, step=2)
    state, data = store.restore(abstract)
    assert data == {"step": 1}
    np.testing.assert_array_equal(state["x"], values[1])
    assert (tmp_path / "unreadable-2").is_dir()
    assert store.save(2, {"x": values[2]}, {"step": 2})
    state, _ = store.restore(abstract)
  np.testing.assert_array_equal(state["x"], values[2])


@pytest.mark.parametrize(
  "failure",
  [
    OSError(24, "Too many open files"),
    ValueError("Error reading: [os_error_code='24']"),
    RuntimeError("RESOURCE_EXHAUSTED: out of memory"),
  ],
)
def test_a_machine_in_trouble_is_no_damage(tmp_path, monkeypatch, failure):
  fail = mock.Mock(side_effect=failure)
  with CheckpointStore(tmp_path) as store:
    for step in (1, 2):
      store.save(step, {"x": jnp.ones(3)}, {"step": step})
    store.wait()
    with monkeypatch.context() as patch:
      patch.setattr(store._manager, "restore", fail)
      with pytest.raises(UserError, match=r"2: cannot be read now .*as it is"):
        store.restore({"x": jnp.zeros(3)})
    assert store.restore({"x": jnp.zeros(3)})[1] == {"step": 2}
  assert not list(tmp_path.glob("unreadable*"))


def test_an_unfinished_step_is_no_step_and_is_swept(tmp_path):
  with CheckpointStore(tmp_path) as store:
    store.save(1, {"x": jnp.ones(3)}, {"step": 1})
  # What a process killed while writing leaves behind.
  partial = tmp_path / "2.orbax-checkpoint-tmp"
  shutil.copytree(tmp_path / "1", partial)
  (partial / "commit_success.txt").unlink(missing_ok=True)
  with CheckpointStore(tmp_path) as store:
    assert store.latest_step() == 1
    assert store.restore({"x": jnp.ones(3)})[1] == {"step": 1}
    store.save(2, {"x": jnp.ones(3)}, {"step": 2})
  assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2"]


_KILLED = """
import sys
import jax.numpy as jnp
import numpy as np
from instructedit_jax.checkpoints import CheckpointStore
store = CheckpointStore(sys.argv[1], keep=3)
for step in range(1, 1000):
  value = np.full(4_000_000, step, np.float32)
  value += np.random.default_rng(step).uniform(0, 0.5, value.size)
  store.save(step, {"x": jnp.asarray(value)}, {"step": step})
  print(step, flush=True)
"""


@pytest.mark.parametrize("delay", [0.0, 0.03, 0.1])
def test_a_killed_process_leaves_a_whole_step(tmp_path, delay):
  child = subprocess.Popen(
    [sys.executable, "-c", _KILLED, str(tmp_path)],
    stdout=subprocess.PIPE,
    text=True,
  )
  assert child.stdout is not None
  for line in child.stdout:
    if int(line) >= 3:
      break
  try:
    child.wait(timeout=delay)
  except subprocess.TimeoutExpired:
    child.send_signal(signal.SIGKILL)
  child.stdout.close()
  child.wait()
  with CheckpointStore(tmp_path) as store:
    state, data = store.restore({"x": np.zeros(4_000_000, np.float32)})
    assert data["step"] >= 2
  assert np.all(np.floor(state["x"]) == data["step"])


def test_a_full_disk_is_refused_before_the_attempt(tmp_path, monkeypatch):
  full = shutil._ntuple_diskusage(10**9, 10**9, 0)
  with CheckpointStore(tmp_path) as store:
    store.save(1, {"x": jnp.ones(3)}, {"step": 1})
    store.wait()
    with monkeypatch.context() as patch:
      patch.setattr(files.shutil, "disk_usage", lambda _: full)
      with pytest.raises(UserError, match="disk is full"):
        store.save(2, {"x": jnp.ones(1_000_000)}, {"step": 2})
      with pytest.raises(UserError, match="disk is full"):
        save_editor(tmp_path / "e", {"x": jnp.ones(1_000_000)}, {}, {})
    assert store.latest_step() == 1
    assert store.restore({"x": jnp.ones(3)})[1] == {"step": 1}
    assert store.save(2, {"x": jnp.ones(3)}, {"step": 2})
  assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(
  "failure",
  [
    OSError(28, "No space left on device"),
    ValueError("RESOURCE_EXHAUSTED: No space left [os_error_code='28']"),
  ],
)
def test_a_disk_that_fills_up_while_writing(tmp_path, monkeypatch, failure):
  def fail(*_args, **_kwargs):
    (tmp_path / "2.orbax-checkpoint-tmp").mkdir()
    raise failure

  with CheckpointStore(tmp_path) as store:
    store.save(1, {"x": jnp.ones(3)}, {"step": 1})
    store.wait()
    with monkeypatch.context() as patch:
      patch.setattr(ocp.CheckpointManager, "save", fail)
      with pytest.raises(UserError, match="disk is full"):
        store.save(2, {"x": jnp.ones(3)}, {"step": 2})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1"]
    assert store.restore({"x": jnp.ones(3)})[1] == {"step": 1}
    assert store.save(2, {"x": jnp.ones(3)}, {"step": 2})


def test_programming_errors_keep_their_own_face(tmp_path):
  with CheckpointStore(tmp_path) as store:
    with pytest.raises(ValueError, match="same name") as error:
      store.save(1, {"a": {"b": jnp.ones(1)}, "a/b": jnp.ones(1)}, {})
    assert not isinstance(error.value, UserError)
    with pytest.raises(TypeError):
      store.save(1, {"a": jnp.ones(1)}, {"x": object()})


# Finished editors.


def _editor():
  state = _state()
  return state["params"], state["statistics"]


def test_an_editor_comes_back_bit_for_bit(tmp_path):
  params, statistics = _editor()
  metadata = {"base": "sha256:12", "config": {"rank": 4, "lr": 1e-4}}
  save_editor(tmp_path / "editor", params, statistics, metadata)
  arrays, again = load_editor_arrays(tmp_path / "editor")
  assert again == metadata
  _assert_same(params, arrays["params"])  # dicts and lists need no help
  assert arrays["statistics"].keys() == {"mean", "count"}
  abstract = _abstract({"params": params, "statistics": statistics})
  arrays, _ = load_editor_arrays(tmp_path / "editor", abstract)
  _assert_same({"params": params, "statistics": statistics}, arrays)
  assert [p.name for p in tmp_path.iterdir()] == ["editor"]


def test_an_editor_without_any_array(tmp_path):
  save_editor(tmp_path / "e", {}, {"none": jnp.zeros((0, 2))}, {"kind": "ft"})
  arrays, metadata = load_editor_arrays(tmp_path / "e")
  assert arrays["statistics"]["none"].shape == (0, 2)
  assert metadata == {"kind": "ft"}


def test_an_editor_is_replaced_whole_or_kept(tmp_path, monkeypatch):
  place = tmp_path / "editor"
  save_editor(place, {"x": jnp.ones(3)}, {}, {"n": 1})
  with monkeypatch.context() as patch:

    def fail(*_args, **_kwargs):
      raise OSError(28, "No space left on device")

    patch.setattr(pathlib.Path, "write_text", fail)
    with pytest.raises(UserError, match="disk is full"):
      save_editor(place, {"x": jnp.zeros(3)}, {}, {"n": 2})
  arrays, metadata = load_editor_arrays(place)
  assert metadata == {"n": 1}
  np.testing.assert_array_equal(arrays["params"]["x"], np.ones(3))
  save_editor(place, {"x": jnp.zeros(3)}, {}, {"n": 3})
  assert load_editor_arrays(place)[1] == {"n": 3}
  assert [p.name for p in tmp_path.iterdir()] == ["editor"]


def test_an_editor_moved_aside_by_a_killed_process_is_put_back(tmp_path):
  place = tmp_path / "editor"
  save_editor(place, {"x": jnp.ones(3)}, {}, {"n": 1})
  place.rename(tmp_path / ".editor.replaced")  # killed between two renames
  with pytest.raises(ValueError, match="JSON"):
    save_editor(place, {"x": jnp.ones(3)}, {}, {"n": float("nan")})
  assert load_editor_arrays(place)[1] == {"n": 1}
  save_editor(place, {"x": jnp.ones(3)}, {}, {"n": 2})
  assert load_editor_arrays(place)[1] == {"n": 2}
  assert [p.name for p in tmp_path.iterdir()] == ["editor"]


def test_something_else_is_not_replaced(tmp_path):
  thesis = tmp_path / "thesis.tex"
  thesis.touch()
  for place in (tmp_path, thesis):
    with pytest.raises(UserError, match="not an editor"):
      save_editor(place, {"x": jnp.ones(3)}, {}, {})
  assert thesis.is_file()


def _edit_header(place: pathlib.Path, **changes) -> None:
  path = place / "editor.json"
  header = json.loads(path.read_text()) | changes
  path.write_text(json.dumps(header))


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (lambda e: shutil.rmtree(e), "does not exist"),
    (lambda e: (e / "editor.json").unlink(), "holds no editor.json"),
    (lambda e: os.truncate(e / "editor.json", 40), "not readable as an editor"),
    (lambda e: (e / "editor.json").write_text("[]"), "not readable"),
    (lambda e: _edit_header(e, version=2), "version 2; this program reads"),
    (lambda e: _edit_header(e, format="GGUF"), "format 'GGUF'"),
    (lambda e: _edit_header(e, leaves=None), "incomplete"),
    (lambda e: shutil.rmtree(e / "arrays"), "damaged or incomplete"),
    (lambda e: _truncate(e / "arrays"), "damaged or incomplete"),
  ],
)
def test_an_unusable_editor_is_named(tmp_path, damage, message):
  place = tmp_path / "editor"
  values = jax.random.normal(jax.random.key(0), (5000,))
  save_editor(place, {"x": values}, {}, {})
  damage(place)
  with pytest.raises(UserError, match=message) as error:
    load_editor_arrays(place)
  assert str(place) in str(error.value)


def test_an_editor_of_another_shape_is_refused(tmp_path):
  save_editor(tmp_path / "e", {"x": jnp.ones(3)}, {}, {})
  with pytest.raises(UserError, match=r"params/x is float32\[3\], not"):
    load_editor_arrays(
      tmp_path / "e", {"params": {"x": jnp.ones(4)}, "statistics": {}}
    )
