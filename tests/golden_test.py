"""The reference recipe against the published code's numbers."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructedit_jax.editors import reference
from instructedit_jax.editors.hypernetwork import HypernetworkConfig
from instructedit_jax.models.language_model import random_model
from instructedit_jax.models.presets import preset

ROOT = pathlib.Path(__file__).resolve().parents[1]
SMALL = "gpt2_convsent_rand_f64.npz"
DONOR = "gpt2_shared_rand_f64.npz"


def golden(*arguments: object) -> subprocess.CompletedProcess[str]:
  # Its own process: double precision is a setting of the whole of JAX.
  return subprocess.run(
    [sys.executable, "-m", "tests.golden", *map(str, arguments)],
    cwd=ROOT,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    check=False,
  )


@pytest.fixture(scope="module")
def folder(shared) -> pathlib.Path:
  if not (shared / "golden" / "manifest.json").is_file():
    pytest.skip(f"no reference arrays in {shared / 'golden'}")
  return shared / "golden"


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["f64", "f32"])
def test_every_case_agrees(folder, precision):
  result = golden(folder, "--precision", precision)
  assert result.returncode == 0, result.stdout + result.stderr
  assert " ok" in result.stdout
  assert "FAIL" not in result.stdout


@pytest.mark.slow
def test_what_is_wrong_or_unknown_is_reported(folder, tmp_path):
  manifest = json.loads((folder / "manifest.json").read_text())
  files = manifest["files"]
  kept = {}
  for name in ("gpt2_base.npz", "batches.npz", DONOR, SMALL):
    shutil.copy(folder / name, tmp_path)
    kept[name] = files[name]
  # The donor only gives its start parameters.
  kept[DONOR] = {**files[DONOR], "compute_dtype": "none"}
  arrays = dict(np.load(folder / SMALL))
  arrays["c1/update0"] = arrays["c1/update0"] * (1 + 1e-5)
  arrays["c1/novelty"] = arrays["c2/novelty"] = np.zeros(2)
  np.savez(tmp_path / SMALL, **arrays)
  kept[SMALL]["arrays"]["c1/novelty"] = [[2], "float32", "something new"]
  kept[SMALL]["arrays"]["c9/x0"] = [[2], "float32", "left out"]
  kept[SMALL]["steps"][0]["surprise"] = 1.0
  np.savez(tmp_path / "stray.npz", arrays["c1/x0"])
  manifest["files"] = kept
  (tmp_path / "manifest.json").write_text(json.dumps(manifest))
  result = golden(tmp_path)
  assert result.returncode == 1
  for text in (
    "    c1/update0: ",
    "c1/novelty: unknown array",
    "c2/novelty: not in the manifest",
    "c9/x0: absent from the file",
    "c1/surprise: unknown scalar",
    "stray.npz: not in the manifest",
    "6 failures",
  ):
    assert text in result.stdout, result.stdout + result.stderr


def test_a_folder_without_a_manifest_is_reported(tmp_path):
  result = golden(tmp_path)
  assert result.returncode == 1
  assert "manifest.json cannot be read" in result.stdout
  assert "Traceback" not in result.stderr


CONFIG = reference.ReferenceConfig(HypernetworkConfig(rank=4), lr=1e-3)


def a_batch() -> reference.Batch:
  tokens = jnp.arange(8).reshape(1, 8)
  ones = jnp.ones((1, 8), jnp.int32)
  return reference.Batch(tokens, ones, tokens[:, 6:], tokens, ones, ones[:, 6:])


def state() -> reference.State:
  base = preset("tiny-gpt2")
  shapes = {name: base.matrix_shape(name) for name in base.editable}
  return reference.init(jax.random.key(0), shapes, CONFIG)


def test_micro_steps_accumulate_skip_and_update():
  optimise = jax.jit(lambda s, g: reference.optimise(s, CONFIG, g))
  start = state()
  ones = jax.tree.map(jnp.ones_like, start.params)
  # Skipped, but counted: this update averages over one micro-step less.
  bad = {**ones, "edit_lrs": ones["edit_lrs"].at[0].set(jnp.nan)}
  first = optimise(start, bad)
  second = optimise(first, ones)
  jax.tree.map(np.testing.assert_array_equal, first.params, start.params)
  moved = second.params["edit_lrs"] - start.params["edit_lrs"]
  # Adam's first step is lr whatever the size; lr_lr plays no part.
  np.testing.assert_allclose(moved, -CONFIG.lr, rtol=1e-3)
  assert not any(leaf.any() for leaf in jax.tree.leaves(second.gradients))
  assert (first.step, second.step) == (1, 2)
  assert int(second.adam.updates) == 1


@pytest.mark.slow
def test_the_first_released_edit_climbs_the_loss():
  model = random_model(preset("tiny-gpt2"))
  shapes = {n: model.config.matrix_shape(n) for n in model.config.editable}

  @jax.jit
  def run(params):
    _, report = reference.micro_step(
      model.decoder(params), state(), shapes, CONFIG, a_batch()
    )
    return report

  report = run(model.params)
  assert report.scalars["l_edit"] > report.scalars["inner_nll"]
