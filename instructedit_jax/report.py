"""Tables of results, for people; and one report of many evaluations.

python -m instructedit_jax.report results --out=report
python -m instructedit_jax.report results/seed* --out=report \\
  --rename='mend (*)=mend' --title="Three seeds"

OUT gets report.html, a page that opens from disk, and the tables as report.md,
report.tex and report.csv. Folders are those of `instructedit_jax.evaluate`;
editors that appear in several of them under one protocol are runs of one.
"""

import shlex
import sys
from collections.abc import Sequence

from absl import flags

from instructedit_jax import app
from instructedit_jax.columns import markdown_table
from instructedit_jax.errors import UserError
from instructedit_jax.evaluation.results import Results, Row
from instructedit_jax.evaluation.scores import HEADLINE

_QUERY_ORDER = ("bare", "instructed")
_SHOWN_CHARACTERS = 40


def markdown(rows: Sequence[Row]) -> str:
  """Every task's tables, plain questions before instructed ones.

  A cell is the mean over records and its 95 % bootstrap interval. The text is
  Markdown, and its columns are aligned for reading as it is.
  """
  parts = []
  for task in dict.fromkeys(row.task for row in rows):
    mine = [row for row in rows if row.task == task]
    metrics = list(dict.fromkeys(row.metric for row in mine))
    first = [metric for metric in HEADLINE if metric in metrics]
    rest = [metric for metric in metrics if metric not in HEADLINE]
    parts.append(f"## {task}\n\n{_table(mine, first)}")
    if rest:
      parts.append(_table(mine, rest))
  return "\n\n".join(parts) + "\n"


def headline(rows: Sequence[Row]) -> list[Row]:
  """The rows worth a picture."""
  return [row for row in rows if row.metric in HEADLINE]


def examples(results: Sequence[Results], count: int) -> str:
  """Free answers to edited prompts before and after, aligned.

  Taken in turn from each of `results`; "" if nothing was generated.
  """
  queues = [
    [
      (result.editor, record)
      for record in result.records
      if "free_after" in record.reliability
    ]
    for result in results
  ]
  longest = max(map(len, queues), default=0)
  turns = [q[i] for i in range(longest) for q in queues if i < len(q)]
  lines = []
  for editor, record in turns[:count]:
    item = record.reliability
    before, after = (
      _short(item.get(field) or "") for field in ("free_before", "free_after")
    )
    prompt = _short(record.prompt, end=True)
    lines.append((editor, prompt, before, after, _short(record.target)))
  if not lines:
    return ""
  widths = [max(len(line[i]) for line in lines) for i in range(4)]
  return "\n".join(
    "{}  {} -> {} | {} ({})".format(
      *(text.ljust(width) for text, width in zip(line, widths, strict=False)),
      line[4],
    )
    for line in lines
  )


def _table(rows: Sequence[Row], metrics: Sequence[str]) -> str:
  cells = {(row.query, row.editor, row.metric): row for row in rows}
  queries = sorted({row.query for row in rows}, key=_QUERY_ORDER.index)
  editors = list(dict.fromkeys(row.editor for row in rows))
  lines = [["query", "editor", *metrics]]
  for query in queries:
    for editor in editors:
      found = [cells.get((query, editor, metric)) for metric in metrics]
      if any(found):
        lines.append([query, editor, *map(_cell, found)])
  counts = [
    sorted({row.n for row in rows if row.metric == metric})
    for metric in metrics
  ]
  lines.append(["records", "", *("–".join(map(str, n)) for n in counts)])
  return markdown_table(lines)


def _cell(row: Row | None) -> str:
  if row is None:
    return ""
  digits = 4 if row.metric.endswith("_kl") else 1
  value, low, high = (
    f"{number:.{digits}f}" for number in (row.value, row.low, row.high)
  )
  return f"{value} [{low}, {high}]"


def _short(text: str, end: bool = False) -> str:
  """One line of printable text; the end of a long prompt says the most."""
  text = " ".join(text.split())
  text = "".join(c if c.isprintable() else "·" for c in text)
  if len(text) <= _SHOWN_CHARACTERS:
    return text
  if end:
    return "…" + text[1 - _SHOWN_CHARACTERS :]
  return text[: _SHOWN_CHARACTERS - 1] + "…"


def main(argv: Sequence[str]) -> None:
  """Builds the report that the flags ask for."""
  del argv
  # Imported late: evaluations need the tables above, not the page.
  from instructedit_jax.reports import Settings, build

  values = flags.FLAGS
  if not values.out:
    raise UserError("--out=FOLDER is missing: where should the report go?")
  built = build(
    Settings(
      folders=values.folder,
      out=values.out,
      title=values.title,
      rename=dict(map(_renaming, values.rename)),
      separate=values.separate,
      pictures=values.pictures,
      command=shlex.join(
        ["python", "-m", "instructedit_jax.report", *sys.argv[1:]]
      ),
    )
  )
  for warning in built.warnings:
    print(f"warning: {warning}", file=sys.stderr)
  for note in built.notes:
    print(note)
  print(f"Open {built.files[0]} in a browser; tables are beside it.")


def _renaming(text: str) -> tuple[str, str]:
  old, equals, new = text.rpartition("=")
  if not equals or not old or not new.strip():
    raise UserError(f"--rename={text}: write it as OLD=NEW.")
  return old, new.strip()


def _define_flags() -> None:
  """Only where this is the program: `evaluate` has an --out of its own."""
  flags.DEFINE_multi_string("folder", [], "A folder with results.")
  flags.DEFINE_string("out", "", "Folder of the report.")
  flags.DEFINE_string("title", "Knowledge edits", "Title of the report.")
  flags.DEFINE_multi_string(
    "rename", [], "OLD=NEW for editors' names; * in OLD is any text."
  )
  flags.DEFINE_bool("separate", False, "Keep folders apart; join no runs.")
  flags.DEFINE_list("pictures", [], "More PNG files to show.")


def _with_folders(argv: Sequence[str]) -> list[str]:
  """Turns each plain argument into a --folder."""
  found, value_next = [argv[0]], False
  for argument in argv[1:]:
    if value_next or argument.startswith("-"):
      name = argument.lstrip("-")
      known = name in flags.FLAGS  # with "=" it is not, and has its value
      takes_value = known and not flags.FLAGS[name].boolean
      value_next = not value_next and takes_value
      found.append(argument)
    else:
      found.append(f"--folder={argument}")
  return found


if __name__ == "__main__":
  _define_flags()
  app.run(main, _with_folders(sys.argv))
