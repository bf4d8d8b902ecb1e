"""Write, score, tell, repeat: until the best descriptions get no better.

Records are two halves without a common subject. The writer hears of scores on
one; what is kept, and when to stop, is decided on the other.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging

from instructedit_jax.errors import UserError, require_least
from instructedit_jax.instructing import pool, prompting
from instructedit_jax.instructing import state as states
from instructedit_jax.instructing.scoring import Scorer, as_dict
from instructedit_jax.instructing.state import Candidate, Round, TaskState
from instructedit_jax.instructing.writers import (
  MalformedReply,
  Message,
  Reply,
  Writer,
)
from instructedit_jax.tasks.instructions import InstructionPool
from instructedit_jax.tasks.record import Record

_EXAMPLES = 4
_CHARACTERS = 3  # of a token, counted on the safe side
_MILLION = 1_000_000
NOTHING_NEW = "the writer had nothing new"


@dataclasses.dataclass(frozen=True)
class Settings:
  """How long to search, and what to keep.

  Attributes:
    out: the pool file; the state lies beside it.
    count: descriptions asked for at once.
    keep, held_out: how many of the best become `train` and `held_out`; which
      ones are held out is drawn, so that both are equally good.
    rounds: answers of the writer for each task, at most.
    patience: rounds without gain before a task is done.
    gain: what the held-out mean of the best `keep` must rise by, in points.
    tries: answers in a row that may be malformed or hold nothing new.
    max_calls: requests in all, failed ones included, over all runs.
    max_cost: None for no limit; else prices must be given.
    prompt_price, reply_price: of a million tokens.
    reply_tokens: what an answer is feared to take when a limit is near.
    seed: of the draw of held-out descriptions.
  """

  out: str | os.PathLike[str]
  count: int = 20
  keep: int = 9
  held_out: int = 5
  rounds: int = 6
  patience: int = 2
  gain: float = 0.1
  tries: int = 3
  max_calls: int = 100
  max_cost: float | None = None
  prompt_price: float = 0.0
  reply_price: float = 0.0
  reply_tokens: int = 2000
  seed: int = 0

  def __post_init__(self):
    require_least(self, count=1, keep=1, held_out=0, rounds=1, patience=1)
    require_least(self, tries=1, max_calls=1, gain=0, seed=0)
    require_least(self, prompt_price=0, reply_price=0, reply_tokens=1)
    if self.max_cost is not None:
      if self.max_cost <= 0:
        raise UserError(f"max_cost={self.max_cost}: must be above 0")
      if not self.prompt_price and not self.reply_price:
        raise UserError(
          "a cost limit needs prices: --prompt_price and --reply_price, each of"
          " a million tokens"
        )

  @property
  def state_path(self) -> pathlib.Path:
    """OUT.state.json beside OUT.json."""
    path = pathlib.Path(self.out)
    return path.with_name(f"{path.stem}.state.json")


class OutOfBudget(Exception):
  """A limit is reached; what was found so far is still good."""


def search(
  settings: Settings,
  writer: Writer,
  scorer: Scorer,
  records: Mapping[str, Sequence[Record]],
  start: Mapping[str, InstructionPool] | None = None,
) -> dict[str, Any]:
  """Finds descriptions of every task and writes the pool file.

  The state is saved after every request and every score; the same call goes
  on where an earlier one ended. Limits may be raised in between.

  Args:
    settings: limits, sizes, and where to write.
    writer: writes descriptions.
    scorer: says how good one is.
    records: of each task; the trial editor should not be trained on them.
    start: pools whose descriptions compete from the start.

  Returns:
    what was written to `settings.out`.

  Raises:
    UserError: too few records, a file that is not this search's, no answer
      from the writer, or nothing found at all.
  """
  halves = {task: split(task, held) for task, held in records.items()}
  if not halves:
    raise UserError("name a task to write descriptions for")
  path = pathlib.Path(settings.out)
  if path.exists() and not settings.state_path.exists():
    raise UserError(
      f"{path}: exists already, and no search of it can go on. Choose another"
      " --out, or move the file away."
    )
  fixed = {
    "writer": writer.name,
    "scorer": scorer.name,
    "templates_sha256": prompting.templates_digest(),
    "count": settings.count,
    "keep": settings.keep,
    "seed": settings.seed,
    "records": {
      task: prompting.digest(repr([record.to_dict() for record in held]))
      for task, held in records.items()
    },
    "start": {
      task: [*found.seen, *found.held_out]
      for task, found in (start or {}).items()
      if task in records
    },
  }
  run = _Search(settings, writer, scorer, halves, fixed)
  stopped = run.run()
  made = pool.assemble(run.state, settings, stopped)
  states.write_json(path, made)
  return made


def split(
  task: str, records: Sequence[Record]
) -> tuple[list[Record], list[Record]]:
  """Two halves of about one size; a subject is in one of them only.

  Raises:
    UserError: fewer than two subjects.
  """
  halves: tuple[list[Record], list[Record]] = ([], [])
  home: dict[str, int] = {}
  for record in records:
    smaller = int(len(halves[1]) < len(halves[0]))
    halves[home.setdefault(record.subject, smaller)].append(record)
  if not all(halves):
    raise UserError(
      f"task {task!r}: {len(records)} records of {len(home)} subjects cannot"
      " be split; descriptions need records of two subjects at least."
    )
  return halves


class _Search:
  """One run of a search."""

  def __init__(
    self,
    settings: Settings,
    writer: Writer,
    scorer: Scorer,
    halves: Mapping[str, tuple[list[Record], list[Record]]],
    fixed: dict[str, Any],
  ):
    self._settings, self._writer, self._scorer = settings, writer, scorer
    self._halves, self._start = halves, fixed["start"]
    self.state = states.load(settings.state_path, fixed)

  def run(self) -> str:
    """Searches for every task; returns why it stopped early, "" if not."""
    for task in self._halves:
      begun = TaskState([Candidate(t, -1) for t in self._start.get(task, ())])
      self.state.tasks.setdefault(task, begun)
    try:
      for task, of_task in self.state.tasks.items():
        self._task(task, of_task)
    except OutOfBudget as error:
      logging.warning("%s; what was found so far is kept", error)
      return str(error)
    return ""

  def _task(self, task: str, of_task: TaskState) -> None:
    while True:
      self._score(task, of_task)
      if of_task.rounds and of_task.rounds[-1].best is None:
        of_task.rounds[-1].best = self._best(of_task)
        logging.info(
          "%s, round %d: best %d at %.2f on held-out records",
          *(task, len(of_task.rounds), self._settings.keep),
          of_task.rounds[-1].best,
        )
      of_task.done = self._done(of_task)
      self._save()
      if of_task.done:
        _warn_of_equal_scores(task, of_task)
        return
      self._write(task, of_task)

  def _score(self, task: str, of_task: TaskState) -> None:
    for candidate in of_task.candidates:
      if candidate.scored:
        continue
      shown, held = (
        as_dict(self._scorer.score(task, candidate.text, half))
        for half in self._halves[task]
      )
      candidate.shown, candidate.held_out = shown, held
      self._save()
      logging.info("%s: %5.1f  %s", task, held["value"], candidate.text)

  def _best(self, of_task: TaskState) -> float:
    """Mean of the best `keep`; those that are missing count as 0."""
    values = sorted((c.order[0] for c in of_task.candidates), reverse=True)
    return sum(values[: self._settings.keep]) / self._settings.keep

  def _done(self, of_task: TaskState) -> str:
    """Why a task is finished; "" if it is not."""
    best = [round_.best or 0.0 for round_ in of_task.rounds]
    idle = 0
    for i, value in enumerate(best):
      gained = i == 0 or value > max(best[:i]) + self._settings.gain
      idle = 0 if gained else idle + 1
    if idle >= self._settings.patience:
      return f"no gain for {idle} rounds"
    if len(best) >= self._settings.rounds:
      return f"limit of {self._settings.rounds} rounds"
    return NOTHING_NEW if of_task.done == NOTHING_NEW else ""

  def _write(self, task: str, of_task: TaskState) -> None:
    """One round: an answer with something new in it."""
    tried = sorted(of_task.candidates, key=_shown, reverse=True)
    asked = prompting.messages(
      task,
      self._halves[task][0][:_EXAMPLES],
      self._settings.count,
      [(c.text, _shown(c)[0]) for c in tried],
    )
    known = {prompting.plain(c.text) for c in of_task.candidates}
    problem, repeated = "", False
    for _ in range(self._settings.tries):
      try:
        reply = self._ask(asked)
        found = prompting.parse(reply.text)
      except MalformedReply as error:
        problem, repeated = f"malformed, it begins {error}", False
        logging.warning("%s: the answer was %s", task, problem)
        continue
      fresh, dropped = prompting.usable(task, found, known)
      if fresh:
        self._keep(of_task, asked, reply, found, fresh, dropped)
        return
      listed = ", ".join(f"{n} by {reason}" for reason, n in dropped.items())
      problem = f"of no use, it lost all descriptions ({listed})"
      repeated = set(dropped) == {"duplicate"}
      logging.warning("%s: the answer was %s", task, problem)
    if repeated:
      of_task.done = NOTHING_NEW
      return
    raise UserError(
      f"{self._writer.name}: {self._settings.tries} answers about task {task!r}"
      f" in a row could not be used; the last one was {problem}. The same"
      " command asks again; another model needs another --out."
    )

  def _keep(
    self,
    of_task: TaskState,
    asked: Sequence[Message],
    reply: Reply,
    found: Sequence[str],
    fresh: Sequence[str],
    dropped: dict[str, int],
  ) -> None:
    number = len(of_task.rounds)
    of_task.candidates += [
      Candidate(text, number) for text in fresh[: self._settings.count]
    ]
    prompt = prompting.digest("\n".join(m.content for m in asked))
    of_task.rounds.append(
      Round(
        prompt_sha256=prompt,
        reply_sha256=prompting.digest(reply.text),
        written=len(found),
        dropped=dropped,
        date=states.now(),
      )
    )
    self._save()

  def _ask(self, asked: Sequence[Message]) -> Reply:
    """One answer; counts what it took, also if it cannot be read."""
    guess = sum(len(m.content) for m in asked) // _CHARACTERS

    def before_call() -> None:
      limit, cost = self._settings.max_calls, self._settings.max_cost
      if self.state.calls >= limit:
        raise OutOfBudget(f"the limit of {limit} calls is reached")
      feared = self._price(guess, self._settings.reply_tokens)
      if cost is not None and self.state.cost + feared > cost:
        raise OutOfBudget(
          f"the next call may pass the cost limit of {cost:g}"
          f" ({self.state.cost:.4g} spent)"
        )
      self.state.calls += 1
      self._save()

    try:
      reply = self._writer.write(asked, before_call)
    except MalformedReply:
      self._count(guess, None, self._settings.reply_tokens)
      raise
    self._count(guess, reply, len(reply.text) // _CHARACTERS)
    return reply

  def _count(self, guess: int, reply: Reply | None, said: int) -> None:
    prompt = reply.prompt_tokens if reply is not None else None
    answer = reply.reply_tokens if reply is not None else None
    self.state.estimated |= prompt is None or answer is None
    prompt = guess if prompt is None else prompt
    answer = said if answer is None else answer
    self.state.prompt_tokens += prompt
    self.state.reply_tokens += answer
    self.state.cost += self._price(prompt, answer)
    self._save()

  def _price(self, prompt: int, reply: int) -> float:
    settings = self._settings
    whole = prompt * settings.prompt_price + reply * settings.reply_price
    return whole / _MILLION

  def _save(self) -> None:
    self.state.save(self._settings.state_path)


def _shown(candidate: Candidate) -> tuple[float, float]:
  assert candidate.shown is not None
  return candidate.shown["value"], candidate.shown["tie"]


def _warn_of_equal_scores(task: str, of_task: TaskState) -> None:
  if len(of_task.candidates) > 1 and (
    len({c.order for c in of_task.candidates}) == 1
  ):
    logging.warning(
      "%s: all descriptions score alike; the trial editor may not read its"
      " instruction, or there are too few records",
      task,
    )
