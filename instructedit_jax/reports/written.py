"""Tables as Markdown, LaTeX and CSV."""

import csv
import io
import re
from collections.abc import Iterable, Sequence

from instructedit_jax.columns import markdown_table
from instructedit_jax.reports.aggregate import Number
from instructedit_jax.reports.tables import LEGEND, Cell, Table, shown

_MARKS = {"best": "**{}**", "near": "_{}_", "": "{}"}
_TEX_MARKS = {"best": r"\textbf{{{}}}", "near": r"\textit{{{}}}", "": "{}"}
_TEX = {
  "\\": r"\textbackslash{}",
  "{": r"\{",
  "}": r"\}",
  "$": r"\$",
  "&": r"\&",
  "#": r"\#",
  "%": r"\%",
  "_": r"\_",
  "^": r"\textasciicircum{}",
  "~": r"\textasciitilde{}",
  "<": r"\textless{}",
  ">": r"\textgreater{}",
  "–": "--",
  "…": r"\ldots{}",
}
_CSV_FIELDS = (
  *("task", "query", "metric", "editor", "value", "low", "high"),
  *("records", "runs", "values_of_runs", "mark"),
)


def markdown(
  tables: Sequence[Table],
  title: str,
  warnings: Sequence[str],
  notes: Sequence[str],
  stamp: Sequence[tuple[str, str]],
) -> str:
  """The whole report but its records, as Markdown."""
  parts = [f"# {md_text(title)}"]
  if warnings:
    listed = "\n".join(f"> - {md_text(text)}" for text in warnings)
    parts.append(
      f"> **Different protocols are mixed here; numbers that differ in them"
      f" cannot be compared.**\n{listed}"
    )
  parts.append(LEGEND)
  for table in tables:
    parts.append(f"## {md_text(table.title)}")
    if table.caption:
      parts.append(md_text(table.caption))
    parts.append(_md_table(table))
  parts.append("## Protocol")
  parts.append("\n".join(f"- {md_text(k)}: {md_text(v)}" for k, v in stamp))
  if notes:
    parts.append("\n".join(f"- {md_text(text)}" for text in notes))
  return "\n\n".join(parts) + "\n"


def _md_table(table: Table) -> str:
  def cell(found: Cell | None) -> str:
    if found is None:
      return ""
    value, interval = shown(found.number)
    return f"{_MARKS[found.mark].format(value)} {interval}"

  heads = [*table.heads, *map(md_text, table.columns), "records"]
  lines = [heads]
  for line in table.lines:
    cells = map(cell, line.cells)
    lines.append([*map(md_text, line.heads), *cells, line.records])
  return markdown_table(lines)


def md_text(text: str) -> str:
  """Text on one line, without a meaning to Markdown or HTML."""
  text = " ".join(text.split())
  text = text.replace("&", "&amp;").replace("<", "&lt;")
  # An underscore inside a word has no meaning and is common in names.
  return re.sub(r"([\\`*|\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", text)


def latex(tables: Sequence[Table], command: str) -> str:
  r"""Tables for \input into a document that loads booktabs and graphicx."""
  parts = [
    "% Needs \\usepackage{booktabs,graphicx}.",
    f"% {' '.join(command.split())}",
  ]
  return "\n".join([*parts, *map(_tex_table, tables)]) + "\n"


def _tex_table(table: Table) -> str:
  def cell(found: Cell | None) -> str:
    if found is None:
      return "--"
    value, interval = shown(found.number)
    value = _TEX_MARKS[found.mark].format(value)
    return rf"\shortstack[r]{{{value}\\{{\tiny {interval}}}}}"

  def row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\[2pt]"

  heads = [*table.heads, *table.columns, "records"]
  lines = [
    r"\begin{table}",
    r"  \centering\small",
    f"  \\caption{{{tex_text(f'{table.title}. {table.caption}'.strip())}}}",
    # Ten editors with their intervals are wider than a page.
    r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
    f"  \\begin{{tabular}}{{ll{'r' * len(table.columns)}r}}",
    r"    \toprule",
    "    " + row(map(tex_text, heads)),
    r"    \midrule",
  ]
  before = None
  for line in table.lines:
    if before not in (None, line.heads[0]):
      lines.append(r"    \addlinespace")
    before = line.heads[0]
    cells = [*map(tex_text, line.heads), *map(cell, line.cells)]
    lines.append("    " + row([*cells, tex_text(line.records)]))
  lines += [r"    \bottomrule", r"  \end{tabular}}", r"\end{table}"]
  return "\n".join(lines)


def tex_text(text: str) -> str:
  """Text without a meaning to LaTeX; brackets may open no option."""
  text = " ".join(text.split())
  escaped = "".join(_TEX.get(c, c) for c in text)
  return re.sub(r"^\[", "{[}", escaped)


def comma_separated(tables: Sequence[Table]) -> str:
  """One number a line, for other programs; full precision."""
  stream = io.StringIO()
  writer = csv.writer(stream, lineterminator="\n")
  writer.writerow(_CSV_FIELDS)
  for table in tables:
    for line in table.lines:
      for found in line.cells:
        if found is not None:
          writer.writerow(_csv_row(found.number, found.mark))
  return stream.getvalue()


def _csv_row(number: Number, mark: str) -> list[str]:
  texts = (number.task, number.query, number.metric, number.editor)
  values = (number.value, number.low, number.high)
  return [
    *map(_no_formula, texts),
    *(f"{value:.6g}" for value in values),
    str(number.records),
    str(max(len(number.runs), 1)),
    " ".join(f"{value:.6g}" for value in number.runs),
    mark,
  ]


def _no_formula(text: str) -> str:
  """A spreadsheet must not take a name for a formula."""
  return f"'{text}" if text[:1] in tuple("=+-@\t\r") else text
