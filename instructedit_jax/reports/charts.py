"""Pictures that live in a page: they take its colours and its width.

One small chart a metric; a line of it is an editor under a query style, with a
mark at the value and a bar over the interval. The numbers stand beside it, so
nothing is told by colour alone.
"""

import html
from collections.abc import Sequence

from instructedit_jax.evaluation.scores import FLUENCY, HEADLINE
from instructedit_jax.reports.aggregate import Number
from instructedit_jax.reports.tables import lower_is_better, shown

COLOURS = 8  # classes c0 ... c7 of the page's style
_WIDTH, _LINE, _TOP, _BOTTOM, _SIDE = 320, 32, 22, 20, 8
_NAME = 30  # characters of an editor's name


def charts(numbers: Sequence[Number], task: str) -> str:
  """The charts of a task as HTML; "" if none of its metrics is worth one."""
  editors = list(dict.fromkeys(number.editor for number in numbers))
  parts = []
  # Fluency has another scale.
  for metric in (name for name in HEADLINE if name != FLUENCY):
    mine = [n for n in numbers if n.task == task and n.metric == metric]
    if mine:
      parts.append(f"<figure>{_chart(metric, mine, editors)}</figure>")
  return f'<div class="charts">{"".join(parts)}</div>' if parts else ""


def _chart(
  metric: str, numbers: Sequence[Number], editors: Sequence[str]
) -> str:
  top = max(100.0, *(number.high for number in numbers))
  left, right = _SIDE, _WIDTH - _SIDE
  height = _TOP + _LINE * len(numbers) + _BOTTOM
  end = height - _BOTTOM

  def x(value: float) -> str:
    return f"{left + (right - left) * min(max(value / top, 0), 1):.1f}"

  better = "lower" if lower_is_better(metric) else "higher"
  label = html.escape(f"{metric}, {better} is better")
  lines = [
    f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{label}">',
    f'<text class="head" x="{left}" y="13">{html.escape(metric)}</text>',
  ]
  for share in (0.0, 0.25, 0.5, 0.75, 1.0):
    at = x(share * top)
    anchor = {0.0: "start", 1.0: "end"}.get(share, "middle")
    lines.append(
      f'<line class="grid" x1="{at}" y1="{_TOP}" x2="{at}" y2="{end}"/>'
      f'<text class="tick" x="{at}" y="{end + 14}" text-anchor="{anchor}">'
      f"{share * top:.0f}</text>"
    )
  for row, number in enumerate(numbers):
    y = _TOP + _LINE * row + 12
    value, interval = shown(number)
    name = html.escape(_short(number.editor))
    whole = html.escape(
      f"{number.editor}, {number.query}: {value} {interval},"
      f" {number.records} records, {max(len(number.runs), 1)} runs"
    )
    colour = f"c{editors.index(number.editor) % COLOURS}"
    kind = "" if number.query == "bare" else " hollow"
    lines.append(
      f"<g><title>{whole}</title>"
      f'<text x="{left}" y="{y}">{name} · {html.escape(number.query)}</text>'
      f'<text x="{right}" y="{y}" text-anchor="end">{value}</text>'
      f'<line class="{colour} bar" x1="{x(number.low)}" y1="{y + 10}"'
      f' x2="{x(number.high)}" y2="{y + 10}"/>'
      f'<circle class="{colour}{kind}" cx="{x(number.value)}" cy="{y + 10}"'
      ' r="4.5"/></g>'
    )
  return "".join([*lines, "</svg>"])


def _short(text: str) -> str:
  return text if len(text) <= _NAME else text[: _NAME - 1] + "…"
