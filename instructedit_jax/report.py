"""Tables of results, for people."""

from collections.abc import Sequence

from instructedit_jax.evaluation.results import Results, Row

# What a table opens with; the other metrics follow in a table of their own.
HEADLINE = (
  "reliability_em",
  "reliability_free",
  "generalization_em",
  "portability_em",
  "locality_token",
  "edit_success",
  "fluency",
)
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
  return _aligned(lines)


def _cell(row: Row | None) -> str:
  if row is None:
    return ""
  digits = 4 if row.metric.endswith("_kl") else 1
  value, low, high = (
    f"{number:.{digits}f}" for number in (row.value, row.low, row.high)
  )
  return f"{value} [{low}, {high}]"


def _aligned(lines: Sequence[Sequence[str]]) -> str:
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  rule = ["-" * width for width in widths]
  return "\n".join(
    "| " + " | ".join(map(str.ljust, line, widths)) + " |"
    for line in (lines[0], rule, *lines[1:])
  )


def _short(text: str, end: bool = False) -> str:
  """One line of printable text; the end of a long prompt says the most."""
  text = " ".join(text.split())
  text = "".join(c if c.isprintable() else "·" for c in text)
  if len(text) <= _SHOWN_CHARACTERS:
    return text
  if end:
    return "…" + text[1 - _SHOWN_CHARACTERS :]
  return text[: _SHOWN_CHARACTERS - 1] + "…"
