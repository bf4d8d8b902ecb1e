"""The page: one HTML file with its style, script, pictures and records.

It opens from disk. Its content security policy forbids every request, and
names its script and style by their digests, so that nothing in the data can
run, whatever it says.
"""

import base64
import hashlib
import html
import importlib.resources
import json
import string
from collections.abc import Mapping, Sequence
from typing import Any

from instructedit_jax.reports.aggregate import Number
from instructedit_jax.reports.charts import charts
from instructedit_jax.reports.tables import LEGEND, Cell, Table, shown

_WARNING = (
  "Different protocols are mixed on this page. Numbers that differ in the"
  " following cannot be compared."
)


def page(
  *,
  title: str,
  tables: Sequence[Table],
  numbers: Sequence[Number],
  warnings: Sequence[str],
  notes: Sequence[str],
  stamp: Sequence[tuple[str, str]],
  protocol: Any,
  pictures: Mapping[str, bytes],
  records: str,
) -> str:
  """The whole page.

  Args:
    title: of the page.
    tables, numbers: what is shown.
    warnings: on protocols that differ; shown first.
    notes: on what was joined or left out.
    stamp: the protocol in short, (name, value).
    protocol: all of it, for JSON.
    pictures: PNG files by caption.
    records: of `browsing.encoded`.
  """
  style, script = _file("page.css"), _file("page.js")
  raw = json.dumps(protocol, indent=1, ensure_ascii=False)
  return string.Template(_file("page.html")).substitute(
    title=_text(title),
    style=style,
    script=script,
    style_digest=_digest(style),
    script_digest=_digest(script),
    warnings=_box("warning", _WARNING, warnings),
    notes=_box("note", "Notes", notes),
    legend=_text(LEGEND),
    links="".join(
      f'<a href="#{_anchor(i)}">{_text(table.title)}</a>'
      for i, table in enumerate(tables)
    ),
    tables="".join(_section(i, t, numbers) for i, t in enumerate(tables)),
    pictures=_pictures(pictures),
    stamp="".join(
      f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in stamp
    ),
    protocol=_text(raw),
    records=records,
  )


def _file(name: str) -> str:
  place = importlib.resources.files("instructedit_jax.reports") / name
  return place.read_text(encoding="utf-8")


def _digest(text: str) -> str:
  return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _text(text: str) -> str:
  return html.escape(text, quote=True)


def _anchor(number: int) -> str:
  return f"table-{number}"


def _box(kind: str, head: str, lines: Sequence[str]) -> str:
  if not lines:
    return ""
  listed = "".join(f"<li>{_text(line)}</li>" for line in lines)
  role = "alert" if kind == "warning" else "note"
  return (
    f'<aside class="{kind}" role="{role}"><strong>{_text(head)}</strong>'
    f"<ul>{listed}</ul></aside>"
  )


def _section(number: int, table: Table, numbers: Sequence[Number]) -> str:
  name = _text(table.title)
  caption = f"<p>{_text(table.caption)}</p>" if table.caption else ""
  return (
    f'<section id="{_anchor(number)}"><h2>{name}</h2>{caption}'
    f'<div class="wide" role="region" tabindex="0" aria-label="{name}: table">'
    f"{_table(table)}</div>{charts(numbers, table.title)}</section>"
  )


def _table(table: Table) -> str:
  heads = [*table.heads, *table.columns, "records"]
  lines = ["".join(f'<th scope="col">{_text(h)}</th>' for h in heads)]
  for line in table.lines:
    labels = "".join(f'<th scope="row">{_text(h)}</th>' for h in line.heads)
    cells = "".join(map(_cell, line.cells))
    lines.append(f"{labels}{cells}<td>{_text(line.records)}</td>")
  body = "".join(f"<tr>{line}</tr>" for line in lines[1:])
  return (
    f"<table><thead><tr>{lines[0]}</tr></thead><tbody>{body}</tbody></table>"
  )


def _cell(cell: Cell | None) -> str:
  if cell is None:
    return "<td></td>"
  value, interval = shown(cell.number)
  runs = cell.number.runs
  each = ""
  if len(runs) > 1:
    listed = ", ".join(f"{run:.4g}" for run in runs)
    each = f' title="{len(runs)} runs: {listed}"'
    interval += f" ×{len(runs)}"
  mark = {"best": "b", "near": "i", "": "span"}[cell.mark]
  return f"<td{each}><{mark}>{value}</{mark}> <small>{interval}</small></td>"


def _pictures(pictures: Mapping[str, bytes]) -> str:
  if not pictures:
    return ""
  figures = "".join(
    f'<figure><img loading="lazy" alt="{_text(name)}"'
    f' src="data:image/png;base64,{base64.b64encode(data).decode()}">'
    f"<figcaption>{_text(name)}</figcaption></figure>"
    for name, data in pictures.items()
  )
  return (
    '<section id="pictures"><h2>Pictures</h2>'
    f"<details><summary>{len(pictures)} pictures from the folders</summary>"
    f"{figures}</details></section>"
  )
