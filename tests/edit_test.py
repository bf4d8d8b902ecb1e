"""The command that edits a model: what it prints, saves and refuses."""

import os
import pathlib
import subprocess
import sys

import pytest

from instructedit_jax.editing.archive import load_edit
from instructedit_jax.models.language_model import load_model
from tests import tiny

pytestmark = pytest.mark.slow  # every case starts a process
ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A saved editor for random:tiny-llama, and a place for the cache."""
  path = tmp_path_factory.mktemp("editor")
  tiny.editor(load_model("random:tiny-llama")).save(path / "editor")
  return path


def _edit(folder, *arguments):
  return subprocess.run(
    [sys.executable, "-m", "instructedit_jax.edit", *arguments],
    cwd=ROOT,
    env=os.environ | {"XDG_CACHE_HOME": str(folder / "cache")},
    capture_output=True,
    text=True,
    check=False,
  )


def test_answers_before_and_after_and_the_model_exported(folder, tmp_path):
  (tmp_path / "edits.jsonl").write_text(
    '{"prompt": "T is", "target": "b", "task": "zsre"}\n'
  )
  result = _edit(
    folder,
    f"--editor={folder}",
    *("--prompt=S is", "--target=a", "--instruction=Say a."),
    *("--ask=U is", "--tokens=4", f"--edits={tmp_path / 'edits.jsonl'}"),
    f"--save={tmp_path / 'edit.npz'}",
    f"--export={tmp_path / 'edited'}",
  )
  assert result.returncode == 0, result.stderr
  lines = result.stdout.splitlines()
  assert [lines.index(p) for p in ("T is", "S is", "U is")] == [0, 4, 8]
  assert lines[1].startswith("  before: ")
  assert lines[5] != lines[6].replace("after: ", "before:")
  assert "  target: a" in lines
  model = load_model("random:tiny-llama")
  edit = load_edit(tmp_path / "edit.npz", model)
  exported = load_model(str(tmp_path / "edited"))
  asked = ["S is", "U is"]
  assert exported.generate(asked, max_new_tokens=4) == model.generate(
    asked, edit=edit, max_new_tokens=4
  )


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (("--prompt=S", "--target=a"), "--editor=FOLDER is missing"),
    (("--editor=/none", "--prompt=S", "--target=a"), "/none"),
    (("--editor=HERE",), "nothing to edit"),
    (("--editor=HERE", "--prompt=S"), "belong together"),
    (("--editor=HERE", "--prompt=S", "--target="), "the target is empty"),
    (("--editor=HERE", "--edits=HERE/bad.jsonl"), "line 1: malformed JSON"),
    (
      ("--editor=HERE", "--prompt=S", "--target=a", "--task=convsent"),
      "sentiment: missing",
    ),
    (
      (
        *("--editor=HERE", "--prompt=S", "--target=a"),
        "--model=random:tiny-gpt2",
      ),
      "another model",
    ),
    (
      ("--editor=HERE", "--prompt=S", "--target=a", "--export=HERE"),
      "exists already",
    ),
    (
      ("--editor=HERE", "--prompt=S", "--target=a", "--other_form=S?"),
      "leave other_form out",
    ),
  ],
)
def test_mistakes_are_told_in_one_line(folder, arguments, message):
  (folder / "bad.jsonl").write_text('{"prompt": "p"')
  result = _edit(folder, *(a.replace("HERE", str(folder)) for a in arguments))
  assert result.returncode == 2
  assert "Traceback" not in result.stderr
  line = result.stderr.splitlines()[-1]
  assert line.startswith("error: ")
  assert message in line
