"""Text in aligned columns."""

from collections.abc import Sequence


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
  """A Markdown table that can be read as it is, too.

  Args:
    lines: cells, as many in each; the first line holds the heads.
  """
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  rule = ["-" * width for width in widths]
  return "\n".join(
    "| " + " | ".join(map(str.ljust, line, widths)) + " |"
    for line in (lines[0], rule, *lines[1:])
  )
