"""The public names, and the few lines that the package promises."""

import pathlib
import subprocess
import sys
import tomllib

import numpy as np
import pytest

import instructedit_jax as ie
from tests import tiny

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_every_public_name_is_there():
  for name in ie.__all__:
    assert getattr(ie, name) is not None
  assert set(ie.__all__) <= set(dir(ie))
  assert set(ie._HOME) == set(ie.__all__)
  with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
    _ = ie.nonsense


def test_the_version_is_that_of_the_project():
  project = tomllib.loads((ROOT / "pyproject.toml").read_text())
  assert project["project"]["version"] == ie.__version__


def test_importing_the_package_loads_nothing_heavy():
  code = (
    "import sys, instructedit_jax;"
    "print([m for m in ('jax', 'flax', 'transformers') if m in sys.modules])"
  )
  result = subprocess.run(
    [sys.executable, "-c", code],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  assert result.stdout.strip() == "[]"


def test_load_edit_generate_and_merge(tmp_path):
  tiny.editor(ie.load_model("random:tiny-llama")).save(tmp_path / "editor")
  editor = ie.load_editor(tmp_path)
  model = ie.load_model("random:tiny-llama")
  told = ie.Instruction("counterfact", "Say something else.")
  edit = editor.propose(
    model,
    [
      ie.Request("S is", "a", told),
      {"prompt": "T is", "target": "b"},
      ("U is", "c"),
    ],
  )
  assert isinstance(edit, ie.LowRankEdit)
  (before,) = model.generate("S is", max_new_tokens=4)
  after = model.generate(["S is", "T is"], edit=edit, max_new_tokens=4)
  assert len(after) == 2
  assert before != after[0]
  merged = edit.merge(model)
  assert merged.generate(["S is", "T is"], max_new_tokens=4) == after
  undone = (-edit).merge(merged)
  np.testing.assert_allclose(
    undone.params["embedding"][...], model.params["embedding"][...]
  )
  assert undone.generate("S is", max_new_tokens=4) == [before]
  with pytest.raises(ie.UserError, match="another model"):
    editor.propose(merged, ("S is", "a"))
