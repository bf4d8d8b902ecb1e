"""What a benchmark leaves: rows in a file, and the same as a table.

  python -m benchmarks.rows FILE...

prints the rows of such files as one Markdown table.
"""

import dataclasses
import datetime
import json
import os
import pathlib
import platform
import sys
from collections.abc import Sequence
from typing import Any

import jax

from benchmarks.timing import Times
from instructedit_jax.errors import UserError
from instructedit_jax.files import atomic_write


@dataclasses.dataclass(frozen=True)
class Row:
  """One comparison.

  Attributes:
    name: what was measured.
    ours, peer: in `unit`; peer is None where there is nothing to compare with.
    ratio: how many times better ours is.
    unit: "episodes/s", "ms", ...
    config: everything the numbers depend on, quartiles included.
  """

  name: str
  ours: float
  peer: float | None
  ratio: float | None
  unit: str
  config: dict[str, Any]


def rate(
  name: str, ours: Times, peer: Times | None, unit: str, **config: Any
) -> Row:
  """A row of throughputs: units of work a second, higher is better."""
  config |= {"ours_quartiles": ours.rates, "ours_cpu_s": ours.cpu}
  if peer is None:
    return Row(name, ours.rate, None, None, unit, config)
  config |= {"peer_quartiles": peer.rates, "peer_cpu_s": peer.cpu}
  return Row(name, ours.rate, peer.rate, ours.rate / peer.rate, unit, config)


def latency(
  name: str, ours: float, peer: float | None, unit: str = "ms", **config: Any
) -> Row:
  """A row of durations: lower is better."""
  ratio = None if peer is None else peer / ours
  return Row(name, ours, peer, ratio, unit, config)


def machine() -> dict[str, Any]:
  """Where and when; the load tells whether others worked beside us."""
  return {
    "date": datetime.datetime.now().isoformat(timespec="minutes"),
    "device": jax.devices()[0].device_kind,
    "devices": jax.device_count(),
    "cores": len(os.sched_getaffinity(0)),
    "load": [round(value, 1) for value in os.getloadavg()],
    "python": platform.python_version(),
    "jax": jax.__version__,
  }


def finish(rows: Sequence[Row], out: str | None) -> None:
  """Prints the table and, if wanted, writes the rows as JSON."""
  print(table(rows))
  where = machine()
  print(" ".join(f"{key}={value}" for key, value in where.items()))
  if not out:
    return
  path = pathlib.Path(out)
  path.parent.mkdir(parents=True, exist_ok=True)
  held = [dataclasses.asdict(row) for row in rows]
  for row in held:
    row["config"]["machine"] = where
  with atomic_write(path) as temporary:
    text = json.dumps(held, indent=1, ensure_ascii=False)
    temporary.write_text(text + "\n", encoding="utf-8")
  print(f"rows written to {path}")


def table(rows: Sequence[Row]) -> str:
  """The rows for people."""
  cells = [("what", "ours", "PyTorch", "times", "unit")]
  for row in rows:
    peer, ratio = row.peer, row.ratio
    cells.append(
      (
        row.name,
        _number(row.ours),
        "-" if peer is None else _number(peer),
        "-" if ratio is None else f"{ratio:.1f}x",
        row.unit,
      )
    )
  wide = [max(len(line[i]) for line in cells) for i in range(5)]
  lines = []
  for line in cells:
    first, *others, unit = line
    numbers = (c.rjust(w) for c, w in zip(others, wide[1:4], strict=True))
    lines.append("  ".join((first.ljust(wide[0]), *numbers, unit)))
  lines.insert(1, "-" * max(map(len, lines)))
  return "\n".join(lines)


def read(path: str | os.PathLike[str]) -> list[Row]:
  """The rows of a file that `finish` wrote.

  Raises:
    UserError: it is none.
  """
  try:
    held = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    return [Row(**row) for row in held]
  except (OSError, TypeError, ValueError) as error:
    raise UserError(
      f"{path}: no rows of a benchmark ({error}); write them with --out={path}"
    ) from error


def markdown(found: Sequence[Row]) -> str:
  """The rows as a Markdown table; quartiles where they are known."""
  lines = ["| what | ours | PyTorch | times | unit |", "|---|---|---|---|---|"]
  for row in found:
    ours = _number(row.ours) + _spread(row.config.get("ours_quartiles"))
    peer = "" if row.peer is None else _number(row.peer)
    peer += _spread(row.config.get("peer_quartiles"))
    ratio = "" if row.ratio is None else f"{row.ratio:.1f}x"
    lines.append(f"| {row.name} | {ours} | {peer} | {ratio} | {row.unit} |")
  return "\n".join(lines)


def _spread(quartiles: Sequence[float] | None) -> str:
  if not quartiles:
    return ""
  low, high = quartiles
  return f" ({_number(low)} to {_number(high)})"


def _number(value: float) -> str:
  return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


if __name__ == "__main__":
  try:
    print(markdown([row for path in sys.argv[1:] for row in read(path)]))
  except UserError as error:
    sys.exit(f"error: {error}")
