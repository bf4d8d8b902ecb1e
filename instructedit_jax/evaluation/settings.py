"""What one run of the evaluation entry point is asked to do."""

import dataclasses

from instructedit_jax.errors import UserError, require_least
from instructedit_jax.evaluation.options import QUERIES, Options


@dataclasses.dataclass(frozen=True)
class Settings:
  """Editors, models and records, and where results go.

  Attributes:
    editors: folders of trained editors, or "base" for the unedited model.
    out: the folder of the results.
    model: spec of the base model; None takes the one the editors name.
    dtype: of its weights; None takes the one the editors were trained with.
    tasks: None takes all the known ones.
    data: None takes what the first editor was trained on, else "embedded".
    split, limit: which records; the first `limit` ones, None for all.
    queries: styles, of QUERIES.
    told: whether editors get the instruction too; else it only stands in front
      of instructed questions.
    options: of the evaluation.
    command: how the run was started; only noted.
  """

  editors: tuple[str, ...]
  out: str
  model: str | None = None
  dtype: str | None = None
  tasks: tuple[str, ...] | None = None
  data: str | None = None
  split: str = "test"
  limit: int | None = None
  queries: tuple[str, ...] = QUERIES
  told: bool = True
  options: Options = dataclasses.field(default_factory=Options)
  command: str = ""

  def __post_init__(self):
    if not self.editors:
      raise UserError("name an editor's folder, or 'base' for the bare model")
    if self.limit is not None:
      require_least(self, limit=1)
    if not self.queries:
      raise UserError(f"name a query style: {', '.join(QUERIES)}")
    for query in self.queries:
      self.options.check_query(query)
