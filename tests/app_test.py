"""Entry points: flags, configuration, exit codes, one-line errors."""

import os
import pathlib
import subprocess
import sys
import textwrap

import pytest

from instructedit_jax.app import load_config
from instructedit_jax.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[1]

CONFIG = """
import ml_collections

def get_config(arg="small"):
  if arg not in ("small", "large"):
    raise ValueError(f"unknown size {arg!r}: small or large")
  config = ml_collections.ConfigDict()
  config.size = arg
  config.steps = 10
  config.verbose = False
  config.seed = ml_collections.config_dict.placeholder(int)
  config.tasks = ("zsre", "recent")
  config.editor = {"rank": 4, "learning_rate": 1e-3}
  return config
"""

PROGRAM = """
import sys
from absl import flags, logging
from instructedit_jax import app
from instructedit_jax.errors import UserError

CONFIG = app.config_flag()
WORKDIR = flags.DEFINE_string("workdir", "runs", "Where results go.")

def main(argv):
  config = CONFIG.value
  logging.info("started")
  if WORKDIR.value == "user":
    raise UserError("data.json: record 3,\\n  no field 'target'.")
  if WORKDIR.value == "bug":
    raise ZeroDivisionError("a defect")
  if WORKDIR.value == "stop":
    raise KeyboardInterrupt
  if WORKDIR.value == "typo":
    config.stepz = 1
  import jax
  print(config.to_json(sort_keys=True))
  kept = jax.config.values
  threshold = kept["jax_persistent_cache_min_compile_time_secs"]
  print(WORKDIR.value, kept["jax_compilation_cache_dir"], threshold)

if __name__ == "__main__":
  app.run(main)
"""


@pytest.fixture
def place(tmp_path):
  (tmp_path / "configs").mkdir()
  (tmp_path / "configs" / "multi.py").write_text(CONFIG)
  (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM))
  return tmp_path


def _run(place, *arguments, **variables):
  environment = os.environ | {
    "PYTHONPATH": str(ROOT),
    "XDG_CACHE_HOME": str(place / "cache"),
    "JAX_PLATFORMS": "cpu",
  }
  environment.pop("JAX_COMPILATION_CACHE_DIR", None)
  environment.pop("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", None)
  return subprocess.run(
    [sys.executable, "program.py", *arguments],
    cwd=place,
    env=environment | variables,
    capture_output=True,
    text=True,
    check=False,
  )


def _error(place, *arguments) -> str:
  """The one line that is all a user sees of a mistake."""
  result = _run(place, *arguments)
  assert result.returncode == 2, result.stderr
  assert "Traceback" not in result.stderr
  line = result.stderr.splitlines()[-1]
  assert line.startswith("error: ")
  return line


def test_overrides_reach_the_configuration(place):
  result = _run(
    place,
    "--config=configs/multi.py:large",
    "--config.steps=20",
    "--config.editor.rank",
    "8",
    "--config.editor.learning_rate=1",
    "--config.verbose",
    "--config.seed=3",
    "--config.tasks=('a','b')",
    "--workdir=out",
  )
  assert result.returncode == 0, result.stderr
  first, second = result.stdout.splitlines()
  assert first == (
    '{"editor": {"learning_rate": 1.0, "rank": 8}, "seed": 3,'
    ' "size": "large", "steps": 20, "tasks": ["a", "b"], "verbose": true}'
  )
  assert second == f"out {place}/cache/instructedit_jax/xla 1.0"
  assert "started" in result.stderr


def test_a_cache_chosen_by_the_user_stays(place):
  result = _run(
    place,
    "--config=configs/multi.py",
    JAX_COMPILATION_CACHE_DIR="mine",
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0.5",
  )
  assert result.stdout.splitlines()[-1] == "runs mine 0.5"
  (place / "cache").touch()  # not a folder, so nothing can be kept there
  result = _run(place, "--config=configs/multi.py")
  assert result.returncode == 0
  assert "no compile cache" in result.stderr


def test_mistakes_are_told_in_one_line(place):
  config = "--config=configs/multi.py"
  expected = {
    ("--config.rnak=8", config): "no such key. Did you mean"
    " --config.editor.rank?",
    (config, "--config.editor.rang=8"): "Did you mean --config.editor.rank?",
    (config, "--config.zzzz=8"): "Its keys are editor, seed, size, steps,",
    (config, "--config.steps=many"): "steps",
    (config, "--workdri=x"): "Did you mean: workdir",
    (config, "out"): "'out' is not an option",
    (config, "--workdir=user"): "data.json: record 3, no field 'target'.",
    (): "--config=FILE.py is missing. There are multi.py in",
    ("--config=configs/mlti.py",): "Did you mean configs/multi.py?",
    ("--config=configs/multi.py:huge",): "unknown size 'huge'",
  }
  for arguments, message in expected.items():
    assert message in _error(place, *arguments)


def test_interrupts_and_defects_keep_their_codes(place):
  result = _run(place, "--config=configs/multi.py", "--workdir=stop")
  assert result.returncode == 130
  assert "interrupted" in result.stderr
  assert "Traceback" not in result.stderr
  for workdir in ("bug", "typo"):  # the configuration is locked
    result = _run(place, "--config=configs/multi.py", f"--workdir={workdir}")
    assert result.returncode == 1
    assert "Traceback" in result.stderr


def test_a_default_configuration_is_one_like_any_other(place):
  program = place / "program.py"
  text = program.read_text()
  program.write_text(
    text.replace(
      "config_flag()", 'config_flag(default="configs/multi.py:large")'
    )
  )
  result = _run(place, "--config.steps=7")
  assert result.returncode == 0, result.stderr
  assert '"size": "large", "steps": 7' in result.stdout
  result = _run(place, "--config=configs/multi.py")
  assert '"size": "small", "steps": 10' in result.stdout
  assert "Did you mean --config.steps?" in _error(place, "--config.step=7")
  (place / "configs" / "multi.py").unlink()
  assert "configs/multi.py: no such configuration file." in _error(place)


def test_help_needs_no_configuration(place):
  result = _run(place, "--help")
  assert "--workdir" in result.stdout
  assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
  ("text", "argument", "message"),
  [
    ("x = 1", "", "defines no get_config"),
    ("def get_config(a): pass", "", "needs an argument"),
    ("def get_config(): pass", ":x", "takes no argument"),
  ],
)
def test_files_that_are_no_configuration(tmp_path, text, argument, message):
  path = tmp_path / "c.py"
  path.write_text(text)
  with pytest.raises(UserError, match=message):
    load_config(f"{path}{argument}")


def test_load_config_passes_the_argument(place):
  path = place / "configs" / "multi.py"
  assert load_config(f"{path}:large").size == "large"
  assert load_config(str(path)).size == "small"
