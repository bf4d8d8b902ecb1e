"""A whole evaluation: tasks x editors x query styles, written to a folder.

OUT gets summary.json, records.jsonl, protocol.json, table.md and figure.png,
and in chunks/ the results of each task, editor and query style, which the same
command takes up again when it was cut off.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import logging

from instructedit_jax import figures, heap, report
from instructedit_jax.errors import UserError
from instructedit_jax.evaluation.baseline import Baseline
from instructedit_jax.evaluation.chunks import Chunk, chunks_of, write_json
from instructedit_jax.evaluation.results import Results, merged_rows
from instructedit_jax.evaluation.settings import Settings
from instructedit_jax.files import atomic_write
from instructedit_jax.progress import Progress


def run(
  settings: Settings, loaded: dict[Any, Baseline] | None = None
) -> list[Results]:
  """Evaluates and writes everything.

  Args:
    settings: what is asked for.
    loaded: models to share with other runs, see `chunks.chunks_of`.

  Returns:
    results by task, editor and query style; those of an earlier run with the
    same protocol are read, not computed again.

  Raises:
    UserError: bad input, or OUT cannot be written.
  """
  chunks = chunks_of(settings, loaded)
  held = [chunk.load() for chunk in chunks]
  reused = sum(
    len(chunk.records)
    for chunk, results in zip(chunks, held, strict=True)
    if results is not None
  )
  if reused:
    logging.info("%d records were evaluated by an earlier run", reused)
  total = sum(len(chunk.records) for chunk in chunks)
  for chunk, results in zip(chunks, held, strict=True):
    if results is not None and chunk.editor is not None:
      chunk.editor.skip()
  following = [chunk.editor for chunk in chunks[1:]] + [None]
  found = []
  with Progress(total, "evaluate", start=reused) as bar:
    for chunk, results, coming in zip(chunks, held, following, strict=True):
      name = f"{chunk.task}/{chunk.label}/{chunk.query}"

      def progress(count: int, name: str = name) -> None:
        bar.update(count, now=name)

      if results is None:
        heap.make_room()
        results = chunk.evaluate(settings.options, progress)
      found.append(results)
      if chunk.editor is not None and chunk.editor is not coming:
        chunk.editor.clear()
  _write(pathlib.Path(settings.out), settings, chunks, found)
  return found


def _write(
  out: pathlib.Path,
  settings: Settings,
  chunks: Sequence[Chunk],
  results: Sequence[Results],
) -> None:
  rows = merged_rows(results)
  write_json(out / "protocol.json", _protocol(settings, chunks, results))
  with (
    atomic_write(out / "records.jsonl") as path,
    path.open("w", encoding="utf-8") as stream,
  ):
    for got in results:
      for record in got.records:
        line = {"editor": got.editor, "query": got.query}
        line |= dataclasses.asdict(record)
        stream.write(json.dumps(line, ensure_ascii=False) + "\n")
  with atomic_write(out / "table.md") as path:
    text = _heading(chunks, results) + report.markdown(rows)
    path.write_text(text, encoding="utf-8")
  if not rows:
    name, reason = next(pair for got in results for pair in got.failed)
    raise UserError(
      f"{out}: no record could be evaluated by any editor; the first one,"
      f" {name}: {reason}"
    )
  figures.bars(
    [dataclasses.asdict(row) for row in report.headline(rows)],
    out / "figure.png",
    "After the edit: percent (fluency: 100 x bits), 95 % intervals",
  )
  # Last, so that a summary always has the files it sums up.
  write_json(out / "summary.json", [dataclasses.asdict(row) for row in rows])


def _protocol(
  settings: Settings, chunks: Sequence[Chunk], results: Sequence[Results]
) -> dict:
  return {
    "command": settings.command,
    "chunks": [
      {
        "task": chunk.task,
        "editor": chunk.label,
        "query": chunk.query,
        "records": len(got.records),
        "failed": [{"id": id_, "reason": why} for id_, why in got.failed],
        "protocol": chunk.stamp,
      }
      for chunk, got in zip(chunks, results, strict=True)
    ],
  }


def _heading(chunks: Sequence[Chunk], results: Sequence[Results]) -> str:
  stamp = chunks[0].stamp
  options = stamp["options"]
  failed = sum(len(got.failed) for got in results)
  notes = f" {failed} evaluations of records failed." if failed else ""
  return (
    f"# Edits of {stamp['model']['name']}\n\n"
    f"Every record is edited by itself; instruction {options['instruction']!r}"
    f" of its task; seed {options['seed']}. Values: {options['aggregation']}."
    " Percent; fluency in 100 x bits, KL in nats a token."
    f"{notes} The whole protocol is in protocol.json.\n\n"
  )
