"""Files and functions stay small enough to read in one go."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDERS = ("instructedit_jax", "configs", "benchmarks", "tests")
FILES = sorted(p for f in FOLDERS for p in (ROOT / f).rglob("*.py"))
FILE_LINES = 450
FUNCTION_LINES = 80


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_are_short(path):
  text = path.read_text(encoding="utf-8")
  lines = len(text.splitlines())
  assert lines <= FILE_LINES, f"{path}: {lines} lines, {FILE_LINES} allowed"
  long = [
    f"{path}:{node.lineno} {node.name} has {length} lines"
    for node in ast.walk(ast.parse(text))
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    and (length := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES
  ]
  assert not long, f"{FUNCTION_LINES} allowed: {'; '.join(long)}"
