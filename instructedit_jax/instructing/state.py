"""What a search knows so far, kept on disk after every step."""

import dataclasses
import datetime
import json
import os
import pathlib
from typing import Any

from instructedit_jax.errors import UserError
from instructedit_jax.files import atomic_write

FORMAT = 1


@dataclasses.dataclass
class Candidate:
  """A description; its scores are None until it is tried.

  Attributes:
    text: the description.
    round: which round of writing it is from; -1 for one given at the start.
    shown: score on the records whose scores the writer is told.
    held_out: score on those it is not; what is kept depends on it.
  """

  text: str
  round: int
  shown: dict[str, Any] | None = None
  held_out: dict[str, Any] | None = None

  @property
  def scored(self) -> bool:
    """Whether both scores are there."""
    return self.shown is not None and self.held_out is not None

  @property
  def order(self) -> tuple[float, float]:
    """Larger is better, by the held-out score."""
    assert self.held_out is not None
    return self.held_out["value"], self.held_out["tie"]


@dataclasses.dataclass
class Round:
  """One answer of the writer.

  Attributes:
    prompt_sha256, reply_sha256: of what was asked and said.
    written: descriptions in the answer.
    dropped: how many were unusable, by reason.
    date: when, UTC.
    best: held-out mean of the best ones after this round; None until scored.
  """

  prompt_sha256: str
  reply_sha256: str
  written: int
  dropped: dict[str, int]
  date: str
  best: float | None = None


@dataclasses.dataclass
class TaskState:
  """What is known of one task; `done` says why it ended, "" while it runs."""

  candidates: list[Candidate] = dataclasses.field(default_factory=list)
  rounds: list[Round] = dataclasses.field(default_factory=list)
  done: str = ""


@dataclasses.dataclass
class State:
  """A whole search.

  Attributes:
    settings: what may not change when it is taken up again.
    started: date, UTC.
    calls: requests sent, those that failed included.
    prompt_tokens, reply_tokens: so far.
    cost: so far, in the unit of the prices.
    estimated: whether some tokens were counted by guess.
    tasks: by name.
  """

  settings: dict[str, Any]
  started: str
  calls: int = 0
  prompt_tokens: int = 0
  reply_tokens: int = 0
  cost: float = 0.0
  estimated: bool = False
  tasks: dict[str, TaskState] = dataclasses.field(default_factory=dict)

  def save(self, path: str | os.PathLike[str]) -> None:
    """Writes it, whole or not at all."""
    write_json(path, {"format": FORMAT, **dataclasses.asdict(self)})


def load(path: str | os.PathLike[str], settings: dict[str, Any]) -> State:
  """The state of an earlier run with the same settings, or a new one.

  Raises:
    UserError: the file is damaged, or of a search with other settings.
  """
  source = pathlib.Path(path)
  settings = json.loads(json.dumps(settings))
  if not source.exists():
    return State(settings, now())
  try:
    raw = json.loads(source.read_text(encoding="utf-8"))
    if raw.pop("format") != FORMAT:
      raise ValueError("another format")
    tasks = {
      name: TaskState(
        [Candidate(**c) for c in task["candidates"]],
        [Round(**r) for r in task["rounds"]],
        task["done"],
      )
      for name, task in raw.pop("tasks").items()
    }
    state = State(**raw, tasks=tasks)
  except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
    raise UserError(
      f"{source}: not a readable state of a search ({error}). Remove it to"
      " start again, or choose another --out."
    ) from None
  if state.settings != settings:
    names = sorted({*state.settings, *settings})
    name = next(n for n in names if state.settings.get(n) != settings.get(n))
    raise UserError(
      f"{source}: is of a search with {name}={state.settings.get(name)!r}, not"
      f" {settings.get(name)!r}. Use the same settings to go on, or another"
      " --out to start anew."
    )
  return state


def calls(path: str | os.PathLike[str]) -> int:
  """Requests that earlier runs sent; 0 if there was none."""
  try:
    return int(json.loads(pathlib.Path(path).read_text("utf-8"))["calls"])
  except (OSError, ValueError, TypeError, KeyError):
    return 0  # `load` says what is wrong with the file


def now() -> str:
  """The time, UTC, to the second."""
  return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
  """Writes a JSON file, whole or not at all."""
  with atomic_write(path) as temporary:
    text = json.dumps(value, indent=1, ensure_ascii=False, sort_keys=False)
    # Halves of characters, which a server may send, are no UTF-8.
    temporary.write_bytes((text + "\n").encode("utf-8", "replace"))
