"""What an evaluation does, apart from model, editor and records."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from instructedit_jax.digest import digest
from instructedit_jax.errors import UserError, require_least
from instructedit_jax.evaluation import natural
from instructedit_jax.evaluation.choices import NONE as NONE
from instructedit_jax.evaluation.choices import chosen
from instructedit_jax.metrics import generated, summary
from instructedit_jax.tasks import scopes
from instructedit_jax.tasks.instructions import (
  POOLS,
  Instruction,
  InstructionPool,
)
from instructedit_jax.tasks.record import Record

BARE, INSTRUCTED = "bare", "instructed"
QUERIES = (BARE, INSTRUCTED)


@dataclasses.dataclass(frozen=True)
class Options:
  """Everything a number depends on but what is evaluated.

  Attributes:
    instruction: which one the editor gets with each request, and what stands
      in front of instructed questions: "seen:0", "held_out:2", ... of the
      record's task, or another choice of `choices`; an `Instruction` for all
      records; or "none".
    pools: the descriptions that choices are made from, by task.
    batch: records edited at once, with memory for all their edits; CaliNet
      takes less time a record the more there are.
    free: whether answers are also generated freely.
    free_limit: only the first so many records' are; None for all.
    fluency_limit: fluency is measured on the first so many records.
    fluency_tokens: new tokens of each fluency text.
    fluency_top_k: sample among so many tokens; 0 takes the likeliest.
    replies: of each sentiment scored in a ConvSent record.
    seed: of sampled texts and of the bootstrap.
    resamples: of the bootstrap.
  """

  instruction: str | Instruction = "held_out:0"
  pools: Mapping[str, InstructionPool] = dataclasses.field(
    default_factory=lambda: dict(POOLS)
  )
  batch: int = 64
  free: bool = True
  free_limit: int | None = None
  fluency_limit: int = 16
  fluency_tokens: int = 100
  fluency_top_k: int = 5
  replies: int = 5
  seed: int = 0
  resamples: int = 1000

  def __post_init__(self):
    require_least(self, batch=1, replies=1, resamples=1, seed=0)
    require_least(self, fluency_limit=0, fluency_tokens=1, fluency_top_k=0)

  def check_query(self, query: str) -> None:
    """Raises a UserError unless questions can be asked in this style."""
    if query not in QUERIES:
      raise UserError(f"query {query!r}: must be one of {', '.join(QUERIES)}")
    if query == INSTRUCTED and self.instruction == NONE:
      raise UserError(
        "instructed queries need an instruction, not 'none'. Ask with"
        f" --queries={BARE}, or choose an --instruction."
      )

  def instruction_of(self, record: Record) -> Instruction | None:
    """The instruction of one record's edit.

    Raises:
      UserError: its task has no such description.
    """
    if isinstance(self.instruction, Instruction):
      return self.instruction
    return chosen(record, self.instruction, self.pools)

  def protocol(self) -> dict[str, Any]:
    """All of it as plain values, with the rules behind the numbers, for JSON.

    Two runs whose protocols are equal measure the same.
    """
    how = f"top-{self.fluency_top_k} sampling, temperature 1"
    values = dataclasses.asdict(self)
    pools = values.pop("pools")
    if str(self.instruction).startswith(natural.NATURAL):
      values["sentences_sha256"] = digest(natural.SENTENCES)
    if "+" in str(self.instruction):
      values["scopes_sha256"] = digest(scopes.SENTENCES)
    return {
      **values,
      "pools_sha256": digest(pools),
      "teacher_forced": (
        "argmax at every answer token after the right tokens; prompt, blank"
        " and answer tokenised together"
      ),
      "generation": generated.RULE,
      "instructed_queries": (
        "the instruction in front of reliability, generalization and"
        " portability prompts, not of locality prompts"
      ),
      "portability": (
        "token: first alias; em and free: any alias of the answer"
      ),
      "locality": "unedited against edited model, at the answer's positions",
      "edit_success": (
        "mean log-probability of a token over the first replies of each"
        " sentiment, each after one of the topic's questions"
      ),
      "fluency": (
        f"H2/3 + 2 H3/3 over words of the generated text without its prompt,"
        f" {how if self.fluency_top_k else 'greedy'},"
        f" {self.fluency_tokens} new tokens, end of text ignored"
      ),
      "aggregation": summary.RULE,
      "units": {
        "fluency": "100 x bits",
        "locality_kl": "nats a token",
        "others": "percent",
      },
    }
