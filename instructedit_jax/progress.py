"""How far a long loop is, for a person at a terminal or for a log file."""

import sys
import time
from types import TracebackType
from typing import Any, TextIO

import rich.console
import rich.progress

_BAR_SECONDS = 0.1  # between two redraws of a bar
_WINDOW = 60.0  # seconds over which speed is averaged


class Progress:
  """A bar on a terminal; elsewhere one line every few seconds.

      train 120/3000 4.0% 23.1 it/s eta 2:05 loss=0.63

  Args:
    total: number of steps of the whole loop.
    label: first word of the line.
    every_seconds: time between two lines in a log.
    start: steps done before, by the run that this one continues.
    stream: where to write, standard error by default.
  """

  def __init__(
    self,
    total: int,
    label: str,
    every_seconds: float = 10.0,
    start: int = 0,
    stream: TextIO | None = None,
  ):
    self._total, self._label = total, label
    self._every = every_seconds
    self._done = start
    self._stream = stream if stream is not None else sys.stderr
    self._numbers: dict[str, Any] = {}
    self._bar: rich.progress.Progress | None = None
    self._marks = [(time.monotonic(), start)]
    self._last_line = self._marks[0][0]

  def __enter__(self) -> "Progress":
    self._marks = [(time.monotonic(), self._done)]
    self._last_line = self._marks[0][0]
    if self._stream.isatty():
      self._bar = rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.TextColumn("{task.fields[text]}"),
        console=rich.console.Console(file=self._stream),
      )
      self._bar.add_task(
        self._label, total=self._total, completed=self._done, text=""
      )
      self._bar.start()
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    # The line where a loop stopped is wanted however it stopped.
    self._show(time.monotonic())
    if self._bar is not None:
      self._bar.stop()

  def update(self, n: int = 1, **numbers: Any) -> None:
    """Counts `n` more steps and notes numbers to show.

    A JAX array that is still being computed is skipped, not waited for: the
    number shown last stays.
    """
    self._done += n
    for name, value in numbers.items():
      if not hasattr(value, "is_ready") or value.is_ready():
        self._numbers[name] = value
    now = time.monotonic()
    every = self._every if self._bar is None else _BAR_SECONDS
    if now - self._last_line >= every:
      self._show(now)

  def text(self) -> str:
    """Everything after the label, as in the example above."""
    parts = [f"{self._done}/{self._total}"]
    if self._total:
      parts.append(f"{100 * self._done / self._total:.1f}%")
    rate = self._rate()
    if rate > 0:
      left = max(self._total - self._done, 0)
      parts += [f"{_speed(rate)}", f"eta {_clock(left / rate)}"]
    parts += [f"{k}={_number(v)}" for k, v in self._numbers.items()]
    return " ".join(parts)

  def _show(self, now: float) -> None:
    self._mark(now)
    self._last_line = now
    if self._bar is None:
      print(self._label, self.text(), file=self._stream, flush=True)
    else:
      task = self._bar.task_ids[0]
      self._bar.update(task, completed=self._done, text=self.text())

  def _mark(self, now: float) -> None:
    # At most one mark a second, so that the window is a short list.
    if len(self._marks) > 1 and now - self._marks[-2][0] < 1.0:
      self._marks.pop()
    self._marks.append((now, self._done))
    while len(self._marks) > 2 and now - self._marks[1][0] > _WINDOW:
      self._marks.pop(0)

  def _rate(self) -> float:
    (start, before), (end, after) = self._marks[0], self._marks[-1]
    return (after - before) / (end - start) if end > start else 0.0


def _speed(rate: float) -> str:
  return f"{rate:.1f} it/s" if rate >= 1 else f"{1 / rate:.1f} s/it"


def _clock(seconds: float) -> str:
  """ "2:05", or "1:02:05" from an hour on."""
  minutes, second = divmod(round(seconds), 60)
  hours, minute = divmod(minutes, 60)
  if hours:
    return f"{hours}:{minute:02d}:{second:02d}"
  return f"{minute}:{second:02d}"


def _number(value: Any) -> str:
  if isinstance(value, int | str):
    return str(value)
  return f"{float(value):.3g}"
