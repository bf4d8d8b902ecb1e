"""The notebook is its script, and every cell of the script runs."""

import json
import pathlib

import pytest

from notebooks import build

ROOT = pathlib.Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "notebooks" / "train_on_tpu.py"
# A configuration file like those of configs/, with nothing to wait for.
TINY = """
import dataclasses

import ml_collections

from instructedit_jax.training import config as config_lib
from tests import tiny_run


def get_config(arg=""):
  run = tiny_run.config("mend", tasks=(("counterfact", 1.0),))
  run = dataclasses.replace(
    run, editor=dataclasses.replace(run.editor, rounds=1)
  )
  values = config_lib.to_dict(run)
  return ml_collections.ConfigDict({**values, "tasks": dict(values["tasks"])})
"""


def test_the_notebook_is_made_of_its_script():
  made = build.notebook(SCRIPT.read_text(encoding="utf-8"))
  held = SCRIPT.with_suffix(".ipynb").read_text(encoding="utf-8")
  assert made == held, "run python notebooks/build.py"


def test_cells_keep_their_text():
  first, second = build.cells(
    '# %% [markdown]\n# # A\n#\n# b\n\n# %% tags=["x"]\nc = 1\n'
  )
  assert first == build.Cell("# A\n\nb", markdown=True)
  assert second == build.Cell("c = 1", tags=("x",))
  content = json.loads(build.notebook("# %%\na = 1\nb = 2\n"))
  assert content["nbformat"] == 4
  assert content["cells"][0]["source"] == ["a = 1\n", "b = 2"]


@pytest.mark.slow
def test_every_cell_runs(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)  # runs/ lands there
  monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
  (tmp_path / "tiny.py").write_text(TINY)
  setting = {
    "MODEL": "random:tiny-llama",
    "CONFIG": "tiny.py",
    "STEPS": 2,
    "TEST_RECORDS": 1,
    "REQUEST": ("A is", "b"),
    "QUESTIONS": ["C is"],
  }
  names: dict[str, object] = {"__name__": "notebook"}
  for cell in build.cells(SCRIPT.read_text(encoding="utf-8")):
    if cell.markdown:
      continue
    exec(compile(cell.text, SCRIPT.name, "exec"), names)
    if "parameters" in cell.tags:
      assert setting.keys() <= names.keys()
      names.update(setting)
  workdir = tmp_path / "runs" / str(names["RUN"])
  assert (workdir / "editor").is_dir()
  assert (workdir / "edit.npz").is_file()
  shown = capsys.readouterr().out
  assert "A is\n  before:" in shown
  for picture in ("curves.png", "evaluation/figure.png"):
    assert (workdir / picture).is_file()
    assert str(workdir.relative_to(tmp_path) / picture) in shown
