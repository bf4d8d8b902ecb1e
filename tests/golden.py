"""Holds the reference recipe to arrays computed with the published code.

  python -m tests.golden DIR [--precision f64|f32|all]

reads DIR/manifest.json and checks every case it lists: each array and each
scalar, whatever its name, for any model of the supported families. Prints one
line for each case and quantity and exits with 1 if anything differs, is not
understood, or is missing.

The error of an array is the largest difference over the largest magnitude, of a
divergence over that of its log-probabilities (at least one). The tolerances
are 1e-9 for float64, 1e-7 where a float64 result was stored in float32, and
1e-5 for float32: float32 and float64 runs of the published code differ by up
to 3.4e-6.
"""

import argparse
import collections
import gc
import json
import pathlib
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from tests.golden_case import Case, compute

# What decides the editor's parameters: cases that agree in it may share them.
_FORM = (
  "rank",
  "n_hidden",
  "init",
  "norm",
  "combine",
  "shared",
  "one_sided",
  "x_only",
  "delta_only",
)
_START = "params0/"


class Result(NamedTuple):
  """One comparison; `error` is relative, `note` says why there is none."""

  name: str
  error: float
  note: str = ""


def main(arguments: list[str] | None = None) -> int:
  """Returns the exit code."""
  parser = argparse.ArgumentParser(prog="python -m tests.golden")
  parser.add_argument("folder", type=pathlib.Path)
  parser.add_argument(
    "--precision", choices=("f64", "f32", "all"), default="all"
  )
  flags = parser.parse_args(arguments)
  try:
    manifest = json.loads((flags.folder / "manifest.json").read_text())
  except (OSError, ValueError) as error:
    print(f"{flags.folder}/manifest.json cannot be read: {error}")
    return 1
  jax.config.update("jax_numpy_rank_promotion", "raise")
  # Every batch has its own shape: compiling is all the time there is.
  jax.config.update("jax_disable_most_optimizations", True)
  wanted = ("f64", "f32") if flags.precision == "all" else (flags.precision,)
  bad = checked = 0
  for precision in wanted:
    jax.config.update("jax_enable_x64", precision == "f64")
    for file, spec in manifest["files"].items():
      if "model" in spec and spec["compute_dtype"] == precision:
        checked += 1
        bad += report(file, spec, check(flags.folder, manifest, file))
  if flags.precision == "all":
    bad += _other_files(flags.folder, manifest)
  print(f"{checked} cases, {bad} failures")
  return 1 if bad or not checked else 0


def check(
  folder: pathlib.Path, manifest: Mapping[str, Any], file: str
) -> list[Result]:
  """Compares everything a case's file and manifest entry hold."""
  spec = manifest["files"][file]
  # One case that cannot be run must not hide the others.
  try:
    theirs = dict(np.load(folder / file))
    case = _load(folder, manifest, file)
    arrays, scalars = compute(case)
  except Exception as error:
    return [Result("case", np.inf, f"{type(error).__name__}: {error}")]
  results = [
    Result(name, np.inf, "absent from the file")
    for name in spec["arrays"].keys() - theirs.keys()
  ]
  for name, value in theirs.items():
    if name not in spec["arrays"]:
      results.append(Result(name, np.inf, "not in the manifest"))
    elif name.startswith(_START):
      continue  # an input
    elif name not in arrays:
      results.append(Result(name, np.inf, "unknown array"))
    else:
      results.append(_compare(name, arrays[name], value))
  for name, value in _scalars(spec):
    if name not in scalars:
      results.append(Result(name, np.inf, "unknown scalar"))
    elif not _defined(name, case):
      results.append(Result(name, 0.0, "counts padded positions: not compared"))
    else:
      results.append(_compare(name, scalars[name], value))
  return results


def report(file: str, spec: Mapping[str, Any], results: list[Result]) -> int:
  """Prints a case's lines; returns how many comparisons failed."""
  tolerance = 1e-9 if spec["stored"] == "f64" else 1e-7
  tolerance = 1e-5 if spec["compute_dtype"] == "f32" else tolerance
  groups: dict[str, list[Result]] = collections.defaultdict(list)
  for result in results:
    groups[_quantity(result.name)].append(result)
  failures = 0
  for quantity, members in groups.items():
    compared = [r for r in members if not r.note or r.error]
    failed = [r for r in compared if not r.error <= tolerance]
    failures += len(failed)
    worst = max((r.error for r in compared), default=0.0)
    verdict = "FAIL" if failed else "ok"
    print(
      f"{file.removesuffix('.npz'):28} {quantity:16} {len(compared):4}"
      f"  {worst:8.1e}  (<= {tolerance:.0e})  {verdict}"
    )
    for r in failed[:5]:
      print(f"    {r.name}: {r.note or f'{r.error:.2e}'}")
    skipped = [r for r in members if r.note and not r.error]
    for note in sorted({r.note for r in skipped}):
      names = ", ".join(r.name for r in skipped if r.note == note)
      print(f"    {names}: {note}")
  return failures


def _load(folder: pathlib.Path, manifest: Mapping[str, Any], file: str) -> Case:
  files = manifest["files"]
  spec = files[file]
  base = f"{spec['model']}_base.npz"
  donor = np.load(folder / _donor(files, file))
  start = {
    name.removeprefix(_START): donor[name]
    for name in donor.files
    if name.startswith(_START)
  }
  return Case(
    name=file.removesuffix(".npz"),
    spec=spec,
    start=start,
    model=(files[base]["hf_config"], dict(np.load(folder / base))),
    batches=dict(np.load(folder / "batches.npz")),
  )


def _donor(files: Mapping[str, Any], file: str) -> str:
  """The file with this case's start parameters: its own, or its like's."""
  spec = files[file]

  def form(other: Mapping[str, Any]) -> Any:
    chosen = [other["config"].get(key) for key in _FORM]
    return other["model"], other["state"], other["inner_params"], chosen

  for name in (file, *files):
    other = files[name]
    held = any(key.startswith(_START) for key in other["arrays"])
    if held and "model" in other and form(other) == form(spec):
      return name
  raise ValueError("no case with the same form has start parameters")


def _scalars(spec: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
  for step in spec["steps"]:
    for key, value in step.items():
      yield f"{step['batch']}/{key}", value
  for key, value in (spec["eval"] or {}).items():
    yield f"eval/{key}", value


def _defined(name: str, case: Case) -> bool:
  """Whether a scalar depends on real positions alone."""
  label, key = name.split("/", 1)
  if key != "loc_acc":
    return True
  mask = case.batches[f"{label}/loc/attention_mask"]
  sentiment = f"{label}/same_mask" in case.batches
  answers = case.batches.get(f"{label}/loc/decoder_attention_mask")
  width = mask.shape[1] if sentiment else answers.shape[1]
  return bool(mask[:, -width:].all())


def _compare(name: str, ours: Any, theirs: Any) -> Result:
  if _plain(theirs) or _plain(ours):
    same = _plain(ours) and ours == theirs
    return Result(name, 0.0 if same else np.inf, "" if same else f"ours {ours}")
  a, b = np.asarray(ours), np.asarray(theirs)
  if a.shape != b.shape:
    return Result(name, np.inf, f"shape {a.shape}, theirs {b.shape}")
  if b.dtype == bool:
    return Result(name, float((a != b).mean()))
  if name.endswith("logits"):
    a, b = a[~np.isnan(a)], b[~np.isnan(a)]
  if not b.size:
    return Result(name, 0.0)
  scale = float(np.abs(b).max()) or 1.0
  if name.endswith("/l_loc"):
    # A divergence is a difference of log-probabilities, and rounded as they
    # are, however small it is itself.
    scale = max(scale, 1.0)
  return Result(name, float(np.abs(a.astype(b.dtype) - b).max()) / scale)


def _plain(value: Any) -> bool:
  """None, a name, or a list with such things: compared by equality."""
  if isinstance(value, list):
    return any(_plain(element) for element in value)
  return value is None or isinstance(value, str)


def _quantity(name: str) -> str:
  """The line an array or scalar belongs to."""
  rest = name.split("/", 1)[-1]
  if name.startswith(("stats_final", "after_update", "eval")):
    return re.split(r"[/\d_]", name)[0] + (
      " edit_lrs" if rest == "edit_lrs" else ""
    )
  if rest.startswith("stat_after"):
    return "statistics"
  if rest.endswith("logits"):
    return "logits"
  if re.fullmatch(r"(l|inner|log|prob|acc|loc)(_\w+)?", rest):
    return "losses"
  return re.split(r"[/\d]", rest)[0]


def _other_files(folder: pathlib.Path, manifest: Mapping[str, Any]) -> int:
  """Names files that nobody described."""
  extra = {p.name for p in folder.glob("*.npz")} - manifest["files"].keys()
  for name in sorted(extra):
    print(f"{name}: not in the manifest")
  return len(extra)


if __name__ == "__main__":
  # Looking for garbage among traced programs takes a sixth of the time.
  gc.disable()
  sys.exit(main())
