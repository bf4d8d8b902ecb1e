"""Evaluation of independent edits: each record by itself, then undone.

What an editor is asked never depends on how the edited model is questioned.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

from instructedit_jax.editing.sequences import Scored, score
from instructedit_jax.editors.base import Editor, Request
from instructedit_jax.errors import UserError
from instructedit_jax.evaluation import generations, items, predictions, scores
from instructedit_jax.evaluation.baseline import Baseline
from instructedit_jax.evaluation.generations import Generated
from instructedit_jax.evaluation.items import Item
from instructedit_jax.evaluation.options import (
  BARE,
  INSTRUCTED,
  Options,
)
from instructedit_jax.evaluation.predictions import Prediction
from instructedit_jax.evaluation.results import RecordResult, Results
from instructedit_jax.metrics.fluency import fluency
from instructedit_jax.models.language_model import LanguageModel
from instructedit_jax.tasks.record import Record

BASE = "base"


def evaluate(
  model: LanguageModel,
  editor: Editor | Literal["base"] | None,
  records: Sequence[Record],
  *,
  query: str = BARE,
  options: Options | None = None,
  baseline: Baseline | None = None,
  progress: Callable[[int], Any] | None = None,
) -> Results:
  """Edits the model for each record by itself and asks it about the edit.

  Args:
    model: the base model.
    editor: proposes the edits; None or "base" evaluates the model as it is.
    records: of any tasks.
    query: "bare" asks plain questions; "instructed" puts the instruction in
      front of those in the edit's scope.
    options: how; see `Options`.
    baseline: the model's states and answers, to share between calls.
    progress: called with the number of records each time some are done.

  Returns:
    scores, predictions and texts of every record. One that cannot be used,
    because its prompt is too long for instance, or that the editor cannot
    edit, is listed as failed; it may be all of them.

  Raises:
    UserError: nothing to evaluate, the editor belongs to another model, or the
      options make no sense.
  """
  options = Options() if options is None else options
  if not records:
    raise UserError("there is no record to evaluate")
  options.check_query(query)
  maker = _maker(model, editor)
  run = _Run(baseline or Baseline(model), maker, query, options)
  for start in range(0, len(records), options.batch):
    batch = records[start : start + options.batch]
    run(start, batch)
    if progress is not None:
      progress(len(batch))
  return run.results


def _maker(
  model: LanguageModel, editor: Editor | Literal["base"] | None
) -> Editor | None:
  """What proposes the edits; None for the unedited model."""
  if editor is None or editor == BASE:
    return None
  if isinstance(editor, str):
    raise UserError(
      f"editor {editor!r}: load it with load_editor, or give None or 'base'"
    )
  check = getattr(editor, "check", None)
  if check is not None:
    check(model)
  return editor


@dataclasses.dataclass(frozen=True)
class _Case:
  """A record made ready: its request, its questions, their tokens.

  Attributes:
    place: its number among all records.
    record, request, items: as they are called.
    sequences: every answer of every item.
    limit: new tokens of its free answers.
  """

  place: int
  record: Record
  request: Request
  items: list[Item]
  sequences: list[list[Scored]]
  limit: int


class _Run:
  """One evaluation; a call is one batch."""

  def __init__(
    self,
    baseline: Baseline,
    editor: Editor | None,
    query: str,
    options: Options,
  ):
    self._baseline, self._editor = baseline, editor
    self._query, self._options = query, options
    self.results = Results(
      BASE if editor is None else editor.name,
      query,
      resamples=options.resamples,
      seed=options.seed,
    )

  def __call__(self, start: int, records: Sequence[Record]) -> None:
    cases = []
    for i, record in enumerate(records):
      try:
        cases.append(self._case(start + i, record))
      except UserError as error:
        self.results.failed.append((record.id, str(error)))
    cases, edit = self._edit(cases)
    if not cases:
      return
    flat = [[s for answers in c.sequences for s in answers] for c in cases]
    found = predictions.predict(
      self._baseline.model,
      self._baseline.cache,
      flat,
      edit,
      compared=[
        # What must stay is compared whole; elsewhere only labels count.
        [i.metric == items.LOCALITY for i in c.items for _ in i.answers]
        for c in cases
      ],
      known=self._baseline.known,
    )
    free = self._free(cases, edit)
    texts = self._fluency(start, cases, edit)
    for number, case in enumerate(cases):
      predicted = iter(found[number])
      grouped = [[next(predicted) for _ in row] for row in case.sequences]
      text = texts[number] if number < len(texts) else None
      given: list[Generated | None] = [None] * len(grouped)
      if number < len(free):
        given = free[number]
      self.results.records.append(self._result(case, grouped, given, text))

  def _case(self, place: int, record: Record) -> _Case:
    """Raises a UserError if the record cannot be used."""
    options, model = self._options, self._baseline.model
    instruction = options.instruction_of(record)
    asked = instruction if self._query == INSTRUCTED else None
    questions = items.items_of(record, asked, options.replies)
    sequences = [
      [
        score(model.text, item.prompt, answer, context=model.config.context)
        for answer in item.answers
      ]
      for item in questions
    ]
    longest = max(
      len(scored.labels)
      for item, answers in zip(questions, sequences, strict=True)
      for scored in answers
      if generations.generated(item)
    )
    case = _Case(
      place,
      record,
      Request(record.prompt, record.target, instruction),
      questions,
      sequences,
      generations.limit_of(longest),
    )
    for item, tokens in self._continued(case):
      length = len(model.text.encode(item.prompt)) + tokens
      if length > model.config.context:
        raise UserError(
          f"prompt {item.prompt[:60]!r}…: {length} tokens with the {tokens} to"
          f" be generated, but the model reads at most {model.config.context}"
        )
    return case

  def _continued(self, case: _Case) -> list[tuple[Item, int]]:
    """Which items are generated from, and how far."""
    found = []
    if self._is_free(case):
      found = [(i, case.limit) for i in case.items if generations.generated(i)]
    if case.place < self._options.fluency_limit:
      found.append((case.items[0], self._options.fluency_tokens))
    return found

  def _is_free(self, case: _Case) -> bool:
    limit = self._options.free_limit
    return self._options.free and (limit is None or case.place < limit)

  def _edit(self, cases: list[_Case]) -> tuple[list[_Case], Any]:
    """The batch's edits, and the cases that got one."""
    if self._editor is None or not cases:
      return cases, None
    try:
      return cases, self._propose(cases)
    except UserError:
      pass
    # One at a time, to find out whose request it is.
    able = []
    for case in cases:
      try:
        self._propose([case])
        able.append(case)
      except UserError as error:
        self.results.failed.append((case.record.id, str(error)))
    return able, self._propose(able) if able else None

  def _propose(self, cases: Sequence[_Case]) -> Any:
    assert self._editor is not None
    return self._editor.propose_each(
      self._baseline.model,
      [case.request for case in cases],
      self._baseline.cache,
    )

  def _free(
    self, cases: Sequence[_Case], edit: Any
  ) -> list[list[Generated | None]]:
    """Free answers of the first cases, as many as are wanted."""
    chosen = [case for case in cases if self._is_free(case)]
    return generations.answers(
      self._baseline,
      edit,
      [case.items for case in chosen],
      [[case.limit] * len(case.items) for case in chosen],
    )

  def _fluency(
    self, start: int, cases: Sequence[_Case], edit: Any
  ) -> list[str]:
    options = self._options
    prompts = [
      case.items[0].prompt
      for case in cases
      if case.place < options.fluency_limit
    ]
    seed = options.seed + start
    return generations.fluency_texts(
      self._baseline, edit, prompts, options, seed
    )

  def _result(
    self,
    case: _Case,
    predicted: list[list[Prediction]],
    free: list[Generated | None],
    text: str | None,
  ) -> RecordResult:
    record, model = case.record, self._baseline.model
    judged = record.conversation is None
    of_items = [
      scores.item_scores(item, answers, given, free=judged)
      for item, answers, given in zip(case.items, predicted, free, strict=True)
    ]
    found = scores.record_scores(case.items, of_items, predicted)
    if text is not None:
      found[scores.FLUENCY] = 100 * fluency(text)
    instruction = case.request.instruction
    return RecordResult(
      record.id,
      record.task,
      record.prompt,
      record.target,
      "" if instruction is None else instruction.description,
      {name: round(value, 6) for name, value in found.items()},
      [
        scores.item_row(item, answers, given, of_item, model.text.spell)
        for item, answers, given, of_item in zip(
          case.items, predicted, free, of_items, strict=True
        )
      ],
      text,
    )
